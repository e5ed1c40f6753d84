# SPDX-License-Identifier: Apache-2.0
"""multiprocessing by each of its ways to start a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.files import PatternFile
from support.interpreter import run_python

SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from mapscratch import ScratchMap

inherited = None


def by_inheritance(_):
    return inherited[:] == Path(sys.argv[1]).read_bytes(), inherited.drop() >= 0


def by_name(task):
    path, engine, page = task
    with ScratchMap(path, engine=engine) as m:
        m.store(page * 4096, 1)
        m.drop()
        return m[:] == Path(path).read_bytes()


if __name__ == "__main__":
    path, engine, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    inherited = ScratchMap(path, engine=engine)
    inherited.store(0, 1)
    inherited.drop()
    with context.Pool(2) as pool:
        assert all(pool.map(by_name, [(path, engine, page) for page in range(20)]))
        if method == "fork":
            assert all(right for right, _ in pool.map(by_inheritance, range(20)))
        try:
            pool.apply(len, (inherited,))
        except TypeError as error:
            assert "pickle" in str(error), error
        else:
            raise SystemExit("a mapping can't be sent to another process")
    assert inherited[:] == Path(path).read_bytes()
    inherited.drop()
    assert inherited[:] == Path(path).read_bytes()
    inherited.close()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(engine: str, file: PatternFile, method: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(SCRIPT)
    run_python(
        """
        import runpy, sys
        sys.argv = sys.argv[1:]
        import subprocess
        sys.exit(subprocess.run([sys.executable, *sys.argv]).returncode)
        """,
        script,
        file.path,
        engine,
        method,
        timeout=60,
    )


def test_concurrent_futures(engine: str, file: PatternFile, tmp_path: Path) -> None:
    run_python(
        """
        from support.prelude import *
        from concurrent.futures import ProcessPoolExecutor
        import multiprocessing

        def right(page):
            m.store(page * PAGESIZE, 1)
            m.drop()
            return m[:] == data

        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            assert all(pool.map(right, range(20)))
        m.drop()
        check()
        """,
        file.path,
        engine,
    )
