# SPDX-License-Identifier: Apache-2.0
"""Purgeable memory on real pages: taken back whole, or known to be lost."""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
import time
from itertools import pairwise, product
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from support.patience import patient
from support.purgeable import drop_page, lease, let_go, memory_of, reclaim, take_back

from mapscratch import Cache, _native
from mapscratch._native import PurgeableEntry, PurgeablePages
from mapscratch.cache.purgeable import Region, Runs

PAGES = 4


pytestmark = pytest.mark.usefixtures("purgeable_pages")


def words_of(run: PurgeablePages) -> Any:
    count = run.size // 8
    return np.frombuffer(memory_of(run).memory, "u8", count, run.offset).reshape(-1, PAGESIZE // 8)


def end(run: PurgeablePages) -> None:
    """Something was in it, and is no more."""
    PurgeableEntry((run,), 0, 1)


def filled_run(pages: int = PAGES, seed: int = 0) -> tuple[PurgeablePages, Any]:
    run = Runs().cut(pages)
    words = np.random.default_rng(seed).integers(0, 2**63, (pages, PAGESIZE // 8), "u8")
    words_of(run)[:] = words
    return run, words


@pytest.mark.parametrize("moment", range(PAGES + 1))
@pytest.mark.parametrize("which", [*product([False, True], repeat=PAGES)])
def test_any_pages_dropped_at_any_moment(moment: int, which: tuple[bool, ...]) -> None:
    """Some pages go after `moment` pages have been taken back: those that were can't go."""
    run, words = filled_run()
    let_go(run)
    for page in range(moment):
        assert run.pin(page, page + 1)
    for page, goes in enumerate(which):
        if goes and page < moment:
            reclaim(memory_of(run), run.offset + page * PAGESIZE, PAGESIZE)
        elif goes:
            drop_page(run, page)
    is_whole = not any(which[moment:])
    assert moment == PAGES or run.pin(moment, PAGES) == is_whole
    np.testing.assert_array_equal(words_of(run)[:moment], words[:moment])
    if is_whole:
        np.testing.assert_array_equal(words_of(run), words)


def test_released_again_and_again() -> None:
    run, words = filled_run(64)
    for was_used in (False, True, True, False):
        run.was_used = was_used
        let_go(run)
        assert run.is_whole()
        assert (words_of(run)[:, 0] != words[:, 0]).all()
        assert take_back(run)
        np.testing.assert_array_equal(words_of(run), words)
    let_go(run)
    drop_page(run, 63)
    assert not run.is_whole()
    assert not take_back(run)


def test_a_word_that_is_zero() -> None:
    """The displaced word may be anything, also what a dropped page reads."""
    run, words = filled_run()
    for word in (0, 2**64 - 1):
        words_of(run)[:, 0] = words[:, 0] = word
        let_go(run)
        assert take_back(run)
        np.testing.assert_array_equal(words_of(run), words)


def test_used_while_it_is_released_and_the_other_way_round() -> None:
    run, _ = filled_run()
    with pytest.raises(RuntimeError, match="not released"):
        run.pin()
    let_go(run)
    with pytest.raises(RuntimeError, match="released already"):
        run.release()
    for first, end in ((0, PAGES + 1), (1, 1), (-1, 2)):
        with pytest.raises(ValueError, match="no such pages"):
            run.pin(first, end)
    view = lease(run, 0, 8)
    with pytest.raises(RuntimeError, match="in use"):
        run.release()
    assert run.pins == 1
    del view


def test_what_no_run_is() -> None:
    region = Region(2 * PAGESIZE, [])
    for offset, pages in ((0, 3), (PAGESIZE, 2), (1, 1), (-PAGESIZE, 1), (0, 0), (4 * PAGESIZE, 1)):
        with pytest.raises(ValueError, match="not in the region"):
            PurgeablePages(region, offset, pages)
    run = PurgeablePages(region, 0, 2)
    for offset, length in ((0, 2 * PAGESIZE + 1), (-1, 1), (0, -1), (2 * PAGESIZE + 1, 0)):
        with pytest.raises(ValueError, match="not in the pages"):
            PurgeableEntry((run,), offset, length)
    for pages in ((region,), ()):
        with pytest.raises((TypeError, ValueError)):
            PurgeableEntry(pages, 0, 1)  # type: ignore[arg-type]
    with pytest.raises((BufferError, TypeError)):
        PurgeablePages(b"x" * PAGESIZE, 0, 1)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        region.memory.close()  # the run is there


def test_a_lease_lives_as_long_as_what_was_made_of_it() -> None:
    run, words = filled_run()
    place = PurgeableEntry((run,), 0, run.size)
    view: Any = memoryview(lease(run, 8, 16))[8:]
    assert view.readonly
    array = np.frombuffer(view, "u8")[:]
    del view
    assert (run.pins, run.is_released) == (1, False)
    assert array[0] == words[0, 2]
    del array
    assert (run.pins, run.is_released) == (0, True)
    first = lease(run, 8, 16)  # takes it back
    second = place.lease()
    assert run.entries == 2
    del first
    assert (run.pins, run.is_released, run.entries) == (1, False, 1)
    np.testing.assert_array_equal(words_of(run), words)
    del second
    drop_page(run, 2)
    with pytest.raises(LookupError, match="has taken"):
        place.lease()
    with pytest.raises(LookupError, match="has taken"):
        lease(run, 8, 16)
    assert run.pins == 0


def test_a_run_ends_with_its_last_entry() -> None:
    """Its memory is given back then, and not before; nobody uses it any more."""
    memory = Runs()
    run = memory.cut(2)
    words_of(run)[:] = 7
    one = PurgeableEntry((run,), 0, 8)
    view = PurgeableEntry((run,), 8, 8).lease()
    del one
    memory.give_back()
    assert (words_of(run) == 7).all()
    assert memory.held == 2 * PAGESIZE
    del view
    assert run.is_retired
    with pytest.raises(LookupError):
        PurgeableEntry((run,), 0, 8)
    with pytest.raises(RuntimeError):
        run.release()
    again = memory.cut(2)
    assert again.address != run.address
    memory.give_back()
    assert memory.held == 2 * PAGESIZE
    assert not words_of(run).any()
    assert memory.cut(2).address == run.address


def test_a_retired_run_is_left_alone() -> None:
    """Its memory may be another's by now: the end of a view puts no canary there."""
    run, words = filled_run()
    place = PurgeableEntry((run,), 0, run.size)
    view = place.lease()
    run.retire()
    del view
    np.testing.assert_array_equal(words_of(run), words)
    assert not run.is_released
    with pytest.raises(LookupError):
        place.lease()


def test_several_entries_in_one_place() -> None:
    memory = Runs()
    run = memory.cut(1)
    first = PurgeableEntry((run,), 0, 100)
    second = first.again(50, ((50,), "u1", "C"))
    del first
    memory.give_back()
    assert memory.held == PAGESIZE
    assert (second.length, second.form) == (50, ((50,), "u1", "C"))
    for length in (101, -1):
        with pytest.raises(ValueError, match="doesn't fit"):
            second.again(length, None)
    third = second.again(100, None)
    del second
    assert run.entries == 2  # the first one lives with those in its place
    del third
    memory.give_back()
    assert memory.held == 0


def test_runs_are_cut_given_back_and_cut_again() -> None:
    memory = Runs()
    runs = [memory.cut(pages) for pages in (1, 1, 5, 33, 700, 20_000, 3)]
    ranges = sorted((run.address, run.address + run.size) for run in runs)
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert memory.held == sum(run.size for run in runs) == 20_743 * PAGESIZE
    place = runs[2].address
    words_of(runs[2])[:] = 1
    end(runs[2])
    memory.give_back()
    again = memory.cut(5)
    assert again.address == place
    assert not words_of(again).any()
    for run in (*runs[:2], *runs[3:], again):
        end(run)
    memory.give_back()
    assert memory.held == 0
    assert len(memory._regions) == 1


def test_many_runs_are_few_mappings() -> None:
    """The kernel allows 65,530 mappings a process, and each hole makes one more."""
    memory = Runs()
    runs = [memory.cut(1) for _ in range(100_000)]
    for run in runs[::2]:
        words_of(run)[:] = 1
        end(run)
    memory.give_back()
    with open("/proc/self/maps") as maps:
        assert len(maps.readlines()) < 10_000


def test_the_kernel_refuses() -> None:
    run, words = filled_run()
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_void_p(run.address)
    assert not libc.mlock(pointer, run.size)
    assert run.release() == errno.EINVAL
    assert not run.is_released
    assert _native.purgeable_refused() == errno.EINVAL
    assert _native.purgeable_refused() == 0
    assert not libc.munlock(pointer, run.size)
    np.testing.assert_array_equal(words_of(run), words)


def test_several_are_released_at_once() -> None:
    """What was used lately is; where one of them can't be, the others are."""
    cache = Cache()
    values = {key: np.full(5 * PAGESIZE, key + 1, "u1") for key in range(40)}
    cache.update(values)
    entries = cache._table.all()
    locked = entries[7].pages[0]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(locked.address), locked.size):
        pytest.skip("it may not be locked")
    cache._table.release_recent()
    assert [entry.pages[0].is_released for entry in entries] == [
        number != 7 for number in range(40)
    ]
    assert _native.purgeable_refused() == errno.EINVAL
    assert not libc.munlock(ctypes.c_void_p(locked.address), locked.size)
    for key, wanted in values.items():
        np.testing.assert_array_equal(cache[key], wanted)


@pytest.mark.parametrize("pages", [1, 7, 64])
def test_reclaim_all_the_time(pages: int) -> None:
    """Two threads have the kernel reclaim without pause: never a wrong or a dropped word."""
    run, words = filled_run(pages)
    drain = mmap.mmap(-1, PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    stop = threading.Event()

    def reclaim_always() -> None:
        while not stop.is_set():
            reclaim(memory_of(run), run.offset, run.size)
            time.sleep(0)

    threads = [threading.Thread(target=reclaim_always) for _ in range(2)]
    for thread in threads:
        thread.start()
    hits = lost = 0
    try:
        began = time.monotonic()
        while time.monotonic() < began + (1.5 if lost else patient(20)):
            let_go(run)
            if np.random.default_rng(hits + lost).integers(2):
                drain.madvise(mmap.MADV_FREE)  # what waits in this processor's batch goes on
                time.sleep(1e-4)
            if take_back(run):
                hits += 1
            else:
                lost += 1
                memory_of(run).discard(run.offset, run.size)
                run = PurgeablePages(run.region, run.offset, pages)
                words_of(run)[:] = words
            np.testing.assert_array_equal(words_of(run), words)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert hits
    assert lost
