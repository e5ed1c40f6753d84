# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory: in the terminal, as a document, and for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from mmap import PAGESIZE
from typing import Any

from mapscratch.documents import Document, document_head
from mapscratch.ps.census import ConvertedRun, ScratchCensus, ScratchMapping, ScratchProcess
from mapscratch.terminal import printable
from mapscratch.text import counted, size

NAME = "mapscratch.ps"
VERSION = 1

_UNKNOWN = "-"
_LONGEST_COMMAND = 16
_PLURALS = {"map": "maps", "array": "arrays", "cache": "caches", "code": "texts"}


# --- for programs -------------------------------------------------------------------------------


def ps_document(census: ScratchCensus, created: datetime, seconds: float) -> Document:
    """The document of a census: nothing but what JSON has; what can't be known is null.

    Args:
        census: what was found.
        created: when, with a time zone.
        seconds: that it took.
    """
    return {
        **document_head(NAME, VERSION, created),
        "seconds": seconds,
        "processes": [_process_document(process) for process in census.processes],
        "runs": [
            {
                "counts_file": _text(run.counts_file),
                "pids": list(run.pids),
                "counts": asdict(run.counts),
            }
            for run in census.runs
        ],
        "unreadable": census.unreadable,
    }


def _process_document(process: ScratchProcess) -> Document:
    mappings = [asdict(mapping) for mapping in process.mappings]
    for mapping in mappings:
        mapping["name"] = _text(mapping["name"])
    return {
        "pid": process.pid,
        "command": _text(process.command),
        "user": process.user,
        "readable": process.problem is None,
        "problem": process.problem,
        "mappings": mappings,
        "unlisted": process.unlisted,
        "totals": asdict(process.totals) if process.totals else None,
    }


def _text(name: str) -> str:
    """A name of the file system, or of a process: any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


# --- groups -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """What is alike of a process: summed, where all of it is known."""

    process: ScratchProcess
    kind: str
    engine: str | None
    mappings: tuple[ScratchMapping, ...]

    def sum(self, name: str) -> Any:
        values = [getattr(mapping, name) for mapping in self.mappings]
        return None if None in values else sum(values)


def _groups(census: ScratchCensus) -> Iterator[_Group]:
    for process in census.processes:
        alike: dict[tuple[str, str | None], list[ScratchMapping]] = {}
        for mapping in process.mappings:
            alike.setdefault((mapping.kind, mapping.engine), []).append(mapping)
        for (kind, engine), mappings in alike.items():
            yield _Group(process, kind, engine, tuple(mappings))


# --- in the terminal ----------------------------------------------------------------------------

_HEADINGS = (
    "PID",
    "USER",
    "COMMAND",
    "WHAT",
    "ENGINE",
    "SIZE",
    "RESIDENT",
    "DROPPABLE",
    "DIRTY",
    "SWAPPED",
    "DROPPED",
    "REBUILT",
    "FIXUPS",
    "NAME",
)
_LEFT = {"USER", "COMMAND", "WHAT", "ENGINE", "NAME"}


def ps_lines(
    census: ScratchCensus, *, each: bool = False, named: Sequence[int] = ()
) -> Iterator[str]:
    """The table, and what must be said with it.

    Args:
        census: what was found.
        each: a line for each mapping; else one for all of a process that are alike.
        named: the processes that were asked for; none for all.
    """
    rows = [
        _row(group, name)
        for group in _groups(census)
        for group, name in (_singles(group) if each else [(group, _names(group))])
    ]
    if rows:
        yield from _table(rows)
    elif not named:
        yield "No process with scratch memory was found."
    users = {process.pid for process in census.processes if process.mappings or process.problem}
    for pid in sorted(set(named) - users):
        yield f"Process {pid} uses no scratch memory."
    for process in census.processes:
        who = f"{process.pid} ({_printable(process.command)})"
        if process.problem:
            yield f"{who}: {process.problem}"
        if process.unlisted:
            yield f"{who}: {process.unlisted} more, for which there is no place or no sense"
    for run in census.runs:
        processes = counted(len(run.pids), "process", "processes")
        yield (
            f"mapscratch run of {processes}: {run.counts.overlaid:,} "
            f"libraries converted, {run.counts.resolved:,} entries bound by ld.so, "
            f"{run.counts.remembered:,} from memory, {run.counts.dropped:,} pages dropped"
        )
    if census.unreadable:
        yield _unreadable_line(census.unreadable)


def _unreadable_line(count: int) -> str:
    who = counted(count, "process", "processes")
    if os.geteuid():
        return f"{who} of other users {'was' if count == 1 else 'were'} not readable: run as root"
    has = "it has" if count == 1 else "they have"
    return f"{who} could not be read: {has} rights that root hasn't here"


def _singles(group: _Group) -> Iterator[tuple[_Group, str]]:
    for mapping in group.mappings:
        single = _Group(group.process, group.kind, group.engine, (mapping,))
        yield single, _cache_name(single) if mapping.kind == "cache" else mapping.name


def _names(group: _Group) -> str:
    if group.kind == "cache":
        return _cache_name(group)
    names = sorted({os.path.basename(mapping.name) for mapping in group.mappings})
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _cache_name(group: _Group) -> str:
    caches = [mapping.cache for mapping in group.mappings if mapping.cache]
    return (
        f"entries: {sum(cache.entries for cache in caches):,}, "
        f"hits: {sum(cache.hits for cache in caches):,}, "
        f"made: {sum(cache.made for cache in caches):,}, "
        f"lost: {sum(cache.lost for cache in caches):,}"
    )


def _row(group: _Group, name: str) -> tuple[str, ...]:
    process, count = group.process, len(group.mappings)
    what = group.kind if count == 1 else f"{count} {_PLURALS[group.kind]}"
    return (
        str(process.pid),
        process.user,
        _printable(process.command)[:_LONGEST_COMMAND],
        what,
        group.engine or _UNKNOWN,
        *(
            _size(group.sum(f"{column}_bytes" if column else "bytes"))
            for column in ("", "resident", "droppable", "dirty", "swapped")
        ),
        _number(group.sum("dropped_pages")),
        _number(group.sum("rebuilt_pages")),
        _seconds(group.sum("fixup_seconds")),
        _printable(name),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    lines = [_HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.ljust(width) if heading in _LEFT else cell.rjust(width)
            for cell, width, heading in zip(line, widths, _HEADINGS, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _printable(text: str) -> str:
    """Nothing of another process's may steer the terminal."""
    return printable(text).replace("\n", "?")


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return _UNKNOWN if value is None else size(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


# --- for Prometheus -----------------------------------------------------------------------------
# https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format"

_Sample = tuple[dict[str, str], float | None]


def prometheus_lines(census: ScratchCensus, seconds: float) -> Iterator[str]:
    """The text exposition format. What isn't known has no sample.

    Args:
        census: what was found.
        seconds: that it took.
    """
    groups = list(_groups(census))
    counted = [process for process in census.processes if process.totals]

    def of_groups(value: Callable[[_Group], float | None]) -> list[_Sample]:
        return [(_group_labels(group), value(group)) for group in groups]

    def of_processes(name: str) -> list[_Sample]:
        return [(_labels(process), getattr(process.totals, name)) for process in counted]

    yield from _metric(
        "processes", "gauge", "Processes that use scratch memory.", [({}, len(census.processes))]
    )
    yield from _metric(
        "unreadable_processes",
        "gauge",
        "Processes of other users that could not be read.",
        [({}, census.unreadable)],
    )
    yield from _metric(
        "process_readable",
        "gauge",
        "Whether the figures of a process could be read.",
        [(_labels(one), 0 if one.problem else 1) for one in census.processes],
    )
    yield from _metric(
        "mappings",
        "gauge",
        "Maps, arrays, caches and converted texts.",
        of_groups(lambda group: len(group.mappings)),
    )
    for name, meaning in (
        ("bytes", "Addresses of scratch memory."),
        ("resident_bytes", "Scratch memory that is in memory."),
        ("droppable_bytes", "What the kernel may drop now, without writing it to swap."),
        ("dirty_bytes", "Stored to, and not droppable by the kernel now."),
        ("swapped_bytes", "Scratch memory in swap."),
        ("pinned_bytes", "Pinned by its process."),
    ):
        yield from _metric(name, "gauge", meaning, of_groups(lambda group, n=name: group.sum(n)))  # type: ignore[misc]
    yield from _metric(
        "dropped_bytes",
        "gauge",
        "Of what is mapped now: gone so far.",
        of_groups(
            lambda group: (
                None if (pages := group.sum("dropped_pages")) is None else pages * PAGESIZE
            )
        ),
    )
    yield from _metric(
        "cache_entries",
        "gauge",
        "Entries of caches.",
        [
            (_group_labels(group), sum(one.cache.entries for one in group.mappings if one.cache))
            for group in groups
            if group.kind == "cache"
        ],
    )
    for name, field, meaning in (
        ("filled_pages_total", "filled_pages", "Pages made at page-in."),
        (
            "rebuilt_pages_total",
            "rebuilt_pages",
            "Pages made at page-in that had been made before.",
        ),
        ("fixup_seconds_total", "fixup_seconds", "Processor time spent on page-in fixups."),
        ("cache_hits_total", "cache_hits", "Uses of cache entries that were there."),
        ("cache_made_total", "cache_made", "Cache entries that were made."),
        ("cache_lost_total", "cache_lost", "Cache entries that the kernel took."),
    ):
        yield from _metric(name, "counter", meaning, of_processes(field))
    for name in ("overlaid", "resolved", "remembered", "patched", "batched", "dropped"):
        yield from _metric(
            f"run_{name}_total",
            "counter",
            f"Of all processes of a mapscratch run: {_RUN_MEANINGS[name]}.",
            [(_run_labels(run), getattr(run.counts, name)) for run in census.runs],
        )
    yield from _metric(
        "census_seconds", "gauge", "What it took to look at all processes.", [({}, seconds)]
    )


_RUN_MEANINGS = {
    "overlaid": "libraries that ran converted",
    "resolved": "entries bound by ld.so",
    "remembered": "entries bound from memory",
    "patched": "words stored into text, one by one",
    "batched": "words stored into text along with another of their page",
    "dropped": "pages of text dropped",
}


def _run_labels(run: ConvertedRun) -> dict[str, str]:
    # Two containers may have a file of the same name; a process is of one run only.
    return {"run": run.counts_file, "first_pid": str(run.pids[0])}


def _labels(process: ScratchProcess) -> dict[str, str]:
    return {"pid": str(process.pid), "command": process.command, "user": process.user}


def _group_labels(group: _Group) -> dict[str, str]:
    return {**_labels(group.process), "kind": group.kind, "engine": group.engine or ""}


def _metric(name: str, kind: str, meaning: str, samples: Iterable[_Sample]) -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    yield f"# HELP mapscratch_{name} {meaning}"
    yield f"# TYPE mapscratch_{name} {kind}"
    for labels, value in known:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"mapscratch_{name}{{{pairs}}} {value}" if pairs else f"mapscratch_{name} {value}"


def _escaped(text: str) -> str:
    return _text(text).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
