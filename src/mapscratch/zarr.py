# SPDX-License-Identifier: Apache-2.0
"""A zarr array whose decoded chunks are kept in a `mapscratch.Cache`.

**After anybody wrote to the array, call** `CachedArray.invalidate`: until then the old values are
what one sees.

Nothing of zarr is imported: whatever has `shape`, `chunks`, `dtype` and is sliced like a zarr array
does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from mapscratch.cache import Cache
from mapscratch.cache.values import Array

_Key = tuple[object, tuple[tuple[int, int], ...]]  # whose, and a chunk's bounds along each axis


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

    **What is written to the array is not seen before** `invalidate`: after ``array[10:20] = 0``
    call ``cached.invalidate(np.s_[10:20])``, and ``cached.invalidate()`` after a resize, or where
    nobody knows what was written. ``cached[10:20] = 0`` writes and does so itself. Other processes,
    and another `CachedArray` of the same array, have to be told likewise.

    Integers and slices with positive steps are answered from the cache, as ordinary arrays; every
    other selection is passed on. A chunk that the kernel has taken is read and decoded again.

    Attributes:
        array: the chunked array.
        cache: where its chunks are.
    """

    def __init__(self, array: Chunked, cache: Cache) -> None:
        """Reads `array` through `cache`.

        Args:
            array: a zarr array, a chunked dataset of h5py, or what is like one.
            cache: it may have other things in it, and other arrays.

        Raises:
            TypeError: `array` is something else, such as a path, a group or a plain array; it has
                chunks of unequal lengths; or `cache` is no cache.
            ValueError: it isn't stored in chunks, so that nothing would be decoded.
        """
        _refuse_others(array)
        if not isinstance(cache, Cache):
            raise TypeError(
                f"the cache is a {type(cache).__name__}: CachedArray(array, mapscratch.Cache())"
            )
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

    @property
    def size(self) -> int:
        """How many items it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all its items when they are decoded."""
        return self.size * self.dtype.itemsize

    @property
    def attrs(self) -> Any:
        """What is said about the array, where the array has that."""
        return cast(Any, self.array).attrs

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.array!r} through {self.cache!r}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it, as an ordinary array of one's own.

        Raises:
            ValueError: `copy` is False: chunks can't be one array without a copy.
        """
        if copy is False:
            raise ValueError("an array of chunks can't be an ordinary one without a copy")
        return np.asarray(self[...], dtype)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            array = self.__dict__.get("array")
            more = f": .array.{name} has it, past the cache" if hasattr(array, name) else ""
            raise AttributeError(f"a CachedArray has no {name!r}{more}", name=name, obj=self)

    def __getitem__(self, selection: Any) -> Any:
        # To ask zarr for these takes longer than a chunk that is there.
        shape, chunks, dtype = self.shape, self.chunks, self.dtype
        plain = _plain(selection, shape)
        if plain is None or dtype.hasobject:
            return self.array[selection]
        lengths = [
            len(range(*each.indices(length))) for each, length in zip(plain, shape, strict=True)
        ]
        result = np.empty(lengths, dtype)
        for place in product(*_parts_of(plain, shape, chunks)):
            key = self._key(tuple(part.chunk for part in place), shape, chunks)
            with self.cache.get(key, partial(self._read, key)) as chunk:
                there = tuple(part.there for part in place)
                result[there] = chunk[tuple(part.here for part in place)]
        taken = selection if isinstance(selection, tuple) else (selection,)
        return result[_integers_of(taken, len(shape))]

    def __setitem__(self, selection: Any, value: Any) -> None:
        """Writes to the array, and gives up the chunks that it has changed."""
        try:
            cast(Any, self.array)[selection] = value
        finally:
            self.invalidate(selection)

    def invalidate(self, selection: Any = ...) -> None:
        """Gives up the chunks that a selection meets: what is asked of them next is read anew.

        Args:
            selection: what was written, as one would index the array; all of it, if it isn't given.
                Of other selections than integers and slices every chunk is given up.

        Raises:
            IndexError: it is out of the array's bounds.
        """
        shape, chunks = self.shape, self.chunks
        plain = _plain(_forward(selection), shape)
        if selection is Ellipsis or plain is None:
            self.drop()
            return
        for place in product(*_parts_of(plain, shape, chunks)):
            self.cache.drop(self._key(tuple(part.chunk for part in place), shape, chunks))

    def drop(self) -> None:
        """Gives up its chunks: what is asked next is read anew. The same as `invalidate` of all."""
        old, self._name = self._name, object()  # what is just being read is of the old
        self.cache._drop_all_of(old)

    def _key(self, place: tuple[int, ...], shape: tuple[int, ...], chunks: tuple[int, ...]) -> _Key:
        # Where it ends is a part of its key: an array that grows has another last chunk.
        bounds = tuple(
            (number * length, min((number + 1) * length, whole))
            for number, length, whole in zip(place, chunks, shape, strict=True)
        )
        return self._name, bounds

    def _read(self, key: _Key) -> Any:
        return np.asarray(self.array[tuple(slice(*bound) for bound in key[1])])


def _refuse_others(array: object) -> None:
    """Raises an error that says what to do with what is no chunked array."""
    kind = type(array).__name__
    if isinstance(array, str | bytes | PathLike):
        raise TypeError(
            f"{array!r} is a path: open it first, CachedArray(zarr.open_array(path), cache)"
        )
    if isinstance(array, CachedArray):
        raise TypeError(
            "this is a CachedArray already: use it as it is, or CachedArray(cached.array, cache) "
            "for one with another cache. Of two, one inside the other, `invalidate` would reach "
            "the outer one alone"
        )
    if isinstance(array, np.ndarray):
        raise TypeError(
            f"an array in memory ({kind}) is decoded already: use it as it is. CachedArray is for "
            "zarr arrays and chunked datasets"
        )
    if not hasattr(array, "shape") and hasattr(array, "keys"):
        raise TypeError(
            f"this is a group ({kind}): CachedArray(group[name], cache) takes one of its arrays"
        )
    missing = [
        name for name in ("shape", "chunks", "dtype", "__getitem__") if not hasattr(array, name)
    ]
    if missing:
        raise TypeError(
            f"a {kind} has no {missing[0]}: CachedArray takes a zarr array, or what has shape, "
            "chunks and dtype as one"
        )
    chunks: Any = cast(Chunked, array).chunks
    if chunks is None:
        raise ValueError(
            f"this {kind} is not stored in chunks, so nothing would be decoded: use it as it is. "
            "Of a contiguous dataset in an HDF5 file mapscratch.array(path, dtype, "
            "offset=dataset.id.get_offset(), shape=dataset.shape) shows the numbers"
        )
    shape = cast(Chunked, array).shape
    is_regular = isinstance(chunks, Sequence) and all(
        isinstance(each, int | np.integer) for each in chunks
    )
    if not is_regular or len(chunks) != len(shape):
        raise TypeError(
            f"the chunks of this {kind} are {chunks!r}, and CachedArray takes one length an axis. "
            "Dask computes its chunks: for its results see mapscratch.dask.WorkerData"
        )


def _forward(selection: Any) -> Any:
    """A selection that meets no less, and goes backward nowhere."""
    taken = selection if isinstance(selection, tuple) else (selection,)
    # Which axis a slice is of isn't looked at: all of an axis holds what it can meet.
    return tuple(
        slice(None) if isinstance(each, slice) and (each.step or 1) < 0 else each for each in taken
    )


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


def _parts_of(
    plain: list[slice], shape: tuple[int, ...], chunks: tuple[int, ...]
) -> list[Iterator[_Part]]:
    """Of each axis the parts that slices meet."""
    return [
        _parts(range(*each.indices(length)), chunk)
        for each, length, chunk in zip(plain, shape, chunks, strict=True)
    ]


def _parts(items: range, length: int) -> Iterator[_Part]:
    """The parts of an axis, chunk by chunk."""
    done = 0
    while done < len(items):
        chunk, first = divmod(items[done], length)
        count = min(-(-(length - first) // items.step), len(items) - done)
        here = slice(first, first + (count - 1) * items.step + 1, items.step)
        yield _Part(chunk, here, slice(done, done + count))
        done += count
