# SPDX-License-Identifier: Apache-2.0
"""Files of all kinds: those that refuse to be shared are mapped, others say why not."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support import fuse
from support.interpreter import run_python

import mapscratch
from mapscratch import ScratchMap
from mapscratch.fixups import Python

ITEMS = 300_000
VALUES = np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(">i2")
F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW = 8, 2, 4
F_SEAL_FUTURE_WRITE = 16
F_ADD_SEALS = 1033


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    VALUES.tofile(path)
    return path


@pytest.fixture
def on_fuse(tmp_path: Path, data: Path) -> Iterator[Callable[[bool], Path]]:
    if fuse.why_not():
        pytest.skip(fuse.why_not())
    with ExitStack() as mounts:

        def mount(direct_io: bool) -> Path:
            directory = tmp_path / f"mount-{direct_io}"
            directory.mkdir()
            return mounts.enter_context(fuse.mounted(directory, data, direct_io=direct_io))

        try:
            yield mount
        except OSError as error:
            pytest.skip(f"no FUSE here: {error}")


def negated(source: np.ndarray) -> np.ndarray:
    return -source.astype("f4")


def is_right(file: Path | int) -> None:
    """Every engine shows the file's bytes, before a drop and after it."""
    for engine in [status.name for status in mapscratch.engines() if status.available] + ["auto"]:
        with ScratchMap(file, engine=engine) as m:
            assert m[:] == VALUES.tobytes(), engine
            m.store(0, 1)
            m.drop()
            assert m[:] == VALUES.tobytes(), engine
    with open(os.dup(file) if isinstance(file, int) else file, "rb") as opened:
        array = mapscratch.array(opened, "f4", source=">i2")
    assert np.array_equal(array, VALUES.astype("f4"))
    array.scratch.drop()
    assert np.array_equal(array, VALUES.astype("f4"))


@pytest.mark.parametrize("direct_io", [False, True])
def test_a_file_system_in_user_space(
    lazyfree: str, on_fuse: Callable[[bool], Path], direct_io: bool
) -> None:
    path = on_fuse(direct_io)
    is_right(path)
    array = mapscratch.array(path, "f4", source=">i2", fixup=Python(negated))
    assert np.array_equal(array, -VALUES.astype("f4"))


def test_a_file_that_cannot_be_shared_over_fork(
    lazyfree: str, on_fuse: Callable[[bool], Path]
) -> None:
    run_python(
        """
        import os, sys, numpy as np, mapscratch
        array = mapscratch.array(sys.argv[1], "f4", source=">i2")
        total = float(array.sum())
        child = os.fork()
        if not child:
            os._exit(float(array.sum()) != total)
        assert os.waitpid(child, 0)[1] == 0
        array.scratch.drop()
        assert float(array.sum()) == total
        """,
        on_fuse(True),
    )


def test_a_change_of_a_file_that_cannot_be_shared_is_noticed(
    lazyfree: str, on_fuse: Callable[[bool], Path], data: Path
) -> None:
    array = mapscratch.array(on_fuse(True), "f4", source=">i2")
    assert array[0] == VALUES[0]
    with data.open("ab") as file:
        file.write(b"more")
    with pytest.raises(mapscratch.SourceChanged):
        array[1]


@pytest.mark.parametrize("seal", [0, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE])
def test_memory_that_is_a_file(lazyfree: str, seal: int) -> None:
    file = os.memfd_create("values", os.MFD_ALLOW_SEALING)
    try:
        os.write(file, VALUES.tobytes())
        fcntl.fcntl(file, F_ADD_SEALS, seal | F_SEAL_SHRINK | F_SEAL_GROW)
        is_right(file)
    finally:
        os.close(file)


def test_a_file_without_a_name(lazyfree: str, data: Path) -> None:
    file = os.open(data, os.O_RDONLY)
    try:
        data.unlink()
        is_right(file)
    finally:
        os.close(file)


def test_shared_memory(lazyfree: str) -> None:
    path = Path("/dev/shm/mapscratch-test-values")
    if not os.access(path.parent, os.W_OK):
        pytest.skip("no /dev/shm")
    try:
        VALUES.tofile(path)
        is_right(path)
    finally:
        path.unlink(missing_ok=True)


def test_a_file_of_the_kernels_says_what_to_do(lazyfree: str) -> None:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.exists():
        pytest.skip("no such file here")
    for use in (lambda: ScratchMap(path), lambda: mapscratch.array(path, "u1", shape=10)):
        with pytest.raises(OSError, match=r"enabled can't be mapped.*copy it") as raised:
            use()
        assert raised.value.errno == errno.ENODEV


def test_a_descriptor_that_opens_nothing_says_what_to_do(data: Path) -> None:
    file = os.open(data, os.O_PATH)
    try:
        with pytest.raises(OSError, match="O_PATH") as raised:
            ScratchMap(file)
        assert raised.value.errno == errno.EBADF
    finally:
        os.close(file)


def test_a_descriptor_for_writing_says_what_to_do(data: Path) -> None:
    file = os.open(data, os.O_WRONLY)
    try:
        with pytest.raises(PermissionError, match="open for reading"):
            ScratchMap(file)
    finally:
        os.close(file)


def test_a_limit_on_addresses_is_named(lazyfree: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 1 << 40)
    run_python(
        """
        import errno, resource, sys, numpy as np, mapscratch
        mapscratch.array(sys.argv[1], "u1", shape=4096).max()
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))
        for make in (
            lambda: mapscratch.ScratchMap(sys.argv[1]),
            lambda: mapscratch.array(sys.argv[1], "f4", source="i2"),
        ):
            try:
                make()
            except OSError as error:
                assert error.errno == errno.ENOMEM, error
                assert "RLIMIT_AS" in str(error), error
            else:
                raise SystemExit("not refused")
        assert mapscratch.array(sys.argv[1], "u1", shape=4096).max() == 0
        """,
        large,
    )
