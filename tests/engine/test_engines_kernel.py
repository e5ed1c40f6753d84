# SPDX-License-Identifier: Apache-2.0
"""The engine of the kernel's own: what MAP_SCRATCH promises, and no other engine can."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support.files import PatternFile, make_file
from support.interpreter import run_python, start_python
from support.processors import on_one_processor
from support.squeezing import reclaim_when_asked
from support.swap import some_swap

from mapscratch import ScratchMap, _native
from mapscratch.engine import Request
from mapscratch.engine.kernel import KernelEngine
from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import (
    count_pages,
    frame_flags,
    is_present,
    is_private,
    page_entries,
    range_memory,
)
from mapscratch.proc.pagemap import FILE_OR_SHARED

PAGES = 512


@pytest.fixture
def big(tmp_path: Path) -> PatternFile:
    return make_file(tmp_path / "big", PAGES)


@pytest.fixture
def m(kernel: str, big: PatternFile) -> Iterator[ScratchMap]:
    with on_one_processor(), ScratchMap(big.path, engine=kernel) as m:
        yield m


def store_into_every_page(m: ScratchMap) -> None:
    for offset in range(0, len(m), PAGESIZE):
        m.store(offset, 1)


def private_pages(m: ScratchMap) -> int:
    return count_pages(m._address, len(m)).private


def frames_are_visible() -> bool:
    here = ctypes.create_string_buffer(1)
    return frame_flags(page_entries(ctypes.addressof(here), 1)) is not None


needs_frames = pytest.mark.skipif(
    not frames_are_visible(),
    reason="page frames are hidden from this process (it takes root and CAP_SYS_ADMIN)",
)


# --- reclaim ------------------------------------------------------------------------------------


def test_what_was_stored_is_dropped_the_moment_that_the_kernel_wants_it(
    m: ScratchMap, big: PatternFile
) -> None:
    for _ in range(3):
        store_into_every_page(m)
        assert private_pages(m) == PAGES
        m.reclaim()
        # There is no window after a store. A few may wait in a list of another processor.
        assert private_pages(m) < PAGES // 8
        m.drop()
        assert m[:] == big.data


def test_no_page_ever_reaches_swap(m: ScratchMap, big: PatternFile) -> None:
    with some_swap():
        for _ in range(10):
            store_into_every_page(m)
            m.reclaim()
            counts = m.counts()
            assert counts.swapped == 0
            assert counts.dirty == 0
            assert private_pages(m) < PAGES // 8
        assert m.guarantees.no_swap == "firm"
    m.drop()
    assert m[:] == big.data


def test_a_squeezed_cgroup_swaps_nothing_of_it(kernel: str, big: PatternFile) -> None:
    probe = probe_temporary_memory_cgroup()
    if not probe:
        pytest.skip(probe.reason)
    with some_swap(), temporary_memory_cgroup(256 << 20) as group:
        process = start_python(
            """
            from support.prelude import *
            from mapscratch.proc import count_pages
            for _ in range(4):
                for page in range(512):
                    m.store(page * PAGESIZE, 1)
                print("stored", flush=True)
                sys.stdin.readline()
                assert m.counts().swapped == 0, m.counts()
                assert count_pages(m._address, len(m)).private < 512
                m.drop()
            check()
            """,
            big.path,
            kernel,
        )
        reclaim_when_asked(group, process)


def test_a_pinned_page_is_not_reclaimed(m: ScratchMap, big: PatternFile) -> None:
    store_into_every_page(m)
    with m.pin(100 * PAGESIZE, 7 * PAGESIZE):
        m.reclaim()
        # Also not where the kernel is asked by somebody who doesn't know of the pin.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(m._address), ctypes.c_size_t(len(m)), ctypes.c_int(21)
        )  # MADV_PAGEOUT
        assert [m.load(page * PAGESIZE) for page in range(100, 107)] == [1] * 7
    m.reclaim()
    m.drop()
    assert m[:] == big.data


def test_our_drop_policy_leaves_it_alone(m: ScratchMap) -> None:
    m.store(0, 1)
    _native.announce_pressure(2)
    assert m.load(0) == 1


# --- an ordinary private mapping in all else ----------------------------------------------------


def test_clean_pages_are_the_page_caches(m: ScratchMap, big: PatternFile) -> None:
    assert m[:] == big.data
    assert all(
        is_present(entry) and entry & FILE_OR_SHARED for entry in page_entries(m._address, len(m))
    )
    assert private_pages(m) == 0
    m.store(5 * PAGESIZE, 1)
    copies = [is_private(entry) for entry in page_entries(m._address, len(m))]
    assert [page for page, copy in enumerate(copies) if copy] == [5]


def test_the_kernel_calls_it_droppable(m: ScratchMap) -> None:
    memory = range_memory(m._address, len(m))
    assert memory.exact
    assert "dp" in memory.vm_flags  # Documentation/filesystems/proc.rst, "VmFlags"
    assert "lo" not in memory.vm_flags


CODE = {
    # mov eax, 42; ret
    "x86_64": (b"\xb8\x2a\x00\x00\x00\xc3\xcc\xcc", b"\xb8\x2b\x00\x00\x00\xc3\xcc\xcc"),
}


@pytest.mark.skipif(platform.machine() not in CODE, reason="no code for this processor here")
def test_code_that_was_patched_is_the_files_again_after_reclaim(
    kernel: str, tmp_path: Path
) -> None:
    in_file, patched = CODE[platform.machine()]
    path = tmp_path / "code"
    path.write_bytes(in_file.ljust(PAGESIZE, b"\xcc"))
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        m = ScratchMap(path, prot=protection, engine=kernel)
    except PermissionError as error:
        pytest.skip(f"code can't be mapped from {tmp_path}: {error.strerror}")
    with on_one_processor(), m:
        function = ctypes.CFUNCTYPE(ctypes.c_int)(m._address)
        for _ in range(50):
            assert function() == 42
            m.store(0, int.from_bytes(patched, "little"))
            assert function() in (42, 43)
            assert function() == 43 or m[:8] == in_file
            m.reclaim()
            assert private_pages(m) == 0
        assert function() == 42


def test_a_forked_child_sees_the_parents_stores_and_neither_the_others(
    kernel: str, big: PatternFile
) -> None:
    run_python(
        """
        from support.prelude import *

        def child():
            for page in range(0, 512, 7):
                assert m.load(page * PAGESIZE) == 1, page
            m.store(0, 2)
            m.drop(7 * PAGESIZE, PAGESIZE)
            assert m.load(0) == 2
            assert m.load(7 * PAGESIZE) == int.from_bytes(data[7 * 4096 : 7 * 4096 + 8], "little")
            m.drop()
            check()
            m.store(0, 3)
            m.reclaim()
            assert m.counts().swapped == 0

        with m.pin():  # so that all of them are there for the child
            for page in range(0, 512, 7):
                m.store(page * PAGESIZE, 1)
            in_child(child)
            for page in range(0, 512, 7):
                assert m.load(page * PAGESIZE) == 1, page
        m.drop()
        check()
        """,
        big.path,
        kernel,
    )


def test_no_thread_is_started_on_either_side_of_a_fork(kernel: str, big: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *

        def threads():
            return len(os.listdir("/proc/self/task")), _native.pager_thread()

        def child():
            m.store(0, 1)
            m.drop()
            assert threads() == (1, 0), threads()
            in_child(lambda: None)
            assert threads() == (1, 0), threads()

        m.store(0, 1)
        m.reclaim()
        m.drop()
        assert threads() == (1, 0), threads()
        for _ in range(10):
            in_child(child)
            assert threads() == (1, 0), threads()
        # Nor is one of another engine kept for it.
        with ScratchMap(path, engine="dontneed") as other:
            other.store(0, 1)
        assert _native.pager_thread() == 0
        """,
        big.path,
        kernel,
    )


LOCK_WHAT_COMES = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(2):  # MCL_FUTURE
        print("not allowed")
        raise SystemExit(0)
    from support.prelude import *
    from support.processors import on_one_processor
    from mapscratch.proc import count_pages, range_memory

    assert "lo" not in range_memory(m._address, len(m)).vm_flags
    assert m.counts().resident == 0, "nothing was copied in advance"
    with on_one_processor():
        for page in range(512):
            m.store(page * PAGESIZE, 1)
        assert m.counts().droppable == 512, m.counts()
        m.reclaim()
    assert count_pages(m._address, len(m)).private < 64
    m.drop()
    check()
"""


def test_a_program_that_locks_its_future_memory_does_not_lock_it(
    kernel: str, big: PatternFile
) -> None:
    if run_python(LOCK_WHAT_COMES, big.path, kernel).stdout == "not allowed\n":
        pytest.skip("this process may not lock its memory (RLIMIT_MEMLOCK)")


# --- counts -------------------------------------------------------------------------------------


@needs_frames
def test_the_kernel_says_what_is_droppable(m: ScratchMap) -> None:
    def dirty_and_droppable() -> tuple[int | None, int | None]:
        counts = m.counts()
        return counts.dirty, counts.droppable

    m[:]
    assert dirty_and_droppable() == (0, 0), "clean pages are not ours"
    for page in range(10):
        m.store(page * PAGESIZE, 1)
    assert dirty_and_droppable() == (0, 10)
    with m.pin(4 * PAGESIZE, 3 * PAGESIZE):
        assert dirty_and_droppable() == (3, 7)
    assert dirty_and_droppable() == (0, 10)
    # What the application locks behind our back counts as what it is.
    libc = ctypes.CDLL(None)
    part = ctypes.c_void_p(m._address), ctypes.c_size_t(2 * PAGESIZE)
    assert libc.mlock(*part) == 0
    assert dirty_and_droppable() == (2, 8)
    assert libc.munlock(*part) == 0
    assert m.drop() == 10
    assert dirty_and_droppable() == (0, 0)


def test_an_ordinary_user_is_told_what_we_know(kernel: str, big: PatternFile) -> None:
    run_python(
        """
        import sys
        from mmap import PAGESIZE
        from mapscratch import ScratchMap
        from support.ordinary_user import become_ordinary_user

        source = open(sys.argv[1], "rb")
        data = source.read()
        become_ordinary_user()
        m = ScratchMap(source, engine=sys.argv[2])
        assert m.guarantees.no_swap == "firm"
        for page in range(10):
            m.store(page * PAGESIZE, 1)
        with m.pin(4 * PAGESIZE, 3 * PAGESIZE):
            counts = m.counts()
            assert (counts.dirty, counts.droppable, counts.pinned) == (3, 7, 3), counts
        counts = m.counts()
        assert (counts.dirty, counts.droppable, counts.pinned) == (0, 10, 0), counts
        m.reclaim()
        assert m.counts().swapped == 0
        m.drop()
        assert m[:] == data
        """,
        big.path,
        kernel,
    )


def test_what_nobody_can_know_is_none(m: ScratchMap) -> None:
    m.store(0, 1)
    m.drop()
    counts = m.counts()
    assert (counts.filled, counts.dropped, counts.rebuilt, counts.fixup_seconds) == (None,) * 4


def test_a_read_only_mapping_has_nothing_to_drop(kernel: str, big: PatternFile) -> None:
    with ScratchMap(big.path, access=mmap.ACCESS_READ, engine=kernel) as m:
        assert m[:] == big.data
        counts = m.counts()
        assert (counts.resident, counts.dirty, counts.droppable) == (PAGES, 0, 0)
        m.reclaim()
        assert m.drop() == 0
        assert m[:] == big.data


# --- errors -------------------------------------------------------------------------------------


def test_what_cannot_be_mapped_so_says_what_to_do(big: PatternFile) -> None:
    """Also on a kernel that has no MAP_SCRATCH."""
    with big.path.open("rb") as source, open(os.devnull, "rb") as null:
        mapping = _native.WordMap(source.fileno(), 0, access=mmap.ACCESS_COPY)
        request = Request(
            name="something else",
            fileno=null.fileno(),
            offset=0,
            length=len(mapping),
            protection=mmap.PROT_READ | mmap.PROT_WRITE,
            fixup=None,
        )
        with pytest.raises(OSError, match=r"can't map 'something else': .* another engine"):
            KernelEngine().attach(mapping, request)
        mapping.close()
