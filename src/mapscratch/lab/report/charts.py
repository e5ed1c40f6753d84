# SPDX-License-Identifier: Apache-2.0
"""The charts of a page: what is drawn and on which scales; the template places the marks.

A chart is drawn once, for any width: across in per cent of its area, upwards in pixels, so that
text is as large on a phone as on a wide screen. What tells lines apart is a mark's shape, a dash
and a name, and colour only beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mapscratch.lab.cost.model import WORDS_A_PAGE, break_even
from mapscratch.lab.cost.pages import Distribution
from mapscratch.lab.report.facts import Sweep, Way, Ways, classes
from mapscratch.lab.report.words import duration, ranged
from mapscratch.lab.rig.results import Spread
from mapscratch.text import counted, listed, nanoseconds, swap_name, whole

TOP, BOTTOM = 44.0, 344.0
"""Of a chart's area, in pixels from above."""
STRIP_TOP, STRIP_BOTTOM = BOTTOM + 44, BOTTOM + 106
"""Of the pages by their fixups, below it."""
_LINE_HEIGHT = 17.0
_POINTS = 49
_TICK, _NUMBER, _QUANTILE = 9.0, 16.0, 30.0
"""Per cent across that a text takes on a phone, where a chart's area has some 260 pixels."""
CIRCLE = "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z"
_SQUARE, _DIAMOND, _DOWN = "M-4-4h8v8h-8Z", "M0-6L6 0L0 6L-6 0Z", "M0 5.4L5.2-4h-10.4Z"
SHAPES = {
    "file": _SQUARE, "partition": _SQUARE, "zswap": _DIAMOND, "zram": "M0-5.4L5.2 4h-10.4Z",
    "known": CIRCLE, "relative": _DOWN,
    "private": _SQUARE, "kernel": _DIAMOND, "lazyfree": CIRCLE, "dontneed": _DOWN,
}  # fmt: skip
"""Of marks about a middle of 0, by the key of a line."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values of `low` to `high` to places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one that lies outside is at the axis's end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values, at most so many."""
        low, high = self.low, self.high
        if not self.logarithmic:
            power = 10.0 ** math.floor(math.log10((high - low) / most))
            step = next(n * power for n in (1, 2, 5, 10) if (high - low) / (n * power) < most)
            return [n * step for n in range(math.ceil(low / step), int(high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks: list[float] = []
        for factors in ((1, 2, 5), (1, 3), (1,)):
            every = (factor * 10.0**decade for decade in decades for factor in factors)
            ticks = [value for value in every if low <= value <= high]
            if len(ticks) <= most:
                break
        return ticks[:: math.ceil(len(ticks) / most) or 1]


def apart(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places for labels near those that are wanted, in the same order and a distance apart.

    None is before `low`, and none behind `high` unless there are too many.
    """
    order = np.argsort(wanted, kind="stable")
    steps = distance * np.arange(len(wanted))
    room = np.asarray(wanted, dtype=np.float64)[order] - steps
    # Pushed half by those above and half by those below, and then into the room that there is.
    down, up = np.maximum.accumulate(room), np.minimum.accumulate(room[::-1])[::-1]
    last = max(low, high - distance * (len(wanted) - 1))
    places = np.empty_like(room)
    places[order] = np.clip((down + up) / 2, low, last) + steps
    return [float(place) for place in places]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, what was measured of it, if it isn't reckoned, and its name at its end."""

    key: str
    title: str
    label: str
    curve: Sequence[tuple[float, float]]
    points: Sequence[tuple[float, Spread]]
    reckoned: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis or a number at a place; roomy: for its text a phone has no room."""

    at: float
    text: str
    roomy: bool = False
    upwards: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over a number of things, in the order of the eye: from the top at their ends."""

    unit: tuple[str, str]
    say: Callable[[float], str]
    x: Scale
    y: Scale
    ticks: Sequence[Tick]
    lines: Sequence[Line]
    rings: Sequence[Tick] = ()
    pages: Distribution | None = None

    @property
    def description(self) -> str:
        """What is to be seen, for those who can't see it."""
        return " ".join(
            f"{line.title}: {', '.join(self.told(*line.curve[at]) for at in (0, -1))}."
            for line in self.lines
        )

    def told(self, count: float, value: float) -> str:
        """What a point says."""
        return f"{self.say(value)} with {counted(round(count), *self.unit)}"

    def path(self, line: Line) -> str:
        """Per cent across, pixels down."""
        return "M" + "L".join(f"{self.x(n):.2f} {self.y(value):.1f}" for n, value in line.curve)

    @property
    def ends(self) -> list[tuple[Line, float, float]]:
        """Where each line ends, from above, and where its label is."""
        ends = [self.y(line.curve[-1][1]) for line in self.lines]
        return list(zip(self.lines, ends, apart(ends, _LINE_HEIGHT, TOP, BOTTOM - 4), strict=True))

    @property
    def strip(self) -> list[tuple[float, float, float, str]]:
        """Bars of pages by their fixups: from where to where, how high, and what they say."""
        bins = classes(self.pages) if self.pages else []
        tallest = max((number for *_, number in bins), default=0) or 1
        scale = Scale(0, tallest, STRIP_BOTTOM, STRIP_TOP)
        return [
            (self.x(low), self.x(high + 1), scale(number), f"{counted(number, 'page')} with {span}")
            for low, high, number in bins
            for span in [ranged(whole(low), whole(high))]
        ]

    @property
    def quantiles(self) -> list[Tick]:
        """At the median, and where 95 % of the pages have no more."""
        pages = self.pages
        found = ((pages.quantile(0.5), "half"), (pages.quantile(0.95), "95 %")) if pages else ()
        return _spaced([(k, f"{name} ≤ {whole(k)}") for k, name in found], self.x, _QUANTILE)


def _spaced(texts: Sequence[tuple[float, str]], x: Scale, room: float) -> list[Tick]:
    """Without a text where there is no room, and on wide screens alone where a phone has none."""
    ticks: list[Tick] = []
    for at, text in texts:
        free = x(at) - x(ticks[-1].at) if ticks else room
        ticks.append(Tick(at, text if free >= room / 2 else "", roomy=free < room))
    return ticks


# --- a page's way out of memory and back --------------------------------------------------------


def round_trip_chart(ways: Ways, pages: Distribution | None) -> Chart:
    """What a page's way costs against the fixups on it, and how many fixups pages here have."""
    drawn = ways.from_the_top(ways.swaps + ways.drawn)
    values = [one.at(k) for one in drawn for k in (1, WORDS_A_PAGE)]
    values += [us for one in drawn for _, s in one.points for us in (s.minimum, s.maximum)]
    values = [value for value in values if value > 0] or [1.0]
    x = Scale(1, WORDS_A_PAGE, 0, 100, logarithmic=True)
    y = Scale(min(values) / 1.6, max(values) * 1.6, BOTTOM, TOP, logarithmic=True)
    return Chart(
        unit=("fixup", "fixups"),
        say=duration,
        x=x,
        y=y,
        ticks=_spaced([(2.0**n, str(2**n)) for n in range(10)], x, _TICK),
        lines=[_way_line(way) for way in drawn],
        rings=_rings(ways, x, y),
        pages=pages,
    )


def _way_line(way: Way) -> Line:
    label, reckoned = f"{way.title}, {duration(way.page_us)}", False
    if way.trip.fixup:
        short = way.title.replace("as ld.so does it", "as ld.so")
        label, reckoned = f"{short}, {nanoseconds(max(way.fixup_ns, 0.0))}", not way.points
    curve = [(k, way.at(k)) for k in np.geomspace(1, WORDS_A_PAGE, _POINTS).tolist()]
    return Line(way.key, way.title, label, curve, way.points, reckoned)


def _rings(ways: Ways, x: Scale, y: Scale) -> list[Tick]:
    """Where dropping a page begins to cost more, with the number where there is room."""
    rings: list[Tick] = []
    taken: list[tuple[float, float]] = []
    for way in ways.drawn:
        found = [(break_even(swap.trip, way.trip).fixups.median, swap) for swap in ways.swaps]
        # The number is that of the swap that is beaten least.
        for limit, swap in sorted(found, key=lambda pair: pair[0]):
            if 1 <= limit < WORDS_A_PAGE:
                us, text = swap.at(limit), whole(limit)
                note = f"break-even of {way.title} with {swap.name}: {text} fixups a page"
                at = (x(limit), y(us))
                free = at[0] > _NUMBER and all(
                    abs(at[0] - one[0]) > _NUMBER or abs(at[1] - one[1]) > _LINE_HEIGHT
                    for one in taken
                )
                if free:
                    taken.append(at)
                rings.append(Tick(limit, text if free else "", upwards=us, note=note))
    return rings


# --- swap against the number of processes -------------------------------------------------------


def sweep_chart(sweeps: Sequence[Sweep]) -> Chart | None:
    """Pages written to swap against the number of processes; None where nothing is to draw.

    Lines that are alike, to whatever swap the pages went, are drawn once.
    """
    alike: dict[tuple[str, tuple[tuple[int, float], ...]], list[str]] = {}
    for one in sweeps:
        if one.swap and len(one.swapped) > 1:  # One point is no line.
            alike.setdefault((one.strategy, one.swapped), []).append(swap_name(one.swap))
    if not alike:
        return None
    several = len({one.swap for one in sweeps}) > 1
    lines = []
    for (strategy, curve), swaps in alike.items():
        title = f"{strategy}: {listed(dict.fromkeys(swaps))}" if several else strategy
        key = strategy if strategy in SHAPES else "known"
        points = [(n, Spread(pages, pages, pages)) for n, pages in curve]
        lines.append(Line(key, title, title, curve, points))
    counts = sorted({n for line in lines for n, _ in line.curve})
    most = max(pages for line in lines for _, pages in line.curve)
    x = Scale(0, max(1, *counts), 0, 100)
    return Chart(
        unit=("process", "processes"),
        say=whole,
        x=x,
        y=Scale(0, max(1.0, 1.05 * most), BOTTOM, TOP),
        ticks=_spaced([(n, whole(n)) for n in counts], x, _TICK),
        lines=sorted(lines, key=lambda line: -line.curve[-1][1]),
    )
