# SPDX-License-Identifier: Apache-2.0
"""A zarr array whose decoded chunks are kept in a `mapscratch.Cache`.

Nothing of zarr is imported: whatever has `shape`, `chunks`, `dtype` and is sliced like a zarr array
does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np

from mapscratch.cache import Cache
from mapscratch.cache_values import Array


class Chunked(Protocol):
    """What is asked of a zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length along each axis."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """The length of a chunk along each axis."""

    @property
    def dtype(self) -> Any:
        """The type of its items."""

    def __getitem__(self, selection: Any, /) -> Any: ...


class _Part(NamedTuple):
    """What of one axis is in one chunk: its number, where in it, and where in the result."""

    chunk: int
    here: slice
    there: slice


class CachedArray:
    """A chunked array, read through a cache of its decoded chunks.

    Integers and slices with positive steps are answered from the cache, as ordinary arrays; every
    other selection is passed on. A chunk that the kernel has taken is read and decoded again. After
    the array was written to, call `drop`.

    Attributes:
        array: the chunked array.
        cache: where its chunks are.
    """

    def __init__(self, array: Chunked, cache: Cache) -> None:
        """Reads `array` through `cache`.

        Args:
            array: a zarr array, or what is like one.
            cache: it may have other things in it, and other arrays.
        """
        self.array = array
        self.cache = cache
        self._name = object()  # the first part of its keys: no other array has it

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of its chunks."""
        return self.array.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its items."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.array!r} through {self.cache!r}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[...], dtype)

    def __getitem__(self, selection: Any) -> Any:
        plain = _plain(selection, self.shape)
        if plain is None or self.dtype.hasobject:
            return self.array[selection]
        ranges = [
            range(*each.indices(length)) for each, length in zip(plain, self.shape, strict=True)
        ]
        parts = [_parts(each, chunk) for each, chunk in zip(ranges, self.chunks, strict=True)]
        result = np.empty([len(each) for each in ranges], self.dtype)
        for place in product(*parts):
            there = tuple(part.there for part in place)
            here = tuple(part.here for part in place)
            with self._chunk(tuple(part.chunk for part in place)) as chunk:
                result[there] = chunk[here]
        taken = selection if isinstance(selection, tuple) else (selection,)
        return result[_integers_of(taken, self.ndim)]

    def drop(self) -> None:
        """Gives up its chunks: what is asked next is read anew."""
        old, self._name = self._name, object()  # what is just being read is of the old
        self.cache._drop_all_of(old)

    def _chunk(self, place: tuple[int, ...]) -> Any:
        # Where it ends is a part of its key: an array that grows has another last chunk.
        bounds = tuple(
            (number * length, min((number + 1) * length, whole))
            for number, length, whole in zip(place, self.chunks, self.shape, strict=True)
        )
        where = tuple(slice(*bound) for bound in bounds)
        return self.cache.get((self._name, bounds), lambda: np.asarray(self.array[where]))


def _plain(selection: Any, shape: tuple[int, ...]) -> list[slice] | None:
    """A slice for each axis; None: it isn't of integers and forward slices only.

    Raises:
        IndexError: too many axes, or an integer that is out of bounds.
    """
    taken = list(selection) if isinstance(selection, tuple) else [selection]
    ellipses = sum(each is Ellipsis for each in taken)
    if ellipses > 1:
        return None
    missing = len(shape) - (len(taken) - ellipses)
    if missing < 0:
        raise IndexError(f"too many indices: the array has {len(shape)} axes")
    at = next((place for place, each in enumerate(taken) if each is Ellipsis), len(taken))
    taken[at : at + 1] = [slice(None)] * missing
    slices = []
    for each, length in zip(taken, shape, strict=True):
        if isinstance(each, slice):
            if each.step is not None and each.step < 1:
                return None
            slices.append(each)
        elif isinstance(each, int | np.integer) and not isinstance(each, bool | np.bool_):
            number = int(each) + (length if each < 0 else 0)
            if not 0 <= number < length:
                raise IndexError(f"index {each} is out of bounds for an axis of length {length}")
            slices.append(slice(number, number + 1))
        else:
            return None
    return slices


def _integers_of(taken: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """What takes the axes away that were picked by an integer."""
    kept: list[Any] = [0 if isinstance(each, int | np.integer) else slice(None) for each in taken]
    at = next((place for place, each in enumerate(taken) if each is Ellipsis), len(taken))
    kept[at : at + 1] = [slice(None)] * (ndim - len(taken) + (at < len(taken)))
    return tuple(kept)


def _parts(items: range, length: int) -> Iterator[_Part]:
    """The parts of an axis, chunk by chunk."""
    done = 0
    while done < len(items):
        chunk, first = divmod(items[done], length)
        count = min(-(-(length - first) // items.step), len(items) - done)
        here = slice(first, first + (count - 1) * items.step + 1, items.step)
        yield _Part(chunk, here, slice(done, done + count))
        done += count
