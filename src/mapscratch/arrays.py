# SPDX-License-Identifier: Apache-2.0
"""`array`: a file's numbers as a NumPy array whose pages are decoded when they are touched.

An array here is a `DecodedMap` and a NumPy view of it. How pages come and go is the engine's.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import pickle
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import index as as_index
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    Protocol,
    SupportsIndex,
    TypeAlias,
    TypeVar,
)

import numpy as np

from mapscratch import _native, with_dask
from mapscratch.decoded import DecodedMap, Geometry, NoMemory
from mapscratch.engine import Guarantees, PageCounts, chosen_name
from mapscratch.errors import UserError, caller_level
from mapscratch.fixups.arrays import ArrayFixup, Cast, Recipe, Scale, identity
from mapscratch.fixups.numbers import FOREIGN, DType, SourceType
from mapscratch.gathering import gather
from mapscratch.opening import HasFileno, Path, has_a_size, is_path, opened, writes_as_it_is

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

AnyArray: TypeAlias = np.ndarray[Any, DType]
Shape: TypeAlias = tuple[int, ...]
T = TypeVar("T")

Changes: TypeAlias = Literal["refuse", "unnoticed"]

_LOOK_FOR_THRASHING_SECONDS = 0.2
_COPIED_AT_ONCE = 1 << 20  # bytes, on their way into a system call
_NAMELESS = "a file without a name"  # where a path is expected; those begin with a slash

_IF_IT_GROWS = (
    ". It has grown: of a file that is only added to, as a recording, make it with "
    "changes='unnoticed', which gives up that other changes are noticed"
)

# NumPy 2 has moved it.
_byte_bounds = getattr(np, "byte_bounds", None) or np.lib.array_utils.byte_bounds


class SupportsWrite(Protocol):
    """An open file that takes bytes."""

    def write(self, data: bytes, /) -> int | None:
        """Says how many it took; None: all."""


class SourceChanged(UserError, RuntimeError):
    """The file isn't any more what it was when the array was made."""


class ThrashingWarning(ResourceWarning):
    """An array's blocks are decoded again and again: it doesn't fit into memory."""


# The interpreter hides ResourceWarnings by default. This one is for whoever runs the program.
warnings.filterwarnings("default", category=ThrashingWarning, append=True)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """All that makes an array again in another process.

    The inode is no part of that: the file may be a copy there. It tells files apart that had the
    same path, size and time after each other.
    """

    path: str
    inode: int
    size: int
    modified_ns: int
    dtype: DType
    offset: int
    shape: Shape
    order: Literal["C", "F"]
    source: SourceType
    fixup: ArrayFixup | None
    block: int | None
    engine: str
    source_length: int
    changes: Changes

    @property
    def items(self) -> int:
        """Of the whole array."""
        return math.prod(self.shape)

    def is_still_of(self, status: os.stat_result) -> bool:
        """Whether a file with this status still has what the array shows, as far as that shows."""
        if self.changes == "unnoticed":
            return status.st_size >= self.offset + self.source_length
        return status.st_size == self.size and status.st_mtime_ns == self.modified_ns


class ArrayScratch:
    """What stands behind an array: ``a.scratch``.

    Ranges that are dropped, reclaimed or pinned are those of the array it was asked of: of a slice
    its part, from its first byte to its last.
    """

    __slots__ = ("_array", "_home")

    def __init__(self, array: ScratchArray, home: _Home) -> None:
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
        low, high = _byte_bounds(_plain(self._array))
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


class _Home:
    """A mapping and what it is of; shared by an array and its views."""

    def __init__(self, spec: ArraySpec, mapping: DecodedMap | NoMemory, descriptor: int) -> None:
        self.spec = spec
        self.map = mapping
        # The mapping can't be closed while this is there.
        self._memory: AnyArray = (
            np.frombuffer(mapping, "u1") if isinstance(mapping, DecodedMap) else np.empty(0, "u1")
        )
        self.address = _address_of(self._memory)
        self.end = self.address + len(self._memory)
        self._descriptor = os.dup(descriptor)
        self._identity = _identity_of(os.fstat(self._descriptor))
        self._pickled: bytes | None = None
        self._token = uuid.uuid4().hex
        self._next_look = 0.0
        self._has_warned = False
        weakref.finalize(self, _close_quietly, self._descriptor, self._identity)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """All bytes, for NumPy: an array that is made of these has this object as its base."""
        return {**self._memory.__array_interface__, "data": (self.address, True)}

    def holds(self, array: AnyArray) -> bool:
        """It lies in this mapping."""
        if _home_of(array) is self:
            return True
        # Where NumPy has put something of its own in between, as broadcast_to and as_strided do.
        return self.address <= _address_of(array) < self.end

    def view(self, start: int, shape: Shape, strides: Shape, dtype: DType) -> ScratchArray:
        """A view of the mapping, whose base this is."""
        memory = np.asarray(self)
        if 0 in shape:  # no items lie anywhere; NumPy would look where
            return np.ndarray.__new__(ScratchArray, shape, dtype, buffer=memory)
        return np.ndarray.__new__(
            ScratchArray, shape, dtype, buffer=memory, offset=start, strides=strides
        )

    def pickled(self) -> bytes:
        """The spec, pickled once.

        Raises:
            TypeError: the file has no name by which another process could open it.
        """
        if self.spec.path == _NAMELESS:
            raise TypeError(
                "an array of a file without a name can't be given to another process, which could "
                "not open it: make the array of a path, or give np.array(a)"
            )
        if self._pickled is None:
            self._pickled = pickle.dumps(self.spec)
            _homes.setdefault(self._pickled, self)
        return self._pickled

    def token(self) -> Any:
        """What this mapping shows, for Dask: the same for the same file and fixup, if it pickles.

        Else it is unique, as Dask does it with objects that it knows nothing of.
        """
        try:
            return self.pickled()
        except (TypeError, AttributeError, pickle.PicklingError):
            return self._token

    def check_source(self) -> None:
        """Looks whether the file is still the same.

        Raises:
            SourceChanged: it isn't.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError:
            return  # somebody has closed all descriptors
        if _identity_of(now) != self._identity:
            return  # and another file has got this one
        if not self.spec.is_still_of(now):
            raise SourceChanged(
                f"{self.spec.path} was changed while an array of it is in use: some of its blocks "
                "would be decoded from the old bytes and some from the new. Make the array again"
                + (_IF_IT_GROWS if now.st_size > self.spec.size else "")
            )

    def look(self) -> None:
        """What is checked before each operation on the array; a microsecond."""
        self.check_source()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_FOR_THRASHING_SECONDS
            self._look_for_thrashing()

    def _look_for_thrashing(self) -> None:
        """Warns once, when each page was on average made twice because there was no room."""
        if isinstance(self.map, NoMemory):
            return
        native = self.map._range_counts()
        distinct = native["filled"] - native["rebuilt"]
        by_the_kernel = native["rebuilt"] - native["dropped"]
        if self._has_warned or not distinct or by_the_kernel < distinct:
            return
        self._has_warned = True
        page_kib = os.sysconf("SC_PAGESIZE") / 1024
        try:
            room = f"room for {self.map.counts().resident * page_kib / 1024:.4g} MiB of it"
        except OSError:  # a process may not see its own pages, and its arrays are read all the same
            room = "less room than that"
        warnings.warn(
            f"blocks of the array of {self.spec.path} are decoded again and again: "
            f"{native['rebuilt']} pages so far. The working set is "
            f"{distinct * page_kib / 1024:.4g} MiB, and there is {room}. Work in chunks that fit, "
            "decoding as you go, or keep what you derive in a mapscratch.Cache",
            ThrashingWarning,
            stacklevel=caller_level(),
        )


_homes: weakref.WeakValueDictionary[bytes, _Home] = weakref.WeakValueDictionary()
"""Of arrays that were pickled or unpickled here: slices of one array share its mapping."""


def _home_of(array: AnyArray) -> _Home | None:
    """What an array is a view of."""
    base: Any = array
    while base is not None and not isinstance(base, _Home):
        base = getattr(base, "base", None)  # as_strided has objects of its own in between
    return base


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
    def _home(self) -> _Home | None:
        return _home_of(self)

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
        return getattr(ufunc, method)(*_all_plain(inputs), **_all_plain(keywords))

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
        return self._adopted(func(*_all_plain(args), **_all_plain(kwargs)))

    def __getitem__(self, index: Any, /) -> Any:
        """As an array's; of rows that are picked by an index array pages are made together."""
        self._look()
        plain = _plain(self)
        if self._home is not None and isinstance(index, list | np.ndarray | tuple):
            picked = gather(plain, _all_plain(index), self._home.map)
            if picked is not None:
                return picked
        return self._adopted(plain[_all_plain(index)])

    def copy(self, order: Any = "C") -> Any:
        """An ordinary array of the same numbers, that can be changed.

        Dask copies the array that its `from_array` is given, lest somebody changes it later. This
        one nobody can change, and a copy would be all of it, decoded: Dask gets the array itself.
        """
        self._look()
        if with_dask.is_calling():
            with_dask.introduce(ScratchArray)
            return self
        return _plain(self).copy(order)

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
        """As an array's; of rows pages are made together."""
        rows = np.asarray(_all_plain(indices))
        is_first_axis = axis == 0 or (axis is None and self.ndim == 1)
        if out is None and mode == "raise" and is_first_axis and rows.dtype.kind in "iu":
            return self[rows]
        self._look()
        return _plain(self).take(_all_plain(indices), axis, _all_plain(out), mode)

    def compress(self, condition: Any, axis: Any = None, out: Any = None) -> Any:
        """As an array's; of rows pages are made together."""
        chosen = np.asarray(_all_plain(condition))
        if out is None and chosen.ndim == 1 and (axis == 0 or (axis is None and self.ndim == 1)):
            return self.take(np.flatnonzero(chosen), axis)
        self._look()
        return _plain(self).compress(chosen, axis, _all_plain(out))

    def tolist(self) -> Any:
        """As an array's."""
        self._look()
        return _plain(self).tolist()

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        """As `numpy.ndarray.tofile`, by copies: right bytes on any engine, or an exception."""
        self._look()
        if sep:
            _plain(self).tofile(fid, sep, format)
        else:
            _write_copies(self, fid)

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        """A reference to the file, and where in it this view lies.

        Raises:
            SourceChanged: the file was changed.
        """
        home = self._home
        if home is None:
            return _plain(self).__reduce_ex__(protocol)
        home.check_source()
        return _reopen, (home.pickled(), *self._place(home))

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __dask_tokenize__(self) -> Any:
        """What Dask names it by: the file and the view, not the data."""
        home = self._home
        if home is None:
            return with_dask.token_of_plain(_plain(self))
        home.check_source()
        return "ScratchArray", home.token(), *self._place(home)

    def _place(self, home: _Home) -> tuple[int, Shape, Shape, DType]:
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
            return _plain(result) if isinstance(result, ScratchArray) else result
        if _home_of(result) is home:
            return result.view(ScratchArray)
        start = _address_of(result) - home.address
        return home.view(start, result.shape, result.strides, result.dtype)


def _through_plain(name: str) -> Callable[..., Any]:
    """A method that works on a plain view; where its result is a view, it is a scratch array."""
    plain_method = getattr(np.ndarray, name)

    def method(self: ScratchArray, *arguments: Any, **keywords: Any) -> Any:
        self._look()
        result = plain_method(_plain(self), *_all_plain(arguments), **_all_plain(keywords))
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


def array(
    filename: Path | HasFileno,
    dtype: DTypeLike,
    mode: str = "r",
    offset: SupportsIndex | None = 0,
    shape: SupportsIndex | Sequence[SupportsIndex] | None = None,
    order: Literal["C", "F"] = "C",
    *,
    source: DTypeLike | str | None = None,
    scale: ArrayLike | None = None,
    zero: ArrayLike | None = None,
    blank: float | None = None,
    fixup: ArrayFixup | None = None,
    block: int | None = None,
    engine: str = "auto",
    changes: Changes = "refuse",
) -> ScratchArray:
    """A file's numbers as an array whose pages are decoded when they are touched.

    As `numpy.memmap`, but what you see need not be what the file holds::

        a = mapscratch.array("image.raw", "f4", offset=2880, shape=(4096, 4096),
                             source=">i2", scale=0.5, zero=1000)

    Pages are made when they are touched, dropped by the kernel without any I/O when memory is
    wanted, and made again: there may be more array than memory. **The file must stay as it is**
    while the array is used; a change raises SourceChanged at the next operation on it, and whoever
    touches a page that the file has no bytes for any more gets a message and SIGBUS.

    **The array is read-only.** NumPy refuses to store into it. Some compiled code stores all the
    same, and ends in SIGBUS after a message that names the array: `scipy.linalg` with
    ``overwrite_a`` or ``overwrite_b``, `scipy.linalg.blas`, `bottleneck.replace`, inputs of
    `numba.guvectorize`, and decoders of numcodecs, blosc2 and imagecodecs that are given it as
    their output. Give them a copy, ``np.array(a)``. In the source tree docs/arrays.md has all that
    were tried.

    Args:
        filename: a path, or an open file. What it has in its buffer is written out first; its
            position means nothing.
        dtype: what you see.
        mode: ``"r"``; there is no other.
        offset: bytes before the first number, any number of them.
        shape: of what you see; None: one dimension, to the end of the file. One length may be -1:
            as many as the file has. An array without items is one like others, without a page.
        order: ``"C"`` or ``"F"``, how the numbers lie in the file.
        source: what the file holds: a dtype, a name of ml_dtypes' (``"bfloat16"``,
            ``"float8_e5m2"``), or as the headers of files have it (``"BF16"``, ``"U8"``); None: the
            same as `dtype`.
        scale: see `mapscratch.fixups.Scale`; None: not scaled.
        zero: see `mapscratch.fixups.Scale`.
        blank: a number of the file that becomes NaN; see `mapscratch.fixups.Scale`.
        fixup: how items are made, of `mapscratch.fixups`; None: a `Cast`, or with `scale`, `zero`
            or `blank` a `Scale`.
        block: bytes that are made at a page fault. None adapts: 64 KiB, less for a random reader
            when memory is short, up to 2 MiB on the way for a sequential one.
        engine: ``"auto"`` or ``"lazyfree"``, see `mapscratch.engines`.
        changes: ``"refuse"``, or ``"unnoticed"`` for a file that grows while it is read, as a
            recording does. Then nothing tells you that other bytes of it were changed, and
            blocks may be decoded from old bytes and from new ones; only a file that is cut
            short is noticed. A shape of None or with -1 takes the whole items or rows
            that are there when the array is made.

    Raises:
        ValueError: another mode; an offset, shape or block that doesn't fit the file.
        TypeError: the types don't fit the fixup.
        EngineUnavailable: userfaultfd is not allowed here; the message has the line that allows it.
        FixupError: a Python fixup fails on the first block, or can't be run.
        io.UnsupportedOperation: an open file that reads something else than its descriptor has,
            as that of `gzip.open`; the message says what to do.
        OSError: the file can't be opened or mapped.

    Warns:
        SystemCallWarning: once a process, where system calls fail on pages not in memory.
        ThrashingWarning: once an array, when its pages are made again and again.
    """
    if mode != "r":
        _refuse_mode(mode)
    if changes not in ("refuse", "unnoticed"):
        raise ValueError(f"changes must be 'refuse' or 'unnoticed', not {changes!r}")
    output = _output_type(dtype)
    source_type = _source_type(source, output)
    fixup = _chosen_fixup(fixup, source_type, output, scale, zero, blank)
    with opened(filename) as descriptor:
        status = os.fstat(descriptor)
        if not has_a_size(descriptor):
            raise ValueError(
                "the file says that it has no bytes, and yet can be read, as those of /proc: it "
                "can't be mapped. Copy what you want of it into a file, and give that"
            )
        recipe = fixup.recipe(source_type, output) if fixup else identity(output)
        place = _fitting_place(
            status.st_size, offset, shape, source_type, recipe, cut=changes == "unnoticed"
        )
        spec = ArraySpec(
            path=_name_of(filename, status),
            inode=status.st_ino,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            dtype=output,
            offset=place.offset,
            shape=place.shape,
            order=_checked_order(order),
            source=source_type,
            fixup=fixup,
            block=block,
            engine=engine,
            source_length=place.source_length,
            changes=changes,
        )
        return _whole_array(_open_home(spec, recipe, descriptor))


def save(file: Path | SupportsWrite, array: AnyArray) -> None:
    """As `numpy.save`, by copies: it never writes less than the array.

    For any array that may lie in scratch memory, `np.asarray(a)` of a scratch array too.

    Args:
        file: a path, or an open file; what it does with the bytes, say pack them, it does here too.
        array: what is saved.

    Raises:
        OSError: the file can't be written.
    """
    target: Any = os.fsdecode(file) if is_path(file) else file  # numpy.save takes no bytes
    np.save(target, array if isinstance(array, ScratchArray) else array.view(_WrittenByCopies))


class _WrittenByCopies(np.ndarray[Any, DType]):
    """Any array, for `numpy.save`: it may lie in scratch memory though it is no scratch array."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        _write_copies(self, fid)


def _refuse_mode(mode: str) -> NoReturn:
    raise ValueError(
        f"mode={mode!r}: what is decoded can't be written back, so the mode is 'r'. To write to "
        "the file use numpy.memmap; for numbers that you can change, np.array(a) copies them"
    )


def _checked_order(order: str) -> Literal["C", "F"]:
    if order == "C":
        return "C"
    if order == "F":
        return "F"
    raise ValueError(f"order must be 'C' or 'F', not {order!r}")


def _chosen_fixup(
    fixup: ArrayFixup | None,
    source: SourceType,
    output: DType,
    scale: ArrayLike | None,
    zero: ArrayLike | None,
    blank: float | None,
) -> ArrayFixup | None:
    is_scaled = scale is not None or zero is not None or blank is not None
    if fixup is not None:
        if not isinstance(fixup, ArrayFixup):
            raise TypeError(
                "fixup must be one of mapscratch.fixups for arrays (ByteSwap, Cast, Scale, "
                f"Compiled, Python), not {type(fixup).__name__}"
            )
        if is_scaled:
            raise ValueError("give either fixup, or scale, zero and blank")
        return fixup
    if is_scaled:
        return Scale(1 if scale is None else scale, 0 if zero is None else zero, blank=blank)
    if source.is_shown_by(output):
        return None
    return Cast()


def _name_of(file: Path | HasFileno, status: os.stat_result) -> str:
    """The absolute path by which another process can open the file."""
    if is_path(file):
        return os.path.abspath(os.fsdecode(file))
    name = getattr(file, "name", None)
    if not isinstance(name, str | bytes):  # of a descriptor it is its number
        return _NAMELESS
    path = os.path.abspath(os.fsdecode(name))
    try:
        is_the_same = _identity_of(os.stat(path)) == _identity_of(status)
    except (OSError, ValueError):
        return _NAMELESS
    return path if is_the_same else _NAMELESS


def _output_type(dtype: DTypeLike) -> DType:
    """What a user wants to see.

    Raises:
        TypeError: NumPy doesn't know it, or it is of Python objects.
    """
    if isinstance(dtype, str) and dtype in FOREIGN:
        with suppress(ImportError):  # it teaches NumPy their names
            importlib.import_module("ml_dtypes")
    try:
        output = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{error}. dtype is what you see, as NumPy names it, and source what the file holds. "
            "For bfloat16 and floats of 8 bits give their types in the package ml_dtypes, or see "
            "them as 'f4'"
        ) from None
    if output.hasobject:
        raise TypeError(f"a file can't hold {output}: it has Python objects in it")
    return output


def _source_type(source: DTypeLike | str | None, output: DType) -> SourceType:
    if source is None:
        return SourceType.of(output)
    if output.kind == "U":
        return SourceType.of(np.dtype(source))  # who sees text means NumPy's "U8"
    return SourceType.of(source)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file an array lies: bytes, and its shape."""

    offset: int
    source_length: int
    shape: Shape


def _fitting_place(
    size: int,
    offset: SupportsIndex | None,
    shape: SupportsIndex | Sequence[SupportsIndex] | None,
    source: SourceType,
    recipe: Recipe,
    *,
    cut: bool,
) -> _Place:
    """Where the array lies, if the file has what it takes.

    Args:
        size: of the file.
        offset: as the user gave it.
        shape: as the user gave it.
        source: what the file holds.
        recipe: what makes items.
        cut: what is not whole at the end of the file is left out.

    Raises:
        ValueError: the file hasn't what it takes.
        TypeError: offset or shape are no numbers.
    """
    itemsize = source.dtype.itemsize
    if not itemsize:
        raise ValueError(f"items of {source} have no bytes")
    lengths = _as_lengths(shape)
    start = _as_offset(offset, lengths)
    if not 0 <= start <= size:
        raise ValueError(f"offset={start}: the file has {size} bytes")
    left = size - start
    if -1 in lengths:
        lengths = _filled_in(lengths, left, start, source, recipe, cut=cut)
    wanted = -(-math.prod(lengths) // recipe.items) * itemsize
    if wanted > left:
        raise ValueError(
            f"an array of shape {lengths} takes {wanted} bytes of {source}, but the file has "
            f"{left} from offset {start} on ({size} in all): is it cut "
            "short, or the shape, offset or dtype another?"
        )
    return _Place(start, wanted, lengths)


def _as_lengths(shape: SupportsIndex | Sequence[SupportsIndex] | None) -> Shape:
    if shape is None:
        return (-1,)
    try:
        lengths = (
            (as_index(shape),)
            if hasattr(shape, "__index__") and not np.ndim(shape)  # type: ignore[arg-type]
            else tuple(as_index(length) for length in shape)  # type: ignore[union-attr]
        )
    except TypeError as error:
        raise TypeError(f"shape={shape!r}: an integer, or several ({error})") from None
    if any(length < -1 for length in lengths):
        raise ValueError(f"shape={lengths}: a length can't be negative, but for one of -1")
    if lengths.count(-1) > 1:
        raise ValueError(f"shape={lengths}: only one length can be -1, for as many as there are")
    return lengths


def _as_offset(offset: SupportsIndex | None, lengths: Shape) -> int:
    if offset is not None:
        return as_index(offset)
    if 0 in lengths and -1 not in lengths:
        return 0  # a format that has no place for it, as HDF5
    raise TypeError(
        "offset=None: that is no place in the file. h5py's get_offset() gives it for a dataset "
        "that is not one piece of its file as it is (chunked, compressed, compact, external or "
        "not yet written): read such a dataset with h5py, where you want with "
        "mapscratch.Cache, or write it again without chunks"
    )


def _filled_in(
    lengths: Shape, left: int, offset: int, source: SourceType, recipe: Recipe, *, cut: bool
) -> Shape:
    """The shape with the length in place of -1 that `left` bytes have.

    Raises:
        ValueError: they are no whole number of rows.
    """
    itemsize = source.dtype.itemsize
    others = -math.prod(lengths)
    if not others:
        raise ValueError(f"shape={lengths}: any length would do in place of -1")
    items = left // itemsize * recipe.items
    is_whole = not left % itemsize and not items % others
    if not is_whole and not cut:
        rows = f"rows of shape {lengths}" if others > 1 else "items"
        raise ValueError(
            f"{left} bytes from offset {offset} on are not whole items of {source} ({itemsize} "
            f"bytes each) in whole {rows}; give a shape"
        )
    return tuple(items // others if length == -1 else length for length in lengths)


def _open_home(spec: ArraySpec, recipe: Recipe, descriptor: int) -> _Home:
    items, itemsize, source_itemsize = spec.items, spec.dtype.itemsize, spec.source.dtype.itemsize
    if spec.fixup:
        spec.fixup.check(items)
    else:  # bytes as they are
        items, itemsize, source_itemsize = items * itemsize, 1, 1
    geometry = Geometry.of(items, itemsize, source_itemsize, recipe.items)
    if not items:
        return _Home(spec, _no_memory(spec, geometry), descriptor)
    mapping = DecodedMap(
        name=spec.path.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        fileno=descriptor,
        offset=spec.offset,
        source=spec.source,
        output=spec.dtype,
        geometry=geometry,
        recipe=recipe,
        block=spec.block,
        engine=spec.engine,
    )
    return _Home(spec, mapping, descriptor)


def _no_memory(spec: ArraySpec, geometry: Geometry) -> NoMemory:
    """For an array without items.

    Raises:
        ValueError: with items it couldn't be made either.
    """
    chosen_name(spec.engine)
    geometry.block_pages(spec.block)
    return NoMemory()


def _whole_array(home: _Home) -> ScratchArray:
    spec = home.spec
    whole = np.ndarray.__new__(
        ScratchArray, spec.shape, spec.dtype, buffer=np.asarray(home), order=spec.order
    )
    with_dask.introduce(ScratchArray)
    return whole


def _reopen(pickled: bytes, start: int, shape: Shape, strides: Shape, dtype: DType) -> ScratchArray:
    """Unpickles a scratch array: a view of a mapping that this process has, or makes now.

    Raises:
        SourceChanged: the file is not what it was.
        OSError: it can't be opened.
    """
    home = _homes.get(pickled)
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
            home = _homes.setdefault(pickled, _open_home(spec, recipe, descriptor))
    with_dask.introduce(ScratchArray)
    return home.view(start, shape, strides, dtype)


def _address_of(array: AnyArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _plain(array: AnyArray) -> AnyArray:
    return array.view(np.ndarray)


def _all_plain(values: Any) -> Any:
    """The same with plain arrays in place of scratch arrays, in lists, tuples and dicts too."""
    if isinstance(values, ScratchArray):
        return _plain(values)
    if type(values) in (list, tuple):
        return type(values)(_all_plain(value) for value in values)
    if type(values) is dict:
        return {name: _all_plain(value) for name, value in values.items()}
    return values


def _pieces(array: AnyArray) -> Iterator[AnyArray]:
    """Copies of the items, in C order, a mebibyte each."""
    plain = _plain(array)
    if not plain.flags.c_contiguous:
        plain = np.ascontiguousarray(plain)
    flat = plain.reshape(-1)
    step = max(1, _COPIED_AT_ONCE // max(1, flat.itemsize))
    for start in range(0, len(flat), step):
        yield flat[start : start + step].copy()


def _write_copies(array: AnyArray, file: Any) -> None:
    """Its bytes, in C order, to a path or an open file."""
    if is_path(file):
        with open(file, "wb") as opened_file:
            _write_copies(array, opened_file)
    elif writes_as_it_is(file):
        for piece in _pieces(array):
            piece.tofile(file)
    else:  # its descriptor, which NumPy would write to, is not where these bytes belong
        for piece in _pieces(array):
            _write_all(file, piece.tobytes())


def _write_all(file: SupportsWrite, data: bytes) -> None:
    """All of it, also where a raw file takes less at a time."""
    while data:
        written = file.write(data)
        if not written and (written is not None or isinstance(file, io.RawIOBase)):
            raise OSError(f"{type(file).__name__} took none of {len(data)} bytes that are left")
        data = b"" if written is None else data[written:]


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close_quietly(descriptor: int, identity: tuple[int, int]) -> None:
    """Unless somebody has closed it, and another file has got its number."""
    try:
        if _identity_of(os.fstat(descriptor)) == identity:
            os.close(descriptor)
    except OSError:
        pass
