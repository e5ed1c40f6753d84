# SPDX-License-Identifier: GPL-2.0-only
"""A process that stores into every word of a mapping, and says on demand what it finds there.

Usage: pressure_worker.py FILE private|kernel PAGES. It prints "ready" when all is stored; each line
that it reads makes it look once and print a line of JSON; at the end of its input it ends. The word
at index i of the file is i + 1, and ~i is what is stored there: no word is ever zero.
"""

from __future__ import annotations

import json
import mmap
import sys

import numpy as np

from mapscratch import ScratchMap
from mapscratch.proc import count_pages

WORDS_A_PAGE = mmap.PAGESIZE // 8
CHUNK_PAGES = 256


def map_file(path: str, kind: str, length: int) -> mmap.mmap:
    """MAP_PRIVATE, or MAP_SCRATCH by its engine."""
    with open(path, "rb") as file:
        if kind == "private":
            return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
        return ScratchMap(file, length, engine=kind)


def main() -> None:
    """Stores, then answers."""
    path, kind, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
    memory = map_file(path, kind, pages * mmap.PAGESIZE)
    words = np.frombuffer(memory, dtype=np.uint64)
    # Chunk by chunk: the expected words are ordinary memory, of which there is little.
    chunks = [
        slice(first * WORDS_A_PAGE, min(first + CHUNK_PAGES, pages) * WORDS_A_PAGE)
        for first in range(0, pages, CHUNK_PAGES)
    ]
    for chunk in chunks:
        words[chunk] = ~np.arange(chunk.start, chunk.stop, dtype=np.uint64)
    print("ready", flush=True)
    for _ in sys.stdin:
        # Page tables first: to look is to bring back.
        swapped = count_pages(words.ctypes.data, len(memory)).swapped
        file_pages = stored_pages = 0
        for chunk in chunks:
            index = np.arange(chunk.start, chunk.stop, dtype=np.uint64)
            found = words[chunk].copy()
            file_pages += whole_pages(found == index + np.uint64(1))
            stored_pages += whole_pages(found == ~index)
        answer = {
            "swapped": swapped,
            "dropped": file_pages,
            "kept": stored_pages,
            "wrong": pages - file_pages - stored_pages,
        }
        print(json.dumps(answer), flush=True)


def whole_pages(agrees: np.ndarray) -> int:
    """How many pages agree in every word."""
    return int(np.count_nonzero(agrees.reshape(-1, WORDS_A_PAGE).all(axis=1)))


if __name__ == "__main__":
    main()
