# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of memory: page tables, mappings, counters, swap and control groups.

Read-only, but for `temporary_swap` and `temporary_memory_cgroup`, which change the machine for the
length of a ``with`` block. Nothing outside of the standard library is needed, and a module of this
package is loaded when the first of its names is used: mapping code wants one of them only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mapscratch.kernelstats.availability import Availability
    from mapscratch.kernelstats.cgroups import (
        CgroupError,
        MemoryCgroup,
        MemoryEvents,
        TemporaryMemoryCgroup,
        memory_cgroup,
        probe_temporary_memory_cgroup,
        temporary_memory_cgroup,
    )
    from mapscratch.kernelstats.kpageflags import frame_flags
    from mapscratch.kernelstats.meminfo import MemInfo, read_meminfo
    from mapscratch.kernelstats.pagemap import (
        PageFlags,
        count_pages,
        is_present,
        is_private,
        is_swapped,
        page_entries,
    )
    from mapscratch.kernelstats.smaps import (
        MemoryArea,
        MemoryUsage,
        RangeMemory,
        process_memory,
        range_memory,
        total,
    )
    from mapscratch.kernelstats.swap import (
        SwapArea,
        SwapError,
        SwapKind,
        TemporarySwap,
        active_swaps,
        probe_temporary_swap,
        temporary_swap,
    )
    from mapscratch.kernelstats.vmstat import VmStat, read_vmstat

__all__ = [
    "Availability",
    "CgroupError",
    "MemInfo",
    "MemoryArea",
    "MemoryCgroup",
    "MemoryEvents",
    "MemoryUsage",
    "PageFlags",
    "RangeMemory",
    "SwapArea",
    "SwapError",
    "SwapKind",
    "TemporaryMemoryCgroup",
    "TemporarySwap",
    "VmStat",
    "active_swaps",
    "count_pages",
    "frame_flags",
    "is_present",
    "is_private",
    "is_swapped",
    "memory_cgroup",
    "page_entries",
    "probe_temporary_memory_cgroup",
    "probe_temporary_swap",
    "process_memory",
    "range_memory",
    "read_meminfo",
    "read_vmstat",
    "temporary_memory_cgroup",
    "temporary_swap",
    "total",
]

_MODULES = {
    "availability": ("Availability",),
    "cgroups": (
        "CgroupError",
        "MemoryCgroup",
        "MemoryEvents",
        "TemporaryMemoryCgroup",
        "memory_cgroup",
        "probe_temporary_memory_cgroup",
        "temporary_memory_cgroup",
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
        "SwapError",
        "SwapKind",
        "TemporarySwap",
        "active_swaps",
        "probe_temporary_swap",
        "temporary_swap",
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
