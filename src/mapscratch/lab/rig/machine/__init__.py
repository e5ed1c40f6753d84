# SPDX-License-Identifier: Apache-2.0
"""Swap and control groups that are made for the length of a ``with`` block, and always removed."""

from mapscratch.lab.rig.machine.cgroups import (
    CgroupError,
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.lab.rig.machine.swap import (
    SwapError,
    SwapKind,
    probe_temporary_swap,
    temporary_swap,
)

__all__ = [
    "CgroupError",
    "SwapError",
    "SwapKind",
    "TemporaryMemoryCgroup",
    "probe_temporary_memory_cgroup",
    "probe_temporary_swap",
    "temporary_memory_cgroup",
    "temporary_swap",
]
