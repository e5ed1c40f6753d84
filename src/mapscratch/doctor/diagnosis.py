# SPDX-License-Identifier: Apache-2.0
"""What works on this machine, what ordinary mappings get, which engines run; nothing is changed."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from mapscratch import EngineStatus, engines
from mapscratch.doctor.answers import Answer, ask
from mapscratch.lab.rig.machine import probe_temporary_memory_cgroup, probe_temporary_swap
from mapscratch.lab.rig.results import SwapDescription
from mapscratch.lab.rig.surroundings import describe_swap
from mapscratch.proc import Availability, MemoryCgroup, memory_cgroup, read_meminfo


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
    if group.version == 1:
        # v1: a swappiness of 0 keeps anonymous pages in memory (cgroup-v1/memory.rst, 5.3).
        file = group.directory / "memory.swappiness"
        return f"{file} is 0" if _text(file) == "0" else ""
    for directory in (group.directory, *group.directory.parents):
        if not directory.is_relative_to(group.mount):
            break
        if _text(directory / "memory.swap.max") == "0":
            return f"{directory / 'memory.swap.max'} is 0"
    return ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
