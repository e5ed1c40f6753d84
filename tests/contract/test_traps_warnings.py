# SPDX-License-Identifier: Apache-2.0
"""SystemCallWarning: once a program, whose pools have many processes; again in another program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.interpreter import run_python

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def temporary(tmp_path: Path, lazyfree: str) -> Path:
    (tmp_path / "values").write_bytes(os.urandom(1 << 20))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def run(code: str, temporary: Path) -> str:
    """Runs it, and sees that it ends without complaint."""
    done = run_python(
        """
        import gc, os, subprocess, sys
        from support import unprivileged
        from support.unprivileged import *
        path = sys.argv[1]
        """
        + code,
        temporary.parent / "values",
        environment={"TMPDIR": str(temporary)},
    )
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.stdout


def left(temporary: Path) -> list[Path]:
    return list(temporary.glob("mapscratch*"))


@pytest.mark.parametrize("method", METHODS)
def test_in_a_pool_it_comes_once(temporary: Path, method: str) -> None:
    run(f"assert sum(in_a_pool(path, {method!r})) == 1", temporary)


@pytest.mark.parametrize("method", METHODS)
def test_who_makes_the_pool_has_had_it(temporary: Path, method: str) -> None:
    run(
        f"""
        assert warnings_of_an_array(path) == 1
        assert sum(in_a_pool(path, {method!r})) == 0
        assert sum(in_a_pool(path, "spawn")) == 0
        """,
        temporary,
    )
    assert not left(temporary)


@pytest.mark.parametrize("method", METHODS)
def test_one_pool_after_the_other(temporary: Path, method: str) -> None:
    run(
        f"""
        import mapscratch
        counts = [sum(in_a_pool(path, {method!r}, 2)) for _ in range(2)]
        assert counts == [1, 0], counts
        assert warnings_of_an_array(path) == 0
        """,
        temporary,
    )


@pytest.mark.parametrize("method", METHODS)
def test_pools_of_pools(temporary: Path, method: str) -> None:
    run(f"assert in_pools_of_pools(path, {method!r}) == 1", temporary)


def test_pools_of_joblib(temporary: Path) -> None:
    pytest.importorskip("joblib")
    counts = run(
        """
        import joblib
        for backend in ("loky", "multiprocessing"):
            calls = [joblib.delayed(warnings_of_an_array)(path)] * 8
            print(sum(joblib.Parallel(2, backend=backend)(calls)))
        """,
        temporary,
    )
    assert counts.split() == ["1", "0"]


def test_workers_of_dask(temporary: Path) -> None:
    pytest.importorskip("distributed")
    code = """
        from dask.distributed import Client
        if __name__ == "__main__":
            with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
                assert sum(client.run(warnings_of_an_array, path).values()) == 1
    """
    run(code, temporary)


def test_children_of_a_plain_fork(temporary: Path) -> None:
    counts = run(
        """
        import mapscratch
        for _ in range(2):
            child = os.fork()
            if not child:
                os._exit(warnings_of_an_array(path))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert warnings_of_an_array(path) == 0
        """,
        temporary,
    )
    assert counts.split() == ["1", "0"]


def test_another_program_has_it_again(temporary: Path) -> None:
    """Also one that is started by a program that had it."""
    run(
        """
        program = "import sys; from support.unprivileged import warnings_of_an_array as count; "
        program += "sys.exit(count(sys.argv[1]))"
        def another():
            return subprocess.run([sys.executable, "-c", program, path], check=False).returncode
        assert warnings_of_an_array(path) == 1
        assert another() == 1
        assert another() == 1
        """,
        temporary,
    )
    assert not left(temporary)


def test_where_no_file_can_be_made_it_comes_once_a_process(temporary: Path) -> None:
    run(
        """
        os.environ["TMPDIR"] = "/nowhere"
        import mapscratch
        assert warnings_of_an_array(path) == 1
        assert warnings_of_an_array(path) == 0
        """,
        temporary,
    )


@pytest.mark.skipif(bool(os.geteuid()), reason="only root can change its root directory")
def test_an_end_elsewhere_is_quiet(temporary: Path) -> None:
    run(
        """
        import multiprocessing.process
        import mapscratch
        os.chroot(os.path.dirname(path) + "/temporary")
        os.chdir("/")
        os.setresuid(65534, 65534, 65534)
        sys.path.clear()
        """,
        temporary,
    )


def test_what_a_program_has_left_is_removed_by_the_next(temporary: Path) -> None:
    run(
        """
        assert warnings_of_an_array(path) == 1
        sys.stdout.flush()
        os._exit(0)
        """,
        temporary,
    )
    assert left(temporary)
    run("assert warnings_of_an_array(path) == 1", temporary)
    assert not left(temporary)
