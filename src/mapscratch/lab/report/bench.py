# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks found of arrays and of `Cache`, in words: two tables with a column a run.

The files are those of ``bench/results/``, which aren't installed: they are there where the source
is, and elsewhere the user names some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mapscratch.lab.report.charts import Table
from mapscratch.lab.report.documents import Bench
from mapscratch.lab.report.words import TO, digits

_TWICE = "twice the memory limit, as fast as dirty memory with a swapfile, zram, zswap: "
_SWAPS = ("file", "zram", "zswap")
_ARRAYS = (
    ("a fresh sum, as fast as astype of the whole; by processor time", ("scan", "scan_processor")),
    (
        "the same, file not in the page cache; by processor time",
        ("scan_cold_file", "scan_cold_file_processor"),
    ),
    (
        "chunk by chunk, of our time: a fresh sum; file not in the page cache",
        ("scan_chunks", "scan_cold_file_chunks"),
    ),
    *(
        (text, tuple(f"{swap}_{key}" for swap in _SWAPS))
        for text, key in (
            (f"{_TWICE}scans again and again", "scan"),
            (f"{_TWICE}random rows of 4 KiB", "rows"),
            (f"{_TWICE}random single words", "words"),
            ("scans, the file's pages under the limit too", "scan_charged"),
            ("random rows, the file's pages under the limit too", "rows_charged"),
            ("scans chunk by chunk, of our time", "chunks"),
            ("scans by zarr, of our time", "zarr"),
        )
    ),
    ("a fixup by numba, as fast as in C; in Python, in a process of its own", ("numba", "python")),
    (
        "16 readers of 64 MiB, memory of all in MiB: ours; loaded, then forked; the file in chunks",
        ("readers_ours", "readers_forked", "readers_chunks"),
    ),
)
_CACHE = (
    (
        "chunks to decode, twice the memory, as fast as decoding each time: deflate; lzma",
        ("deflate_decode", "lzma_decode"),
    ),
    (
        "the same, as fast as the best size of an lru_cache, found by trying: deflate; lzma",
        ("deflate_best", "lzma_best"),
    ),
    (
        "a hit on 4 KiB, µs more than a dict's: any; by Zipf's law; just used",
        ("hit_4kib_any", "hit_4kib_zipf", "hit_4kib_recent"),
    ),
    (
        "a hit on 1 MiB and its sum, times a dict's: any; by Zipf's law; just used",
        ("hit_1mib_any", "hit_1mib_zipf", "hit_1mib_recent"),
    ),
    ("seconds until a neighbour has half of the memory that the cache held", ("neighbour",)),
)
_TABLES = (("arrays", "Arrays", _ARRAYS), ("cache", "Cache", _CACHE))


def files_of_the_source() -> list[Path]:
    """The results that lie beside this package where it is the source's; none where installed."""
    results = Path(__file__).parents[4] / "bench" / "results"
    return sorted(results.glob("*.json"))


def bench_tables(runs: Sequence[Bench]) -> list[Table]:
    """What each run found; a figure that isn't known here is told by its own name."""
    found = []
    for name, caption, titles in _TABLES:
        told = {f"{name}.{key}" for _, keys in titles for key in keys}
        every = [(text, [f"{name}.{key}" for key in keys]) for text, keys in titles]
        others = {key for run in runs for key in run.figures if key.startswith(f"{name}.")} - told
        every += [(key, [key]) for key in sorted(others)]
        rows = [
            (text, *(_figures(run, keys) for run in runs))
            for text, keys in every
            if any(key in run.figures for run in runs for key in keys)
        ]
        found.append(Table(("what", *map(_title, runs)), rows, caption))
    return [table for table in found if table.rows]


def _title(run: Bench) -> str:
    return ", ".join(filter(None, (run.processor, run.date))) or "a run"


def _figures(run: Bench, keys: Sequence[str]) -> str:
    if not any(key in run.figures for key in keys):
        return "not known"
    return "; ".join(_figure(run.figures.get(key)) for key in keys)


def _figure(value: float | tuple[float, float] | None) -> str:
    if value is None:
        return "not known"
    low, high = value if isinstance(value, tuple) else (value, value)
    return digits(low) if low == high else f"{digits(low)}{TO}{digits(high)}"


def bench_notes(runs: Sequence[Bench]) -> Iterator[str]:
    """Where each run was made, and how."""
    for run in runs:
        kernel = f"Linux {run.kernel}. " if run.kernel else ""
        yield f"{_title(run)}: {kernel}{run.note}".strip()
