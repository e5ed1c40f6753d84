# SPDX-License-Identifier: Apache-2.0
"""The picture of ``mapscratch cost``: a page's round trip against its number of fixups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapscratch.lab.compare.charts import ROWS, Chart, Series
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.model import WORDS_A_PAGE, RoundTrip
from mapscratch.text import microseconds

_CHART_POINTS = tuple(range(0, WORDS_A_PAGE + 1, 128))
_ROOM_ABOVE_SWAP = 1.5
"""The chart is so many times as high as the dearest swap; steeper lines leave it."""
_FAR = 10.0
"""A swap so many times as dear as the cheapest is not drawn."""


def cost_chart(report: CostReport) -> Chart:
    """A page's round trip against its fixups: each swap, and one engine with each kind of fixup."""
    lines = _drawn([one for one in report.scratches if one.what == report.engine])
    swaps, far = _within_reach(report.swaps)
    swap_us = [_highest(one) for one in swaps]
    known_us = [_highest(line) for line in lines[:1]]
    top = max([_ROOM_ABOVE_SWAP * value for value in swap_us] + known_us, default=0.0)
    series = [_series(one.title, one, math.inf) for one in swaps]
    leaves_at = top
    for line in lines:
        one = _series(_series_name(line), line, leaves_at)
        series.append(one)
        if one.points and one.points[-1][0] < WORDS_A_PAGE:
            leaves_at -= top / ROWS  # So that names stand below each other.
    series = [one for one in series if one.points]
    leaving = any(one.points[-1][0] < WORDS_A_PAGE for one in series)
    notes = ["Lines that end early go on upwards, out of the picture."] if leaving else []
    notes += [f"{one.title} takes {microseconds(_highest(one))}: far above it." for one in far]
    title = "µs for a page to leave memory and come back, by its number of fixups"
    unit = ("fixup a page", "fixups a page")
    return Chart(title, tuple(series), " ".join(notes), unit, _CHART_POINTS)


def _drawn(lines: Sequence[RoundTrip]) -> list[RoundTrip]:
    """Fixups as they are mixed here, if that is known, in place of symbolic ones alone."""
    mixed = any(one.fixup and one.fixup.fixup == "mixed" for one in lines)
    left_out = "symbolic" if mixed else "mixed"
    return [one for one in lines if one.fixup and one.fixup.fixup != left_out]


def _highest(line: RoundTrip) -> float:
    return float(line.at(_CHART_POINTS)[0].max())


def _within_reach(swaps: Sequence[RoundTrip]) -> tuple[list[RoundTrip], list[RoundTrip]]:
    """Those to be drawn, and those that are so dear that nothing else could be seen beside them."""
    ordered = sorted(swaps, key=_highest)
    reach = _FAR * _highest(ordered[0]) if ordered else 0.0
    drawn = [one for one in swaps if _highest(one) <= reach]
    return drawn, [one for one in ordered if _highest(one) > reach]


def _series_name(line: RoundTrip) -> str:
    assert line.fixup
    kind = line.fixup.fixup.removesuffix(" value")
    return f"{line.title}, {kind}{', long' if line.fixup.scope == 'long' else ''}"


def _series(name: str, line: RoundTrip, top: float) -> Series:
    """The points of a line, as far as they are in the picture."""
    values = line.at(_CHART_POINTS)[0]
    points = [
        (count, float(value))
        for count, value in zip(_CHART_POINTS, values, strict=True)
        if value <= top
    ]
    if len(points) < len(_CHART_POINTS):
        numbers = np.arange(WORDS_A_PAGE + 1)
        inside = np.flatnonzero(line.at(numbers)[0] <= top)
        if len(inside) and (not points or inside[-1] > points[-1][0]):
            last = int(inside[-1])
            points.append((last, float(line.at([last])[0, 0])))
    return Series(name, tuple(points))
