# SPDX-License-Identifier: Apache-2.0
"""Page facts from /proc/PID/pagemap, against pages brought into each state by the kernel itself."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapscratch.lab.rig.machine.swap import probe_temporary_swap, temporary_swap
from mapscratch.proc import (
    PageFlags,
    count_pages,
    is_present,
    is_private,
    is_swapped,
    page_entries,
    pagemap,
)

PAGE = mmap.PAGESIZE
PAGES = 64
MADV_PAGEOUT = 21
MADV_GUARD_INSTALL = 102
PROT_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


@pytest.fixture(scope="module")
def swap() -> Iterator[str]:
    probe = probe_temporary_swap("file", 64 << 20)
    if not probe:
        pytest.skip(probe.reason)
    with temporary_swap("file", 64 << 20) as area:
        yield area


def address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def counts_of(mapping: mmap.mmap) -> PageFlags:
    return count_pages(address_of(mapping), len(mapping))


def private_mapping(directory: Path) -> mmap.mmap:
    path = directory / "pages"
    path.write_bytes(bytes(PAGES * PAGE))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=PROT_READ_WRITE)


def page_out(mapping: mmap.mmap) -> None:
    # Pages which a CPU has not yet put onto its list of reclaimable ones are passed over.
    for _ in range(20):
        mapping.madvise(MADV_PAGEOUT)
        if not any(
            is_present(entry) and is_private(entry)
            for entry in page_entries(address_of(mapping), len(mapping))
        ):
            return


def test_a_private_file_mapping_through_its_states(tmp_path: Path, swap: str) -> None:
    mapping = private_mapping(tmp_path)
    assert counts_of(mapping) == PageFlags(present=0, swapped=0, private=0)
    for page in range(PAGES):
        mapping[page * PAGE]
    assert counts_of(mapping) == PageFlags(present=PAGES, swapped=0, private=0)
    for page in range(PAGES // 4):
        mapping[page * PAGE] = 1
    assert counts_of(mapping) == PageFlags(present=PAGES, swapped=0, private=PAGES // 4)
    page_out(mapping)
    after = counts_of(mapping)
    assert (after.swapped, after.private) == (PAGES // 4, PAGES // 4)
    assert mapping[0] == 1
    back = counts_of(mapping)
    assert back.private == PAGES // 4
    assert back.swapped < PAGES // 4


def test_a_private_copy_in_swap_has_no_file_bit(tmp_path: Path, swap: str) -> None:
    mapping = private_mapping(tmp_path)
    mapping[0] = 1
    assert mapping[PAGE] == 0
    copy, clean = page_entries(address_of(mapping), 2 * PAGE)
    assert copy & pagemap.PRESENT and not copy & pagemap.FILE_OR_SHARED
    assert clean & pagemap.PRESENT and clean & pagemap.FILE_OR_SHARED
    page_out(mapping)
    (copy,) = page_entries(address_of(mapping), PAGE)
    assert copy & (pagemap.PRESENT | pagemap.SWAPPED | pagemap.FILE_OR_SHARED) == pagemap.SWAPPED


def test_shared_memory_in_swap_leaves_no_trace(swap: str) -> None:
    mapping = mmap.mmap(-1, PAGES * PAGE)
    mapping[:] = b"x" * len(mapping)
    assert counts_of(mapping) == PageFlags(present=PAGES, swapped=0, private=0)
    for _ in range(20):
        mapping.madvise(MADV_PAGEOUT)
        if not counts_of(mapping).present:
            break
    assert counts_of(mapping) == PageFlags(present=0, swapped=0, private=0)


def test_a_guard_region_is_not_in_swap() -> None:
    mapping = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapping.madvise(MADV_GUARD_INSTALL, 0, 4 * PAGE)
    except OSError:
        pytest.skip("this kernel has no guard regions (Linux 6.13)")
    entry = page_entries(address_of(mapping), PAGE)[0]
    if not entry & pagemap.GUARD_REGION:
        pytest.skip("this kernel does not tell guard regions from swap (Linux 6.15)")
    assert entry & pagemap.SWAPPED
    assert counts_of(mapping) == PageFlags(0, 0, 0)


@pytest.fixture(scope="module")
def checkered(tmp_path_factory: pytest.TempPathFactory) -> mmap.mmap:
    mapping = private_mapping(tmp_path_factory.mktemp("checkered"))
    for page in range(0, PAGES, 3):
        mapping[page * PAGE] = 1
    for page in range(0, PAGES, 5):
        mapping[page * PAGE]
    mapping.madvise(mmap.MADV_DONTNEED, 40 * PAGE, 8 * PAGE)
    return mapping


@settings(deadline=None)
@given(start=st.integers(0, PAGES * PAGE - 1), length=st.integers(0, PAGES * PAGE))
def test_counts_agree_with_entries_in_any_range(
    checkered: mmap.mmap, start: int, length: int
) -> None:
    length = min(length, len(checkered) - start)
    address = address_of(checkered) + start
    entries = page_entries(address, length)
    whole = (address + length - 1) // PAGE - address // PAGE + 1 if length else 0
    assert (entries.format, len(entries)) == ("Q", whole)
    assert count_pages(address, length) == PageFlags(
        present=sum(map(is_present, entries)),
        swapped=sum(map(is_swapped, entries)),
        private=sum(map(is_private, entries)),
    )


def test_a_range_of_many_chunks() -> None:
    pages = 3 * (1 << 15) + 17
    mapping = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    touched = [0, pages // 2, pages - 1]
    for page in touched:
        mapping[page * PAGE] = 1
    assert counts_of(mapping) == PageFlags(present=3, swapped=0, private=3)
    entries = page_entries(address_of(mapping), len(mapping))
    assert [page for page, entry in enumerate(entries) if entry] == touched


def test_another_process_and_one_that_has_ended() -> None:
    script = (
        "import ctypes, mmap, sys\n"
        f"m = mmap.mmap(-1, {PAGES * PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        f"m[0] = m[{PAGE}] = 1\n"
        "print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        address = int(process.stdout.readline())
        assert count_pages(address, PAGES * PAGE, process.pid) == PageFlags(2, 0, 2)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=str(process.pid)):
            count_pages(address, PAGES * PAGE, process.pid)
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        page_entries(address, PAGE, process.pid)


def test_input_that_is_no_range_or_process() -> None:
    for address, length in ((-1, PAGE), (0, -1), (1 << 64, 1)):
        with pytest.raises(ValueError, match="not a range"):
            count_pages(address, length)
    with pytest.raises(ValueError, match="no process has an address"):
        count_pages((1 << 64) - PAGE, PAGE)
    for pid in (0, -1, "all", True):
        with pytest.raises(ValueError, match="pid must be"):
            count_pages(0, PAGE, pid)  # type: ignore[arg-type]
    assert count_pages(123, 0) == PageFlags(0, 0, 0)
    assert len(page_entries(123, 0)) == 0
