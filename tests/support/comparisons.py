# SPDX-License-Identifier: Apache-2.0
"""Results that nobody measured: for tests of how results are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mapscratch.lab.rig.results import Comparison, LibrarySummary, Round, Settings, SwapDescription

PAGES = 100
FIXUPS_PER_PAGE = 50
NO_SWAP = SwapDescription("none", "", 0, 0, temporary=False, zswap=False)
SWAPFILE = SwapDescription("file", "/swap", 1 << 30, 1 << 30, temporary=True, zswap=False)
ZRAM = SwapDescription("zram", "/dev/zram0", 1 << 30, 1 << 30, temporary=True, zswap=False)


def make_round(strategy: str, processes: int = 1, **figures: Any) -> Round:
    """A round in which all pages left memory and came back, as each strategy does it."""
    pages = PAGES * processes
    private, by_us = strategy == "private", strategy == "dontneed"
    values: dict[str, Any] = {
        "processes": processes,
        "strategy": strategy,
        "number": 1,
        "pages": pages,
        "fixups": pages * FIXUPS_PER_PAGE,
        "fixups_per_page": float(FIXUPS_PER_PAGE),
        "swapped_out_pages": None if by_us else pages * private,
        "swapped_out_bytes": None if by_us else pages * private * 4096,
        "swapped_in_pages": None if by_us else pages * private,
        "swapped_in_bytes": None if by_us else pages * private * 4096,
        "swap_cache_pages": 0 if private else None,
        "dropped_by_kernel_pages": None if by_us else pages * (not private),
        "dropped_by_us_pages": pages * by_us,
        "kept_pages": 0,
        "storage_bytes_read": 0,
        "file_bytes_read": None if private else 0,
        "clean_pss_bytes": pages * 4096,
        "before_resident_bytes": pages * 4096,
        "before_lazily_freed_bytes": pages * 4096 * (strategy == "lazyfree"),
        "after_resident_bytes": 0,
        "after_lazily_freed_bytes": 0,
        "locked_bytes": 0,
        "asked_bytes": pages * 4096,
        "given_back_bytes": pages * 4096,
        "given_back_per_mib": 1.0,
        "first_page_in_us": 1.0,
        "first_fixups_us": 1.0,
        "reclaim_us": 10.0 if private else 2.0,
        "page_in_us": 20.0 if private else 6.0,
        "fixups_us": 0.5 if private else 4.0 if by_us else 0.0,
        "round_trip_us": 30.0 if private else 12.0 if by_us else 8.0,
        "fixup_ns": 10.0,
        "fixups_at_page_in": pages * FIXUPS_PER_PAGE * (strategy == "lazyfree"),
        "fixups_after_page_in": pages * FIXUPS_PER_PAGE * by_us,
        "fixup_table_bytes": 16 * pages * FIXUPS_PER_PAGE if strategy == "lazyfree" else None,
        "cpu_us": 5.0,
        "major_faults": pages * private,
        "words_checked": pages * 512,
        "wrong_words": 0,
        "lost_words": 0,
        "machine_pages_written": pages * private,
        "machine_pages_read": pages * private,
        "machine_pages_compressed": 0,
        "machine_pages_decompressed": 0,
        "machine_pages_lazily_freed": 0,
        "seconds": 0.1,
    }
    return Round(**(values | figures))


def make_comparison(*rounds: Round, swap: SwapDescription = SWAPFILE, **fields: Any) -> Comparison:
    """A comparison with these rounds."""
    settings = Settings(
        processes=tuple(sorted({one.processes for one in rounds})) or (1,),
        rounds=1,
        seconds=60.0,
        strategies=("private", "lazyfree", "dontneed"),
        pressure="pageout",
        swap="none",
        pages=PAGES,
    )
    values: dict[str, Any] = {
        "settings": settings,
        "libraries": (
            LibrarySummary(
                Path("/lib/libx.so"), 110, PAGES, PAGES * FIXUPS_PER_PAGE,
                kinds={"RELATIVE": PAGES * FIXUPS_PER_PAGE}, skipped={"IRELATIVE": 3},
            ),
        ),
        "copies": 1,
        "swap": swap,
        "left_out": {"kernel": "this kernel has no MAP_SCRATCH."},
        "notes": (),
        "rounds": rounds,
        "seconds": 1.5,
    }  # fmt: skip
    return Comparison(**(values | fields))
