# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch doctor` says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mapscratch import EngineStatus
from mapscratch.doctor.answers import Answer
from mapscratch.doctor.diagnosis import Diagnosis
from mapscratch.proc import Availability
from mapscratch.text import mebibytes

NAME = "mapscratch.doctor"
VERSION = 1

_COLUMNS = 100
_INDENT = 24


def ordinary_mapping(diagnosis: Diagnosis) -> str:
    """What an ordinary private mapping gets here."""
    swap = diagnosis.swap
    if swap.kind == "none":
        return (
            "Dirty pages of an ordinary private mapping can't be reclaimed at all here: no swap. "
            "They stay in memory until they are unmapped."
        )
    if diagnosis.swap_forbidden:
        return (
            "Dirty pages of an ordinary private mapping can't be reclaimed at all here: there is "
            f"swap, but {diagnosis.swap_forbidden}."
        )
    if not swap.free:
        return (
            "Dirty pages of an ordinary private mapping can't be reclaimed now: swap "
            f"({swap.title}, {mebibytes(swap.size)}) is full."
        )
    verb = "compressed into memory" if swap.kind == "zram" else "written to swap"
    return (
        f"Dirty pages of an ordinary private mapping are {verb} here, once for every process: "
        f"{swap.title} at {swap.path}, {mebibytes(swap.free)} of {mebibytes(swap.size)} "
        "free in all."
    )


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as text, line by line."""
    yield "What works here"
    for answer in diagnosis.answers:
        yield from _answer_lines(answer)
    yield ""
    yield ordinary_mapping(diagnosis)
    yield ""
    yield "Engines of scratch mappings"
    for engine in diagnosis.engines:
        yield from _engine_lines(engine)
    yield ""
    yield "This machine"
    yield f"  Linux {diagnosis.kernel} ({diagnosis.machine}), {diagnosis.processors} processors"
    yield (
        f"  memory: {mebibytes(diagnosis.memory_bytes)}, of which "
        f"{mebibytes(diagnosis.available_bytes)} can be had"
    )
    yield f"  locked memory (RLIMIT_MEMLOCK): {_locked_limit(diagnosis)}"
    group = diagnosis.cgroup
    yield "  memory control group: " + (
        f"version {group.version}, {group.directory}" if group else "none can be seen from here"
    )
    yield "  pressure stall information: " + (
        "can be watched (/proc/pressure/memory)"
        if diagnosis.pressure_stall
        else "can't be watched (/proc/pressure/memory is not there or not open to this user)"
    )
    yield ""
    yield "What `mapscratch compare` can do here"
    yield _can("--swap file", diagnosis.temporary_swap)
    yield _can("--pressure cgroup", diagnosis.temporary_cgroup)


def _answer_lines(answer: Answer) -> Iterator[str]:
    verdict = "yes" if answer.works else "no"
    yield from _wrapped(f"  {answer.subject:<21} {verdict}: {answer.why.rstrip('.')}.")
    if answer.remedy:
        yield from _wrapped(f"{'':<{_INDENT}}{answer.remedy.rstrip('.')}.")


def _wrapped(text: str) -> list[str]:
    indent = " " * _INDENT
    return textwrap.wrap(
        text, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def _engine_lines(engine: EngineStatus) -> Iterator[str]:
    yield f"  {engine.name:<9} {'runs' if engine.available else 'does not run'}: {engine.reason}"
    if engine.remedy:
        yield f"            {engine.remedy}"


def _locked_limit(diagnosis: Diagnosis) -> str:
    limit = diagnosis.locked_limit
    if limit is None:
        return "no limit"
    return f"{mebibytes(limit)} a process (`ulimit -l`): what pin() and dontneed can lock"


def _can(option: str, availability: Availability) -> str:
    return f"  {option:<18} {'yes' if availability else 'no'}: {availability.reason}"


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for programs; the names are those of `Diagnosis`."""
    fields = asdict(diagnosis)
    group = diagnosis.cgroup
    fields["cgroup"] = (
        {"version": group.version, "path": group.path, "directory": str(group.directory)}
        if group
        else None
    )
    return {
        "document": NAME,
        "version": VERSION,
        "ordinary_mapping": ordinary_mapping(diagnosis),
        **fields,
    }
