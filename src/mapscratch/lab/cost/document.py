# SPDX-License-Identifier: Apache-2.0
"""The document of ``mapscratch cost --json``: `Figures` is what is read of it again.

What else it has (the fitted lines, break-even, other ways, a fleet, the answer) follows from that.
"""

from __future__ import annotations

import math
from dataclasses import asdict, astuple
from datetime import datetime
from mmap import PAGESIZE
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from mapscratch.documents import Document, document_head
from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.answer import CostReport, answer
from mapscratch.lab.cost.costs import Check, Costs, Fit, Line, Measurement, Point
from mapscratch.lab.cost.model import BreakEven, Layout, kernel_part_us
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
from mapscratch.lab.reading import ReadingError, read_document
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.survey import document as surveys
from mapscratch.text import counted

NAME = "mapscratch.cost"
VERSION = 1

Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]


# --- written ------------------------------------------------------------------------------------


def cost_document(
    report: CostReport, created: datetime, machine: Document | None = None
) -> Document:
    """The document of a report: nothing but what JSON has.

    Args:
        report: what is said.
        created: when it was measured, with a time zone.
        machine: where, as another document has it; None for here.
    """
    costs = report.costs
    return {
        **document_head(NAME, VERSION, created),
        **({"machine": machine} if machine else {}),
        "seconds": costs.seconds,
        "rounds": costs.rounds,
        "measurements": [{**asdict(one), "unit": "ns"} for one in costs.measurements],
        "lines": [_line(one) for one in costs.lines],
        "checks": [asdict(one) for one in costs.checks],
        "left_out": dict(costs.left_out),
        "notes": list(costs.notes),
        "pages": asdict(report.pages)
        | {"fixups": report.pages.fixups.tolist(), "pages": report.pages.pages.tolist()},
        "device": {
            "name": report.device.name if report.device else None,
            "latency_us": report.device.latency_us if report.device else None,
            "kernel_us": float(kernel_part_us(costs)[0]),
        },
        "break_even": [_break_even(one) for one in report.break_even],
        "alternatives": asdict(report.alternatives) if report.alternatives else None,
        "baselines": [asdict(one) for one in report.baselines],
        "fleet": asdict(report.fleet) if report.fleet else None,
        "answer": answer(report),
    }


def _line(line: Line) -> Document:
    fitted = {
        name: line.fitted(name) for name in ("page_us", "fixup_ns", "clean_page_us", "mapping_us")
    }
    return {
        "what": line.what,
        "fixups": line.fixups,
        **{name: spread.median for name, spread in fitted.items()},
        "spread": {name: asdict(spread) for name, spread in fitted.items()},
        "fits": [asdict(fit) for fit in line.fits],
        "points": [[one.fixups, *astuple(one.round_trip_us)] for one in line.points],
        "layouts": [[one.clean_pages, one.mappings] for one in line.points],
        "cpu_us": asdict(line.cpu_us) if line.cpu_us else None,
    }


def _break_even(one: BreakEven) -> Document:
    median, least, most = (_finite(value) for value in astuple(one.fixups))
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
        "fixups": median,
        "minimum": least,
        "maximum": most,
        "more_than_fit": one.more_than_fit,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- read ---------------------------------------------------------------------------------------


class _Line(Struct):
    """A `Line`: points are fixups and three µs; layouts are clean pages and mappings."""

    what: str
    fixups: str
    fits: Annotated[tuple[Fit, ...], Meta(min_length=1)]
    points: tuple[tuple[float, float, float, float], ...]
    layouts: tuple[tuple[float, float], ...]
    cpu_us: Spread | None = None

    def line(self) -> Line:
        points = tuple(
            Point(fixups, *layout, Spread(*round_trip))
            for (fixups, *round_trip), layout in zip(self.points, self.layouts, strict=True)
        )
        return Line(self.what, self.fixups, self.fits, points, self.cpu_us)


class _Pages(Struct):
    """A `Distribution`."""

    title: str
    fixups: Annotated[list[NotNegative], Meta(min_length=1)]
    pages: list[Annotated[int, Meta(ge=1, le=1 << 60)]]
    relative_share: float | None
    layout: Layout | None


class Figures(Struct):
    """What was measured, and whose pages were reckoned with.

    Attributes:
        created: when it was measured.
        machine: where.
        alternatives: what small experiments showed; None if none was made.
    """

    created: datetime
    machine: dict[str, Any]
    seconds: float
    rounds: int
    measurements: tuple[Measurement, ...]
    lines: tuple[_Line, ...]
    checks: tuple[Check, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    pages: _Pages
    alternatives: Alternatives | None

    def __post_init__(self) -> None:
        if len(self.pages.fixups) != len(self.pages.pages):
            raise ValueError("not as many pages as numbers of fixups")
        if any(len(one.points) != len(one.layouts) for one in self.lines):
            raise ValueError("not as many layouts as points")

    def costs(self) -> Costs:
        """What was measured."""
        return Costs(
            measurements=self.measurements,
            lines=tuple(one.line() for one in self.lines),
            checks=self.checks,
            left_out=self.left_out,
            notes=self.notes,
            rounds=self.rounds,
            seconds=self.seconds,
        )

    def distribution(self) -> Distribution:
        """Whose pages were reckoned with."""
        return Distribution(
            title=self.pages.title,
            fixups=np.array(self.pages.fixups, dtype=np.float64),
            pages=np.array(self.pages.pages, dtype=np.int64),
            relative_share=self.pages.relative_share,
            layout=self.pages.layout,
        )


def read_figures(path: Path) -> Figures:
    """The figures of an earlier run.

    Raises:
        ReadingError: the file holds none, or they are damaged; the message says where.
        OSError: it can't be read.
    """
    return read_document(path, Figures, NAME, VERSION)


# --- a survey, as far as its pages are reckoned with --------------------------------------------


class _Library(Struct):
    kinds: dict[str, Count]
    dirtied_pages: Count


class _Process(Struct):
    relocated_pages: Count
    relocated_pss_bytes: NotNegative
    swap_bytes: NotNegative

    @property
    def pages(self) -> float:
        """Of its own; what forked processes share counts in part, unless it is in swap."""
        return self.relocated_pages if self.swap_bytes else self.relocated_pss_bytes / PAGESIZE


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
        """The pages of the libraries.

        Raises:
            ModelError: no page has a fixup.
        """
        pages = max(1, self.totals.dirtied_pages)
        kinds = [one.kinds for one in self.libraries]
        total = sum(sum(one.values()) for one in kinds)
        relative = sum(one.get(kind, 0) for one in kinds for kind in ("RELATIVE", "RELR"))
        return distribution_of_survey(
            counted(len(kinds), "surveyed library", "surveyed libraries"),
            self.totals.pages_by_fixups,
            relative / total if total else None,
            Layout(
                self.totals.window_pages / pages - 1,
                sum(one.dirtied_pages > 0 for one in self.libraries) / pages,
            ),
        )

    def pages_each(self) -> float:
        """Pages with fixups of a process that has any, in the mean.

        Raises:
            ReadingError: no process was surveyed.
        """
        seen = [one.pages for one in self.processes if one.relocated_pages]
        if not seen:
            raise ReadingError(
                "this survey has no processes, and a fleet is made of them: survey with --pid all, "
                "or leave --survey away"
            )
        return sum(seen) / len(seen)


def read_survey(path: Path) -> Survey:
    """A survey.

    Raises:
        ReadingError: the file holds none, or it is damaged; the message says where.
        OSError: it can't be read.
    """
    return read_document(path, Survey, surveys.NAME, surveys.VERSION)
