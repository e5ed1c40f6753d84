# SPDX-License-Identifier: Apache-2.0
"""The one picture: a line a strategy against the number of processes, or of fixups a page.

It is drawn in plain text, which needs no colour, fits into 80 columns and can do without anything
beyond ASCII, or by matplotlib into a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING

from mapscratch.errors import UserError
from mapscratch.extras import how_to_install
from mapscratch.lab.rig.results import Comparison, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

CHART_FORMATS = (".svg", ".png")
ROWS = 14
"""Of the drawing area of a text chart."""

_STYLES = {"private": "red", "kernel": "magenta", "lazyfree": "green", "dontneed": "blue"}
_COLOURS = {"private": "#c0392b", "kernel": "#8e44ad", "lazyfree": "#1e8449", "dontneed": "#2471a3"}
_MARKERS = {"private": "o", "kernel": "D", "lazyfree": "s", "dontneed": "^"}
# Of swap, where MAP_PRIVATE is drawn against more than one.
_STYLES |= {"swapfile": "red", "swap partition": "red", "zram": "yellow", "zswap": "cyan"}
_COLOURS |= {"swapfile": "#c0392b", "swap partition": "#c0392b", "zram": "#d68910"}
_COLOURS |= {"zswap": "#117a8b"}


_LONGEST_NAMES = 36
"""Characters for the names of lines that end in one row."""
_LEAST_COLUMNS = 16
"""Of a drawing with names beside it; where there are fewer they stand below."""


class ChartError(UserError, ValueError):
    """A chart can't be drawn; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: of the strategy; what stands behind a comma tells lines of one strategy apart.
        points: number of processes (or what else is counted), value; ascending.
    """

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn.

    Attributes:
        title: what the lines are.
        series: the lines.
        note: what is not drawn, and why; or empty.
        unit: what is counted: one of them, and several.
        ticks: the counts that are written below; none: all that a line has a point at.
    """

    title: str
    series: tuple[Series, ...]
    note: str
    unit: tuple[str, str] = ("process", "processes")
    ticks: tuple[int, ...] = ()

    @property
    def counts(self) -> list[int]:
        """What is written below, ascending."""
        return sorted({*self.ticks} or {count for one in self.series for count, _ in one.points})


def chart_of(comparison: Comparison) -> Chart:
    """Pages written to swap against the number of processes; without swap, MiB given back."""
    without_swap = comparison.swap.kind == "none"
    value_of = _mebibytes_given_back if without_swap else _pages_swapped
    series, missing = [], []
    for name in comparison.strategies:
        points = [
            (count, value)
            for count in comparison.processes
            if (value := value_of(comparison.summary(count, name))) is not None
        ]
        if points:
            series.append(Series(name, tuple(points)))
        else:
            missing.append(name)
    title = (
        "MiB of fixed-up pages that N processes gave back, without swap"
        if without_swap
        else f"Fixed-up pages that N processes sent to {comparison.swap.title}"
    )
    note = "".join(
        f"{name}: not applicable (its pages are dropped by us; the kernel is not asked). "
        for name in missing
    ).strip()
    return Chart(title, tuple(series), note)


def _pages_swapped(summary: Summary | None) -> float | None:
    return summary.median("swapped_out_pages") if summary else None


def _mebibytes_given_back(summary: Summary | None) -> float | None:
    """Of the pages with fixups alone: what else is mapped differs from strategy to strategy."""
    if summary is None:
        return None
    pages, kept = summary.median("pages"), summary.median("kept_pages")
    return None if pages is None or kept is None else (pages - kept) * PAGESIZE / (1 << 20)


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of a text chart."""

    vertical: str
    horizontal: str
    corner: str
    tick: str
    line: str
    point: str


UNICODE = Glyphs("│", "─", "└", "┤", "·", "●")
ASCII = Glyphs("|", "-", "+", "+", ".", "o")

Cell = tuple[str, str]
"""A character and the name of its strategy, or nothing."""


def text_chart(
    chart: Chart, *, width: int = 80, height: int = ROWS, glyphs: Glyphs = UNICODE
) -> list[list[Cell]]:
    """Draws a chart in characters.

    Args:
        chart: what.
        width: columns, 40 at least.
        height: rows of the drawing area.
        glyphs: the characters.

    Returns:
        the rows, each a list of pieces of text with the strategy that they belong to.
    """
    counts = chart.counts
    if not chart.series or not counts:
        return [[("(nothing to draw)", "")]]
    top = max((value for one in chart.series for _, value in one.points), default=0) or 1
    labels = _value_labels(top, height)
    gutter = max(map(len, labels.values()))
    names = _side_by_side(_names_by_row(chart, top, height), height)
    below: list[Cell] = []
    room = max(width, 40) - gutter - 3
    columns = room - 2 - max(len(", ".join(found)) for found in names.values())
    if columns < _LEAST_COLUMNS:
        below, names = _names_below(names), {}
        columns = max(room - len(f"{counts[-1]} {chart.unit[1]}"), _LEAST_COLUMNS // 2)
    first, last = counts[0], counts[-1]

    def column(count: float) -> int:
        share = (count - first) / (last - first) if last > first else 0.5
        return round(share * (columns - 1))

    grid: list[list[Cell]] = [[(" ", "")] * columns for _ in range(height)]
    for one in reversed(chart.series):  # The first one, MAP_PRIVATE, on top.
        _draw(grid, one, column, top, glyphs)
    rows: list[list[Cell]] = [[(chart.title, "")], []]
    for row in range(height):
        label = labels.get(row, "")
        axis = glyphs.tick if label else glyphs.vertical
        line: list[Cell] = [(f"{label:>{gutter}} {axis}", ""), *grid[row]]
        for index, name in enumerate(names.get(row, [])):
            line.append((("  " if index == 0 else ", ") + name, name))
        rows.append(line)
    rows.append([(" " * (gutter + 1) + glyphs.corner + glyphs.horizontal * columns, "")])
    rows.append([(" " * (gutter + 2) + _count_labels(counts, column, columns, chart.unit), "")])
    if below:
        rows.append(below)
    if chart.note:
        rows.append([(chart.note, "")])
    return rows


def plain(rows: Sequence[Sequence[Cell]]) -> str:
    """A text chart without colour."""
    return "\n".join("".join(text for text, _ in row).rstrip() for row in rows)


def print_chart(console: Console, chart: Chart) -> None:
    """Prints a text chart, in colour, with the characters that the terminal has."""
    from rich.text import Text

    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    glyphs = UNICODE if unicode else ASCII
    for row in text_chart(chart, width=min(console.width, 100), glyphs=glyphs):
        text = Text()
        for piece, name in row:
            text.append(piece, style=style_of(name))
        text.rstrip()
        console.print(text)


def style_of(name: str) -> str:
    """The terminal's colour for a strategy; empty for none."""
    return _STYLES.get(_strategy(name), "")


def _strategy(name: str) -> str:
    return name.partition(",")[0]


def _row(value: float, top: float, height: int) -> int:
    return height - 1 - round(value / top * (height - 1))


def _value_labels(top: float, height: int) -> dict[int, str]:
    values = [top, top / 2, 0.0]
    decimals = 0 if top >= 10 else 1
    return {_row(value, top, height): f"{value:,.{decimals}f}" for value in values}


def _names_by_row(chart: Chart, top: float, height: int) -> dict[int, list[str]]:
    """Where each line ends; lines that end together share a row."""
    rows: dict[int, list[str]] = {}
    for one in chart.series:
        rows.setdefault(_row(one.points[-1][1], top, height), []).append(one.name)
    return rows


def _side_by_side(rows: dict[int, list[str]], height: int) -> dict[int, list[str]]:
    """The same without rows that are too long: what doesn't fit goes to the nearest free one."""
    fitting: dict[int, list[str]] = {}
    left: list[tuple[int, str]] = []
    for row, names in rows.items():
        fitting[row] = names[:1]
        for name in names[1:]:
            if len(", ".join([*fitting[row], name])) <= _LONGEST_NAMES:
                fitting[row].append(name)
            else:
                left.append((row, name))
    for row, name in left:
        free = [other for other in range(height) if other not in fitting]
        fitting[min(free, key=lambda other: abs(other - row), default=row)] = [name]
    return fitting


def _names_below(rows: dict[int, list[str]]) -> list[Cell]:
    """The names of the lines in the order in which they end."""
    cells: list[Cell] = [("Lines, from the top at their ends: ", "")]
    names = [name for row in sorted(rows) for name in rows[row]]
    for index, name in enumerate(names):
        cells += [("; " if index else "", ""), (name, name)]
    return cells


def _draw(
    grid: list[list[Cell]], one: Series, column: Callable[[float], int], top: float, glyphs: Glyphs
) -> None:
    height = len(grid)
    for (count, value), (next_count, next_value) in zip(one.points, one.points[1:], strict=False):
        start, end = column(count), column(next_count)
        for at in range(start, end + 1):
            share = (at - start) / (end - start) if end > start else 0.0
            between = value + (next_value - value) * share
            grid[_row(between, top, height)][at] = (glyphs.line, one.name)
    for count, value in one.points:
        grid[_row(value, top, height)][column(count)] = (glyphs.point, one.name)


def _count_labels(
    counts: Sequence[int], column: Callable[[float], int], columns: int, unit: tuple[str, str]
) -> str:
    suffix = f" {unit[1] if counts[-1] > 1 else unit[0]}"
    text = [" "] * (columns + len(suffix) + 4)
    free_from = 0
    for count in counts:
        label = str(count)
        at = column(count)
        if at >= free_from:
            text[at : at + len(label)] = label
            free_from = at + len(label) + 1
    at = column(counts[-1]) + len(str(counts[-1]))
    if column(counts[-1]) < free_from:
        text[at : at + len(suffix)] = suffix
    return "".join(text).rstrip()


def check_chart_file(path: Path) -> None:
    """Whether a chart could be saved there, found out before anything is measured.

    Raises:
        ChartError: another format than `CHART_FORMATS`, or matplotlib is not installed.
    """
    if path.suffix.lower() not in CHART_FORMATS:
        raise ChartError(f"{path}: a chart is saved as {' or '.join(CHART_FORMATS)}")
    try:
        import matplotlib.figure  # noqa: F401 - whether it is there
    except ImportError:
        raise ChartError(
            f"drawing a chart into a file takes matplotlib: {how_to_install('chart')}; the "
            "chart in the terminal needs nothing"
        ) from None


def save_chart(chart: Chart, subtitle: str, path: Path) -> None:
    """Draws a chart into a file.

    Args:
        chart: what.
        subtitle: a line below the title: on what it was measured.
        path: where; its suffix is the format.

    Raises:
        ChartError: see `check_chart_file`.
        OSError: the file can't be written.
    """
    check_chart_file(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    # Lines that lie on each other: the later ones are thinner, so that all can be seen.
    for index, one in enumerate(chart.series):
        counts, values = zip(*one.points, strict=True)
        strategy = _strategy(one.name)
        axes.plot(
            counts,
            values,
            label=one.name,
            color=_COLOURS.get(strategy, "#555555"),
            marker=_MARKERS.get(strategy, "o"),
            markersize=max(9 - 2 * index, 3),
            linewidth=max(4 - index, 1),
            clip_on=False,
            zorder=3 + index,
        )
    _name_the_ends(axes, chart)
    axes.set_title(chart.title, loc="left", fontweight="bold", pad=26)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=9, color="#555555")
    axes.set_xlabel(chart.unit[1] + (f"\n{chart.note}" if chart.note else ""))
    axes.set_xticks(chart.counts)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    figure.savefig(path, dpi=150)


def _name_the_ends(axes: Axes, chart: Chart) -> None:
    top = max((value for one in chart.series for _, value in one.points), default=0) or 1
    for names in _names_by_row(chart, top, 16).values():
        ends = [one for one in chart.series if one.name in names]
        axes.annotate(
            ", ".join(names),
            ends[0].points[-1],
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=_COLOURS.get(_strategy(names[0]), "#555555") if len(names) == 1 else "#333333",
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
