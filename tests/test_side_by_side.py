# SPDX-License-Identifier: Apache-2.0
"""`make test`: every test once, in two runs, and what they say together."""

from __future__ import annotations

from pathlib import Path

import pytest
import side_by_side
from support.interpreter import run_python
from support.places import TESTS

PASSING = "def test_one(): pass\n"
FAILING = "def test_two(): assert False\n"


def test_every_file_is_in_one_half() -> None:
    first, second = side_by_side.halves()
    assert sorted(first + second) == sorted(TESTS.rglob("test_*.py"))
    assert len(first) > 30
    assert len(second) > 30


def test_files_that_are_named_are_run_and_no_others(tmp_path: Path) -> None:
    names = ("cache_one", "elf_two", "elf_three", "cache_four")
    one, two, three, four = (tmp_path / f"test_{name}.py" for name in names)
    assert side_by_side.halves([one, two, three, four]) == ([four, one], [three, two])
    two.write_text(PASSING)
    three.write_text(FAILING)
    assert side_by_side.main(["-q", "-p", "no:cacheprovider", str(two)]) == 0
    assert side_by_side.main(["-q", "-p", "no:cacheprovider", str(two), str(three)]) == 1


def test_each_kind_beside_the_others_is_there() -> None:
    _, second = side_by_side.halves()
    for kind in side_by_side.BESIDE:
        assert any(path.name.startswith(f"test_{kind}") for path in second), kind


@pytest.mark.parametrize("kind", ["traps", "compare", "cost", "kernelstats", "operating", "cache"])
def test_what_needs_memory_of_the_machine_is_one_after_the_other(kind: str) -> None:
    _, second = side_by_side.halves()
    assert not [path for path in second if path.name.startswith(f"test_{kind}")]


def test_the_closing_line_has_the_sum() -> None:
    one = "FAILED 9 passed\n== 1 failed, 1999 passed, 3 skipped, 2 warnings in 3.21s (0:00:03) =="
    assert side_by_side.total(one, "= 10 passed, 1 error in 2.00s =\n") == (
        "1 failed, 2009 passed, 3 skipped, 2 warning, 1 error"
    )


@pytest.mark.parametrize(("one", "other"), [(PASSING, FAILING), (FAILING, PASSING)])
def test_one_failure_in_either_run_is_a_failure(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "test_cache_one.py").write_text(one)
    (tmp_path / "test_elf_two.py").write_text(other)
    done = run_python(
        """
        import sys
        from pathlib import Path
        import side_by_side
        side_by_side.TESTS = Path(sys.argv[1])
        sys.exit(side_by_side.main(["-p", "no:cacheprovider", "--rootdir", sys.argv[1]]))
        """,
        tmp_path,
        environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
    )
    assert done.returncode == 1, done
    assert "test_cache_one.py" in done.stdout
    assert "test_elf_two.py" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "1 failed" in last
    assert "1 passed" in last
