# SPDX-License-Identifier: Apache-2.0
"""`Cache`: derived objects in memory that the kernel may take; its size is nobody's guess.

An entry is arrays or bytes in purgeable memory (`mapscratch.cache.purgeable`): in use while
anything made of it lives, the kernel's to take while not. Nothing here needs userfaultfd, a signal
handler or a thread.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import OrderedDict, deque
from collections.abc import (
    Callable,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    Set,
    Sized,
    ValuesView,
)
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from mmap import PAGESIZE
from operator import index
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np

from mapscratch._native import BoardEntry, purgeable_refused
from mapscratch.arrays import dask_workers
from mapscratch.cache.making import Maker, Makers, Making, Shared, Waiter, exclusive, fail
from mapscratch.cache.memoized import CacheInfo, CacheParameters, Memoized, refuse_others
from mapscratch.cache.pinned import Pinned
from mapscratch.cache.purgeable import Lease, PurgeableMemory, Run, capacity, why_not, why_refused
from mapscratch.cache.values import (
    Array,
    Form,
    Makeable,
    Value,
    another,
    bytes_of,
    refuse_objects,
    seen,
)
from mapscratch.errors import caller_level
from mapscratch.proc.cgroups import memory_limit
from mapscratch.proc.meminfo import read_meminfo

Parameters = ParamSpec("Parameters")
AnyArray = TypeVar("AnyArray", bound=Array)

_ALL: Any = object()
_RAISE: Any = object()  # what isn't there is a KeyError

_SMALL = PAGESIZE // 2  # bytes; what is no larger shares a page with others
_ALIGNMENT = 64  # bytes: a cache line, and more than any type of NumPy's needs
_RECENT = 16 << 20  # bytes that were used last, and are kept in use though nobody does
_LARGE = 64 << 20  # bytes; whether there is memory for a larger draft is asked first
_SHARE_OF_A_DRAFT = 0.75  # what is less of it is copied, and the draft given back
_LOOKED_AT_FOR_EACH_MADE = 16  # entries; so lost ones are found faster than they can pile up
_SHORT_FOR = 64  # values made: so long memory is taken to be short when the kernel took an entry
_TIDIED_FOR_EACH_MADE = 16  # runs that may have ended, of which one is made
_CANDIDATES = 8  # entries that were used least lately, one of which gives its place
_SHARE_WITHOUT_PURGING = 4  # of the memory there is, one part in so many


class CacheFallbackWarning(RuntimeWarning):
    """The kernel takes no released pages here: the cache is an ordinary LRU with a fixed size."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a `Cache` has done, and holds now.

    Attributes:
        hits: uses of an entry that was there.
        made: entries that were made.
        lost: entries that the kernel took, as far as that has been noticed.
        evicted: entries that were given up for others, because of `max_bytes` or while the kernel
            was taking entries.
        uncached: values that were made and not kept, for want of room.
        entries: how many there are now.
        bytes_held: memory of the entries, in whole pages.
        bytes_droppable: the part of it that the kernel may take at any moment.
        bytes_in_use: the part whose arrays live. What is in neither was used just now.
    """

    hits: int
    made: int
    lost: int
    evicted: int
    uncached: int
    entries: int
    bytes_held: int
    bytes_droppable: int
    bytes_in_use: int


class _Entry(NamedTuple):
    """Where a value is, and how it is seen."""

    run: Run
    offset: int
    size: int
    form: Form | None


class Cache(Shared):
    """Keeps what can be made again, in memory that the kernel takes when it wants it.

    There is no size to choose: entries stay until memory is short anywhere (in the machine, or in
    the control group), and then go without any I/O, those first that nobody came back to. Each use
    of an entry takes its pages back, or finds out that one has gone; then the entry is made again.
    You never see part of one.

    Values are NumPy arrays of anything but Python objects, seen again as read-only arrays, and
    bytes, seen again as a read-only memoryview. They are copied in once. One that lives (or a view
    of it, or an array made of it without a copy) is pinned: the kernel leaves it alone.

    ``with cache.get(key, make) as value:`` is how it is used, or `memoize`; there are a dict's
    methods, too. When what a value was made of has changed, `drop` it.

    All methods may be called from any thread. After fork parent and child go on with a copy each.
    Where MADV_FREE does nothing (some sandboxes, locked memory) a `CacheFallbackWarning` says so,
    and the cache is an ordinary one that keeps what was used last, up to `max_bytes`.

    Pickling a cache gives an empty one with the same settings.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """An empty cache.

        Args:
            max_bytes: what it may hold at most, in bytes of whole pages (not in entries); None: as
                much as there is room for.

        Raises:
            ValueError: `max_bytes` is negative.
            TypeError: it is no integer.
        """
        if max_bytes is not None:
            max_bytes = _number_of_bytes(max_bytes)
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}: it can't be negative")
        super().__init__()
        self._asked_for = max_bytes
        self._max_bytes = max_bytes
        self._board = BoardEntry(None, None)
        self._memory = PurgeableMemory(self._board)
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._recent: OrderedDict[Run, Lease] = OrderedDict()  # kept in use though nobody does
        self._bytes_recent = 0
        self._loose: deque[Run] = deque()  # forgotten, or not stored to yet
        self._open_run: Run | None = None  # small values go there,
        self._open_from = 0  # from this offset
        self._looked_at: Iterator[Hashable] = iter(())
        self._hits = self._made = self._lost = self._evicted = self._uncached = 0
        self._short_until = 0  # memory is, until so many values were made
        self._why_not: str | None = None
        self._makers = Makers()
        dask_workers.add_reserve(self)
        if reason := _why_not_here():
            self._fall_back(reason)

    @property
    def is_purgeable(self) -> bool:
        """Whether the kernel may take entries; if not, it is an ordinary cache of `max_bytes`."""
        return self._why_not is None

    @property
    def max_bytes(self) -> int | None:
        """What the cache may hold at most; None: as much as the kernel likes."""
        return self._max_bytes

    @overload
    def get(self, key: Hashable, make: Callable[[], Makeable] = ...) -> Pinned[Any]: ...
    @overload
    def get(self, key: Hashable, make: None) -> Pinned[Any] | None: ...

    def get(
        self, key: Hashable, make: Callable[[], Makeable] | None = _RAISE
    ) -> Pinned[Any] | None:
        """The value of a key, made if it isn't there: ``with cache.get(key, make) as value:``.

        While one thread makes a value all others that ask for its key wait. If `make` raises they
        all get that exception, and nothing is kept.

        Args:
            key: anything that a dict takes.
            make: makes the value, an array or bytes; it may use the cache itself, for other keys.
                None: what isn't there is None, as for a dict.

        Raises:
            KeyError: the value isn't there, and there is no `make`.
            TypeError: `make` returned something else than an array or bytes, or is a value.
            RuntimeError: `make` asks for the key that it makes, or two wait for each other.
        """
        if make is not _RAISE and make is not None:
            _refuse_values(make)
        value = self._take(key)
        if value is not None:
            return Pinned(value)
        if make is None:
            return None
        if make is _RAISE:
            raise KeyError(key)
        return Pinned(self._all_of([key], lambda keys: [make()])[key])

    def get_many(
        self,
        keys: Iterable[Hashable],
        make: Callable[[list[Any]], Sequence[Makeable]],
    ) -> Pinned[list[Any]]:
        """The values of several keys, those that aren't there made by one call.

        Args:
            keys: anything that a dict takes, each.
            make: is given the list of keys that aren't there, each once, and returns their values
                in the same order.

        Raises:
            ValueError: `make` returned another number of values.
            TypeError: it returned no sequence; else as for `get`.
            RuntimeError: as for `get`.
        """
        _refuse_values(make)
        keys = list(keys)
        values = self._all_of(list(dict.fromkeys(keys)), make)
        return Pinned([values[key] for key in keys])

    def put(self, key: Hashable, value: Makeable) -> None:
        """Keeps a value that is there already; replaces what the key had.

        Raises:
            TypeError: it is neither an array nor bytes.
        """
        self._supersede(key)
        self._store(key, value, None)

    def empty(
        self, shape: int | tuple[int, ...], dtype: Any = float, order: Literal["C", "F"] = "C"
    ) -> Array:
        """An array for `make` to fill and to return: it is kept where it is, and not copied.

        Nothing of it should be stored to after that; it is what others see.

        Args:
            shape: as for `numpy.empty`; so are the others.
            dtype: anything but Python objects.
            order: by rows or by columns.

        Returns:
            A writable array with any content. Where there is no room an ordinary one.

        Raises:
            TypeError: an array of Python objects.
        """
        axes = shape if isinstance(shape, Iterable) else (shape,)
        form = Form(tuple(index(length) for length in axes), np.dtype(dtype), order)
        refuse_objects(form.dtype)
        size = math.prod(form.shape) * form.dtype.itemsize
        is_possible = size > _SMALL and (size < _LARGE or size < _memory_there_is())
        place = self._make_room(size, form, is_draft=True) if is_possible else None
        if place is None:
            return np.empty(*form)
        entry, draft = place
        entry.run.populate()
        return cast(Array, draft)

    @overload
    def memoize(
        self, function: Callable[Parameters, AnyArray], /, *, typed: bool = ...
    ) -> Memoized[Parameters, AnyArray]: ...
    @overload
    def memoize(
        self,
        function: Callable[Parameters, bytes | bytearray | memoryview],
        /,
        *,
        typed: bool = ...,
    ) -> Memoized[Parameters, memoryview]: ...
    @overload
    def memoize(
        self, function: Callable[Parameters, Makeable], /, *, typed: bool = ...
    ) -> Memoized[Parameters, Value]: ...
    @overload
    def memoize(self, /, *, typed: bool = ...) -> _Memoizer: ...

    def memoize(self, function: Any = None, /, *, typed: bool = False) -> Any:
        """Keeps what a function returns, by its arguments: a decorator, with or without ``()``.

        The results are read-only arrays (memoryviews, of bytes) that keep their pin while they
        live. ``cache_info()``, ``cache_clear()``, ``cache_parameters()`` and ``__wrapped__`` are as
        `functools.lru_cache` has them. Of a method the object is an argument as others are: it must
        be hashable, and lives as long as what is kept for it.

        Args:
            function: returns an array or bytes.
            typed: whether 3 and 3.0 are different arguments.

        Raises:
            TypeError: a coroutine function, a generator, or no function.
        """
        if function is None:
            return functools.partial(self.memoize, typed=typed)
        refuse_others(function)
        return _memoized(self, function, typed)

    @exclusive
    def drop(self, key: Hashable = _ALL) -> int:
        """Gives up one entry, or all of them; what is in use goes when its last user does.

        What is just being made for it is for those who wait for it already, and isn't kept.

        Args:
            key: whose entry; all, if it isn't given.

        Returns:
            The bytes that were given back to the machine at once.
        """
        before = self._memory.held
        if key is _ALL:
            self._makers.supersede(self._makers.keys())
            for each in list(self._entries):
                self._forget(each)
            self._looked_at = iter(())
        else:
            self._makers.supersede([key])
            self._forget(key)
        self._tidy(len(self._loose))
        self._show()
        return before - self._memory.held

    @exclusive
    def _give_back(self, wanted: int) -> int:
        """Gives up what was used least lately until so many bytes are the machine's again."""
        before = self._memory.held
        while before - self._memory.held < wanted and self._evict():
            pass
        self._show()
        return before - self._memory.held

    @exclusive
    def stats(self) -> CacheStats:
        """What it has done and holds now; looks at every entry, a microsecond each."""
        for key in list(self._entries):
            self._look_at(key)
        self._tidy(len(self._loose))
        runs = {entry.run for entry in self._entries.values()}
        droppable = sum(run.size for run in runs if run.is_released)
        recent = sum(run.size for run in self._recent if run.pins == 1)
        return CacheStats(
            hits=self._hits,
            made=self._made,
            lost=self._lost,
            evicted=self._evicted,
            uncached=self._uncached,
            entries=len(self._entries),
            bytes_held=self._memory.held,
            bytes_droppable=droppable,
            bytes_in_use=self._memory.held - droppable - recent,
        )

    def cache_info(self) -> CacheInfo:
        """Hits, misses, the size it may have and the size it has, in bytes."""
        return CacheInfo(self._hits, self._made, self._max_bytes, self._memory.held)

    # As of a dict; what is looked up is lent as `memoize` does it

    def __getitem__(self, key: Hashable) -> Any:
        """The value itself, pinned while it lives; a KeyError if it isn't there."""
        value = self._take(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Hashable, value: Makeable) -> None:
        """Is `put`."""
        self.put(key, value)

    def __delitem__(self, key: Hashable) -> None:
        """Gives up one entry; a KeyError if it isn't there."""
        self.pop(key)

    def pop(self, key: Hashable, default: Any = _RAISE) -> Any:
        """Takes an entry out of the cache; its value is pinned while it lives.

        Raises:
            KeyError: it isn't there, and there is no `default`.
        """
        value = self._take_out(key)
        if value is not None:
            return value
        if default is _RAISE:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Hashable, Any]:
        """Takes out the entry that was used least lately: its key, and its value as from `pop`.

        Raises:
            KeyError: there is none.
        """
        item = self._take_out_oldest()
        if item is None:
            raise KeyError("popitem: the cache is empty")
        return item

    def setdefault(self, key: Hashable, default: Makeable) -> Any:
        """The value itself; if it isn't there, `default` is put there first.

        Raises:
            TypeError: `default` is neither an array nor bytes. To make it only when it is needed:
                `get`.
        """
        pinned = self.get(key, lambda: default)
        return pinned.value

    def update(
        self,
        other: Mapping[Any, Makeable] | Iterable[tuple[Hashable, Makeable]] = (),
        /,
        **keywords: Makeable,
    ) -> None:
        """Puts all values of a mapping, or of pairs, and those that are named."""
        for key, value in dict(other, **keywords).items():
            self.put(key, value)

    def clear(self) -> None:
        """Gives up all entries; see `drop`."""
        self.drop()

    def keys(self) -> KeysView[Hashable]:
        """The keys, at the time when they are gone through; some of their values may be lost."""
        return _Keys(cast(Mapping[Hashable, Any], self))

    def values(self) -> ValuesView[Any]:
        """The values that are still there when it is their turn, each pinned while it lives."""
        return _Values(cast(Mapping[Hashable, Any], self))

    def items(self) -> ItemsView[Hashable, Any]:
        """The keys and values that are still there when it is their turn; see `values`."""
        return _Items(cast(Mapping[Hashable, Any], self))

    @exclusive
    def _take_out(self, key: Hashable) -> Value | None:
        self._makers.supersede([key])
        value = self._find(key)
        self._forget(key)
        self._show()
        return value

    @exclusive
    def _take_out_oldest(self) -> tuple[Hashable, Value] | None:
        while self._entries:
            key = next(iter(self._entries))
            value = self._find(key)
            self._forget(key)
            if value is not None:
                self._show()
                return key, value
        return None

    @exclusive
    def _keys(self) -> list[Hashable]:
        return list(self._entries)

    def _drop_all_of(self, name: object) -> None:
        """Gives up all whose keys are tuples that begin with it."""
        for key in self:
            if isinstance(key, tuple) and key and key[0] is name:
                self.drop(key)

    def __iter__(self) -> Iterator[Hashable]:
        """The keys there are now; some of their values may be lost."""
        return iter(self._keys())

    def __reversed__(self) -> Iterator[Hashable]:
        """The keys there are now, from the one that was used last."""
        return reversed(self._keys())

    @exclusive
    def __contains__(self, key: Hashable) -> bool:
        """Whether the value is there at this moment; the next moment it may not be."""
        self._look_at(key)
        return key in self._entries

    def __len__(self) -> int:
        """How many entries there are, some of which may be lost."""
        return len(self._entries)

    def __bool__(self) -> bool:
        """True: an empty cache is one, too."""
        return True

    def __repr__(self) -> str:
        limit = f", at most {self._max_bytes:,} bytes" if self._max_bytes is not None else ""
        kind = "purgeable" if self.is_purgeable else f"not purgeable: {self._why_not}"
        return f"<Cache of {len(self)} entries, {self._memory.held:,} bytes{limit}; {kind}>"

    def __reduce__(self) -> tuple[Callable[..., Cache], tuple[int | None]]:
        return _empty_cache, (self._asked_for,)

    # Making

    def _all_of(
        self, keys: list[Hashable], make: Callable[[list[Any]], Sequence[Makeable]]
    ) -> dict[Hashable, Value]:
        values: dict[Hashable, Value] = {}
        while len(values) < len(keys):
            missing = [key for key in keys if key not in values]
            mine: dict[Hashable, Making] = {}
            others: dict[Hashable, Making] = {}
            maker: Maker | None = Maker()
            try:
                values |= self._take_or_join(missing, maker, mine, others)
                values |= self._make(mine, make)
            except Exception as error:  # not KeyboardInterrupt: then the others try themselves
                fail(mine.values(), error)
                raise
            finally:
                maker = None  # before anything else: now nobody takes these for being made
                self._end(mine)
                mine.clear()
            # Only now: whoever makes the others may wait for one of ours.
            for key, making in others.items():
                value = self._wait(making)
                if value is not None:
                    values[key] = value
        return values

    @exclusive
    def _take_or_join(
        self,
        keys: list[Hashable],
        maker: Maker | None,
        mine: dict[Hashable, Making],
        others: dict[Hashable, Making],
    ) -> dict[Hashable, Value]:
        """The values that are there; and notes what this maker has to make, and what others are."""
        values: dict[Hashable, Value] = {}
        for key in keys:
            value = self._find(key)
            if value is not None:
                values[key] = value
            elif maker:
                making, is_mine = self._makers.join(key, maker)
                (mine if is_mine else others)[key] = making
        return values

    def _make(
        self, wanted: dict[Hashable, Making], make: Callable[[list[Any]], Sequence[Makeable]]
    ) -> dict[Hashable, Value]:
        if not wanted:
            return {}
        made = make(list(wanted))
        _refuse_no_sequences(made)
        if len(made) != len(wanted):
            raise ValueError(f"make was asked for {len(wanted)} values and returned {len(made)}")
        values = {}
        for (key, making), value in zip(wanted.items(), made, strict=True):
            making.value = self._store(key, value, making)
            values[key] = another(making.value)
        return values

    @exclusive
    def _end(self, makings: dict[Hashable, Making]) -> None:
        self._makers.end(makings)

    @exclusive
    def _supersede(self, key: Hashable) -> None:
        self._makers.supersede([key])

    def _wait(self, making: Making) -> Value | None:
        waiter = Waiter(making)  # while it lives this thread counts as waiting
        try:
            self._begin_waiting(waiter)
            value = making.wait()
        finally:
            self._makers.end_waiting()
        return None if value is None else self._another(value)

    @exclusive
    def _begin_waiting(self, waiter: Waiter) -> None:
        self._makers.begin_waiting(waiter)

    @exclusive
    def _another(self, value: Value) -> Value:
        self._hits += 1
        self._board.show(self._hits)
        return another(value)

    # Values in memory

    def _store(self, key: Hashable, value: Makeable, making: Making | None) -> Value:
        """Copies a value into purgeable memory and lends it; outside of the lock."""
        dask_workers.guard()
        source, form = bytes_of(value)
        draft = self._draft_of(value, source, form)
        if draft:
            return self._adopt(key, draft, making)
        place = self._make_room(source.nbytes, form)
        if place is None:
            self._give_up(key)
            return seen(source.tobytes(), form)
        entry, lent = place
        if entry.run.size > PAGESIZE:
            entry.run.populate()
        memory = entry.run.region.memory
        np.frombuffer(memory, np.uint8, entry.size, entry.run.offset + entry.offset)[:] = source
        self._replace(key, entry, making)
        return lent

    def _draft_of(self, value: Makeable, source: Array, form: Form | None) -> _Entry | None:
        """Where a value is that was made in an array of `empty`, if it is most of that."""
        base: Any = value
        while isinstance(base, np.ndarray):
            base = base.base
        if not isinstance(base, Lease) or not base.is_draft or not self._memory.has(base.run):
            return None
        if source.__array_interface__["data"][0] != base.run.address:
            return None  # not its beginning, or a copy in another order
        if -(-source.nbytes // PAGESIZE) * PAGESIZE < base.run.size * _SHARE_OF_A_DRAFT:
            return None
        base = value
        while isinstance(base, np.ndarray):
            base.flags.writeable = False  # it is what others see now
            base = base.base
        return _Entry(cast(Lease, base).run, 0, source.nbytes, form)

    @exclusive
    def _adopt(self, key: Hashable, entry: _Entry, making: Making | None) -> Value:
        self._made += 1
        self._keep(key, entry, making)
        return self._lend(entry)

    @exclusive
    def _make_room(
        self, size: int, form: Form | None, is_draft: bool = False
    ) -> tuple[_Entry, Value] | None:
        """An entry that is in use because it is lent; None: there is no room."""
        self._made += not is_draft
        self._look_for_lost(_LOOKED_AT_FOR_EACH_MADE)
        self._tidy(_TIDIED_FOR_EACH_MADE)
        if self.is_purgeable and (error := purgeable_refused()):
            self._fall_back(why_refused(error))
        place = self._place(max(size, 1))  # empty ones, too, are somewhere, and can be lost
        self._show()
        if place is None:
            return None
        entry = _Entry(*place, size, form)
        return entry, self._lend(entry, is_draft)

    @exclusive
    def _give_up(self, key: Hashable) -> None:
        self._uncached += 1
        self._forget(key)
        self._show()

    @exclusive
    def _replace(self, key: Hashable, entry: _Entry, making: Making | None) -> None:
        self._keep(key, entry, making)

    def _keep(self, key: Hashable, entry: _Entry, making: Making | None) -> None:
        if making and making.is_superseded:
            return
        self._forget(key)
        if not entry.run.is_forgotten:  # or everything was dropped while it was copied
            entry.run.keys.append(key)
            self._entries[key] = entry
        self._show()

    def _place(self, size: int) -> tuple[Run, int] | None:
        """Room for a value, in a run that somebody is about to lease; None if there is none."""
        if size <= _SMALL:
            offset = -(-self._open_from // _ALIGNMENT) * _ALIGNMENT
            run = self._open_run
            if run and offset + size <= PAGESIZE and self._is_there(run):
                self._open_from = offset + size
                return run, offset
        run = self._cut(-(-size // PAGESIZE))
        if run and size <= _SMALL:
            self._open_run, self._open_from = run, size
        return (run, 0) if run else None

    def _cut(self, pages: int) -> Run | None:
        size = pages * PAGESIZE
        limit = self._max_bytes
        if limit is not None and size > limit:
            return None
        while limit is not None and self._memory.held + size > limit:
            if not self._evict():
                return None
        run = self._cut_again(pages) if self._made < self._short_until else None
        while run is None:
            try:
                run = self._memory.cut(pages)
            except OSError:  # no more addresses
                if not self._evict():
                    return None
        self._loose.append(run)
        return run

    def _evict(self) -> bool:
        """Gives up what was used least lately of all that nobody uses."""
        self._tidy(len(self._loose))
        unused = (key for key, entry in self._entries.items() if self._is_unused(entry.run))
        oldest = next(unused, None)
        if oldest is None:
            return False
        entry = self._entries.pop(oldest)
        self._evicted += len(entry.run.keys)
        self._forget_run(entry.run)
        return True

    def _is_unused(self, run: Run) -> bool:
        return run.pins == (run in self._recent)

    def _cut_again(self, pages: int) -> Run | None:
        """The place of what was used least lately, rather than memory that the kernel has to find.

        While memory is short the kernel would take as many pages from us as we touch, one by one.
        """
        wanted = capacity(pages)
        oldest = [entry.run for entry in islice(self._entries.values(), _CANDIDATES)]
        fitting = [run for run in oldest if run.capacity == wanted and run.is_released]
        for run in sorted(fitting, key=lambda run: run.was_used):
            try:
                held = Lease(run, 0, 0)
            except LookupError:
                self._lose(run)
                continue
            self._evicted += len(run.keys)
            self._forget_run(run, is_given_back=False)
            again = self._memory.cut_again(run, pages)
            del held
            return again
        return None

    @exclusive
    def _take(self, key: Hashable) -> Value | None:
        return self._find(key)

    def _find(self, key: Hashable) -> Value | None:
        """The value of a key if it is there, pinned."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.run.is_forgotten:  # somebody was interrupted who gave it up
            del self._entries[key]
            return None
        try:
            value = self._lend(entry)
        except LookupError:
            self._lose(entry.run)
            return None
        self._hits += 1
        self._board.show(self._hits)
        self._entries.move_to_end(key)
        entry.run.was_used = True
        return value

    def _is_there(self, run: Run) -> bool:
        """Whether a run is still ours, and from now on in use."""
        try:
            self._use(run)
        except LookupError:
            self._lose(run)
            return False
        return not run.is_forgotten

    def _lend(self, entry: _Entry, is_draft: bool = False) -> Value:
        value = seen(Lease(entry.run, entry.offset, entry.size, is_draft), entry.form)
        self._use(entry.run)
        return value

    def _use(self, run: Run) -> None:
        """Keeps what was used last in use: coming back to it costs less then."""
        if run in self._recent:
            self._recent.move_to_end(run)
            return
        self._recent[run] = Lease(run, 0, 0)
        self._bytes_recent += run.size
        self._release_recent(_RECENT)

    def _release_recent(self, bytes_kept: int) -> None:
        while self._recent and self._bytes_recent > bytes_kept:
            run, lease = self._recent.popitem(last=False)
            self._bytes_recent = self._bytes_recent - run.size if self._recent else 0
            del lease  # the last one releases it

    def _tidy(self, count: int) -> None:
        """Gives back some runs that nobody uses, and that nobody will."""
        for _ in range(min(count, len(self._loose))):
            run = self._loose.popleft()
            if run.keys and not run.is_forgotten:
                continue
            if self._is_unused(run) and run is not self._open_run:
                self._forget_run(run)
            else:
                self._loose.append(run)

    def _forget(self, key: Hashable) -> None:
        """Gives up one entry, and its memory if nothing else is in it."""
        entry = self._entries.pop(key, None)
        if entry:
            with suppress(ValueError):
                entry.run.keys.remove(key)
            if not entry.run.keys:
                self._forget_run(entry.run)

    def _forget_run(self, run: Run, is_given_back: bool = True) -> None:
        # In this order, and twice if need be: somebody may have been interrupted amid it.
        run.is_forgotten = True
        for key in run.keys:
            entry = self._entries.get(key)
            if entry and entry.run is run:
                del self._entries[key]
        run.keys.clear()
        if run is self._open_run:
            self._open_run = None
        if run in self._recent:
            self._bytes_recent -= run.size
            del self._recent[run]
        if not is_given_back:
            return
        if run.pins:
            self._loose.append(run)
        else:
            self._memory.give_back(run)
        self._show()

    def _show(self) -> None:
        """For other processes to see; hits are shown when they happen."""
        self._board.show(
            self._hits,
            self._made,
            self._lost,
            self._evicted,
            self._uncached,
            len(self._entries),
            self._memory.held,
        )

    def _look_at(self, key: Hashable) -> None:
        entry = self._entries.get(key)
        if entry and entry.run.is_released and not entry.run.is_whole():
            self._lose(entry.run)

    def _lose(self, run: Run) -> None:
        self._lost += len(run.keys)
        self._short_until = self._made + _SHORT_FOR
        self._forget_run(run)

    def _look_for_lost(self, count: int) -> None:
        """Looks at some entries, all in turn, so that no lost one stays for nothing."""
        for _ in range(min(count, len(self._entries))):
            try:
                key = next(self._looked_at)
            except StopIteration:
                self._looked_at = iter(list(self._entries))
                key = next(self._looked_at, None)
            self._look_at(key)

    # Where the kernel doesn't take pages

    def _fall_back(self, reason: str) -> None:
        """Makes an ordinary cache of it, and says so."""
        self._why_not = reason
        if self._max_bytes is None:
            self._max_bytes = _memory_there_is() // _SHARE_WITHOUT_PURGING
        warnings.warn(
            f"the kernel can't take what this cache holds ({reason}): it keeps what was used "
            f"last, up to {self._max_bytes:,} bytes. Another limit: Cache(max_bytes=...)",
            CacheFallbackWarning,
            stacklevel=caller_level(),
        )


def _memory_there_is() -> int:
    """Bytes: what is available in the machine, or the control group's limit if that is less."""
    available = read_meminfo().available
    limit = memory_limit()
    return available if limit is None else min(available, limit)


def _number_of_bytes(limit: object) -> int:
    try:
        return index(cast(int, limit))
    except TypeError:
        raise TypeError(
            f"max_bytes={limit!r}: a number of bytes is an integer, such as 1 << 30; "
            "without a limit it is None"
        ) from None


def _refuse_values(make: object) -> None:
    """Raises a TypeError if somebody gives a value where a function is asked for."""
    if not callable(make):
        raise TypeError(
            f"make is called when there is no value, and this is a {type(make).__name__}: "
            "cache.get(key, lambda: ...); or cache.put(key, value), if it is there already"
        )


def _refuse_no_sequences(made: object) -> None:
    """Raises a TypeError if it isn't several values in an order: a dict's keys are no values."""
    has_order = isinstance(made, Sized) and not isinstance(made, Mapping | Set)
    if not has_order or isinstance(made, str | bytes | bytearray):
        raise TypeError(
            f"make of get_many returned a {type(made).__name__}: it returns a list of values, in "
            "the order of the keys that it was given"
        )


class _Keys(KeysView[Hashable]):
    """The keys, also from the last one on, as those of a dict."""

    _mapping: Mapping[Hashable, Any]

    def __reversed__(self) -> Iterator[Hashable]:
        return reversed(list(self._mapping))


class _Items(ItemsView[Hashable, Any]):
    """What is there when it is its turn: an entry may be lost meanwhile."""

    _mapping: Mapping[Hashable, Any]

    def __iter__(self) -> Iterator[tuple[Hashable, Any]]:
        for key in self._mapping:
            with suppress(KeyError):
                yield key, self._mapping[key]

    def __reversed__(self) -> Iterator[tuple[Hashable, Any]]:
        for key in reversed(list(self._mapping)):
            with suppress(KeyError):
                yield key, self._mapping[key]


class _Values(ValuesView[Any]):
    """The same without keys."""

    _mapping: Mapping[Hashable, Any]

    def __iter__(self) -> Iterator[Any]:
        for _, value in _Items(self._mapping):
            yield value

    def __reversed__(self) -> Iterator[Any]:
        for _, value in reversed(_Items(self._mapping)):
            yield value


class _Memoizer(Protocol):
    """What ``memoize()`` returns."""

    @overload
    def __call__(
        self, function: Callable[Parameters, AnyArray], /
    ) -> Memoized[Parameters, AnyArray]: ...
    @overload
    def __call__(
        self, function: Callable[Parameters, bytes | bytearray | memoryview], /
    ) -> Memoized[Parameters, memoryview]: ...
    @overload
    def __call__(
        self, function: Callable[Parameters, Makeable], /
    ) -> Memoized[Parameters, Value]: ...


def _empty_cache(max_bytes: int | None) -> Cache:
    return Cache(max_bytes=max_bytes)


_why_not_here = functools.cache(why_not)


def _memoized(cache: Cache, function: Callable[..., Makeable], typed: bool) -> Any:
    name = object()  # the first part of its keys: no other function has it
    calls = misses = 0

    @functools.wraps(function)
    def memoized(*arguments: Any, **keywords: Any) -> Value:
        nonlocal calls

        def make() -> Makeable:
            nonlocal misses
            misses += 1
            return function(*arguments, **keywords)

        calls += 1
        named = sorted(keywords.items())
        types = [type(each) for each in (*arguments, *(value for _, value in named))]
        key = (name, arguments, *named, *(types if typed else ()))
        with cache.get(key, make) as value:
            return another(value)

    def cache_info() -> CacheInfo:
        return CacheInfo(calls - misses, misses, cache.max_bytes, cache.cache_info().currsize)

    def cache_clear() -> None:
        nonlocal calls, misses, name
        calls = misses = 0
        old, name = name, object()  # what is just being made is of the old
        cache._drop_all_of(old)

    def cache_parameters() -> CacheParameters:
        return {"maxsize": cache.max_bytes, "typed": typed}

    for attribute in (cache_info, cache_clear, cache_parameters):
        setattr(memoized, attribute.__name__, attribute)
    return memoized
