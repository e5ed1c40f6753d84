# SPDX-License-Identifier: Apache-2.0
"""One cache of `cache.py`, in a process of its own: it does what it reads, and answers in JSON.

Arguments: the way (`ours`, `decode`, or `lru-N` with N entries), the codec, how many chunks.
"""

from __future__ import annotations

import functools
import json
import lzma
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

import mapscratch

ITEMS = 1 << 18  # of a chunk: a mebibyte of float32
SKEW = 1.1  # of Zipf's law


CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "deflate": (zlib.compress, zlib.decompress),
    "lzma": (functools.partial(lzma.compress, preset=1), lzma.decompress),
}


@functools.cache
def packed(codec: str) -> bytes:
    """A chunk as a file would hold it: 16-bit samples of something smooth, compressed."""
    steps = np.random.default_rng(0).integers(-40, 41, ITEMS)
    return CODECS[codec][0](np.cumsum(steps).astype(">i2").tobytes())


def decode(codec: str, key: int, into: Any = None) -> Any:
    """A chunk's samples as floats, the first of them the key."""
    values = np.empty(ITEMS, "f4") if into is None else into
    values[:] = np.frombuffer(CODECS[codec][1](packed(codec)), ">i2")
    values[0] = key
    return values


def way(name: str, codec: str) -> tuple[Callable[[int], Any], Callable[[], dict[str, int]]]:
    """How a chunk is had, and what can be said of the cache."""
    if name == "ours":
        cache = mapscratch.Cache()

        def facts() -> dict[str, int]:
            stats = cache.stats()
            return {
                "held": stats.bytes_held,
                "hits": stats.hits,
                "made": stats.made,
                "lost": stats.lost,
                "evicted": stats.evicted,
                "split": stats.bytes_split,
                "wasted": stats.bytes_wasted,
            }

        def decode_there(key: int) -> Any:
            return decode(codec, key, cache.empty(ITEMS, "f4"))

        return cache.memoize(decode_there), facts
    decode_here = functools.partial(decode, codec)
    if name == "decode":
        return decode_here, dict
    kept = functools.lru_cache(int(name.removeprefix("lru-")))(decode_here)
    return kept, lambda: {"hits": kept.cache_info().hits, "made": kept.cache_info().misses}


def keys_of(seed: int, uses: int, chunks: int) -> list[int]:
    """A skewed stream of keys, all different chunks in it; the popular ones lie anywhere."""
    shares = 1 / np.arange(1, chunks + 1) ** SKEW
    random = np.random.default_rng(seed)
    ranks = random.choice(chunks, uses, p=shares / shares.sum())
    places = np.random.default_rng(1).permutation(chunks)
    return [int(key) for key in places[ranks]]


def main() -> None:
    get, facts = way(sys.argv[1], sys.argv[2])
    chunks = int(sys.argv[3])
    packed(sys.argv[2])
    for line in sys.stdin:
        seed, uses = (int(word) for word in line.split())
        keys = keys_of(seed, uses, chunks)
        started, processor = time.perf_counter(), time.process_time()
        for key in keys:
            value = get(key)
            if value[0] != key or not value[-1000:].sum():
                raise SystemExit(f"chunk {key} is wrong")
        spent = time.perf_counter() - started
        processor = time.process_time() - processor
        print(json.dumps({"seconds": spent, "processor": processor, **facts()}), flush=True)


if __name__ == "__main__":
    main()
