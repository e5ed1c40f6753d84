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
from mapscratch.proc.procfs import all_pids, command_name, user_name
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
    """What a cache has done, and holds.

    Attributes:
        hits: uses of an entry that was there.
        made: entries that were made.
        lost: entries that the kernel took, as far as that has been noticed.
        evicted: entries that were given up for others.
        uncached: values that were made and not kept, for want of room.
        entries: how many there are.
        bytes_held: memory of the entries, in whole pages.
    """

    hits: int
    made: int
    lost: int
    evicted: int
    uncached: int
    entries: int
    bytes_held: int


@dataclass(frozen=True, slots=True)
class ScratchMapping:
    """Something in a process that consists of scratch memory. What can't be known is None, not 0.

    Attributes:
        kind: what it is; code is the text of a library or program with converted PLT entries.
        name: the file that it is of; empty for a cache.
        engine: how its pages are dropped.
        bytes: of addresses; of a cache, its regions.
        resident_bytes: in memory.
        droppable_bytes: what the kernel may drop now, without writing it to swap.
        dirty_bytes: stored to, and not droppable by the kernel now.
        swapped_bytes: in swap.
        pinned_bytes: pinned by the process.
        filled_pages: made at page-in so far.
        dropped_pages: gone so far.
        rebuilt_pages: of those made, what had been made before.
        fixup_seconds: processor time spent on page-in fixups so far.
        cache: of a cache: its own figures.
    """

    kind: Literal["map", "array", "cache", "code"]
    name: str
    engine: str | None
    bytes: int
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
    """What a process has done in its life, also with what is closed by now: these never fall.

    Attributes:
        filled_pages: made at page-in.
        rebuilt_pages: of those, what had been made before.
        fixup_seconds: processor time spent on page-in fixups.
        cache_hits: uses of cache entries that were there.
        cache_made: cache entries that were made.
        cache_lost: cache entries that the kernel took.
    """

    filled_pages: int
    rebuilt_pages: int
    fixup_seconds: float
    cache_hits: int
    cache_made: int
    cache_lost: int


@dataclass(frozen=True, slots=True)
class ScratchProcess:
    """A process that uses scratch memory.

    Attributes:
        pid: its number.
        command: its name (/proc/PID/comm).
        user: whose it is, by effective user.
        problem: why its figures can't be read; None if they can.
        mappings: what it has.
        unlisted: mappings that it has and that are not among these: its board was full, or what
            it says of them can't be.
        totals: None without a board.
    """

    pid: int
    command: str
    user: str
    problem: str | None
    mappings: tuple[ScratchMapping, ...]
    unlisted: int
    totals: ProcessTotals | None


@dataclass(frozen=True, slots=True)
class ConvertedRun:
    """A `mapscratch run` that is under way: its processes count together.

    Attributes:
        counts_file: where, as they name it.
        pids: the processes that were found.
        counts: of all its processes so far, also those that have ended.
    """

    counts_file: str
    pids: tuple[int, ...]
    counts: ResolverCounts


@dataclass(frozen=True, slots=True)
class ScratchCensus:
    """The processes that use scratch memory.

    Attributes:
        processes: by number.
        runs: each once.
        unreadable: processes of other users of which nobody told us whether they do.
    """

    processes: tuple[ScratchProcess, ...]
    runs: tuple[ConvertedRun, ...]
    unreadable: int


def take_census(pids: Sequence[int] | None = None) -> ScratchCensus:
    """Looks at the processes that /proc shows.

    Args:
        pids: which; None for all. Of all, those that end meanwhile are left out, and those that may
            not be read are counted.

    Raises:
        ProcessLookupError: a process that was named does not exist, or has no memory.
        PermissionError: one that was named belongs to somebody else.
    """
    processes = []
    runs: dict[tuple[str, int], tuple[str, ResolverCounts, list[int]]] = {}
    unreadable = 0
    for pid in sorted(set(all_pids() if pids is None else pids)):
        try:
            maps = mapped_files(pid)
            process = _process(pid, maps)
            run = _run_of(pid, maps)
        except ProcessLookupError:
            if pids is not None:
                raise
            continue
        except PermissionError:
            if pids is not None:
                raise
            unreadable += not _is_kernel_thread(pid)
            continue
        if process:
            processes.append(process)
        if run:
            identity, name, counts = run
            runs.setdefault(identity, (name, counts, []))[2].append(pid)
    return ScratchCensus(
        processes=tuple(processes),
        runs=tuple(
            ConvertedRun(name, tuple(members), counts) for name, counts, members in runs.values()
        ),
        unreadable=unreadable,
    )


def _is_kernel_thread(pid: int) -> bool:
    """Which have no memory, and nobody but root may see that in their maps."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # "2 (kthreadd) S 0 0 0 0 -1 2129984 ...": the name may hold anything.
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & _KERNEL_THREAD)
    except (OSError, ValueError, IndexError):
        return True  # it has ended: nobody to count


def _process(pid: int, maps: list[MappedFile]) -> ScratchProcess | None:
    has_board = any(is_board(mapped) for mapped in maps)
    has_code = any(_is_runtime(mapped) for mapped in maps)
    if not has_board and not has_code:
        return None
    board = problem = None
    try:
        board = read_board(pid, maps) if has_board else None
    except BoardError as error:
        problem = str(error)
    mappings: list[ScratchMapping] = []
    if board:
        mappings += _Memory(pid, board.slots).mappings()
    if has_code:
        mappings += _code(pid, maps)
    if not mappings and not board and not problem:
        return None  # a child that has only its parent's board: it is about to execute something
    return ScratchProcess(
        pid=pid,
        command=command_name(pid),
        user=user_name(pid),
        problem=problem,
        mappings=tuple(mappings),
        unlisted=board.beyond + board.wrong if board else 0,
        totals=_totals(board) if board else None,
    )


# --- what the board has, and what the kernel says of it


def _totals(board: Board) -> ProcessTotals:
    ranges = [slot.figures for slot in board.slots if slot.kind in ("map", "array")]
    caches = [slot.figures for slot in board.slots if slot.kind == "cache"]
    filled, rebuilt, _, fixup_ns, *_ = map(sum, zip(board.ended_ranges, *ranges, strict=True))
    hits, made, lost, *_ = map(sum, zip(board.ended_caches, *caches, strict=True))
    return ProcessTotals(
        filled_pages=filled,
        rebuilt_pages=rebuilt,
        fixup_seconds=fixup_ns / 1e9,
        cache_hits=hits,
        cache_made=made,
        cache_lost=lost,
    )


@dataclass(frozen=True, slots=True)
class _Usage:
    """Bytes; `lazy_free` is None where the kernel has merged memory with somebody else's."""

    resident: int
    private: int
    swapped: int
    lazy_free: int | None


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
        cache = ScratchMapping(
            kind="cache",
            name="",
            engine=None,
            bytes=sum(region.length for region in regions),
            cache=CacheFigures(*slot.figures[: len(fields(CacheFigures))]),
        )
        usage = self._usage(regions)
        return _freed_lazily(cache, usage) if usage else cache

    def _range(self, kind: Literal["map", "array"], slot: Slot) -> ScratchMapping:
        filled, rebuilt, dropped, fixup_ns, pinned, *_ = slot.figures
        mapping = ScratchMapping(
            kind=kind,
            name=slot.name,
            engine=slot.engine,
            bytes=slot.length,
            pinned_bytes=pinned * PAGESIZE,
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
            return _freed_lazily(mapping, usage, pinned) if usage else mapping
        if slot.engine == "dontneed":
            mapping = replace(mapping, dropped_pages=dropped)
        if not usage:
            return mapping
        by_kernel = slot.engine == "kernel"
        droppable = max(0, usage.private - pinned * PAGESIZE) if by_kernel else 0
        return replace(
            mapping,
            resident_bytes=usage.resident,
            droppable_bytes=droppable if by_kernel else None,
            dirty_bytes=usage.private - droppable,
            swapped_bytes=usage.swapped,
        )

    def _usage(self, parts: Sequence[Slot]) -> _Usage | None:
        """Of some slots together; None if too much memory would have to be looked at."""
        pieces = _united((part.address, part.address + part.length) for part in parts)
        resident = private = swapped = 0
        lazy_free: int | None = 0
        for start, end in pieces:
            for area in self._areas_of(start, end):
                self._areas_left -= 1
                if self._areas_left < 0:
                    return None
                usage = area.usage
                if start <= area.start and area.end <= end:
                    resident += usage.rss
                    private += usage.anonymous
                    swapped += usage.swap
                    if lazy_free is not None:
                        lazy_free += min(usage.lazy_free, usage.rss)
                    continue
                pages = self._pages(max(start, area.start), min(end, area.end))
                if pages is None:
                    return None
                resident += pages.present * PAGESIZE
                private += (pages.private - pages.swapped) * PAGESIZE
                swapped += pages.swapped * PAGESIZE
                if usage.lazy_free:
                    lazy_free = None  # of this memory, or of its neighbour's
        return _Usage(resident, private, swapped, lazy_free)

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


def _freed_lazily(mapping: ScratchMapping, usage: _Usage, pinned: int = 0) -> ScratchMapping:
    droppable = usage.lazy_free
    if droppable is not None:  # what is pinned of an array is locked, and lazily freed all the same
        droppable = min(droppable, max(0, usage.resident - pinned * PAGESIZE))
    return replace(
        mapping,
        resident_bytes=usage.resident,
        droppable_bytes=droppable,
        dirty_bytes=None if droppable is None else usage.resident - droppable,
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
    start, end = text[0].start, text[-1].end
    has_reclaimer = _has_thread(pid, "mapscratch")
    names = _names_of_text(maps)
    for area in range_memory(start, end - start, pid).areas:
        is_text = "x" in area.permissions and area.path.startswith("/")
        is_converted = area.start in names
        if not is_text or not (is_converted or area.usage.anonymous or area.usage.swap):
            continue
        copies = area.usage.anonymous
        yield ScratchMapping(
            kind="code",
            name=names.get(area.start, area.path),
            engine="dontneed" if has_reclaimer else None,
            bytes=area.end - area.start,
            resident_bytes=area.usage.rss,
            droppable_bytes=copies if has_reclaimer else None,
            dirty_bytes=0 if has_reclaimer else copies,
            swapped_bytes=area.usage.swap,
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


def _has_thread(pid: int, name: str) -> bool:
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/comm", "rb") as comm:
                if comm.read() == name.encode() + b"\n":
                    return True
    return False


def _run_of(
    pid: int, maps: Sequence[MappedFile]
) -> tuple[tuple[str, int], str, ResolverCounts] | None:
    """The run that a process belongs to: the identity of its page of counts, its name, and it."""
    if not any(_is_runtime(mapped) for mapped in maps):
        return None
    name = _variable(pid, b"MAPSCRATCH_COUNTS")
    for mapped in maps:
        if not name or mapped.path != name or not mapped.permissions.endswith("s"):
            continue
        if not _is_harmless(pid, mapped.device):
            continue
        with suppress(BoardError):
            page = read_shared_page(pid, mapped, _RUN_COUNTS.size)
            if len(page) == _RUN_COUNTS.size:
                counts = ResolverCounts(*_RUN_COUNTS.unpack(page))
                return (mapped.device, mapped.inode), name, counts
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
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as status:
        return any(
            line.split()[1:2] == [b"%d" % os.geteuid()] for line in status if line[:4] == b"Uid:"
        )
    return False


def _variable(pid: int, name: bytes) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_MOST_ENVIRONMENT).split(b"\0")
    except OSError:
        return None
    prefix = name + b"="
    return next(
        (os.fsdecode(each[len(prefix) :]) for each in variables if each.startswith(prefix)), None
    )
