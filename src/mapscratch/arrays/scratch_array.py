# SPDX-License-Identifier: Apache-2.0
"""`ScratchArray`: all of NumPy on an array whose pages come and go."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy as np

from mapscratch import _native
from mapscratch.arrays import with_dask
from mapscratch.arrays.copies import write_copies
from mapscratch.arrays.decoded import DecodedMap, NoMemory
from mapscratch.arrays.gathering import gather
from mapscratch.arrays.home import (
    AnyArray,
    ArraySpec,
    Home,
    Shape,
    SourceChanged,
    address_of,
    home_of,
    homes,
    open_home,
)
from mapscratch.engine import Guarantees, PageCounts
from mapscratch.fixups.arrays import ArrayFixup, identity
from mapscratch.fixups.numbers import DType, SourceType
from mapscratch.opening import opened

T = TypeVar("T")

# NumPy 2 has moved it.
_byte_bounds = getattr(np, "byte_bounds", None) or np.lib.array_utils.byte_bounds


class ArrayScratch:
    """What stands behind an array: ``a.scratch``.

    Ranges that are dropped, reclaimed or pinned are those of the array it was asked of: of a slice
    its part, from its first byte to its last.
    """

    __slots__ = ("_array", "_home")

    def __init__(self, array: ScratchArray, home: Home) -> None:
        self._array = array
        self._home = home

    @property
    def map(self) -> DecodedMap | NoMemory:
        """The mapping itself, of the whole array; of one without items there is none."""
        return self._home.map

    @property
    def engine(self) -> str:
        """Which engine drops and brings back pages."""
        return self.map.engine

    @property
    def guarantees(self) -> Guarantees:
        """What the engine promises."""
        return self.map.guarantees

    @property
    def source(self) -> SourceType:
        """What the file holds."""
        return self._home.spec.source

    @property
    def fixup(self) -> ArrayFixup | None:
        """What makes items; None: the file's bytes are the items."""
        return self._home.spec.fixup

    @property
    def filename(self) -> str:
        """The file's absolute path."""
        return self._home.spec.path

    def counts(self) -> PageCounts:
        """Pages of the whole array: what they are now, and what happened so far.

        `PageCounts.rebuilt_rate` says how much was decoded that had been decoded before, and
        `PageCounts.fixup_seconds` how long decoding took.
        """
        return self.map.counts()

    def drop(self) -> int:
        """Drops this array's pages now, pinned ones excepted; how many went.

        What of the file they were decoded from is unmapped, too (``RssFile``); it stays in the
        page cache.
        """
        return self.map.drop(*self._span())

    def reclaim(self) -> None:
        """Asks the kernel to reclaim this array's pages now: what memory pressure would do.

        `ThrashingWarning` takes it for that.
        """
        self.map.reclaim(*self._span())

    @contextmanager
    def pin(self) -> Iterator[None]:
        """Keeps this array's pages in memory, decoded, while a ``with`` block runs.

        System calls may then be given the array, whatever the engine.

        Raises:
            OSError: more than RLIMIT_MEMLOCK allows; nothing is pinned then.
        """
        self._home.check_source()
        with self.map.pin(*self._span()):
            yield

    def _span(self) -> tuple[int, int]:
        if not self._array.size:
            return 0, 0
        low, high = _byte_bounds(plain_of(self._array))
        return low - self._home.address, high - low

    def __repr__(self) -> str:
        try:
            counts = self.counts()
            figures = (
                f"{counts.resident} pages in memory, {counts.rebuilt_rate or 0:.0%} made again"
            )
        except OSError as error:
            figures = f"pages can't be counted: {error.strerror}"
        return (
            f"<{self._array.nbytes} bytes decoded from {self.filename!r} by "
            f"{self.fixup or 'nothing'}, engine {self.engine!r}, {figures}>"
        )


def _laid_out_as_plain(definition: type[T]) -> type[T]:
    """The same class, but of instances that `_native.become_base` can make plain arrays."""
    made = _native.subclass_alike(f"{__name__}.{definition.__name__}", np.ndarray)
    for name, value in vars(definition).items():
        if name not in ("__dict__", "__weakref__"):
            setattr(made, name, value)
    return made


@_laid_out_as_plain
class ScratchArray(np.ndarray[Any, DType]):
    """A read-only array whose pages are decoded from a file when they are touched.

    Made by `mapscratch.array`. The kernel may drop any of its pages when it wants memory, without
    any I/O; they are decoded again at the next touch. All of NumPy works on it; results of
    computation are ordinary arrays, and slices and other views are scratch arrays like it.

    It pickles as a reference to its file, a few hundred bytes, so that other processes map the file
    themselves. `scratch` has what can be known and done about its pages.

    Without privilege the kernel decodes no page for a system call: ``f.write(a)`` and ``send(a)``
    fail with EFAULT (or write less, and say so) on pages that are not in memory. Use
    ``with a.scratch.pin():``, `mapscratch.save`, or `tofile` and `numpy.save`, which copy.
    """

    def __array_finalize__(self, obj: object) -> None:
        """Makes a plain array of what is no view of the file: the result of a computation.

        Compiled libraries make their results of the type of what they are given.
        """
        if self._home is None:
            _native.become_base(self, np.ndarray)

    def __array_wrap__(
        self, array: AnyArray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        """A result of a library that asks how to wrap it: a plain array."""
        return array[()] if return_scalar else self._adopted(array)

    @property
    def _home(self) -> Home | None:
        return home_of(self)

    @property
    def scratch(self) -> ArrayScratch:
        """What stands behind this array.

        Raises:
            ValueError: nothing does: it is a copy.
        """
        home = self._home
        if home is None:
            raise ValueError("this array is an ordinary one in memory of its own")
        return ArrayScratch(self, home)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        """Computes on plain arrays, so that results are plain arrays."""
        self._look()
        return getattr(ufunc, method)(*all_plain(inputs), **all_plain(keywords))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        """Calls NumPy's function on plain arrays; a view of this array stays a scratch array."""
        self._look()
        if func in _WRITERS:  # these call our tofile
            return np.ndarray.__array_function__(self, func, types, args, kwargs)
        picker = _PICKERS.get(func)
        if picker and len(args) > picker.place and isinstance(args[picker.place], ScratchArray):
            return picker.pick(*args, **kwargs)
        return self._adopted(func(*all_plain(args), **all_plain(kwargs)))

    def __getitem__(self, index: Any, /) -> Any:
        """As an array's; of rows that are picked by an index array pages are made together."""
        self._look()
        plain = plain_of(self)
        if self._home is not None and isinstance(index, list | np.ndarray | tuple):
            picked = gather(plain, all_plain(index), self._home.map)
            if picked is not None:
                return picked
        return self._adopted(plain[all_plain(index)])

    def copy(self, order: Any = "C") -> Any:
        """An ordinary array of the same numbers, that can be changed.

        Dask copies the array that its `from_array` is given, lest somebody changes it later. This
        one nobody can change, and a copy would be all of it, decoded: Dask gets the array itself.
        """
        self._look()
        if with_dask.is_calling():
            with_dask.introduce(ScratchArray)
            return self
        return plain_of(self).copy(order)

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
        """As an array's; of rows pages are made together."""
        rows = np.asarray(all_plain(indices))
        is_first_axis = axis == 0 or (axis is None and self.ndim == 1)
        if out is None and mode == "raise" and is_first_axis and rows.dtype.kind in "iu":
            return self[rows]
        self._look()
        return plain_of(self).take(all_plain(indices), axis, all_plain(out), mode)

    def compress(self, condition: Any, axis: Any = None, out: Any = None) -> Any:
        """As an array's; of rows pages are made together."""
        chosen = np.asarray(all_plain(condition))
        if out is None and chosen.ndim == 1 and (axis == 0 or (axis is None and self.ndim == 1)):
            return self.take(np.flatnonzero(chosen), axis)
        self._look()
        return plain_of(self).compress(chosen, axis, all_plain(out))

    def tolist(self) -> Any:
        """As an array's."""
        self._look()
        return plain_of(self).tolist()

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        """As `numpy.ndarray.tofile`, by copies: right bytes on any engine, or an exception."""
        self._look()
        if sep:
            plain_of(self).tofile(fid, sep, format)
        else:
            write_copies(self, fid)

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        """A reference to the file, and where in it this view lies.

        Raises:
            SourceChanged: the file was changed.
        """
        home = self._home
        if home is None:
            return plain_of(self).__reduce_ex__(protocol)
        home.check_source()
        return _reopen, (home.pickled(), *self._place(home))

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __dask_tokenize__(self) -> Any:
        """What Dask names it by: the file and the view, not the data."""
        home = self._home
        if home is None:
            return with_dask.token_of_plain(plain_of(self))
        home.check_source()
        return "ScratchArray", home.token(), *self._place(home)

    def _place(self, home: Home) -> tuple[int, Shape, Shape, DType]:
        """Where in the mapping this view lies: what makes it again there."""
        start: int = self.__array_interface__["data"][0] - home.address
        return start, self.shape, self.strides, self.dtype

    def _look(self) -> None:
        with_dask.introduce(ScratchArray)
        if self._home is not None:
            self._home.look()

    def _adopted(self, result: Any) -> Any:
        """Views of this array's memory as scratch arrays, everything else plain."""
        if isinstance(result, list | tuple) and type(result) in (list, tuple):
            return type(result)(self._adopted(part) for part in result)
        if not isinstance(result, np.ndarray):
            return result
        home = self._home
        has_nothing = self.size and not result.size  # as the one by which Dask sees what type it is
        if home is None or has_nothing or not home.holds(result):
            return plain_of(result) if isinstance(result, ScratchArray) else result
        if home_of(result) is home:
            return result.view(ScratchArray)
        start = address_of(result) - home.address
        return view_of(home, start, result.shape, result.strides, result.dtype)


def _through_plain(name: str) -> Callable[..., Any]:
    """A method that works on a plain view; where its result is a view, it is a scratch array."""
    plain_method = getattr(np.ndarray, name)

    def method(self: ScratchArray, *arguments: Any, **keywords: Any) -> Any:
        self._look()
        result = plain_method(plain_of(self), *all_plain(arguments), **all_plain(keywords))
        return self._adopted(result)

    method.__name__ = name
    method.__qualname__ = f"ScratchArray.{name}"
    method.__doc__ = plain_method.__doc__
    return method


_METHODS = """
    __copy__ __deepcopy__ all any argmax argmin argpartition argsort astype byteswap
    choose clip conj conjugate cumprod cumsum diagonal dot flatten item max mean min
    nonzero prod ravel repeat reshape round searchsorted squeeze std sum swapaxes tobytes
    trace transpose var
"""
for _name in _METHODS.split():
    setattr(ScratchArray, _name, _through_plain(_name))

_WRITERS = frozenset({np.save, np.savez, np.savez_compressed})


@dataclass(frozen=True, slots=True)
class _Picker:
    """How a function of NumPy picks items of an array, and which argument that is."""

    place: int
    pick: Callable[..., Any]


_PICKERS: dict[Any, _Picker] = {
    np.take: _Picker(0, lambda a, *how, **named: a.take(*how, **named)),
    np.compress: _Picker(1, lambda chosen, a, *how, **named: a.compress(chosen, *how, **named)),
    np.extract: _Picker(1, lambda chosen, a: a.ravel().compress(np.ravel(chosen))),
}


def whole_array(home: Home) -> ScratchArray:
    """All items of a mapping, as the spec lays them out."""
    spec = home.spec
    whole = np.ndarray.__new__(
        ScratchArray, spec.shape, spec.dtype, buffer=np.asarray(home), order=spec.order
    )
    with_dask.introduce(ScratchArray)
    return whole


def view_of(home: Home, start: int, shape: Shape, strides: Shape, dtype: DType) -> ScratchArray:
    """A view of a mapping, whose base the mapping is."""
    memory = np.asarray(home)
    if 0 in shape:  # no items lie anywhere; NumPy would look where
        return np.ndarray.__new__(ScratchArray, shape, dtype, buffer=memory)
    return np.ndarray.__new__(
        ScratchArray, shape, dtype, buffer=memory, offset=start, strides=strides
    )


def _reopen(pickled: bytes, start: int, shape: Shape, strides: Shape, dtype: DType) -> ScratchArray:
    """Unpickles a scratch array: a view of a mapping that this process has, or makes now.

    Raises:
        SourceChanged: the file is not what it was.
        OSError: it can't be opened.
    """
    home = homes.get(pickled)
    if home is None:
        spec: ArraySpec = pickle.loads(pickled)
        with opened(spec.path) as descriptor:
            status = os.fstat(descriptor)
            if not spec.is_still_of(status):
                raise SourceChanged(
                    f"{spec.path} is not the file any more that the array was pickled with: it "
                    "was changed since, or this process sees another one at that path"
                )
            recipe = (
                spec.fixup.recipe(spec.source, spec.dtype) if spec.fixup else identity(spec.dtype)
            )
            home = homes.setdefault(pickled, open_home(spec, recipe, descriptor))
    with_dask.introduce(ScratchArray)
    return view_of(home, start, shape, strides, dtype)


def plain_of(array: AnyArray) -> AnyArray:
    """An ordinary view of the same memory."""
    return array.view(np.ndarray)


def all_plain(values: Any) -> Any:
    """The same with plain arrays in place of scratch arrays, in lists, tuples and dicts too."""
    if isinstance(values, ScratchArray):
        return plain_of(values)
    if type(values) in (list, tuple):
        return type(values)(all_plain(value) for value in values)
    if type(values) is dict:
        return {name: all_plain(value) for name, value in values.items()}
    return values
