# SPDX-License-Identifier: Apache-2.0
"""How much is made at a page fault: for a scan, for several, for a random reader."""

from __future__ import annotations

import mmap
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from support.waiting import eventually

import mapscratch
from mapscratch.fixups import Python

PAGES = 8192
BLOCK = 16  # pages: 64 KiB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(PAGES * PAGESIZE // 4, dtype="u4").astype(">u4").tofile(tmp_path / "values")
    return tmp_path / "values"


@pytest.fixture
def array(lazyfree: str, path: Path) -> mapscratch.ScratchArray:
    return mapscratch.array(path, "u4", source=">u4")


def touch(array: mapscratch.ScratchArray, page: int) -> None:
    item = page * PAGESIZE // 4
    assert np.asarray(array)[item] == item


def filled(array: mapscratch.ScratchArray) -> int:
    return array.scratch.map._range_counts()["filled"]


def huge_kib(address: int) -> int:
    """AnonHugePages of the mapping that begins there."""
    of_mapping = Path("/proc/self/smaps").read_text().partition(f"\n{address:x}-")[2]
    line = next(line for line in of_mapping.splitlines() if line.startswith("AnonHugePages:"))
    return int(line.split()[1])


def gives_huge_pages() -> bool:
    """Whether the kernel has some left for ordinary memory that asks for them."""
    memory = mmap.mmap(-1, PAGES * PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    bytes_ = np.frombuffer(memory, "u1")
    bytes_[::PAGESIZE] = 1
    return huge_kib(bytes_.ctypes.data) >= 16 << 10


def test_a_scan_makes_each_page_once(array: mapscratch.ScratchArray) -> None:
    for page in range(PAGES):
        touch(array, page)
    assert filled(array) == PAGES
    assert array.scratch.counts().resident == PAGES


def test_a_scan_is_made_ahead(array: mapscratch.ScratchArray) -> None:
    for page in range(2 * BLOCK):
        touch(array, page)
    assert eventually(lambda: filled(array) >= 4 * BLOCK)
    ahead = []
    for page in range(2 * BLOCK, 4096):
        touch(array, page)
        ahead.append(filled(array) - page)
    assert 256 < max(ahead) <= 2 * 512


def test_a_scan_gets_huge_pages(array: mapscratch.ScratchArray) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("transparent huge pages are switched off")
    if not gives_huge_pages():
        pytest.skip("the kernel has no huge pages left, not for ordinary memory either")
    np.asarray(array).sum()
    assert huge_kib(array.scratch.map._address) >= 8 << 10
    assert array.scratch.counts().droppable == PAGES
    array.scratch.reclaim()
    assert array.scratch.counts().resident == 0
    np.testing.assert_array_equal(np.asarray(array), np.arange(len(array)))


def test_huge_pages_can_be_dropped_in_part(array: mapscratch.ScratchArray) -> None:
    expected = np.arange(len(array))
    assert array.sum() == expected.sum()
    for page in reversed(range(1000, 5000, 700)):
        part = array[page * PAGESIZE // 4 : (page + 3) * PAGESIZE // 4]
        assert part.scratch.drop() == 3
        with part.scratch.pin():
            array[page * PAGESIZE // 4 :].scratch.reclaim()
            np.testing.assert_array_equal(part, expected[part[0] : part[-1] + 1])
    np.testing.assert_array_equal(np.asarray(array), expected)


def test_several_scans_at_once(array: mapscratch.ScratchArray) -> None:
    starts = range(0, PAGES - 1000, PAGES // 6)
    for page in range(1000):
        for start in starts:
            touch(array, start + page)
    made = filled(array)
    assert made <= len(starts) * (1000 + 2 * 512)
    faults_of_each_page = made / (len(starts) * 1000)
    assert faults_of_each_page < 2.1


def test_a_random_reader_gets_a_block_the_first_time(array: mapscratch.ScratchArray) -> None:
    for number, page in enumerate((5000, 100, 7000, 2000)):
        touch(array, page)
        assert filled(array) == (number + 1) * BLOCK


def test_a_random_reader_gets_less_and_less_when_pages_come_back(
    array: mapscratch.ScratchArray,
) -> None:
    assert array.sum() > 0
    array.scratch.drop()
    before = filled(array)
    made = []
    for page in (5000, 100, 7000, 2000, 6000, 3000):
        touch(array, page)
        made.append(filled(array) - before)
        before = filled(array)
    assert made == [8, 4, 2, 1, 1, 1]
    # And whoever then reads in sequence gets more again.
    ahead = []
    for number, page in enumerate(range(4000, 4200)):
        touch(array, page)
        ahead.append(filled(array) - before - number)
    assert max(ahead) >= 4 * BLOCK


@pytest.mark.parametrize("block", [1, 16, 512, 1024])
def test_a_block_that_is_given_does_not_adapt(lazyfree: str, path: Path, block: int) -> None:
    array = mapscratch.array(path, "u4", source=">u4", block=block * PAGESIZE)
    for number, page in enumerate((5000, 100, 7000)):
        touch(array, page)
        assert filled(array) == (number + 1) * block
    array.scratch.drop()
    for page in (5000, 100, 7000):
        touch(array, page)
    assert filled(array) == 6 * block
    np.testing.assert_array_equal(np.asarray(array), np.arange(len(array)))


def test_backwards(array: mapscratch.ScratchArray) -> None:
    for page in reversed(range(2000)):
        touch(array, page)
    assert filled(array) == 2000


def test_units_of_three_pages(lazyfree: str, tmp_path: Path) -> None:
    """Items of 12 bytes: three pages hold whole ones."""
    triple = np.dtype(("<u4", 3))
    values = np.arange(300_000, dtype="u4").reshape(-1, 3)
    values.tofile(tmp_path / "values")
    array = mapscratch.array(
        tmp_path / "values", "u4", source=triple, fixup=Python(np.ravel, items=3)
    )
    touch_items = [0, 299_999, 150_000, 3 * 1024, 3 * 1024 - 1]
    for item in touch_items:
        assert np.asarray(array)[item] == item
    np.testing.assert_array_equal(np.asarray(array), np.arange(300_000))
