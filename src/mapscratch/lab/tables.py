# SPDX-License-Identifier: Apache-2.0
"""Tables of figures in the terminal. However narrow it is, a figure is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

_BETWEEN = 2  # spaces between columns
_LEAST_LABEL = 10  # longer names give way


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    cells: Sequence[str]
    style: str = ""  # rich's
    breaks: bool = True  # a space in a cell is where it may go on in another line

    @property
    def narrowest(self) -> int:
        """Characters of the longest word, or of the longest cell, if it is one figure."""
        if not self.breaks:
            return self.widest
        return max(map(len, " ".join((self.title, *self.cells)).split()), default=1)

    @property
    def widest(self) -> int:
        """Characters of the longest cell."""
        return max(map(len, (self.title, *self.cells)))


def print_table(console: Console, labels: Sequence[Column], figures: Sequence[Column]) -> None:
    """Prints a table; columns for which there is no room follow in another with the same labels."""
    left = list(figures)
    while left:
        count = len(left)
        while count > 1 and _width(labels, left[:count]) > console.width:
            count -= 1
        console.print(_table(labels, left[:count], console.width))
        left = left[count:]
        if left:
            console.print()


def _width(labels: Sequence[Column], figures: Sequence[Column]) -> int:
    """Of the narrowest table with whole figures."""
    names = sum(min(one.narrowest, _LEAST_LABEL) for one in labels)
    between = _BETWEEN * (len(labels) + len(figures) - 1)
    return names + sum(one.narrowest for one in figures) + between


def _table(labels: Sequence[Column], figures: Sequence[Column], room: int) -> Table:
    columns = (*labels, *figures)
    is_narrow = sum(one.widest + _BETWEEN for one in columns) - _BETWEEN > room
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    for one in labels:
        table.add_column(one.title, overflow="fold", style=one.style)
    for one in figures:
        width = one.narrowest if is_narrow else None
        table.add_column(one.title, justify="right", style=one.style, width=width)
    for cells in zip(*(one.cells for one in columns), strict=True):
        table.add_row(*cells)
    return table
