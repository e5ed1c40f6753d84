# SPDX-License-Identifier: Apache-2.0
"""Engine ``dontneed``: MAP_PRIVATE of the file, and we drop its dirty pages with MADV_DONTNEED.

A page's life::

    file, dropped --page fault--> clean --store--> dirty --drop by us--> dropped
    clean --reclaim by the kernel--> file
    clean, dirty --pin--> pinned --release--> dirty

It works on any Linux, in any sandbox, over fork and in system calls, and keeps clean pages shared
with the page cache. But *we* decide, woken by memory pressure, and the kernel may be faster and
write a page to swap: best effort. What fits in RLIMIT_MEMLOCK is locked on fault, which the kernel
never swaps; those pages are firm.

The drop policy is ``libscratch/pressure.c``; it runs on the native thread, without the
interpreter's lock.
"""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from mapscratch import _native
from mapscratch.engine.interface import (
    Engine,
    EngineStatus,
    Guarantees,
    PageCounts,
    ReclaimNotApplicable,
    Request,
    page_flags,
)
from mapscratch.proc import MemoryCgroup, memory_cgroup, read_meminfo

_PRESSURE_STALL_FILE = "/proc/pressure/memory"
_SHARE_LEFT_FOR_PINS = 4
"""A quarter of RLIMIT_MEMLOCK is never locked on fault, so that `ScratchMap.pin` still works."""
_SHARE_OF_MEMORY = 8
"""Where RLIMIT_MEMLOCK has no limit, at most an eighth of the machine's memory is locked."""

_woken_by: str | None = None


class DontneedEngine(Engine):
    """MAP_PRIVATE of the file, dropped by MADV_DONTNEED on memory pressure."""

    name = "dontneed"

    def status(self) -> EngineStatus:
        """Runs on any Linux; what would wake its drop policy is found out without starting it."""
        return EngineStatus(
            self.name, available=True, reason=f"dropped by us: {_who_would_wake_us()}."
        )

    def guarantees(self, request: Request) -> Guarantees:
        """Firm if all of the mapping can be locked on fault."""
        locked = min(_lock_budget(), _whole_pages(request.length))
        return _guarantees(locked, request.length, _who_would_wake_us())

    def guarantees_of(self, mapping: _native.WordMap) -> Guarantees:
        """Firm if all of the mapping is locked on fault."""
        locked = mapping._range_counts()["locked_bytes"]
        return _guarantees(locked, len(mapping), _who_wakes_us())

    def attach(self, mapping: _native.WordMap, request: Request) -> None:
        """Locks on fault what fits and starts to watch memory pressure."""
        _watch_pressure()
        mapping._attach(
            _native.ENGINE_DONTNEED,
            request.protection,
            -1,
            0,
            request.name,
            _native.RULE_SET,
            None,
            None,
            min(_lock_budget(), _whole_pages(request.length)),
        )
        # After one store a core file would have all of it, and it can be made again.
        mapping.madvise(mmap.MADV_DONTDUMP)

    def counts(self, mapping: _native.WordMap) -> PageCounts:
        """Page tables say what is there and whether it is a private copy."""
        native = mapping._range_counts()
        pages = page_flags(mapping)
        private = pages.private - pages.swapped
        return PageCounts(
            resident=pages.present,
            dirty=private,
            droppable=None,
            swapped=pages.swapped,
            pinned=native["pinned"],
            filled=None,
            dropped=native["dropped"],
            rebuilt=None,
            fixup_seconds=None,
        )

    def reclaim(self, mapping: _native.WordMap, offset: int, length: int) -> None:
        """Not ours to ask for: the kernel would swap the pages.

        Raises:
            ReclaimNotApplicable: always; it names `ScratchMap.drop`.
        """
        raise ReclaimNotApplicable(
            "engine 'dontneed' drops pages itself; the kernel, asked to reclaim them, would write "
            "them to swap. Use m.drop() to drop them now."
        )


def _whole_pages(length: int) -> int:
    return -(-length // PAGESIZE) * PAGESIZE


def _lock_budget() -> int:
    """Bytes that may still be locked on fault."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        limit = read_meminfo().total // _SHARE_OF_MEMORY
    usable = limit - limit // _SHARE_LEFT_FOR_PINS
    return max(0, usable - _locked_bytes()) // PAGESIZE * PAGESIZE


def _locked_bytes() -> int:
    """VmLck: what counts against RLIMIT_MEMLOCK, resident or not."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmLck:"):
                return int(line.split()[1]) * 1024
    return 0


def _guarantees(locked: int, length: int, woken_by: str) -> Guarantees:
    is_firm = locked >= length
    return Guarantees(
        no_swap="firm" if is_firm else "best effort",
        no_swap_detail="all of it is locked on fault"
        if is_firm
        else f"{locked} of {length} bytes are locked on fault, which is what RLIMIT_MEMLOCK "
        "leaves; of the rest pages are swapped if the kernel is faster than our drop policy, "
        f"woken by: {woken_by}",
        window_seconds=0.0,
        system_calls=True,
        page_in_fixups=False,
        clean_pages_shared=True,
        locked_bytes=locked,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Something that announces memory pressure: for `_native.watch_pressure`, and in words."""

    kind: int
    path: str
    trigger: str
    name: str


def _who_would_wake_us() -> str:
    if _woken_by:
        return _woken_by
    for source in _sources():
        return source.name
    return "nothing (no cgroup event control and no /proc/pressure/memory): only m.drop() drops"


def _who_wakes_us() -> str:
    """The same for a mapping that exists: what could be watched and isn't, doesn't wake us."""
    if _woken_by or next(_sources(), None) is None:
        return _who_would_wake_us()
    return (
        "nothing (the thread that would watch can't start: see RLIMIT_NPROC and the group's "
        "pids.max): only m.drop() drops"
    )


_SETTING_NAMES = {
    _native.PRESSURE_CGROUP1: "cgroup1",
    _native.PRESSURE_CGROUP2: "cgroup2",
    _native.PRESSURE_STALL: "stall",
}


def reclaimer_setting() -> str:
    """What would wake the drop policy here, as the runtime of converted libraries wants it told.

    Returns:
        the value of MAPSCRATCH_RECLAIMER: a kind and a path; "off" if there is nothing to watch.
    """
    for source in _sources():
        return f"{_SETTING_NAMES[source.kind]} {source.path}"
    return "off"


def _watch_pressure() -> None:
    """Starts to watch the best source of memory pressure there is; once a process."""
    global _woken_by  # noqa: PLW0603 - there is one native thread, and one watch, a process
    if _woken_by:
        return
    for source in _sources():
        try:
            _native.watch_pressure(source.kind, source.path, source.trigger)
        except OSError:
            continue
        _woken_by = source.name
        return


def _sources() -> Iterator[_Source]:
    """What looks as if it could be watched by this process, the best first."""
    group = memory_cgroup()
    if group and group.version == 1:
        if os.access(group.directory / "cgroup.event_control", os.W_OK):
            name = "memory cgroup's pressure_level"
            yield _Source(_native.PRESSURE_CGROUP1, str(group.directory), "", name)
    elif group:
        directory = _limited(group)
        name = _name_of_second_version(directory)
        if name:
            yield _Source(_native.PRESSURE_CGROUP2, str(directory), _native.STALL_TRIGGERS, name)
    if os.access(_PRESSURE_STALL_FILE, os.W_OK):
        name = "the machine's pressure stall information"
        yield _Source(_native.PRESSURE_STALL, _PRESSURE_STALL_FILE, _native.STALL_TRIGGERS, name)


def _limited(group: MemoryCgroup) -> Path:
    """The nearest group of version 2, outwards, with a limit: the one whose events tell of it.

    An event is counted where the limit is and further out, never further in (cgroup-v2.rst). The
    process's own group if no limit is set.
    """
    directory = group.directory
    while directory != group.mount and directory.is_relative_to(group.mount):
        if any(_is_set(directory / name) for name in ("memory.max", "memory.high")):
            return directory
        directory = directory.parent
    return group.directory


def _is_set(limit: Path) -> bool:
    try:
        return limit.read_text().strip() != "max"
    except OSError:
        return False


def _name_of_second_version(directory: Path) -> str:
    """What of a group of version 2 says that memory is short; empty if nothing of it does.

    Of these files a group may have one, or we may have the right to one only; libscratch then
    watches the machine's stalls in place of the group's.
    """
    stalls = os.access(directory / "memory.pressure", os.W_OK)
    events = os.access(directory / "memory.events", os.R_OK)
    if stalls and events:
        return "memory cgroup's memory.pressure and memory.events"
    if stalls:
        return "memory cgroup's memory.pressure"
    if events and os.access(_PRESSURE_STALL_FILE, os.W_OK):
        return "memory cgroup's memory.events and the machine's pressure stall information"
    return "memory cgroup's memory.events" if events else ""
