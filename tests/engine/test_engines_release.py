# SPDX-License-Identifier: Apache-2.0
"""What `drop` and `release_all` give back: our pages, and those of files they are made of."""

from __future__ import annotations

import os
import threading
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from support import seccomp
from support.files import PatternFile
from support.interpreter import run_python

import mapscratch
from mapscratch import ScratchMap, Words
from mapscratch.engine import release_all
from mapscratch.proc import range_memory
from mapscratch.proc.maps import mapped_files

ITEMS = 4 << 20
SOURCE = np.dtype(">i2")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("release") / "values"
    np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(SOURCE).tofile(path)
    return path


@pytest.fixture
def array(path: Path, lazyfree: str) -> mapscratch.ScratchArray:
    return mapscratch.array(path, "f4", source=SOURCE)


def source_bytes(path: Path) -> int:
    """Bytes of a file that this process has mapped and in memory: its part of RssFile."""
    areas = [area for area in mapped_files("self") if area.path == str(path)]
    return sum(range_memory(area.start, area.end - area.start).usage.rss for area in areas)


def same(array: np.ndarray, path: Path, items: slice = slice(None)) -> bool:
    return np.array_equal(array[items], np.fromfile(path, SOURCE)[items].astype("f4"))


def test_drop_unmaps_the_file_too(array: mapscratch.ScratchArray, path: Path) -> None:
    assert same(array, path)
    assert source_bytes(path) >= path.stat().st_size // 2
    went = array.scratch.drop()
    assert went == array.nbytes // PAGESIZE
    assert array.scratch.counts().resident == 0
    assert source_bytes(path) == 0
    assert same(array, path)


def test_a_drop_of_a_part_unmaps_what_that_is_made_of(
    array: mapscratch.ScratchArray, path: Path
) -> None:
    assert same(array, path)
    before = source_bytes(path)
    array[ITEMS // 4 : ITEMS // 2].scratch.drop()
    quarter = path.stat().st_size // 4
    assert before - quarter - 2 * PAGESIZE <= source_bytes(path) <= before - quarter
    assert same(array, path)


def test_pinned_pages_stay_and_what_they_are_made_of_goes(
    array: mapscratch.ScratchArray, path: Path
) -> None:
    assert same(array, path)
    with array[: 3 * PAGESIZE // 4].scratch.pin():
        array.scratch.drop()
        assert array.scratch.counts().resident == 3
        assert source_bytes(path) == 0
        assert same(array, path, slice(0, 3000))
    assert same(array, path)


@pytest.mark.parametrize("fixup", [None, Words({0: 1})])
def test_drop_of_a_map_unmaps_the_file_too(
    lazyfree: str, file: PatternFile, fixup: Words | None
) -> None:
    with ScratchMap(file.path, engine=lazyfree, fixup=fixup) as m:
        m[:]
        assert source_bytes(file.path) > 0
        assert m.drop() == file.pages
        assert source_bytes(file.path) == 0
        assert m[8:] == file.data[8:]


def test_release_all_gives_back_what_every_mapping_has(
    engine: str, file: PatternFile, array: mapscratch.ScratchArray, path: Path
) -> None:
    with ScratchMap(file.path, engine=engine) as m:
        m[0] = m[0]  # a private copy
        m[:]
        assert same(array, path)
        resident = sum(one.counts().resident for one in (m, array.scratch)) * PAGESIZE
        sources = source_bytes(path)
        assert release_all() >= resident + sources
        assert m.counts().resident == array.scratch.counts().resident == 0
        assert source_bytes(path) == 0
        assert release_all() == 0
        assert m[:] == file.data
        assert same(array, path)


def test_release_all_leaves_pinned_pages(engine: str, file: PatternFile) -> None:
    with ScratchMap(file.path, engine=engine) as m:
        with m.pin(PAGESIZE, PAGESIZE):
            m[PAGESIZE] = 7
            release_all()
            assert m[PAGESIZE] == 7
            assert m.counts().pinned == 1
        release_all()
        assert m[:] == file.data


def test_release_all_of_nothing() -> None:
    run_python("""
        from mapscratch.engine import release_all
        assert release_all() == 0
    """)


def test_readers_see_the_same_while_others_release(
    array: mapscratch.ScratchArray, path: Path
) -> None:
    expected = np.fromfile(path, SOURCE).astype("f4")
    released = [0]
    ends = threading.Event()

    def release() -> None:
        while not ends.is_set():
            released[0] += release_all()

    releasers = [threading.Thread(target=release) for _ in range(2)]
    for thread in releasers:
        thread.start()
    random = np.random.default_rng(1)
    try:
        for start in random.integers(0, ITEMS - 50_000, 300):
            part = slice(start, start + 50_000)
            assert np.array_equal(array[part], expected[part])
    finally:
        ends.set()
        for thread in releasers:
            thread.join()
    assert released[0] > 0


def test_release_all_over_fork(lazyfree: str, path: Path) -> None:
    run_python(
        """
        import os, sys, numpy as np, mapscratch
        from mapscratch.engine import release_all
        array = mapscratch.array(sys.argv[1], "f4", source=">i2")
        expected = np.fromfile(sys.argv[1], ">i2").astype("f4")
        assert np.array_equal(array, expected)
        child = os.fork()
        if not child:
            assert np.array_equal(array, expected)
            assert release_all() >= array.nbytes
            assert np.array_equal(array, expected)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert release_all() >= array.nbytes
        """,
        path,
    )


# What it costs

PAGEMAP_SCAN = 0xC0606610  # linux/fs.h, of Linux 6.7


@pytest.mark.parametrize(
    "scans",
    [
        True,
        pytest.param(
            False,
            marks=pytest.mark.skipif(
                not seccomp.is_supported(),
                reason="the system call numbers of this processor aren't known here",
            ),
        ),
    ],
    ids=["scans", "before Linux 6.7"],
)
def test_what_is_not_there_costs_nothing(lazyfree: str, tmp_path: Path, scans: bool) -> None:
    """Of a tebibyte of which little is there: an entry for each page would be 2 GiB to read."""
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 1 << 40)
    run_python(
        """
        import sys
        import mapscratch
        from mapscratch.engine import release_all
        from support.seccomp import forbid_request

        def resident():
            with open("/proc/self/status") as status:
                return int(next(line.split()[1] for line in status if line.startswith("VmRSS")))

        def read():
            with open("/proc/self/io") as figures:
                return int(figures.readline().split()[1])  # rchar

        if not int(sys.argv[2]):
            forbid_request(int(sys.argv[3]))
        array = mapscratch.array(sys.argv[1], "u1")
        places = 5, 1 << 39, (1 << 40) - 1

        def round_trip():
            assert [int(array[place]) for place in places] == [0, 0, 0]
            there = array.scratch.counts().resident
            assert len(places) <= there < 1000
            assert array.scratch.drop() == there - array.scratch.counts().pinned
            array.scratch.reclaim()

        round_trip()
        before, memory = read(), resident()
        round_trip()
        with array[:1].scratch.pin(), array[-1:].scratch.pin():
            round_trip()
        release_all()
        round_trip()
        assert read() - before < 16 << 20, read() - before
        assert resident() - memory < 64 << 10, resident() - memory
        """,
        large,
        int(scans),
        PAGEMAP_SCAN,
    )


def test_pins_of_a_large_array_cost_a_forked_child_nothing(lazyfree: str, tmp_path: Path) -> None:
    """The child has none of them: forgetting them must not take memory for each page."""
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 1 << 40)
    run_python(
        """
        import os, resource, sys
        import mapscratch

        array = mapscratch.array(sys.argv[1], "u1")
        with array[:1].scratch.pin():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            child = os.fork()
            if not child:
                assert array[7] == 0 and array.scratch.counts().pinned == 0
                taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                os._exit(taken > 64 << 10)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert array.scratch.counts().pinned == 1
        assert array.scratch.counts().pinned == 0
        """,
        large,
    )
