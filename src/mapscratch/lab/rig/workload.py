# SPDX-License-Identifier: Apache-2.0
"""What a worker maps: the parts of real libraries that hold relocations, and what they become.

Everything that costs time (reading relocations, linking, the second opinion of others) is done
once, before any worker is forked; the workers share the arrays with their parent.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from mmap import PAGESIZE
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import FixupPlan, default_libraries, link, relocations
from mapscratch.errors import UserError
from mapscratch.lab.oracle import ExpectedWord, second_opinion

Words: TypeAlias = NDArray[np.uint64]

# Pages with fixups that a process should have: enough for medians that mean something.
DEFAULT_PAGES = 2000
# Of one process: well below vm.max_map_count (65,530) and RLIMIT_NOFILE (1,024).
_MOST_MAPPINGS = 400
_WORD = 8
# Load bases are drawn from 64 TiB, half of an x86-64 process's addresses.
_ADDRESS_PAGES = 1 << 34


class WorkloadError(UserError, ValueError):
    """There is nothing to compare with; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """The mapped window of one library; m fixups on p of its pages, w whole words in all.

    A second opinion says which e words are relocated, and to what.
    """

    plan: FixupPlan
    pages: NDArray[np.int64]  # shape (p,): numbers in the window of those with fixups, ascending
    fixups_by_page: NDArray[np.int64]  # shape (p,); none is 0
    file_words: Words  # shape (m,): what the file holds where the plan stores
    content: Words  # shape (w,): the window as the file has it
    tail: bytes  # after the last whole word; mostly none
    expected_at: NDArray[np.int64]  # shape (e,): numbers of words
    expected_constants: Words  # shape (e,): the part that doesn't depend on load bases
    expected_definers: NDArray[np.int64]  # shape (e,): whose base is added; -1 for none

    @property
    def mapped_pages(self) -> int:
        """Pages of the window, with or without fixups."""
        return -(-self.plan.window_length // PAGESIZE)

    def expected_content(self, bases: Sequence[int]) -> Words:
        """Every word of the window as a loader would leave it: uint64, shape (w,)."""
        table = np.array([*bases, 0], dtype=np.uint64)
        content = self.content.copy()
        content[self.expected_at] = self.expected_constants + table[self.expected_definers]
        return content


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """What every worker maps."""

    libraries: tuple[Library, ...]  # those that have fixups
    linked: int  # so many libraries were linked together; each has a load base
    copies: int  # so often a process maps the set
    skipped: dict[str, int]  # relocations that are not applied, by reason or kind
    readers: tuple[str, ...] = ()  # have said what should come out; see `mapscratch.lab.oracle`
    notes: tuple[str, ...] = ()  # which of them could not be asked, and why

    @property
    def pages(self) -> int:
        """Pages with fixups a process."""
        return self.copies * sum(len(library.pages) for library in self.libraries)

    @property
    def mapped_pages(self) -> int:
        """Pages mapped a process."""
        return self.copies * sum(library.mapped_pages for library in self.libraries)

    @property
    def fixups(self) -> int:
        """Fixups a process."""
        return self.copies * sum(len(library.plan) for library in self.libraries)

    def load_bases(self, seed: str) -> list[list[int]]:
        """Page-aligned load bases: for each copy one a library, all different, by the seed."""
        pages = range(1, _ADDRESS_PAGES)
        drawn = iter(random.Random(seed).sample(pages, self.copies * self.linked))
        return [[next(drawn) * PAGESIZE for _ in range(self.linked)] for _ in range(self.copies)]


def read_workload(
    paths: Sequence[str | os.PathLike[str]] = (), *, pages: int = DEFAULT_PAGES
) -> Workload:
    """Read and link libraries, in scope order, and ask other readers what should come out.

    Without `paths` it is a choice of what is on the machine. The set is mapped repeatedly for at
    least so many `pages` with fixups, as far as some hundreds of mappings go.
    """
    if pages < 1:
        raise WorkloadError(f"a process has at least one page with fixups, not {pages}")
    named = [Path(path).resolve(strict=True) for path in paths] or default_libraries()
    if not named:
        raise WorkloadError("no shared library was found on this machine: name one or more")
    chosen = list(dict.fromkeys(named))
    plans = link([relocations(path) for path in chosen])
    opinion = second_opinion(chosen)
    workload = workload_of(plans, opinion.words, pages=pages)
    return replace(workload, readers=opinion.readers, notes=opinion.notes)


def workload_of(
    plans: Sequence[FixupPlan], expectations: Sequence[Mapping[int, ExpectedWord]], *, pages: int
) -> Workload:
    """A workload of libraries linked already, and what should come out by offset in each file."""
    libraries = tuple(
        _library(plan, expected)
        for plan, expected in zip(plans, expectations, strict=True)
        if len(plan) or expected
    )
    skipped: Counter[str] = Counter()
    for plan in plans:
        skipped.update(plan.skipped)
    once = sum(len(library.pages) for library in libraries)
    if not once:
        raise WorkloadError(
            "these libraries have no relocations that could be applied: name others, or none for "
            "a choice of what is on this machine"
        )
    copies = max(1, min(-(-pages // once), _MOST_MAPPINGS // len(libraries)))
    return Workload(libraries, len(plans), copies, dict(sorted(skipped.items())))


def _library(plan: FixupPlan, expected: Mapping[int, ExpectedWord]) -> Library:
    at = np.fromiter(expected, dtype=np.int64, count=len(expected)) - plan.window_offset
    outside = np.count_nonzero((at < 0) | (at + _WORD > plan.window_length))
    if outside:
        raise WorkloadError(
            f"{plan.path}: another reader knows {outside} relocated words outside of what "
            "mapscratch found relocated; this is a bug in one of the two: please report it "
            "with the library"
        )
    with plan.path.open("rb") as file:
        data = os.pread(file.fileno(), plan.window_length, plan.window_offset)
    if len(data) != plan.window_length:
        raise WorkloadError(f"{plan.path} became shorter while it was read; try again")
    content = np.frombuffer(data, dtype="<u8", count=len(data) // _WORD)
    pages, counts = np.unique(plan.offsets // PAGESIZE, return_counts=True)
    return Library(
        plan=plan,
        pages=pages.astype(np.int64),
        fixups_by_page=counts.astype(np.int64),
        file_words=content[plan.offsets // _WORD],
        content=content,
        tail=data[len(content) * _WORD :],
        expected_at=at // _WORD,
        expected_constants=np.array([word.constant for word in expected.values()], dtype=np.uint64),
        expected_definers=np.array([word.definer for word in expected.values()], dtype=np.int64),
    )
