# SPDX-License-Identifier: Apache-2.0
"""The figures in the documents are those of the runs that are kept."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.places import TREE


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    return imported("measured")


def imported(name: str) -> ModuleType:
    sys.path.insert(0, str(TREE / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_documents_hold_what_is_generated() -> None:
    generate = imported("generate")
    stale = [
        str(path.relative_to(TREE))
        for path, text in generate.generated()
        if path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "make docs"


def test_every_run_says_where_and_when() -> None:
    paths = sorted((TREE / "bench" / "results").glob("*.json"))
    assert len(paths) > 1, "a figure has to hold on more than one machine"
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        assert re.match(r"20\d\d-\d\d", run["date"]), path
        assert run["processor"], path
        assert run["kernel"], path
        assert run["figures"], path


def test_every_row_has_a_figure(measured: ModuleType) -> None:
    known = {key for run in measured.read_runs() for key in run.figures}
    wanted = {shown.key for row in measured.ROWS for shown in row.figures}
    assert wanted <= known


def test_a_range_is_the_least_and_the_greatest_of_all_runs(
    measured: ModuleType, tmp_path: Path
) -> None:
    machines: list[tuple[str, float | list[float]]] = [("A", 3.6), ("B", 19.92), ("C", [8, 11.9])]
    for name, value in machines:
        run = {"processor": name, "date": "2026-11-26", "kernel": "6.18", "figures": {"x.y": value}}
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    runs = measured.read_runs(tmp_path)
    assert measured.range_of(runs, "x.y") == "3.6 to 20"
    assert measured.range_of(runs[2:], "x.y") == "8.0 to 12"
    assert measured.range_of(runs[:1], "x.y") == "3.6"
    text = "a scan is <!--= x.y -->9<!--/--> times as fast"
    assert measured.filled(text, runs) == "a scan is <!--= x.y -->3.6 to 20<!--/--> times as fast"
    with pytest.raises(measured.UnknownFigure):
        measured.filled("<!--= x.z -->9<!--/-->", runs)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.66, "0.66"),
        (0.999, "1.00"),
        (8.75, "8.8"),
        (19.92, "20"),
        (295830000, "295,830,000"),
    ],
)
def test_numbers_have_the_digits_that_a_second_run_repeats(
    measured: ModuleType, value: float, text: str
) -> None:
    assert measured.number(value) == text


def test_what_misses_its_goal_is_bold(measured: ModuleType) -> None:
    run = measured.Run("a", "A", {"fast": (2.0, 2.0), "slow": (0.5, 0.5), "both": (0.9, 1.1)})
    assert measured.Shown("fast", at_least=1).cell(run) == "2.0 x"
    assert measured.Shown("slow", at_least=1).cell(run) == "**0.50 x**"
    assert measured.Shown("both", at_least=1).cell(run) == "**0.90 to 1.10 x**"
    assert measured.Shown("fast", at_most=1).cell(run) == "**2.0 x**"
    assert measured.Shown("none", at_most=1).cell(run) == "-"
