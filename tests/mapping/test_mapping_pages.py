# SPDX-License-Identifier: Apache-2.0
"""drop, reclaim, pin and counts: which pages, and what is seen afterwards, on each engine."""

from __future__ import annotations

import mmap
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from conftest import MapFile
from support.engines import AVAILABLE
from support.files import PatternFile
from support.interpreter import run_python, start_python
from support.processors import on_one_processor
from support.squeezing import reclaim_when_asked
from support.swap import some_swap
from support.waiting import eventually

from mapscratch import PageCounts, ReclaimNotApplicable, ScratchMap
from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)

PAGES = 41  # of the fixture `file`: 40.3


def dirty_pages(m: ScratchMap, pages: range) -> None:
    for page in pages:
        m[page * PAGESIZE] = 0


def stored_pages(m: ScratchMap, file: PatternFile) -> set[int]:
    """The pages that show something else than the file."""
    return {
        page
        for page in range(file.pages)
        if m[page * PAGESIZE : (page + 1) * PAGESIZE]
        != file.data[page * PAGESIZE : (page + 1) * PAGESIZE]
    }


@pytest.mark.parametrize(
    ("arguments", "dropped"),
    [
        ((), range(PAGES)),
        ((0, None), range(PAGES)),
        ((PAGESIZE,), range(1, PAGES)),
        ((0, 1), range(1)),
        ((PAGESIZE - 1, 1), range(1)),
        ((PAGESIZE - 1, 2), range(2)),
        ((5, 3 * PAGESIZE), range(4)),
        ((3 * PAGESIZE, PAGESIZE), range(3, 4)),
        ((7 * PAGESIZE + 9, 20 * PAGESIZE), range(7, 28)),
        ((40 * PAGESIZE,), range(40, 41)),
        ((0, 0), range(0)),
        ((77, 0), range(0)),
        ((np.int64(PAGESIZE), np.uint8(1)), range(1, 2)),
    ],
    ids=str,
)
def test_every_page_that_holds_a_byte_of_the_range_is_dropped(
    m: ScratchMap, file: PatternFile, arguments: tuple[int, ...], dropped: range
) -> None:
    dirty_pages(m, range(PAGES))
    assert m.drop(*arguments) == len(dropped)
    assert stored_pages(m, file) == set(range(PAGES)) - set(dropped)
    assert m.counts().dropped == (None if m.engine == "kernel" else len(dropped))


@pytest.mark.parametrize("name", ["drop", "reclaim", "pin"])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), ValueError),
        ((0, -1), ValueError),
        ((0, 10**9), ValueError),
        ((10**9,), ValueError),
        ((41 * PAGESIZE,), ValueError),
        ((8, 2**70), ValueError),
        ((40 * PAGESIZE, PAGESIZE), ValueError),
        ((0.0,), TypeError),
        ((0, 1.5), TypeError),
        (("0",), TypeError),
        ((None,), TypeError),
    ],
    ids=str,
)
def test_ranges_outside_of_the_mapping_raise(
    m: ScratchMap, name: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        if name == "pin":
            m.pin(*arguments).__enter__()
        else:
            getattr(m, name)(*arguments)
    assert m.counts().pinned == 0


def test_a_drop_of_what_is_not_there_is_nothing(m: ScratchMap) -> None:
    assert m.drop() == 0
    m.store(0, 1)
    assert m.drop() >= 1
    assert m.drop() == 0


def test_a_page_reverts_whole(m: ScratchMap, file: PatternFile) -> None:
    m[:] = bytes(len(m))
    m.drop(2 * PAGESIZE, PAGESIZE)
    assert m[2 * PAGESIZE : 3 * PAGESIZE] == file.data[2 * PAGESIZE : 3 * PAGESIZE]
    assert m[: 2 * PAGESIZE] == bytes(2 * PAGESIZE)
    assert not any(m[3 * PAGESIZE :])


@pytest.mark.parametrize("engine", [name for name in AVAILABLE if name != "dontneed"])
def test_reclaim_by_the_kernel_drops_what_was_stored(map_file: MapFile, file: PatternFile) -> None:
    m = map_file()
    with on_one_processor():
        dirty_pages(m, range(PAGES))
        m.reclaim()
    # The kernel may leave a page, but not half of one; and hardly all.
    kept = m.counts().resident
    assert kept < PAGES // 2
    assert stored_pages(m, file) <= set(range(PAGES))
    m.reclaim(0, PAGESIZE)
    m.reclaim(0, 0)


def test_reclaim_where_we_decide_raises_and_names_drop(file: PatternFile) -> None:
    with ScratchMap(file.path, engine="dontneed") as m:
        m.store(0, 1)
        with pytest.raises(ReclaimNotApplicable, match=r"Use m\.drop\(\)"):
            m.reclaim()
        assert m.load(0) == 1


@pytest.mark.parametrize("arguments", [{}, {"access": mmap.ACCESS_READ}], ids=str)
def test_no_page_outside_the_window_is_swapped(
    map_lazyfree: MapFile, arguments: dict[str, int]
) -> None:
    m = map_lazyfree(**arguments)
    with some_swap():
        for _ in range(10):
            if not arguments:
                dirty_pages(m, range(PAGES))
            assert m[:]
            m.reclaim()
            assert m.counts().swapped == 0
        assert m.guarantees.no_swap == "outside window"


def test_a_pinned_page_stays(m: ScratchMap, file: PatternFile) -> None:
    m.store(0, 1)
    with m.pin():
        assert m.load(0) == 1
        m.store(PAGESIZE, 2)
        assert m.drop() == 0
        if m.engine != "dontneed":
            m.reclaim()
        assert (m.load(0), m.load(PAGESIZE)) == (1, 2)
        assert m.counts().pinned == PAGES
        assert m.counts().resident == PAGES
    assert m.counts().pinned == 0
    assert m.drop() > 0
    assert m[:] == file.data


def test_pins_nest(m: ScratchMap, file: PatternFile) -> None:
    with m.pin():
        m.store(0, 1)
        with m.pin(), m.pin():
            pass
        assert m.drop() == 0
        assert m.load(0) == 1
        assert m.counts().pinned == PAGES
    assert m.drop() > 0
    assert m.load(0) == file.word(0)


def test_pins_overlap_and_are_counted_a_page(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import sys
        from mmap import PAGESIZE
        from mapscratch import ScratchMap

        m = ScratchMap(sys.argv[1], engine=sys.argv[2])
        outer = m.pin(2 * PAGESIZE, 10 * PAGESIZE)
        inner = m.pin(5 * PAGESIZE + 1, 20 * PAGESIZE)  # pages 5 to 25
        outer.__enter__()
        for page in range(41):
            m[page * PAGESIZE] = 0
        inner.__enter__()
        assert m.counts().pinned == 24
        assert m.drop() == 41 - 24
        for page in range(41):
            assert (m[page * PAGESIZE] == 0) == (2 <= page < 26), page
        outer.__exit__(None, None, None)
        assert m.counts().pinned == 21
        m.drop()
        for page in range(41):
            assert (m[page * PAGESIZE] == 0) == (5 <= page < 26), page
        inner.__exit__(None, None, None)
        assert m.counts().pinned == 0
        m.drop()
        assert all(m[page * PAGESIZE] for page in range(41))
        """,
        file.path,
        engine,
        timeout=30,
    )


@pytest.mark.parametrize("page", [0, 1, 15, 16, 39, 40])
def test_a_page_that_is_not_in_memory_is_pinned(engine: str, file: PatternFile, page: int) -> None:
    run_python(
        """
        import sys
        from mmap import PAGESIZE
        from mapscratch import ScratchMap

        path, engine, page = sys.argv[1], sys.argv[2], int(sys.argv[3])
        data = open(path, "rb").read()
        m = ScratchMap(path, engine=engine)
        with m.pin(page * PAGESIZE, 1):
            assert m[:] == data
            assert m.counts().pinned == 1
            m[page * PAGESIZE] = 0
            m.drop()
            assert m[page * PAGESIZE] == 0
        m.drop()
        assert m[:] == data
        """,
        file.path,
        engine,
        page,
        timeout=30,
    )


def test_an_empty_pin_pins_nothing(m: ScratchMap) -> None:
    with m.pin(8, 0):
        assert m.counts().pinned == 0


def test_a_pin_ends_with_an_exception(m: ScratchMap) -> None:
    with pytest.raises(ZeroDivisionError), m.pin():
        raise ZeroDivisionError
    assert m.counts().pinned == 0


def test_closing_releases_pins(map_file: MapFile) -> None:
    m = map_file()
    with m.pin():
        m.close()
        assert m.closed


def test_a_pin_beyond_the_limit_raises_and_pins_nothing(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import errno, resource, sys
        from mmap import PAGESIZE
        from support.ordinary_user import become_ordinary_user
        from mapscratch import ScratchMap

        source = open(sys.argv[1], "rb")
        data = source.read()
        limit = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        become_ordinary_user()
        import warnings; warnings.simplefilter("ignore")
        m = ScratchMap(source, engine=sys.argv[2])
        m.store(0, 1)
        try:
            with m.pin():
                raise SystemExit("pinned more than is allowed")
        except OSError as error:
            assert error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EPERM), error
            assert "RLIMIT_MEMLOCK" in str(error) and str(limit) in str(error), error
            assert "ulimit -l" in str(error)
        assert m.counts().pinned == 0
        m.drop()
        assert m[:] == data
        """,
        file.path,
        engine,
        0 if engine == "dontneed" else 8 * PAGESIZE,
    )


def check_counts(counts: PageCounts, pages: int) -> None:
    assert 0 <= counts.resident <= pages
    assert 0 <= counts.swapped <= pages - counts.resident
    assert 0 <= counts.pinned <= pages
    if counts.dirty is not None:
        assert 0 <= counts.dirty <= counts.resident
    if counts.dirty is not None and counts.droppable is not None:
        assert counts.dirty + counts.droppable <= counts.resident
    if counts.filled is not None:
        assert counts.rebuilt is not None
        assert 0 <= counts.rebuilt <= counts.filled
    assert counts.dropped is None or counts.dropped >= 0


def test_counts_follow_a_mappings_life(m: ScratchMap) -> None:
    assert m.counts().resident == 0
    m[:]
    read = m.counts()
    assert read.resident == PAGES
    dirty_pages(m, range(3))
    check_counts(m.counts(), PAGES)
    if m.engine == "dontneed":
        assert m.counts().dirty == 3
        assert m.drop() == 3
        assert m.counts().dropped == 3
    elif m.engine == "kernel":
        stored = m.counts()
        assert stored.dirty is not None
        assert stored.droppable is not None
        assert stored.dirty + stored.droppable == 3
        assert m.drop() == 3
        assert (stored.filled, stored.rebuilt, stored.dropped) == (None, None, None)
    else:
        assert (read.filled, read.rebuilt, read.dropped) == (PAGES, 0, 0)
        assert m.drop() == PAGES
        assert m.counts().dropped == PAGES
        m[:]
        again = m.counts()
        assert (again.filled, again.rebuilt) == (2 * PAGES, PAGES)
    m.drop()
    assert m.counts().resident == 0
    check_counts(m.counts(), PAGES)


@pytest.mark.parametrize("length", [1, PAGESIZE, PAGESIZE + 1, 20 * PAGESIZE])
def test_the_kernel_knows_what_is_droppable_whatever_the_length(
    map_lazyfree: MapFile, length: int
) -> None:
    m = map_lazyfree(length=length)
    m[:]
    counts = m.counts()
    assert counts.droppable is not None
    assert counts.dirty is not None
    assert counts.dirty + counts.droppable == counts.resident == -(-length // PAGESIZE)


def test_a_stored_page_is_droppable_again_after_the_window(map_lazyfree: MapFile) -> None:
    m = map_lazyfree()
    dirty_pages(m, range(PAGES))
    assert eventually(lambda: m.counts().droppable == PAGES)
    for _ in range(3):
        m.store(0, 5)
        assert m.load(0) == 5


def test_a_read_only_page_is_droppable_again_after_a_pin(map_lazyfree: MapFile) -> None:
    m = map_lazyfree(access=mmap.ACCESS_READ)
    with some_swap():
        with m.pin():
            m[:]
        m.reclaim()
        assert m.counts().swapped == 0


def test_a_page_is_droppable_as_soon_as_it_is_seen(map_lazyfree: MapFile) -> None:
    # The kernel marks lazily freed pages in batches of up to 31 a processor: none may wait there.
    for arguments in ({}, {"access": mmap.ACCESS_READ}):
        m = map_lazyfree(**arguments)
        for page in range(PAGES):
            m[page * PAGESIZE]
        assert m.counts().dirty == 0
        assert m.counts().droppable == PAGES


def test_a_squeezed_cgroup_swaps_nothing_of_it(lazyfree: str, file: PatternFile) -> None:
    probe = probe_temporary_memory_cgroup()
    if not probe:
        pytest.skip(probe.reason)
    with some_swap(), temporary_memory_cgroup(256 << 20) as group:
        process = start_python(
            """
            from support.prelude import *
            import time
            ordinary = bytearray(b"x") * (1 << 20)
            for _ in range(4):
                for page in range(0, 40, 3):
                    m.store(page * PAGESIZE, 1)
                m[:]
                time.sleep(0.05)  # the window
                print("touched", flush=True)
                sys.stdin.readline()
                assert m.counts().swapped == 0, m.counts()
                assert m.counts().resident < 41, m.counts()
                m.drop()
            check()
            """,
            file.path,
            lazyfree,
        )
        reclaim_when_asked(group, process)


def test_fixup_time_is_counted(map_lazyfree: MapFile) -> None:
    from mapscratch import Words

    m = map_lazyfree(fixup=Words({8 * word: 1 for word in range(20_000)}))
    m[:]
    seconds = m.counts().fixup_seconds
    assert seconds is not None
    assert 0 < seconds < 5


def test_not_even_the_base_class_truncates_the_file(m: ScratchMap, file: PatternFile) -> None:
    with pytest.raises(TypeError):
        mmap.mmap.resize(m, PAGESIZE)
    assert file.is_intact()
