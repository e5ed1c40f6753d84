# SPDX-License-Identifier: Apache-2.0
"""What one worker process does: the steps of a round, each measured where it happens."""

from __future__ import annotations

import resource
import time
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from mmap import PAGESIZE
from typing import Any

from mapscratch import SystemCallWarning
from mapscratch.lab.rig.strategies import PageStates, Strategy, Verification, Window
from mapscratch.lab.rig.workload import Workload
from mapscratch.proc import MemoryUsage, range_memory, total
from mapscratch.proc.procfs import read_numbers, read_text

_SECONDS_TO_LEAVE_MEMORY = 2.0
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Effort:
    """What a step took."""

    seconds: float  # of the clock
    cpu_seconds: float = 0.0  # of all threads of the process, in user mode and in the kernel
    major_faults: int = 0  # page faults that waited for a device (getrusage(2), ru_majflt)
    storage_bytes: int | None = None  # read from storage, files and swap; None: not known
    fixup_seconds: float = 0.0  # in page-in fixups
    count: int = 0  # of pages dropped by us, or fixups made


@dataclass(frozen=True, slots=True)
class State:
    """The windows at one moment."""

    pages: PageStates  # those with fixups
    memory: MemoryUsage  # of all pages (smaps)
    dropped_by_us: int  # pages dropped by our own policy so far


def together(parts: Sequence[Any]) -> Any:
    """What several processes say, added member by member; None where one of them doesn't know."""
    if None in parts:
        return None
    if not is_dataclass(parts[0]):
        return sum(parts)
    kind: Any = type(parts[0])
    columns = ([getattr(part, member.name) for part in parts] for member in fields(kind))
    return kind(*map(together, columns))


@dataclass(slots=True)
class Session:
    """The worker's side of a round. The methods are called by name from the parent."""

    workload: Workload
    strategy: Strategy
    seed: str  # names this worker; its load bases follow from that
    _windows: list[Window] = field(default_factory=list)

    def ready(self) -> None:
        """Works out what is to be stored and expected, which takes memory that is not measured."""
        for bases in self.workload.load_bases(self.seed):
            libraries = self.workload.libraries
            self._windows += [Window(self.strategy, library, bases) for library in libraries]

    def first_page_in(self) -> Effort:
        """Maps everything and reads every page with fixups; only the reading is measured."""
        # The parent says what works here; N workers need not each warn of it.
        warnings.simplefilter("ignore", SystemCallWarning)
        for window in self._windows:
            window.map()
        return self._measured(Window.touch)

    def state(self) -> State:
        """Pages and memory now."""
        states = together([window.states() for window in self._windows])
        dropped = sum(self.strategy.dropped_by_us(window.memory) for window in self._windows)
        return State(states, self._memory(), dropped)

    def swapped(self) -> int:
        """Pages with fixups that are in swap now."""
        return sum(window.states().swapped for window in self._windows)

    def reclaim(self) -> Effort:
        """Makes the pages leave memory, as the strategy does."""
        return self._measured(lambda window: self.strategy.reclaim(window.memory))

    def leave_memory(self) -> int:
        """Makes swapped pages leave memory altogether; returns how many are still held.

        After MADV_PAGEOUT to a file or a disk the kernel still holds the pages (the *swap cache*),
        and a page-in would find them. But a page that is written, touched again and not stored to
        is dropped at once by another MADV_PAGEOUT, and one that is still being written stays mapped
        (mm/vmscan.c, shrink_folio_list), which the page tables show: so repeat until all are gone.
        If swap is over half full more are held: then a page loses its place in swap when it is
        touched, and is written once more. Nothing of this is timed.
        """
        swapped = {window: window.states().swapped for window in self._windows}
        held = {window: count for window, count in swapped.items() if count}
        end = time.monotonic() + _SECONDS_TO_LEAVE_MEMORY
        while held and time.monotonic() < end:
            for window in held:
                window.touch()
                self.strategy.reclaim(window.memory)
            missing = {window: swapped[window] - window.states().swapped for window in held}
            held = {window: count for window, count in missing.items() if count > 0}
            if held:
                time.sleep(_PAUSE_SECONDS)
        return sum(held.values())

    def page_in(self) -> Effort:
        """Touches every page with fixups again."""
        return self._measured(Window.touch)

    def fixups(self) -> Effort:
        """Makes the fixups that are missing; the first time, or again."""
        return self._measured(Window.heal)

    def verify(self) -> Verification:
        """Checks every word of every page."""
        found: Verification = together([window.verify() for window in self._windows])
        return found

    def time_fixups(self) -> Effort:
        """Makes all fixups once more where pages are in memory and ours: stores, no page faults."""
        for window in self._windows:
            window.forget()
        return self._measured(Window.heal)

    def close(self) -> None:
        """Unmaps everything."""
        while self._windows:
            self._windows.pop().close()

    def _memory(self) -> MemoryUsage:
        """The windows' figures, in one pass over smaps."""
        spans = sorted(
            (window.address, window.address + window.library.mapped_pages * PAGESIZE)
            for window in self._windows
        )
        starts = [start for start, _ in spans]
        found = range_memory(starts[0], spans[-1][1] - starts[0])
        # Of the windows that begin before an area ends the last is in it, or none.
        ends = [spans[bisect_left(starts, area.end) - 1][1] for area in found.areas]
        areas = zip(found.areas, ends, strict=True)
        return total(area.usage for area, end in areas if area.start < end)

    def _measured(self, step: Callable[[Window], int]) -> Effort:
        """What a step takes that is done with each window."""
        storage_before, fixups_before = _storage_bytes(), self._fixup_seconds()
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        count = sum(map(step, self._windows))
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        storage = _storage_bytes()
        read = None if storage is None or storage_before is None else storage - storage_before
        return Effort(
            seconds=seconds,
            cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            major_faults=after.ru_majflt - before.ru_majflt,
            storage_bytes=read,
            fixup_seconds=self._fixup_seconds() - fixups_before,
            count=count,
        )

    def _fixup_seconds(self) -> float:
        if not self.strategy.page_in_fixups:
            return 0.0
        return sum(self.strategy.page_in_fixup_seconds(window.memory) for window in self._windows)


def _storage_bytes() -> int | None:
    """Bytes read from storage for this process (proc_pid_io(5), CONFIG_TASK_IO_ACCOUNTING)."""
    with suppress(OSError):
        return read_numbers(read_text("/proc/self/io")).get("read_bytes")
    return None
