# SPDX-License-Identifier: Apache-2.0
"""A ninth trap: the kernel writes to memory past the page tables, or keeps pages that were dropped.

What a fixed buffer of io_uring gets makes no page dirty, so that a lazily freed one is dropped with
it. Pinned memory and a cache's draft keep it; an array, which nobody may store into, is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engines import AVAILABLE
from support.engines import why_not as why_no_engine
from support.interpreter import run_python
from support.io_uring import Ring, why_not

import mapscratch
from mapscratch import ScratchMap

PAGE = os.sysconf("SC_PAGESIZE")
PAGES = 64
LENGTH = PAGES * PAGE
_MADV_PAGEOUT = 21

needs_io_uring = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def old(tmp_path: Path) -> bytes:
    return _written(tmp_path / "old", 1)


@pytest.fixture
def new(tmp_path: Path) -> bytes:
    return _written(tmp_path / "new", 2)


def _written(path: Path, seed: int) -> bytes:
    content = np.random.default_rng(seed).integers(1, 256, LENGTH).astype("u1").tobytes()
    path.write_bytes(content)
    return content


@pytest.fixture
def ring() -> Iterator[Ring]:
    one = Ring()
    yield one
    one.close()


@pytest.fixture
def descriptor(tmp_path: Path, new: bytes) -> Iterator[int]:
    with open(tmp_path / "new", "rb") as file:
        yield file.fileno()


def address_of(memory: Any) -> int:
    """Where it is; memory that can't be written to has no other way."""
    address: int = np.frombuffer(memory, "u1").__array_interface__["data"][0]
    return address


def page_out(address: int) -> None:
    """Makes the kernel take what it may; what is locked it refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(LENGTH), _MADV_PAGEOUT):
        assert ctypes.get_errno() == errno.EINVAL


def pages(content: bytes) -> list[bytes]:
    return [content[start : start + PAGE] for start in range(0, LENGTH, PAGE)]


@needs_io_uring
@pytest.mark.parametrize("engine", ["lazyfree", "dontneed"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_what_is_read_into_pinned_memory_stays_until_the_pin_ends(
    engine: str, is_warm: bool, tmp_path: Path, old: bytes, new: bytes, ring: Ring, descriptor: int
) -> None:
    if engine not in AVAILABLE:
        pytest.skip(why_no_engine(engine))
    with ScratchMap(tmp_path / "old", engine=engine) as m:  # type: ignore[arg-type]
        address = address_of(m)
        if is_warm:
            assert m[:] == old
        with m.pin():
            ring.register(address, LENGTH)
            ring.read_fixed(descriptor, address, LENGTH)
            ring.unregister()
            page_out(address)
            m.drop()
            assert m[:] == new
        m.drop()
        assert m[:] == old


@needs_io_uring
@pytest.mark.parametrize("engine", ["lazyfree", "dontneed"])
def test_what_is_read_elsewhere_goes_as_stores_do(
    engine: str, tmp_path: Path, old: bytes, new: bytes, ring: Ring, descriptor: int
) -> None:
    """A page is the file's again, or has what was read: never zeros, and nothing half."""
    if engine not in AVAILABLE:
        pytest.skip(why_no_engine(engine))
    with ScratchMap(tmp_path / "old", engine=engine) as m:  # type: ignore[arg-type]
        address = address_of(m)
        assert m[:] == old
        ring.register(address, LENGTH)
        ring.read_fixed(descriptor, address, LENGTH)
        ring.unregister()
        if engine == "lazyfree":
            m.reclaim()
        else:
            m.drop()
        for page, (kept, read) in zip(
            pages(m[:]), zip(pages(old), pages(new), strict=True), strict=True
        ):
            assert page in (kept, read)


@needs_io_uring
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_an_array_is_no_buffer(
    lazyfree: str, tmp_path: Path, old: bytes, ring: Ring, is_warm: bool
) -> None:
    array = mapscratch.array(tmp_path / "old", "u1")
    if is_warm:
        assert bytes(array) == old
    for context in (nullcontext(), array.scratch.pin()):
        with context, pytest.raises(OSError) as raised:
            ring.register(address_of(array), LENGTH)
        assert raised.value.errno == errno.EFAULT
    assert bytes(array) == old


@needs_io_uring
@pytest.mark.parametrize("before", ["dropped", "evicted"])
def test_what_is_read_into_a_draft_is_kept(
    new: bytes, ring: Ring, descriptor: int, before: str
) -> None:
    """Its memory may have been lazily freed before: the kernel takes none of it meanwhile."""
    cache = mapscratch.Cache(max_bytes=2 * LENGTH if before == "evicted" else None)
    places = []

    def make() -> Any:
        draft = cache.empty(LENGTH, "u1")
        address = address_of(draft)
        places.append(address)
        ring.register(address, LENGTH)
        ring.read_fixed(descriptor, address, LENGTH)
        ring.unregister()
        page_out(address)
        assert bytes(draft) == new
        return draft

    for key in range(6):
        with cache.get(key, make) as value:
            assert bytes(value) == new
        page_out(places[-1])
        with cache.get(key, make) as value:  # kept, or made again where it was
            assert bytes(value) == new
        if before == "dropped":
            cache.drop(key)
    assert len(set(places)) < len(places)


def test_what_a_pipe_has_taken_is_right_after_a_drop(
    lazyfree: str, tmp_path: Path, old: bytes
) -> None:
    """vmsplice(2) hands over the pages themselves."""
    array = mapscratch.array(tmp_path / "old", "u1")
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    for start in range(0, LENGTH, 8 * PAGE):
        with array.scratch.pin():
            part = (ctypes.c_size_t * 2)(address_of(array) + start, 8 * PAGE)
            taken = libc.vmsplice(writer, ctypes.byref(part), ctypes.c_size_t(1), ctypes.c_uint(0))
        array.scratch.drop()
        page_out(address_of(array))
        assert taken == 8 * PAGE, os.strerror(ctypes.get_errno())
        assert os.read(reader, taken) == old[start : start + taken]
    os.close(reader)
    os.close(writer)
    assert bytes(array) == old


@pytest.mark.parametrize("advice", ["MADV_COLD", "MADV_PAGEOUT", "MADV_WILLNEED", "MADV_COLLAPSE"])
def test_the_advice_of_another_process(
    lazyfree: str, tmp_path: Path, old: bytes, advice: str
) -> None:
    """process_madvise(2), as a daemon that reclaims the memory of others calls it."""
    array = mapscratch.array(tmp_path / "old", "u1")
    m = ScratchMap(tmp_path / "old", engine="lazyfree")
    assert bytes(array) == m[:] == old
    run_python(
        """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        pid, length, advice = map(int, sys.argv[1:4])
        opened = os.pidfd_open(pid)
        for address in map(int, sys.argv[4:]):
            part = (ctypes.c_size_t * 2)(address, length)
            if libc.syscall(440, opened, ctypes.byref(part), ctypes.c_size_t(1), advice, 0) < 0:
                print(os.strerror(ctypes.get_errno()))
        """,
        os.getpid(),
        LENGTH,
        {"MADV_COLD": 20, "MADV_PAGEOUT": 21, "MADV_WILLNEED": 3, "MADV_COLLAPSE": 25}[advice],
        address_of(array),
        address_of(m),
    )
    assert bytes(array) == old
    assert m[:] == old
    counts = array.scratch.counts()
    assert counts.swapped == 0
    m.close()
