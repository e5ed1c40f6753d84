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
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from mmap import PAGESIZE
from typing import Any

from mapscratch.proc.maps import MappedFile, mapped_files
from mapscratch.proc.pagemap import count_pages
from mapscratch.proc.procfs import (
    all_pids,
    command_name,
    look_at_each,
    status_words,
    threads_named,
    user_name,
)
from mapscratch.proc.smaps import range_memory
from mapscratch.ps.board import Board, BoardError, Slot, is_board, read_board, read_shared_page
from mapscratch.run.launch import ResolverCounts

_RUNTIME = "libmapscratch.so.1"
_CONVERSIONS = "/mapscratch/code/"
"""In the path of what is laid over the text of a library (mapscratch.run.cache)."""
_RUN_COUNTS = struct.Struct(f"={len(fields(ResolverCounts))}Q")
_MOST_ENVIRONMENT = 1 << 20
_MOST_LOOKED_AT = 64 << 20
"""Pages of a process whose page table entries are read one by one (256 GiB, about a second)."""
_PAGES_OF_AN_AREA = 256
"""A mapping that is looked at counts as so many: slots may say that each is all of the memory."""


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

    kind: str  # map, array, cache; code: the text of a library with converted PLT entries
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
    problem: str | None  # why its figures can't be read; None if they can
    mappings: tuple[ScratchMapping, ...]
    unlisted: int  # beside these: its board was full, or what it says of them can't be
    totals: ProcessTotals | None  # None without a board

    def groups(self) -> list[Group]:
        """Of all of its mappings."""
        alike = defaultdict(list)
        for mapping in self.mappings:
            alike[mapping.kind, mapping.engine].append(mapping)
        return [Group(self, *what, tuple(mappings)) for what, mappings in alike.items()]


@dataclass(frozen=True, slots=True)
class Group:
    """Mappings of one kind and engine of a process, to be summed."""

    process: ScratchProcess
    kind: str
    engine: str | None
    mappings: tuple[ScratchMapping, ...]

    def sum(self, name: str) -> Any:
        """Of a figure of `ScratchMapping`; None where it is not known of one of them."""
        values = [getattr(mapping, name) for mapping in self.mappings]
        return None if None in values else sum(values)

    def cache_sum(self, name: str) -> Any:
        """Of a figure of `CacheFigures`; None where these are no caches."""
        values = [getattr(mapping.cache, name, None) for mapping in self.mappings]
        return None if None in values else sum(values)


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
    unreadable: int  # processes of other users of which nobody told us whether they do


def take_census(pids: Sequence[int] | None = None) -> ScratchCensus:
    """Looks at processes, None for all that /proc shows.

    Of all, those that end meanwhile are left out, and those that may not be read are counted. A
    ProcessLookupError: one that was named does not exist. A PermissionError: it is somebody else's.
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
        unreadable=sum(map(_has_memory, refused)),
    )


def _has_memory(pid: int) -> bool:
    """Threads of the kernel have none, and nobody but root may see that in their maps."""
    with suppress(ProcessLookupError):
        return bool(status_words(pid, "VmSize"))
    return False  # it has ended: nobody to count


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
        unlisted=board.unlisted if board else 0,
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
        self._left = _MOST_LOOKED_AT
        mapped = [slot for slot in slots if slot.length]
        start = min((slot.address for slot in mapped), default=0)
        end = max((slot.address + slot.length for slot in mapped), default=0)
        self._areas = range_memory(start, end - start, pid).areas
        self._starts = [area.start for area in self._areas]

    def mappings(self) -> Iterator[ScratchMapping]:
        regions = defaultdict(list)
        for slot in self._slots:
            if slot.kind == "region":
                regions[slot.owner].append(slot)
        for slot in self._slots:
            if slot.kind != "region":
                parts = regions[slot.number] if slot.kind == "cache" else [slot]
                yield _mapping(slot, sum(part.length for part in parts), self._usage(parts))

    def _usage(self, parts: Sequence[Slot]) -> _Usage | None:
        """Of some slots together; None if too much memory would have to be looked at."""
        whole = _Usage()
        for start, end in _united((part.address, part.address + part.length) for part in parts):
            first = max(bisect_right(self._starts, start) - 1, 0)
            for number in range(first, bisect_left(self._starts, end)):
                area, usage = self._areas[number], self._areas[number].usage
                since, until = max(start, area.start), min(end, area.end)
                is_whole = (since, until) == (area.start, area.end)
                pages = 0 if is_whole else max(0, until - since) // PAGESIZE
                self._left -= _PAGES_OF_AN_AREA + pages
                if self._left < 0:
                    return None
                if is_whole:
                    whole.resident += usage.rss
                    whole.private += usage.anonymous
                    whole.swapped += usage.swap
                    if whole.lazy_free is not None:
                        whole.lazy_free += min(usage.lazy_free, usage.rss)
                elif pages:
                    flags = count_pages(since, until - since, self._pid)
                    whole.resident += flags.present * PAGESIZE
                    whole.private += (flags.private - flags.swapped) * PAGESIZE
                    whole.swapped += flags.swapped * PAGESIZE
                    if usage.lazy_free:
                        whole.lazy_free = None  # of this memory, or of its neighbour's
        return whole


def _mapping(slot: Slot, length: int, usage: _Usage | None) -> ScratchMapping:
    """What a slot says, and what is known of its memory."""
    known: dict[str, Any] = {}
    pinned = 0
    if slot.kind == "cache":
        known["cache"] = CacheFigures(*slot.figures[: len(fields(CacheFigures))])
    else:
        filled, rebuilt, dropped, fixup_ns, pinned_pages, *_ = slot.figures
        known["pinned_bytes"] = pinned = pinned_pages * PAGESIZE
        # As `counts` of each engine has it.
        if slot.engine == "lazyfree":
            there = (usage.resident + usage.swapped) // PAGESIZE if usage else 0
            known["dropped_pages"] = max(0, filled - there) if usage else None
            known |= {"filled_pages": filled, "rebuilt_pages": rebuilt}
            known["fixup_seconds"] = fixup_ns / 1e9
        elif slot.engine == "dontneed":
            known["dropped_pages"] = dropped
    if usage:
        droppable, dirty = _droppable_and_dirty(usage, slot.engine, pinned)
        known |= {"resident_bytes": usage.resident, "swapped_bytes": usage.swapped}
        known |= {"droppable_bytes": droppable, "dirty_bytes": dirty}
    return ScratchMapping(slot.kind, slot.name, slot.engine, length, **known)


def _droppable_and_dirty(
    usage: _Usage, engine: str | None, pinned: int
) -> tuple[int | None, int | None]:
    if engine == "dontneed":
        return None, usage.private
    if engine == "kernel":
        droppable = max(0, usage.private - pinned)
        return droppable, usage.private - droppable
    if usage.lazy_free is None:
        return None, None
    # What is pinned of an array is locked, and lazily freed all the same.
    droppable = min(usage.lazy_free, max(0, usage.resident - pinned))
    return droppable, usage.resident - droppable


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
    engine = "dontneed" if any(threads_named(pid, "mapscratch")) else None
    names = _names_of_text(maps)
    for area in range_memory(text[0].start, text[-1].end - text[0].start, pid).areas:
        usage, copies = area.usage, area.usage.anonymous
        is_text = "x" in area.permissions and area.path.startswith("/")
        if is_text and (area.start in names or copies or usage.swap):
            yield ScratchMapping(
                "code",
                names.get(area.start, area.path),
                engine,
                area.end - area.start,
                resident_bytes=usage.rss,
                droppable_bytes=copies if engine else None,
                dirty_bytes=0 if engine else copies,
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
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read(_MOST_ENVIRONMENT).split(b"\0"):
            if variable.startswith(name + b"="):
                return os.fsdecode(variable.partition(b"=")[2])
    return None
