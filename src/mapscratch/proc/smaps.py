# SPDX-License-Identifier: Apache-2.0
"""Memory figures of a range or a process (``/proc/PID/smaps``, ``smaps_rollup``), in bytes.

The kernel's ``Documentation/filesystems/proc.rst`` defines each figure, under "/proc/PID/smaps";
the two-letter flags stand there too ("VmFlags").
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from mapscratch.proc.maps import MappedFile, header_members
from mapscratch.proc.procfs import Pid, check_range, no_such_process, open_process_file


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Figures of smaps, each a number of bytes; the names are the kernel's.

    Attributes:
        rss: resident in memory.
        pss: resident, each page divided by the number of processes that map it.
        shared_clean: resident, mapped elsewhere too, as the file has it.
        shared_dirty: resident, mapped elsewhere too, stored to.
        private_clean: resident, mapped here alone, as the file has it. Lazily freed pages are here.
        private_dirty: resident, mapped here alone, stored to.
        anonymous: resident and not of any file: private copies, in a MAP_PRIVATE mapping.
        lazy_free: marked by MADV_FREE and not stored to since: the kernel may drop it.
        swap: in swap.
        swap_pss: in swap, each page divided by the number of processes that share it.
        locked: locked in memory, divided as pss is.
        pss_dirty: the part of pss that is dirty; None before Linux 6.0, which does not say.
    """

    rss: int
    pss: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    anonymous: int
    lazy_free: int
    swap: int
    swap_pss: int
    locked: int
    pss_dirty: int | None


@dataclass(frozen=True, slots=True)
class MemoryArea(MappedFile):
    """One mapping (VMA) of a process, as maps has it, with its figures.

    Attributes:
        usage: its figures.
        vm_flags: the two-letter flags, such as ``{"rd", "wr", "mr"}``.
    """

    usage: MemoryUsage
    vm_flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class RangeMemory:
    """The mappings that overlap a range.

    Attributes:
        usage: the sum over `areas`.
        areas: the mappings, in the order of their addresses.
        exact: whether all of them lie inside the range. The kernel merges neighbours that are
            alike, and gives its figures for whole mappings only; where this is false `usage` holds
            memory outside of the range as well.
    """

    usage: MemoryUsage
    areas: tuple[MemoryArea, ...]
    exact: bool

    @property
    def vm_flags(self) -> frozenset[str]:
        """The flags that all of the mappings have; none if there is no mapping."""
        return frozenset.intersection(*(area.vm_flags for area in self.areas or (_NO_AREA,)))


_LABELS = {
    "rss": "Rss",
    "pss": "Pss",
    "shared_clean": "Shared_Clean",
    "shared_dirty": "Shared_Dirty",
    "private_clean": "Private_Clean",
    "private_dirty": "Private_Dirty",
    "anonymous": "Anonymous",
    "lazy_free": "LazyFree",
    "swap": "Swap",
    "swap_pss": "SwapPss",
    "locked": "Locked",
    "pss_dirty": "Pss_Dirty",
}
_NOTHING = MemoryUsage(**dict.fromkeys(_LABELS, 0))
_NO_AREA = MemoryArea(0, 0, "----", 0, "00:00", 0, "", _NOTHING, frozenset())


def range_memory(address: int, length: int, pid: Pid = "self") -> RangeMemory:
    """The figures of the mappings that overlap ``[address, address + length)``.

    smaps cannot be asked for one address: the kernel walks the page tables of every mapping that
    is read. Reading stops behind the range, so this costs what lies below it. Pages come and go
    while it is read; the sum is no snapshot.

    Raises:
        ValueError: not a range of addresses, or not a process id.
        ProcessLookupError: there is no such process, or it ended.
        PermissionError: the process belongs to someone else.
    """
    check_range(address, length)
    end = address + length
    areas = []
    for area in _areas(_lines(pid, "smaps"), pid):
        if area.start >= end:
            break
        if area.end > address:
            areas.append(area)
    return RangeMemory(
        usage=total(area.usage for area in areas),
        areas=tuple(areas),
        exact=all(address <= area.start and area.end <= end for area in areas),
    )


def process_memory(pid: Pid = "self") -> MemoryUsage:
    """The figures of a whole process, which the kernel sums itself (smaps_rollup, Linux 4.14).

    Raises:
        ValueError: not a process id.
        ProcessLookupError: there is no such process, or it ended.
        PermissionError: the process belongs to someone else.
    """
    lines = _lines(pid, "smaps_rollup")
    if next(lines, None) is None:
        raise no_such_process(pid)
    return _usage({label: value for label, _, value in (line.partition(":") for line in lines)})


def total(usages: Iterable[MemoryUsage]) -> MemoryUsage:
    """The sum of several figures; `MemoryUsage.pss_dirty` is None if any of them is."""
    all_usages = list(usages)

    def summed(name: str) -> int | None:
        values = [getattr(usage, name) for usage in all_usages]
        return None if None in values else sum(values)

    return MemoryUsage(**{field.name: summed(field.name) for field in fields(MemoryUsage)})  # type: ignore[arg-type]


def _areas(lines: Iterable[str], pid: Pid) -> Iterator[MemoryArea]:
    header = ""
    figures: dict[str, str] = {}
    for line in lines:
        label, colon, value = line.partition(":")
        # A header line starts with an address and has no space before its first colon but for the
        # colon of the device, which comes late: "55d0-55d1 r--p 00000000 08:01 12 /usr/bin/cat".
        if not colon or " " in label:
            if figures and "VmFlags" not in figures:
                yield _area(header, figures)
            header, figures = line, {}
            continue
        figures[label] = value
        # It comes last. What is behind it is not read: the kernel would walk the next mapping.
        if label == "VmFlags":
            yield _area(header, figures)
    if not header:
        raise no_such_process(pid)
    if "VmFlags" not in figures:
        yield _area(header, figures)


def _area(header: str, figures: dict[str, str]) -> MemoryArea:
    flags = frozenset(figures.get("VmFlags", "").split())
    return MemoryArea(*header_members(os.fsencode(header)), _usage(figures), flags)


def _usage(figures: dict[str, str]) -> MemoryUsage:
    missing = [label for label in _LABELS.values() if label not in figures and label != "Pss_Dirty"]
    if missing:
        raise OSError(
            errno.ENOTSUP,
            f"this kernel's smaps does not give {', '.join(missing)}: it takes Linux 4.12",
        )

    def size(label: str) -> int | None:
        return int(figures[label].split()[0]) * 1024 if label in figures else None

    return MemoryUsage(**{name: size(label) for name, label in _LABELS.items()})  # type: ignore[arg-type]


def _lines(pid: Pid, name: str) -> Iterator[str]:
    # A small buffer: what is not read is not walked by the kernel.
    raw = io.FileIO(open_process_file(pid, name))
    with io.TextIOWrapper(io.BufferedReader(raw), errors="surrogateescape", newline="\n") as file:
        try:
            for line in file:
                yield line.rstrip("\n")
        except ProcessLookupError:
            raise no_such_process(pid) from None
