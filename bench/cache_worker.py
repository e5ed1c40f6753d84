# SPDX-License-Identifier: Apache-2.0
"""One cache of `cache.py`, in a process of its own: it does what it reads, and answers in JSON.

Arguments: the way (`ours`, `decode`, or with N entries `lru-N`, `tinylfu-N`, cachetools' `lfu-N`),
the codec, how many chunks.
"""

from __future__ import annotations

import functools
import itertools
import json
import lzma
import sys
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import cachetools
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
            return {"held": stats.bytes_held, "hits": stats.hits, "made": stats.made}

        def decode_there(key: int) -> Any:
            return decode(codec, key, cache.empty(ITEMS, "f4"))

        return cache.memoize(decode_there), facts
    decode_here = functools.partial(decode, codec)
    if name == "decode":
        return decode_here, dict
    kind, _, size = name.partition("-")
    if kind == "lru":
        kept = functools.lru_cache(int(size))(decode_here)
        return kept, lambda: {"hits": kept.cache_info().hits, "made": kept.cache_info().misses}
    policy = TinyLFU(int(size)) if kind == "tinylfu" else cachetools.LFUCache(int(size))
    return counted(policy, decode_here)


def counted(
    policy: MutableMapping[int, Any], make: Callable[[int], Any]
) -> tuple[Callable[[int], Any], Callable[[], dict[str, int]]]:
    """A cache by some policy, and its hits."""
    counts = {"hits": 0, "made": 0}

    def get(key: int) -> Any:
        try:
            value = policy[key]
            counts["hits"] += 1
        except KeyError:
            counts["made"] += 1
            value = policy[key] = make(key)
        return value

    return get, lambda: counts


class TinyLFU(MutableMapping[int, Any]):
    """W-TinyLFU (Einziger and others, 2017), with exact counts in place of a sketch.

    New ones go through a window of 1 %. What leaves it takes the place of what was used least
    lately in the probation part of the rest only if it was asked for more often. All counts are
    halved each ten times as many uses as there are entries.
    """

    def __init__(self, size: int) -> None:
        self._window_size = max(1, size // 100)
        self._main_size = size - self._window_size
        self._protected_size = int(self._main_size * 0.8)
        self._window: OrderedDict[int, Any] = OrderedDict()
        self._probation: OrderedDict[int, Any] = OrderedDict()
        self._protected: OrderedDict[int, Any] = OrderedDict()
        self._counts: Counter[int] = Counter()
        self._uses = 0

    def __getitem__(self, key: int) -> Any:
        self._uses += 1
        self._counts[key] = min(self._counts[key] + 1, 15)
        if self._uses % (10 * (self._window_size + self._main_size)) == 0:
            self._counts = Counter({key: count // 2 for key, count in self._counts.items()})
        for part in (self._window, self._protected):
            if key in part:
                part.move_to_end(key)
                return part[key]
        value = self._protected[key] = self._probation.pop(key)
        if len(self._protected) > self._protected_size:
            oldest, kept = self._protected.popitem(last=False)
            self._probation[oldest] = kept
        return value

    def __setitem__(self, key: int, value: Any) -> None:
        self._window[key] = value
        if len(self._window) <= self._window_size:
            return
        candidate, kept = self._window.popitem(last=False)
        if len(self._probation) + len(self._protected) >= self._main_size:
            part = self._probation or self._protected
            victim = next(iter(part))
            if self._counts[candidate] <= self._counts[victim]:
                return
            del part[victim]
        self._probation[candidate] = kept

    def __delitem__(self, key: int) -> None:
        for part in (self._window, self._probation, self._protected):
            part.pop(key, None)

    def __iter__(self) -> Iterator[int]:
        return itertools.chain(self._window, self._probation, self._protected)

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)


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
