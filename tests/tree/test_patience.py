# SPDX-License-Identifier: Apache-2.0
"""Limits that are there to find a hang: as long as the place is slow, and none is a bare number."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import patience
from support.interpreter import run_python
from support.patience import MOST, Limit, Place, communicate, patient
from support.places import TREE
from support.waiting import eventually

STRETCHED = {"communicate", "eventually", "run_python", "Limit", "patient"}
"""They take what is right on an idle machine; so does pytest.mark.timeout, by a hook."""
SHORTEST = 1.0
"""Less is a while in which nothing may happen."""
LONGEST_WORK = 5.0
"""So long at most a test goes on with what it does."""


# --- as long as the place is slow


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How slow it is to be found, once each; the last one stays."""
    found = [1.0]
    measured = lambda: found.pop(0) if len(found) > 1 else found[0]  # noqa: E731
    monkeypatch.setattr(patience, "_place", Place(measured))
    return found


def test_a_limit_is_stretched_by_what_is_measured(place: list[float]) -> None:
    place[:] = [7.5]
    assert patient(20) == 150


@pytest.mark.parametrize(("measured", "believed"), [(0.1, 1.0), (1e9, MOST)])
def test_no_limit_is_shorter_than_written_or_without_end(
    place: list[float], measured: float, believed: float
) -> None:
    place[:] = [measured]
    assert patient(1) == believed


def test_a_place_that_becomes_slower_is_believed_at_once_and_faster_by_and_by() -> None:
    found = [2.0, 10.0, 2.0, 2.0]
    place = Place(lambda: found.pop(0))
    assert place.slowness() == 2
    seen = []
    for _ in range(3):
        place.look()
        seen.append(place.slowness())
    assert seen == [10, 6, 4]


def test_who_is_told_does_not_measure() -> None:
    place = Place(lambda: pytest.fail("it measured"), told=3.0)
    place.look()
    assert place.slowness() == 3


def test_a_limit_moves_away_when_the_place_has_become_slower(place: list[float]) -> None:
    place[:] = [1.0, 30.0]
    limit = Limit(0.02)
    time.sleep(0.03)
    assert limit.left() > 0.1
    assert Limit(0).left() == 0


def test_a_condition_that_comes_true_late_in_a_place_that_has_become_slow(
    place: list[float],
) -> None:
    place[:] = [1.0, 40.0]
    began = time.monotonic()
    assert eventually(lambda: time.monotonic() - began > 0.2, seconds=0.05)
    assert not eventually(lambda: False, seconds=0)


def test_a_process_that_answers_late_in_a_place_that_has_become_slow(place: list[float]) -> None:
    place[:] = [1.0, 40.0]
    code = "import time; text = input(); time.sleep(0.5); print(text)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert communicate(process, "late\n", seconds=0.3)[0] == "late\n"


def test_a_process_that_hangs_is_found(place: list[float]) -> None:
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            communicate(process, seconds=0.01)
        process.kill()


def test_an_interpreter_under_test_is_told(place: list[float]) -> None:
    place[:] = [12.25]
    code = "from support.patience import patient; print(patient(2))"
    assert run_python(code).stdout == "24.5\n"


def test_the_limit_of_each_test_is_stretched(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from support import patience\n"
        "from support.patience import pytest_timeout_set_timer\n"
        "patience._place = patience.Place(lambda: 30.0)\n"
    )
    (tmp_path / "test_slow.py").write_text(
        "import pytest, time\n@pytest.mark.timeout(0.1)\ndef test(): time.sleep(0.5)\n"
    )
    command = "import pytest, sys; sys.exit(pytest.main(['-p', 'pytest_timeout', sys.argv[1]]))"
    run_python(command, tmp_path, environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


def test_what_is_measured_is_at_least_its_kinds() -> None:
    assert 0 < patience.measure() < 1e6


def test_meson_gets_it_as_a_number() -> None:
    program = Path(patience.__file__)
    factor = subprocess.run([sys.executable, program], check=True, stdout=subprocess.PIPE).stdout
    assert 1 <= float(factor) <= MOST


# --- no limit is a bare number


def bare_limits(source: str) -> Iterator[tuple[int, str]]:
    """Lines where a wait has a number for a limit, in Python or in Python that is in a string."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call() if _is_bare(node):
                yield node.lineno, ast.unparse(node)
            case ast.BinOp() if _is_late(node):
                yield node.lineno, ast.unparse(node)
            case ast.Constant(value=str(text)):
                yield from ((node.lineno, found) for found in _IN_STRINGS.findall(text))


_IN_STRINGS = re.compile(
    r"\btimeout=[1-9][\d.]*"
    r"|\.(?:join|wait|result|settimeout)\([1-9][\d.]*\)"
    r"|\bmonotonic\(\) (?:\+|> \w+ \+) (?:[5-9]|\d\d)[\d.]*"
    r"|\belapsed < \d\d"
)


def _is_bare(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in STRETCHED:
        return False
    limits = [one.value for one in call.keywords if one.arg == "timeout"]
    if name in {"wait", "join", "result", "settimeout", "alarm", "Timer"}:
        limits += call.args[:1]
    if name == "select" and len(call.args) == 4:
        limits += call.args[3:]
    return any(_is_number(limit, SHORTEST) for limit in limits)


def _is_late(sum_: ast.BinOp) -> bool:
    return (
        isinstance(sum_.op, ast.Add)
        and "monotonic()" in ast.unparse(sum_.left)
        and _is_number(sum_.right, LONGEST_WORK)
    )


def _is_number(node: ast.expr, least: float) -> bool:
    """A number that is so large, or the name of a constant."""
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node).rpartition(".")[2].lstrip("_").isupper()
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and node.value >= least
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("subprocess.run(command, timeout=30)", True),
        ("subprocess.run(command, timeout=patient(30))", False),
        ("run_python(code, timeout=30)", False),
        ("thread.join(20)", True),
        ("thread.join()", False),
        ("process.wait(SECONDS)", True),
        ("event.wait(0.2)", False),
        ("threading.Barrier(4, timeout=30)", True),
        ("end = time.monotonic() + 20", True),
        ("until = time.monotonic() + 1.5", False),
        ("run('''\n    assert event.wait(30)\n''')", True),
        ("'''\n    while time.monotonic() < end + 3: pass\n'''", False),
        ("select.select([one], [], [], 10)", True),
        ("', '.join(words)", False),
    ],
)
def test_a_bare_limit_is_found(source: str, found: bool) -> None:
    assert bool(list(bare_limits(source))) == found


def test_no_limit_is_a_bare_number() -> None:
    files = [*TREE.glob("tests/**/*.py"), *TREE.glob("kernel/tests/*.py")]
    assert len(files) > 100
    bare = [
        f"{path.relative_to(TREE)}:{line}: {text}"
        for path in files
        if path != Path(__file__)
        for line, text in bare_limits(path.read_text(encoding="utf-8"))
    ]
    assert not bare, "\n".join(("tests/support/patience.py has patient() for:", *bare))
