# SPDX-License-Identifier: Apache-2.0
"""The one picture: a line a strategy against the number of processes, or of fixups a page.

It is drawn in plain text, which needs no colour, fits into 80 columns and can do without anything
beyond ASCII, or by matplotlib into a file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from mapscratch.errors import UserError
from mapscratch.extras import how_to_install
from mapscratch.lab.rig.results import Comparison, Summary
from mapscratch.terminal import write_file

ROWS = 14  # of the drawing area of a text chart
ASCII = str.maketrans("│─└┤·●", "|-++.o")  # for terminals without Unicode, by `str.translate`

_LOOKS = {
    "private": ("red", "#c0392b", "o"),
    "kernel": ("magenta", "#8e44ad", "D"),
    "lazyfree": ("green", "#1e8449", "s"),
    "dontneed": ("blue", "#2471a3", "^"),
    # Of swap, where MAP_PRIVATE is drawn against more than one.
    "swapfile": ("red", "#c0392b", "o"),
    "swap partition": ("red", "#c0392b", "o"),
    "zram": ("yellow", "#d68910", "o"),
    "zswap": ("cyan", "#117a8b", "o"),
}
"""A colour of terminals, and a colour and a marker of matplotlib's."""
_LONGEST_NAMES = 36  # characters of lines that end in one row
_LEAST_COLUMNS = 16  # of a drawing with names beside it; where there are fewer they stand below
_NOT_APPLICABLE = "not applicable (its pages are dropped by us; the kernel is not asked)."


class ChartError(UserError, ValueError):
    """A chart can't be drawn; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str  # what stands behind a comma in it tells lines of one strategy apart
    points: tuple[tuple[int, float], ...]  # a count (of processes, say) and a value, ascending


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn."""

    title: str  # what the lines are
    series: tuple[Series, ...]  # the lines
    note: str  # what is not drawn, and why; or empty
    unit: tuple[str, str] = ("process", "processes")  # what is counted: one of them, and several
    # the counts that are written below; none: all that a line has a point at
    ticks: tuple[int, ...] = ()

    @property
    def counts(self) -> list[int]:
        """What is written below, ascending."""
        return sorted({*self.ticks} or {count for one in self.series for count, _ in one.points})

    @property
    def top(self) -> float:
        """The largest value, or 1 if there is none but 0."""
        return max((value for one in self.series for _, value in one.points), default=0) or 1

    def names(self, height: int, longest: float = math.inf) -> dict[int, list[str]]:
        """The names of the lines by the row in which they end, or the nearest that has room."""
        ends = {one.name: _row(one.points[-1][1], self.top, height) for one in self.series}
        free = set(range(height)).difference(ends.values())
        names: dict[int, list[str]] = {}
        for name, end in ends.items():
            row = end
            if end in names and len(", ".join([*names[end], name])) > longest:
                row = min(free, key=lambda other: (abs(other - end), other), default=end)
                free.discard(row)
            names.setdefault(row, []).append(name)
        return names


def chart_of(comparison: Comparison) -> Chart:
    """Pages written to swap against the number of processes; without swap, MiB given back."""
    without_swap = comparison.swap.kind == "none"
    title = f"Fixed-up pages that N processes sent to {comparison.swap.title}"
    if without_swap:
        title = "MiB of fixed-up pages that N processes gave back, without swap"
    series = []
    for name in comparison.strategies:
        found = [comparison.summary(count, name) for count in comparison.processes]
        values = [(one.processes, _value(one, without_swap)) for one in found if one]
        points = tuple((count, value) for count, value in values if value is not None)
        series.append(Series(name, points))
    note = " ".join(f"{one.name}: {_NOT_APPLICABLE}" for one in series if not one.points)
    return Chart(title, tuple(one for one in series if one.points), note)


def _value(summary: Summary, without_swap: bool) -> float | None:
    if not without_swap:
        return summary.median("swapped_out_pages")
    # Of the pages with fixups alone: what else is mapped differs from strategy to strategy.
    pages = (summary.median("pages") or 0) - (summary.median("kept_pages") or 0)
    return pages * PAGESIZE / (1 << 20)


def text_chart(chart: Chart, *, width: int = 80, height: int = ROWS) -> list[Text]:
    """Draws a chart in characters, in at least 40 columns."""
    counts = chart.counts
    if not chart.series or not counts:
        return [Text("(nothing to draw)")]
    decimals = 0 if chart.top >= 10 else 1
    values = (chart.top, chart.top / 2, 0.0)
    labels = {_row(value, chart.top, height): f"{value:,.{decimals}f}" for value in values}
    gutter = max(map(len, labels.values()))
    names = chart.names(height, _LONGEST_NAMES)
    room = max(width, 40) - gutter - 3
    columns = room - 2 - max(len(", ".join(found)) for found in names.values())
    below: list[Text] = []
    if columns < _LEAST_COLUMNS:
        ordered = [name for _, found in sorted(names.items()) for name in found]
        below = [Text("Lines, from the top at their ends: ") + _coloured("; ", ordered)]
        names = {}
        columns = max(room - len(f"{counts[-1]} {chart.unit[1]}"), _LEAST_COLUMNS // 2)

    def column(count: float) -> int:
        first, last = counts[0], counts[-1]
        share = (count - first) / (last - first) if last > first else 0.5
        return round(share * (columns - 1))

    rows = [Text(chart.title), Text()]
    for row, cells in enumerate(_drawn(chart, column, columns, height)):
        label = labels.get(row, "")
        line = Text.assemble(f"{label:>{gutter}} {'┤' if label else '│'}", *cells)
        rows.append(line + "  " + _coloured(", ", names.get(row, [])))
    rows.append(Text(" " * (gutter + 1) + "└" + "─" * columns))
    rows.append(Text(" " * (gutter + 2) + _count_labels(chart, column)))
    rows += [*below, Text(chart.note)] if chart.note else below
    for line in rows:
        line.rstrip()
    return rows


def print_chart(console: Console, chart: Chart) -> None:
    """Prints a text chart, in colour, with the characters that the terminal has."""
    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    for line in text_chart(chart, width=min(console.width, 100)):
        line.plain = line.plain if unicode else line.plain.translate(ASCII)
        console.print(line)


def style_of(name: str) -> str:
    """The terminal's colour for a strategy; empty for none."""
    return _looks(name)[0]


def _looks(name: str) -> tuple[str, str, str]:
    return _LOOKS.get(name.partition(",")[0], ("", "#555555", "o"))


def _coloured(between: str, names: Sequence[str]) -> Text:
    return Text(between).join(Text(name, style_of(name)) for name in names)


def _row(value: float, top: float, height: int) -> int:
    return height - 1 - round(value / top * (height - 1))


def _drawn(
    chart: Chart, column: Callable[[float], int], columns: int, height: int
) -> list[list[tuple[str, str]]]:
    """Rows of characters and their styles."""
    grid = [[(" ", "")] * columns for _ in range(height)]
    for one in reversed(chart.series):  # The first one, MAP_PRIVATE, on top.
        style = style_of(one.name)
        at = [column(count) for count, _ in one.points]
        values = [value for _, value in one.points]
        for where in range(at[0], at[-1] + 1):
            between = float(np.interp(where, at, values))
            grid[_row(between, chart.top, height)][where] = ("·", style)
        for where, value in zip(at, values, strict=True):
            grid[_row(value, chart.top, height)][where] = ("●", style)
    return grid


def _count_labels(chart: Chart, column: Callable[[float], int]) -> str:
    """The counts below the drawing, from the last one: those for which there is room."""
    *others, last = chart.counts
    free = column(last)
    line = " " * free + f"{last} {chart.unit[last > 1]}"
    for count in reversed(others):
        label, at = str(count), column(count)
        if at + len(label) < free:
            line = line[:at] + label + line[at + len(label) :]
            free = at
    return line


def check_chart_file(path: Path) -> None:
    """Raises ChartError if no chart could be saved there, before anything is measured."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise ChartError(f"{path}: a chart is saved as .svg or .png")
    try:
        import matplotlib.figure  # noqa: F401 - whether it is there
    except ImportError:
        raise ChartError(
            f"drawing a chart into a file takes matplotlib: {how_to_install('chart')}; the "
            "chart in the terminal needs nothing"
        ) from None


def save_chart(chart: Chart, subtitle: str, path: Path) -> None:
    """Draws a chart into a file of the format that its suffix says; the subtitle says what of."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    # Lines that lie on each other: the later ones are thinner, so that all can be seen.
    for index, one in enumerate(chart.series):
        _, colour, marker = _looks(one.name)
        (line,) = axes.plot(*zip(*one.points, strict=True), color=colour, marker=marker)
        line.set(markersize=max(9 - 2 * index, 3), linewidth=max(4 - index, 1))
        line.set(clip_on=False, zorder=3 + index)
    ends = {one.name: one.points[-1] for one in chart.series}
    beside: dict[str, Any] = {"xytext": (10, 0), "textcoords": "offset points", "va": "center"}
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    for names in chart.names(16).values():
        colour = _looks(names[0])[1] if len(names) == 1 else "#333333"
        name = axes.annotate(", ".join(names), ends[names[0]], color=colour, bbox=white, **beside)
        name.set_annotation_clip(False)
    axes.set_title(chart.title, loc="left", fontweight="bold", pad=26)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=9, color="#555555")
    axes.set_xlabel(f"{chart.unit[1]}\n{chart.note}".rstrip())
    axes.set_xticks(chart.counts)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    write_file(path, drawn.getvalue())
