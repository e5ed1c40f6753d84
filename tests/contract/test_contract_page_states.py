# SPDX-License-Identifier: Apache-2.0
"""The table of page states: complete, consistent, and what the documentation says."""

from __future__ import annotations

import importlib
import re

import pytest
from support.places import TREE

from mapscratch import _native

STATES = _native.page_states()
TRANSITIONS = _native.page_transitions()
ENGINES = ("lazyfree", "dontneed", "kernel")
DOCUMENT = TREE / "docs" / "page-states.md"
# What only one engine has: a page of it is made by us, and armed by us.
ONLY_LAZYFREE = {"filling", "armed"}


def table(engine: str) -> dict[tuple[str, str], str]:
    return {(origin, event): to for name, origin, event, to in TRANSITIONS if name == engine}


def test_every_row_is_of_known_states_and_unambiguous() -> None:
    assert {engine for engine, *_ in TRANSITIONS} == set(ENGINES)
    for _, origin, _, to in TRANSITIONS:
        assert {origin, to} <= set(STATES)
    for engine in ENGINES:
        rows = [row for row in TRANSITIONS if row[0] == engine]
        assert len(table(engine)) == len(rows), "one event leads to one state"
    assert all(STATES.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_state_is_reached_and_left(engine: str) -> None:
    rows = table(engine)
    reached = {"file"}
    while True:
        further = reached | {to for (origin, _), to in rows.items() if origin in reached}
        if further == reached:
            break
        reached = further
    assert reached == set(STATES) - (set() if engine == "lazyfree" else ONLY_LAZYFREE)
    assert {origin for origin, _ in rows} == reached


@pytest.mark.parametrize("engine", ENGINES)
def test_the_contract_is_in_the_table(engine: str) -> None:
    rows = table(engine)
    # C5: nothing takes a pinned page but the release of its last pin.
    assert {event for origin, event in rows if origin == "pinned"} == {
        "store",
        "release of the last pin",
    }
    # C3: what is dropped shows the file at a touch, by whatever way.
    for (origin, event), to in rows.items():
        if to == "dropped":
            assert event in ("drop by us", "reclaim by the kernel")
            assert origin in ("clean", "dirty", "armed")
    # Every page that is in memory can be dropped by us, unless it is pinned.
    for state in set(rows.values()) & {"clean", "dirty", "armed"}:
        assert rows[state, "drop by us"] == "dropped"
        assert rows[state, "pin"] == "pinned"
        assert rows[state, "store"] == "dirty"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engines_docstring_tells_the_table(engine: str) -> None:
    text = importlib.import_module(f"mapscratch.engine.{engine}").__doc__ or ""
    lines = [line for line in text.splitlines() if re.search(r"--.+-->", line)]
    assert lines
    rows = table(engine)
    for line in lines:
        parts = re.split(r"\s*--(.+?)-->\s*", line.strip())
        for origins, events, to in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            for origin in origins.split(", "):
                for event in re.split(r", or ", events):
                    leads_to = {
                        rows[row]
                        for row in rows
                        if row[0] == origin and (row[1].startswith(event) or event in row[1])
                    }
                    assert to.split(", ")[0] in leads_to, (origin, event, to)


def test_the_document_tells_the_table() -> None:
    if not DOCUMENT.exists():
        pytest.skip(f"{DOCUMENT.name} is not written yet")
    text = DOCUMENT.read_text()
    for state, meaning in STATES.items():
        assert state in text
        assert meaning in text
    for _, origin, event, to in TRANSITIONS:
        assert any(
            all(word in line for word in (origin, event, to)) for line in text.splitlines()
        ), (origin, event, to)
