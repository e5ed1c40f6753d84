# SPDX-License-Identifier: Apache-2.0
"""Swap areas that are there: ``/proc/swaps``, swapon(8)."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal

from mapscratch.proc.procfs import read_text, unescaped

# Only blanks, tabs and ends of lines are escaped in a name; more may follow the priority some day.
_SWAP_AREA = re.compile(
    r"(\S.*?)[ \t]+(\w+)[ \t]+(\d+)[ \t]+(\d+)[ \t]+(-?\d+)(?:[ \t].*)?\n?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class SwapArea:
    """An area that the kernel swaps to now.

    Attributes:
        path: the file or device.
        kind: what it is. With zswap enabled, any of them is behind a compressed cache in memory.
        size: bytes in all.
        used: bytes in use.
        priority: the area of the highest priority is filled first.
    """

    path: str
    kind: Literal["file", "partition", "zram"]
    size: int
    used: int
    priority: int


def active_swaps() -> list[SwapArea]:
    """The areas that the kernel swaps to now; none if it was built without swap."""
    try:
        return _swap_areas(read_text("/proc/swaps"))
    except FileNotFoundError:
        return []


def _swap_areas(text: str) -> list[SwapArea]:
    """As `active_swaps`, from the text of /proc/swaps, which has a heading."""
    return [_swap_area(line) for line in text.split("\n")[1:] if line]


def _swap_area(line: str) -> SwapArea:
    fields = _SWAP_AREA.fullmatch(line)
    if not fields:
        raise OSError(errno.ENOTSUP, f"a line of /proc/swaps that can't be read: {line!r}")
    name, area_type, size, used, priority = fields.groups()
    path = unescaped(name)
    kind: Literal["file", "partition", "zram"] = "file" if area_type == "file" else "partition"
    if kind == "partition" and re.fullmatch(r"/dev/zram\d+", path):
        kind = "zram"
    return SwapArea(path, kind, int(size) * 1024, int(used) * 1024, int(priority))
