# SPDX-License-Identifier: Apache-2.0
"""Memory for what can be made again: pages that the kernel may take while nobody uses them.

How pages are released, taken back and found lost stands in ``libscratch/purgeable.h``. Here is
where they come from: regions of anonymous memory that are never given back piece by piece, so that
a million runs are a handful of mappings and not a million (the kernel allows 65,530 of them).

Pages are *in use* while a view of an entry in them lives, and *released* while none does. The last
entry in a place leaves it behind, in a list, and what is in that list is free.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
from contextlib import suppress
from mmap import PAGESIZE

from mapscratch._native import BoardEntry, PurgeableEntry, PurgeablePages, PurgeableRegion
from mapscratch.errors import UserError
from mapscratch.proc.smaps import range_memory

FIRST_REGION = 4 << 20  # bytes; each region is twice the one before
LARGEST_REGION = 64 << 20
_PROBE_PAGES = 64  # more than the kernel keeps in a batch before they count as lazily freed
_MADV_PAGEOUT = 21  # Linux 5.4
_MADV_DONTNEED_LOCKED = 24  # Linux 5.18
_MAP_NORESERVE = 0x4000  # not every Python's mmap module has it
LEFT_BEHIND = struct.Struct("=QQQ")  # a region's number, where in it, bytes

_numbers = itertools.count()


class Region(PurgeableRegion):
    """One mapping that pages are cut from.

    Raises:
        OSError: the process may have no more addresses (RLIMIT_AS, overcommit).

    Attributes:
        number: which it is.
        memory: the mapping.
        free: of runs: their pages, and where such places are.
        runs: how many there are.
        unused_from: an offset; from there on nothing was ever cut.
    """

    __slots__ = ("board", "free", "memory", "number", "owner", "runs", "unused_from")

    def __new__(cls, size: int, ended: list[bytes], owner: BoardEntry | None = None) -> Region:
        """Maps it; what ends in it is put into `ended`."""
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        # A huge page would be taken as a whole, or be broken up each time pages are released.
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory.madvise(mmap.MADV_DONTDUMP)
        number = next(_numbers)
        self = super().__new__(cls, memory, number, ended)
        self.memory = memory
        self.number = number
        self.board = BoardEntry(owner, memory) if owner else None
        self.owner = owner  # its slot isn't another cache's while values of it are about
        self.unused_from = 0
        self.runs = 0
        self.free = {}
        return self

    board: BoardEntry | None
    free: dict[int, list[int]]
    memory: mmap.mmap
    number: int
    owner: BoardEntry | None
    runs: int
    unused_from: int

    def discard(self, offset: int, size: int) -> None:
        """Returns memory at once; before Linux 5.18 what is locked stays until it is used again."""
        for advice in (mmap.MADV_DONTNEED, _MADV_DONTNEED_LOCKED):
            with suppress(OSError):
                self.memory.madvise(advice, offset, size)
                return


class Runs:
    """Small pages, as many for each as it needs. Its caller sees to one thread at a time.

    Args:
        owner: whose memory it is, for other processes to see; None: they don't.

    Attributes:
        held: bytes of all runs that have not been given back.
    """

    def __init__(self, owner: BoardEntry | None = None) -> None:
        self._owner = owner
        self._ended: list[bytes] = []
        self._regions: dict[int, Region] = {}
        self.held = 0

    @property
    def regions(self) -> list[Region]:
        """What runs are cut from."""
        return list(self._regions.values())

    def cut(self, pages: int) -> PurgeablePages:
        """A run of that many pages, in use by nobody.

        It is given back when the last entry in it has ended; there has to be one.

        Raises:
            OSError: the process may have no more addresses (RLIMIT_AS, overcommit).
        """
        wanted = _capacity(pages)
        for region in reversed(self._regions.values()):
            if offsets := region.free.get(wanted):
                return self._run(region, offsets.pop(), pages)
        newest = next(reversed(self._regions.values()), None)
        if newest is None or newest.unused_from + wanted * PAGESIZE > len(newest.memory):
            newest = self._new_region(wanted)
        offset = newest.unused_from
        newest.unused_from += wanted * PAGESIZE
        return self._run(newest, offset, pages)

    def has(self, entry: PurgeableEntry) -> bool:
        """Whether an entry is in this memory."""
        region = entry.pages[0].region
        return isinstance(region, Region) and self._regions.get(region.number) is region

    def give_back(self) -> None:
        """Returns what has ended to the machine."""
        while self._ended:
            number, offset, size = LEFT_BEHIND.unpack(self._ended.pop())
            region = self._regions.get(number)
            if region:
                region.discard(offset, size)
                self.held -= size
                region.free.setdefault(_capacity(size // PAGESIZE), []).append(offset)
                region.runs -= 1
                if not region.runs and len(self._regions) > 1:
                    del self._regions[number]  # unmapped when the last of its runs goes

    def _run(self, region: Region, offset: int, pages: int) -> PurgeablePages:
        run = PurgeablePages(region, offset, pages)
        region.runs += 1
        self.held += run.size
        return run

    def _new_region(self, wanted: int) -> Region:
        newest = next(reversed(self._regions.values()), None)
        size = min(2 * len(newest.memory), LARGEST_REGION) if newest else FIRST_REGION
        region = Region(max(size, wanted * PAGESIZE), self._ended, self._owner)
        self._regions[region.number] = region
        return region


def _capacity(pages: int) -> int:
    """The pages set aside for a run: one of four sizes between a power of two and the next.

    So the room of one run serves others of about its size. What is set aside and not used is no
    memory, only addresses.
    """
    step = 1 << max(pages.bit_length() - 3, 0)
    return -(-pages // step) * step


def why_not() -> str | None:
    """Why the kernel doesn't take released pages here; None if it does.

    Some sandboxes answer MADV_FREE with success and do nothing, so this looks at what has become of
    some pages.
    """
    try:
        region = Region(_PROBE_PAGES * PAGESIZE, [])
    except OSError as trouble:
        return f"there is no memory to try it: {trouble}"
    region.memory[:] = b"\1" * len(region.memory)
    run = PurgeablePages(region, 0, _PROBE_PAGES)
    error = run.release()
    if error:
        return why_refused(error)
    return None if _is_taken_or_marked(region, run) else "MADV_FREE does nothing here"


def why_refused(error: int) -> str:
    """What it means that MADV_FREE got this errno value."""
    if error == errno.EINVAL:
        return "MADV_FREE gets EINVAL: memory is locked (mlockall), or Linux is older than 4.5"
    return f"MADV_FREE: {os.strerror(error)}"


def _is_taken_or_marked(region: Region, run: PurgeablePages) -> bool:
    with suppress(OSError, UserError):
        if range_memory(run.address, run.size).usage.lazy_free:
            return True
    with suppress(OSError):  # before Linux 5.4, or a sandbox
        region.memory.madvise(_MADV_PAGEOUT)
    return not run.pin()
