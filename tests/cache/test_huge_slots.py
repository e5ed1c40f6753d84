# SPDX-License-Identifier: Apache-2.0
"""Huge slots on real pages: taken back whole or known to be lost, whatever happens to them."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import time
from collections.abc import Iterator
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from support.patience import patient
from support.purgeable import drain, memory_of, reclaim

from mapscratch._native import PurgeableEntry, PurgeablePages, purgeable_refused, why_not_huge
from mapscratch.cache.slots import SLOT, Slots
from mapscratch.proc import range_memory

PAGES = SLOT // PAGESIZE
MADV_COLD, MADV_COLLAPSE = 20, 25

pytestmark = pytest.mark.usefixtures("purgeable_pages")


@pytest.fixture
def slots() -> Iterator[Slots]:
    if reason := why_not_huge():
        pytest.skip(reason)
    yield Slots()


def filled(slots: Slots, seed: int = 0) -> tuple[PurgeableEntry, PurgeablePages, Any]:
    """An entry that is all of one slot, which is one huge page, and its words."""
    place = slots.grow(PAGES)
    if place is None:
        pytest.skip("there is no huge page to be had")
    (slot,), offset = slots.pages_of(place)
    entry = PurgeableEntry((slot,), offset, SLOT)
    words = np.random.default_rng(seed).integers(1, 2**63, (PAGES, PAGESIZE // 8), "u8")
    words_of(slot)[:] = words
    assert slot.is_huge
    return entry, slot, words


def words_of(slot: PurgeablePages) -> Any:
    count = slot.size // 8
    return np.frombuffer(memory_of(slot).memory, "u8", count, slot.offset).reshape(PAGES, -1)


def advise(slot: PurgeablePages, advice: int, page: int = 0, pages: int = PAGES) -> None:
    memory_of(slot).memory.madvise(advice, slot.offset + page * PAGESIZE, pages * PAGESIZE)


def split(slot: PurgeablePages) -> None:
    """As the kernel does it for many reasons; all of it stays."""
    advise(slot, MADV_COLD, 7, 1)


def drop(slot: PurgeablePages) -> None:
    """Has the kernel take it, which passes over it while a processor has it in a batch."""
    ends = time.monotonic() + patient(10)
    while slot.is_whole() and time.monotonic() < ends:
        drain()
        advise(slot, 21)
    assert not slot.is_whole()


def test_taken_back_in_one_piece_again_and_again(slots: Slots) -> None:
    _entry, slot, words = filled(slots)
    for was_used in (False, True, True, False):
        slot.was_used = was_used
        assert not slot.release()
        assert slot.is_whole()
        assert words_of(slot)[0, 0] != words[0, 0]
        assert slot.pin()
        assert slot.is_huge
        np.testing.assert_array_equal(words_of(slot), words)


def test_dropped_as_a_whole(slots: Slots) -> None:
    _entry, slot, _ = filled(slots)
    assert not slot.release()
    drop(slot)
    assert not slot.pin()


@pytest.mark.parametrize("page", [1, 7, 300, PAGES - 1])
def test_a_part_of_it_is_gone(slots: Slots, page: int) -> None:
    """The canary is there, and a page isn't: only the look at the page table tells."""
    entry, slot, words = filled(slots)
    assert not slot.release()
    advise(slot, mmap.MADV_DONTNEED, page, 1)
    with pytest.raises(LookupError, match="has taken"):
        entry.lease()
    assert not words_of(slot)[page].any()
    assert words_of(slot)[0, 0] == words[0, 0]


def test_what_was_split_is_taken_page_by_page(slots: Slots) -> None:
    entry, slot, words = filled(slots)
    assert not slot.release()
    split(slot)
    view = entry.lease()
    assert not slot.is_huge
    np.testing.assert_array_equal(words_of(slot), words)
    del view  # from now on with a canary a page
    assert slot.is_released
    assert (words_of(slot)[:, 0] != words[:, 0]).all()
    view = entry.lease()
    np.testing.assert_array_equal(words_of(slot), words)
    del view
    advise(slot, mmap.MADV_DONTNEED, 300, 1)
    with pytest.raises(LookupError, match="has taken"):
        entry.lease()


def test_what_was_found_page_by_page_stays(slots: Slots) -> None:
    """It was made dirty before it was looked at: nothing of it can be dropped any more."""
    for seed in range(5):
        _entry, slot, words = filled(slots, seed)
        assert not slot.release()
        split(slot)
        assert slot.pin()
        for _ in range(3):
            drain()
            advise(slot, 21)
        np.testing.assert_array_equal(words_of(slot), words)


def test_a_page_of_zeros_in_what_was_split_may_be_a_dropped_one(slots: Slots) -> None:
    entry, slot, _ = filled(slots)
    words_of(slot)[300] = 0
    assert not slot.release()
    view = entry.lease()  # as long as it is huge it is known to be one
    del view
    split(slot)
    with pytest.raises(LookupError, match="has taken"):
        entry.lease()


def test_pages_that_hold_zeros_are_whole_if_they_were_dropped(slots: Slots) -> None:
    entry, slot, words = filled(slots)
    words[300:302] = words_of(slot)[300:302] = 0
    entry.seal()
    assert not slot.release()
    split(slot)
    advise(slot, mmap.MADV_DONTNEED, 301, 1)
    view = entry.lease()
    np.testing.assert_array_equal(words_of(slot), words)
    del view
    other, slot, words = filled(slots)
    words[301, 511] = words_of(slot)[301, 511] = 1
    other.seal()
    assert not slot.release()
    advise(slot, mmap.MADV_DONTNEED, 301, 1)
    with pytest.raises(LookupError, match="has taken"):
        other.lease()


def test_pages_that_nobody_is_in_need_hold_nothing(slots: Slots) -> None:
    place = slots.grow(10)
    if place is None:
        pytest.skip("there is no huge page to be had")
    (slot,), _ = slots.pages_of(place)
    entries = [PurgeableEntry((slot,), offset * PAGESIZE, PAGESIZE) for offset in (0, 5)]
    gone = PurgeableEntry((slot,), 8 * PAGESIZE, PAGESIZE)
    words_of(slot)[0] = words_of(slot)[5] = 7
    del gone
    assert not slot.release()
    split(slot)
    assert slot.pin()
    assert (words_of(slot)[5] == 7).all()
    entries.clear()


def test_what_nobody_stored_to_stays_too(slots: Slots) -> None:
    """A draft in what was split, where another entry had been: the kernel could have had it yet."""
    place = slots.grow(20)
    if place is None:
        pytest.skip("there is no huge page to be had")
    (slot,), _ = slots.pages_of(place)
    entry = PurgeableEntry((slot,), 0, PAGESIZE)
    words_of(slot)[:20] = 7
    assert not slot.release()
    split(slot)
    view = entry.lease()
    assert not slot.is_huge
    other = PurgeableEntry((slot,), 10 * PAGESIZE, 10 * PAGESIZE)
    draft = other.lease(True)
    other.seal()
    words = words_of(slot)[10:20].copy()
    for _ in range(20):
        drain()
        advise(slot, 21)
    np.testing.assert_array_equal(words_of(slot)[10:20], words)
    del view, draft


def test_nothing_makes_a_huge_page_of_what_was_split(slots: Slots) -> None:
    """Else the canary would be in a huge page, of which a part had been dropped."""
    _entry, slot, _ = filled(slots)
    assert "nh" in range_memory(slot.address, slot.size).vm_flags
    assert not slot.release()
    advise(slot, mmap.MADV_DONTNEED, 300, 1)
    with pytest.raises(OSError):
        advise(slot, MADV_COLLAPSE)
    assert not slot.pin()


def in_child(test: Any) -> None:
    """Runs it in a forked child; fails if it doesn't return True."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if test() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_looks_at_its_own_mapping(slots: Slots) -> None:
    """Through its parent's descriptor it would see one huge page."""
    _entry, slot, words = filled(slots)
    assert not slot.release()

    def take() -> bool:
        advise(slot, mmap.MADV_DONTNEED, 300, 1)
        return not slot.pin()

    in_child(take)
    in_child(lambda: bool(slot.pin() and (words_of(slot) == words).all()))
    assert slot.pin()
    np.testing.assert_array_equal(words_of(slot), words)


def test_a_parent_whose_child_lives(slots: Slots) -> None:
    _entry, slot, words = filled(slots)
    assert not slot.release()
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        assert slot.pin()
        np.testing.assert_array_equal(words_of(slot), words)
        assert not slot.release()
        assert slot.pin()
        np.testing.assert_array_equal(words_of(slot), words)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_all_descriptors_are_closed(slots: Slots) -> None:
    """As daemons do it. Then the numbers are others', here of a look at another process."""
    _entry, slot, _ = filled(slots)
    assert not slot.release()
    other = f"/proc/{os.getpid()}/pagemap"

    def close_all() -> bool:
        slots.grow(PAGES)  # a look at something huge
        os.closerange(3, 1000)
        others = [os.open(other, os.O_RDONLY) for _ in range(100)]
        advise(slot, mmap.MADV_DONTNEED, 300, 1)
        return bool(others and not slot.pin())

    in_child(close_all)
    assert slot.pin()


def test_no_descriptor_is_to_be_had(slots: Slots) -> None:
    """A child that can't look takes it page by page; and it looks as soon as it can."""
    _entry, slot, words = filled(slots)
    assert not slot.release()

    def without() -> bool:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        is_right = slot.pin() and not slot.is_huge and (words_of(slot) == words).all()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        return bool(is_right and slots.grow(PAGES))

    in_child(without)
    assert slot.pin()


def test_memory_that_is_locked(slots: Slots) -> None:
    _entry, slot, words = filled(slots)
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_void_p(slot.address)
    if libc.mlock(pointer, slot.size):
        pytest.skip("it may not be locked")
    assert slot.release()
    assert not slot.is_released
    assert purgeable_refused()
    assert not libc.munlock(pointer, slot.size)
    np.testing.assert_array_equal(words_of(slot), words)


def test_reclaim_of_what_is_in_use(slots: Slots) -> None:
    _entry, slot, words = filled(slots)
    for _ in range(3):
        assert not slot.release()
        assert slot.pin()
        reclaim(memory_of(slot), slot.offset, slot.size)
        np.testing.assert_array_equal(words_of(slot), words)


def test_what_no_slot_is(slots: Slots) -> None:
    _entry, slot, _ = filled(slots)
    for offset, pages in ((slot.offset + PAGESIZE, PAGES - 1), (slot.offset + PAGESIZE, PAGES)):
        with pytest.raises(ValueError, match="no slot"):
            PurgeablePages(slot.region, offset, pages, True)
    assert not slot.release()
    with pytest.raises(ValueError, match="no such pages"):
        slot.pin(0, 5)
    assert slot.pin()
