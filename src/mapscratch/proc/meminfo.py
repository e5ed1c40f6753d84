# SPDX-License-Identifier: Apache-2.0
"""The machine's memory (``/proc/meminfo``), in bytes.

The kernel's ``Documentation/filesystems/proc.rst`` defines each figure, under "meminfo".
"""

from __future__ import annotations

from dataclasses import dataclass

from mapscratch.proc.procfs import read_numbers, read_text


@dataclass(frozen=True, slots=True)
class MemInfo:
    """Figures of /proc/meminfo, each a number of bytes.

    Attributes:
        total: usable memory (MemTotal).
        free: memory that nothing uses (MemFree).
        available: the kernel's estimate of what can be had without swapping (MemAvailable).
        buffers: page cache of block devices (Buffers).
        cached: page cache, shared memory included (Cached).
        swap_cached: in memory and in swap both (SwapCached).
        swap_total: all swap (SwapTotal).
        swap_free: swap that nothing uses (SwapFree).
        dirty: of files and waiting to be written back (Dirty).
        writeback: being written back (Writeback).
        anonymous: mapped pages that belong to no file (AnonPages).
        mapped: mapped pages of files (Mapped).
        shared: shared memory and tmpfs (Shmem).
        locked: locked in memory (Mlocked).
    """

    total: int
    free: int
    available: int
    buffers: int
    cached: int
    swap_cached: int
    swap_total: int
    swap_free: int
    dirty: int
    writeback: int
    anonymous: int
    mapped: int
    shared: int
    locked: int


_LABELS = {
    "total": "MemTotal",
    "free": "MemFree",
    "available": "MemAvailable",
    "buffers": "Buffers",
    "cached": "Cached",
    "swap_cached": "SwapCached",
    "swap_total": "SwapTotal",
    "swap_free": "SwapFree",
    "dirty": "Dirty",
    "writeback": "Writeback",
    "anonymous": "AnonPages",
    "mapped": "Mapped",
    "shared": "Shmem",
    "locked": "Mlocked",
}


def read_meminfo() -> MemInfo:
    """The machine's memory now.

    A figure that the kernel was built without, such as SwapTotal, is 0: there is none of it.

    Raises:
        OSError: /proc is not mounted, or a sandbox hides the file.
    """
    kib = read_numbers(read_text("/proc/meminfo"))
    return MemInfo(**{name: kib.get(label, 0) * 1024 for name, label in _LABELS.items()})
