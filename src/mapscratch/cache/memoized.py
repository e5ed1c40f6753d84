# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch.Cache.memoize` makes of a function, and of which it can't make anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar

Parameters = ParamSpec("Parameters")
Result_co = TypeVar("Result_co", covariant=True)


class CacheInfo(NamedTuple):
    """As `functools.lru_cache` gives it; `maxsize` is in bytes, and None: as the kernel likes."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CacheParameters(TypedDict):
    """As `functools.lru_cache` gives it; `maxsize` is in bytes, and None: as the kernel likes."""

    maxsize: int | None
    typed: bool


class Memoized(Protocol[Parameters, Result_co]):
    """A function whose results are kept: a plain function, with these attributes."""

    @property
    def __wrapped__(self) -> Callable[Parameters, Any]:
        """The function itself: it makes its result anew."""

    def __call__(self, *arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result_co:
        """The result for these arguments, kept or made."""

    # As a method, of whichever kind; what has to be given then can't be said more closely.
    def __get__(
        self, instance: object, owner: type | None = None, /
    ) -> Memoized[..., Result_co]: ...

    def cache_info(self) -> CacheInfo:
        """Hits, misses, and the cache's sizes in bytes."""

    def cache_clear(self) -> None:
        """Gives up all that the function has returned, and begins to count anew."""

    def cache_parameters(self) -> CacheParameters:
        """The cache's limit, and whether arguments of different types are told apart."""


_KINDS: dict[str, Callable[[object], bool]] = {
    "a coroutine function": inspect.iscoroutinefunction,
    "an asynchronous generator": inspect.isasyncgenfunction,
    "a generator": inspect.isgeneratorfunction,
}

_REMEDIES = {
    "a coroutine function": "memoize an ordinary function that does the work, and await it by "
    "asyncio.to_thread(function, ...)",
    "an asynchronous generator": "memoize what makes one of its values, an array or bytes",
    "a generator": "memoize what makes one of its values, or return all of them as one array",
}


def refuse_others(function: object) -> None:
    """Raises a TypeError if it is nothing whose results can be kept: no function, or `async`."""
    if not callable(function):
        kind = type(function).__name__
        under = (
            " (put it under that decorator)"
            if kind in ("classmethod", "property", "cached_property")
            else ""
        )
        raise TypeError(
            f"memoize is given a function, and this is a {kind}{under}: @cache.memoize or "
            "@cache.memoize(). A size is the cache's: mapscratch.Cache(max_bytes)"
        )
    inner = getattr(function, "__func__", function)  # of a static method
    for kind, is_one in _KINDS.items():
        if is_one(inner) or is_one(type(inner).__call__):
            raise TypeError(
                f"{getattr(function, '__name__', function)!s} is {kind}: what it returns can be "
                f"used once, and a cache keeps arrays and bytes. {_REMEDIES[kind].capitalize()}"
            )
