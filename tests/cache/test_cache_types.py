# SPDX-License-Identifier: Apache-2.0
"""What type checkers know of `mapscratch.Cache`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.places import TREE

pytest.importorskip("mypy", reason="mypy is not installed")

RIGHT = """
    from collections.abc import Callable
    from typing import Any, assert_type
    import numpy as np
    from numpy.typing import NDArray
    import mapscratch
    from mapscratch import Cache, CacheInfo
    from mapscratch.cache.memoized import CacheParameters, Memoized
    from mapscratch.cache.pinned import Pinned

    cache = Cache(1 << 20)
    limited = Cache(max_bytes=5)

    @cache.memoize
    def tile(z: int, *, scale: float = 1) -> NDArray[np.float32]:
        return np.zeros(z, np.float32)

    @cache.memoize(typed=True)
    def text(z: int) -> bytes:
        return bytes(z)

    @cache.memoize()
    def either(z: int) -> NDArray[np.float32] | bytes:
        return b""

    assert_type(tile(3, scale=2), NDArray[np.float32])
    assert_type(text(3), memoryview)
    assert_type(tile.cache_info(), CacheInfo)
    assert_type(text.cache_info().hits, int)
    assert_type(text.cache_parameters(), CacheParameters)
    assert_type(tile.__wrapped__(3), Any)
    text.cache_clear()
    either(2).nbytes

    class Image:
        @cache.memoize
        def tile(self, z: int) -> NDArray[np.float32]:
            return np.zeros(z, np.float32)

        @classmethod
        @cache.memoize
        def of_class(cls, z: int) -> bytes:
            return bytes(z)

        @staticmethod
        @cache.memoize()
        def of_none(z: int) -> bytes:
            return bytes(z)

        @property
        @cache.memoize
        def whole(self) -> bytes:
            return b""

    assert_type(Image().tile(3), NDArray[np.float32])
    assert_type(Image.tile(Image(), 3), NDArray[np.float32])
    assert_type(Image().tile.cache_info(), CacheInfo)
    assert_type(Image.of_class(3), memoryview)
    assert_type(Image().of_class(3), memoryview)
    assert_type(Image.of_none(3), memoryview)
    assert_type(Image().of_none.cache_info(), CacheInfo)
    Image().whole
    assert_type(cache.memoize(lambda: b"")(), memoryview)
    function: Callable[[int], memoryview] = text
    list(map(function, reversed([1, 2])))
    list(reversed(cache))

    assert_type(cache.get("key", lambda: b""), Pinned[Any])
    assert_type(cache.get("key", None), Pinned[Any] | None)
    with cache.get("key") as value:
        value.sum()
    cache["key"] = np.arange(3)
    cache["key"].sum()
    cache.pop("key", None)
    for key, value in cache.items():
        hash(key)
    cache.update({"key": b""}, other=b"")
"""

WRONG = """
    from mapscratch import Cache
    cache = Cache()

    @cache.memoize
    def text(z: int) -> bytes:
        return bytes(z)

    text("three")  # wrong
    text.cache_inf()  # wrong
    cache.get("key", b"").value  # wrong
    cache.get("key").sum()  # wrong
    cache["key"] = [1]  # wrong
    Cache("1 GB")  # wrong

    @cache.memoize  # wrong
    def numbers(z: int) -> list[int]:
        return [z]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typed")


def check(folder: Path, code: str) -> tuple[str, list[str]]:
    """The program, and what mypy says of it; what it says of the libraries isn't ours."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
    # As `make lint` runs it, and with what that has found out of NumPy's types.
    command += ["--config-file", str(TREE / "pyproject.toml")]
    command += ["--cache-dir", str(TREE / ".mypy_cache")]
    command += ["--hide-error-context", program.name]
    environment = os.environ | {"MYPYPATH": str(TREE / "src")}
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert run.returncode in (0, 1), run.stderr
    errors = [line for line in run.stdout.splitlines() if line.startswith("program.py:")]
    return program.read_text(), errors


def test_what_is_right(folder: Path) -> None:
    assert check(folder, RIGHT)[1] == []


def test_what_is_wrong(folder: Path) -> None:
    program, errors = check(folder, WRONG)
    lines = {int(line.split(":")[1]) for line in errors}
    wanted = {
        number for number, line in enumerate(program.splitlines(), 1) if line.endswith("# wrong")
    }
    assert lines == wanted, errors
