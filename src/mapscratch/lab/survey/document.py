# SPDX-License-Identifier: Apache-2.0
"""A survey for programs: the document of ``mapscratch survey --json``, and a table of values.

Wherever it is told what relocation dirties, it is told beside it what `mapscratch run` saves of it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from mapscratch.documents import Document, document_head
from mapscratch.elf import FixupsPerPage, LibrarySurvey
from mapscratch.lab.survey.processes import HeldFile, ProcessSurvey
from mapscratch.lab.survey.take import Census
from mapscratch.lab.survey.totals import Order, sorted_libraries, sorted_processes, totals

NAME = "mapscratch.survey"
VERSION = 1

_LIBRARY_MEMBERS = (
    "path",
    "file_size",
    "machine",
    "build_id",
    "soname",
    "bind_now",
    "bind_mode",
    "kinds",
    "fixups",
    "dirtied_pages",
    "saved_pages",
    "convertible",
    "not_convertible_because",
    "text_pages",
    "fixups_per_page",
    "relro_pages",
    "relro_dirtied_pages",
    "plt_entries",
    "plt_pages",
)
"""Of `LibrarySurvey`, in this order."""


def survey_document(
    census: Census,
    created: datetime,
    *,
    processes: int | None = None,
    order: Order = "dirtied",
) -> Document:
    """The document of a survey: nothing but what JSON has.

    Args:
        census: what was found.
        created: when, with a time zone.
        processes: adds the totals of so many processes that load all of the libraries.
        order: of libraries and processes.
    """
    whole = totals(census)
    document: Document = {
        **document_head(NAME, VERSION, created),
        "seconds": census.seconds,
        "libraries": [library_document(one) for one in sorted_libraries(census, order)],
        "skipped": [{"path": str(one.path), "reason": one.reason} for one in census.skipped],
        "processes": [_process_document(one) for one in sorted_processes(census, order)],
        "totals": {
            **asdict(whole),
            "fixups_per_page": _per_page(whole.fixups_per_page),
            "pages_by_fixups": _pages_by_fixups(census),
            "window_pages": sum(_window_pages(library) for library in census.libraries),
        },
    }
    if processes is not None:
        document["totals"]["for_processes"] = {
            "processes": processes,
            "dirtied_pages": whole.dirtied_pages * processes,
            "saved_pages": whole.saved_pages * processes,
        }
    return document


def library_document(library: LibrarySurvey) -> Document:
    """One library of a survey document."""
    members = {name: getattr(library, name) for name in _LIBRARY_MEMBERS}
    return {
        **members,
        "path": str(library.path),
        "kinds": dict(library.kinds),
        "fixups_per_page": _per_page(library.fixups_per_page),
    }


def _per_page(found: FixupsPerPage) -> Document:
    return asdict(found) | {"histogram": [list(one) for one in found.histogram]}


def _window_pages(library: LibrarySurvey) -> int:
    """Pages from the first to the last that relocation dirties; 0 if there is none."""
    numbers = library.pages.numbers
    return int(numbers[-1] - numbers[0]) + 1 if len(numbers) else 0


def _pages_by_fixups(census: Census) -> list[list[int]]:
    """For each number of fixups that a page has: the number, and how many pages have so many."""
    pages = [library.pages.fixups for library in census.libraries]
    counted = np.bincount(np.concatenate(pages or [np.empty(0, dtype=np.int64)]))
    return [[int(number), int(counted[number])] for number in np.flatnonzero(counted)]


def _process_document(process: ProcessSurvey) -> Document:
    document: Document = asdict(process)
    del document["files"]
    document["libraries"] = [_held(one) for one in process.files]
    return document


def _held(held: HeldFile) -> Document:
    return {**asdict(held), "path": str(held.path)}


def survey_csv(census: Census, order: Order = "dirtied") -> str:
    """A line for each process if there are any, or else for each library; the first names columns.

    Nested figures have names such as ``kinds.RELATIVE``; lists are left to JSON.
    """
    if census.wanted.has_processes:
        rows = [_flat(_process_document(one)) for one in sorted_processes(census, order)]
    else:
        rows = [_flat(library_document(one)) for one in sorted_libraries(census, order)]
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return output.getvalue()


def _flat(document: Document, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            result.update(_flat(value, f"{prefix}{name}."))
        elif not isinstance(value, list):
            result[prefix + name] = value
    return result
