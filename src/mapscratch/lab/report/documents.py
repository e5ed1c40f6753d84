# SPDX-License-Identifier: Apache-2.0
"""The documents that a page is made from, as far as it shows them.

Each is read with care from a file that anybody may have written: a member of another type ends the
reading with an error of one line that names the file and the member. What is missing, or null, is
not known, and the page says so. No text here is trusted: see `words.printable`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mapscratch.lab.compare.document import ComparisonDocument, Machine
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.document import Figures
from mapscratch.lab.cost.model import ModelError
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
from mapscratch.lab.reading import ReadingError, checked_document, converted, read_json

_VERSION = 1
Count = Annotated[int, Meta(ge=0)]


class Head(Struct, frozen=True, kw_only=True):
    """What all documents have."""

    document: str
    created: datetime
    seconds: float | None = None
    mapscratch: str = ""
    machine: Machine
    left_out: dict[str, str] = {}


class Library(Struct, frozen=True):
    """A library of a survey; pages are those that relocation dirties, and of them saved ones."""

    path: str = ""
    kinds: dict[str, Count] = {}
    dirtied_pages: Count = 0
    saved_pages: Count = 0


class SurveyedProcess(Struct, frozen=True):
    """A process of a survey; pages are private copies of pages with relocations."""

    pid: Count = 0
    command: str = ""
    dirtied_pages: Count = msgspec.field(default=0, name="relocated_pages")
    saved_pages: Count = 0

    @property
    def name(self) -> str:
        """That tells it apart."""
        return f"{self.command or '?'} ({self.pid})"


class Totals(Struct, frozen=True):
    """Of all libraries, and all processes."""

    libraries: Count | None = None
    fixups: Count | None = None
    dirtied_pages: Count | None = None
    saved_pages: Count | None = None
    bind_now_or_no_plt_share: float | None = None
    pages_by_fixups: list[tuple[Count, Count]] = []
    largest_share: float | None = None
    library_median: float | None = None
    library_symbolic_share: float | None = None
    processes: Count | None = None
    relocated_pages: Count | None = None
    relocated_pss_bytes: float | None = None
    saved_pages_in_processes: Count | None = None


class Skipped(Struct, frozen=True):
    """What a survey could not look at."""

    path: str = ""
    reason: str = ""


class Survey(Head, frozen=True, kw_only=True):
    """A ``mapscratch.survey``."""

    libraries: list[Library]
    processes: list[SurveyedProcess] = []
    skipped: list[Skipped] = []
    totals: Totals = Totals()


class Mapping(Struct, frozen=True):
    """Scratch memory of a process."""

    kind: str = ""
    name: str = ""
    engine: str | None = None
    droppable_bytes: float | None = None
    dropped_pages: float | None = None
    rebuilt_pages: float | None = None


class ScratchProcess(Struct, frozen=True):
    """A process that uses scratch memory."""

    pid: Count = 0
    command: str = ""
    problem: str | None = None
    mappings: list[Mapping] = []


class Ps(Head, frozen=True, kw_only=True):
    """A ``mapscratch.ps``."""

    processes: list[ScratchProcess]

    @property
    def uses(self) -> list[tuple[ScratchProcess, Mapping | None]]:
        """Each process with each of its mappings, or with none if it can't be looked at."""
        return [
            (process, one)
            for process in self.processes
            for one in (*([None] if process.problem else []), *process.mappings)
        ]


class Cost(Head, frozen=True, kw_only=True):
    """A ``mapscratch.cost``: its head, and the report that it was made from."""

    report: CostReport


class Bench(Struct, frozen=True):
    """One run of the benchmarks, as ``bench/record.py`` saves it."""

    figures: dict[str, float | tuple[float, float]]
    date: str = ""
    processor: str = ""
    kernel: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """Where and when."""
        return ", ".join(filter(None, (self.processor, self.date))) or "a run"


AnyDocument = Head | ComparisonDocument
KINDS: dict[str, type[AnyDocument]] = {
    "survey": Survey,
    "cost": Cost,
    "compare": ComparisonDocument,
    "ps": Ps,
}
"""By name, without ``mapscratch.``."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What there is to make a page from."""

    all: tuple[AnyDocument, ...] = ()  # one of each kind, but for comparisons
    bench: tuple[Bench, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()  # which could not be made, and why
    commands: tuple[str, ...] = ()  # that made the others

    @property
    def survey(self) -> Survey | None:
        """Fixups of libraries and processes."""
        return next((one for one in self.all if isinstance(one, Survey)), None)

    @property
    def pages(self) -> Distribution | None:
        """The pages of its libraries by their fixups; None without any."""
        try:
            counted = self.survey.totals.pages_by_fixups if self.survey else []
            return distribution_of_survey("the libraries here", counted)
        except ModelError:
            return None

    @property
    def cost(self) -> Cost | None:
        """What was measured of fixups, faults and swap."""
        return next((one for one in self.all if isinstance(one, Cost)), None)

    @property
    def compares(self) -> list[ComparisonDocument]:
        """Each with another swap."""
        return [one for one in self.all if isinstance(one, ComparisonDocument)]

    @property
    def ps(self) -> Ps | None:
        """Who used scratch memory."""
        return next((one for one in self.all if isinstance(one, Ps)), None)


def read_document(path: Path, name: str) -> AnyDocument:
    """Reads the document of a name of `KINDS`; errors are those of `as_document`, and OSError."""
    value = read_json(path, f"what `mapscratch {name} --json` saved")
    return as_document(value, os.fspath(path), name)


def as_document(value: Any, where: str, name: str) -> AnyDocument:
    """A document that was read; `ReadingError` if it is another one, or damaged."""
    checked = checked_document(value, f"mapscratch.{name}", _VERSION, where)
    if name != "cost":
        return converted(checked, KINDS[name], where)
    head, figures = converted(checked, Head, where), converted(checked, Figures, where)
    pages, alternatives = figures.distribution(), figures.alternatives
    try:
        report = CostReport(figures.costs(), pages, alternatives=alternatives)
    except ArithmeticError as error:
        raise ReadingError(f"{where!a}: {error}: measure again") from None
    return Cost(**msgspec.structs.asdict(head), report=report)


def read_bench(path: Path) -> Bench:
    """Reads what ``bench/record.py`` saved; raises as `read_document`."""
    return converted(read_json(path, "a file of bench/results/"), Bench, os.fspath(path))
