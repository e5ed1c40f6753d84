# SPDX-License-Identifier: Apache-2.0
"""The charts of a page: where each mark is; the template draws them, and the style sheet says how.

A chart is drawn once, for any width: across in per cent of its area, upwards in pixels, so that
text is as large on a phone as on a wide screen. What tells lines apart is a mark's shape, a dash
and a name, and colour only beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mapscratch.lab.cost.model import WORDS_A_PAGE, break_even
from mapscratch.lab.report.documents import FixupsPerPage
from mapscratch.lab.report.facts import SWAP_NAMES, Sweep, Way, Ways
from mapscratch.lab.report.words import TO, duration
from mapscratch.text import counted, listed, nanoseconds, whole

TOP, BOTTOM = 44.0, 344.0
"""Of a chart's area, in pixels from above."""
STRIP_TOP, STRIP_BOTTOM = BOTTOM + 44, BOTTOM + 106
"""Of the pages by their fixups, below it."""
_LINE_HEIGHT = 17.0
_STEPS = 48
_NARROW, _WIDE = 260.0, 500.0
"""Pixels that the area of a chart has across on a phone, and on a wide screen at least."""
_CHARACTER = 7.3
"""So wide is a character of a chart's text at most on average, in pixels."""
_LEAST_COUNTS = 2
"""One point is no line."""
_CIRCLE = "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z"
_SQUARE = "M-4-4L4-4L4 4L-4 4Z"
_DIAMOND = "M0-6L6 0L0 6L-6 0Z"
_TRIANGLE = "M0-5.4L5.2 4L-5.2 4Z"
_DOWN = "M0 5.4L5.2-4L-5.2-4Z"
_CROSS = (
    "M-4.5-1.4L-1.4-1.4L-1.4-4.5L1.4-4.5L1.4-1.4L4.5-1.4L4.5 1.4L1.4 1.4L1.4 4.5L-1.4 4.5L-1.4 1.4"
    "L-4.5 1.4Z"
)
_SHAPES = {
    "file": _SQUARE, "partition": _SQUARE, "zswap": _DIAMOND, "zram": _TRIANGLE, "known": _CIRCLE,
    "relative": _DOWN, "private": _SQUARE, "kernel": _DIAMOND, "lazyfree": _CIRCLE,
    "dontneed": _DOWN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows; the first column names the row.

    Attributes:
        head: of the columns.
        rows: texts.
        caption: what they are.
        bars: for each row, how long its bar and the part of it are, as shares; none without bars.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bars: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot, a ring, a bar or a tick, and what is said of it.

    Attributes:
        x: in per cent.
        y: in pixels.
        text: beside it, or empty.
        note: where a pointer rests on it.
        roomy: there is room for the text only on a wide screen.
        ends: of a whisker, in pixels; None without one.
        width: of a bar, in per cent.
    """

    x: float = 0.0
    y: float = 0.0
    text: str = ""
    note: str = ""
    roomy: bool = False
    ends: tuple[float, float] | None = None
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line with its marks and its name.

    Attributes:
        key: its class in the style sheet.
        label: at its end, and in the legend.
        path: per cent across, pixels down.
        dots: what was measured.
        shape: of their marks, about a middle of 0.
        end: where it ends, from above.
        place: where its label is.
        reckoned: nothing of it was measured as such.
    """

    key: str
    label: str
    path: str
    dots: Sequence[Mark]
    shape: str
    end: float
    place: float
    reckoned: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        key: its name in the page.
        title: what it shows.
        description: what is to be seen, for those who can't see it.
        across: ticks, and the axis' name.
        upwards: likewise.
        lines: from the top at their ends.
        tables: the figures.
        height: in pixels.
        rings: where dropping a page begins to cost more.
        bars: pages by their fixups.
        quantiles: of them.
        pages: how many there are, or empty.
        scale: for the line of another device; None if there is none.
    """

    key: str
    title: str
    description: str
    across: tuple[Sequence[Mark], str]
    upwards: tuple[Sequence[Mark], str]
    lines: Sequence[DrawnLine]
    tables: Sequence[Table]
    height: float
    rings: Sequence[Mark] = ()
    bars: Sequence[Mark] = ()
    quantiles: Sequence[Mark] = ()
    pages: str = ""
    scale: Scale | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on an axis.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: a place.
        end: a place; below `start` for an axis upwards.
        logarithmic: equal ratios are equally far apart.
    """

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
        if not self.logarithmic:
            return _linear_ticks(self.low, self.high, most)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks: list[float] = []
        for factors in ((1, 2, 5), (1, 3), (1,)):
            every = (factor * 10.0**decade for decade in decades for factor in factors)
            ticks = [value for value in every if self.low <= value <= self.high]
            if len(ticks) <= most:
                break
        return ticks[:: math.ceil(len(ticks) / most) or 1]

    def marked(self, text: Callable[[float], str]) -> list[Mark]:
        """Its ticks upwards, with what they say."""
        return [Mark(y=self(value), text=text(value)) for value in self.ticks()]


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
        if last - first < most:
            return [index * step for index in range(first, last + 1)]
    return [low, high]


def apart(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Moves labels apart.

    Args:
        wanted: where each would like to be.
        distance: between any two at least.
        low: none is before it.
        high: none is behind it, unless there are too many.

    Returns:
        where each is, in the order of `wanted`.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [min(max(wanted[index], low), high) for index in order]
    down = list(itertools.accumulate(places, lambda at, place: max(place, at + distance)))
    up = list(itertools.accumulate(places[::-1], lambda at, place: min(place, at - distance)))[::-1]
    # Pushed half by those above and half by those below, and then into the room that there is.
    middle = [(one + other) / 2 for one, other in zip(down, up, strict=True)]
    for at in range(len(middle)):
        least = low if at == 0 else middle[at - 1] + distance
        middle[at] = max(middle[at], least)
    for at in reversed(range(len(middle))):
        most = high if at == len(middle) - 1 else middle[at + 1] - distance
        middle[at] = min(middle[at], most)
    found = dict(zip(order, middle, strict=True))
    return [found[index] for index in range(len(wanted))]


# --- a page's way out of memory and back --------------------------------------------------------


def round_trip_chart(ways: Ways, fixups: FixupsPerPage | None) -> Chart:
    """What a page's way costs against the fixups on it, and how many fixups pages here have."""
    drawn = _from_the_top([*ways.swaps, *ways.drawn])
    values = [one.at(k) for one in drawn for k in (1, WORDS_A_PAGE)]
    values += [us for one in drawn for _, s in one.points for us in (s.minimum, s.maximum)]
    values = [value for value in values if value > 0] or [1.0]
    x = Scale(1, WORDS_A_PAGE, 0, 100, logarithmic=True)
    y = Scale(min(values) / 1.6, max(values) * 1.6, BOTTOM, TOP, logarithmic=True)
    ticks = [Mark(x(2.0**n), text=str(2**n), roomy=n % 2 == 1) for n in range(10)]
    return Chart(
        key="trip",
        title="What it costs a page to leave memory and come back as it was",
        description=_told(drawn, fixups),
        across=(ticks, "fixups on the page"),
        upwards=(y.marked(duration), "a page's way out and back, time"),
        lines=_way_lines(drawn, x, y),
        tables=(_way_table(ways), _point_table(drawn)),
        height=STRIP_BOTTOM + 6 if fixups else BOTTOM + 42,
        rings=_rings(ways, x, y),
        bars=_bars(fixups, x) if fixups else (),
        quantiles=_quantiles(fixups, x) if fixups else (),
        pages=f"pages: {whole(fixups.pages)}" if fixups else "",
        scale=y,
    )


def _from_the_top(ways: Sequence[Way]) -> list[Way]:
    """As their lines end at the right: names, letters and tables have the order of the eye."""
    return sorted(ways, key=lambda one: -one.at(WORDS_A_PAGE))


def _told(drawn: Sequence[Way], fixups: FixupsPerPage | None) -> str:
    sentences = [
        f"{one.title}: {duration(one.at(1))} with 1 fixup, {duration(one.at(WORDS_A_PAGE))} with "
        f"{WORDS_A_PAGE}."
        for one in drawn
    ]
    if fixups and fixups.median is not None:
        half = counted(round(fixups.median), "fixup")
        sentences.append(f"Half of the pages here have at most {half}.")
    return " ".join(sentences)


def _way_lines(drawn: Sequence[Way], x: Scale, y: Scale) -> list[DrawnLine]:
    ends = [y(one.at(WORDS_A_PAGE)) for one in drawn]
    places = apart(ends, _LINE_HEIGHT, TOP, BOTTOM - 4)
    fixups = [WORDS_A_PAGE ** (step / _STEPS) for step in range(_STEPS + 1)]
    return [
        DrawnLine(
            key=way.key,
            label=_label(way),
            path=_path((x(k), y(way.at(k))) for k in fixups),
            dots=[
                Mark(
                    x(max(k, 1)),
                    y(spread.median),
                    note=f"{way.title}, {counted(round(k), 'fixup')}: {duration(spread.median)}",
                    ends=(y(spread.minimum), y(spread.maximum)),
                )
                for k, spread in way.points
            ],
            shape=_SHAPES.get(way.key, _CROSS),
            end=end,
            place=place,
            reckoned=way.drops and not way.points,
        )
        for way, end, place in zip(drawn, ends, places, strict=True)
    ]


def _label(way: Way) -> str:
    if not way.drops:
        return f"{way.title}, {duration(way.page_us)}"
    short = way.title.replace("as ld.so does it", "as ld.so")
    return f"{short}, {nanoseconds(max(way.fixup_ns, 0.0))}"


def _way_table(ways: Ways) -> Table:
    columns = [0, 1, 16, 64, 256, WORDS_A_PAGE]
    return Table(
        ("way, by its line", *(f"{counted(fixups, 'fixup')} a page" for fixups in columns)),
        [
            (one.title, *(duration(one.at(fixups)) for fixups in columns))
            for one in _from_the_top([*ways.swaps, *ways.scratch])
        ],
    )


def _point_table(drawn: Sequence[Way]) -> Table:
    """What was measured beside what the lines say."""
    return Table(
        ("way", "fixups a page", "measured", f"least{TO}most", "by its line"),
        [
            (
                one.title,
                whole(k),
                duration(spread.median),
                f"{duration(spread.minimum)}{TO}{duration(spread.maximum)}",
                duration(one.at(k)),
            )
            for one in drawn
            for k, spread in one.points
        ],
        caption="The marks: what was measured",
    )


def _rings(ways: Ways, x: Scale, y: Scale) -> list[Mark]:
    """Where dropping a page begins to cost more, with the number where there is room."""
    rings: list[Mark] = []
    taken: list[tuple[float, float]] = []
    for way in ways.drawn:
        found = [(break_even(swap.trip, way.trip), swap) for swap in ways.swaps]
        # The number is that of the swap that is beaten least.
        for one, swap in sorted(found, key=lambda pair: pair[0].fixups.median):
            limit = one.fixups.median
            if not 1 <= limit < WORDS_A_PAGE:
                continue
            at = (x(limit), y(swap.at(limit)))
            note = f"break-even of {way.title} with {swap.name}: {limit:,.0f} fixups a page"
            text = whole(limit)
            narrow, wide = (_free(at, text, taken, width) for width in (_NARROW, _WIDE))
            if wide:
                taken.append(at)
            rings.append(Mark(*at, text if wide else "", note, roomy=not narrow))
    return rings


def _free(
    at: tuple[float, float], text: str, taken: Sequence[tuple[float, float]], width: float
) -> bool:
    """Whether there is room for a text left of a place, and beside those that are there."""
    long = len(text) * _CHARACTER + 18
    return at[0] / 100 * width > long and all(
        abs(at[1] - y) > _LINE_HEIGHT or abs(at[0] - x) / 100 * width > long for x, y in taken
    )


def _bars(fixups: FixupsPerPage, x: Scale) -> list[Mark]:
    tallest = max(1, *(pages for *_, pages in fixups.histogram))
    height = Scale(0, tallest, 0, STRIP_BOTTOM - STRIP_TOP)
    bars = []
    for low, high, pages in fixups.histogram:
        start, end, tall = x(max(low, 1)), x(high + 1), height(pages)
        which = counted(round(high), "fixup") if low == high else f"{span(low, high)} fixups"
        note = f"{which}: {counted(round(pages), 'page')}"
        width = max(end - start - 0.2, 0.3)
        bars.append(Mark(start, STRIP_BOTTOM - tall, note=note, width=width))
    return bars


def _quantiles(fixups: FixupsPerPage, x: Scale) -> list[Mark]:
    """At the median, and where 95 % of the pages have no more, if that is not too near."""
    ticks: list[Mark] = []
    for value, name in ((fixups.median, "half"), (fixups.p95, "95 %")):
        if value is not None and value >= 1:
            at, text = x(value), f"{name} ≤ {whole(value)}"
            far = not ticks or (at - ticks[-1].x) / 100 * _NARROW > len(text) * _CHARACTER
            ticks.append(Mark(at, text=text, roomy=not far))
    return ticks


def span(low: float, high: float) -> str:
    """A range of whole numbers."""
    return whole(low) if low == high else f"{whole(low)}{TO.strip()}{whole(high)}"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.1f}" for x, y in points)


# --- swap against the number of processes -------------------------------------------------------


def sweep_chart(sweeps: Sequence[Sweep]) -> Chart | None:
    """Pages written to swap against the number of processes; None where nothing is to draw.

    Lines that are alike, to whatever swap the pages went, are drawn once.
    """
    alike: dict[tuple[str, tuple[tuple[int, float], ...]], list[str]] = {}
    for one in sweeps:
        if one.swap and len(one.swapped) >= _LEAST_COUNTS:
            alike.setdefault((one.strategy, one.swapped), []).append(SWAP_NAMES[one.swap])
    if not alike:
        return None
    several = len({one.swap for one in sweeps}) > 1
    named = [
        (f"{strategy}: {listed(dict.fromkeys(swaps))}" if several else strategy, strategy, points)
        for (strategy, points), swaps in alike.items()
    ]
    named.sort(key=lambda one: -one[2][-1][1])
    every = [point for *_, points in named for point in points]
    x = Scale(0, max(1, *(n for n, _ in every)), 0, 100)
    y = Scale(0, max(1.0, *(1.05 * pages for _, pages in every)), BOTTOM, TOP)
    return Chart(
        key="sweep",
        title="Fixed-up pages that N processes sent to swap",
        description=" ".join(
            f"{name}: {', '.join(f'{n} → {whole(pages)}' for n, pages in points)}."
            for name, _, points in named
        ),
        across=(_count_ticks(sorted({n for n, _ in every}), x), "processes"),
        upwards=(y.marked(whole), "pages to swap"),
        lines=_sweep_lines(named, x, y),
        tables=(),
        height=BOTTOM + 42,
    )


def _count_ticks(counts: Sequence[int], x: Scale) -> list[Mark]:
    ticks: list[Mark] = []
    for n in counts:
        free = not ticks or (x(n) - ticks[-1].x) / 100 * _NARROW > 24
        ticks.append(Mark(x(n), text=str(n) if free else ""))
    return ticks


def _sweep_lines(
    named: Sequence[tuple[str, str, Sequence[tuple[int, float]]]], x: Scale, y: Scale
) -> list[DrawnLine]:
    ends = [y(points[-1][1]) for *_, points in named]
    places = apart(ends, _LINE_HEIGHT, TOP, BOTTOM - 2)
    return [
        DrawnLine(
            key=strategy if strategy in _SHAPES else "known",
            label=name,
            path=_path((x(n), y(pages)) for n, pages in points),
            dots=[
                Mark(
                    x(n),
                    y(pages),
                    note=f"{name}, {counted(n, 'process', 'processes')}: {whole(pages)}",
                )
                for n, pages in points
            ],
            shape=_SHAPES.get(strategy, _CIRCLE),
            end=end,
            place=place,
        )
        for (name, strategy, points), end, place in zip(named, ends, places, strict=True)
    ]
