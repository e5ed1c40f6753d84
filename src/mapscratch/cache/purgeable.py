# SPDX-License-Identifier: Apache-2.0
"""Memory for what can be made again: runs of pages that the kernel may take while nobody uses them.

How a run is released, taken back and found lost stands in ``libscratch/purgeable.h``. Here is where
runs come from: regions of anonymous memory that are never given back piece by piece, so that
a million runs are a handful of mappings and not a million (the kernel allows 65,530 of them).

A run is *in use* while a lease of it lives, and *released* while none does.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Hashable
from contextlib import suppress
from mmap import PAGESIZE

from mapscratch._native import BoardEntry, PurgeablePages, PurgeableView
from mapscratch.errors import UserError
from mapscratch.proc.smaps import range_memory

_FIRST_REGION = 4 << 20  # bytes; each region is twice the one before
_LARGEST_REGION = 64 << 20
_PROBE_PAGES = 64  # more than the kernel keeps in a batch before they count as lazily freed
_MADV_PAGEOUT = 21  # Linux 5.4
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MADV_DONTNEED_LOCKED = 24  # Linux 5.18
_MAP_NORESERVE = 0x4000  # not every Python's mmap module has it


class Region:
    """One mapping that runs are cut from."""

    __slots__ = ("board", "free", "memory", "owner", "runs", "unused_from")

    def __init__(self, size: int, owner: BoardEntry | None = None) -> None:
        self.memory = mmap.mmap(
            -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        )
        # A huge page would be taken as a whole, or be broken up each time one is released.
        with suppress(OSError):  # a kernel without huge pages
            self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.memory.madvise(mmap.MADV_DONTDUMP)
        self.board = BoardEntry(owner, self.memory) if owner else None
        self.owner = owner  # its slot isn't another cache's while values of it are about
        self.unused_from = 0
        self.runs = 0
        self.free: dict[int, list[int]] = {}  # pages: offsets


class Run(PurgeablePages):
    """Pages that are lent, released and lost together.

    Attributes:
        region: where they are.
        offset: where there, in bytes.
        size: in bytes.
        capacity: pages set aside for it, `size` and more.
        is_forgotten: whether nobody gets it any more: it is given back when no lease lives.
        keys: what is stored in it.
    """

    __slots__ = ("capacity", "is_forgotten", "keys", "offset", "region", "size")

    def __init__(self, region: Region, offset: int, pages: int) -> None:
        self.region = region
        self.offset = offset
        self.size = pages * PAGESIZE
        self.capacity = capacity(pages)
        self.is_forgotten = False
        self.keys: list[Hashable] = []

    def __new__(cls, region: Region, offset: int, pages: int) -> Run:
        """Makes the native part: it finds the pages and keeps the region mapped."""
        return super().__new__(cls, region.memory, offset, pages)

    def populate(self) -> None:
        """Has all its pages at once, which costs less than a page fault each."""
        with suppress(OSError):  # before Linux 5.14; or memory is short, as the faults will say
            self.region.memory.madvise(_MADV_POPULATE_WRITE, self.offset, self.size)


class Lease(PurgeableView):
    """A buffer in a run, which stays in use while the buffer or a view of it lives.

    When the last lease of a run ends the run is released, there and then, by native code: leases
    end in the garbage collector, too, and in any thread.

    Attributes:
        run: whose pages they are.
        is_draft: whether it may be stored to, because nobody else sees it yet.

    Raises:
        LookupError: the kernel has taken the run.
    """

    __slots__ = ("is_draft", "run")

    def __init__(self, run: Run, offset: int, length: int, is_draft: bool = False) -> None:
        self.run = run
        self.is_draft = is_draft

    def __new__(cls, run: Run, offset: int, length: int, is_draft: bool = False) -> Lease:
        """Makes the native part: it takes the run back."""
        return super().__new__(cls, run, offset, length, is_draft)


def capacity(pages: int) -> int:
    """The pages set aside for a run: one of four sizes between a power of two and the next.

    So the room of one run serves others of about its size. What is set aside and not used is no
    memory, only addresses.
    """
    step = 1 << max(pages.bit_length() - 3, 0)
    return -(-pages // step) * step


class PurgeableMemory:
    """Where runs are cut from and given back to. Its caller sees to one thread at a time.

    Args:
        owner: whose memory it is, for other processes to see; None: they don't.

    Attributes:
        held: bytes of all runs that have not been given back.
    """

    def __init__(self, owner: BoardEntry | None = None) -> None:
        self._owner = owner
        self.held = 0
        self._regions: list[Region] = []

    def cut(self, pages: int) -> Run:
        """A run of that many pages, in use by nobody.

        Raises:
            OSError: the process may have no more addresses (RLIMIT_AS, overcommit).
        """
        wanted = capacity(pages)
        for region in reversed(self._regions):
            if offsets := region.free.get(wanted):
                return self._run(region, offsets.pop(), pages)
        region = self._regions[-1] if self._regions else self._new_region(wanted)
        if region.unused_from + wanted * PAGESIZE > len(region.memory):
            region = self._new_region(wanted)
        offset = region.unused_from
        region.unused_from += wanted * PAGESIZE
        return self._run(region, offset, pages)

    def cut_again(self, run: Run, pages: int) -> Run:
        """Another run of about that size in the place, and in the memory, of one that nobody uses.

        It costs no page faults; what is in it is anything. One lease of `run` must live.
        """
        run.retire()
        self.held -= run.size
        run.region.runs -= 1
        return self._run(run.region, run.offset, pages)

    def has(self, run: Run) -> bool:
        """Whether a run is of this memory."""
        return run.region in self._regions

    def give_back(self, run: Run) -> None:
        """Returns a run's memory to the machine at once; nobody uses it, and nobody will."""
        if run.is_retired:
            return
        run.retire()  # first: an interrupt here loses memory, but gives none to two
        region = run.region
        _discard(region, run)
        self.held -= run.size
        region.free.setdefault(run.capacity, []).append(run.offset)
        region.runs -= 1
        if not region.runs and len(self._regions) > 1:
            self._regions.remove(region)  # it is unmapped when the last of its run objects goes

    def _run(self, region: Region, offset: int, pages: int) -> Run:
        run = Run(region, offset, pages)
        region.runs += 1
        self.held += run.size
        return run

    def _new_region(self, wanted: int) -> Region:
        largest = len(self._regions[-1].memory) if self._regions else _FIRST_REGION // 2
        size = min(2 * largest, _LARGEST_REGION)
        region = Region(max(size, wanted * PAGESIZE), self._owner)
        self._regions.append(region)
        return region


def _discard(region: Region, run: Run) -> None:
    """Returns the memory; before Linux 5.18 what is locked stays until a run comes there again."""
    for advice in (mmap.MADV_DONTNEED, _MADV_DONTNEED_LOCKED):
        with suppress(OSError):
            region.memory.madvise(advice, run.offset, run.size)
            return


def why_not() -> str | None:
    """Why the kernel doesn't take released pages here; None if it does.

    Some sandboxes answer MADV_FREE with success and do nothing, so this looks at what has become of
    some pages.
    """
    try:
        region = Region(_PROBE_PAGES * PAGESIZE)
    except OSError as trouble:
        return f"there is no memory to try it: {trouble}"
    region.memory[:] = b"\1" * len(region.memory)
    run = Run(region, 0, _PROBE_PAGES)
    error = run.release()
    if error:
        return why_refused(error)
    return None if _is_taken_or_marked(region, run) else "MADV_FREE does nothing here"


def why_refused(error: int) -> str:
    """What it means that MADV_FREE got this errno value."""
    if error == errno.EINVAL:
        return "MADV_FREE gets EINVAL: memory is locked (mlockall), or Linux is older than 4.5"
    return f"MADV_FREE: {os.strerror(error)}"


def _is_taken_or_marked(region: Region, run: Run) -> bool:
    with suppress(OSError, UserError):
        if range_memory(run.address, run.size).usage.lazy_free:
            return True
    with suppress(OSError):  # before Linux 5.4, or a sandbox
        region.memory.madvise(_MADV_PAGEOUT)
    return not run.pin()
