# SPDX-License-Identifier: Apache-2.0
"""Documents from files that anybody may have written: read with care, or refused in one line.

A document is walked through by `Node`, which knows where it is. A member that is missing, or null,
is not known, and whoever shows it says so; one of another kind than expected ends the reading with
an error that names the file and the member. Nothing here trusts a text: see `page_svg.shown`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapscratch.errors import UserError
from mapscratch.lab.reading import LARGEST_NUMBER, checked_document, read_json

NAMES = ("mapscratch.survey", "mapscratch.cost", "mapscratch.compare", "mapscratch.ps")
"""The documents that a page is made from."""

_LISTS = {
    "mapscratch.survey": ("libraries",),
    "mapscratch.cost": ("measurements", "lines"),
    "mapscratch.compare": ("results",),
    "mapscratch.ps": ("processes",),
}
"""What each has at least, if only without an item."""
_VERSION = 1
_LONGEST_NAME = 60


class ReportError(UserError, ValueError):
    """A report can't be made; the message says what is wrong with which file."""


@dataclass(frozen=True, slots=True)
class Node:
    """An object in a document.

    Attributes:
        values: its members.
        where: the file, and the way from the document's top to here: for errors.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def number(self, name: str) -> float | None:
        """A finite number; None if it is not known."""
        value = self.values.get(name)
        return None if value is None else self._checked(value, name)

    def count(self, name: str) -> int:
        """A number of things that are counted: 0 if there is none."""
        value = self.number(name) or 0.0
        if value < 0:
            raise self._error(name, "a count")
        return round(value)

    def text(self, name: str) -> str:
        """A text; empty if there is none."""
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._error(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        """Whether it is so; what is not known is not so."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._error(name, "true or false")
        return bool(value)

    def child(self, name: str) -> Node:
        """An object; one without members if there is none."""
        value = self.values.get(name)
        if value is None:
            return Node({}, self._at(name))
        if not isinstance(value, dict):
            raise self._error(name, "an object")
        return Node(value, self._at(name))

    def children(self, name: str) -> list[Node]:
        """A list of objects; empty if there is none."""
        found = []
        for index, value in enumerate(self._list(name)):
            if not isinstance(value, dict):
                raise self._error(f"{name}[{index}]", "an object")
            found.append(Node(value, self._at(f"{name}[{index}]")))
        return found

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty if there is none."""
        values = self._list(name)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self._error(f"{name}[{index}]", "a text")
        return values

    def rows(self, name: str, width: int) -> list[list[float]]:
        """A list of rows of numbers, each at least so wide; empty if there is none."""
        rows = []
        for index, row in enumerate(self._list(name)):
            at = f"{name}[{index}]"
            if not isinstance(row, list) or len(row) < width:
                raise self._error(at, f"a row of {width} numbers")
            rows.append([self._checked(value, at) for value in row[:width]])
        return rows

    def number_list(self, name: str) -> list[float]:
        """A list of numbers; empty if there is none."""
        return [
            self._checked(value, f"{name}[{index}]") for index, value in enumerate(self._list(name))
        ]

    def numbers(self) -> dict[str, float]:
        """The members that are numbers, in their order."""
        return {
            name: self._checked(value, name)
            for name, value in self.values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def reasons(self, name: str) -> dict[str, str]:
        """An object whose members are texts, such as ``left_out``; empty if there is none."""
        inner = self.child(name)
        return {key: inner.text(key) for key in inner.values}

    def _list(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(name, "a list")
        return value

    def _checked(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(name, "a number")
        # An integer beyond the largest float can't even be compared as one.
        if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER or math.isnan(value):
            raise self._error(name, "a number that makes sense")
        return float(value)

    def _at(self, name: str) -> str:
        return f"{self.where}.{name}"

    def _error(self, name: str, expected: str) -> ReportError:
        if len(name) > _LONGEST_NAME:
            name = name[:_LONGEST_NAME] + "..."
        return ReportError(f"{self._at(name)!a} is not {expected}: was this file changed by hand?")


def read_document(path: Path, expected: str) -> Node:
    """Reads a document.

    Args:
        path: of its file.
        expected: its name, of `NAMES`.

    Raises:
        ReadingError: the file can't be read as JSON, or holds no such document; the message says
            what it holds.
        ReportError: the document is damaged.
        OSError: it can't be read.
    """
    name = expected.rpartition(".")[2]
    value = read_json(path, f"what `mapscratch {name} --json` saved")
    return as_document(value, os.fspath(path), expected)


def as_document(value: Any, where: str, expected: str) -> Node:
    """A document that was read; its name and version are checked.

    Raises:
        ReadingError: it is another one, or of another version.
        ReportError: it lacks what each has.
    """
    checked = checked_document(value, expected, _VERSION, where)
    for name in _LISTS[expected]:
        if checked.get(name) is None:
            raise ReportError(f"{where}: no {name!a} in it: make the {expected} again")
    return Node(checked, where)
