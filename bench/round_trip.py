# SPDX-License-Identifier: Apache-2.0
"""A page's round trip: reclaim, random page-in, and its fixups; MAP_PRIVATE against scratch.

For each kind of swap (as root, a temporary one): a private mapping whose pages each hold 64 fixups
is reclaimed (MADV_PAGEOUT), touched again in random order, and has its missing fixups made again.
MAP_PRIVATE pays for swap-out and swap-in, and its fixups survive. `lazyfree` pays no I/O, but
page-in by the pager and 64 fixups a page.

After MADV_PAGEOUT pages linger in the swap cache, from where a page-in is cheap. Real pressure
frees them too; so between reclaim and page-in the memory cgroup that this runs in is squeezed,
untimed, and it is printed how many pages were really read from swap.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from turns import describe, parser_of, ratio, save

import mapscratch
from mapscratch import _native
from mapscratch.lab.rig.machine.cgroups import (
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.lab.rig.machine.swap import SwapKind, probe_temporary_swap, temporary_swap
from mapscratch.proc import read_vmstat

PAGES = 8192
FIXUPS_A_PAGE = 64
ROUNDS = 5
MADV_PAGEOUT = 21
BYTES = PAGES * mmap.PAGESIZE
WORDS_A_PAGE = mmap.PAGESIZE // 8


@dataclass(frozen=True)
class Fixups:
    """Word offsets, what the file holds there, and what is to stand there."""

    offsets: np.ndarray
    file_words: np.ndarray
    values: np.ndarray

    def make_missing(self, memory: mmap.mmap) -> int:
        """Makes those that are gone; how many."""
        return _native.heal_words(memory, self.offsets, self.file_words, self.values)


def microseconds_a_page(started: float) -> float:
    return (time.perf_counter() - started) / PAGES * 1e6


def round_trip(
    memory: mmap.mmap,
    reclaim: Callable[[], None],
    fixups: Fixups,
    order: np.ndarray,
    group: TemporaryMemoryCgroup,
) -> tuple[float, float, int]:
    """Microseconds a page, those of the fixups alone, and pages read from swap (machine-wide)."""
    fixups.make_missing(memory)
    time.sleep(0.05)
    started = time.perf_counter()
    reclaim()
    spent = microseconds_a_page(started)
    group.reclaim(2 * BYTES)
    before = read_vmstat()
    words = np.frombuffer(memory, dtype="u8")
    started = time.perf_counter()
    words[order * WORDS_A_PAGE].sum()
    spent += microseconds_a_page(started)
    started = time.perf_counter()
    fixups.make_missing(memory)
    spent_on_fixups = microseconds_a_page(started)
    wrong = int(np.count_nonzero(words[fixups.offsets // 8] != fixups.values))
    if wrong:
        raise SystemExit(f"{wrong} wrong words")
    return spent + spent_on_fixups, spent_on_fixups, (read_vmstat() - before).swapped_in


def measure(path: str, fixups: Fixups, group: TemporaryMemoryCgroup) -> float:
    """How many times as fast scratch is."""
    order = np.random.default_rng(1).permutation(PAGES)
    figures: dict[str, list[float]] = {
        name: [] for name in ("MAP_PRIVATE", "lazyfree", "of that, the fixups")
    }
    read_back = []
    for _ in range(ROUNDS):
        # A fresh one each time: pages that have been swapped in and not stored to since would
        # still have their place in swap, and need no writing.
        descriptor = os.open(path, os.O_RDONLY)
        private = mmap.mmap(descriptor, BYTES, access=mmap.ACCESS_COPY)
        os.close(descriptor)
        spent, _, pages = round_trip(
            private, lambda private=private: private.madvise(MADV_PAGEOUT), fixups, order, group
        )
        figures["MAP_PRIVATE"].append(spent)
        read_back.append(pages)
        scratch = mapscratch.ScratchMap(path, engine="lazyfree")
        spent, spent_on_fixups, _ = round_trip(scratch, scratch.reclaim, fixups, order, group)
        swapped = scratch.counts().swapped
        figures["lazyfree"].append(spent)
        figures["of that, the fixups"].append(spent_on_fixups)
        if swapped:
            print(f"  {swapped} scratch pages were in swap")
    describe(figures, "us a page")
    faster = ratio(figures, "MAP_PRIVATE", "lazyfree")
    print(
        f"  lazyfree is {faster:.2f} x as fast; MAP_PRIVATE read "
        f"{sorted(read_back)[ROUNDS // 2]} of {PAGES} pages back from swap"
    )
    fixup, private, lazyfree = (
        statistics.median(figures[name])
        for name in ("of that, the fixups", "MAP_PRIVATE", "lazyfree")
    )
    crossing = FIXUPS_A_PAGE * (1 + (private - lazyfree) / fixup)
    cost = f"a stored word costs {fixup / FIXUPS_A_PAGE * 1000:.0f} ns"
    if crossing > WORDS_A_PAGE:
        print(f"  {cost}: scratch pays even if all {WORDS_A_PAGE} words of a page are fixups")
    else:
        print(f"  {cost}: scratch stops paying at about {crossing:.0f} fixups a page")
    return faster


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    faster: dict[str, float] = {}
    kinds: tuple[SwapKind, ...] = ("file", "zram", "zswap")
    print(f"reclaim + random page-in + {FIXUPS_A_PAGE} fixups, {PAGES} pages of 4 KiB")
    possible = probe_temporary_memory_cgroup()
    if not possible:
        print(f"not measured: {possible.reason}")
        return
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        content = np.random.default_rng(0).integers(1, 2**48, BYTES // 8, dtype="u8")
        file.write(content.tobytes())
        file.flush()
        os.fsync(file.fileno())
        steps = np.arange(FIXUPS_A_PAGE, dtype="u8") * (WORDS_A_PAGE // FIXUPS_A_PAGE)
        indices = (np.arange(PAGES, dtype="u8")[:, None] * WORDS_A_PAGE + steps).ravel()
        fixups = Fixups(indices * 8, content[indices], content[indices] + 0x7F0000000000)
        for kind in kinds:
            probe = probe_temporary_swap(kind, 4 * BYTES)
            if not probe:
                print(f"{kind}: not measured: {probe.reason}")
                continue
            with temporary_memory_cgroup() as group, temporary_swap(kind, 4 * BYTES):
                group.add(os.getpid())
                print(f"swap: {kind}")
                faster[kind] = measure(file.name, fixups, group)
    save(faster, arguments.json)


if __name__ == "__main__":
    main()
