# SPDX-License-Identifier: Apache-2.0
"""Flags of page frames from /proc/kpageflags, against pages whose flags are known."""

from __future__ import annotations

import ctypes
import mmap
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support.files import make_file
from support.interpreter import run_python

from mapscratch.proc import frame_flags, page_entries
from mapscratch.proc.kpageflags import ANONYMOUS, MLOCKED, SWAP_BACKED

PAGES = 4


def address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def flags_of(mapping: mmap.mmap) -> list[int]:
    flags = frame_flags(page_entries(address_of(mapping), len(mapping)))
    if flags is None:
        pytest.skip("page frames are hidden from this process (it takes root and CAP_SYS_ADMIN)")
    return flags


@pytest.fixture
def private(tmp_path: Path) -> mmap.mmap:
    file = make_file(tmp_path / "pages", PAGES)
    with file.path.open("rb") as source:
        return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY)


def test_a_files_pages_and_private_copies_are_told_apart(private: mmap.mmap) -> None:
    assert flags_of(private) == [0] * PAGES, "none is in memory"
    for page in range(PAGES):
        private[page * PAGESIZE]
    private[0] = 1
    copy, *others = flags_of(private)
    assert copy & (ANONYMOUS | SWAP_BACKED) == ANONYMOUS | SWAP_BACKED
    assert not any(page & ANONYMOUS for page in others)
    assert all(others)


def test_a_locked_page_is_seen_at_once(private: mmap.mmap) -> None:
    private[0] = 1
    assert not flags_of(private)[0] & MLOCKED
    libc = ctypes.CDLL(None)
    page = ctypes.c_void_p(address_of(private)), ctypes.c_size_t(PAGESIZE)
    if libc.mlock(*page):
        pytest.skip("this process may not lock a page (RLIMIT_MEMLOCK)")
    assert flags_of(private)[0] & MLOCKED
    libc.munlock(*page)
    assert not flags_of(private)[0] & MLOCKED


def test_a_lazily_freed_page_is_not_backed_by_swap() -> None:
    with mmap.mmap(-1, PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        assert flags_of(memory)[0] & SWAP_BACKED
        memory.madvise(mmap.MADV_FREE)
        # The kernel marks such pages in batches: another one of a length of 32 fills this one.
        with mmap.mmap(-1, 32 * PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as others:
            others[:] = b"x" * len(others)
            others.madvise(mmap.MADV_FREE)
        assert flags_of(memory)[0] & (ANONYMOUS | SWAP_BACKED) == ANONYMOUS


def test_nothing_is_asked_for_and_nothing_said() -> None:
    assert frame_flags([]) in ([], None)
    assert frame_flags([0, 0]) in ([0, 0], None)


def test_who_may_not_read_it_is_told_so() -> None:
    run_python(
        """
        from support.ordinary_user import become_ordinary_user
        become_ordinary_user()
        from mapscratch.proc import frame_flags
        from mapscratch.proc.pagemap import PRESENT
        assert frame_flags([PRESENT]) is None
        """
    )


def test_hidden_frame_numbers_are_not_taken_for_frame_zero() -> None:
    from mapscratch.proc.pagemap import PRESENT

    assert frame_flags([PRESENT]) is None
