# SPDX-License-Identifier: Apache-2.0
"""Results for programs: the document of ``mapscratch compare --json`` and its JSON Schema.

``docs/compare-schema.md`` explains it. `VERSION` rises when a program that reads documents would
have to change; figures that are added don't make it rise.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mapscratch.documents import Document, document_head
from mapscratch.lab.compare.verdict import Verdict, judge
from mapscratch.lab.rig.results import (
    FIGURES,
    Comparison,
    LibrarySummary,
    Round,
    Settings,
    Spread,
    SwapDescription,
)

NAME = "mapscratch.compare"
VERSION = 1

Count = Annotated[int, Meta(ge=0)]


class Machine(Struct):
    """Where it was measured."""

    kernel: str  # its release
    architecture: str  # of the machine
    processors: Count  # that the run could use
    page_size: Count  # in bytes


class Result(Struct):
    """One strategy with one number of processes."""

    processes: Count  # how many
    strategy: str  # its name
    rounds: Count  # how many
    # its ``round_trip_us`` over that of ``private`` *in the same round*, so that what slowed the
    # machine down slowed both
    ratio_to_private: Spread | None
    # ``{"median", "minimum", "maximum"}`` of each over the rounds, or null
    figures: dict[str, Spread | None]


class ComparisonDocument(Struct):
    """What ``mapscratch compare --json`` saves."""

    document: Literal["mapscratch.compare"]  # ``"mapscratch.compare"``
    version: Literal[1]  # 1
    mapscratch: str  # the version of the program
    created: datetime  # date and time with time zone, ISO 8601
    machine: Machine  # where it was measured
    settings: Settings  # what was asked for
    seconds: float  # what everything took
    swap: SwapDescription  # where the kernel swapped to
    libraries: list[LibrarySummary]  # what was mapped
    copies: Count  # how often each process mapped the set of libraries
    left_out: dict[str, str]  # strategies that don't run here: name to reason
    notes: list[str]  # sentences: what the reader should know, such as that the time didn't suffice
    # who has said what every word should be: ``readelf``; where that finds less in a library than
    # the file states, ``readelf by section headers`` or ``pyelftools``, and a note says so
    checked_against: list[str]
    results: list[Result]  # one for each number of processes and strategy
    rounds: list[Round]  # each round of each strategy, in the order in which they were made
    wrong_words: Count  # in all rounds; if it is not 0, nothing else counts
    verdict: Verdict  # the answer


def comparison_document(comparison: Comparison, created: datetime) -> Document:
    """The document of a comparison of that time, with its zone: nothing but what JSON has."""
    found: Document = msgspec.json.decode(msgspec.json.encode(comparison, enc_hook=str))
    found["checked_against"] = found.pop("readers")
    derived = {"results": comparison.summaries(), "verdict": judge(comparison)}
    found |= msgspec.to_builtins(derived) | {"wrong_words": comparison.wrong_words}
    found |= document_head(NAME, VERSION, created)
    return {name: found[name] for name in ComparisonDocument.__struct_fields__}


def comparison_schema() -> Document:
    """The JSON Schema (draft 2020-12) of `comparison_document`."""
    schema = msgspec.json.schema(ComparisonDocument, schema_hook=_schema_of_path)
    # Every figure is there, be it null.
    figures = schema["$defs"]["Result"]["properties"]["figures"]
    figures["required"] = list(FIGURES)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _schema_of_path(kind: type) -> dict[str, Any]:
    if not issubclass(kind, Path):
        raise NotImplementedError  # so msgspec is told that a hook doesn't know a type
    return {"type": "string"}
