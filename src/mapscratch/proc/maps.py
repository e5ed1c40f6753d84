# SPDX-License-Identifier: Apache-2.0
"""The mappings of a process (``/proc/PID/maps``), without figures.

Unlike smaps this costs the kernel no walk of the page tables, and it says which file it is: device
and inode.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mapscratch.proc.procfs import Pid, no_such_process, open_process_file


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A line of /proc/PID/maps.

    Attributes:
        start: first address.
        end: the address after the last.
        permissions: such as ``rw-s``.
        offset: where in the file, in bytes.
        device: of the file, such as ``08:01``.
        inode: of the file; 0 for memory of no file.
        path: the file, or a name such as ``[heap]``, or empty.
    """

    start: int
    end: int
    permissions: str
    offset: int
    device: str
    inode: int
    path: str


def mapped_files(pid: Pid) -> list[MappedFile]:
    """The mappings of a process, by address.

    Raises:
        ProcessLookupError: there is no such process, or it has no memory.
        PermissionError: it belongs to somebody else.
    """
    with os.fdopen(open_process_file(pid, "maps"), "rb") as maps:
        try:
            lines = maps.readlines()  # A carriage return may stand in a name.
        except ProcessLookupError:
            raise no_such_process(pid) from None
    return [MappedFile(*header_members(line)) for line in lines]


def header_members(line: bytes) -> tuple[int, int, str, int, str, int, str]:
    """The members of `MappedFile`, as a line of maps has them, and a mapping's first of smaps."""
    # As bytes: more than these count as spaces between characters.
    addresses, permissions, offset, device, inode, *path = line.rstrip(b"\n").split(maxsplit=5)
    start, _, end = addresses.partition(b"-")
    return (
        int(start, 16),
        int(end, 16),
        permissions.decode(),
        int(offset, 16),
        device.decode(),
        int(inode),
        os.fsdecode(path[0]) if path else "",
    )
