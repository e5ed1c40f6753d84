# SPDX-License-Identifier: Apache-2.0
"""Sequential page-in of `lazyfree` against copying the same bytes out of the page cache."""

from __future__ import annotations

import mmap
import os
import tempfile
import time

import numpy as np
from turns import describe, in_turns, parser_of, ratio, save

import mapscratch

BYTES = 128 << 20


def gigabytes_a_second(started: float) -> float:
    """For `BYTES` since then."""
    return BYTES / (time.perf_counter() - started) / 1e9


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        for _ in range(BYTES >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        m = mapscratch.ScratchMap(file.name, engine="lazyfree")
        source = np.memmap(file.name, dtype="u8", mode="r")
        source.sum()  # into the page cache, and its page tables
        target = np.empty_like(source)
        target[:] = source

        def page_in() -> float:
            m.drop()
            words = np.frombuffer(m, dtype="u8")
            started = time.perf_counter()
            words[:: mmap.PAGESIZE // 8].sum()
            return gigabytes_a_second(started)

        def copy_to_fresh_memory() -> float:
            with mmap.mmap(-1, BYTES) as fresh:
                started = time.perf_counter()
                fresh[:] = source.data.cast("B")
                return gigabytes_a_second(started)

        def copy_to_warm_memory() -> float:
            started = time.perf_counter()
            target[:] = source
            return gigabytes_a_second(started)

        figures = in_turns(
            {
                "page-in, lazyfree": page_in,
                "memcpy to memory never touched before": copy_to_fresh_memory,
                "memcpy to memory in use": copy_to_warm_memory,
            },
            rounds=9,
        )
    print(f"{BYTES >> 20} MiB in sequence, out of the page cache")
    describe(figures, "GB/s")
    fresh = ratio(figures, "page-in, lazyfree", "memcpy to memory never touched before")
    warm = ratio(figures, "page-in, lazyfree", "memcpy to memory in use")
    print(f"page-in runs at {fresh:.2f} x memcpy to fresh memory (goal: at least 0.6)")
    print(f"page-in runs at {warm:.2f} x memcpy to memory in use")
    save({"to_fresh_memory": fresh, "to_memory_in_use": warm}, arguments.json)


if __name__ == "__main__":
    main()
