# SPDX-License-Identifier: Apache-2.0
"""Rounds: processes map the libraries, make fixups, lose the pages, and get them back.

A round of a strategy has processes of its own, so that each makes its fixups for the first time:
a page that was swapped in and not stored to since keeps its place in swap, and would not be written
there again. The strategies take turns, round by round, in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import PAGESIZE
from typing import Any

from mapscratch.errors import UserError
from mapscratch.lab.compare.session import Effort, PageIn, Session, State
from mapscratch.lab.rig.results import Comparison, LibrarySummary, Round, Settings
from mapscratch.lab.rig.strategies import STRATEGIES, PageStates, Strategy, Verification
from mapscratch.lab.rig.surroundings import Announce, Surroundings, prepare
from mapscratch.lab.rig.workers import Workers
from mapscratch.lab.rig.workload import Workload
from mapscratch.proc import VmStat, read_meminfo, read_vmstat
from mapscratch.terminal import Progress

_PROCESS_OVERHEAD = 24 << 20
"""Bytes of a worker beside what it maps: what it no longer shares with its parent."""
_SHARE_OF_MEMORY = 2
"""At most half of what is available is used."""
_TABLE_ENTRY = 16
"""Bytes of an offset and a value, see `mapscratch.fixups.Words`."""
_SWAP_MARGIN = 64 << 20
_SECONDS_TO_CLEAN_UP = 2.0


class ExperimentError(UserError, RuntimeError):
    """The experiment can't be run as asked for; the message says what to do."""


def swap_needed(workload: Workload, settings: Settings) -> int:
    """Bytes of swap that are enough, with room to spare."""
    largest = max(settings.processes)
    amount = largest * workload.mapped_pages * PAGESIZE
    if settings.pressure == "cgroup":
        # The workers' own memory is squeezed as well.
        amount += largest * _PROCESS_OVERHEAD
    # More than half full, the kernel gives up a page's place in swap as soon as it is read, and
    # writes it there again the next time (mm/swap.h, vm_swap_full).
    return 5 * amount // 2 + _SWAP_MARGIN


def compare(
    workload: Workload,
    settings: Settings,
    *,
    announce: Announce,
    progress: Progress,
    started: float | None = None,
) -> Comparison:
    """Runs the experiment.

    Args:
        workload: what is mapped.
        settings: how.
        announce: is told what is about to be changed on the machine.
        progress: is told what is done.
        started: when the time began to run (`time.monotonic`); None for now.

    Raises:
        ExperimentError: no strategy runs here, the machine is too small, or the time too short.
        WorkerError: a worker fails or is killed.
        SwapError: see `mapscratch.lab.rig.surroundings.prepare`; nothing stays behind.
        CgroupError: as SwapError.
    """
    started = time.monotonic() if started is None else started
    left_out = _left_out(settings.strategies)
    runnable = [STRATEGIES[name] for name in settings.strategies if name not in left_out]
    if not runnable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ExperimentError(f"none of these strategies runs here. {reasons}")
    notes = list(workload.notes)
    processes = _that_fit(workload, settings.processes, notes)
    with prepare(settings, swap_needed(workload, settings), announce) as surroundings:
        sweep = _Sweep(workload, settings, surroundings, runnable, started, progress)
        sweep.run(processes)
        notes += sweep.notes
        if surroundings.swap.kind != "none":
            room = surroundings.swap.free // PAGESIZE
            if room < max(processes) * workload.pages:
                notes.append(f"Swap has room for {room:,} pages only; the rest stays in memory.")
    return Comparison(
        settings=settings,
        libraries=tuple(
            LibrarySummary(
                path=library.path,
                mapped_pages=library.mapped_pages,
                pages=len(library.pages),
                fixups=len(library.plan),
                kinds=library.plan.kinds,
                skipped=library.plan.skipped,
            )
            for library in workload.libraries
        ),
        copies=workload.copies,
        swap=surroundings.swap,
        left_out=left_out,
        notes=tuple(notes),
        rounds=tuple(sweep.rounds),
        seconds=time.monotonic() - started,
        readers=workload.readers,
    )


def _left_out(strategies: Sequence[str]) -> dict[str, str]:
    reasons = {name: STRATEGIES[name].unavailable() for name in strategies}
    return {name: reason for name, reason in reasons.items() if reason}


def _that_fit(workload: Workload, processes: Sequence[int], notes: list[str]) -> list[int]:
    available = read_meminfo().available // _SHARE_OF_MEMORY
    each = workload.mapped_pages * PAGESIZE + _PROCESS_OVERHEAD
    fitting = [count for count in processes if count * each <= available]
    if not fitting:
        raise ExperimentError(
            f"{processes[0]} processes need {processes[0] * each >> 20} MiB, and half of the "
            f"memory that is available is {available >> 20} MiB: take fewer processes or --pages"
        )
    if len(fitting) < len(processes):
        notes.append(
            f"More than {fitting[-1]} processes would take more than half of the available memory."
        )
    return fitting


@dataclass(slots=True)
class _Sweep:
    """The rounds for one number of processes after the other, within the time."""

    workload: Workload
    settings: Settings
    surroundings: Surroundings
    strategies: Sequence[Strategy]
    started: float
    progress: Progress
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, processes: Sequence[int]) -> None:
        end = self.started + self.settings.seconds - _SECONDS_TO_CLEAN_UP
        start = time.monotonic()
        weight = sum(count + 1 for count in processes)
        done_weight = 0
        turn_a_process = 0.0
        for count in processes:
            if self.rounds and time.monotonic() + turn_a_process * count > end:
                self.notes.append(
                    f"The {self.settings.seconds:g} s don't suffice for {count} processes; give it "
                    "more with --seconds."
                )
                break
            done_weight += count + 1
            turn_end = start + (end - start) * done_weight / weight
            turns: list[float] = []
            for number in range(1, self.settings.rounds + 1):
                before = time.monotonic()
                if turns and before + statistics.median(turns) > turn_end:
                    break
                self._turn(count, number)
                turns.append(time.monotonic() - before)
            # The quickest: a turn that waited for something else says nothing of the next.
            turn_a_process = min(turns) / count

    def _turn(self, count: int, number: int) -> None:
        """One round of every strategy."""
        # Each is the first as often as the others.
        first = (number - 1) % len(self.strategies)
        for strategy in [*self.strategies[first:], *self.strategies[:first]]:
            gone = (time.monotonic() - self.started) / self.settings.seconds
            self.progress(f"{count} processes, round {number}, {strategy.name}", min(gone, 1.0))
            self.rounds.append(
                run_round(
                    self.workload,
                    strategy,
                    count,
                    number,
                    self.surroundings,
                    squeezed=self.settings.pressure == "cgroup",
                )
            )


def run_round(
    workload: Workload,
    strategy: Strategy,
    processes: int,
    number: int,
    surroundings: Surroundings,
    *,
    squeezed: bool,
) -> Round:
    """One round of one strategy.

    Args:
        workload: what is mapped.
        strategy: how.
        processes: how many.
        number: of the round; with the number of the process it decides the load bases.
        surroundings: what it runs in.
        squeezed: the group is squeezed; otherwise each process reclaims, or drops, its own pages.

    Raises:
        WorkerError: a worker fails or is killed.
        CgroupError: the group is gone.
    """
    started = time.monotonic()
    sessions = [
        Session(workload, strategy.name, f"{processes} {number} {worker}")
        for worker in range(processes)
    ]
    with Workers(sessions) as workers:
        surroundings.adopt(workers.pids)
        steps = _steps(workers, strategy, surroundings, squeezed=squeezed)
        workers.all("close")
    return Round(
        processes=processes,
        strategy=strategy.name,
        number=number,
        **_Figures(workload, strategy, processes, squeezed, steps).all(),
        seconds=time.monotonic() - started,
    )


def _steps(
    workers: Workers, strategy: Strategy, surroundings: Surroundings, *, squeezed: bool
) -> _Steps:
    first_page_in: list[Effort] = workers.in_turn("first_page_in")
    # All of them have read everything now, and nobody has stored: what can be shared, is.
    clean_pss: list[int] = workers.all("pss")
    first_fixups: list[Effort] = workers.in_turn("fixups")
    before = _State.of(workers.all("state"))
    counters = read_vmstat()
    if squeezed:
        reclaim = _squeezed(workers, surroundings, before.anonymous_bytes)
    else:
        reclaim = _Reclaim(workers.in_turn("reclaim"))
    written = read_vmstat() - counters
    cached = _empty_swap_cache(workers, surroundings, squeezed=squeezed)
    after = _State.of(workers.all("state"))
    counters = read_vmstat()
    page_in: list[PageIn] = workers.in_turn("page_in")
    read = read_vmstat() - counters
    return _Steps(
        first_page_in=first_page_in,
        clean_pss=clean_pss,
        first_fixups=first_fixups,
        before=before,
        reclaim=reclaim,
        written=written,
        swap_cache_pages=cached,
        after=after,
        page_in=page_in,
        read=read,
        fixups=workers.in_turn("fixups"),
        found=sum(workers.all("verify"), Verification(0, 0, 0)),
        stores=[] if strategy.page_in_fixups else workers.in_turn("time_fixups")[:1],
    )


def _empty_swap_cache(
    workers: Workers, surroundings: Surroundings, *, squeezed: bool
) -> int | None:
    """Pages in swap that could not be made to leave memory; None if none is in swap."""
    if not sum(workers.all("swapped")):
        return None
    if squeezed:
        return surroundings.empty_swap_cache()
    held: list[int] = workers.in_turn("leave_memory")
    return sum(held)


def _squeezed(workers: Workers, surroundings: Surroundings, amount: int) -> _Reclaim:
    squeeze = surroundings.squeeze(amount, lambda: sum(workers.all("swapped")))
    effort = Effort(squeeze.seconds, 0.0, 0, None)
    return _Reclaim([effort], squeeze.most_swapped)


@dataclass(frozen=True, slots=True)
class _Reclaim:
    efforts: list[Effort]
    most_swapped: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    """The sum of the workers' states."""

    pages: PageStates
    resident_bytes: int
    anonymous_bytes: int
    lazily_freed_bytes: int
    locked_bytes: int
    dropped_by_us: int

    @classmethod
    def of(cls, states: Sequence[State]) -> _State:
        return cls(
            pages=sum((state.pages for state in states), PageStates(0, 0, 0)),
            resident_bytes=sum(state.memory.rss for state in states),
            anonymous_bytes=sum(state.memory.anonymous for state in states),
            lazily_freed_bytes=sum(state.memory.lazy_free for state in states),
            locked_bytes=sum(state.memory.locked for state in states),
            dropped_by_us=sum(state.dropped_by_us for state in states),
        )

    @property
    def private_pages_in_memory(self) -> int:
        return self.pages.copies - self.pages.swapped


@dataclass(frozen=True, slots=True)
class _Steps:
    """What was seen in a round, in the order of its steps, before it is made into figures."""

    first_page_in: list[Effort]
    clean_pss: list[int]
    first_fixups: list[Effort]
    before: _State
    reclaim: _Reclaim
    written: VmStat
    swap_cache_pages: int | None
    after: _State
    page_in: list[PageIn]
    read: VmStat
    fixups: list[Effort]
    found: Verification
    stores: list[Effort]


@dataclass(frozen=True, slots=True)
class _Figures:
    """The figures of a round, by their names in `Round`."""

    workload: Workload
    strategy: Strategy
    processes: int
    squeezed: bool
    steps: _Steps

    def all(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "fixups": self.fixups,
            "fixups_per_page": self.workload.fixups / self.workload.pages,
            **self._swapped(),
            **self._dropped(),
            **self._memory(),
            **self._times(),
            **self._made(),
            **self._machine(),
        }

    @property
    def pages(self) -> int:
        return self.processes * self.workload.pages

    @property
    def fixups(self) -> int:
        return self.processes * self.workload.fixups

    @property
    def kernel_decides(self) -> bool:
        return self.strategy.reclaimed_by_kernel or self.squeezed

    def _swapped(self) -> dict[str, Any]:
        steps = self.steps
        out = max(steps.after.pages.swapped, steps.reclaim.most_swapped)
        came_back = sum(one.pages.swapped for one in steps.page_in)
        back = max(0, steps.after.pages.swapped - came_back)
        known = self.kernel_decides
        return {
            "swapped_out_pages": out if known else None,
            "swapped_out_bytes": out * PAGESIZE if known else None,
            "swapped_in_pages": back if known else None,
            "swapped_in_bytes": back * PAGESIZE if known else None,
            "swap_cache_pages": self._still_in_memory(back),
        }

    def _dropped(self) -> dict[str, Any]:
        before, after = self.steps.before, self.steps.after
        dropped = max(0, before.pages.copies - after.pages.copies)
        by_us = (
            after.dropped_by_us - before.dropped_by_us
            if self.squeezed
            else sum(effort.count for effort in self.steps.reclaim.efforts)
        )
        return {
            "dropped_by_kernel_pages": max(0, dropped - by_us) if self.kernel_decides else None,
            "dropped_by_us_pages": by_us,
            "kept_pages": after.private_pages_in_memory,
        }

    def _memory(self) -> dict[str, Any]:
        before, after = self.steps.before, self.steps.after
        given_back = before.anonymous_bytes - after.anonymous_bytes
        asked = before.anonymous_bytes
        return {
            "clean_pss_bytes": sum(self.steps.clean_pss),
            "before_resident_bytes": before.resident_bytes,
            "before_lazily_freed_bytes": before.lazily_freed_bytes,
            "after_resident_bytes": after.resident_bytes,
            "after_lazily_freed_bytes": after.lazily_freed_bytes,
            "locked_bytes": before.locked_bytes,
            "asked_bytes": asked,
            "given_back_bytes": given_back,
            "given_back_per_mib": given_back / asked if asked else None,
        }

    def _times(self) -> dict[str, Any]:
        """Of µs a page that left memory."""
        steps = self.steps
        left = max(0, steps.before.private_pages_in_memory - steps.after.private_pages_in_memory)
        page_in = [one.effort for one in steps.page_in]
        counted = [*steps.reclaim.efforts, *page_in]
        if self.strategy.name != "private":  # Which needs not look for fixups.
            counted += steps.fixups
        cpu_seconds = sum(effort.cpu_seconds for effort in counted)
        return {
            "first_page_in_us": _seconds(steps.first_page_in) * 1e6 / self.pages,
            "first_fixups_us": _seconds(steps.first_fixups) * 1e6 / self.pages,
            "reclaim_us": _microseconds(_seconds(steps.reclaim.efforts), left),
            "page_in_us": _microseconds(_seconds(page_in), left),
            "fixups_us": _microseconds(_seconds(steps.fixups), left),
            "round_trip_us": _microseconds(_seconds(counted), left),
            "fixup_ns": self._fixup_ns(),
            "cpu_us": None if self.squeezed else _microseconds(cpu_seconds, left),
        }

    def _made(self) -> dict[str, Any]:
        steps, at_page_in = self.steps, self.strategy.page_in_fixups
        return {
            "fixups_at_page_in": steps.after.pages.fixups_absent if at_page_in else 0,
            "fixups_after_page_in": sum(effort.count for effort in steps.fixups),
            "fixup_table_bytes": self.fixups * _TABLE_ENTRY if at_page_in else None,
            "words_checked": steps.found.checked,
            "wrong_words": steps.found.wrong,
            "lost_words": steps.found.lost,
        }

    def _machine(self) -> dict[str, Any]:
        """What the kernel counts of the machine, and what was read for the processes."""
        steps = self.steps
        page_in = [one.effort for one in steps.page_in]
        storage = _sum_if_known([effort.storage_bytes for effort in page_in])
        return {
            "storage_bytes_read": storage,
            # What is read from swap may be a worker's other memory too.
            "file_bytes_read": None if steps.read.get("pswpin") else storage,
            "major_faults": sum(effort.major_faults for effort in page_in),
            "machine_pages_written": steps.written.get("pswpout"),
            "machine_pages_read": steps.read.get("pswpin"),
            "machine_pages_compressed": steps.written.get("zswpout"),
            "machine_pages_decompressed": steps.read.get("zswpin"),
            "machine_pages_lazily_freed": steps.written.get("pglazyfreed"),
        }

    def _still_in_memory(self, swapped_in: int) -> int | None:
        """Of the pages that came back from swap, how many can't have been read."""
        if self.steps.swap_cache_pages is None:
            return None
        if not any(one.effort.major_faults for one in self.steps.page_in):
            return swapped_in
        read = (self.steps.read.get("pswpin") or 0) + (self.steps.read.get("zswpin") or 0)
        return max(self.steps.swap_cache_pages, swapped_in - read)

    def _fixup_ns(self) -> float | None:
        if self.strategy.page_in_fixups:
            made = self.steps.after.pages.fixups_absent
            spent = sum(one.fixup_seconds for one in self.steps.page_in)
        else:
            made = sum(effort.count for effort in self.steps.stores)
            spent = _seconds(self.steps.stores)
        return spent * 1e9 / made if made else None


def _seconds(efforts: Sequence[Effort]) -> float:
    return sum(effort.seconds for effort in efforts)


def _microseconds(seconds: float, pages: int) -> float | None:
    return seconds * 1e6 / pages if pages else None


def _sum_if_known(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
