# SPDX-License-Identifier: Apache-2.0
"""The picture of ``mapscratch cost``: a page's round trip against its number of fixups."""

from __future__ import annotations

import math

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
    reach = _FAR * min(map(_highest, report.swaps), default=0.0)
    far = sorted((one for one in report.swaps if _highest(one) > reach), key=_highest)
    swaps = [one for one in report.swaps if one not in far]
    swap_us = [_ROOM_ABOVE_SWAP * _highest(one) for one in swaps]
    top = max(swap_us + [_highest(line) for line in report.told[:1]], default=0.0)
    series = [_series(one.title, one, math.inf) for one in swaps]
    leaves_at = top
    for line in report.told:
        series.append(_series(_name(line), line, leaves_at))
        if _leaves(series[-1]):
            leaves_at -= top / ROWS  # So that names stand below each other.
    leaving = any(map(_leaves, series))
    notes = ["Lines that end early go on upwards, out of the picture."] if leaving else []
    notes += [f"{one.title} takes {microseconds(_highest(one))}: far above it." for one in far]
    title = "µs for a page to leave memory and come back, by its number of fixups"
    drawn = tuple(one for one in series if one.points)
    return Chart(title, drawn, " ".join(notes), ("fixup a page", "fixups a page"), _CHART_POINTS)


def _highest(line: RoundTrip) -> float:
    return float(line.at(_CHART_POINTS)[0].max())


def _leaves(series: Series) -> bool:
    return bool(series.points) and series.points[-1][0] < WORDS_A_PAGE


def _name(line: RoundTrip) -> str:
    assert line.fixup
    kind = line.fixup.fixup.removesuffix(" value")
    return f"{line.title}, {kind}{', long' if line.fixup.scope == 'long' else ''}"


def _series(name: str, line: RoundTrip, top: float) -> Series:
    """The points of a line, as far as they are in the picture, and the last one that is."""
    values = line.at(range(WORDS_A_PAGE + 1))[0].tolist()
    inside = [count for count, value in enumerate(values) if value <= top]
    counts = sorted({*_CHART_POINTS} & {*inside} | {*inside[-1:]})
    return Series(name, tuple((count, values[count]) for count in counts))
