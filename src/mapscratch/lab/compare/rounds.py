# SPDX-License-Identifier: Apache-2.0
"""Rounds: processes map the libraries, make fixups, lose the pages, and get them back.

A round of a strategy has processes of its own, so that each makes its fixups for the first time:
a page that was swapped in and not stored to since keeps its place in swap, and would not be written
there again. The strategies take turns, round by round, in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from mmap import PAGESIZE

from mapscratch.errors import UserError
from mapscratch.lab.compare.session import Effort, PageIn, Session, State
from mapscratch.lab.rig.results import Comparison, LibrarySummary, Round, Settings
from mapscratch.lab.rig.strategies import STRATEGIES, PageStates, Strategy, Verification
from mapscratch.lab.rig.surroundings import Announce, Surroundings, prepare
from mapscratch.lab.rig.workers import Workers
from mapscratch.lab.rig.workload import Workload
from mapscratch.proc import VmStat, read_meminfo, read_vmstat

Progress = Callable[[str, float], None]
"""Is told what is done now, and how much of the time that it may take has gone (0 to 1)."""

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
        cached = None
        if sum(workers.all("swapped")):
            cached = (
                surroundings.empty_swap_cache()
                if squeezed
                else sum(workers.in_turn("leave_memory"))
            )
        after = _State.of(workers.all("state"))
        counters = read_vmstat()
        page_in: list[PageIn] = workers.in_turn("page_in")
        read = read_vmstat() - counters
        fixups: list[Effort] = workers.in_turn("fixups")
        found = sum(workers.all("verify"), Verification(0, 0, 0))
        stores = [] if strategy.page_in_fixups else workers.in_turn("time_fixups")[:1]
        workers.all("close")
    evidence = _Evidence(
        workload=workload,
        strategy=strategy,
        processes=processes,
        number=number,
        squeezed=squeezed,
        first_page_in=first_page_in,
        clean_pss=clean_pss,
        first_fixups=first_fixups,
        before=before,
        reclaim=reclaim,
        swap_cache_pages=cached,
        after=after,
        page_in=page_in,
        fixups=fixups,
        found=found,
        stores=stores,
        written=written,
        read=read,
    )
    return evidence.round(time.monotonic() - started)


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
class _Evidence:
    """What was seen in a round, before it is made into figures."""

    workload: Workload
    strategy: Strategy
    processes: int
    number: int
    squeezed: bool
    first_page_in: list[Effort]
    clean_pss: list[int]
    first_fixups: list[Effort]
    before: _State
    reclaim: _Reclaim
    swap_cache_pages: int | None
    after: _State
    page_in: list[PageIn]
    fixups: list[Effort]
    found: Verification
    stores: list[Effort]
    written: VmStat
    read: VmStat

    def round(self, seconds: float) -> Round:
        before, after, strategy = self.before, self.after, self.strategy
        pages = self.processes * self.workload.pages
        kernel_decides = strategy.reclaimed_by_kernel or self.squeezed
        left = max(0, before.private_pages_in_memory - after.private_pages_in_memory)
        swapped_out = max(after.pages.swapped, self.reclaim.most_swapped)
        came_back = PageStates(0, 0, 0)
        for one in self.page_in:
            came_back += one.pages
        swapped_in = max(0, after.pages.swapped - came_back.swapped)
        dropped = max(0, before.pages.copies - after.pages.copies)
        dropped_by_us = (
            after.dropped_by_us - before.dropped_by_us
            if self.squeezed
            else sum(effort.count for effort in self.reclaim.efforts)
        )
        efforts = [one.effort for one in self.page_in]
        storage = _sum_if_known([effort.storage_bytes for effort in efforts])
        reclaim_seconds = _seconds(self.reclaim.efforts)
        fixup_seconds = _seconds(self.fixups)
        page_in_seconds = _seconds(efforts)
        counted = [*efforts, *self.reclaim.efforts]
        round_trip = reclaim_seconds + page_in_seconds
        if strategy.name != "private":
            counted += self.fixups
            round_trip += fixup_seconds
        given_back = before.anonymous_bytes - after.anonymous_bytes
        return Round(
            processes=self.processes,
            strategy=strategy.name,
            number=self.number,
            pages=pages,
            fixups=self.processes * self.workload.fixups,
            fixups_per_page=self.workload.fixups / self.workload.pages,
            swapped_out_pages=swapped_out if kernel_decides else None,
            swapped_out_bytes=swapped_out * PAGESIZE if kernel_decides else None,
            swapped_in_pages=swapped_in if kernel_decides else None,
            swapped_in_bytes=swapped_in * PAGESIZE if kernel_decides else None,
            swap_cache_pages=self._still_in_memory(swapped_in),
            dropped_by_kernel_pages=max(0, dropped - dropped_by_us) if kernel_decides else None,
            dropped_by_us_pages=dropped_by_us,
            kept_pages=after.private_pages_in_memory,
            storage_bytes_read=storage,
            # What is read from swap may be a worker's other memory too.
            file_bytes_read=None if self.read.get("pswpin") else storage,
            clean_pss_bytes=sum(self.clean_pss),
            before_resident_bytes=before.resident_bytes,
            before_lazily_freed_bytes=before.lazily_freed_bytes,
            after_resident_bytes=after.resident_bytes,
            after_lazily_freed_bytes=after.lazily_freed_bytes,
            locked_bytes=before.locked_bytes,
            asked_bytes=before.anonymous_bytes,
            given_back_bytes=given_back,
            given_back_per_mib=given_back / before.anonymous_bytes
            if before.anonymous_bytes
            else None,
            first_page_in_us=_seconds(self.first_page_in) * 1e6 / pages,
            first_fixups_us=_seconds(self.first_fixups) * 1e6 / pages,
            reclaim_us=_microseconds(reclaim_seconds, left),
            page_in_us=_microseconds(page_in_seconds, left),
            fixups_us=_microseconds(fixup_seconds, left),
            round_trip_us=_microseconds(round_trip, left),
            fixup_ns=self._fixup_ns(),
            fixups_at_page_in=after.pages.fixups_absent if strategy.page_in_fixups else 0,
            fixups_after_page_in=sum(effort.count for effort in self.fixups),
            fixup_table_bytes=self.processes * self.workload.fixups * _TABLE_ENTRY
            if strategy.page_in_fixups
            else None,
            cpu_us=None
            if self.squeezed
            else _microseconds(sum(effort.cpu_seconds for effort in counted), left),
            major_faults=sum(effort.major_faults for effort in efforts),
            words_checked=self.found.checked,
            wrong_words=self.found.wrong,
            lost_words=self.found.lost,
            machine_pages_written=self.written.get("pswpout"),
            machine_pages_read=self.read.get("pswpin"),
            machine_pages_compressed=self.written.get("zswpout"),
            machine_pages_decompressed=self.read.get("zswpin"),
            machine_pages_lazily_freed=self.written.get("pglazyfreed"),
            seconds=seconds,
        )

    def _still_in_memory(self, swapped_in: int) -> int | None:
        """Of the pages that came back from swap, how many can't have been read."""
        if self.swap_cache_pages is None:
            return None
        if not any(one.effort.major_faults for one in self.page_in):
            return swapped_in
        read = (self.read.get("pswpin") or 0) + (self.read.get("zswpin") or 0)
        return max(self.swap_cache_pages, swapped_in - read)

    def _fixup_ns(self) -> float | None:
        if self.strategy.page_in_fixups:
            made = self.after.pages.fixups_absent
            spent = sum(one.fixup_seconds for one in self.page_in)
        else:
            made = sum(effort.count for effort in self.stores)
            spent = _seconds(self.stores)
        return spent * 1e9 / made if made else None


def _seconds(efforts: Sequence[Effort]) -> float:
    return sum(effort.seconds for effort in efforts)


def _microseconds(seconds: float, pages: int) -> float | None:
    return seconds * 1e6 / pages if pages else None


def _sum_if_known(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
