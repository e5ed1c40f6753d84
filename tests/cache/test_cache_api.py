# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache` as a user meets it: what it keeps, how it is seen, what is counted."""

from __future__ import annotations

import contextlib
import gc
import pickle
import warnings
import weakref
from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import run_python
from support.purgeable import reclaim_all

import mapscratch
from mapscratch import Cache
from mapscratch import cache as module

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("purgeable_pages")


@pytest.fixture
def cache() -> Iterator[Cache]:
    cache = Cache()
    yield cache
    cache.drop()
    gc.collect()
    assert cache.stats().bytes_held == 0


def never() -> bytes:
    raise AssertionError("it was there")


ARRAYS = {
    "floats": np.arange(1000, dtype="f4"),
    "one item": np.array(7, "i8"),
    "no items": np.empty((3, 0), ">u2"),
    "columns": np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
    "reversed": np.arange(5000)[::-1],
    "every third": np.arange(30_000, dtype="u1").reshape(100, 300)[:, ::3],
    "another byte order": np.arange(5000, dtype=">i2"),
    "records": np.array([(1, 2.5), (3, 4.5)] * 900, [("a", ">i4"), ("b", "f8")]),
    "text": np.array(["a", "bcd"] * 700),
    "dates": np.arange("2004-02-03", "2005-02-03", dtype="M8[D]"),
    "a page": np.full(PAGESIZE, 255, "u1"),
    "a byte more": np.full(PAGESIZE + 1, 255, "u1"),
    "half a page": np.full(PAGESIZE // 2, 255, "u1"),
    "large": np.arange(3 * MIB, dtype="u4"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_comes_back_as_it_was(cache: Cache, array: Any) -> None:
    for make in (lambda: array, never):
        with cache.get("key", make) as value:
            assert type(value) is np.ndarray
            assert (value.dtype, value.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(value, array)
            assert not value.flags.writeable
            with pytest.raises(ValueError):
                value.flags.writeable = True
            assert value.flags.f_contiguous or not array.flags.f_contiguous
        del value
        cache._table.release_recent()


@pytest.mark.parametrize("size", [0, 1, 100, PAGESIZE // 2 + 1, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_come_back_as_a_memoryview(cache: Cache, size: int, kind: type) -> None:
    wanted = np.random.default_rng(size).bytes(size)
    cache.put("key", kind(wanted))
    with cache.get("key") as value:
        assert isinstance(value, memoryview)
        assert value.readonly
        assert value == wanted
        later = value[:]
    with pytest.raises(ValueError, match="released"):
        bytes(value)
    assert later == wanted  # made of it: it still lives, and is pinned
    assert cache.stats().bytes_in_use == cache.stats().bytes_held


def test_what_a_cache_does_not_keep(cache: Cache) -> None:
    for value, message in (
        ([1, 2], "list"),
        (np.ma.masked_array([1, 2]), "MaskedArray"),
        (np.array([1, "a", None]), "Python objects"),
        (np.float64(1), "float64"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            cache.get("key", lambda value=value: value)
    assert "key" not in cache
    with pytest.raises(TypeError):
        cache.get([], never)
    with pytest.raises(KeyError, match="key"):
        cache.get("key")
    with pytest.raises(ValueError, match="negative"):
        Cache(max_bytes=-1)


def test_a_scratch_array_and_a_memmap_are_kept_as_plain_arrays(
    cache: Cache, tmp_path: Path, lazyfree: str
) -> None:
    np.arange(5000, dtype=">i2").tofile(tmp_path / "values")
    for array in (
        np.memmap(tmp_path / "values", ">i2", "r"),
        mapscratch.array(tmp_path / "values", "f4", source=">i2"),
    ):
        with cache.get(type(array), lambda array=array: array) as value:
            assert type(value) is np.ndarray
            np.testing.assert_array_equal(value, np.arange(5000))


def test_the_kernel_takes_an_entry_and_it_is_made_again(cache: Cache) -> None:
    makes = []

    def make() -> Any:
        makes.append(1)
        return np.arange(MIB, dtype="u4")

    for round in range(1, 4):
        for _ in range(2):
            with cache.get("key", make) as value:
                np.testing.assert_array_equal(value, np.arange(MIB))
        assert len(makes) == round
        del value
        assert cache.stats().bytes_in_use == 0
        reclaim_all(cache)
    stats = cache.stats()
    assert (stats.hits, stats.made, stats.lost, stats.entries) == (3, 3, 3, 0)
    assert stats.bytes_held == 0  # what is lost is given back


@pytest.mark.usefixtures("small_pages")
def test_what_is_in_use_stays(cache: Cache) -> None:
    views = []
    for key in range(20):
        with cache.get(key, lambda key=key: np.full(MIB // 4, key, "i4")) as value:
            if key % 2:
                views.append((key, memoryview(value[5:].reshape(-1, 1))))
        del value
    reclaim_all(cache)
    stats = cache.stats()
    assert (stats.entries, stats.lost) == (10, 10)
    assert stats.bytes_in_use == stats.bytes_held == 10 * MIB
    for key, view in views:
        assert (np.asarray(view) == key).all()
        with cache.get(key, never) as value:
            assert (value == key).all()
    views.clear()
    del value, view
    reclaim_all(cache)
    assert cache.stats().entries == 0


def test_small_values_share_pages(cache: Cache) -> None:
    for key in range(2000):
        cache.put(key, np.full(25, key, "i4"))
    stats = cache.stats()
    assert stats.bytes_held <= 2000 * 128 + PAGESIZE
    for key in range(2000):
        with cache.get(key) as value:
            assert (value == key).all()
    del value
    pinned = cache.get(77).value
    reclaim_all(cache)
    stats = cache.stats()
    assert stats.bytes_held == stats.bytes_in_use == PAGESIZE
    assert 1 < stats.entries <= PAGESIZE // 128
    assert (pinned == 77).all()
    assert stats.lost == 2000 - stats.entries
    for key in range(2000):  # again: into new pages, and the one that is there
        with cache.get(key, lambda key=key: np.full(25, key, "i4")) as value:
            assert (value == key).all()


def test_lost_entries_leave_nothing_behind(cache: Cache) -> None:
    """Keys and words kept aside go too, though nobody asks for these entries again."""
    most = 0
    for key in range(3000):
        cache.put(key, np.full(4 * PAGESIZE, 1, "u1"))
        if key % 100 == 0:
            reclaim_all(cache)
        most = max(most, len(cache))
    assert most < 500
    reclaim_all(cache)
    assert len(cache) < 500
    assert cache.stats().entries == 0


def test_while_memory_is_short_the_oldest_gives_its_place(cache: Cache) -> None:
    """Rather than memory which the kernel would have to take from us, page by page."""
    for key in range(40):
        cache.put(key, np.full(MIB, key, "u1"))
    reclaim_all(cache)
    for key in range(100, 140):
        cache.put(key, np.full(MIB, key, "u1"))
    stats = cache.stats()
    assert stats.lost
    assert stats.evicted
    assert stats.bytes_held <= 20 * MIB  # what rests is nobody's to give
    for key in range(140):
        with cache.get(key, lambda key=key: np.full(MIB, key, "u1")) as value:
            assert (value == key).all()
    del value
    for key in range(140, 240):  # and when nothing was lost for a while it grows again
        with cache.get(key, lambda key=key: np.full(MIB, key, "u1")) as value:
            assert (value == key).all()
    del value
    assert cache.stats().bytes_held > 40 * MIB


@pytest.mark.usefixtures("small_pages")
def test_dropping(cache: Cache) -> None:
    for key in "abc":
        cache.put(key, np.ones(MIB, "u1"))
    assert "a" in cache
    assert cache.drop("a") == MIB
    assert "a" not in cache
    assert cache.drop("a") == 0
    used = cache.get("b").value
    assert cache.drop() == MIB
    assert len(cache) == 0
    assert (used == 1).all()
    stats = cache.stats()
    assert (stats.bytes_held, stats.bytes_in_use) == (MIB, MIB)
    with cache.get("b", lambda: np.full(MIB, 2, "u1")) as value:
        assert (value == 2).all()
        assert (used == 1).all()
    del used, value
    assert cache.stats().bytes_held == MIB


def test_a_value_is_replaced(cache: Cache) -> None:
    cache.put("key", b"1" * 10_000)
    with cache.get("key") as old:
        cache.put("key", b"2" * 20_000)
        with cache.get("key") as new:
            assert (old[0], new[0], len(new)) == (ord("1"), ord("2"), 20_000)
    assert cache.stats().entries == 1
    assert cache.stats().bytes_held == 5 * PAGESIZE


def test_at_most_so_many_bytes() -> None:
    cache = Cache(max_bytes=10 * MIB)
    for key in range(30):
        cache.put(key, np.full(MIB, key, "u1"))
        with cache.get(0, lambda: np.zeros(MIB, "u1")) as value:
            assert (value == 0).all()
        assert cache.stats().bytes_held <= 10 * MIB
    del value
    assert [key for key in range(30) if key in cache] == [0, *range(21, 30)]  # used last
    stats = cache.stats()
    assert (stats.evicted, stats.lost, stats.uncached) == (20, 0, 0)
    with cache.get("too large", lambda: np.ones(11 * MIB, "u1")) as value:
        assert value.sum() == 11 * MIB
        assert not value.flags.writeable
    assert "too large" not in cache
    assert cache.stats().uncached == 1
    with cache.get("bytes", lambda: bytes(11 * MIB)) as value:
        assert value.readonly
    held = [cache.get(("held", key), lambda: np.ones(MIB, "u1")).value for key in range(10)]
    with cache.get("no room", lambda: np.ones(MIB, "u1")) as value:
        assert (value == 1).all()
    assert cache.stats().uncached == 3
    assert len(held) == 10
    nothing = Cache(max_bytes=0)
    assert bytes(nothing.get("key", lambda: b"a").value) == b"a"
    assert len(nothing) == 0


def test_many_at_once(cache: Cache) -> None:
    asked = []

    def make(keys: list[int]) -> list[Any]:
        asked.append(keys)
        return [np.full(2000, key) for key in keys]

    with cache.get_many([1, 2, 1, 3], make) as values:
        assert [value[0] for value in values] == [1, 2, 1, 3]
    with cache.get_many(range(5), make) as values:
        assert [value[0] for value in values] == [0, 1, 2, 3, 4]
    assert asked == [[1, 2, 3], [0, 4]]
    with cache.get_many([], make) as values:
        assert values == []
    with pytest.raises(ValueError, match="asked for 2 values and returned 1"):
        cache.get_many([7, 8], lambda keys: [b"1"])
    with pytest.raises(ZeroDivisionError):
        cache.get_many([7, 8], lambda keys: [1 // 0])
    assert 7 not in cache
    del values


@pytest.mark.parametrize("shape", [0, 100, 5000, (300, 7, 5), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_made_where_it_is_kept(cache: Cache, shape: Any, order: Any) -> None:
    places = []

    def make() -> Any:
        draft = cache.empty(shape, "f4", order)
        assert draft.flags[f"{order}_CONTIGUOUS"]
        draft[...] = np.arange(draft.size).reshape(draft.shape)
        places.append(draft.__array_interface__["data"][0])
        return draft

    wanted = np.arange(np.empty(shape).size).reshape(np.empty(shape).shape)
    with cache.get("key", make) as value:
        np.testing.assert_array_equal(value, wanted)
        assert not value.flags.writeable
        if value.nbytes > PAGESIZE:
            assert value.__array_interface__["data"][0] == places[0]
            with pytest.raises(ValueError):
                value.flags.writeable = True
    del value
    stats = cache.stats()
    assert (stats.made, stats.bytes_in_use) == (1, 0)
    assert stats.bytes_held == max(-(-wanted.size * 4 // PAGESIZE), 1) * PAGESIZE
    reclaim_all(cache)
    with cache.get("key", make) as value:
        np.testing.assert_array_equal(value, wanted)


def test_drafts_of_which_only_a_part_is_kept_or_nothing(cache: Cache) -> None:
    def draft() -> Any:
        array = cache.empty(4 * PAGESIZE, "u1")
        array[:] = np.arange(4 * PAGESIZE) % 251
        return array

    wanted = np.arange(4 * PAGESIZE) % 251
    for key, part in enumerate(
        (np.s_[:], np.s_[: 2 * PAGESIZE], np.s_[5:], np.s_[::-1], np.s_[::3])
    ):
        with cache.get(key, lambda part=part: draft()[part]) as value:
            np.testing.assert_array_equal(value, wanted[part])
        del value
        with cache.get(key, never) as value:
            np.testing.assert_array_equal(value, wanted[part])
    with cache.get("view", lambda: draft().view(">u2").reshape(-1, 4)) as value:
        assert (value.dtype, value.shape) == (">u2", (2 * PAGESIZE // 4, 4))
    del value
    cache.drop()
    with pytest.raises(IndexError):
        cache.get("key", lambda: draft()[5 * PAGESIZE])
    left = draft()
    assert cache.stats().bytes_in_use == 4 * PAGESIZE
    del left
    assert cache.stats().bytes_held == 0
    with pytest.raises(TypeError, match="Python objects"):
        cache.empty(5, object)
    with pytest.raises(TypeError):
        cache.empty("five")  # type: ignore[arg-type]


def test_a_draft_of_another_cache_is_copied(cache: Cache) -> None:
    other = Cache()
    draft = other.empty(PAGESIZE, "u1")
    draft[:] = 7
    cache.put("key", draft)
    draft[:] = 8
    with cache.get("key") as value:
        assert (value == 7).all()


def test_two_keys_of_one_draft(cache: Cache) -> None:
    def make(keys: list[str]) -> list[Any]:
        draft = cache.empty(PAGESIZE, "u1")
        draft[:] = 7
        return [draft, draft]

    with cache.get_many("ab", make) as values:
        assert all((value == 7).all() for value in values)
    del values
    cache.drop("a")
    with cache.get("b") as value:
        assert (value == 7).all()


def test_memoize(cache: Cache) -> None:
    calls = []

    @cache.memoize
    def tile(z: int, x: int, *, y: int = 0) -> Any:
        """Makes a tile."""
        calls.append((z, x, y))
        return np.full(5000, 100 * z + 10 * x + y)

    assert (tile(1, 2, y=3) == 123).all()
    kept = tile(1, 2, y=3)
    assert calls == [(1, 2, 3)]
    assert tile(1, 2)[0] == 120
    info: Any = tile.cache_info()
    assert (info.hits, info.misses, info.maxsize) == (1, 2, None)
    assert info.currsize == cache.stats().bytes_held
    reclaim_all(cache)
    assert (kept == 123).all()
    assert tile(1, 2, y=3)[0] == 123
    assert len(calls) == 2  # `kept` has kept it
    assert tile.__name__ == "tile"
    assert tile.__doc__ == "Makes a tile."
    assert tile.__wrapped__(1, 1)[0] == 110
    other = cache.memoize(lambda z, x: b"another function's")
    assert bytes(other(1, 2)) == b"another function's"
    tile.cache_clear()
    assert len(cache) == 1
    assert tile.cache_info()[:2] == (0, 0)


def test_pickled_it_is_another_empty_one(cache: Cache) -> None:
    cache.put("key", b"value")
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy) == 0
    limited = pickle.loads(pickle.dumps(Cache(max_bytes=5 * MIB)))
    assert limited.max_bytes == 5 * MIB
    with cache.get("key") as value:
        assert pickle.loads(pickle.dumps(bytes(value))) == b"value"
    cache.put("array", np.arange(5000))
    with cache.get("array") as value:
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(value)), np.arange(5000))


@pytest.mark.usefixtures("small_pages")
def test_what_it_says_of_itself(cache: Cache) -> None:
    cache.put("key", bytes(MIB))
    assert repr(cache) == "<Cache of 1 entries, 1,048,576 bytes; purgeable>"
    assert "at most 5 bytes" in repr(Cache(max_bytes=5))
    assert cache.is_purgeable
    assert cache.max_bytes is None
    assert cache.cache_info() == (0, 1, None, MIB)


def test_a_pinned_value_is_used_once(cache: Cache) -> None:
    pinned = cache.get("key", lambda: b"value")
    with pinned as value:
        assert bytes(value) == b"value"
    with pytest.raises(RuntimeError, match="ask it again"), pinned:
        pass


def test_the_cache_goes_before_its_arrays() -> None:
    cache = Cache()
    array = cache.get("key", lambda: np.arange(MIB)).value
    del cache
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(MIB))


@pytest.fixture
def without_purging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_why_not_here", lambda: "MADV_FREE does nothing here")


@pytest.mark.usefixtures("without_purging")
def test_where_the_kernel_takes_nothing_it_keeps_what_was_used_last() -> None:
    with pytest.warns(mapscratch.CacheFallbackWarning, match="does nothing here") as caught:
        cache = Cache(max_bytes=4 * MIB)
    assert len(caught) == 1
    assert "4,194,304 bytes" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not cache.is_purgeable
    for key in range(10):
        cache.put(key, np.full(MIB, key, "u1"))
    stats = cache.stats()
    assert (stats.entries, stats.bytes_droppable, stats.evicted) == (4, 0, 6)
    for key in range(6, 10):
        with cache.get(key, never) as value:
            assert (value == key).all()
    assert "not purgeable" in repr(cache)


@pytest.mark.usefixtures("without_purging")
def test_where_the_kernel_takes_nothing_there_is_a_limit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mapscratch.CacheFallbackWarning)
        cache = Cache()
        copy = pickle.loads(pickle.dumps(cache))
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert cache.max_bytes is not None
    assert 0 < cache.max_bytes <= total // 4
    assert copy._asked_for is None


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["get", "get", "get", "put", "keep", "let go", "drop", "reclaim"]),
            st.integers(0, 7),
            st.sampled_from([0, 1, 60, 2000, 2048, 2049, PAGESIZE, 3 * PAGESIZE + 5, 70_000]),
        ),
        max_size=60,
    ),
    limit=st.sampled_from([None, 20 * PAGESIZE]),
)
def test_any_order_of_uses(steps: list[tuple[str, int, int]], limit: int | None) -> None:
    """As a dict, but for what the kernel takes; and what is kept stays as it was."""
    cache = Cache(max_bytes=limit)
    sizes: dict[int, int] = {}
    kept: list[tuple[int, int, Any]] = []

    def value_of(key: int, size: int) -> Any:
        return np.random.default_rng((key, size)).integers(0, 256, size, "u1")

    for step, key, size in steps:
        if step in ("get", "keep"):

            def make(key: int = key, size: int = size) -> Any:
                sizes[key] = size
                return value_of(key, size)

            with cache.get(key, make) as value:
                np.testing.assert_array_equal(value, value_of(key, sizes[key]))
                if step == "keep":
                    kept.append((key, sizes[key], value[len(value) // 2 :]))
        elif step == "put":
            cache.put(key, value_of(key, size))
            sizes[key] = size
        elif step == "let go" and kept:
            kept.pop(key % len(kept))
        elif step == "drop":
            cache.drop(key if key < 6 else None)
        elif step == "reclaim":
            reclaim_all(cache)
        for key, size, value in kept:
            np.testing.assert_array_equal(value, value_of(key, size)[size // 2 :])
        value = None
    kept.clear()
    cache.drop()
    assert cache.stats().bytes_held == 0


def test_what_is_not_kept_is_a_copy_all_the_same() -> None:
    cache = Cache(max_bytes=0)
    buffer = np.zeros(10_000)

    def make(number: float) -> Any:
        buffer[:] = number
        return buffer

    first = cache.get(1, lambda: make(1)).value
    second = cache.get(2, lambda: make(2)).value
    assert (first[0], second[0]) == (1, 2)
    with pytest.raises(ValueError):
        first.flags.writeable = True
    source = bytearray(b"x" * 5000)
    kept = cache.get(3, lambda: source).value
    source.clear()
    assert kept == b"x" * 5000


@pytest.mark.parametrize("limit", [None, 0])
def test_any_memoryview_comes_back_as_bytes(limit: int | None) -> None:
    cache = Cache(max_bytes=limit)
    values = np.arange(24, dtype=">i2").reshape(4, 6)
    for view in (values, values.T, values[::2, ::3], values[:0], np.array(5.0)):
        with cache.get(view.shape, lambda view=view: memoryview(view)) as value:
            assert (value.format, value.ndim) == ("B", 1)
            assert value == view.tobytes()


def test_a_draft_is_closed_when_it_is_kept(cache: Cache) -> None:
    """Whoever fills it again for the next key is told."""
    drafts = [cache.empty(5000, "u1")]

    def make(number: int) -> Any:
        drafts[0][:] = number
        return drafts[0][:]

    with cache.get(1, lambda: make(1)) as value:
        assert (value == 1).all()
        with pytest.raises(ValueError):
            cache.get(2, lambda: make(2))
        assert (value == 1).all()
    drafts.clear()
    del value


def test_a_small_part_of_a_draft_is_copied(cache: Cache) -> None:
    for key in range(10):
        with cache.get(key, lambda: cache.empty(100 * PAGESIZE, "u1")[:5000]) as value:
            assert value.shape == (5000,)
    del value
    assert cache.stats().bytes_held == 10 * 2 * PAGESIZE


@pytest.mark.parametrize("shape", [np.int64(5000), (np.int64(50), 50), np.array([50, 50]), [7]])
def test_shapes_as_numpy_takes_them(cache: Cache, shape: Any) -> None:
    assert cache.empty(shape).shape == np.empty(shape).shape


def test_a_draft_that_no_memory_holds(cache: Cache) -> None:
    with pytest.raises(MemoryError):
        cache.empty(1 << 50, "u1")
    with pytest.raises(ValueError):
        cache.empty(1 << 62, "f8")


def test_none_is_a_key_like_any(cache: Cache) -> None:
    cache.put(None, b"none")
    cache.put("other", b"other")
    cache.drop(None)
    assert list(cache) == ["other"]
    assert cache
    cache.drop()
    assert cache  # one that is empty is one


def test_what_is_too_large_costs_no_other_entry() -> None:
    cache = Cache(max_bytes=10 * MIB)
    for key in range(9):
        cache.put(key, np.ones(MIB, "u1"))
    with cache.get("large", lambda: np.ones(11 * MIB, "u1")) as value:
        assert value.sum() == 11 * MIB
    assert (cache.stats().entries, cache.stats().evicted) == (9, 0)


def test_keys_that_were_dropped_go(cache: Cache) -> None:
    class Key:
        pass

    keys = [Key() for _ in range(20)]
    for key in keys:
        cache.put(key, bytes(5000))
    references = [weakref.ref(key) for key in keys]
    cache.drop()
    del key
    keys.clear()
    assert not any(reference() for reference in references)


def test_an_error_keeps_nothing_in_use(cache: Cache) -> None:
    def make(keys: list[Any]) -> list[Any]:
        draft = cache.empty(MIB, "u1")
        raise ZeroDivisionError(len(draft))

    gc.disable()
    try:
        for number in range(5):
            try:
                cache.get_many(["a", number], make)
            except ZeroDivisionError:
                continue
        assert cache.stats().bytes_held == 0
    finally:
        gc.enable()


def test_a_key_that_fails_to_be_compared(cache: Cache) -> None:
    """Whatever is raised amid a change: what is there is right, and is found or made again."""

    class Key:
        fails = False

        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            if Key.fails:
                raise ZeroDivisionError
            return isinstance(other, Key) and self.number == other.number

    keys = [Key(number) for number in range(5)]
    for key in keys:
        cache.put(key, np.full(5000, key.number, "u1"))
    for act in (cache.drop, cache.get, lambda key: cache.put(key, b"new"), cache.pop):
        Key.fails = True
        with pytest.raises(ZeroDivisionError):
            act(keys[4])
        Key.fails = False
    Key.fails = True
    with contextlib.suppress(ZeroDivisionError):
        cache.drop()
    Key.fails = False
    for key in keys:
        with cache.get(key, lambda key=key: np.full(5000, key.number, "u1")) as value:
            assert (value == key.number).all()
        cache.put(key, np.full(6000, key.number, "u1"))
        assert len(cache[Key(key.number)]) == 6000
    del value
    assert len(cache) == 5


def test_keys_that_are_equal_now_and_then() -> None:
    """Nobody gets anything sensible, but nothing that isn't there any more, and no crash."""
    run_python(
        """
        import contextlib, gc, random
        from mapscratch import Cache
        class Key:
            def __hash__(self):
                return 7
            def __eq__(self, other):
                return random.random() < 0.2
        random.seed(2004)
        for _ in range(20):
            cache = Cache()
            keys = [Key() for _ in range(20)]
            for number in range(1000):
                key = random.choice(keys)
                act = random.choice([cache.drop, cache.pop, cache.get, None, None])
                with contextlib.suppress(KeyError):
                    act(key) if act else cache.put(key, bytes([number % 251]) * 9000)
            for key in list(cache):
                value = cache.get(key, None)
                if value:
                    with value as found:
                        assert len(set(bytes(found))) == 1
            cache.drop()
            del cache
            gc.collect()
        """
    )


class Holder:
    """A key, and what it keeps."""

    cache: Cache
    value: Any


def test_a_value_that_its_key_holds_goes_when_it_is_dropped(cache: Cache) -> None:
    key = Holder()
    cache.put(key, np.ones(MIB, "u1"))
    key.value = cache[key]
    gone = weakref.ref(key)
    cache.drop(key)
    del key
    gc.collect()
    assert gone() is None
    assert cache.stats().bytes_held == 0


def test_a_value_that_its_key_holds_goes_with_the_cache() -> None:
    key = Holder()
    key.cache = Cache()
    key.cache.put(key, np.ones(MIB, "u1"))
    key.value = key.cache[key]
    gone = weakref.ref(key)
    del key
    gc.collect()
    assert gone() is None
