# SPDX-License-Identifier: Apache-2.0
"""The diagnosis: what works, what ordinary mappings get, and what to do about the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.comparisons import NO_SWAP, SWAPFILE, ZRAM

from mapscratch.doctor import command as module
from mapscratch.doctor.answers import Answer
from mapscratch.doctor.command import (
    diagnose,
    diagnosis_document,
    diagnosis_lines,
    ordinary_mapping,
)
from mapscratch.proc import MemoryCgroup

HERE = replace(diagnose(), swap_forbidden="")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"swap": NO_SWAP}, "can't be reclaimed at all here: no swap."),
        ({"swap": SWAPFILE}, "are written to swap here, once for every process: a swapfile"),
        ({"swap": ZRAM}, "are compressed into memory here"),
        ({"swap": replace(SWAPFILE, free=0)}, "can't be reclaimed now: swap (a swapfile"),
        (
            {"swap": SWAPFILE, "swap_forbidden": "memory.swap.max is 0"},
            "can't be reclaimed at all here: there is swap, but memory.swap.max is 0",
        ),
    ],
)
def test_what_an_ordinary_mapping_gets(changes, expected):
    diagnosis = replace(HERE, **changes)
    assert expected in ordinary_mapping(diagnosis)
    assert ordinary_mapping(diagnosis) in diagnosis_lines(diagnosis)


def test_what_works_comes_first():
    answers = (
        Answer("mapscratch.array", True, "it is read."),
        Answer("mapscratch.Cache", False, "Forbidden", "Allow it"),
    )
    lines = list(diagnosis_lines(replace(HERE, answers=answers)))
    assert lines[:5] == [
        "What works here",
        "  mapscratch.array      yes: it is read.",
        "  mapscratch.Cache      no: Forbidden.",
        "                        Allow it.",
        "",
    ]
    assert diagnosis_document(replace(HERE, answers=answers))["answers"][1] == {
        "subject": "mapscratch.Cache",
        "works": False,
        "why": "Forbidden",
        "remedy": "Allow it",
    }


def test_an_engine_that_does_not_run_is_told_with_the_remedy():
    engine = replace(HERE.engines[1], available=False, reason="Forbidden.", remedy="Allow it.")
    lines = list(diagnosis_lines(replace(HERE, engines=(engine,))))
    at = lines.index("  lazyfree  does not run: Forbidden.")
    assert lines[at + 1].strip() == "Allow it."


def test_no_control_group_and_no_limit():
    lines = "\n".join(diagnosis_lines(replace(HERE, cgroup=None, locked_limit=None)))
    assert "none can be seen from here" in lines
    assert "no limit" in lines


@pytest.mark.parametrize(
    ("version", "file", "content", "forbidden"),
    [
        (1, "memory.swappiness", "0\n", True),
        (1, "memory.swappiness", "60\n", False),
        (2, "memory.swap.max", "0\n", True),
        (2, "memory.swap.max", "max\n", False),
        (2, "../memory.swap.max", "0\n", True),
        (2, "other", "0\n", False),
    ],
)
def test_a_group_that_may_not_swap(tmp_path, version, file, content, forbidden):
    directory = Path(tmp_path, "above", "own")
    directory.mkdir(parents=True)
    directory.joinpath(file).write_text(content)
    group = MemoryCgroup(version, "/above/own", tmp_path, directory)
    assert bool(module._swap_forbidden(group)) == forbidden


def test_no_group_forbids_nothing():
    assert module._swap_forbidden(None) == ""
