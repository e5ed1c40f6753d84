# SPDX-License-Identifier: Apache-2.0
"""The documents that a page is made from, as far as it shows them.

Each is read with care from a file that anybody may have written: a member of another type ends the
reading with an error of one line that names the file and the member. What is missing, or null, is
not known, and the page says so. No text here is trusted: see `words.printable`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from mapscratch.lab.cost.answer import CostReport, cost_report
from mapscratch.lab.cost.document import Figures
from mapscratch.lab.reading import ReadingError, checked_document, converted, read_json
from mapscratch.lab.rig.results import Spread

_VERSION = 1

Count = Annotated[int, Meta(ge=0)]
T = TypeVar("T")


class Machine(Struct, frozen=True):
    """Where a document was made."""

    kernel: str = ""
    architecture: str = ""
    processors: Count | None = None
    page_size: Count | None = None


class Head(Struct, frozen=True, kw_only=True):
    """What all documents have."""

    document: str
    created: str = ""
    seconds: float | None = None
    mapscratch: str = ""
    machine: Machine = Machine()
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
    relocated_pages: Count = 0
    saved_pages: Count = 0


class FixupsPerPage(Struct, frozen=True):
    """Fixups a page, over pages that have any; bins are fewest and most fixups, and pages."""

    median: float | None = None
    p95: float | None = None
    maximum: float | None = None
    mean: float | None = None
    histogram: Annotated[list[tuple[Count, Count, Count]], Meta(max_length=64)] = []


class Totals(Struct, frozen=True):
    """Of all libraries, and all processes."""

    libraries: Count | None = None
    fixups: Count | None = None
    dirtied_pages: Count | None = None
    saved_pages: Count | None = None
    bind_now_or_no_plt_share: float | None = None
    fixups_per_page: FixupsPerPage = FixupsPerPage()
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


class Swap(Struct, frozen=True):
    """Where a comparison's pages were swapped to."""

    kind: str = "none"
    zswap: bool | None = None


class Settings(Struct, frozen=True):
    """What a comparison was asked for."""

    swap: str = ""


class Result(Struct, frozen=True):
    """One strategy with one number of processes."""

    processes: Count = 0
    strategy: str = ""
    figures: dict[str, Spread | None] = {}

    def median(self, name: str) -> float | None:
        """Of one figure; None where it is not known."""
        spread = self.figures.get(name)
        return spread.median if spread else None


class Verdict(Struct, frozen=True):
    """What a comparison says in the end."""

    sentence: str = ""
    scratch: str | None = None
    fixups_per_page: float | None = None
    fixup_ns: float | None = None
    scratch_us: float | None = None
    swap_us: float | None = None


class Compare(Head, frozen=True, kw_only=True):
    """A ``mapscratch.compare``."""

    results: list[Result]
    swap: Swap = Swap()
    settings: Settings = Settings()
    verdict: Verdict = Verdict()
    notes: list[str] = []
    wrong_words: Count = 0

    @property
    def swapped_to(self) -> str:
        """``file``, ``partition``, ``zram`` or ``zswap``; empty for nowhere."""
        kind = self.swap.kind
        if self.swap.zswap and kind in ("file", "partition"):
            return "zswap"
        return kind if kind in ("file", "partition", "zram") else ""


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


@dataclass(frozen=True, slots=True)
class Documents:
    """What there is to make a page from; None and empty for what there is not.

    Attributes:
        survey: fixups of libraries and processes.
        cost: what was measured of fixups, faults and swap.
        compares: each with another swap.
        ps: who used scratch memory.
        bench: runs of the benchmarks, of arrays and `Cache`.
        missing: name of a document, and why it could not be made.
        commands: command lines that made them, in order.
    """

    survey: Survey | None = None
    cost: Cost | None = None
    compares: tuple[Compare, ...] = ()
    ps: Ps | None = None
    bench: tuple[Bench, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()

    def all(self) -> list[Head]:
        """The documents that there are."""
        return [one for one in (self.survey, self.cost, *self.compares, self.ps) if one]


KINDS: dict[str, type[Head]] = {"survey": Survey, "cost": Cost, "compare": Compare, "ps": Ps}
"""By name, without ``mapscratch.``."""


def documents_of(
    found: Iterable[Head],
    *,
    bench: tuple[Bench, ...] = (),
    missing: tuple[tuple[str, str], ...] = (),
    commands: tuple[str, ...] = (),
) -> Documents:
    """The documents by their kinds; but for comparisons there is one of each."""
    given = list(found)

    def one(kind: type[T]) -> T | None:
        return next((document for document in given if isinstance(document, kind)), None)

    compares = tuple(document for document in given if isinstance(document, Compare))
    return Documents(one(Survey), one(Cost), compares, one(Ps), bench, missing, commands)


def read_document(path: Path, name: str) -> Head:
    """Reads a document.

    Args:
        path: of its file.
        name: of `KINDS`.

    Raises:
        ReadingError: the file can't be read as JSON, or holds no such document, or a damaged one;
            the message says what it holds.
        OSError: it can't be read.
    """
    value = read_json(path, f"what `mapscratch {name} --json` saved")
    return as_document(value, os.fspath(path), name)


def as_document(value: Any, where: str, name: str) -> Head:
    """A document that was read; its name, its version and its members' types are checked.

    Raises:
        ReadingError: it is another one, or of another version, or damaged.
    """
    checked = checked_document(value, f"mapscratch.{name}", _VERSION, where)
    if name != "cost":
        return converted(checked, KINDS[name], where)
    head, figures = converted(checked, Head, where), converted(checked, Figures, where)
    try:
        report = cost_report(
            figures.costs(), figures.distribution(), alternatives=figures.alternatives
        )
    except ArithmeticError as error:
        raise ReadingError(f"{where!a}: {error}: measure again") from None
    return Cost(**msgspec.structs.asdict(head), report=report)


def read_bench(path: Path) -> Bench:
    """Reads what ``bench/record.py`` saved.

    Raises:
        ReadingError: the file can't be read as JSON, or is something else.
        OSError: it can't be read.
    """
    return converted(read_json(path, "a file of bench/results/"), Bench, os.fspath(path))
