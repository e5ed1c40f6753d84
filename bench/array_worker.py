# SPDX-License-Identifier: Apache-2.0
"""A process that reads decoded data one way, for bench/arrays.py.

It takes a command a line and gives an answer a line.

It is started outside of its memory cgroup, waits to be put into it, and measures inside.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

import mapscratch

SCALE = np.float32(0.5)
WORDS_A_PAGE = 1024
SINGLE_READS = 3000
ROWS = 3000
CHUNK = 1 << 19  # items: one mebibyte of the file


class Ours:
    """mapscratch.array."""

    def __init__(self, path: str, items: int) -> None:
        self.array = mapscratch.array(path, "f4", shape=items, source=">i2", scale=SCALE)

    def scan(self) -> float:
        """The sum of all items."""
        return float(np.asarray(self.array).sum())


class Dirty:
    """Decoded once into ordinary memory, which the kernel swaps."""

    def __init__(self, path: str, items: int) -> None:
        self.array = np.empty(items, "f4")
        raw = np.memmap(path, ">i2", "r", shape=items)
        for start in range(0, items, CHUNK):
            np.multiply(raw[start : start + CHUNK], SCALE, out=self.array[start : start + CHUNK])

    def scan(self) -> float:
        """The sum of all items."""
        return float(self.array.sum())


class Chunks:
    """Decoded chunk by chunk where it is used, from the file itself."""

    def __init__(self, path: str, items: int) -> None:
        self.array = np.memmap(path, ">i2", "r", shape=items)

    def scan(self) -> float:
        """The sum of all items."""
        total = 0.0
        for start in range(0, len(self.array), CHUNK):
            total += float((self.array[start : start + CHUNK] * SCALE).sum())
        return total


class Zarr:
    """A zarr array of the same numbers, in chunks of a mebibyte with zarr's own compression."""

    def __init__(self, path: str, items: int) -> None:
        import zarr

        store = Path(path).with_suffix(".zarr")
        if not store.exists():
            raw = np.memmap(path, ">i2", "r", shape=items)
            made = zarr.create_array(
                store=str(store), shape=(items,), chunks=(CHUNK,), dtype="int16"
            )
            for start in range(0, items, CHUNK):
                made[start : start + CHUNK] = raw[start : start + CHUNK].astype("i2")
        self.array = zarr.open_array(str(store), mode="r")

    def scan(self) -> float:
        """The sum of all items."""
        total = 0.0
        for start in range(0, self.array.shape[0], CHUNK):
            total += float((self.array[start : start + CHUNK] * SCALE).sum())
        return total


WAYS = {"ours": Ours, "dirty": Dirty, "chunks": Chunks, "zarr": Zarr}


def rows(way: object, seed: int) -> int:
    """Rows of 4 KiB, picked by an index array."""
    table = way.array.reshape(-1, WORDS_A_PAGE)  # type: ignore[attr-defined]
    picked = np.random.default_rng(seed).integers(0, len(table), ROWS)
    table[picked]
    return ROWS


def words(way: object, seed: int) -> int:
    """Single words, one after the other, each of another page."""
    plain = np.asarray(way.array)  # type: ignore[attr-defined]
    random = np.random.default_rng(seed + 10**6)  # other pages than the rows of that seed
    picked = random.integers(0, len(plain) // WORDS_A_PAGE, SINGLE_READS) * WORDS_A_PAGE
    for index in picked:
        plain[index]
    return SINGLE_READS


def main() -> None:
    kind, path, items = sys.argv[1], sys.argv[2], int(sys.argv[3])
    way = None
    for line in sys.stdin:
        command, seed = line.split()
        started = time.perf_counter()
        if command == "make":
            way = WAYS[kind](path, items)
            done = 1
        elif command == "scan":
            way.scan()
            done = 1
        elif command == "rows":
            done = rows(way, int(seed))
        else:
            done = words(way, int(seed))
        spent = time.perf_counter() - started
        print(json.dumps({"seconds": spent / done}), flush=True)


if __name__ == "__main__":
    main()
