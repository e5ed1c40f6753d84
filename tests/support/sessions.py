# SPDX-License-Identifier: Apache-2.0
"""The processes of a session: what a command that was started in one has left running."""

from __future__ import annotations

from pathlib import Path


def processes_of_session(session: int) -> list[int]:
    """Their numbers, but for those that have ended and that nobody has waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
