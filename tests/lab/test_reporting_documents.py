# SPDX-License-Identifier: Apache-2.0
"""What is saved for programs is what the schema and the documentation say."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from support.comparisons import NO_SWAP, make_comparison, make_round
from support.golden import drawn_on, plain_console
from support.places import TREE

from mapscratch.doctor.command import diagnose, diagnosis_document, diagnosis_lines
from mapscratch.lab.compare.document import comparison_document, comparison_schema
from mapscratch.lab.compare.terminal import _LINES, print_comparison
from mapscratch.lab.rig.results import FIGURES

jsonschema = pytest.importorskip("jsonschema")

CREATED = datetime(2026, 2, 3, 17, 57, 5, tzinfo=UTC)
DOCUMENTATION = TREE / "docs" / "compare-schema.md"
NAMES = ("private", "lazyfree", "dontneed")
FULL = make_comparison(*(make_round(name, count) for count in (1, 2) for name in NAMES))


def validate(document):
    schema = comparison_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize(
    "comparison",
    [
        FULL,
        make_comparison(),
        make_comparison(make_round("private", round_trip_us=None), swap=NO_SWAP),
        make_comparison(make_round("dontneed"), notes=("one",)),
    ],
)
def test_documents_follow_the_schema(comparison):
    text = json.dumps(comparison_document(comparison, CREATED), allow_nan=False)
    validate(json.loads(text))


def test_the_schema_finds_mistakes():
    document = comparison_document(FULL, CREATED)
    del document["results"][0]["figures"]["swapped_out_pages"]
    with pytest.raises(jsonschema.ValidationError, match="swapped_out_pages"):
        validate(document)
    document = comparison_document(FULL, CREATED)
    document["rounds"][0]["pages"] = "many"
    with pytest.raises(jsonschema.ValidationError, match="many"):
        validate(document)


def test_what_is_not_known_is_null_and_not_0():
    document = comparison_document(FULL, CREATED)
    by_us = next(one for one in document["results"] if one["strategy"] == "dontneed")
    assert by_us["figures"]["swapped_out_pages"] is None
    assert by_us["figures"]["dropped_by_us_pages"]["median"] == 100
    private = next(one for one in document["results"] if one["strategy"] == "private")
    assert private["figures"]["file_bytes_read"] is None


def test_ratios_are_to_private():
    document = comparison_document(FULL, CREATED)
    ratios = {
        one["strategy"]: one["ratio_to_private"]["median"]
        for one in document["results"]
        if one["processes"] == 2
    }
    assert ratios == pytest.approx({"private": 1.0, "lazyfree": 8 / 30, "dontneed": 0.4})


def test_every_member_is_documented():
    text = DOCUMENTATION.read_text()
    assert not [name for name in FIGURES if f"`{name}`" not in text]
    kinds = comparison_schema()["$defs"].values()
    names = [name for kind in kinds for name in kind.get("properties", {})]
    assert not [name for name in names if f"`{name}`" not in text and f'"{name}"' not in text]


def test_the_verbose_table_has_every_figure():
    assert {name for _, name, *_ in _LINES} == set(FIGURES) - {"fixups", "asked_bytes",
        "given_back_bytes", "seconds"}  # fmt: skip


def test_the_spread_is_shown():
    rounds = [
        make_round("private", number=number, round_trip_us=value)
        for number, value in enumerate((9.0, 10.0, 13.0), 1)
    ]
    console = plain_console()
    print_comparison(console, make_comparison(*rounds), verbose=True)
    assert "10.0 ±20%" in drawn_on(console)


def test_a_diagnosis_as_text_and_document_says_the_same():
    diagnosis = diagnose()
    document = json.loads(json.dumps(diagnosis_document(diagnosis)))
    lines = list(diagnosis_lines(diagnosis))
    assert document["ordinary_mapping"] in lines
    assert [engine["name"] for engine in document["engines"]] == ["kernel", "lazyfree", "dontneed"]
    for engine in document["engines"]:
        assert any(engine["reason"] in line for line in lines)
