# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of memory: page tables, mappings, counters, swap and control groups.

Read-only. Nothing outside of the standard library is needed, and a module of this package is loaded
when the first of its names is used: mapping code wants one of them only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mapscratch.proc.availability import Availability
    from mapscratch.proc.cgroups import (
        MemoryCgroup,
        memory_cgroup,
    )
    from mapscratch.proc.kpageflags import frame_flags
    from mapscratch.proc.meminfo import MemInfo, read_meminfo
    from mapscratch.proc.pagemap import (
        PageFlags,
        count_pages,
        is_present,
        is_private,
        is_swapped,
        page_entries,
    )
    from mapscratch.proc.smaps import (
        MemoryArea,
        MemoryUsage,
        RangeMemory,
        process_memory,
        range_memory,
        total,
    )
    from mapscratch.proc.swap import (
        SwapArea,
        active_swaps,
    )
    from mapscratch.proc.vmstat import VmStat, read_vmstat

__all__ = [
    "Availability",
    "MemInfo",
    "MemoryArea",
    "MemoryCgroup",
    "MemoryUsage",
    "PageFlags",
    "RangeMemory",
    "SwapArea",
    "VmStat",
    "active_swaps",
    "count_pages",
    "frame_flags",
    "is_present",
    "is_private",
    "is_swapped",
    "memory_cgroup",
    "page_entries",
    "process_memory",
    "range_memory",
    "read_meminfo",
    "read_vmstat",
    "total",
]

_MODULES = {
    "availability": ("Availability",),
    "cgroups": (
        "MemoryCgroup",
        "memory_cgroup",
    ),
    "kpageflags": ("frame_flags",),
    "meminfo": (
        "MemInfo",
        "read_meminfo",
    ),
    "pagemap": (
        "PageFlags",
        "count_pages",
        "is_present",
        "is_private",
        "is_swapped",
        "page_entries",
    ),
    "smaps": (
        "MemoryArea",
        "MemoryUsage",
        "RangeMemory",
        "process_memory",
        "range_memory",
        "total",
    ),
    "swap": (
        "SwapArea",
        "active_swaps",
    ),
    "vmstat": (
        "VmStat",
        "read_vmstat",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
