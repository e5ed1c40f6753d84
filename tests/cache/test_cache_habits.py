# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache` in hands that know dict, `functools.lru_cache` and cachetools."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import pickle
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from support.purgeable import reclaim_all

from mapscratch import Cache

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("purgeable_pages")


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.update({"one": np.arange(3), "two": b"bytes"})
    return cache


# The size


@pytest.mark.parametrize("limit", [MIB, np.int64(MIB)])
def test_a_size_alone_is_in_bytes(limit: Any) -> None:
    cache = Cache(limit)
    assert cache.max_bytes == MIB
    assert type(cache.max_bytes) is int
    for key in range(10):
        cache[key] = bytes(MIB // 4)
    assert cache.stats().bytes_held == MIB
    assert list(cache) == [6, 7, 8, 9]


@pytest.mark.parametrize("limit", ["1 GB", 1e9, Fraction(1), [1], len, float("inf")])
def test_a_size_that_is_no_number_of_bytes(limit: Any) -> None:
    with pytest.raises(TypeError, match=r"max_bytes=.*integer"):
        Cache(limit)


# A dict's methods


def test_items_by_brackets(cache: Cache) -> None:
    np.testing.assert_array_equal(cache["one"], [0, 1, 2])
    assert not cache["one"].flags.writeable
    assert cache["two"] == b"bytes"
    cache["one"] = b"new"
    assert cache["one"] == b"new"
    with pytest.raises(KeyError, match="three"):
        cache["three"]
    with pytest.raises(TypeError, match="arrays and bytes"):
        cache["three"] = [1]  # type: ignore[assignment]
    with pytest.raises(TypeError, match="unhashable"):
        cache[[]]  # type: ignore[index]


@pytest.mark.usefixtures("small_pages")
def test_a_value_by_brackets_is_pinned_while_it_lives() -> None:
    cache = Cache()
    cache["large"] = np.full(MIB, 7, "u1")
    value = cache["large"]
    reclaim_all(cache)
    assert (value == 7).all()
    assert cache.stats().bytes_in_use == MIB
    del value
    reclaim_all(cache)
    with pytest.raises(KeyError):
        cache["large"]


def test_del(cache: Cache) -> None:
    del cache["one"]
    assert list(cache) == ["two"]
    with pytest.raises(KeyError, match="one"):
        del cache["one"]
    cache["lost"] = bytes(MIB)
    reclaim_all(cache)
    with pytest.raises(KeyError, match="lost"):
        del cache["lost"]


def test_pop(cache: Cache) -> None:
    value = cache.pop("one")
    reclaim_all(cache)
    np.testing.assert_array_equal(value, [0, 1, 2])
    assert "one" not in cache
    assert cache.pop("one", None) is None
    assert cache.pop("one", default := object()) is default
    with pytest.raises(KeyError, match="one"):
        cache.pop("one")


def test_popitem_takes_what_was_used_least_lately() -> None:
    cache = Cache()
    for key in range(3):
        cache[key] = bytes([key]) * MIB
    assert cache[0][0] == 0
    key, value = cache.popitem()
    assert (key, value[0], len(value)) == (1, 1, MIB)
    del value
    reclaim_all(cache)
    cache["kept"] = b"x"
    assert cache.popitem() == ("kept", b"x")  # no other is there
    with pytest.raises(KeyError, match="empty"):
        cache.popitem()


def test_setdefault(cache: Cache) -> None:
    np.testing.assert_array_equal(cache.setdefault("one", b"other"), [0, 1, 2])
    assert cache.setdefault("three", b"other") == b"other"
    assert cache["three"] == b"other"
    with pytest.raises(TypeError, match="arrays and bytes"):
        cache.setdefault("four", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cache.get\(key, make\)"):
        cache.setdefault("four", lambda: b"")  # type: ignore[arg-type]
    assert "four" not in cache


def test_update_takes_what_a_dict_takes() -> None:
    cache = Cache()
    cache.update([("a", b"1"), (2, b"2")], c=b"3")
    cache.update({"a": b"4"}, d=b"5")
    cache.update(e=b"6")
    cache.update()
    assert dict(cache.items()) == {"a": b"4", 2: b"2", "c": b"3", "d": b"5", "e": b"6"}
    assert dict(cache) == dict(cache.items())  # type: ignore[call-overload]


def test_clear(cache: Cache) -> None:
    assert cache.clear() is None  # type: ignore[func-returns-value]
    assert len(cache) == 0
    assert cache.stats().bytes_held == 0


def test_keys_values_and_items(cache: Cache) -> None:
    assert list(cache) == list(cache.keys()) == ["one", "two"]
    assert "one" in cache.keys()  # noqa: SIM118 - that is what is tried
    assert cache.keys() & {"one", "three"} == {"one"}
    assert len(cache.keys()) == len(cache.values()) == len(cache.items()) == len(cache) == 2
    assert [bytes(value) for value in cache.values()] == [np.arange(3).tobytes(), b"bytes"]
    assert [(key, bytes(value)) for key, value in cache.items()] == [
        ("one", np.arange(3).tobytes()),
        ("two", b"bytes"),
    ]


def test_backward(cache: Cache) -> None:
    assert list(reversed(cache)) == list(reversed(cache.keys())) == ["two", "one"]
    assert [bytes(value) for value in reversed(cache.values())] == [b"bytes", bytes(cache["one"])]
    assert list(reversed(cache)) == ["one", "two"]  # what was used last comes first
    assert [key for key, _ in reversed(cache.items())] == ["one", "two"]
    assert list(reversed(Cache())) == []


def test_going_through_what_changes() -> None:
    cache = Cache()
    for key in range(20):
        cache[key] = bytes([key]) * 5000
    seen = []
    for key, value in cache.items():
        assert value[4999] == key
        seen.append(key)
        cache.pop(key + 1, None)
        cache[key + 100] = b"new"
    assert seen == list(range(0, 20, 2))
    del value
    reclaim_all(cache)
    assert list(cache.values()) == []


# get


def test_get_with_none_is_a_dicts(cache: Cache) -> None:
    assert cache.get("three", None) is None
    pinned = cache.get("two", None)
    assert pinned
    with pinned as value:
        assert value == b"bytes"
    with pytest.raises(KeyError, match="three"):
        cache.get("three")


@pytest.mark.parametrize("value", [np.arange(3), b"bytes", 0, [], "text"], ids=repr)
@pytest.mark.parametrize("key", ["one", "three"])
def test_a_value_instead_of_what_makes_it(cache: Cache, key: str, value: Any) -> None:
    for ask in (cache.get, lambda key, make: cache.get_many([key], make)):
        with pytest.raises(TypeError, match=r"lambda.*cache\.put") as refused:
            ask(key, value)
        assert type(value).__name__ in str(refused.value)
    assert "three" not in cache


USES: dict[str, Callable[[Any], object]] = {
    "attribute": lambda pinned: pinned.sum(),
    "shape": lambda pinned: pinned.shape,
    "item": lambda pinned: pinned[0],
    "store": lambda pinned: operator.setitem(pinned, 0, 0),
    "len": len,
    "list": list,
    "in": lambda pinned: 1 in pinned,
    "asarray": np.asarray,
    "np.sum": np.sum,
    "bytes": bytes,
    "int": int,
    "float": float,
    "plus": lambda pinned: pinned + 1,
    "plus it": lambda pinned: 1 + pinned,
    "array plus it": lambda pinned: np.arange(3) + pinned,
    "minus": lambda pinned: -pinned,
    "equal": lambda pinned: pinned == 3,
    "less": lambda pinned: pinned < 3,
    "matmul": lambda pinned: np.eye(3) @ pinned,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_get_returns_is_not_the_value(cache: Cache, use: Callable[[Any], object]) -> None:
    for pinned in (cache.get("one"), cache.get_many(["one"], lambda keys: [])):
        with pytest.raises((AttributeError, TypeError), match=r"`with cache\.get"):
            use(pinned)
    assert {cache.get("one")}  # it is hashable
    assert "array([0, 1, 2])" in repr(cache.get("one"))


@pytest.mark.parametrize(
    "made", [{1: b"a", 2: b"b"}, b"ab", "ab", None, {b"a", b"b"}, map(bytes, ([1], [2])), 2]
)
def test_what_is_no_list_of_values_for_many_keys(cache: Cache, made: Any) -> None:
    with pytest.raises(TypeError, match=rf"a {type(made).__name__}: .*in the order of the keys"):
        cache.get_many([1, 2], lambda keys: made)
    assert 1 not in cache
    assert 2 not in cache


async def coroutine() -> bytes:
    return b""


async def asynchronous() -> AsyncIterator[bytes]:
    yield b""


def generator() -> Iterator[bytes]:
    yield b""


@pytest.mark.parametrize(
    ("make", "advice"),
    [(coroutine, "await"), (asynchronous, "gone through once"), (generator, "gone through once")],
)
def test_a_make_that_makes_no_value(cache: Cache, make: Any, advice: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "was never awaited"
        with pytest.raises(TypeError, match=advice):
            cache.get("key", make)
        with pytest.raises(TypeError, match=advice):
            cache.memoize(functools.partial(lambda: make()))()  # noqa: PLW0108 - hides what it is
    assert "key" not in cache


# memoize


def test_memoize_with_parentheses() -> None:
    cache = Cache(MIB)
    calls = []

    @cache.memoize()
    def tile(number: int) -> Any:
        """Makes a tile."""
        calls.append(number)
        return np.full(3000, number)

    assert (tile(7) == 7).all()
    assert (tile(7.0) == 7).all()  # type: ignore[arg-type]
    assert calls == [7]
    assert tile.cache_info() == (1, 1, MIB, 6 * PAGESIZE)
    assert tile.cache_parameters() == {"maxsize": MIB, "typed": False}
    assert tile.__wrapped__(3)[0] == 3
    assert (tile.__name__, tile.__doc__) == ("tile", "Makes a tile.")
    assert list(inspect.signature(tile).parameters) == ["number"]
    tile.cache_clear()
    assert tile.cache_info() == (0, 0, MIB, 0)


def test_memoize_by_types() -> None:
    calls = []

    @Cache().memoize(typed=True)
    def tile(number: float, *, scale: float = 1) -> bytes:
        calls.append((number, scale))
        return b"tile"

    for _ in range(2):
        assert tile(7) == tile(7.0) == tile(7, scale=2) == tile(7, scale=2.0) == b"tile"
    assert len(calls) == 4
    assert tile.cache_parameters() == {"maxsize": None, "typed": True}


def test_memoize_on_methods() -> None:
    cache = Cache()

    class Image:
        calls = 0

        def __init__(self, color: int) -> None:
            self.color = color

        @cache.memoize
        def tile(self, number: int) -> Any:
            Image.calls += 1
            return np.full(3000, self.color + number)

        @classmethod
        @cache.memoize
        def of_class(cls, number: int) -> Any:
            return np.full(3000, number)

        @staticmethod
        @cache.memoize()
        def of_none(number: int) -> Any:
            return np.full(3000, number)

        @property
        @cache.memoize
        def whole(self) -> bytes:
            return bytes([self.color])

    red, blue = Image(100), Image(200)
    for _ in range(2):
        assert (red.tile(1)[0], blue.tile(1)[0], Image.tile(red, 1)[0]) == (101, 201, 101)
        assert (red.of_class(5)[0], Image.of_none(6)[0], red.of_none(6)[0]) == (5, 6, 6)
        assert (red.whole, blue.whole) == (b"d", b"\xc8")
    assert Image.calls == 2
    assert red.tile.cache_info()[:2] == (4, 2)
    red.tile.cache_clear()
    assert Image.tile.cache_info()[:2] == (0, 0)


class AsynchronousCall:
    async def __call__(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (coroutine, r"coroutine is a coroutine function.*to_thread"),
        (functools.partial(coroutine), "a coroutine function"),
        (staticmethod(coroutine), "a coroutine function"),
        (AsynchronousCall(), "a coroutine function"),
        (AsynchronousCall().__call__, "a coroutine function"),
        (asynchronous, "an asynchronous generator"),
        (generator, "a generator"),
        (128, r"this is a int.*Cache\(max_bytes\)"),
        ("tile", "this is a str"),
        (classmethod(lambda cls: b""), "put it under that decorator"),
        (property(lambda self: b""), "put it under that decorator"),
    ],
)
def test_what_cannot_be_memoized(function: Any, kind: str) -> None:
    for memoize in (Cache().memoize, Cache().memoize()):
        with pytest.raises(TypeError, match=kind):
            memoize(function)


def test_the_way_for_coroutines() -> None:
    @Cache().memoize
    def load(number: int) -> bytes:
        return bytes([number])

    async def both() -> list[memoryview]:
        return await asyncio.gather(asyncio.to_thread(load, 1), asyncio.to_thread(load, 2))

    assert asyncio.run(both()) == [b"\1", b"\2"]


def plain(number: int) -> bytes:
    return bytes([number])


memoized = Cache().memoize(plain)
memoized.__qualname__ = "memoized"  # type: ignore[attr-defined]


def test_a_memoized_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(memoized)) is memoized
