# SPDX-License-Identifier: Apache-2.0
"""Runs of pages that are dropped just when a test wants it."""

from __future__ import annotations

from mmap import PAGESIZE

from mapscratch import Cache
from mapscratch.purgeable import Region, Run

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


def reclaim_all(cache: Cache) -> None:
    """Has the kernel reclaim all that a cache has released."""
    with cache._lock:
        cache._release_what_rests(0)
        for region in cache._memory._regions:
            reclaim(region, 0, len(region.memory))
