# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache` in huge pages: large values, several in one or one over several."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import run_python
from support.patience import patient
from support.purgeable import reclaim_all

from mapscratch import Cache
from mapscratch import cache as module
from mapscratch._native import PurgeablePages, why_not_huge
from mapscratch.cache.slots import SLOT, Slots

MIB = 1 << 20
KIB = 1 << 10

pytestmark = [
    pytest.mark.usefixtures("purgeable_pages"),
    pytest.mark.skipif(why_not_huge() is not None, reason="no huge pages here"),
]


@pytest.fixture
def cache() -> Iterator[Cache]:
    cache = Cache()
    cache.put("first", np.ones(MIB, "u1"))
    if not cache.stats().bytes_huge:
        pytest.skip("there is no huge page to be had")
    cache.drop()
    yield cache
    cache.drop()
    gc.collect()
    assert cache.stats().bytes_held == 0


def fill(cache: Cache, count: int, size: int = MIB) -> None:
    for key in range(count):
        cache.put(key, np.full(size, key, "u1"))


def check(cache: Cache, keys: Any, size: int = MIB) -> int:
    """How many are there; they are right."""
    found = 0
    for key in keys:
        pinned = cache.get(key, None)
        if pinned:
            with pinned as value:
                assert len(value) == size
                assert (value == key).all()
            found += 1
            del value
    return found


def reclaim_slot(cache: Cache, key: Any) -> None:
    """Has the kernel take what an entry is in."""
    entry = cache._table.entry(key)
    assert entry
    cache._table.release_recent()
    for slot in entry.pages:
        ends = time.monotonic() + patient(10)
        while slot.is_whole() and time.monotonic() < ends:
            slot.region.memory.madvise(21, slot.offset, slot.size)  # type: ignore[attr-defined]


def split_slot(cache: Cache, key: Any, advice: int = 20, pages: int = 1) -> None:
    """As the kernel does it, for many reasons (MADV_COLD of a page in it)."""
    entry = cache._table.entry(key)
    assert entry
    slot = entry.pages[0]
    slot.region.memory.madvise(advice, slot.offset + 9 * 4096, pages * 4096)  # type: ignore[attr-defined]


def test_large_values_share_huge_pages_and_small_ones_have_their_own(cache: Cache) -> None:
    fill(cache, 10)
    cache.put("small", np.ones(60 * KIB, "u1"))
    stats = cache.stats()
    assert (stats.bytes_huge, stats.bytes_split, stats.bytes_wasted) == (10 * MIB, 0, 0)
    assert stats.bytes_held == 10 * MIB + 60 * KIB
    assert stats.why_not_huge is None
    assert check(cache, range(10)) == 10
    assert cache.drop("small") == 60 * KIB


def test_all_that_share_a_huge_page_are_lost_together(cache: Cache) -> None:
    fill(cache, 8)
    reclaim_slot(cache, 2)
    assert check(cache, range(8)) == 6
    stats = cache.stats()
    assert (stats.lost, stats.entries, stats.bytes_held) == (2, 6, 6 * MIB)


def test_a_pinned_one_keeps_what_shares_its_huge_page(cache: Cache) -> None:
    fill(cache, 8)
    kept = cache[2]
    reclaim_all(cache)
    stats = cache.stats()
    assert (stats.entries, stats.bytes_in_use, stats.bytes_held) == (2, SLOT, SLOT)
    assert (kept == 2).all()
    assert check(cache, range(8)) == 2


def test_one_over_several_huge_pages(cache: Cache) -> None:
    fill(cache, 5, 5 * MIB)
    assert check(cache, range(5), 5 * MIB) == 5
    assert cache.stats().bytes_held == 26 * MIB
    kept = cache[1]
    reclaim_all(cache)
    assert (kept == 1).all()
    assert cache.stats().entries < 5
    del kept
    cache._table.release_recent()
    entry = cache._table.entry(1)
    assert entry
    del entry
    reclaim_slot(cache, 1)
    assert cache.get(1, None) is None


def test_dropping_gives_back_what_nobody_else_is_in(cache: Cache) -> None:
    fill(cache, 4)
    assert cache.drop(0) == 0
    assert cache.stats().bytes_wasted == MIB
    assert cache.drop(1) == SLOT
    kept = cache[2]
    assert cache.drop() == 0
    assert (kept == 2).all()
    del kept
    assert cache.stats().bytes_held == 0


def test_a_hole_is_used_again(cache: Cache) -> None:
    fill(cache, 6)
    cache.drop(2)
    cache.put("new", np.full(MIB, 99, "u1"))
    stats = cache.stats()
    assert (stats.bytes_held, stats.bytes_wasted) == (6 * MIB, 0)
    assert check(cache, [0, 1, 3, 4, 5]) == 5
    assert (cache["new"] == 99).all()


def test_what_the_kernel_splits_is_said_and_goes_on(cache: Cache) -> None:
    fill(cache, 4)
    cache._table.release_recent()
    split_slot(cache, 0)
    assert check(cache, range(1, 4)) == 3
    cache._table.release_recent()
    stats = cache.stats()
    assert (stats.bytes_huge, stats.bytes_split) == (SLOT, SLOT)
    assert check(cache, range(1, 4)) == 3
    split_slot(cache, 2, 4)  # MADV_DONTNEED: a page of it is gone
    cache._table.release_recent()
    assert check(cache, range(4)) in (1, 2)
    assert check(cache, range(2, 4)) == 0


def test_no_huge_page_is_to_be_had(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for again when some more values were made."""
    made: list[int] = []

    def make(slots: Slots, number: int) -> bool:
        made.append(number)
        really(slots, number)
        return len(made) > 1

    really = Slots._make
    monkeypatch.setattr(Slots, "_make", make)
    fill(cache, 3)
    stats = cache.stats()
    assert (len(made), stats.bytes_huge, stats.bytes_held) == (1, 0, 3 * MIB)
    assert check(cache, range(3)) == 3
    for key in range(100):
        cache.put(("small", key), b"small")
    fill(cache, 4)
    assert cache.stats().bytes_huge == 4 * MIB
    assert check(cache, range(4)) == 4


def test_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Cache(max_bytes=10 * MIB)
    small.put(1, np.ones(MIB, "u1"))
    assert small.stats().bytes_held == MIB
    assert "too coarse" in str(small.stats().why_not_huge)
    monkeypatch.setattr(module, "why_no_slots", lambda: "PAGEMAP_SCAN isn't there")
    cache = Cache()
    cache.put(1, np.ones(MIB, "u1"))
    assert cache.stats().why_not_huge == "PAGEMAP_SCAN isn't there"
    assert (cache.stats().bytes_huge, cache.stats().bytes_held) == (0, MIB)
    assert check(cache, [1]) == 1


def test_descriptors_are_short_for_a_while() -> None:
    run_python(
        """
        import resource
        import numpy as np
        from mapscratch import Cache
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        cache = Cache()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        cache.put(1, np.full(1 << 20, 1, "u1"))
        assert "can't be opened" in cache.stats().why_not_huge
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        cache.put(2, np.full(1 << 20, 2, "u1"))
        assert cache.stats().why_not_huge is None
        assert all((cache[key] == key).all() for key in (1, 2))
        """
    )


def test_a_limit_holds_to_the_huge_page() -> None:
    cache = Cache(max_bytes=40 * MIB)
    for key in range(60):
        cache.put(key, np.full(700 * KIB, key, "u1"))
        assert cache.stats().bytes_held <= 40 * MIB
    assert check(cache, range(60), 700 * KIB) >= 50
    assert list(cache)[-1] == 59
    assert 0 not in cache
    with cache.get("large", lambda: np.ones(41 * MIB, "u1")) as value:
        assert value.sum() == 41 * MIB
    assert "large" not in cache


def test_while_memory_is_short_what_nobody_came_back_to_gives_its_place(cache: Cache) -> None:
    fill(cache, 40)
    check(cache, range(0, 30, 2))
    reclaim_slot(cache, 38)
    assert check(cache, [38, 39]) == 0
    for key in range(100, 112):
        cache.put(key, np.full(MIB, key, "u1"))
    stats = cache.stats()
    assert stats.evicted >= 10
    assert stats.bytes_held <= 40 * MIB
    assert check(cache, range(0, 30, 2)) == 15  # SIEVE passes over what was used
    assert check(cache, range(100, 112)) == 12


def test_filled_in_place(cache: Cache) -> None:
    def make(key: int) -> Any:
        draft = cache.empty((MIB // 4,), "f4")
        draft[:] = key
        return draft

    for key in range(6):
        with cache.get(key, lambda key=key: make(key)) as value:
            assert not value.flags.writeable
            assert (value == key).all()
    del value
    with cache.get("part", lambda: make(7)[: MIB // 5]) as value:
        assert (value == 7).all()
    with cache.get("bytes", lambda: make(8).view("u1").reshape(-1, 4)) as value:
        assert value.shape == (MIB // 4, 4)
    del value
    assert cache.stats().bytes_held == 8 * MIB
    left = cache.empty(MIB, "u1")
    assert cache.stats().bytes_held == 10 * MIB
    del left
    assert cache.stats().bytes_held == 8 * MIB


def test_two_keys_of_one_place(cache: Cache) -> None:
    def make(keys: list[str]) -> list[Any]:
        draft = cache.empty(MIB, "u1")
        draft[:] = 7
        return [draft, draft[: MIB // 10 * 9]]

    with cache.get_many("ab", make) as values:
        assert all((value == 7).all() for value in values)
    del values
    cache.drop("a")
    cache.put("other", np.full(MIB, 9, "u1"))
    with cache.get("b") as value:
        assert (value == 7).all()
    del value
    assert cache.drop("b") == 0
    assert cache.drop("other") == SLOT


@pytest.mark.parametrize("who", ["parent", "child"])
def test_fork(cache: Cache, who: str) -> None:
    """Both go on with all that was there; what was split by it costs more, and is right."""
    fill(cache, 20)
    ready, go_on = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            if who == "child":
                found = check(cache, range(20))
                fill(cache, 20)
                status = int(found < 20 or check(cache, range(20)) < 20)
            else:
                os.read(ready, 1)
                status = int(check(cache, range(20)) < 20)
        finally:
            os._exit(status)
    try:
        found = check(cache, range(20))
        for key in range(20):
            cache.put(key, np.full(MIB, key, "u1"))
        found_later = check(cache, range(20))
    finally:
        os.write(go_on, b"1")
    assert os.waitpid(child, 0)[1] == 0
    assert (found, found_later) == (20, 20)
    os.close(ready)
    os.close(go_on)


def test_fork_at_any_moment(cache: Cache) -> None:
    """Children come while threads use the cache and the kernel takes from it."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def use(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                key = int(random.integers(0, 24))
                with cache.get(key, lambda key=key: np.full(700 * KIB, key, "u1")) as value:
                    assert value[0] == key
                    assert value[int(random.integers(0, 700 * KIB))] == key
        except BaseException as error:
            errors.append(error)

    def reclaim() -> None:
        random = np.random.default_rng(9)
        while not stop.is_set():
            for slot in cache._slots.slots:
                if random.random() < 0.2:
                    advice = int(random.choice([20, 21]))
                    page = int(random.integers(0, 511)) * 4096
                    slot.region.memory.madvise(  # type: ignore[attr-defined]
                        advice, slot.offset + page, SLOT - page if advice == 21 else 4096
                    )
            time.sleep(0.002)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
    threads.append(threading.Thread(target=reclaim))
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            child = os.fork()
            if not child:
                signal.alarm(int(patient(60)))
                status = 1
                try:
                    check(cache, range(24), 700 * KIB)
                    for key in range(24):
                        with cache.get(key, lambda key=key: np.full(700 * KIB, key, "u1")) as value:
                            assert (value == key).all()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    check(cache, range(24), 700 * KIB)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                ["get", "get", "get", "put", "keep", "let go", "drop", "take", "split", "tear"]
            ),
            st.integers(0, 11),
            st.sampled_from([64 * KIB, 300 * KIB, 700 * KIB, MIB, 1536 * KIB, 5 * MIB + 5]),
        ),
        max_size=40,
    ),
    limit=st.sampled_from([None, 40 * MIB]),
)
def test_any_order_of_uses(steps: list[tuple[str, int, int]], limit: int | None) -> None:
    """As a dict, but for what the kernel takes; and what is kept stays as it was."""
    cache = Cache(max_bytes=limit)
    sizes: dict[int, int] = {}
    kept: list[tuple[int, Any]] = []
    for step, key, size in steps:
        if step in ("get", "keep"):

            def make(key: int = key, size: int = size) -> Any:
                sizes[key] = size
                return np.full(size, key + 1, "u1")

            with cache.get(key, make) as value:
                assert len(value) == sizes[key]
                assert (value == key + 1).all()
                if step == "keep":
                    kept.append((key, value[len(value) // 2 :]))
        elif step == "put":
            cache.put(key, np.full(size, key + 1, "u1"))
            sizes[key] = size
        elif step == "let go" and kept:
            kept.pop(key % len(kept))
        elif step == "drop":
            cache.drop(key)
        elif step == "take":
            reclaim_all(cache)
        elif step in ("split", "tear") and cache._slots.slots:
            slot: PurgeablePages = cache._slots.slots[key % len(cache._slots.slots)]
            if step == "split" or slot.is_released:
                advice = 20 if step == "split" else 4
                slot.region.memory.madvise(advice, slot.offset + key * 4096, 4096)  # type: ignore[attr-defined]
        for number, value in kept:
            assert (value == number + 1).all()
        value = None
    kept.clear()
    cache.drop()
    assert cache.stats().bytes_held == 0
