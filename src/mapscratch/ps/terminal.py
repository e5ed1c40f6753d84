# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from mapscratch.ps.census import ScratchCensus
from mapscratch.ps.groups import Group, groups
from mapscratch.terminal import printable
from mapscratch.text import counted, size

UNKNOWN = "-"
_LONGEST_COMMAND = 16
_PLURALS = {"map": "maps", "array": "arrays", "cache": "caches", "code": "texts"}
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
        for group in groups(census)
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


def _singles(group: Group) -> Iterator[tuple[Group, str]]:
    for mapping in group.mappings:
        single = Group(group.process, group.kind, group.engine, (mapping,))
        yield single, _cache_name(single) if mapping.kind == "cache" else mapping.name


def _names(group: Group) -> str:
    if group.kind == "cache":
        return _cache_name(group)
    names = sorted({os.path.basename(mapping.name) for mapping in group.mappings})
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _cache_name(group: Group) -> str:
    caches = [mapping.cache for mapping in group.mappings if mapping.cache]
    return (
        f"entries: {sum(cache.entries for cache in caches):,}, "
        f"hits: {sum(cache.hits for cache in caches):,}, "
        f"made: {sum(cache.made for cache in caches):,}, "
        f"lost: {sum(cache.lost for cache in caches):,}"
    )


def _row(group: Group, name: str) -> tuple[str, ...]:
    process, count = group.process, len(group.mappings)
    what = group.kind if count == 1 else f"{count} {_PLURALS[group.kind]}"
    return (
        str(process.pid),
        process.user,
        _printable(process.command)[:_LONGEST_COMMAND],
        what,
        group.engine or UNKNOWN,
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
    return UNKNOWN if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return UNKNOWN if value is None else size(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
