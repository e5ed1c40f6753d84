# SPDX-License-Identifier: Apache-2.0
"""What each page of a range is: present, swapped, a private copy (``/proc/PID/pagemap``).

The kernel's ``Documentation/admin-guide/mm/pagemap.rst`` defines the entries: one 64-bit word a
virtual page. Everyone may read their own; without CAP_SYS_ADMIN the page frame numbers and swap
offsets in the low bits read as zero, the flags are the same.

What the words say of private memory, as seen on Linux 6.18:

======================================================  ======  ======  ======
a page of a MAP_PRIVATE file mapping                    bit 63  bit 62  bit 61
======================================================  ======  ======  ======
never touched, or dropped, or clean and reclaimed       0       0       0
read: the file's page in the page cache                 1       0       1
stored to: a private copy                               1       0       0
the private copy in swap                                0       1       0
======================================================  ======  ======  ======

Three things look similar and are not: a page of shared memory (MAP_SHARED, tmpfs) in swap has a
zero entry, indistinguishable from one never touched (pagemap.rst, "Exceptions for Shared Memory");
a file's page that is being migrated has bits 62 *and* 61 for a moment; and a guard region
(MADV_GUARD_INSTALL) has bits 62 and 58. So *swapped* is counted as bit 62 with neither 61 nor 58,
which loses no page that is in swap.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from mmap import PAGESIZE

from mapscratch import _native
from mapscratch.proc.procfs import (
    Pid,
    check_range,
    no_such_process,
    open_process_file,
    process_file,
)

PRESENT = 1 << 63
"""The page is in memory and mapped."""
SWAPPED = 1 << 62
"""The page is in swap (but see this module's docstring)."""
FILE_OR_SHARED = 1 << 61
"""The page belongs to a file or to shared memory; a private copy does not."""
GUARD_REGION = 1 << 58
"""The page is in a guard region, which is no page at all (Linux 6.15)."""
EXCLUSIVE = 1 << 56
"""The page is mapped by this process alone."""

_ENTRY_SIZE = 8


@dataclass(frozen=True, slots=True)
class PageFlags:
    """How many pages of a range are what; each figure a number of pages.

    Attributes:
        present: mapped pages that are in memory.
        swapped: private pages that are in swap, or on their way to it.
        private: private copies, in memory or in swap. The kernel's page of zeros, which a *read* of
            untouched anonymous memory maps, is among them: it has no bit that tells it apart.
    """

    present: int
    swapped: int
    private: int

    def __add__(self, other: PageFlags) -> PageFlags:
        """The counts of two ranges together."""
        return PageFlags(
            self.present + other.present,
            self.swapped + other.swapped,
            self.private + other.private,
        )


def is_present(entry: int) -> bool:
    """Whether a pagemap entry is of a page in memory."""
    return bool(entry & PRESENT)


def is_swapped(entry: int) -> bool:
    """Whether a pagemap entry is of a private page in swap.

    A never-filled page under userfaultfd's UFFD_FEATURE_WP_UNPOPULATED cannot be told from one.
    """
    return entry & (SWAPPED | FILE_OR_SHARED | GUARD_REGION) == SWAPPED


def is_private(entry: int) -> bool:
    """Whether a pagemap entry is of a private copy, in memory or in swap."""
    return is_swapped(entry) or entry & (PRESENT | FILE_OR_SHARED) == PRESENT


def count_pages(address: int, length: int, pid: Pid = "self") -> PageFlags:
    """Count the pages of ``[address, address + length)``, first and last page whole.

    It costs what is there: PAGEMAP_SCAN (Linux 6.7) passes over memory that has no pages. Before
    it an entry of 8 bytes is read for each page that there could be. ``libscratch/pagemap.c``.

    Raises:
        ValueError: not a range of addresses, or not a process id.
        ProcessLookupError: there is no such process, or it ended.
        PermissionError: the process belongs to someone else.
    """
    first, pages = _pages(address, length)
    descriptor = open_process_file(pid, "pagemap")
    try:
        counts = _native.count_pages(descriptor, first * PAGESIZE, pages) if pages else (0, 0, 0)
        if pages and not os.pread(descriptor, _ENTRY_SIZE, first * _ENTRY_SIZE):
            raise _ended_early(first * _ENTRY_SIZE, pid)  # to scan an ended process finds nothing
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        raise _ended_early(first * _ENTRY_SIZE, pid) from None
    finally:
        os.close(descriptor)
    return PageFlags(*counts)


def page_entries(address: int, length: int, pid: Pid = "self") -> memoryview:
    """The raw entries of ``[address, address + length)``: a memoryview of uint64, one a page.

    Test an entry with `is_present`, `is_swapped`, `is_private`, or the bits of this module. The
    memory of the answer is length / 512.

    Raises:
        ValueError: not a range of addresses, or not a process id.
        ProcessLookupError: there is no such process, or it ended.
        PermissionError: the process belongs to someone else.
    """
    first, pages = _pages(address, length)
    entries = memoryview(bytearray(pages * _ENTRY_SIZE))
    descriptor = open_process_file(pid, "pagemap")
    try:
        _read_entries(descriptor, first, entries, pid)
    finally:
        os.close(descriptor)
    return entries.cast("Q")


def _pages(address: int, length: int) -> tuple[int, int]:
    check_range(address, length)
    first = address // PAGESIZE
    return first, (-(-(address + length) // PAGESIZE) - first) if length else 0


def _read_entries(descriptor: int, first: int, into: memoryview, pid: Pid) -> None:
    offset = first * _ENTRY_SIZE
    done = 0
    while done < len(into):
        got = os.preadv(descriptor, [into[done:]], offset + done)
        if not got:
            raise _ended_early(offset + done, pid)
        done += got


def _ended_early(offset: int, pid: Pid) -> Exception:
    # A process that is ending, and a range past the last address a process can have, both read as
    # the end of the file; only the first has lost its memory map.
    try:
        with open(process_file(pid, "maps"), "rb") as maps:
            alive = bool(maps.read(1))
    except OSError:
        alive = False
    if not alive:
        return no_such_process(pid)
    return ValueError(f"no process has an address {offset // _ENTRY_SIZE * PAGESIZE:#x}")
