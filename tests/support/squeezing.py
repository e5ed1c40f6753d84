# SPDX-License-Identifier: Apache-2.0
"""Control groups: a process whose memory the kernel reclaims when it asks, what has happened."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from mapscratch.lab.rig.machine.cgroups import TemporaryMemoryCgroup
from mapscratch.proc.procfs import read_numbers


def reclaim_when_asked(group: TemporaryMemoryCgroup, process: subprocess.Popen[str]) -> None:
    """Puts a process into a group, and reclaims all of it at each line that it prints."""
    with process:
        assert process.stdout
        assert process.stdin
        group.add(process.pid)
        while process.stdout.readline():
            group.reclaim(200 << 20)
            process.stdin.write("\n")
            process.stdin.flush()
        _, errors = process.communicate()
    assert process.returncode == 0, errors


def limit_hits(group: TemporaryMemoryCgroup) -> int:
    """How often its limit made the kernel reclaim, since it was made."""
    if group.version == 1:
        return int((group.directory / "memory.failcnt").read_text())
    return read_numbers((group.directory / "memory.events").read_text())["max"]


def oom_kills(group: TemporaryMemoryCgroup) -> int:
    """How many processes of it the out-of-memory killer ended, since it was made."""
    name = "memory.oom_control" if group.version == 1 else "memory.events"
    return read_numbers((group.directory / name).read_text())["oom_kill"]


def groups_of(pid: int) -> list[Path]:
    """Temporary control groups of a process; others' may go meanwhile."""
    return [
        Path(folder, name)
        for folder, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(f"mapscratch-{pid}-")
    ]
