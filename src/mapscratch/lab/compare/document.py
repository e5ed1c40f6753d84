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
    """Where it was measured.

    Attributes:
        kernel: its release.
        architecture: of the machine.
        processors: that the run could use.
        page_size: in bytes.
    """

    kernel: str
    architecture: str
    processors: Count
    page_size: Count


class Result(Struct):
    """One strategy with one number of processes.

    Attributes:
        processes: how many.
        strategy: its name.
        rounds: how many.
        ratio_to_private: its ``round_trip_us`` over that of ``private`` *in the same round*, so
            that what slowed the machine down slowed both.
        figures: ``{"median", "minimum", "maximum"}`` of each over the rounds, or null.
    """

    processes: Count
    strategy: str
    rounds: Count
    ratio_to_private: Spread | None
    figures: dict[str, Spread | None]


class ComparisonDocument(Struct):
    """What ``mapscratch compare --json`` saves.

    Attributes:
        document: ``"mapscratch.compare"``.
        version: 1.
        mapscratch: the version of the program.
        created: date and time with time zone, ISO 8601.
        machine: where it was measured.
        settings: what was asked for.
        seconds: what everything took.
        swap: where the kernel swapped to.
        libraries: what was mapped.
        copies: how often each process mapped the set of libraries.
        left_out: strategies that don't run here: name to reason.
        notes: sentences: what the reader should know, such as that the time didn't suffice.
        checked_against: who has said what every word should be: ``readelf``; where that finds less
            in a library than the file states, ``readelf by section headers`` or ``pyelftools``, and
            a note says so.
        results: one for each number of processes and strategy.
        rounds: each round of each strategy, in the order in which they were made.
        wrong_words: in all rounds; if it is not 0, nothing else counts.
        verdict: the answer.
    """

    document: Literal["mapscratch.compare"]
    version: Literal[1]
    mapscratch: str
    created: datetime
    machine: Machine
    settings: Settings
    seconds: float
    swap: SwapDescription
    libraries: list[LibrarySummary]
    copies: Count
    left_out: dict[str, str]
    notes: list[str]
    checked_against: list[str]
    results: list[Result]
    rounds: list[Round]
    wrong_words: Count
    verdict: Verdict


def comparison_document(comparison: Comparison, created: datetime) -> Document:
    """The document of a comparison: nothing but what JSON has.

    Args:
        comparison: what was found.
        created: when, with a time zone.
    """
    members = {
        "settings": comparison.settings,
        "seconds": comparison.seconds,
        "swap": comparison.swap,
        "libraries": comparison.libraries,
        "copies": comparison.copies,
        "left_out": comparison.left_out,
        "notes": comparison.notes,
        "checked_against": comparison.readers,
        "results": comparison.summaries(),
        "rounds": comparison.rounds,
        "wrong_words": comparison.wrong_words,
        "verdict": judge(comparison),
    }
    plain: Document = msgspec.json.decode(msgspec.json.encode(members, enc_hook=str))
    return document_head(NAME, VERSION, created) | plain


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
