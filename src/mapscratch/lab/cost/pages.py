# SPDX-License-Identifier: Apache-2.0
"""Whose pages are reckoned with: how many fixups they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import default_libraries, link, relocations
from mapscratch.elf.kinds import BASE_RELATIVE_KINDS
from mapscratch.lab.cost.model import WORDS_A_PAGE, Floats, Layout, ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """How many fixups somebody's pages have."""

    title: str
    fixups: Floats  # n numbers of them, ascending, shape (n,)
    pages: NDArray[np.int64]  # how many pages have each, shape (n,)
    relative_share: float | None  # of the fixups, how many need no symbol, 0 to 1, if it is known
    layout: Layout | None

    @property
    def total_pages(self) -> int:
        """All of them."""
        return int(self.pages.sum())

    @property
    def mean(self) -> float:
        """Fixups a page."""
        return float((self.fixups * self.pages).sum() / self.pages.sum())

    @property
    def median(self) -> float:
        """Fixups of the page in the middle."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> float:
        """So large a share of the pages has at most so many fixups."""
        sums = np.cumsum(self.pages)
        return float(self.fixups[np.searchsorted(sums, share * sums[-1])])

    def share_below(self, fixups: float) -> float:
        """Of the pages, how many have fewer fixups: 0 to 1."""
        return float(self.pages[self.fixups < fixups].sum() / self.pages.sum())


def distribution_of_libraries(paths: Sequence[str | Path] = ()) -> Distribution:
    """The pages of libraries that relocation fixes up, linked as `mapscratch compare` does it.

    They are shared libraries in scope order; without any, a choice of what is on the machine. If
    none has relocations that can be applied it is a `ModelError`.
    """
    chosen = [Path(path).resolve(strict=True) for path in paths] or default_libraries()
    if not chosen:
        raise ModelError("no shared library was found on this machine: name one or more")
    plans = [plan for plan in link([relocations(path) for path in chosen]) if len(plan)]
    title = ", ".join(path.name.split(".so")[0] for path in chosen[:4])
    if len(chosen) > 4:
        title += f" and {len(chosen) - 4} more"
    if not plans:
        raise ModelError(f"{title}: no relocation that could be applied; name other libraries")
    pages = [plan.offsets // np.uint64(PAGESIZE) for plan in plans]
    counts = np.concatenate([np.unique(one, return_counts=True)[1] for one in pages])
    mapped = sum(-(-plan.window_length // PAGESIZE) for plan in plans)
    relative = sum(plan.kinds.get(str(kind), 0) for plan in plans for kind in BASE_RELATIVE_KINDS)
    return distribution_of_survey(
        title,
        np.transpose(np.unique(counts, return_counts=True)).tolist(),
        relative / int(counts.sum()),
        Layout(mapped / len(counts) - 1, len(plans) / len(counts)),
    )


def distribution_of_survey(
    title: str,
    counted: Sequence[Sequence[float]],
    relative_share: float | None = None,
    layout: Layout | None = None,
) -> Distribution:
    """From ``[fixups, pages]`` for each number of fixups, as a survey has them, or `ModelError`."""
    rows = np.array(sorted(tuple(row) for row in counted if row[1] > 0), dtype=np.float64)
    if not len(rows):
        raise ModelError(f"{title}: the survey has no page with fixups: survey other libraries")
    numbers, pages = np.minimum(rows[:, 0], WORDS_A_PAGE), rows[:, 1].astype(np.int64)
    return Distribution(title, numbers, pages, relative_share, layout)
