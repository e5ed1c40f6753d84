# SPDX-License-Identifier: Apache-2.0
"""Purgeable memory in huge pages: places in slots of 2 MiB, several in one or one over several.

How a slot is released and taken back stands in ``libscratch/huge_slot.h``. What is here finds room
in slots: memory of theirs that nobody has is waste, so a place begins where another has ended, in
the next slot too where that saves something. A slot that nobody has anything in is given back.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from mmap import PAGESIZE
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from mapscratch._native import BoardEntry, PurgeableEntry, PurgeablePages, why_not_huge
from mapscratch.cache.purgeable import FIRST_REGION, LARGEST_REGION, LEFT_BEHIND, Region

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SLOT = 2 << 20  # bytes
_PAGES = SLOT // PAGESIZE
_MOVED_FROM = 0.11  # of the memory is waste: what is in the sparsest slot moves, if it can
_MOST_WASTE = 0.14  # of the memory: if it can't it is given up
_LEAST_COUNTED = 16 * SLOT  # bytes; of less memory the waste is the last slot's
_TOLERATED = 0.08  # of it, before a place goes over the end of a slot


class Place(NamedTuple):
    """Pages in slots that lie one after another; `first` is a page's number in the whole memory."""

    first: int
    pages: int


class Holes:
    """What is free of some numbers: found by length, joined with its neighbours."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}  # by start
        self._starts: dict[int, int] = {}  # by end
        self._by_length: dict[int, dict[int, None]] = {}  # starts
        self._lengths: list[int] = []  # in order
        self._order: list[int] = []  # of starts

    def add(self, start: int, end: int) -> None:
        """These are free from now on."""
        if start == end:
            return
        if start in self._starts:
            start = self._remove(self._starts[start])[0]
        if end in self._ends:
            end = self._remove(end)[1]
        self._ends[start], self._starts[end] = end, start
        insort(self._order, start)
        length = end - start
        if length not in self._by_length:
            insort(self._lengths, length)
            self._by_length[length] = {}
        self._by_length[length][start] = None

    def shortest(self, length: int) -> tuple[int, int] | None:
        """The start and end of the shortest hole that is that long."""
        index = bisect_left(self._lengths, length)
        if index == len(self._lengths):
            return None
        start = next(iter(self._by_length[self._lengths[index]]))
        return start, self._ends[start]

    def around(self, number: int) -> tuple[int, int]:
        """The hole that a free number is in."""
        start = self._order[bisect_right(self._order, number) - 1]
        return start, self._ends[start]

    def before(self, end: int) -> int:
        """The start of the hole that ends there; `end`: there is none."""
        return self._starts.get(end, end)

    def take(self, hole: tuple[int, int], start: int, end: int) -> None:
        """These, a part of a hole, are free no more."""
        self._remove(hole[0])
        self.add(hole[0], start)
        self.add(end, hole[1])

    def clear(self, start: int, end: int) -> None:
        """Nothing in there is free any more."""
        first = max(bisect_right(self._order, start) - 1, 0)
        for hole in [
            (at, self._ends[at]) for at in self._order[first : bisect_left(self._order, end)]
        ]:
            if start < hole[1]:
                self.take(hole, max(hole[0], start), min(hole[1], end))

    def _remove(self, start: int) -> tuple[int, int]:
        end = self._ends.pop(start)
        del self._starts[end]
        del self._order[bisect_left(self._order, start)]
        same = self._by_length[end - start]
        del same[start]
        if not same:
            del self._by_length[end - start]
            del self._lengths[bisect_left(self._lengths, end - start)]
        return start, end


def _at_once(
    method: Callable[Concatenate[Slots, Parameters], Result],
) -> Callable[Concatenate[Slots, Parameters], Result]:
    """A method of `Slots` that a signal handler may end amid: then the next one begins anew.

    What is known of the slots may be wrong then, so that none of them is used for anything else.
    Who has something in them keeps it, and with the last one they go.
    """

    @functools.wraps(method)
    def at_once(
        self: Slots, /, *arguments: Parameters.args, **keywords: Parameters.kwargs
    ) -> Result:
        if self._is_amid:
            self._begin()
        self._is_amid = True
        result = method(self, *arguments, **keywords)
        self._is_amid = False
        return result

    return at_once


class Slots:
    """Places in huge slots. Its caller sees to one thread at a time.

    Args:
        owner: whose memory it is, for other processes to see; None: they don't.

    Attributes:
        held: bytes of the slots that have not been given back.
        used: bytes of the pages that entries are in.
    """

    def __init__(self, owner: BoardEntry | None = None) -> None:
        self._owner = owner
        self._begin()

    def _begin(self) -> None:
        self._ended: list[bytes] = []
        self._regions: dict[int, Region] = {}
        self._slots: dict[int, PurgeablePages] = {}  # by number: where it is in the whole memory
        self._used: dict[int, int] = {}  # pages of each
        self._condemned: set[int] = set()  # lost, and not given back yet
        self._empty: set[int] = set()  # nobody has anything in them
        self._vacant: dict[int, Region] = {}  # places for slots
        self._holes = Holes()
        self._newest = 0
        self.held = 0
        self.used = 0
        self._is_amid = False

    @property
    def regions(self) -> list[Region]:
        """What slots are cut from."""
        return list(self._regions.values())

    @property
    def slots(self) -> list[PurgeablePages]:
        """Those that there are."""
        return list(self._slots.values())

    @property
    def waste(self) -> int:
        """Bytes that are held, and in which nobody has anything."""
        return self.held - self.used

    def has(self, entry: PurgeableEntry) -> bool:
        """Whether an entry is in this memory."""
        region = entry.pages[0].region
        return isinstance(region, Region) and self._regions.get(region.number) is region

    @_at_once
    def find(self, pages: int) -> Place | None:
        """Room in the slots that there are."""
        hole = self._holes.shortest(pages)
        if hole is None:
            return None
        starts = (hole[0], -(-hole[0] // _PAGES) * _PAGES, hole[1] - pages)
        fitting = [start for start in starts if start + pages <= hole[1]]
        return self._take(hole, min(fitting, key=lambda start: _slots_of(start, pages)), pages)

    def new_bytes(self, pages: int) -> int:
        """How much memory `grow` would take."""
        return -(-(pages - self._end_of_newest(pages)) // _PAGES) * SLOT

    @_at_once
    def grow(self, pages: int) -> Place | None:
        """Room in slots that are made for it; None: there are no huge pages to be had now.

        Raises:
            OSError: the process may have no more addresses (RLIMIT_AS, overcommit).
        """
        at_end = self._end_of_newest(pages)
        count = -(-(pages - at_end) // _PAGES)
        try:
            first = self._newest + 1 if at_end else self._find_vacant(count)
        except OSError:
            self._is_amid = False  # nothing has changed
            raise
        for number in range(first, first + count):
            if not self._make(number):
                self._give_back()
                return None
        start = first * _PAGES - at_end
        return self._take(self._holes.around(start), start, pages)

    def pages_of(self, place: Place) -> tuple[tuple[PurgeablePages, ...], int]:
        """The slots that a place is in, and where it begins in the first, in bytes."""
        first, last = place.first // _PAGES, (place.first + place.pages - 1) // _PAGES
        slots = tuple(self._slots[number] for number in range(first, last + 1))
        return slots, place.first % _PAGES * PAGESIZE

    @_at_once
    def free(self, place: Place) -> None:
        """Nobody has anything there any more."""
        self._free(place)

    def _free(self, place: Place) -> None:
        end = place.first + place.pages
        self.used -= place.pages * PAGESIZE
        for number in range(place.first // _PAGES, (end - 1) // _PAGES + 1):
            start, stop = max(place.first, number * _PAGES), min(end, (number + 1) * _PAGES)
            self._used[number] -= stop - start
            if not self._used[number]:
                self._empty.add(number)
            if number not in self._condemned:
                self._holes.add(start, stop)

    @_at_once
    def condemn(self, slot: PurgeablePages) -> None:
        """The kernel has taken it: nothing is put there until it was given back and made anew."""
        number = slot.address // SLOT
        if self._slots.get(number) is not slot or number in self._condemned:
            return
        self._condemned.add(number)
        self._holes.clear(number * _PAGES, (number + 1) * _PAGES)
        if not self._used[number]:
            self._empty.add(number)

    def sparsest(self) -> tuple[PurgeablePages, bool] | None:
        """The slot with least in it, and whether that is to go even if it can't move.

        None: so little is wasted that all may stay where it is. The newest slot is being filled.
        """
        waste = self.waste - SLOT + self._used.get(self._newest, _PAGES) * PAGESIZE
        if self.held < _LEAST_COUNTED or waste < _MOVED_FROM * self.held:
            return None
        numbers = self._slots.keys() - self._condemned - {self._newest}
        number = min(numbers, key=self._used.__getitem__, default=None)
        return None if number is None else (self._slots[number], waste > _MOST_WASTE * self.held)

    def fits_elsewhere(self, slot: PurgeablePages, pages: int) -> bool:
        """Whether there is room for so many pages, but in that slot."""
        hole = self._holes.shortest(pages)
        return hole is not None and hole[0] // _PAGES != slot.address // SLOT

    def close(self, slot: PurgeablePages) -> None:
        """Nothing is put there any more: what is there is about to move."""
        self.condemn(slot)

    @_at_once
    def collect(self) -> None:
        """Frees what entries that have ended leave behind."""
        self._collect()

    def _collect(self) -> None:
        while self._ended:
            region, offset, size = LEFT_BEHIND.unpack(self._ended.pop())
            if region in self._regions:
                start = (self._regions[region].address + offset) // PAGESIZE
                self._free(Place(start, size // PAGESIZE))

    @_at_once
    def give_back(self) -> None:
        """Returns slots that nobody has anything in to the machine."""
        self._give_back()

    def _give_back(self) -> None:
        self._collect()
        while self._empty:
            number = self._empty.pop()
            slot = self._slots.pop(number)
            slot.retire()
            self._holes.clear(number * _PAGES, (number + 1) * _PAGES)
            self._condemned.discard(number)
            del self._used[number]
            self.held -= SLOT
            region = slot.region
            assert isinstance(region, Region)
            region.discard(slot.offset, SLOT)
            region.runs -= 1
            self._vacant[number] = region
            if not region.runs and len(self._regions) > 1:
                self._forget_region(region)

    def _take(self, hole: tuple[int, int], start: int, pages: int) -> Place:
        end = start + pages
        self._holes.take(hole, start, end)
        self.used += pages * PAGESIZE
        for number in range(start // _PAGES, (end - 1) // _PAGES + 1):
            self._used[number] += min(end, (number + 1) * _PAGES) - max(start, number * _PAGES)
            self._empty.discard(number)
        return Place(start, pages)

    def _end_of_newest(self, pages: int) -> int:
        """Pages that are free at the end of the newest slot, if a place is to begin there."""
        end = (self._newest + 1) * _PAGES
        free = min(end - self._holes.before(end), pages - 1)
        is_worth_it = self.waste > _TOLERATED * self.held
        count = -(-(pages - free) // _PAGES)
        follows = all(self._newest + 1 + more in self._vacant for more in range(count))
        return free if is_worth_it and follows else 0

    def _find_vacant(self, count: int) -> int:
        """The number of a place for a slot, with as many others after it."""
        for number in (self._newest + 1, *sorted(self._vacant)):
            if all(number + more in self._vacant for more in range(count)):
                return number
        newest = next(reversed(self._regions.values()), None)
        size = min(2 * len(newest.memory), LARGEST_REGION) if newest else 4 * FIRST_REGION
        region = Region(max(size, count * SLOT) + SLOT, self._ended, self._owner)
        self._regions[region.number] = region
        first = -(-region.address // SLOT)
        for number in range(first, (region.address + len(region.memory)) // SLOT):
            self._vacant[number] = region
        return first

    def _make(self, number: int) -> bool:
        """Whether there is a new slot there, in a huge page; then it is in use by nobody."""
        region = self._vacant.pop(number)
        slot = PurgeablePages(region, number * SLOT - region.address, _PAGES, True)
        region.runs += 1
        self._slots[number] = slot
        self._used[number] = 0
        self._empty.add(number)
        self._holes.add(number * _PAGES, (number + 1) * _PAGES)
        self.held += SLOT
        self._newest = number
        return slot.populate()

    def _forget_region(self, region: Region) -> None:
        del self._regions[region.number]
        for number in [number for number, of in self._vacant.items() if of is region]:
            del self._vacant[number]


def _slots_of(start: int, pages: int) -> int:
    """How many slots so many pages from there on are in."""
    return (start + pages - 1) // _PAGES - start // _PAGES


def why_not() -> str | None:
    """Why there are no huge slots here; None: there are, if there is a huge page to be had."""
    if reason := why_not_huge():
        return reason
    if PAGESIZE != 4096:
        return f"pages have {PAGESIZE} bytes"
    return None
