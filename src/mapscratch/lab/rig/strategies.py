# SPDX-License-Identifier: Apache-2.0
"""The ways to keep fixed-up pages that are compared: MAP_PRIVATE, and each scratch engine.

A strategy knows how a window of a library is mapped and how its pages are made to leave memory.
What is then done with the mapped window is the same for all: see `Window`.
"""

from __future__ import annotations

import errno
import mmap
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mapscratch import ScratchMap, _native, engines, fixups
from mapscratch.lab.rig.workload import Library, Words
from mapscratch.proc import page_entries
from mapscratch.proc.pagemap import FILE_OR_SHARED, GUARD_REGION, PRESENT, SWAPPED

_MADV_PAGEOUT = 21  # include/uapi/asm-generic/mman-common.h; mmap has no name for it.
_MOST_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class PageStates:
    """The pages with fixups: how many are what (``/proc/self/pagemap``).

    Attributes:
        copies: private copies, in memory or in swap.
        swapped: of these, those in swap.
        fixups_absent: fixups of the pages that are not in memory now.
    """

    copies: int
    swapped: int
    fixups_absent: int

    def __add__(self, other: PageStates) -> PageStates:
        """The counts of two windows, or two processes, together."""
        return PageStates(
            self.copies + other.copies,
            self.swapped + other.swapped,
            self.fixups_absent + other.fixups_absent,
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found when every word was read.

    Attributes:
        checked: words read.
        wrong: words that are not what another reader than ours says.
        lost: words that were the file's again, because their page had been dropped since its
            fixups were made; they were made again and then read right.
    """

    checked: int
    wrong: int
    lost: int

    def __add__(self, other: Verification) -> Verification:
        """The counts of two windows, or two processes, together."""
        return Verification(
            self.checked + other.checked, self.wrong + other.wrong, self.lost + other.lost
        )


class Strategy(ABC):
    """How windows are mapped, and leave memory.

    Attributes:
        name: as the user says it.
        page_in_fixups: pages come back with their fixups made.
        self_healing: a page may come back as the file's, and is then healed word by word.
        reclaimed_by_kernel: `reclaim` asks the kernel; otherwise we drop the pages ourselves.
    """

    name: ClassVar[str]
    page_in_fixups: ClassVar[bool] = False
    self_healing: ClassVar[bool] = False
    reclaimed_by_kernel: ClassVar[bool] = True

    def unavailable(self) -> str:
        """Why it can't run here, and what to do; empty if it can."""
        for status in engines():
            if status.name == self.name:
                return "" if status.available else f"{status.reason} {status.remedy}".strip()
        return "no such engine"

    @abstractmethod
    def map(self, descriptor: int, library: Library, values: Words) -> mmap.mmap:
        """Maps the window of a library; `values` are its m fixups."""

    @abstractmethod
    def reclaim(self, memory: mmap.mmap) -> int:
        """Makes the pages leave memory; returns how many we dropped, 0 if the kernel decides."""

    def dropped_by_us(self, memory: mmap.mmap) -> int:
        """Pages that we, not the kernel, have dropped so far."""
        return 0

    def page_in_fixup_seconds(self, memory: mmap.mmap) -> float:
        """Seconds spent in page-in fixups so far."""
        return 0.0


class Private(Strategy):
    """MAP_PRIVATE: what every loader does; reclaim writes the pages to swap."""

    name = "private"

    def unavailable(self) -> str:
        """It runs everywhere."""
        return ""

    def map(self, descriptor: int, library: Library, values: Words) -> mmap.mmap:
        """A plain private mapping."""
        return mmap.mmap(
            descriptor,
            library.length,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=library.offset,
        )

    def reclaim(self, memory: mmap.mmap) -> int:
        """MADV_PAGEOUT."""
        try:
            memory.madvise(_MADV_PAGEOUT)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise OSError(
                    errno.EINVAL, "this kernel has no MADV_PAGEOUT: it takes Linux 5.4"
                ) from None
            raise
        return 0


class _Scratch(Strategy):
    """A `ScratchMap` with the engine of the strategy's name."""

    def map(self, descriptor: int, library: Library, values: Words) -> mmap.mmap:
        """A scratch mapping."""
        rule = fixups.Words(library.plan.offsets, values) if self.page_in_fixups else None
        return ScratchMap(
            descriptor, library.length, offset=library.offset, engine=self.name, fixup=rule
        )

    def reclaim(self, memory: mmap.mmap) -> int:
        """MADV_PAGEOUT, by way of the engine."""
        _scratch(memory).reclaim()
        return 0


class Lazyfree(_Scratch):
    """Anonymous memory that the kernel drops; fixups come with page-in."""

    name = "lazyfree"
    page_in_fixups = True

    def page_in_fixup_seconds(self, memory: mmap.mmap) -> float:
        """What the pager has measured."""
        # Not by counts(), which reads smaps, for each of many windows.
        return _scratch(memory)._range_counts()["fixup_ns"] / 1e9


class Dontneed(_Scratch):
    """MAP_PRIVATE whose pages we drop ourselves; healed word by word."""

    name = "dontneed"
    self_healing = True
    reclaimed_by_kernel = False

    def reclaim(self, memory: mmap.mmap) -> int:
        """Drops the pages."""
        return _scratch(memory).drop()

    def dropped_by_us(self, memory: mmap.mmap) -> int:
        """By `drop`, and by the drop policy under memory pressure."""
        return _scratch(memory)._range_counts()["dropped"]


class Kernel(_Scratch):
    """MAP_SCRATCH: the kernel drops the pages; healed word by word."""

    name = "kernel"
    self_healing = True


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (Private(), Kernel(), Lazyfree(), Dontneed())
}
"""All strategies by name; those of engines in the order in which ``engine="auto"`` prefers them."""


def _scratch(memory: mmap.mmap) -> ScratchMap:
    assert isinstance(memory, ScratchMap)
    return memory


class Window:
    """One library to be mapped once by one strategy in this process.

    What is to be stored and what is expected is worked out when it is made, before it is mapped.

    Args:
        strategy: how.
        library: what.
        bases: the load base of each linked library.
    """

    memory: mmap.mmap
    _words: Words

    def __init__(self, strategy: Strategy, library: Library, bases: list[int]) -> None:
        self.strategy = strategy
        self.library = library
        self.values = library.plan.values(bases)
        self._expected = library.expected_content(bases)
        self._first_words = library.pages * (mmap.PAGESIZE // self.values.itemsize)

    def map(self) -> None:
        """Maps the library; nothing is read yet."""
        descriptor = os.open(self.library.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.memory = self.strategy.map(descriptor, self.library, self.values)
        finally:
            os.close(descriptor)
        self._words = np.frombuffer(self.memory, dtype=np.uint64, count=len(self.library.content))

    @property
    def address(self) -> int:
        """Where the window is mapped."""
        return self._words.ctypes.data

    def touch(self) -> int:
        """Reads the first word of every page with fixups, in ascending order; returns their sum."""
        return int(self._words[self._first_words].sum())

    def heal(self) -> int:
        """Makes the fixups whose words are the file's; returns how many were."""
        library = self.library
        return _native.heal_words(
            self.memory, library.plan.offsets.data, library.file_words.data, self.values.data
        )

    def forget(self) -> None:
        """Stores the file's words again, so that all fixups are missing."""
        self._words[self.library.plan.offsets // 8] = self.library.file_words

    def states(self) -> PageStates:
        """The pages with fixups as they are now."""
        entries = np.frombuffer(page_entries(self.address, self.library.length), dtype=np.uint64)[
            self.library.pages
        ]
        present = entries & np.uint64(PRESENT) != 0
        swapped = _masked(entries, SWAPPED | FILE_OR_SHARED | GUARD_REGION) == SWAPPED
        private = _masked(entries, PRESENT | FILE_OR_SHARED) == PRESENT
        return PageStates(
            copies=int(np.count_nonzero(private | swapped)),
            swapped=int(np.count_nonzero(swapped)),
            fixups_absent=int(self.library.fixups_by_page[~present].sum()),
        )

    def verify(self) -> Verification:
        """Reads every word of the window and compares it with what another reader gives."""
        checked, lost = len(self._expected), 0
        tail_is_wrong = self.memory[checked * 8 :] != self.library.tail
        for _ in range(_MOST_ATTEMPTS):
            found = self._words.copy()
            differing = np.flatnonzero(found != self._expected)
            # A page that was dropped a moment ago is right to show the file, until it is healed.
            dropped = found[differing] == self.library.content[differing]
            excused = int(np.count_nonzero(dropped)) if self.strategy.self_healing else 0
            wrong = len(differing) - excused
            if wrong or not excused:
                break
            lost += excused
            self.heal()
        else:
            wrong = len(differing)
        return Verification(checked, wrong + tail_is_wrong, lost)

    def close(self) -> None:
        """Unmaps the window."""
        del self._words
        self.memory.close()


def _masked(entries: NDArray[np.uint64], mask: int) -> NDArray[np.uint64]:
    return entries & np.uint64(mask)
