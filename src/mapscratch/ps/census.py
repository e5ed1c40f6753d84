# SPDX-License-Identifier: Apache-2.0
"""Which processes use scratch memory, how much of it the kernel may drop, and what that has cost.

What a process counts (pages made, dropped, made again, time spent on fixups) is read from its
board (`mapscratch.ps.board`); what is in memory, in swap and lazily freed the kernel says
(smaps and pagemap). Programs with converted libraries (``mapscratch run``, ``mapscratch convert``)
are known by the library that binds their entries; their text has no board, and its counts are of a
whole run.

Processes go on while they are looked at: figures of one are not of one moment.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from mmap import PAGESIZE
from typing import Literal

from mapscratch.proc.maps import MappedFile, mapped_files
from mapscratch.proc.pagemap import PageFlags, count_pages
from mapscratch.proc.procfs import (
    all_pids,
    command_name,
    look_at_each,
    status_words,
    threads_named,
    user_name,
)
from mapscratch.proc.smaps import MemoryArea, range_memory
from mapscratch.ps.board import Board, BoardError, Slot, is_board, read_board, read_shared_page
from mapscratch.run.launch import ResolverCounts

_RUNTIME = "libmapscratch.so.1"
_CONVERSIONS = "/mapscratch/code/"
"""In the path of what is laid over the text of a library (mapscratch.run.cache)."""
_RUN_COUNTS = struct.Struct(f"={len(fields(ResolverCounts))}Q")
_MOST_ENVIRONMENT = 1 << 20
_MOST_PAGES_LOOKED_AT = 64 << 20
"""Pages of a process whose page table entries are read one by one (256 GiB, about a second)."""
_MOST_AREAS_LOOKED_AT = 1 << 18
"""Of a process: its slots may say that each of them is all of its memory."""
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of include/linux/sched.h."""


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """What a cache has done, and holds: as `mapscratch.Cache.stats` has it."""

    hits: int
    made: int
    lost: int  # as far as that has been noticed
    evicted: int
    uncached: int
    entries: int
    bytes_held: int


@dataclass(frozen=True, slots=True)
class ScratchMapping:
    """Something in a process that consists of scratch memory. What can't be known is None, not 0.

    The figures are those of `mapscratch.ScratchMap.counts`, of what is mapped now.
    """

    kind: Literal["map", "array", "cache", "code"]
    """Code is the text of a library or program with converted PLT entries."""
    name: str  # of the file; empty for a cache
    engine: str | None
    bytes: int  # of addresses; of a cache, its regions
    resident_bytes: int | None = None
    droppable_bytes: int | None = None
    dirty_bytes: int | None = None
    swapped_bytes: int | None = None
    pinned_bytes: int | None = None
    filled_pages: int | None = None
    dropped_pages: int | None = None
    rebuilt_pages: int | None = None
    fixup_seconds: float | None = None
    cache: CacheFigures | None = None


@dataclass(frozen=True, slots=True)
class ProcessTotals:
    """What a process has done in its life, also with what is closed by now: these never fall."""

    filled_pages: int
    rebuilt_pages: int
    fixup_seconds: float
    cache_hits: int
    cache_made: int
    cache_lost: int


@dataclass(frozen=True, slots=True)
class ScratchProcess:
    """A process that uses scratch memory."""

    pid: int
    command: str
    user: str
    problem: str | None
    """Why its figures can't be read; None if they can."""
    mappings: tuple[ScratchMapping, ...]
    unlisted: int
    """Mappings beside these: its board was full, or what it says of them can't be."""
    totals: ProcessTotals | None  # None without a board


@dataclass(frozen=True, slots=True)
class ConvertedRun:
    """A `mapscratch run` that is under way: its processes count together."""

    counts_file: str  # as they name it
    pids: tuple[int, ...]
    counts: ResolverCounts  # also of those of its processes that have ended


@dataclass(frozen=True, slots=True)
class ScratchCensus:
    """The processes that use scratch memory, by number; and each run once."""

    processes: tuple[ScratchProcess, ...]
    runs: tuple[ConvertedRun, ...]
    unreadable: int
    """Processes of other users of which nobody told us whether they do."""


def take_census(pids: Sequence[int] | None = None) -> ScratchCensus:
    """Looks at the processes that /proc shows.

    Args:
        pids: which; None for all. Of all, those that end meanwhile are left out, and those that may
            not be read are counted.

    Raises:
        ProcessLookupError: a process that was named does not exist, or has no memory.
        PermissionError: one that was named belongs to somebody else.
    """
    wanted = all_pids() if pids is None else pids
    seen, refused = look_at_each(wanted, _look, named=pids is not None)
    runs: dict[tuple[str, int], ConvertedRun] = {}
    for pid, (_, found) in seen.items():
        if found:
            identity, run = found
            others = runs[identity].pids if identity in runs else ()
            runs[identity] = replace(run, pids=(*others, pid))
    return ScratchCensus(
        processes=tuple(process for process, _ in seen.values() if process),
        runs=tuple(runs.values()),
        unreadable=sum(not _is_kernel_thread(pid) for pid in refused),
    )


def _is_kernel_thread(pid: int) -> bool:
    """Which have no memory, and nobody but root may see that in their maps."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # "2 (kthreadd) S 0 0 0 0 -1 2129984 ...": the name may hold anything.
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & _KERNEL_THREAD)
    except (OSError, ValueError, IndexError):
        return True  # it has ended: nobody to count


_Run = tuple[tuple[str, int], ConvertedRun]
"""The run of a process, behind device and inode of its page of counts."""


def _look(pid: int) -> tuple[ScratchProcess | None, _Run | None]:
    maps = mapped_files(pid)
    has_board = any(is_board(mapped) for mapped in maps)
    has_code = any(_is_runtime(mapped) for mapped in maps)
    board = problem = None
    try:
        board = read_board(pid, maps) if has_board else None
    except BoardError as error:
        problem = str(error)
    mappings = [*_Memory(pid, board.slots).mappings()] if board else []
    if has_code:
        mappings += _code(pid, maps)
    run = _run_of(pid, maps) if has_code else None
    if not mappings and not board and not problem:
        return None, run  # or a child that has only its parent's board, about to execute something
    process = ScratchProcess(
        pid=pid,
        command=command_name(pid),
        user=user_name(pid),
        problem=problem,
        mappings=tuple(mappings),
        unlisted=board.beyond + board.wrong if board else 0,
        totals=_totals(board) if board else None,
    )
    return process, run


# --- what the board has, and what the kernel says of it


def _totals(board: Board) -> ProcessTotals:
    ranges = [slot.figures for slot in board.slots if slot.kind in ("map", "array")]
    caches = [slot.figures for slot in board.slots if slot.kind == "cache"]
    filled, rebuilt, _, fixup_ns, *_ = map(sum, zip(board.ended_ranges, *ranges, strict=True))
    hits, made, lost, *_ = map(sum, zip(board.ended_caches, *caches, strict=True))
    return ProcessTotals(filled, rebuilt, fixup_ns / 1e9, hits, made, lost)


@dataclass(slots=True)
class _Usage:
    """Bytes; `lazy_free` is None where the kernel has merged memory with somebody else's."""

    resident: int = 0
    private: int = 0
    swapped: int = 0
    lazy_free: int | None = 0


class _Memory:
    """The figures of what a board names, by one reading of smaps."""

    def __init__(self, pid: int, slots: Sequence[Slot]) -> None:
        self._pid = pid
        self._slots = slots
        self._pages_left = _MOST_PAGES_LOOKED_AT
        self._areas_left = _MOST_AREAS_LOOKED_AT
        mapped = [slot for slot in slots if slot.length]
        start = min((slot.address for slot in mapped), default=0)
        end = max((slot.address + slot.length for slot in mapped), default=0)
        self._areas: Sequence[MemoryArea] = range_memory(start, end - start, pid).areas
        self._starts = [area.start for area in self._areas]

    def mappings(self) -> Iterator[ScratchMapping]:
        regions = defaultdict(list)
        for slot in self._slots:
            if slot.kind == "region":
                regions[slot.owner].append(slot)
        for slot in self._slots:
            if slot.kind == "cache":
                yield self._cache(slot, regions[slot.number])
            elif slot.kind != "region":
                yield self._range(slot.kind, slot)

    def _cache(self, slot: Slot, regions: Sequence[Slot]) -> ScratchMapping:
        length = sum(region.length for region in regions)
        figures = CacheFigures(*slot.figures[: len(fields(CacheFigures))])
        cache = ScratchMapping("cache", "", None, length, cache=figures)
        return _in_memory(cache, self._usage(regions))

    def _range(self, kind: Literal["map", "array"], slot: Slot) -> ScratchMapping:
        filled, rebuilt, dropped, fixup_ns, pinned, *_ = slot.figures
        mapping = ScratchMapping(
            kind, slot.name, slot.engine, slot.length, pinned_bytes=pinned * PAGESIZE
        )
        usage = self._usage([slot])
        # As `counts` of each engine has it.
        if slot.engine == "lazyfree":
            there = (usage.resident + usage.swapped) // PAGESIZE if usage else 0
            mapping = replace(
                mapping,
                filled_pages=filled,
                dropped_pages=max(0, filled - there) if usage else None,
                rebuilt_pages=rebuilt,
                fixup_seconds=fixup_ns / 1e9,
            )
        elif slot.engine == "dontneed":
            mapping = replace(mapping, dropped_pages=dropped)
        return _in_memory(mapping, usage)

    def _usage(self, parts: Sequence[Slot]) -> _Usage | None:
        """Of some slots together; None if too much memory would have to be looked at."""
        whole = _Usage()
        for start, end in _united((part.address, part.address + part.length) for part in parts):
            for area in self._areas_of(start, end):
                self._areas_left -= 1
                if self._areas_left < 0:
                    return None
                usage = area.usage
                if start <= area.start and area.end <= end:
                    whole.resident += usage.rss
                    whole.private += usage.anonymous
                    whole.swapped += usage.swap
                    if whole.lazy_free is not None:
                        whole.lazy_free += min(usage.lazy_free, usage.rss)
                    continue
                pages = self._pages(max(start, area.start), min(end, area.end))
                if pages is None:
                    return None
                whole.resident += pages.present * PAGESIZE
                whole.private += (pages.private - pages.swapped) * PAGESIZE
                whole.swapped += pages.swapped * PAGESIZE
                if usage.lazy_free:
                    whole.lazy_free = None  # of this memory, or of its neighbour's
        return whole

    def _areas_of(self, start: int, end: int) -> Iterator[MemoryArea]:
        for number in range(max(bisect_right(self._starts, start) - 1, 0), len(self._areas)):
            area = self._areas[number]
            if area.start >= end:
                return
            if area.end > start:
                yield area

    def _pages(self, start: int, end: int) -> PageFlags | None:
        self._pages_left -= (end - start) // PAGESIZE
        return None if self._pages_left < 0 else count_pages(start, end - start, self._pid)


def _in_memory(mapping: ScratchMapping, usage: _Usage | None) -> ScratchMapping:
    """A mapping with what the kernel says of it; what may be dropped depends on the engine."""
    if not usage:
        return mapping
    pinned = mapping.pinned_bytes or 0
    droppable: int | None = None
    dirty: int | None = usage.private
    if mapping.engine == "kernel":
        droppable = max(0, usage.private - pinned)
        dirty = usage.private - droppable
    elif mapping.engine != "dontneed":
        # What is pinned of an array is locked, and lazily freed all the same.
        free, unpinned = usage.lazy_free, max(0, usage.resident - pinned)
        droppable = None if free is None else min(free, unpinned)
        dirty = None if droppable is None else usage.resident - droppable
    return replace(
        mapping,
        resident_bytes=usage.resident,
        droppable_bytes=droppable,
        dirty_bytes=dirty,
        swapped_bytes=usage.swapped,
    )


def _united(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same addresses in as few intervals as there can be."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((start, end))
    return result


# --- converted code


def _is_runtime(mapped: MappedFile) -> bool:
    name = mapped.path.removesuffix(" (deleted)")
    return name.startswith("/") and name.endswith(f"/{_RUNTIME}")


def _code(pid: int, maps: Sequence[MappedFile]) -> Iterator[ScratchMapping]:
    """Converted text that is laid over a library's, and text that isn't as its file has it.

    In the latter converted entries were bound; breakpoints of a debugger look the same.
    """
    text = [each for each in maps if "x" in each.permissions and each.inode]
    if not text:
        return
    has_reclaimer = any(threads_named(pid, "mapscratch"))
    names = _names_of_text(maps)
    for area in range_memory(text[0].start, text[-1].end - text[0].start, pid).areas:
        usage = area.usage
        is_text = "x" in area.permissions and area.path.startswith("/")
        if is_text and (area.start in names or usage.anonymous or usage.swap):
            yield ScratchMapping(
                kind="code",
                name=names.get(area.start, area.path),
                engine="dontneed" if has_reclaimer else None,
                bytes=area.end - area.start,
                resident_bytes=usage.rss,
                droppable_bytes=usage.anonymous if has_reclaimer else None,
                dirty_bytes=0 if has_reclaimer else usage.anonymous,
                swapped_bytes=usage.swap,
            )


def _names_of_text(maps: Sequence[MappedFile]) -> dict[int, str]:
    """By address: what converted text is laid over, which lies right before or behind it."""
    names = {}
    for before, laid, behind in zip(maps, maps[1:], maps[2:], strict=False):
        if _CONVERSIONS not in laid.path:
            continue
        if before.inode and before.end == laid.start:
            names[laid.start] = before.path
        elif behind.inode and behind.start == laid.end:
            names[laid.start] = behind.path
    return names


def _run_of(pid: int, maps: Sequence[MappedFile]) -> _Run | None:
    name = _variable(pid, b"MAPSCRATCH_COUNTS")
    for mapped in maps:
        is_counts = name and mapped.path == name and mapped.permissions.endswith("s")
        if not is_counts or not _is_harmless(pid, mapped.device):
            continue
        with suppress(BoardError):
            page = read_shared_page(pid, mapped, _RUN_COUNTS.size)
            if len(page) == _RUN_COUNTS.size:
                counts = ResolverCounts(*_RUN_COUNTS.unpack(page))
                return (mapped.device, mapped.inode), ConvertedRun(mapped.path, (pid,), counts)
    return None


def _is_harmless(pid: int, device: str) -> bool:
    """Whether a mapped file can be read without waiting for a server of its process (FUSE)."""
    number = ":".join(str(int(part, 16)) for part in device.split(":"))
    for name in ("/proc/self/mountinfo", f"/proc/{pid}/mountinfo"):
        with suppress(OSError), open(name, errors="replace", newline="\n") as file:
            for line in file:
                mount, _, source = line.partition(" - ")
                if mount.split()[2] == number:
                    return not source.startswith("fuse")
    # With overlayfs and btrfs the device is of no mount. Then it must be one of our own processes.
    return status_words(pid, "Uid")[:1] == [str(os.geteuid())]


def _variable(pid: int, name: bytes) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_MOST_ENVIRONMENT).split(b"\0")
    except OSError:
        return None
    values = [
        value for key, _, value in (each.partition(b"=") for each in variables) if key == name
    ]
    return os.fsdecode(values[0]) if values else None
