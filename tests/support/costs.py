# SPDX-License-Identifier: Apache-2.0
"""Costs that nobody measured: for tests of what is made of costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapscratch.lab.cost.costs import Check, Costs, Fit, Line, Measurement, Point
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
from mapscratch.lab.rig.results import Spread

NANOSECONDS = {
    "relocation.relative": 2.0,
    "relocation.relr": 1.5,
    "relocation.symbolic.short": 150.0,
    "relocation.symbolic.long": 400.0,
    "binding.now.short": 180.0,
    "binding.lazy.short": 250.0,
    "fault.copy_on_write": 900.0,
    "fault.page_cache": 300.0,
    "fault.disk": 90_000.0,
    "swap.file.out": 4_000.0,
    "swap.file.in": 50_000.0,
    "fork.page": 20.0,
    "ksm.merge": 3_000.0,
}


def make_spread(median: float, half: float = 0.1) -> Spread:
    return Spread(median, median * (1 - half), median * (1 + half))


def make_measurement(name: str, median: float) -> Measurement:
    return Measurement(
        **asdict(make_spread(median)),
        name=name,
        title=f"title of {name}",
        per="fixup",
        rounds=3,
        note="a note",
    )


def make_line(what: str, *fits: tuple[float, ...], cpu_us: Spread | None = None) -> Line:
    """Fits are `Fit`'s attributes, as many as are wanted; the others are 0."""
    made = tuple(Fit(*fit, *[0.0] * (4 - len(fit))) for fit in fits)
    points = tuple(
        Point(float(count), *astuple(make_spread(made[0].round_trip_us(count))))
        for count in (1, 512)
    )
    fixups = "none" if what.startswith("swap.") else "known values"
    return Line(what, fixups, made, points, ((0.0, 0.01),) * 2, cpu_us)


def distribution_of_counts(title: str, counts: NDArray[np.int64], **known: Any) -> Distribution:
    """From the fixups of each single page, those without any left out."""
    counted = np.unique(counts[counts > 0], return_counts=True)
    return distribution_of_survey(title, np.transpose(counted).tolist(), **known)


LINES = (
    make_line("swap.file", (60.0, 0.0), (55.0, 0.5), (65.0, 0.0)),
    make_line("swap.zram", (14.0, 2.0), (13.0, 2.0), (15.0, 2.0)),
    make_line("lazyfree", (7.0, 30.0), (6.5, 28.0), (7.5, 33.0)),
    make_line("dontneed", (5.0, 12.0), (5.5, 11.0), (6.0, 13.0)),
)


def make_costs(
    *,
    nanoseconds: dict[str, float] | None = None,
    lines: Sequence[Line] = LINES,
    checks: Sequence[Check] = (Check("relocation", 2.0, 2.2, 0.91, True, "ns; within 2 x"),),
) -> Costs:
    values = NANOSECONDS if nanoseconds is None else nanoseconds
    return Costs(
        measurements=tuple(make_measurement(name, value) for name, value in values.items()),
        lines=tuple(lines),
        checks=tuple(checks),
        left_out={"line.kernel": "this kernel has no MAP_SCRATCH."},
        notes=("A note.",),
        rounds=3,
        seconds=12.5,
    )
