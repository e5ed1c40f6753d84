# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, for Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TypeAlias

from mapscratch.ps.census import ConvertedRun, ScratchCensus, ScratchProcess
from mapscratch.ps.document import any_text
from mapscratch.ps.groups import Group, groups

Samples: TypeAlias = list[tuple[dict[str, str], float | None]]
"""Labels and a value; what isn't known is None and has no sample."""


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    kind: str
    meaning: str
    samples: Callable[[ScratchCensus], Samples]


def prometheus_lines(census: ScratchCensus, seconds: float) -> Iterator[str]:
    """The text exposition format. What isn't known has no sample.

    Args:
        census: what was found.
        seconds: that it took.
    """
    meaning = "What it took to look at all processes."
    took = _Metric("census_seconds", "gauge", meaning, lambda _: [({}, seconds)])
    for metric in (*_METRICS, took):
        yield from _lines(metric, census)


def _lines(metric: _Metric, census: ScratchCensus) -> Iterator[str]:
    known = [(labels, value) for labels, value in metric.samples(census) if value is not None]
    if not known:
        return
    name = f"mapscratch_{metric.name}"
    yield f"# HELP {name} {metric.meaning}"
    yield f"# TYPE {name} {metric.kind}"
    for labels, value in known:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"


def _escaped(text: str) -> str:
    return any_text(text).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


# --- what is told -------------------------------------------------------------------------------


def _of_groups(value: Callable[[Group], float | None]) -> Callable[[ScratchCensus], Samples]:
    return lambda census: [(_group_labels(group), value(group)) for group in groups(census)]


def _sum(name: str) -> Callable[[ScratchCensus], Samples]:
    return _of_groups(lambda group: group.sum(name))


def _total(name: str) -> Callable[[ScratchCensus], Samples]:
    return lambda census: [
        (_labels(process), getattr(process.totals, name))
        for process in census.processes
        if process.totals
    ]


def _of_runs(name: str) -> Callable[[ScratchCensus], Samples]:
    return lambda census: [(_run_labels(run), getattr(run.counts, name)) for run in census.runs]


def _dropped_bytes(group: Group) -> float | None:
    pages = group.sum("dropped_pages")
    return None if pages is None else pages * PAGESIZE


def _cache_entries(group: Group) -> float | None:
    if group.kind != "cache":
        return None
    return sum(one.cache.entries for one in group.mappings if one.cache)


def _labels(process: ScratchProcess) -> dict[str, str]:
    return {"pid": str(process.pid), "command": process.command, "user": process.user}


def _group_labels(group: Group) -> dict[str, str]:
    return {**_labels(group.process), "kind": group.kind, "engine": group.engine or ""}


def _run_labels(run: ConvertedRun) -> dict[str, str]:
    # Two containers may have a file of the same name; a process is of one run only.
    return {"run": run.counts_file, "first_pid": str(run.pids[0])}


_METRICS = (
    _Metric(
        "processes",
        "gauge",
        "Processes that use scratch memory.",
        lambda census: [({}, len(census.processes))],
    ),
    _Metric(
        "unreadable_processes",
        "gauge",
        "Processes of other users that could not be read.",
        lambda census: [({}, census.unreadable)],
    ),
    _Metric(
        "process_readable",
        "gauge",
        "Whether the figures of a process could be read.",
        lambda census: [(_labels(one), 0 if one.problem else 1) for one in census.processes],
    ),
    _Metric(
        "mappings",
        "gauge",
        "Maps, arrays, caches and converted texts.",
        _of_groups(lambda group: len(group.mappings)),
    ),
    *(
        _Metric(name, "gauge", meaning, _sum(name))
        for name, meaning in {
            "bytes": "Addresses of scratch memory.",
            "resident_bytes": "Scratch memory that is in memory.",
            "droppable_bytes": "What the kernel may drop now, without writing it to swap.",
            "dirty_bytes": "Stored to, and not droppable by the kernel now.",
            "swapped_bytes": "Scratch memory in swap.",
            "pinned_bytes": "Pinned by its process.",
        }.items()
    ),
    _Metric(
        "dropped_bytes", "gauge", "Of what is mapped now: gone so far.", _of_groups(_dropped_bytes)
    ),
    _Metric("cache_entries", "gauge", "Entries of caches.", _of_groups(_cache_entries)),
    *(
        _Metric(f"{name}_total", "counter", meaning, _total(name))
        for name, meaning in {
            "filled_pages": "Pages made at page-in.",
            "rebuilt_pages": "Pages made at page-in that had been made before.",
            "fixup_seconds": "Processor time spent on page-in fixups.",
            "cache_hits": "Uses of cache entries that were there.",
            "cache_made": "Cache entries that were made.",
            "cache_lost": "Cache entries that the kernel took.",
        }.items()
    ),
    *(
        _Metric(
            f"run_{name}_total",
            "counter",
            f"Of all processes of a mapscratch run: {meaning}.",
            _of_runs(name),
        )
        for name, meaning in {
            "overlaid": "libraries that ran converted",
            "resolved": "entries bound by ld.so",
            "remembered": "entries bound from memory",
            "patched": "words stored into text, one by one",
            "batched": "words stored into text along with another of their page",
            "dropped": "pages of text dropped",
        }.items()
    ),
)
