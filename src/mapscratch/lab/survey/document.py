# SPDX-License-Identifier: Apache-2.0
"""A survey for programs: the document of ``mapscratch survey --json``, and a table of values."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from mapscratch.documents import Document, document_head
from mapscratch.elf import LibrarySurvey
from mapscratch.lab.survey.census import Census, ProcessSurvey
from mapscratch.lab.survey.totals import totals

NAME = "mapscratch.survey"
VERSION = 1

_LIBRARY_MEMBERS = (
    "path file_size machine build_id soname bind_now bind_mode kinds fixups dirtied_pages "
    "saved_pages convertible not_convertible_because text_pages fixups_per_page relro_pages "
    "relro_dirtied_pages plt_entries plt_pages"
)
"""Of `LibrarySurvey`, in this order."""


def survey_document(census: Census, created: datetime, processes: int | None = None) -> Document:
    """The document of a survey that was made then (with a time zone): nothing but what JSON has.

    A number of processes adds the totals of so many that load all of the libraries.
    """
    whole: Document = _plain(totals(census))
    if processes is not None:
        pages = {name: whole[name] * processes for name in ("dirtied_pages", "saved_pages")}
        whole["for_processes"] = {"processes": processes, **pages}
    return {
        **document_head(NAME, VERSION, created),
        "seconds": census.seconds,
        "libraries": [_library(one) for one in census.libraries],
        "skipped": _plain(census.skipped),
        "processes": _plain(census.processes),
        "totals": whole,
    }


def survey_csv(found: Sequence[LibrarySurvey | ProcessSurvey]) -> str:
    """A line for each library or process; the first names columns.

    Nested figures have names such as ``kinds.RELATIVE``; lists are left to JSON.
    """
    rows = [
        _flat(_library(one) if isinstance(one, LibrarySurvey) else _plain(one)) for one in found
    ]
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return output.getvalue()


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, enc_hook=os.fspath)


def _library(library: LibrarySurvey) -> Document:
    document: Document = _plain({name: getattr(library, name) for name in _LIBRARY_MEMBERS.split()})
    return document


def _flat(document: Document, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            result.update(_flat(value, f"{prefix}{name}."))
        elif not isinstance(value, (list, tuple)):
            result[prefix + name] = value
    return result
