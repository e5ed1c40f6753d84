# SPDX-License-Identifier: Apache-2.0
"""The ways to keep fixed-up pages that are compared: MAP_PRIVATE, and each scratch engine."""

from __future__ import annotations

import errno
import mmap
from dataclasses import astuple, dataclass
from operator import add
from typing import Self

import numpy as np

from mapscratch import ScratchMap, _native, engines, fixups
from mapscratch.lab.rig.workload import Library, Words
from mapscratch.proc import page_entries
from mapscratch.proc.pagemap import FILE_OR_SHARED, GUARD_REGION, PRESENT, SWAPPED

_MADV_PAGEOUT = 21  # include/uapi/asm-generic/mman-common.h; mmap has no name for it.
_MOST_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class _Counts:
    """What can be counted of two windows, or two processes, together."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class PageStates(_Counts):
    """The pages with fixups: how many are what (``/proc/self/pagemap``)."""

    copies: int  # private copies, in memory or in swap
    swapped: int  # of these, those in swap
    fixups_absent: int  # of the pages that are not in memory now


@dataclass(frozen=True, slots=True)
class Verification(_Counts):
    """What was found when every word was read."""

    checked: int
    wrong: int  # not what another reader than ours says
    # The file's again, because their page had been dropped since its fixups were made; they were
    # made again and then read right.
    lost: int


@dataclass(frozen=True)
class Strategy:
    """How windows are mapped and leave memory: here by the scratch engine of its name."""

    name: str  # as the user says it
    page_in_fixups: bool = False  # pages come back with their fixups made
    self_healing: bool = False  # a page may come back as the file's, and is healed word by word
    reclaimed_by_kernel: bool = True  # `reclaim` asks the kernel; otherwise we drop the pages

    def unavailable(self) -> str:
        """Why it can't run here, and what to do; empty if it can."""
        (status,) = (one for one in engines() if one.name == self.name)
        return "" if status.available else f"{status.reason} {status.remedy}".strip()

    def map(self, descriptor: int, library: Library, values: Words) -> mmap.mmap:
        """Maps the window of a library; `values` are its m fixups."""
        plan = library.plan
        rule = fixups.Words(plan.offsets, values) if self.page_in_fixups else None
        length, offset = plan.window_length, plan.window_offset
        return ScratchMap(descriptor, length, offset=offset, engine=self.name, fixup=rule)

    def reclaim(self, memory: mmap.mmap) -> int:
        """Makes the pages leave memory; returns how many we dropped, 0 if the kernel decides."""
        if not self.reclaimed_by_kernel:
            return _scratch(memory).drop()
        _scratch(memory).reclaim()
        return 0

    def dropped_by_us(self, memory: mmap.mmap) -> int:
        """Pages that we have dropped so far, by `drop` or the drop policy, and not the kernel."""
        return 0 if self.reclaimed_by_kernel else _scratch(memory)._range_counts()["dropped"]

    def page_in_fixup_seconds(self, memory: mmap.mmap) -> float:
        """Seconds spent in page-in fixups so far, as the pager has measured."""
        # Not by counts(), which reads smaps, for each of many windows.
        return _scratch(memory)._range_counts()["fixup_ns"] / 1e9


class _Private(Strategy):
    """MAP_PRIVATE: what every loader does; reclaim writes the pages to swap."""

    def unavailable(self) -> str:
        return ""

    def map(self, descriptor: int, library: Library, values: Words) -> mmap.mmap:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        length, offset = library.plan.window_length, library.plan.window_offset
        return mmap.mmap(descriptor, length, mmap.MAP_PRIVATE, access, offset=offset)

    def reclaim(self, memory: mmap.mmap) -> int:
        try:
            memory.madvise(_MADV_PAGEOUT)
        except OSError as error:
            if error.errno == errno.EINVAL:
                needed = "this kernel has no MADV_PAGEOUT: it takes Linux 5.4"
                raise OSError(errno.EINVAL, needed) from None
            raise
        return 0


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        _Private("private"),
        Strategy("kernel", self_healing=True),
        Strategy("lazyfree", page_in_fixups=True),
        Strategy("dontneed", self_healing=True, reclaimed_by_kernel=False),
    )
}
"""All strategies by name; those of engines in the order in which ``engine="auto"`` prefers them."""


def _scratch(memory: mmap.mmap) -> ScratchMap:
    assert isinstance(memory, ScratchMap)
    return memory


class Window:
    """One library to be mapped once by one strategy in this process.

    What is to be stored and what is expected is worked out when it is made, before it is mapped.
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
        with self.library.plan.path.open("rb") as file:
            self.memory = self.strategy.map(file.fileno(), self.library, self.values)
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
        found = page_entries(self.address, self.library.plan.window_length)
        entries = np.frombuffer(found, dtype=np.uint64)[self.library.pages]
        present = entries & np.uint64(PRESENT) != 0
        swapped = entries & np.uint64(SWAPPED | FILE_OR_SHARED | GUARD_REGION) == SWAPPED
        private = entries & np.uint64(PRESENT | FILE_OR_SHARED) == PRESENT
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
