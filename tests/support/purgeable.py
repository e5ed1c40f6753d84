# SPDX-License-Identifier: Apache-2.0
"""Runs of pages that are dropped just when a test wants it."""

from __future__ import annotations

import mmap
import os
from mmap import PAGESIZE

import numpy as np

from mapscratch import Cache
from mapscratch.cache.purgeable import Region, Run
from mapscratch.proc import range_memory

MADV_PAGEOUT = 21  # Linux 5.4


def reclaim(region: Region, offset: int, length: int) -> None:
    """Has the kernel reclaim a part of a region, as it would under memory pressure."""
    region.memory.madvise(MADV_PAGEOUT, offset, length)


def drop_page(run: Run, page: int) -> None:
    """Has the kernel drop a released page; it passes over pages that still wait in a batch."""
    one = Run(run.region, run.offset + page * PAGESIZE, 1)
    for _ in range(1000):
        reclaim(run.region, one.offset, PAGESIZE)
        if not one.is_whole():
            return
    raise AssertionError("the kernel keeps a page that it may drop")


def drain() -> None:
    """Has every processor move on what it has noted as lazily freed: MADV_FREE begins with that."""
    processors = os.sched_getaffinity(0)
    with mmap.mmap(-1, PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            for processor in processors:
                os.sched_setaffinity(0, {processor})
                page.madvise(mmap.MADV_FREE)
        finally:
            os.sched_setaffinity(0, processors)


def let_go(run: Run) -> None:
    """Releases a run that nobody leases."""
    assert not run.release()


def take_back(run: Run) -> bool:
    """Whether it is there; then it is as if it never was released."""
    return run.pin()


def reclaim_all(cache: Cache) -> None:
    """Has the kernel reclaim all that a cache has released."""

    def reclaim_regions() -> None:
        cache._release_recent(0)
        for region in cache._memory._regions:
            drop_region(region)

    cache._alone(reclaim_regions)


def drop_region(region: Region) -> None:
    """Has the kernel drop what is released of a region; it passes over pages that somebody holds.

    That may be another processor, or whoever moves pages about to make room.
    """
    address = np.frombuffer(region.memory, "u1").__array_interface__["data"][0]
    for _ in range(50):
        drain()
        reclaim(region, 0, len(region.memory))
        if not range_memory(address, len(region.memory)).usage.lazy_free:
            return
