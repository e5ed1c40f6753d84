# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, in the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mapscratch.ps.census import Group, ScratchCensus
from mapscratch.terminal import printable
from mapscratch.text import counted, size

_LONGEST_COMMAND = 16
_PLURALS = {"map": "maps", "array": "arrays", "cache": "caches", "code": "texts"}


def ps_lines(
    census: ScratchCensus, *, each: bool = False, named: Sequence[int] = ()
) -> Iterator[str]:
    """The table, with a line for each mapping or for what is alike, and what must be said with it.

    Of processes that were named, it is said if they use no scratch memory.
    """
    found = [group for process in census.processes for group in process.groups()]
    if each:
        found = [replace(group, mappings=(one,)) for group in found for one in group.mappings]
    if found:
        yield from _table(found, each)
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
        yield (
            f"mapscratch run of {counted(len(run.pids), 'process', 'processes')}: "
            f"{run.counts.overlaid:,} libraries converted, {run.counts.resolved:,} entries bound "
            f"by ld.so, {run.counts.remembered:,} from memory, {run.counts.dropped:,} pages dropped"
        )
    if census.unreadable:
        yield _unreadable_line(census.unreadable)


def _unreadable_line(count: int) -> str:
    who = counted(count, "process", "processes")
    if os.geteuid():
        return f"{who} of other users {'was' if count == 1 else 'were'} not readable: run as root"
    has = "it has" if count == 1 else "they have"
    return f"{who} could not be read: {has} rights that root hasn't here"


# --- the table


def _what(group: Group) -> str:
    count = len(group.mappings)
    return group.kind if count == 1 else f"{count} {_PLURALS[group.kind]}"


def _of(name: str, said: Callable[[float], str]) -> Callable[[Group], str]:
    """A sum over the group in words."""

    def cell(group: Group) -> str:
        value = group.sum(name)
        return "-" if value is None else said(value)

    return cell


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _name(group: Group) -> str:
    if group.kind == "cache":
        figures = ("entries", "hits", "made", "lost")
        return ", ".join(f"{name}: {group.cache_sum(name):,}" for name in figures)
    names = sorted({os.path.basename(mapping.name) for mapping in group.mappings})
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


_COLUMNS: dict[str, Callable[[Group], str]] = {
    "PID": lambda group: str(group.process.pid),
    "USER": lambda group: group.process.user,
    "COMMAND": lambda group: _printable(group.process.command)[:_LONGEST_COMMAND],
    "WHAT": _what,
    "ENGINE": lambda group: group.engine or "-",
    "SIZE": _of("bytes", size),
    "RESIDENT": _of("resident_bytes", size),
    "DROPPABLE": _of("droppable_bytes", size),
    "DIRTY": _of("dirty_bytes", size),
    "SWAPPED": _of("swapped_bytes", size),
    "DROPPED": _of("dropped_pages", "{:,}".format),
    "REBUILT": _of("rebuilt_pages", "{:,}".format),
    "FIXUPS": _of("fixup_seconds", _seconds),
    "NAME": _name,
}
_LEFT = {"USER", "COMMAND", "WHAT", "ENGINE", "NAME"}


def _table(found: Sequence[Group], each: bool) -> Iterator[str]:
    columns = []
    for heading, said in _COLUMNS.items():
        whole_name = each and heading == "NAME"
        cells = [_printable(group.mappings[0].name * whole_name or said(group)) for group in found]
        width = max(map(len, (heading, *cells)))
        adjusted = str.ljust if heading in _LEFT else str.rjust
        columns.append([adjusted(cell, width) for cell in (heading, *cells)])
    for line in zip(*columns, strict=True):
        yield "  ".join(line).rstrip()


def _printable(text: str) -> str:
    """Nothing of another process's may steer the terminal."""
    return printable(text).replace("\n", "?")
