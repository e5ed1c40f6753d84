# SPDX-License-Identifier: Apache-2.0
"""`make test`: every test once, in several runs, and what they say together."""

from __future__ import annotations

from pathlib import Path

import pytest
import side_by_side
from support.interpreter import run_python
from support.places import TESTS

PASSING = "def test_one(): pass\n"
FAILING = "def test_two(): assert False\n"


def test_every_file_is_in_one_run() -> None:
    found = side_by_side.streams()
    assert sorted(path for files in found for path in files) == sorted(TESTS.glob("**/test_*.py"))
    assert all(len(some) > 20 for some in found)


def test_files_that_are_named_are_run_and_no_others(tmp_path: Path) -> None:
    names = ("cache_one", "fork_two", "fork_three", "cache_four", "import_five")
    one, two, three, four, five = (tmp_path / f"test_{name}.py" for name in names)
    assert side_by_side.streams([one, two, three, four, five]) == [
        [four, one],
        [five],
        [three, two],
    ]
    two.write_text(PASSING)
    three.write_text(FAILING)
    options = ["-q", "-p", "no:cacheprovider"]
    assert side_by_side.main([*options, str(two)]) == 0
    assert side_by_side.main([*options, str(two), str(three)]) == 1


def test_names_of_files_are_there_once() -> None:
    names = [path.name for path in TESTS.glob("**/test_*.py")]
    assert len(names) == len(set(names))


def test_each_kind_beside_the_others_is_there() -> None:
    for kinds, files in zip(side_by_side.BESIDE, side_by_side.streams()[1:], strict=True):
        for kind in kinds:
            assert any(side_by_side.kind_of(path).startswith(kind) for path in files), kind


@pytest.mark.parametrize(
    "kind", ["compare", "cost", "proc", "machine", "operating", "cache_memory"]
)
def test_what_needs_memory_of_the_machine_is_one_after_the_other(kind: str) -> None:
    for files in side_by_side.streams()[1:]:
        assert not [path for path in files if side_by_side.kind_of(path).startswith(kind)]


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
