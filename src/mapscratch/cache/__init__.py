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
from mmap import PAGESIZE
from operator import index
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np

from mapscratch._native import (
    BoardEntry,
    PurgeableEntry,
    PurgeablePages,
    PurgeableTable,
    PurgeableView,
    purgeable_refused,
)
from mapscratch.arrays import dask_workers
from mapscratch.cache.making import Maker, Makers, Making, Shared, Waiter, exclusive, fail
from mapscratch.cache.memoized import CacheInfo, CacheParameters, Memoized, refuse_others
from mapscratch.cache.pinned import Pinned
from mapscratch.cache.purgeable import Runs, why_not, why_refused
from mapscratch.cache.slots import SLOT, Place, Slots
from mapscratch.cache.slots import why_not as why_no_slots
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
_NO_DEFAULT: Any = object()
_RAISE: Any = KeyError  # in place of `make`: what is not there is one

_SMALL = PAGESIZE // 2  # bytes; what is no larger shares a page with others
_ALIGNMENT = 64  # bytes: a cache line, and more than any type of NumPy's needs
_RECENT = 16 << 20  # bytes that were used last, and are kept in use though nobody does
_LARGE = 64 << 20  # bytes; whether there is memory for a larger draft is asked first
_SHARE_OF_A_DRAFT = 0.75  # what is less of it is copied, and the draft given back
_LOOKED_AT_FOR_EACH_MADE = 16  # entries; so lost ones are found faster than they can pile up
_SHORT_FOR = 64  # values made: so long memory is taken to be short when the kernel took an entry
_IN_SLOTS = 64 << 10  # bytes; what is larger goes into huge pages
_LEAST_FOR_SLOTS = 16 * SLOT  # bytes that a cache may hold; with less, slots are too coarse
_WITHOUT_SLOTS_FOR = 64  # values made, when there was no huge page to be had
_TRIES = 8  # to put a value into slots, which the kernel takes meanwhile
_FORMS = 1000  # of arrays, that are kept once each
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
        bytes_in_use: the part whose arrays live, and what shares a huge page with them. What is in
            neither was used just now.
        bytes_huge: the part that is in huge pages, each released and taken back in one.
        bytes_split: the part in huge pages that the kernel has split (it was short of memory, or
            another process was forked): these cost as much as small ones.
        bytes_wasted: the part that holds nothing, because a huge page is held in whole.
        why_not_huge: why nothing is in huge pages here; None: large entries are, if there are any
            to be had.
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
    bytes_huge: int
    bytes_split: int
    bytes_wasted: int
    why_not_huge: str | None


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
        self._runs = Runs(self._board)
        self._slots = Slots(self._board)
        self._forms: dict[Form, Form] = {}  # each once
        self._table = PurgeableTable(np.ndarray, Pinned, self._board, _RECENT)
        self._open_run: PurgeablePages | None = None  # small values go there,
        self._open_from = 0  # from this offset
        self._looked_at: Iterator[Hashable] = iter(())
        self._made = self._lost = self._evicted = self._uncached = 0
        self._short_until = 0  # memory is, until so many values were made
        self._without_slots_until = 0
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
        pinned: Pinned[Any] | None = self._table.get(key, make)
        if pinned is not None:
            return pinned
        if make is not None:
            _refuse_values(make)
        if make is None or make is _RAISE:
            value = self._take(key)
            if value is None and make is _RAISE:
                raise KeyError(key)
            return None if value is None else Pinned(value)
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
        _populate(entry)
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
        before = self._held()
        if key is _ALL:
            self._makers.supersede(self._makers.keys())
            self._remove_all(self._table.all())
            self._looked_at = iter(())
        else:
            self._makers.supersede([key])
            self._forget(key)
        self._tidy()
        self._show()
        return before - self._held()

    @exclusive
    def _give_back(self, wanted: int) -> int:
        """Gives up what was used least lately until so many bytes are the machine's again."""
        before = self._held()
        while before - self._held() < wanted and self._evict():
            pass
        self._show()
        return before - self._held()

    @exclusive
    def stats(self) -> CacheStats:
        """What it has done and holds now; looks at every entry, a microsecond each."""
        for key in self._table.keys_by_use():
            self._look_at(key)
        self._tidy()
        slots = self._slots.slots
        pages = {run for entry in self._table.all() for run in entry.pages if not run.is_slot}
        droppable = sum(run.size for run in (*pages, *slots) if run.is_released)
        recent = sum(run.size for run in (*pages, *slots) if run.is_only_recent)
        return CacheStats(
            hits=self._table.hits,
            made=self._made,
            lost=self._lost,
            evicted=self._evicted,
            uncached=self._uncached,
            entries=len(self._table),
            bytes_held=self._held(),
            bytes_droppable=droppable,
            bytes_in_use=self._held() - droppable - recent,
            bytes_huge=sum(slot.size for slot in slots if slot.is_huge),
            bytes_split=sum(slot.size for slot in slots if not slot.is_huge),
            bytes_wasted=self._slots.waste,
            why_not_huge=self._why_no_slots(),
        )

    def cache_info(self) -> CacheInfo:
        """Hits, misses, the size it may have and the size it has, in bytes."""
        return CacheInfo(self._table.hits, self._made, self._max_bytes, self._held())

    # As of a dict; what is looked up is lent as `memoize` does it

    def __getitem__(self, key: Hashable) -> Any:
        """The value itself, pinned while it lives; a KeyError if it isn't there."""
        value = self._table.find(key)
        if value is None:
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

    def pop(self, key: Hashable, default: Any = _NO_DEFAULT) -> Any:
        """Takes an entry out of the cache; its value is pinned while it lives.

        Raises:
            KeyError: it isn't there, and there is no `default`.
        """
        value = self._take_out(key)
        if value is not None:
            return value
        if default is _NO_DEFAULT:
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
        while len(self._table):
            key = self._table.oldest_key()
            value = self._find(key)
            self._forget(key)
            if value is not None:
                self._show()
                return key, value
        return None

    @exclusive
    def _keys(self) -> list[Hashable]:
        return self._table.keys_by_use()

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
        return self._table.entry(key) is not None

    def __len__(self) -> int:
        """How many entries there are, some of which may be lost."""
        return len(self._table)

    def __bool__(self) -> bool:
        """True: an empty cache is one, too."""
        return True

    def __repr__(self) -> str:
        limit = f", at most {self._max_bytes:,} bytes" if self._max_bytes is not None else ""
        kind = "purgeable" if self.is_purgeable else f"not purgeable: {self._why_not}"
        return f"<Cache of {len(self)} entries, {self._held():,} bytes{limit}; {kind}>"

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
        self._table.count_hit()
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
        _populate(entry)
        np.frombuffer(cast(Any, lent).base if form else lent, np.uint8)[:] = source
        entry.seal()
        return self._adopt_copy(key, entry, making)

    def _draft_of(self, value: Makeable, source: Array, form: Form | None) -> PurgeableEntry | None:
        """Where a value is that was made in an array of `empty`, if it is most of that."""
        base: Any = value
        while isinstance(base, np.ndarray):
            base = base.base
        if not isinstance(base, PurgeableView) or not base.is_draft or not self._has(base.entry):
            return None
        entry = base.entry
        if source.__array_interface__["data"][0] != entry.address:
            return None  # not its beginning, or a copy in another order
        if _pages_of(source.nbytes) < _pages_of(entry.length) * _SHARE_OF_A_DRAFT:
            return None
        base = value
        while isinstance(base, np.ndarray):
            base.flags.writeable = False  # it is what others see now
            base = base.base
        entry.seal()
        if not entry.was_kept and (entry.length, entry.form) == (source.nbytes, form):
            return entry
        return entry.again(source.nbytes, self._form(form))

    @exclusive
    def _adopt(self, key: Hashable, entry: PurgeableEntry, making: Making | None) -> Value:
        self._made += 1
        if entry.was_kept:  # another thread was given the same draft, and was faster
            entry = entry.again(entry.length, entry.form)
        self._keep(key, entry, making)
        return seen(entry.lease(), entry.form)

    @exclusive
    def _adopt_copy(self, key: Hashable, entry: PurgeableEntry, making: Making | None) -> Value:
        self._keep(key, entry, making)
        return seen(entry.lease(), entry.form)

    @exclusive
    def _make_room(
        self, size: int, form: Form | None, is_draft: bool = False
    ) -> tuple[PurgeableEntry, Value] | None:
        """An entry that is in use because it is lent as a draft; None: there is no room."""
        self._made += not is_draft
        self._look_for_lost(_LOOKED_AT_FOR_EACH_MADE)
        self._tidy()
        self._compact()
        if self.is_purgeable and (error := purgeable_refused()):
            self._fall_back(why_refused(error))
        place = self._place(size, self._form(form))
        self._show()
        return place

    @exclusive
    def _give_up(self, key: Hashable) -> None:
        self._uncached += 1
        self._forget(key)
        self._tidy()
        self._show()

    def _keep(self, key: Hashable, entry: PurgeableEntry, making: Making | None) -> None:
        if making and making.is_superseded:
            return
        self._table.insert(key, entry)
        self._show()

    def _form(self, form: Form | None) -> Form | None:
        """The same one for all entries of that form."""
        if form is None:
            return None
        if len(self._forms) > _FORMS:
            self._forms.clear()
        return self._forms.setdefault(form, form)

    # Places: whatever is put there keeps what it is in from being given back while it lives

    def _place(self, size: int, form: Form | None) -> tuple[PurgeableEntry, Value] | None:
        """Room for a value, in use because it is lent as a draft; None if there is none."""
        if size <= _SMALL:
            return self._place_with_others(size, form)
        if size >= _IN_SLOTS and self._has_slots():
            lent = self._place_in_slots(size, form)
            if lent:
                return lent
        return self._place_in_run(_pages_of(size), size, form)

    def _place_with_others(
        self, size: int, form: Form | None
    ) -> tuple[PurgeableEntry, Value] | None:
        offset = -(-self._open_from // _ALIGNMENT) * _ALIGNMENT
        if self._open_run and offset + size <= PAGESIZE:
            with suppress(LookupError):  # the kernel has taken it, or its last entry has gone
                lent = self._lend(PurgeableEntry((self._open_run,), offset, size, form))
                self._open_from = offset + size
                return lent
        alone = self._place_in_run(1, size, form)
        if alone:
            (self._open_run,), self._open_from = alone[0].pages, size
        return alone

    def _place_in_run(
        self, pages: int, size: int, form: Form | None
    ) -> tuple[PurgeableEntry, Value] | None:
        if self._made < self._short_until:
            again = self._overwrite_run(pages, size, form)
            if again:
                return again
        while self._has_room_for(pages * PAGESIZE):
            try:
                return self._lend(PurgeableEntry((self._runs.cut(pages),), 0, size, form))
            except OSError:  # no more addresses
                if not self._evict():
                    return None
        return None

    def _place_in_slots(self, size: int, form: Form | None) -> tuple[PurgeableEntry, Value] | None:
        for _ in range(_TRIES):
            place = self._find_place(_pages_of(size))
            if place is None:
                return None
            pages, offset = self._slots.pages_of(place)
            try:
                entry = PurgeableEntry(pages, offset, size, form)
            except LookupError:
                self._slots.free(place)
            else:
                with suppress(LookupError):
                    return self._lend(entry)
                del entry
            for slot in pages:
                if slot.is_retired:
                    self._lose(slot)
            del pages
        return None

    def _find_place(self, pages: int) -> Place | None:
        """Room in slots; None: there is none, or no huge page to be had."""
        place = self._slots.find(pages)
        if place is None and self._made < self._short_until:
            place = self._overwrite_in_slots(pages)
        while place is None:
            limit = self._max_bytes
            new = self._slots.new_bytes(pages)
            if limit is not None and self._held() + new > limit:
                if new > limit or not self._evict():
                    return None
                place = self._slots.find(pages)
                continue
            try:
                place = self._slots.grow(pages)
            except OSError:  # no more addresses
                if not self._evict():
                    return None
                continue
            if place is None:
                self._without_slots_until = self._made + _WITHOUT_SLOTS_FOR
                return None
        return place

    def _has_room_for(self, size: int) -> bool:
        limit = self._max_bytes
        if limit is None:
            return True
        if size > limit:
            return False
        while self._held() + size > limit:
            if not self._evict():
                return False
        return True

    def _has_slots(self) -> bool:
        return self._made >= self._without_slots_until and self._why_no_slots() is None

    def _why_no_slots(self) -> str | None:
        if self._why_not is not None:
            return self._why_not
        if self._max_bytes is not None and self._max_bytes < _LEAST_FOR_SLOTS:
            return f"max_bytes is less than {_LEAST_FOR_SLOTS:,}, and huge pages are too coarse"
        return why_no_slots()

    def _evict(self) -> bool:
        """Gives up what was used least lately of all that nobody uses."""
        oldest = self._table.oldest_unused()
        if oldest is None:
            return False
        tenants = [oldest] if oldest.pages[0].is_slot else oldest.pages[0].tenants
        del oldest
        self._evicted += len(tenants)
        self._remove_all(tenants)
        self._tidy()
        return True

    # While memory is short the kernel would take as many pages from us as we touch. So what SIEVE
    # finds gives its place, rather than memory that the kernel has to find.

    def _overwrite_run(
        self, pages: int, size: int, form: Form | None
    ) -> tuple[PurgeableEntry, Value] | None:
        while victim := self._table.victim(False, pages):
            (run,) = victim.pages
            tenants = run.tenants
            del victim
            if run is self._open_run:
                self._open_run = None
            try:
                entry = PurgeableEntry((run,), 0, size, form)
            except LookupError:
                del tenants
                self._lose(run)
                continue
            gone = len(tenants)
            self._remove_all(tenants)
            # A hit takes no lock: until now somebody may have come back to what was there.
            if not entry.is_unused:
                self._evicted += gone
                continue
            with suppress(LookupError):
                lent = self._lend(entry)
                self._evicted += gone
                return lent
            del entry
            self._lost += gone
            self._lose(run)
        return None

    def _overwrite_in_slots(self, pages: int) -> Place | None:
        """Gives up entries until there is room among them, or twice as many bytes went."""
        left = 2 * pages
        while left > 0 and (victim := self._table.victim(True)):
            left -= _pages_of(victim.length)
            self._evicted += self._table.remove(victim)
            del victim
            self._slots.collect()
            place = self._slots.find(pages)
            if place:
                return place
        self._tidy()
        return None

    def _compact(self) -> None:
        """If too much of the slots is waste, moves what is in the sparsest one elsewhere."""
        found = self._slots.sparsest()
        if found is None:
            return
        slot, is_urgent = found
        tenants = slot.tenants
        if slot.entries > len(tenants) or not all(entry.is_unused for entry in tenants):
            return
        sizes = (_pages_of(entry.length) for entry in tenants)
        if not is_urgent and not all(self._slots.fits_elsewhere(slot, size) for size in sizes):
            return
        self._slots.close(slot)
        while tenants:
            entry = tenants.pop()
            if not self._move(entry):
                self._evicted += self._table.remove(entry)
            del entry
        self._tidy()

    def _move(self, entry: PurgeableEntry) -> bool:
        """Whether an entry is somewhere else now, in the slots that there are."""
        place = self._slots.find(_pages_of(entry.length))
        if place is None:
            return False
        pages, offset = self._slots.pages_of(place)
        try:
            moved = PurgeableEntry(pages, offset, entry.length, entry.form)
        except LookupError:
            self._slots.free(place)
            return False
        with suppress(LookupError):
            draft = memoryview(moved.lease(True))
            draft[:] = memoryview(entry.lease())
            moved.seal()
            return self._table.replace(entry, moved)
        return False

    @exclusive
    def _take(self, key: Hashable) -> Value | None:
        return self._find(key)

    def _find(self, key: Hashable) -> Value | None:
        """The value of a key if it is there, pinned."""
        value: Value | None = self._table.find(key)
        if value is None:
            self._lose_what_was_taken(key)
        return value

    def _lose_what_was_taken(self, key: Hashable) -> None:
        """Of an entry that can't be taken back."""
        entry = self._table.entry(key)
        for pages in entry.pages if entry else ():
            if pages.is_retired:
                del entry
                self._lose(pages)
                return

    def _lend(self, entry: PurgeableEntry) -> tuple[PurgeableEntry, Value]:
        """The entry and its value, as a draft.

        Raises:
            LookupError: the kernel has taken some of it.
        """
        draft = seen(entry.lease(True), entry.form)
        self._table.use(entry)
        return entry, draft

    def _tidy(self) -> None:
        """Gives back what nobody uses, and nobody will."""
        self._runs.give_back()
        self._slots.give_back()

    def _forget(self, key: Hashable) -> None:
        """Gives up one entry."""
        entry = self._table.entry(key)
        if entry:
            self._table.remove(entry)

    def _remove_all(self, entries: list[PurgeableEntry]) -> None:
        """Also from the list: an entry ends when nobody has it."""
        while entries:
            self._table.remove(entries.pop())

    def _has(self, entry: PurgeableEntry) -> bool:
        return self._runs.has(entry) or self._slots.has(entry)

    def _held(self) -> int:
        return self._runs.held + self._slots.held

    def _show(self) -> None:
        """For other processes to see; hits are shown when they happen."""
        self._board.show(
            self._table.hits,
            self._made,
            self._lost,
            self._evicted,
            self._uncached,
            len(self._table),
            self._held(),
        )

    def _look_at(self, key: Hashable) -> None:
        entry = self._table.entry(key)
        for pages in entry.pages if entry else ():
            if pages.is_released and not pages.is_whole():
                del entry
                self._lose(pages)
                return

    def _lose(self, pages: PurgeablePages) -> None:
        """The kernel has taken these, and so all that is in them."""
        tenants = pages.tenants
        self._lost += len(tenants)
        self._short_until = self._made + _SHORT_FOR
        pages.retire()
        if pages.is_slot:
            self._slots.condemn(pages)
        self._remove_all(tenants)
        self._tidy()
        self._show()

    def _look_for_lost(self, count: int) -> None:
        """Looks at some entries, all in turn, so that no lost one stays for nothing."""
        for _ in range(min(count, len(self._table))):
            try:
                key = next(self._looked_at)
            except StopIteration:
                self._looked_at = iter(self._table.keys_by_use())
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


def _pages_of(size: int) -> int:
    """Also of something empty: it is somewhere, and can be lost."""
    return max(-(-size // PAGESIZE), 1)


def _populate(entry: PurgeableEntry) -> None:
    """Has a run's pages at once; a slot has its own since it was made."""
    if not entry.pages[0].is_slot and entry.length > PAGESIZE:
        entry.pages[0].populate()


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
