# SPDX-License-Identifier: Apache-2.0
"""Places in huge slots: nobody's memory is anybody else's, and little of it is wasted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from mmap import PAGESIZE

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapscratch import Cache
from mapscratch._native import PurgeableEntry, why_not_huge
from mapscratch.cache.slots import SLOT, Holes, Place, Slots

PAGES = SLOT // PAGESIZE
KIB, MIB = 1 << 10, 1 << 20

pytestmark = [
    pytest.mark.usefixtures("purgeable_pages"),
    pytest.mark.skipif(why_not_huge() is not None, reason="no huge pages here"),
]


def put(slots: Slots, pages: int) -> tuple[Place, PurgeableEntry]:
    place = slots.find(pages) or slots.grow(pages)
    if place is None:
        pytest.skip("there is no huge page to be had")
    assert place.pages == pages
    all_pages, offset = slots.pages_of(place)
    return place, PurgeableEntry(all_pages, offset, pages * PAGESIZE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1300)), max_size=60))
def test_places_never_overlap(steps: list[tuple[bool, int]]) -> None:
    slots = Slots()
    there: list[tuple[Place, PurgeableEntry]] = []
    for is_new, number in steps:
        if is_new or not there:
            there.append(put(slots, number))
            assert there[-1][1].address == there[-1][0].first * PAGESIZE
        else:
            there.pop(number % len(there))
            slots.give_back() if number % 2 else slots.collect()
        taken = sorted(place for place, _ in there)
        assert all(one.first + one.pages <= other.first for one, other in pairwise(taken))
        assert slots.used == sum(place.pages for place in taken) * PAGESIZE
        assert slots.held >= slots.used
    there.clear()
    slots.give_back()
    assert (slots.held, slots.used) == (0, 0)
    assert len(slots.regions) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=40), st.integers(1, 20))
def test_holes_are_what_is_free(ranges: list[tuple[int, int]], wanted: int) -> None:
    holes, free = Holes(), set[int]()
    for start, length in ranges:
        if not free & set(range(start, start + length)):
            holes.add(start, start + length)
            free |= set(range(start, start + length))
        else:
            holes.clear(start, start + length)
            free -= set(range(start, start + length))
        hole = holes.shortest(wanted)
        runs = [
            next(n for n in range(first, 100) if n not in free) - first
            for first in free
            if first - 1 not in free
        ]
        assert (hole is None) == (not any(run >= wanted for run in runs))
        if hole:
            assert set(range(*hole)) <= free
            assert hole[1] - hole[0] == min(run for run in runs if run >= wanted)
            assert holes.around(hole[0] + wanted - 1) == hole
            assert holes.before(hole[1]) == hole[0]


def test_what_was_lost_is_used_by_nobody_until_it_was_given_back() -> None:
    slots = Slots()
    (first, one), (second, two) = put(slots, 100), put(slots, 100)
    (slot,) = one.pages
    assert second.first == first.first + 100
    slots.condemn(slot)
    third, _three = put(slots, 10)
    assert third.first // PAGES != first.first // PAGES
    del one
    slots.give_back()
    assert slots.held == 2 * SLOT
    del two
    slots.give_back()
    assert slots.held == SLOT
    assert slot.is_retired


def mappings() -> int:
    """Bytes of the mappings of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * PAGESIZE


def test_memory_goes_with_the_last_who_has_something_there() -> None:
    slots = Slots()
    _, entry = put(slots, 5)
    view = memoryview(entry.lease(True))
    view[:] = b"7" * len(view)
    before = mappings()
    del slots, entry
    assert bytes(view[:3]) == b"777"
    assert mappings() == before
    del view
    assert mappings() < before


class Interrupt(BaseException):
    pass


def test_interrupted_amid_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known may be wrong then: nothing of it is used again; and what somebody has stays."""
    slots = Slots()
    _, entry = put(slots, 100)
    view = memoryview(entry.lease(True))
    view[:] = b"7" * len(view)

    def interrupt(*_: object) -> None:
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(Holes, "take", interrupt)
        with pytest.raises(Interrupt):
            slots.find(10)
    assert slots.find(10) is None
    place, other = put(slots, 10)
    assert not set(range(place.first, place.first + 10)) & set(
        range(entry.address // PAGESIZE, entry.address // PAGESIZE + 100)
    )
    assert bytes(view[:3]) == b"777"
    del view, entry, other
    slots.give_back()
    assert slots.held == 0


def mixes() -> Iterator[tuple[str, Callable[[np.random.Generator], int]]]:
    """Bytes of what caches hold: all of one size, and mixes that one meets."""
    for size in (300 * KIB, 700 * KIB, MIB, 3 * MIB // 2, 5 * MIB):
        yield f"{size // KIB} KiB", lambda random, size=size: size
    yield "zarr chunks of 0.5 to 8 MiB", lambda random: int(random.choice([0.5, 1, 2, 4, 8]) * MIB)
    yield (
        "zarr chunks, those at the edges smaller",
        lambda random: int(
            random.choice([1, 1, 1, 0.75, 0.6, 0.3]) * random.choice([1, 2, 4]) * MIB
        ),
    )
    yield "image tiles", lambda random: int(random.choice([192, 256, 768, 1024, 3072])) * KIB
    yield "records", lambda random: int(np.exp(random.uniform(np.log(64 * KIB), np.log(4 * MIB))))


@pytest.mark.parametrize(("what", "size_of"), [*mixes()], ids=lambda value: str(value)[:30])
def test_at_most_so_much_is_waste(what: str, size_of: Callable[[np.random.Generator], int]) -> None:
    """At most 15 % of the memory in the middle, while entries come and go; never much more."""
    random = np.random.default_rng(5)
    source = np.ones(8 * MIB + 64, "u1")
    cache = Cache(max_bytes=96 * MIB)
    shares = []
    for number, key in enumerate(random.zipf(1.1, 900) % 600):
        with cache.get(int(key), lambda: source[: size_of(random)]):
            pass
        if number > 300:
            stats = cache.stats()
            if not stats.bytes_huge:
                pytest.skip("there is no huge page to be had")
            shares.append(stats.bytes_wasted / stats.bytes_held)
    assert np.mean(shares) <= 0.15, what
    assert max(shares) <= 0.25, what


def test_what_moves_stays_as_it_was() -> None:
    """Other entries are given up, until what is left in the sparsest slots moves together."""
    cache = Cache()
    random = np.random.default_rng(0)
    sizes = {key: int(random.integers(100 * KIB, 500 * KIB)) for key in range(600)}
    for key, size in sizes.items():
        cache.put(key, np.full(size, key % 251, "u1"))
    before = cache.stats()
    if not before.bytes_huge:
        pytest.skip("there is no huge page to be had")
    for key in range(0, 600, 3):
        cache.drop(key)
    kept = cache[1]
    order = [key for key in cache if key != 1]
    for key in range(1000, 1200):
        cache.put(key, b"small")  # each one may move what is in one slot
    after = cache.stats()
    assert after.bytes_held < before.bytes_held * 0.85
    assert after.bytes_wasted < 0.15 * after.bytes_held
    assert [key for key in cache if key in sizes and key != 1] == order
    assert (kept == 1).all()
    for key in range(600):
        value = cache.get(key, None)
        assert (value is None) == (key % 3 == 0)
        if value:
            with value as array:
                assert (array == key % 251).all()
                assert len(array) == sizes[key]
