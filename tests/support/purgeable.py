# SPDX-License-Identifier: Apache-2.0
"""PurgeablePages of pages that are dropped just when a test wants it."""

from __future__ import annotations

import mmap
import os
from mmap import PAGESIZE

import numpy as np

from mapscratch import Cache
from mapscratch._native import PurgeableEntry, PurgeablePages, PurgeableView
from mapscratch.cache.purgeable import Region
from mapscratch.proc import range_memory

MADV_PAGEOUT = 21  # Linux 5.4


def reclaim(region: Region, offset: int, length: int) -> None:
    """Has the kernel reclaim a part of a region, as it would under memory pressure."""
    region.memory.madvise(MADV_PAGEOUT, offset, length)


def memory_of(pages: PurgeablePages) -> Region:
    """The region that they are in."""
    assert isinstance(pages.region, Region)
    return pages.region


def lease(run: PurgeablePages, offset: int, length: int, is_draft: bool = False) -> PurgeableView:
    """A buffer of a part of a run."""
    return PurgeableEntry((run,), offset, length).lease(is_draft)


def drop_page(run: PurgeablePages, page: int) -> None:
    """Has the kernel drop a released page; it passes over pages that still wait in a batch."""
    region = memory_of(run)
    one = PurgeablePages(region, run.offset + page * PAGESIZE, 1)
    for _ in range(1000):
        reclaim(region, one.offset, PAGESIZE)
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


def let_go(run: PurgeablePages) -> None:
    """Releases a run that nobody leases."""
    assert not run.release()


def take_back(run: PurgeablePages) -> bool:
    """Whether it is there; then it is as if it never was released."""
    return run.pin()


def reclaim_all(cache: Cache) -> None:
    """Has the kernel reclaim all that a cache has released."""

    def reclaim_regions() -> None:
        cache._table.release_recent()
        for region in (*cache._runs.regions, *cache._slots.regions):
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
