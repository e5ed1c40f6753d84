# SPDX-License-Identifier: Apache-2.0
"""A process whose memory the kernel reclaims when it asks for that."""

from __future__ import annotations

import subprocess

from mapscratch.lab.rig.machine import TemporaryMemoryCgroup


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
