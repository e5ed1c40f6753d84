# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks found of arrays and of `Cache`, in words: two tables with a column a run.

The files are those of ``bench/results/``, which aren't installed: they are there where the source
is, and elsewhere the user names some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mapscratch.lab.report.documents import Bench
from mapscratch.lab.report.words import digits, ranged

_TWICE = "twice the memory limit, as fast as dirty memory with a swapfile, zram, zswap: "
_SQUEEZED = {
    "scan": f"{_TWICE}scans again and again",
    "rows": f"{_TWICE}random rows of 4 KiB",
    "words": f"{_TWICE}random single words",
    "scan_charged": "scans, the file's pages under the limit too",
    "rows_charged": "random rows, the file's pages under the limit too",
    "chunks": "scans chunk by chunk, of our time",
    "zarr": "scans by zarr, of our time",
}
_ARRAYS = {
    "scan scan_processor": "a fresh sum, as fast as astype of the whole; by processor time",
    "scan_cold_file scan_cold_file_processor": "the same, file not cached; by processor time",
    "scan_chunks scan_cold_file_chunks": "chunk by chunk, of our time: a sum; file not cached",
    **{f"file_{key} zram_{key} zswap_{key}": text for key, text in _SQUEEZED.items()},
    "numba python": "a fixup by numba, as fast as in C; in Python, in a process of its own",
    "readers_ours readers_forked readers_chunks": "16 readers of 64 MiB, memory of all in MiB: "
    "ours; loaded, then forked; the file in chunks",
}
_CACHE = {
    "deflate_decode lzma_decode": "chunks to decode, twice the memory, as fast as decoding each "
    "time: deflate; lzma",
    "deflate_best lzma_best": "the same, as fast as the best size of an lru_cache: deflate; lzma",
    "deflate_best_processor lzma_best_processor": "the same by processor time",
    "hit_4kib_any hit_4kib_zipf hit_4kib_recent": "a hit on 4 KiB, µs more than a dict's: any; by "
    "Zipf's law; just used",
    "hit_1mib_any hit_1mib_zipf hit_1mib_recent": "a hit on 1 MiB and its sum, times a dict's: "
    "any; by Zipf's law; just used",
    "hit_1mib_any_alone hit_1mib_zipf_alone hit_1mib_recent_alone": "the hit alone, µs more than a "
    "dict's",
    "entry_4096 entry_64": "bytes that an entry of 4 KiB takes beside its own; one of 64",
    "array": "a CachedArray's 4 chunks of 1 MiB, times NumPy's copy",
    "neighbour": "seconds until a neighbour has half of the memory that the cache held",
}


def files_of_the_source() -> list[Path]:
    """The results that lie beside this package where it is the source's; none where installed."""
    results = Path(__file__).parents[4] / "bench" / "results"
    return sorted(results.glob("*.json"))


def bench_tables(runs: Sequence[Bench]) -> dict[str, list[list[str]]]:
    """What each run found, by caption; a figure that isn't known here is told by its own name."""
    titles = {"Arrays": _ARRAYS, "Cache": _CACHE}
    found = {name: list(_rows(runs, f"{name.lower()}.", titles[name])) for name in titles}
    return {caption: rows for caption, rows in found.items() if rows}


def _rows(runs: Sequence[Bench], prefix: str, titles: Mapping[str, str]) -> Iterator[list[str]]:
    every = {text: [prefix + key for key in keys.split()] for keys, text in titles.items()}
    told = {key for keys in every.values() for key in keys}
    others = {key for run in runs for key in run.figures if key.startswith(prefix)} - told
    for text, keys in (every | {key: [key] for key in sorted(others)}).items():
        if any(key in run.figures for run in runs for key in keys):
            yield [text, *(_figures(run, keys) for run in runs)]


def _figures(run: Bench, keys: Sequence[str]) -> str:
    known = any(key in run.figures for key in keys)
    return "; ".join(_figure(run.figures.get(key)) for key in keys) if known else "not known"


def _figure(value: float | tuple[float, float] | None) -> str:
    if value is None:
        return "not known"
    low, high = value if isinstance(value, tuple) else (value, value)
    return ranged(digits(low), digits(high))
