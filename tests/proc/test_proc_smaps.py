# SPDX-License-Identifier: Apache-2.0
"""Figures of smaps, against ranges brought into each state by the kernel itself."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mapscratch.lab.rig.machine.swap import probe_temporary_swap, temporary_swap
from mapscratch.proc import RangeMemory, active_swaps, process_memory, range_memory, total

PAGE = mmap.PAGESIZE
PAGES = 64
SIZE = PAGES * PAGE
MADV_FREE = 8
MADV_PAGEOUT = 21
MADV_DONTFORK = 10


def memory_of(mapping: mmap.mmap) -> RangeMemory:
    return range_memory(ctypes.addressof(ctypes.c_char.from_buffer(mapping)), len(mapping))


def anonymous_mapping() -> mmap.mmap:
    mapping = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A flag of its own keeps the kernel from merging it with its neighbours.
    mapping.madvise(MADV_DONTFORK)
    return mapping


def test_dirty_then_lazily_freed_pages() -> None:
    mapping = anonymous_mapping()
    mapping[:] = b"x" * SIZE
    dirty = memory_of(mapping)
    assert dirty.exact
    assert (dirty.usage.rss, dirty.usage.private_dirty, dirty.usage.anonymous) == (SIZE,) * 3
    assert dirty.usage.lazy_free == 0
    assert dirty.usage.pss_dirty in (SIZE, None)
    # Pages still in a CPU's batch are marked once the batch is full.
    for _ in range(20):
        mapping.madvise(MADV_FREE)
        if memory_of(mapping).usage.lazy_free == SIZE:
            break
    freed = memory_of(mapping)
    assert (freed.usage.rss, freed.usage.lazy_free) == (SIZE, SIZE)
    mapping[0] = 1
    assert memory_of(mapping).usage.lazy_free == SIZE - PAGE


def test_pages_in_swap() -> None:
    probe = probe_temporary_swap("zram", 16 << 20)
    if not probe:
        pytest.skip(probe.reason)
    mapping = anonymous_mapping()
    with temporary_swap("zram", 16 << 20):
        mapping[:] = b"x" * SIZE
        for _ in range(20):
            mapping.madvise(MADV_PAGEOUT)
            usage, whole = memory_of(mapping).usage, process_memory()
            if usage.swap == SIZE:
                break
        assert (usage.rss, usage.swap, usage.swap_pss) == (0, SIZE, SIZE)
        assert whole.swap >= SIZE
        # Areas of equal priority take turns: pages may be in someone else's, and stay there.
        others = len(active_swaps()) > 1
    assert others or memory_of(mapping).usage.swap == 0
    assert mapping[:] == b"x" * SIZE


def test_a_private_file_mapping_and_its_areas(tmp_path: Path) -> None:
    path = tmp_path / "a file: with spaces"
    path.write_bytes(bytes(2 * SIZE))
    with path.open("rb") as file:
        mapping = mmap.mmap(
            file.fileno(),
            SIZE,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=SIZE,
        )
    mapping[0] = 1
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    assert libc.mprotect(ctypes.c_void_p(address + SIZE // 2), SIZE // 2, mmap.PROT_READ) == 0
    memory = memory_of(mapping)
    first, second = memory.areas
    assert memory.exact
    assert (first.start, first.end, second.end) == (
        address,
        address + SIZE // 2,
        address + SIZE,
    )
    assert (first.permissions, second.permissions) == ("rw-p", "r--p")
    assert (first.path, first.offset) == (str(path), SIZE)
    assert first.usage.anonymous == PAGE
    assert memory.usage == total([first.usage, second.usage])
    assert "wr" in first.vm_flags
    assert "wr" not in memory.vm_flags
    assert "mr" in memory.vm_flags
    part = range_memory(address + PAGE, PAGE)
    assert [area.start for area in part.areas] == [address]
    assert not part.exact


def test_locked_memory() -> None:
    mapping = anonymous_mapping()
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(address), 2 * PAGE):
        pytest.skip(f"mlock: {os.strerror(ctypes.get_errno())}")
    assert memory_of(mapping).usage.locked == 2 * PAGE


def test_where_nothing_is_mapped() -> None:
    memory = range_memory(0, PAGE)
    assert (memory.areas, memory.exact, memory.vm_flags) == ((), True, frozenset())
    assert memory.usage.rss == 0


def test_the_whole_process_is_the_sum_of_its_areas() -> None:
    areas = range_memory(0, 1 << 64)
    whole = process_memory()
    assert areas.exact
    # Between the two readings this process allocates a little.
    assert abs(areas.usage.rss - whole.rss) < 4 << 20
    assert whole.private_dirty >= whole.lazy_free


def test_another_process_and_one_that_has_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(); sys.stdout.flush(); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert process_memory(process.pid).rss > 1 << 20
        assert range_memory(0, 1 << 47, process.pid).usage.rss > 1 << 20
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=str(process.pid)):
            process_memory(process.pid)
        with pytest.raises(ProcessLookupError, match=str(process.pid)):
            range_memory(0, 1 << 47, process.pid)
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        process_memory(process.pid)
    with pytest.raises(ValueError, match="not a range"):
        range_memory(-1, 1)
