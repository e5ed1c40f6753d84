# SPDX-License-Identifier: Apache-2.0
"""Results for programs: the document of ``mapscratch compare --json`` and its JSON Schema.

``docs/compare-schema.md`` explains it. `VERSION` rises when a program that reads documents would
have to change; figures that are added don't make it rise.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from mapscratch.documents import Document, document_head
from mapscratch.lab.compare.verdict import Case, Verdict, judge
from mapscratch.lab.rig.results import (
    FIGURES,
    Comparison,
    LibrarySummary,
    Round,
    Spread,
    Summary,
    SwapDescription,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NAME = "mapscratch.compare"
VERSION = 1


def comparison_document(comparison: Comparison, created: datetime) -> Document:
    """The document of a comparison: nothing but what JSON has.

    Args:
        comparison: what was found.
        created: when, with a time zone.
    """
    settings = comparison.settings
    return {
        **document_head(NAME, VERSION, created),
        "settings": {
            "processes": list(settings.processes),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "strategies": list(settings.strategies),
            "pressure": settings.pressure,
            "swap": settings.swap,
            "pages": settings.pages,
        },
        "seconds": comparison.seconds,
        "swap": _fields(comparison.swap),
        "libraries": [_fields(library) for library in comparison.libraries],
        "copies": comparison.copies,
        "left_out": dict(comparison.left_out),
        "notes": list(comparison.notes),
        "checked_against": list(comparison.readers),
        "results": [_result(summary) for summary in comparison.summaries()],
        "rounds": [_fields(one) for one in comparison.rounds],
        "wrong_words": comparison.wrong_words,
        "verdict": _fields(judge(comparison)),
    }


def _fields(record: DataclassInstance) -> Document:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }


def _result(summary: Summary) -> Document:
    return {
        "processes": summary.processes,
        "strategy": summary.strategy,
        "rounds": summary.rounds,
        "ratio_to_private": _spread(summary.ratio_to_private),
        "figures": {name: _spread(summary.figures[name]) for name in FIGURES},
    }


def _spread(spread: Spread | None) -> Document | None:
    return _fields(spread) if spread else None


# --- the schema, from the same types ------------------------------------------------------------

_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", Path: "string"}


def _schema_of_type(hint: Any) -> Document:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        kinds = [_JSON_TYPES[one] for one in arguments if one is not type(None)]
        return {"type": [*kinds, "null"]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of_type(arguments[1])}
    if arguments:  # Literal
        return {"enum": list(arguments)}
    return {"type": _JSON_TYPES[hint]}


def _schema_of_record(record: type[DataclassInstance]) -> Document:
    hints = get_type_hints(record)
    return _object({field.name: _schema_of_type(hints[field.name]) for field in fields(record)})


def _object(properties: dict[str, Document]) -> Document:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Document) -> Document:
    return {"type": "array", "items": items}


_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0}
_SPREAD = {
    "type": ["object", "null"],
    "required": ["median", "minimum", "maximum"],
    "properties": {name: {"type": "number"} for name in ("median", "minimum", "maximum")},
}


def comparison_schema() -> Document:
    """The JSON Schema (draft 2020-12) of `comparison_document`."""
    verdict = _schema_of_record(Verdict)
    verdict["properties"]["case"] = {"enum": list(get_args(Case))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{NAME}, version {VERSION}",
        **_object(
            {
                "document": {"const": NAME},
                "version": {"const": VERSION},
                "mapscratch": _STRING,
                "created": {"type": "string", "format": "date-time"},
                "machine": _object(
                    {
                        "kernel": _STRING,
                        "architecture": _STRING,
                        "processors": _COUNT,
                        "page_size": _COUNT,
                    }
                ),
                "settings": _object(
                    {
                        "processes": _list({"type": "integer", "minimum": 1}),
                        "rounds": {"type": "integer", "minimum": 1},
                        "seconds": _SECONDS,
                        "strategies": _list(_STRING),
                        "pressure": {"enum": ["pageout", "cgroup"]},
                        "swap": {"enum": ["none", "auto", "file", "zram", "zswap"]},
                        "pages": {"type": "integer", "minimum": 1},
                    }
                ),
                "seconds": _SECONDS,
                "swap": _schema_of_record(SwapDescription),
                "libraries": _list(_schema_of_record(LibrarySummary)),
                "copies": {"type": "integer", "minimum": 1},
                "left_out": {"type": "object", "additionalProperties": _STRING},
                "notes": _list(_STRING),
                "checked_against": _list(_STRING),
                "results": _list(
                    _object(
                        {
                            "processes": {"type": "integer", "minimum": 1},
                            "strategy": _STRING,
                            "rounds": {"type": "integer", "minimum": 1},
                            "ratio_to_private": _SPREAD,
                            "figures": _object(dict.fromkeys(FIGURES, _SPREAD)),
                        }
                    )
                ),
                "rounds": _list(_schema_of_record(Round)),
                "wrong_words": _COUNT,
                "verdict": verdict,
            }
        ),
    }
