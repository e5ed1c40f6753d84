# SPDX-License-Identifier: Apache-2.0
"""The charts of a page, each drawn twice: for a wide screen and paper, and for a phone.

Scaled down, a wide chart's text could not be read on a phone; so the style sheet shows one of the
two. What tells lines apart is a mark's shape, a dash and a name, and colour only beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mapscratch.lab.compare.verdict import WORDS_A_PAGE
from mapscratch.lab.report.page_facts import Histogram, Process, Sweep, Way, Ways
from mapscratch.lab.report.page_svg import (
    TO,
    Scale,
    apart,
    count,
    counted,
    element,
    label,
    line,
    marker,
    mebibytes,
    microseconds,
    nanoseconds,
    path,
    percent,
    round_up,
    shortened,
    shown,
    text_width,
)

PAGE = 4096
"""Bytes of a page where documents count pages."""
MARKERS = {
    "file": "square", "partition": "square", "zswap": "diamond", "zram": "triangle",
    "known": "circle", "relative": "down", "short": "cross", "long": "cross",
    "mixed-short": "cross", "mixed-long": "cross",
    "private": "square", "kernel": "diamond", "lazyfree": "circle", "dontneed": "down",
}  # fmt: skip
_LINE_HEIGHT = 17.0
_LEADER, _BOLD_CHARACTER = 20.0, 7.6
"""Beside the lines' ends: what leads to their names, and how wide a character of these is."""
_STEPS = 64
_LEAST_COUNTS = 2
"""One point is no line."""
_STRIP_TOP, _STRIP_BOTTOM = 44, 106


@dataclass(frozen=True, slots=True)
class Table:
    """The figures of a chart, for those who would rather read them.

    Attributes:
        head: of the columns; the first one names the row.
        rows: texts, not yet escaped.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        key: its name in the page.
        title: what it shows.
        description: what is to be seen, for those who can't see it.
        wide: the drawing; SVG.
        narrow: the drawing for a phone; SVG.
        legend: class and name of the lines, for the narrow one.
        table: the figures.
    """

    key: str
    title: str
    description: str
    wide: str
    narrow: str
    legend: tuple[tuple[str, str], ...]
    table: Table


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a drawing's inner area lies.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        left: of the area.
        right: of the area, from the left.
        top: of the area.
        bottom: of the area, from the top.
        narrow: it is for a phone.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    narrow: bool


def _drawing(
    frame: _Frame, key: str, title: str, description: str, *content: str, **attributes: object
) -> str:
    size = "narrow" if frame.narrow else "wide"
    return element(
        "svg",
        element("title", shown(title), id=f"{key}-{size}-title"),
        element("desc", shown(description), id=f"{key}-{size}-desc"),
        *content,
        class_=size,
        role="img",
        aria_labelledby=f"{key}-{size}-title {key}-{size}-desc",
        viewbox=f"0 0 {frame.width:g} {frame.height:g}",
        **attributes,
    )


# --- a page's way out of memory and back ----------------------------------------------------------


def round_trip_chart(ways: Ways, histogram: Histogram | None) -> Chart:
    """What a page's way costs against the fixups on it, and how many fixups pages here have."""
    title = "What it costs a page to leave memory and come back as it was"
    shown_ways = _from_the_top(ways)
    description = _told(ways, histogram)
    drawings = [
        _draw_round_trips(
            ways, histogram, _round_trip_frame(shown_ways, narrow, histogram), title, description
        )
        for narrow in (False, True)
    ]
    columns = [1, 16, 64, 256, WORDS_A_PAGE]
    table = Table(
        ("way", *(f"{counted(fixups, 'fixup')} a page" for fixups in columns)),
        tuple(
            (way_name(way), *(microseconds(way.microseconds(fixups)) for fixups in columns))
            for way in _in_order([*ways.swaps, *ways.scratch])
        ),
    )
    legend = tuple((one.key, way_name(one)) for one in shown_ways)
    return Chart("trip", title, description, drawings[0], drawings[1], legend, table)


def _from_the_top(ways: Ways) -> list[Way]:
    """As their lines end at the right: names, letters and tables have the order of the eye."""
    return _in_order([*ways.swaps, *ways.drawn])


def _in_order(ways: Sequence[Way]) -> list[Way]:
    return sorted(ways, key=lambda one: -one.microseconds(WORDS_A_PAGE))


def way_name(way: Way) -> str:
    """A way in a few words."""
    return f"drop + {way.name}" if way.engine else f"swap: {way.name.removeprefix('a ')}"


def _told(ways: Ways, histogram: Histogram | None) -> str:
    sentences = [
        f"{way_name(one)}: {microseconds(one.microseconds(1))} with 1 fixup, "
        f"{microseconds(one.microseconds(WORDS_A_PAGE))} with {WORDS_A_PAGE}."
        for one in _from_the_top(ways)
    ]
    if histogram and histogram.median is not None:
        half = counted(histogram.median, "fixup")
        sentences.append(f"Half of the pages here have at most {half}.")
    return " ".join(sentences)


def _round_trip_frame(ways: Sequence[Way], narrow: bool, histogram: Histogram | None) -> _Frame:
    strip = 84.0 if histogram else 0.0
    if narrow:
        return _Frame(360, 330 + strip, 58, 328, 44, 290, narrow)
    longest = max(len(_way_label(one)) for one in ways)
    right = 860.0 - _LEADER - _BOLD_CHARACTER * longest
    return _Frame(860, 420 + strip, 58, min(right, 624), 44, 380, narrow)


def _draw_round_trips(
    ways: Ways, histogram: Histogram | None, frame: _Frame, title: str, description: str
) -> str:
    shown_ways = _from_the_top(ways)
    values = [one.microseconds(fixups) for one in shown_ways for fixups in (1, WORDS_A_PAGE)]
    values += [value for one in shown_ways for point in one.points for value in point[1:]]
    values = [value for value in values if value > 0] or [1.0]
    low, high = min(values) / 1.6, max(values) * 1.6
    x = Scale(1, WORDS_A_PAGE, frame.left, frame.right, logarithmic=True)
    y = Scale(low, high, frame.bottom, frame.top, logarithmic=True)
    content = [_vertical_axis(frame, y, microseconds, "a page's way out and back, time")]
    if histogram:
        content += _strip(frame, x, histogram)
        content += _quantiles(frame, x, histogram)
    content += _fixup_axis(frame, x, histogram)
    content += [_way_line(one, x, y) for one in shown_ways]
    content += _device_line(frame, y)
    content += _crossings(ways, frame, x, y)
    content += _way_labels(shown_ways, frame, y)
    return _drawing(
        frame, "trip", title, description, *content,
        data_low=f"{low:.6g}", data_high=f"{high:.6g}",
        data_top=frame.top, data_bottom=frame.bottom,
    )  # fmt: skip


def _vertical_axis(frame: _Frame, y: Scale, format_value: Callable[[float], str], name: str) -> str:
    marks = [label(name, 2, frame.top - 24, "axis-name")]
    for value in y.ticks(7):
        at = y(value)
        marks.append(line(frame.left, at, frame.right, at, "grid"))
        marks.append(label(format_value(value), frame.left - 8, at + 4.5, "tick", anchor="end"))
    return "".join(marks)


def _fixup_axis(frame: _Frame, x: Scale, histogram: Histogram | None) -> list[str]:
    """The axis that both parts share."""
    ticks = (1, 4, 16, 64, 512) if frame.narrow else [2**power for power in range(10)]
    parts = [line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")]
    for value in ticks:
        parts.append(line(x(value), frame.bottom, x(value), frame.bottom + 5, "axis"))
        parts.append(label(value, x(value), frame.bottom + 19, "tick", anchor="middle"))
    name_at = frame.bottom + 36
    parts.append(label("fixups on the page", frame.right, name_at, "axis-name", anchor="end"))
    if histogram:
        text = f"pages: {count(histogram.pages)}"
        parts.append(label(text, frame.left, name_at, "axis-name"))
    return parts


def _strip(frame: _Frame, x: Scale, histogram: Histogram) -> list[str]:
    """Below the axis: how many pages there are with so many fixups."""
    top, bottom = frame.bottom + _STRIP_TOP, frame.bottom + _STRIP_BOTTOM
    height = Scale(0, max(pages for _, _, pages in histogram.bins), bottom, top)
    parts = []
    for low, high, pages in histogram.bins:
        start, end = x(max(low, 1)), x(high + 1)
        note = element("title", shown(_pages_note(low, high, pages)))
        parts.append(
            element(
                "rect", note, x=start + 0.5, y=height(pages), width=max(end - start - 1, 1.0),
                height=bottom - height(pages), class_="pages",
            )
        )  # fmt: skip
    parts.append(line(frame.left, bottom, frame.right, bottom, "axis"))
    return parts


def _quantiles(frame: _Frame, x: Scale, histogram: Histogram) -> list[str]:
    """Lines through both parts at the median and where 95 % of the pages have no more."""
    parts = []
    median, p95 = histogram.median, histogram.p95
    if median is not None and median >= 1:
        at = x(median)
        text = f"half ≤ {count(median)}"
        parts.append(line(at, frame.top - 4, at, frame.bottom + _STRIP_BOTTOM, "quantile"))
        anchor = "end" if at - text_width(text) > frame.left or p95 is not None else "start"
        at = max(at - 5, frame.left + text_width(text)) if anchor == "end" else at + 5
        parts.append(label(text, at, frame.top - 8, "quantile-name", anchor=anchor))
        taken = at if anchor == "end" else at + text_width(text)
    else:
        taken = frame.left
    if p95 is not None and p95 >= 1 and p95 != median:
        at = x(p95)
        text = f"95 % ≤ {count(p95)}"
        place, anchor = at - 5, "end"
        if place - text_width(text) <= taken + 8:
            place, anchor = at + 5, "start"
        if place + text_width(text) < frame.width or anchor == "end":
            parts.append(line(at, frame.top - 4, at, frame.bottom + _STRIP_BOTTOM, "quantile"))
            parts.append(label(text, place, frame.top - 8, "quantile-name", anchor=anchor))
    return parts


def _way_line(way: Way, x: Scale, y: Scale) -> str:
    class_ = f"way k-{way.key}" + (" composed" if way.engine and not way.points else "")
    fixups = [WORDS_A_PAGE ** (step / _STEPS) for step in range(_STEPS + 1)]
    parts = [path(((x(k), y(way.microseconds(k))) for k in fixups), class_)]
    for k, median, low, high in way.points:
        at = x(max(k, 1))
        if low < high:
            parts.append(line(at, y(low), at, y(high), f"whisker k-{way.key}"))
        note = f"{way_name(way)}, {counted(k, 'fixup')}: {microseconds(median)}"
        parts.append(
            element(
                "g",
                element("title", shown(note)),
                marker(MARKERS.get(way.key, "circle"), at, y(median), f"mark k-{way.key}", 4.0),
            )
        )
    return element("g", *parts)


def _device_line(frame: _Frame, y: Scale) -> list[str]:
    """The line that the slider moves; the style sheet hides it until there is a script."""
    at = y(y.high)
    return [
        element(
            "g",
            line(frame.left, at, frame.right, at, "way k-device"),
            label("another device", frame.left + 6, at - 6, "device-name"),
            class_="device",
        )
    ]


def _crossings(ways: Ways, frame: _Frame, x: Scale, y: Scale) -> list[str]:
    """Rings where dropping a page begins to cost more, with the number where there is room."""
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for one in ways.drawn:
        # The number is that of the swap that is beaten least.
        for swap in sorted(ways.swaps, key=lambda swap: ways.limit(one, swap) or 0.0):
            at, limit = one.as_dear_as(swap), ways.limit(one, swap)
            if at is None or limit is None or not 1 <= at < WORDS_A_PAGE:
                continue
            across, up = x(at), y(swap.microseconds(at))
            number = counted(limit, "fixup")
            note = f"break-even of {way_name(one)} with {swap.name}: {number} a page"
            parts.append(
                element(
                    "g",
                    element("title", shown(note)),
                    marker("circle", across, up, "crossing", 6.5),
                )
            )
            text = count(limit)
            width = text_width(text) + 6
            place = (across - 9, up - 9)
            free = all(
                abs(place[1] - other[1]) > 15 or abs(place[0] - other[0]) > width + 8
                for other in taken
            )
            if free and place[0] - width > frame.left:
                parts.append(label(text, *place, "crossing-name", anchor="end"))
                taken.append(place)
    return parts


def _way_labels(shown_ways: Sequence[Way], frame: _Frame, y: Scale) -> list[str]:
    """Names at the lines' ends; on a phone letters, and the legend has the names."""
    ends = [y(one.microseconds(WORDS_A_PAGE)) for one in shown_ways]
    places = apart(ends, _LINE_HEIGHT, frame.top, frame.bottom - 4)
    parts = []
    for index, (way, end, place) in enumerate(zip(shown_ways, ends, places, strict=True)):
        start = frame.right + 4
        parts.append(path([(start, end), (start + 10, place)], f"leader k-{way.key}"))
        text = chr(ord("A") + index) if frame.narrow else _way_label(way)
        parts.append(label(text, start + 13, place + 4.5, f"name k-{way.key}"))
    return parts


def _way_label(way: Way) -> str:
    if not way.engine:
        return f"{way_name(way)}, {microseconds(way.microseconds(WORDS_A_PAGE))}"
    return f"drop + {way.short_name}, {nanoseconds(max(way.fixup_ns, 0.0))}"


# --- fixups a page --------------------------------------------------------------------------------


def fixups_chart(histogram: Histogram) -> Chart:
    """How many pages have how many fixups, and the share of pages with at most so many."""
    title = "Fixups a page, over all pages that relocation dirties"
    shares = histogram.cumulative()
    description = (
        f"{counted(histogram.pages, 'page')}. "
        + " ".join(
            f"{percent(share)} have at most {counted(high, 'fixup')}."
            for (_, high, _), share in zip(histogram.bins, shares, strict=True)
        )
    )  # fmt: skip
    table = Table(
        ("fixups on a page", "pages", "share", "share with at most so many"),
        tuple(
            (_range(low, high), count(pages), percent(pages / histogram.pages), percent(share))
            for (low, high, pages), share in zip(histogram.bins, shares, strict=True)
        ),
    )
    frames = (
        _Frame(860, 378, 66, 840, 40, 216, narrow=False),
        _Frame(360, 346, 54, 352, 40, 186, narrow=True),
    )
    drawings = [_draw_fixups(histogram, frame, title, description) for frame in frames]
    return Chart("fixups", title, description, drawings[0], drawings[1], (), table)


def _draw_fixups(histogram: Histogram, frame: _Frame, title: str, description: str) -> str:
    bins = histogram.bins
    most = round_up(max(pages for _, _, pages in bins))
    y = Scale(0, most, frame.bottom, frame.top)
    slot = (frame.right - frame.left) / len(bins)
    parts = [_vertical_axis(frame, y, count, "pages")]
    widest = max(text_width(_range(low, high)) for low, high, _ in bins)
    ranges = widest + 4 < slot
    every = 1 if slot > 28 else max(1, -(-len(bins) * 30 // round(frame.right - frame.left)))
    for index, (low, high, pages) in enumerate(bins):
        left = frame.left + index * slot
        note = element("title", shown(_pages_note(low, high, pages)))
        parts.append(
            element(
                "rect", note, x=left + 1.5, y=y(pages), width=max(slot - 3, 1.0),
                height=frame.bottom - y(pages), class_="pages",
            )
        )  # fmt: skip
        if index % every == 0:
            text = _range(low, high) if ranges else count(low)
            at = left + slot / 2
            parts.append(label(text, at, frame.bottom + 18, "tick", anchor="middle"))
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    below = "fixups on the page" if ranges else "fixups on the page, from"
    parts.append(label(below, frame.right, frame.bottom + 35, "axis-name", anchor="end"))
    parts += _draw_cumulative(histogram, frame, slot)
    return _drawing(frame, "fixups", title, description, *parts)


def _draw_cumulative(histogram: Histogram, frame: _Frame, slot: float) -> list[str]:
    top, bottom = frame.bottom + 66, frame.height - 12
    lower = _Frame(frame.width, frame.height, frame.left, frame.right, top, bottom, frame.narrow)
    y = Scale(0, 1, bottom, top)
    parts = [label("share of pages with at most so many", 2, top - 14, "axis-name")]
    for value in (0.0, 0.5, 1.0):
        parts.append(line(lower.left, y(value), lower.right, y(value), "grid"))
        text = f"{100 * value:.0f} %"
        parts.append(label(text, lower.left - 8, y(value) + 4.5, "tick", anchor="end"))
    points = [(frame.left, y(0))]
    for index, share in enumerate(histogram.cumulative()):
        points.append((frame.left + (index + 1) * slot, y(share)))
    parts.append(path(points, "cumulative"))
    parts += [marker("circle", *point, "cumulative-mark", 3.0) for point in points[1:]]
    return parts


def _pages_note(low: float, high: float, pages: float) -> str:
    fixups = counted(high, "fixup") if low == high else f"{_range(low, high)} fixups"
    return f"{fixups}: {counted(pages, 'page')}"


def _range(low: float, high: float) -> str:
    return count(low) if low == high else f"{count(low)}{TO.strip()}{count(high)}"


# --- swap against the number of processes ---------------------------------------------------------


def sweep_chart(sweep: Sweep, number: int) -> Chart | None:
    """Pages written to swap against the number of processes; None where nothing is to draw."""
    series = [(name, points) for name, points in sweep.series if points]
    counts = sorted({n for _, points in series for n, _ in points})
    if len(counts) < _LEAST_COUNTS or not sweep.swap:
        return None
    where = {"file": "a swapfile", "partition": "a swap partition"}.get(sweep.swap, sweep.swap)
    title = f"Fixed-up pages that N processes sent to {where}"
    description = " ".join(
        f"{name}: " + ", ".join(f"{count(n)} → {count(pages)}" for n, pages in points) + "."
        for name, points in series
    )
    by_name = {name: dict(points) for name, points in series}
    table = Table(
        ("processes", *(f"{name}: pages to swap" for name, _ in series)),
        tuple(
            (
                count(n),
                *(
                    count(by_name[name][n]) if n in by_name[name] else "not known"
                    for name, _ in series
                ),
            )
            for n in counts
        ),
    )
    key = f"sweep{number}"
    frames = (
        _Frame(860, 330, 70, 730, 40, 286, narrow=False),
        _Frame(360, 290, 64, 322, 40, 246, narrow=True),
    )
    drawings = [_draw_sweep(series, counts, frame, key, title, description) for frame in frames]
    legend = tuple((name, name) for name, _ in series)
    return Chart(key, title, description, drawings[0], drawings[1], legend, table)


def _draw_sweep(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    counts: Sequence[float],
    frame: _Frame,
    key: str,
    title: str,
    description: str,
) -> str:
    most = round_up(max(pages for _, points in series for _, pages in points) or 1)
    y = Scale(0, most, frame.bottom, frame.top)
    x = Scale(0, max(counts) or 1, frame.left, frame.right)
    parts = [_vertical_axis(frame, y, count, "pages to swap")]
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    free_from = 0.0
    for n in counts:
        text = count(n)
        if x(n) - text_width(text) / 2 > free_from:
            parts.append(label(text, x(n), frame.bottom + 18, "tick", anchor="middle"))
            free_from = x(n) + text_width(text) / 2 + 2
        parts.append(line(x(n), frame.bottom, x(n), frame.bottom + 5, "axis"))
    parts.append(label("processes", frame.right, frame.bottom + 36, "axis-name", anchor="end"))
    ends = [y(points[-1][1]) for _, points in series]
    places = apart(ends, _LINE_HEIGHT, frame.top, frame.bottom - 2)
    for index, (name, points) in enumerate(series):
        class_ = f"k-{name}" if name in MARKERS else "k-known"
        parts.append(path(((x(n), y(pages)) for n, pages in points), f"way {class_}"))
        size = 4.5 + 1.5 * (len(series) - 1 - index)
        for n, pages in points:
            text = f"{name}, {counted(n, 'process', 'processes')}: {counted(pages, 'page')}"
            note = element("title", shown(text))
            mark = marker(MARKERS.get(name, "circle"), x(n), y(pages), f"mark {class_}", size)
            parts.append(element("g", note, mark))
        start = frame.right + 8
        parts.append(path([(start, ends[index]), (start + 10, places[index])], f"leader {class_}"))
        text = chr(ord("A") + index) if frame.narrow else shortened(name, 110)
        parts.append(label(text, start + 13, places[index] + 4.5, f"name {class_}"))
    return _drawing(frame, key, title, description, *parts)


# --- bars -----------------------------------------------------------------------------------------


def savings_chart(rows: Sequence[Process], key: str, title: str, who: str) -> Chart:
    """Of each: what is dirtied by relocation in all, and in it what mapscratch saves."""
    description = " ".join(
        f"{one.name}: {counted(one.relocated, 'page')} dirtied by relocation, {count(one.saved)} "
        "saved."
        for one in rows
    )
    table = Table(
        (who, "saved by what mapscratch ships", "dirtied by relocation in all"),
        tuple((one.name, _pages(one.saved), _pages(one.relocated)) for one in rows),
    )
    most = max(one.relocated for one in rows)
    bars = [
        (
            one.name,
            one.relocated / most,
            one.saved / most,
            f"{mebibytes(one.saved * PAGE)} of {mebibytes(one.relocated * PAGE)}",
        )
        for one in rows
    ]
    drawings = [_draw_bars(bars, width, key, title, description) for width in (860.0, 360.0)]
    return Chart(key, title, description, drawings[0], drawings[1], (), table)


def kinds_chart(kinds: Sequence[tuple[str, float]]) -> Chart:
    """How many fixups there are of each kind."""
    title = "Fixups by kind of relocation, all libraries"
    total = sum(number for _, number in kinds)
    most = max(number for _, number in kinds)
    rows = tuple((kind, count(number), percent(number / total)) for kind, number in kinds)
    bars = [
        (kind, number / most, 0.0, f"{count(number)}, {percent(number / total)}")
        for kind, number in kinds
    ]
    description = " ".join(f"{kind}: {share}." for kind, _, share in rows)
    drawings = [_draw_bars(bars, width, "kinds", title, description) for width in (860.0, 360.0)]
    table = Table(("kind", "fixups", "share"), rows)
    return Chart("kinds", title, description, drawings[0], drawings[1], (), table)


def _pages(pages: int) -> str:
    return f"{mebibytes(pages * PAGE)} ({counted(pages, 'page')})"


def _draw_bars(
    bars: Sequence[tuple[str, float, float, str]],
    width: float,
    key: str,
    title: str,
    description: str,
) -> str:
    """A bar below its name and its value, so that both have room at any width."""
    row = 40.0
    frame = _Frame(width, len(bars) * row + 4, 2, width - 2, 0, len(bars) * row, width < 500)
    parts = []
    for index, (name, share, inner, value) in enumerate(bars):
        top = index * row
        room = frame.right - frame.left - text_width(value) - 16
        parts.append(label(shortened(name, room), frame.left, top + 15, "bar-name"))
        parts.append(label(value, frame.right, top + 15, "bar-value", anchor="end"))
        length = max((frame.right - frame.left) * share, 1.0)
        bar = {"x": frame.left, "y": top + 21.0, "height": 11.0}
        note = element("title", shown(f"{name}: {value}"))
        parts.append(element("rect", note, **bar, width=length, class_="whole"))
        if inner:
            inside = max((frame.right - frame.left) * inner, 1.5)
            parts.append(element("rect", **bar, width=inside, class_="part"))
    return _drawing(frame, key, title, description, *parts)
