# SPDX-License-Identifier: Apache-2.0
"""What an experiment runs in: the swap and control group that are there, or of its own if asked."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import Literal, get_args

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
from mapscratch.lab.rig.results import Pressure, Settings, SwapChoice, SwapDescription
from mapscratch.proc import Availability, active_swaps

Announce = Callable[[str], None]
"""Tells the user a sentence, at once."""

_SQUEEZES = 16
_SQUEEZES_AT_MOST = 64
_PAUSE_SECONDS = 0.005
_SECONDS_TO_EMPTY_THE_CACHE = 1.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The swap and the control group of an experiment."""

    swap: SwapDescription
    group: TemporaryMemoryCgroup | None

    def adopt(self, pids: list[int]) -> None:
        """Moves processes into the control group, if there is one."""
        if self.group:
            for pid in pids:
                self.group.add(pid)

    def usage(self) -> int:
        """Bytes that the control group uses; 0 if there is none."""
        return self.group.usage() if self.group else 0

    def reclaimer_setting(self) -> str | None:
        """What wakes the drop policy of converted text in the group; None if there is none."""
        return f"cgroup{self.group.version} {self.group.directory}" if self.group else None

    def squeeze(self, amount: int, swapped: Callable[[], int]) -> tuple[float, int]:
        """Has the kernel reclaim `amount` bytes of the group, in steps, as growing pressure would.

        Between steps is a pause, in which a drop policy can act, and `swapped` is asked for the
        number of pages in swap. It ends early when nothing more can be reclaimed. The seconds in
        which the kernel reclaimed are returned, without pauses, and the most pages in swap.
        """
        assert self.group
        target = max(self.group.usage() - amount, PAGESIZE)
        seconds, most_swapped, in_vain = 0.0, 0, 0
        for _ in range(_SQUEEZES_AT_MOST):
            excess = self.group.usage() - target
            if excess <= 0 or in_vain == 3:
                break
            start = time.perf_counter()
            got = self.group.reclaim(min(excess, max(amount // _SQUEEZES, PAGESIZE)))
            seconds += time.perf_counter() - start
            in_vain = 0 if got else in_vain + 1
            most_swapped = max(most_swapped, swapped())
            time.sleep(_PAUSE_SECONDS)
        return seconds, most_swapped

    def empty_swap_cache(self) -> int:
        """Makes swapped pages of the group leave memory that the kernel still holds there.

        Their writing is waited for, then the group is squeezed by as much as they are. What is
        returned is the number of pages still held.
        """
        assert self.group
        end = time.monotonic() + _SECONDS_TO_EMPTY_THE_CACHE
        in_vain = 0
        statistics = self.group.statistics()
        while statistics.get("swapcached", 0) and in_vain < 2 and time.monotonic() < end:
            if statistics.get("writeback", statistics.get("file_writeback", 0)):
                time.sleep(_PAUSE_SECONDS)
            else:
                got = self.group.reclaim(statistics["swapcached"])
                in_vain = 0 if got else in_vain + 1
            statistics = self.group.statistics()
        return statistics.get("swapcached", 0) // PAGESIZE


def _swaps_to_make(choice: SwapChoice | Literal["all"]) -> tuple[SwapKind, ...]:
    if choice == "none" or (choice == "auto" and active_swaps()):
        return ()
    if choice == "all":
        return get_args(SwapKind)
    return ("file",) if choice == "auto" else (choice,)


def check_swap(choice: SwapChoice | Literal["all"], least: int = 0) -> dict[SwapKind, Availability]:
    """Finds out before any long work which swap can be made of what is asked for.

    That none can be made is a SwapError, but for ``"auto"``.
    """
    probes = {kind: probe_temporary_swap(kind, least) for kind in _swaps_to_make(choice)}
    refused = {kind: probe.reason for kind, probe in probes.items() if not probe}
    if choice == "auto" or len(refused) < len(probes) or not probes:
        return probes
    alike = len(set(refused.values())) == 1
    reasons = [reason if alike else f"{kind}: {reason}" for kind, reason in refused.items()]
    raise SwapError(errno.EPERM, f"--swap {choice}: {'; '.join(dict.fromkeys(reasons))}")


def check_pressure(choice: Pressure) -> None:
    """Finds out before any long work whether there can be a control group to squeeze."""
    if choice == "cgroup" and not (probe := probe_temporary_memory_cgroup()):
        raise CgroupError(errno.EPERM, f"--pressure cgroup: {probe.reason}")


@contextmanager
def prepare(settings: Settings, swap_size: int, announce: Announce) -> Iterator[Surroundings]:
    """Makes the swap and the group of `settings`, for the length of the block, and says so first.

    What was asked for by name and can't be made is a SwapError or a CgroupError.
    """
    kind = _swap_to_make(settings.swap, swap_size, announce)
    with (
        temporary_swap(kind, swap_size) if kind else nullcontext(),
        temporary_memory_cgroup() if settings.pressure == "cgroup" else nullcontext() as group,
    ):
        yield Surroundings(describe_swap(temporary=kind is not None), group)


def describe_swap(*, temporary: bool = False) -> SwapDescription:
    """The swap that is there now."""
    areas = sorted(active_swaps(), key=lambda area: area.priority, reverse=True)
    return SwapDescription(
        kind=areas[0].kind if areas else "none",
        path=areas[0].path if areas else "",
        size=sum(area.size for area in areas),
        free=sum(area.size - area.used for area in areas),
        temporary=temporary,
        zswap=_zswap_is_enabled(),
    )


def _zswap_is_enabled() -> bool | None:
    try:
        return Path("/sys/module/zswap/parameters/enabled").read_text().strip() == "Y"
    except FileNotFoundError:
        return False
    except OSError:
        return None


def _swap_to_make(choice: SwapChoice, size: int, announce: Announce) -> SwapKind | None:
    """The kind of the temporary swap to be made, announced; None for none."""
    probes = check_swap(choice, size)
    if not probes:
        if choice == "auto":
            announce("Swap: what is there is used as it is.")
        return None
    ((kind, probe),) = probes.items()
    if not probe:
        announce(f"Swap: there is none, and none is made: {probe.reason}")
        return None
    made = f"for this run {probe.reason} of {size >> 20} MiB is made, and removed at the end."
    if choice == "auto":
        made = f"there is none; {made} To decline: --swap none."
    announce(f"Swap: {made}")
    return kind
