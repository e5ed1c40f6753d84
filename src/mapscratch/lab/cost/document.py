# SPDX-License-Identifier: Apache-2.0
"""The document of ``mapscratch cost --json``: `Figures` is what is read of it again.

What else it has (fitted figures, break-even, other ways, a fleet, the answer) follows from that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime
from mmap import PAGESIZE
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct, to_builtins

from mapscratch.documents import Document, document_head
from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.answer import CostReport, answer
from mapscratch.lab.cost.costs import Costs, Fit, Line
from mapscratch.lab.cost.model import BreakEven, Layout, kernel_part_us
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
from mapscratch.lab.reading import ReadingError, read_document
from mapscratch.lab.survey import document as surveys
from mapscratch.text import counted

NAME = "mapscratch.cost"
VERSION = 1

Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]


def cost_document(report: CostReport, created: datetime, where: Document | None = None) -> Document:
    """The document of a report, measured when, with a time zone, and where; None for here."""
    device = to_builtins(report.device) or {"name": None, "latency_us": None}
    return {
        **document_head(NAME, VERSION, created),
        **({"machine": where} if where else {}),
        **to_builtins(report.costs),
        "lines": [_line(one) for one in report.costs.lines],
        "pages": to_builtins(report.pages, enc_hook=np.ndarray.tolist),
        "device": device | {"kernel_us": float(kernel_part_us(report.costs)[0])},
        "break_even": [_break_even(one) for one in report.break_even],
        "alternatives": to_builtins(report.alternatives),
        "baselines": to_builtins(report.baselines),
        "fleet": to_builtins(report.fleet),
        "answer": answer(report),
    }


def _line(line: Line) -> Document:
    spread = {one.name: to_builtins(line.fitted(one.name)) for one in fields(Fit)}
    medians = {name: one["median"] for name, one in spread.items()}
    return {**to_builtins(line), **medians, "spread": spread}


def _break_even(one: BreakEven) -> Document:
    fixups = to_builtins(one.fixups)
    finite = {name: value if math.isfinite(value) else None for name, value in fixups.items()}
    return {
        "swap": one.swap.what.removeprefix("swap."),
        "engine": one.scratch.what,
        "fixup": one.fixup.fixup,
        "scope": one.fixup.scope,
        "fixup_ns": one.fixup.ns.median,
        "page_swap_us": one.swap.bare_us,
        "swap_fixup_ns": float(np.median(one.swap.fixup_ns[0])),
        "page_scratch_us": one.scratch.bare_us,
        "pays": one.pays,
        "fixups": finite.pop("median"),
        **finite,
        "more_than_fit": one.pays == "always",
    }


class _Pages(Struct):
    """A `Distribution`."""

    title: str
    fixups: Annotated[list[NotNegative], Meta(min_length=1)]
    pages: list[Annotated[int, Meta(ge=1, le=1 << 60)]]
    relative_share: float | None
    layout: Layout | None

    def __post_init__(self) -> None:
        if len(self.fixups) != len(self.pages):
            raise ValueError("not as many pages as numbers of fixups")


@dataclass(frozen=True, slots=True)
class Figures(Costs):
    """What was measured, when and where; what small experiments showed; and whose pages."""

    created: datetime
    machine: dict[str, Any]
    pages: _Pages
    alternatives: Alternatives | None

    def costs(self) -> Costs:
        """What was measured alone."""
        return Costs(*(getattr(self, one.name) for one in fields(Costs)))

    def distribution(self) -> Distribution:
        """Whose pages were reckoned with."""
        rows = list(zip(self.pages.fixups, self.pages.pages, strict=True))
        return distribution_of_survey(
            self.pages.title, rows, self.pages.relative_share, self.pages.layout
        )


def read_figures(path: Path) -> Figures:
    """The figures of an earlier run; raises as `mapscratch.lab.reading.read_document` does."""
    return read_document(path, Figures, NAME, VERSION)


class _Library(Struct):
    kinds: dict[str, Count]
    dirtied_pages: Count


class _Process(Struct):
    relocated_pages: Count
    relocated_pss_bytes: NotNegative
    swap_bytes: NotNegative


class _Totals(Struct):
    pages_by_fixups: list[tuple[NotNegative, Count]]
    dirtied_pages: Count
    window_pages: Count


class Survey(Struct):
    """What ``mapscratch survey --json`` saved, as far as it is reckoned with."""

    libraries: list[_Library]
    processes: list[_Process]
    totals: _Totals

    def distribution(self) -> Distribution:
        """The pages of the libraries; raises `ModelError` if none has a fixup."""
        pages = max(1, self.totals.dirtied_pages)
        kinds = [one.kinds for one in self.libraries]
        total = sum(sum(one.values()) for one in kinds)
        relative = sum(one.get(kind, 0) for one in kinds for kind in ("RELATIVE", "RELR"))
        mappings = sum(one.dirtied_pages > 0 for one in self.libraries)
        return distribution_of_survey(
            counted(len(kinds), "surveyed library", "surveyed libraries"),
            self.totals.pages_by_fixups,
            relative / total if total else None,
            Layout(self.totals.window_pages / pages - 1, mappings / pages),
        )

    def pages_each(self) -> float:
        """Pages with fixups of a process that has any, in the mean; `ReadingError` without any."""
        # What forked processes share counts in part, unless it is in swap.
        seen = [
            one.relocated_pages if one.swap_bytes else one.relocated_pss_bytes / PAGESIZE
            for one in self.processes
            if one.relocated_pages
        ]
        if not seen:
            raise ReadingError(
                "this survey has no processes, and a fleet is made of them: survey with --pid all, "
                "or leave --survey away"
            )
        return sum(seen) / len(seen)


def read_survey(path: Path) -> Survey:
    """A survey; raises as `read_figures` does."""
    return read_document(path, Survey, surveys.NAME, surveys.VERSION)
