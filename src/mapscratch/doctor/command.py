# SPDX-License-Identifier: Apache-2.0
"""Say whether arrays and caches work here, and if not, why, and what to do.

Each is tried. Then come the details: what an ordinary private mapping gets, which engines of
scratch mappings run and what to do about the others, the machine. Nothing is changed.

Examples:
  mapscratch doctor
  mapscratch doctor --json | jq .answers
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mapscratch import EngineStatus, engines
from mapscratch.doctor.answers import Answer, ask
from mapscratch.lab.rig.machine.cgroups import probe_temporary_memory_cgroup
from mapscratch.lab.rig.machine.swap import probe_temporary_swap
from mapscratch.lab.rig.results import SwapDescription
from mapscratch.lab.rig.surroundings import describe_swap
from mapscratch.proc import Availability, MemoryCgroup, memory_cgroup, read_meminfo
from mapscratch.text import mebibytes

HELP = "do arrays and caches work here, and what to do if not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    diagnosis = diagnose()
    if arguments.json:
        print(json.dumps(diagnosis_document(diagnosis), indent=2))
    else:
        print("\n".join(diagnosis_lines(diagnosis)))
    return 0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is here; the document for programs has the same names."""

    answers: tuple[Answer, ...]  # whether arrays, system calls with them and caches work
    kernel: str  # its release
    machine: str  # its architecture
    processors: int  # that this process may use
    memory_bytes: int  # of the machine
    available_bytes: int  # of it, what can be had without swapping
    user: int  # the effective user's number
    swap: SwapDescription
    swap_forbidden: str  # why this process's pages aren't swapped although there is swap; or empty
    engines: tuple[EngineStatus, ...]
    locked_limit: int | None  # RLIMIT_MEMLOCK, the soft limit in bytes; None for no limit
    cgroup: MemoryCgroup | None  # of memory; None if none can be seen
    pressure_stall: bool  # whether this process may watch the machine's pressure stall information
    temporary_swap: Availability  # for `mapscratch compare --swap file`
    temporary_cgroup: Availability  # for `mapscratch compare --pressure cgroup`


def diagnose() -> Diagnosis:
    """Looks at everything."""
    memory = read_meminfo()
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    group = memory_cgroup()
    name = os.uname()
    return Diagnosis(
        answers=ask(),
        kernel=name.release,
        machine=name.machine,
        processors=len(os.sched_getaffinity(0)),
        memory_bytes=memory.total,
        available_bytes=memory.available,
        user=os.geteuid(),
        swap=describe_swap(),
        swap_forbidden=_swap_forbidden(group),
        engines=tuple(engines()),
        locked_limit=None if limit == resource.RLIM_INFINITY else limit,
        cgroup=group,
        pressure_stall=os.access("/proc/pressure/memory", os.R_OK | os.W_OK),
        temporary_swap=probe_temporary_swap("file", 64 << 20),
        temporary_cgroup=probe_temporary_memory_cgroup(),
    )


def _swap_forbidden(group: MemoryCgroup | None) -> str:
    """Why a control group keeps its processes' pages out of swap; empty if it doesn't."""
    if group is None:
        return ""
    # v1: a swappiness of 0 keeps anonymous pages in memory (cgroup-v1/memory.rst, 5.3).
    files = [group.directory / "memory.swappiness"]
    if group.version == 2:
        groups = (group.directory, *group.directory.parents)
        files = [one / "memory.swap.max" for one in groups if one.is_relative_to(group.mount)]
    for file in files:
        with suppress(OSError):
            if file.read_text().strip() == "0":
                return f"{file} is 0"
    return ""


def ordinary_mapping(diagnosis: Diagnosis) -> str:
    """What an ordinary private mapping gets here."""
    swap = diagnosis.swap
    subject = "Dirty pages of an ordinary private mapping"
    size = mebibytes(swap.size)
    refusal = ""
    if swap.kind == "none":
        refusal = "at all here: no swap. They stay in memory until they are unmapped"
    elif diagnosis.swap_forbidden:
        refusal = f"at all here: there is swap, but {diagnosis.swap_forbidden}"
    elif not swap.free:
        refusal = f"now: swap ({swap.title}, {size}) is full"
    if refusal:
        return f"{subject} can't be reclaimed {refusal}."
    verb = "compressed into memory" if swap.kind == "zram" else "written to swap"
    return (
        f"{subject} are {verb} here, once for every process: {swap.title} at {swap.path}, "
        f"{mebibytes(swap.free)} of {size} free in all."
    )


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as text, line by line."""
    yield "What works here"
    indent = " " * 24
    wrapper = textwrap.TextWrapper(
        100, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
    for answer in diagnosis.answers:
        works = "yes" if answer.works else "no"
        told = [f"  {answer.subject:<21} {works}: {answer.why}", f"{indent}{answer.remedy}"]
        for text in told if answer.remedy else told[:1]:
            yield from wrapper.wrap(text.rstrip(".") + ".")
    yield from ("", ordinary_mapping(diagnosis), "", "Engines of scratch mappings")
    for engine in diagnosis.engines:
        runs = "runs" if engine.available else "does not run"
        yield f"  {engine.name:<9} {runs}: {engine.reason}"
        if engine.remedy:
            yield f"            {engine.remedy}"
    yield from ("", "This machine")
    yield f"  Linux {diagnosis.kernel} ({diagnosis.machine}), {diagnosis.processors} processors"
    total, available = mebibytes(diagnosis.memory_bytes), mebibytes(diagnosis.available_bytes)
    yield f"  memory: {total}, of which {available} can be had"
    limit = "no limit"
    if diagnosis.locked_limit is not None:
        size = mebibytes(diagnosis.locked_limit)
        limit = f"{size} a process (`ulimit -l`): what pin() and dontneed can lock"
    yield f"  locked memory (RLIMIT_MEMLOCK): {limit}"
    group = diagnosis.cgroup
    yield "  memory control group: " + (
        f"version {group.version}, {group.directory}" if group else "none can be seen from here"
    )
    yield "  pressure stall information: " + (
        "can be watched (/proc/pressure/memory)"
        if diagnosis.pressure_stall
        else "can't be watched (/proc/pressure/memory is not there or not open to this user)"
    )
    yield from ("", "What `mapscratch compare` can do here")
    for option, probe in (
        ("--swap file", diagnosis.temporary_swap),
        ("--pressure cgroup", diagnosis.temporary_cgroup),
    ):
        yield f"  {option:<18} {'yes' if probe else 'no'}: {probe.reason}"


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for programs; the names are those of `Diagnosis`."""
    document = {
        "document": "mapscratch.doctor",
        "version": 1,
        "ordinary_mapping": ordinary_mapping(diagnosis),
        **asdict(diagnosis),
    }
    if diagnosis.cgroup:
        del document["cgroup"]["mount"]
        document["cgroup"]["directory"] = str(diagnosis.cgroup.directory)
    return document
