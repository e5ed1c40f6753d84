# SPDX-License-Identifier: Apache-2.0
"""The memory control group that a process is in.

The kernel's ``Documentation/admin-guide/cgroup-v1/memory.rst`` and ``cgroup-v2.rst`` ("Memory
Interface Files") define the files; cgroups(7) the lines of ``/proc/PID/cgroup``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mapscratch.proc.procfs import Pid, process_file, read_text, unescaped

LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
"""Of a group's directory, by the version of control groups."""

_UNLIMITED = 1 << 62  # version 1 says a number a little below 2**63


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """The memory control group that a process is in.

    Attributes:
        version: of the control groups that the memory controller is in.
        path: of the group in its hierarchy, as ``/proc/PID/cgroup`` has it.
        mount: where the hierarchy is mounted.
        directory: of the group's files.
    """

    version: Literal[1, 2]
    path: str
    mount: Path
    directory: Path


def memory_cgroup(pid: Pid = "self") -> MemoryCgroup | None:
    """The memory control group of a process; None if no memory controller can be seen from here.

    Raises:
        ValueError: not a process id.
        ProcessLookupError: there is no such process.
    """
    try:
        membership = read_text(process_file(pid, "cgroup"))
    except (FileNotFoundError, ProcessLookupError):
        if pid == "self" or os.path.exists(process_file(pid, "")):  # as without /proc
            return None
        raise no_such_process(pid) from None
    return _memory_cgroup(membership, read_text("/proc/self/mountinfo"))


def memory_limit(pid: Pid = "self") -> int | None:
    """The bytes that a process' group may have, or one that it is in; None: there is no limit.

    A group whose files can't be read has none that is known.
    """
    try:
        group = memory_cgroup(pid)
    except OSError:
        return None
    if group is None:
        return None
    limits = []
    for directory in (group.directory, *group.directory.parents):
        with suppress(OSError, ValueError):  # "max", or not there: the root has no such file
            limits.append(int((directory / LIMIT_FILES[group.version]).read_text()))
        if directory == group.mount:
            break
    limit = min(limits, default=_UNLIMITED)
    return limit if limit < _UNLIMITED else None


def _memory_cgroup(membership: str, mountinfo: str) -> MemoryCgroup | None:
    """As `memory_cgroup`, from the text of /proc/PID/cgroup and /proc/PID/mountinfo."""
    paths: dict[Literal[1, 2], str] = {}
    # Names may hold all that counts as blank or as the end of a line between characters.
    for line in filter(None, membership.split("\n")):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            paths[1] = path
        elif not controllers:
            paths[2] = path
    # The controller is in one hierarchy at a time; a line for v2 is there with or without it.
    version: Literal[1, 2] = 1 if 1 in paths else 2
    if version not in paths:
        return None
    for root, mount in _cgroup_mounts(mountinfo, version):
        relative = os.path.relpath(paths[version], root)
        if relative.startswith(".."):
            continue
        if version == 2 and "memory" not in words(mount / "cgroup.controllers"):
            continue
        return MemoryCgroup(version, paths[version], mount, mount / relative)
    return None


def _cgroup_mounts(mountinfo: str, version: Literal[1, 2]) -> Iterator[tuple[str, Path]]:
    """The root and the mount point of each mount of the memory controller's hierarchy."""
    for line in filter(None, mountinfo.split("\n")):
        before, _, after = line.partition(" - ")
        root, mount = (unescaped(field) for field in before.split(" ")[3:5])
        kind, _, options = after.split(" ")[:3]  # the source may be empty
        if kind == ("cgroup" if version == 1 else "cgroup2") and (
            version == 2 or "memory" in options.split(",")
        ):
            yield root, Path(mount)


def words(file: Path) -> list[str]:
    """Of a file of the kernel's; none if it can't be read."""
    try:
        return file.read_text().split()
    except OSError:
        return []


def no_such_process(pid: Pid) -> ProcessLookupError:
    """The error that says so."""
    return ProcessLookupError(errno.ESRCH, f"there is no process {pid} (any more)")
