# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, for Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from mmap import PAGESIZE

from mapscratch.ps.census import ScratchCensus
from mapscratch.ps.document import any_text

_SUMS = {
    "bytes": "Addresses of scratch memory.",
    "resident_bytes": "Scratch memory that is in memory.",
    "droppable_bytes": "What the kernel may drop now, without writing it to swap.",
    "dirty_bytes": "Stored to, and not droppable by the kernel now.",
    "swapped_bytes": "Scratch memory in swap.",
    "pinned_bytes": "Pinned by its process.",
}
_MEANINGS = {
    "processes": "Processes that use scratch memory.",
    "unreadable_processes": "Processes of other users that could not be read.",
    "process_readable": "Whether the figures of a process could be read.",
    "mappings": "Maps, arrays, caches and converted texts.",
    **_SUMS,
    "dropped_bytes": "Of what is mapped now: gone so far.",
    "cache_entries": "Entries of caches.",
    "filled_pages_total": "Pages made at page-in.",
    "rebuilt_pages_total": "Pages made at page-in that had been made before.",
    "fixup_seconds_total": "Processor time spent on page-in fixups.",
    "cache_hits_total": "Uses of cache entries that were there.",
    "cache_made_total": "Cache entries that were made.",
    "cache_lost_total": "Cache entries that the kernel took.",
    **{
        f"run_{name}_total": f"Of all processes of a mapscratch run: {meaning}."
        for name, meaning in {
            "overlaid": "libraries that ran converted",
            "resolved": "entries bound by ld.so",
            "remembered": "entries bound from memory",
            "patched": "words stored into text, one by one",
            "batched": "words stored into text along with another of their page",
            "dropped": "pages of text dropped",
        }.items()
    },
    "census_seconds": "What it took to look at all processes.",
}
"""All metrics, in their order. What ends in ``_total`` is a counter, all others are gauges."""


def prometheus_lines(census: ScratchCensus, seconds: float) -> Iterator[str]:
    """The text exposition format, of a census that took some seconds."""
    samples = defaultdict(list)
    for name, labels, value in _samples(census, seconds):
        if value is not None:  # What isn't known has no sample.
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            braced = f"{{{pairs}}}" if pairs else ""
            samples[name].append(f"mapscratch_{name}{braced} {value}")
    for name, meaning in _MEANINGS.items():
        if name in samples:
            yield f"# HELP mapscratch_{name} {meaning}"
            yield f"# TYPE mapscratch_{name} {'counter' if name.endswith('_total') else 'gauge'}"
            yield from samples[name]


def _samples(
    census: ScratchCensus, seconds: float
) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """Names, labels and values; those of which `_MEANINGS` has no name are not told."""
    yield "census_seconds", {}, seconds
    yield "processes", {}, len(census.processes)
    yield "unreadable_processes", {}, census.unreadable
    for process in census.processes:
        labels = {"pid": str(process.pid), "command": process.command, "user": process.user}
        yield "process_readable", labels, 0 if process.problem else 1
        totals = asdict(process.totals) if process.totals else {}
        yield from ((f"{name}_total", labels, value) for name, value in totals.items())
        for group in process.groups():
            of_group = {**labels, "kind": group.kind, "engine": group.engine or ""}
            dropped = group.sum("dropped_pages")
            yield "mappings", of_group, len(group.mappings)
            yield "dropped_bytes", of_group, None if dropped is None else dropped * PAGESIZE
            yield "cache_entries", of_group, group.cache_sum("entries")
            yield from ((name, of_group, group.sum(name)) for name in _SUMS)
    for run in census.runs:
        # Two containers may have a file of the same name; a process is of one run only.
        labels = {"run": run.counts_file, "first_pid": str(run.pids[0])}
        counts = asdict(run.counts)
        yield from ((f"run_{name}_total", labels, value) for name, value in counts.items())


def _escaped(text: str) -> str:
    return any_text(text).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
