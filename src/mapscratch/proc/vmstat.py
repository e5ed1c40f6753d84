# SPDX-License-Identifier: Apache-2.0
"""The machine's counters of paging (``/proc/vmstat``), and what they rose by.

The counters are the kernel's ``enum vm_event_item`` (``include/linux/vm_event_item.h``) and node
statistics, named in ``mm/vmstat.c``. They count for the whole machine: other processes move them
too, so what is said of one mapping must come from `mapscratch.proc.pagemap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from mmap import PAGESIZE
from types import MappingProxyType

from mapscratch.proc.procfs import read_numbers, read_text


@dataclass(frozen=True, slots=True)
class VmStat:
    """Counters of /proc/vmstat, or the difference of two snapshots: ``after - before``.

    Attributes:
        counters: by the kernel's name; pages or events, except pgpgin and pgpgout, which are KiB.
    """

    counters: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        """The counter ``name``; KeyError if this kernel does not have it."""
        return self.counters[name]

    def __sub__(self, earlier: VmStat) -> VmStat:
        """What each counter rose by since ``earlier`` (gauges such as nr_dirty may fall)."""
        return _frozen(
            {
                name: value - earlier.counters[name]
                for name, value in self.counters.items()
                if name in earlier.counters
            }
        )

    def get(self, name: str) -> int | None:
        """The counter ``name``, or None if this kernel does not have it."""
        return self.counters.get(name)

    def bytes(self, name: str) -> int:
        """A counter in bytes: pages times the size of a page, KiB for pgpgin and pgpgout.

        Raises:
            KeyError: this kernel does not have the counter.
        """
        return self.counters[name] * (1024 if name in ("pgpgin", "pgpgout") else PAGESIZE)

    @property
    def swapped_in(self) -> int:
        """Pages read from swap (pswpin)."""
        return self.counters["pswpin"]

    @property
    def swapped_out(self) -> int:
        """Pages written to swap (pswpout). With zswap a page may be in zswpout instead."""
        return self.counters["pswpout"]

    @property
    def lazily_freed(self) -> int:
        """Pages that the kernel dropped after MADV_FREE (pglazyfreed)."""
        return self.counters["pglazyfreed"]

    @property
    def reclaimed(self) -> int:
        """Pages reclaimed, anonymous and of files (pgsteal_anon + pgsteal_file, Linux 5.8).

        The other pgsteal counters are the same pages, by who reclaimed them.
        """
        return self.counters["pgsteal_anon"] + self.counters["pgsteal_file"]

    @property
    def refaulted(self) -> int:
        """Reclaimed pages that were soon wanted again (workingset_refault_anon and _file)."""
        return self.counters["workingset_refault_anon"] + self.counters["workingset_refault_file"]


def read_vmstat() -> VmStat:
    """The counters now.

    Raises:
        OSError: /proc is not mounted, or a sandbox hides the file.
    """
    return _frozen(read_numbers(read_text("/proc/vmstat")))


def _frozen(counters: dict[str, int]) -> VmStat:
    return VmStat(MappingProxyType(counters))
