# SPDX-License-Identifier: Apache-2.0
"""Rounds: processes map the libraries, make fixups, lose the pages, and get them back.

A round of a strategy has processes of its own, so that each makes its fixups for the first time:
a page that was swapped in and not stored to since keeps its place in swap, and would not be written
there again. The strategies take turns, round by round, in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from mmap import PAGESIZE
from typing import Any

from mapscratch.errors import UserError
from mapscratch.lab.compare.session import Effort, Session, State, together
from mapscratch.lab.rig.results import Comparison, LibrarySummary, Round, Settings
from mapscratch.lab.rig.strategies import STRATEGIES, Strategy, Verification
from mapscratch.lab.rig.surroundings import Announce, Surroundings, prepare
from mapscratch.lab.rig.workers import Workers
from mapscratch.lab.rig.workload import Library, Workload
from mapscratch.proc import read_meminfo, read_vmstat
from mapscratch.terminal import Progress

_PROCESS_OVERHEAD = 24 << 20  # bytes of a worker that it no longer shares with its parent
_TABLE_ENTRY = 16  # bytes of an offset and a value, see `mapscratch.fixups.Words`
_SWAP_MARGIN = 64 << 20
_SECONDS_TO_CLEAN_UP = 2.0


class ExperimentError(UserError, RuntimeError):
    """The experiment can't be run as asked for; the message says what to do."""


def swap_needed(workload: Workload, settings: Settings) -> int:
    """Bytes of swap that are enough, with room to spare."""
    each = workload.mapped_pages * PAGESIZE
    if settings.pressure == "cgroup":
        each += _PROCESS_OVERHEAD  # The workers' own memory is squeezed as well.
    # More than half full, the kernel gives up a page's place in swap as soon as it is read, and
    # writes it there again the next time (mm/swap.h, vm_swap_full).
    return 5 * max(settings.processes) * each // 2 + _SWAP_MARGIN


def compare(
    workload: Workload,
    settings: Settings,
    *,
    announce: Announce,
    progress: Progress,
    started: float | None = None,
) -> Comparison:
    """Runs the experiment, from `started` (`time.monotonic`) on; errors leave nothing behind."""
    started = time.monotonic() if started is None else started
    reasons = {name: STRATEGIES[name].unavailable() for name in settings.strategies}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    runnable = [STRATEGIES[name] for name, reason in reasons.items() if not reason]
    if not runnable:
        told = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ExperimentError(f"none of these strategies runs here. {told}")
    notes = list(workload.notes)
    processes = _that_fit(workload, settings.processes, notes)
    rounds: list[Round] = []
    with prepare(settings, swap_needed(workload, settings), announce) as surroundings:
        for count, number in _turns(processes, settings, started, notes):
            first = (number - 1) % len(runnable)  # Each strategy is that as often as the others.
            for strategy in [*runnable[first:], *runnable[:first]]:
                gone = min((time.monotonic() - started) / settings.seconds, 1.0)
                progress(f"{count} processes, round {number}, {strategy.name}", gone)
                rounds.append(run_round(workload, strategy, count, number, surroundings))
        room = surroundings.swap.free // PAGESIZE
        if surroundings.swap.kind != "none" and room < max(processes) * workload.pages:
            notes.append(f"Swap has room for {room:,} pages only; the rest stays in memory.")
    return Comparison(
        settings=settings,
        libraries=tuple(map(_summary, workload.libraries)),
        copies=workload.copies,
        swap=surroundings.swap,
        left_out=left_out,
        notes=tuple(notes),
        rounds=tuple(rounds),
        seconds=time.monotonic() - started,
        readers=workload.readers,
    )


def _summary(one: Library) -> LibrarySummary:
    plan, pages = one.plan, len(one.pages)
    return LibrarySummary(plan.path, one.mapped_pages, pages, len(plan), plan.kinds, plan.skipped)


def _that_fit(workload: Workload, processes: Sequence[int], notes: list[str]) -> list[int]:
    available = read_meminfo().available // 2
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


def _turns(
    processes: Sequence[int], settings: Settings, started: float, notes: list[str]
) -> Iterator[tuple[int, int]]:
    """Numbers of processes, and of rounds for each, as long as there is time for what is done."""
    start = time.monotonic()
    end = started + settings.seconds - _SECONDS_TO_CLEAN_UP
    weights = [count + 1 for count in processes]
    turn_a_process = 0.0
    for at, count in enumerate(processes, 1):
        if turn_a_process and time.monotonic() + turn_a_process * count > end:
            notes.append(
                f"The {settings.seconds:g} s don't suffice for {count} processes; give it more "
                "with --seconds."
            )
            break
        turn_end = start + (end - start) * sum(weights[:at]) / sum(weights)
        turns: list[float] = []
        for number in range(1, settings.rounds + 1):
            before = time.monotonic()
            if turns and before + statistics.median(turns) > turn_end:
                break
            yield count, number
            turns.append(time.monotonic() - before)
        # The quickest: a turn that waited for something else says nothing of the next.
        turn_a_process = min(turns) / count


def run_round(
    workload: Workload, strategy: Strategy, processes: int, number: int, surroundings: Surroundings
) -> Round:
    """One round of one strategy; its number and that of each process decide the load bases.

    Where there is no group to squeeze each process reclaims, or drops, its own pages.
    """
    started = time.monotonic()
    pages, fixups = processes * workload.pages, processes * workload.fixups
    seeds = [f"{processes} {number} {worker}" for worker in range(processes)]
    steps = _Steps(strategy, squeezed=surroundings.group is not None)
    with Workers([Session(workload, strategy, seed) for seed in seeds]) as workers:
        surroundings.adopt(workers.pids)
        steps.take(workers, surroundings)
        workers.all("close")
    return Round(
        processes=processes,
        strategy=strategy.name,
        number=number,
        pages=pages,
        fixups=fixups,
        fixups_per_page=fixups / pages,
        fixup_table_bytes=fixups * _TABLE_ENTRY if strategy.page_in_fixups else None,
        **steps.counts(),
        **steps.memory(),
        **steps.times(pages),
        seconds=time.monotonic() - started,
    )


class _Steps:
    """What all processes did in a round, step by step, and the figures of `Round` it makes."""

    def __init__(self, strategy: Strategy, *, squeezed: bool) -> None:
        self.strategy = strategy
        self.squeezed = squeezed
        self.kernel_decides = strategy.reclaimed_by_kernel or squeezed

    def take(self, workers: Workers, surroundings: Surroundings) -> None:
        self.first_page_in: Effort = together(workers.in_turn("first_page_in"))
        # All of them have read everything now, and nobody has stored: what can be shared, is.
        self.clean: State = together(workers.all("state"))
        self.first_fixups: Effort = together(workers.in_turn("fixups"))
        self.before: State = together(workers.all("state"))
        counters = read_vmstat()
        self.most_swapped = 0
        if self.squeezed:
            anonymous = self.before.memory.anonymous
            seconds, self.most_swapped = surroundings.squeeze(
                anonymous, lambda: together(workers.all("swapped"))
            )
            self.reclaim = Effort(seconds)
        else:
            self.reclaim = together(workers.in_turn("reclaim"))
        self.written = read_vmstat() - counters
        self.held = self._empty_swap_cache(workers, surroundings)
        self.after: State = together(workers.all("state"))
        counters = read_vmstat()
        self.page_in: Effort = together(workers.in_turn("page_in"))
        self.read = read_vmstat() - counters
        self.still_swapped: int = together(workers.all("swapped"))
        self.fixups: Effort = together(workers.in_turn("fixups"))
        self.found: Verification = together(workers.all("verify"))
        # Stores alone; page-in fixups are timed where they are made.
        if self.strategy.page_in_fixups:
            self.made = self.after.pages.fixups_absent
            self.made_seconds = self.page_in.fixup_seconds
        else:
            stores: Effort = workers.in_turn("time_fixups")[0]
            self.made, self.made_seconds = stores.count, stores.seconds

    def _empty_swap_cache(self, workers: Workers, surroundings: Surroundings) -> int | None:
        """Pages in swap that could not be made to leave memory; None if none is in swap."""
        if not together(workers.all("swapped")):
            return None
        if self.squeezed:
            return surroundings.empty_swap_cache()
        held: int = together(workers.in_turn("leave_memory"))
        return held

    def counts(self) -> dict[str, Any]:
        """Pages, fixups and words, and what the kernel counts of the machine."""
        before, after, read, written = self.before, self.after, self.read, self.written
        out = max(after.pages.swapped, self.most_swapped)
        back = max(0, after.pages.swapped - self.still_swapped)
        held = self.held
        if held is not None:
            # Of the pages that came back from swap, those that can't have been read.
            pages_read = (read.get("pswpin") or 0) + (read.get("zswpin") or 0)
            held = max(held, back - pages_read) if self.page_in.major_faults else back
        dropped = max(0, before.pages.copies - after.pages.copies)
        by_us = after.dropped_by_us - before.dropped_by_us if self.squeezed else self.reclaim.count
        storage = self.page_in.storage_bytes
        asked_of_kernel: dict[str, int | None] = {
            "swapped_out_pages": out,
            "swapped_out_bytes": out * PAGESIZE,
            "swapped_in_pages": back,
            "swapped_in_bytes": back * PAGESIZE,
            "dropped_by_kernel_pages": max(0, dropped - by_us),
        }
        if not self.kernel_decides:
            asked_of_kernel = dict.fromkeys(asked_of_kernel)
        return asked_of_kernel | {
            "swap_cache_pages": held,
            "dropped_by_us_pages": by_us,
            "kept_pages": _in_memory(after),
            "storage_bytes_read": storage,
            # What is read from swap may be a worker's other memory too.
            "file_bytes_read": None if read.get("pswpin") else storage,
            "fixups_at_page_in": self.made if self.strategy.page_in_fixups else 0,
            "fixups_after_page_in": self.fixups.count,
            "major_faults": self.page_in.major_faults,
            "words_checked": self.found.checked,
            "wrong_words": self.found.wrong,
            "lost_words": self.found.lost,
            "machine_pages_written": written.get("pswpout"),
            "machine_pages_read": read.get("pswpin"),
            "machine_pages_compressed": written.get("zswpout"),
            "machine_pages_decompressed": read.get("zswpin"),
            "machine_pages_lazily_freed": written.get("pglazyfreed"),
        }

    def memory(self) -> dict[str, Any]:
        before, after = self.before.memory, self.after.memory
        asked, given_back = before.anonymous, before.anonymous - after.anonymous
        return {
            "clean_pss_bytes": self.clean.memory.pss,
            "before_resident_bytes": before.rss,
            "before_lazily_freed_bytes": before.lazy_free,
            "after_resident_bytes": after.rss,
            "after_lazily_freed_bytes": after.lazy_free,
            "locked_bytes": before.locked,
            "asked_bytes": asked,
            "given_back_bytes": given_back,
            "given_back_per_mib": given_back / asked if asked else None,
        }

    def times(self, pages: int) -> dict[str, Any]:
        """In µs a page that left memory, of so many."""
        left = max(0, _in_memory(self.before) - _in_memory(self.after))
        spent = together([self.reclaim, self.page_in])
        if self.strategy.name != "private":  # Which needs not look for fixups.
            spent = together([spent, self.fixups])
        return {
            "first_page_in_us": self.first_page_in.seconds * 1e6 / pages,
            "first_fixups_us": self.first_fixups.seconds * 1e6 / pages,
            "reclaim_us": _microseconds(self.reclaim.seconds, left),
            "page_in_us": _microseconds(self.page_in.seconds, left),
            "fixups_us": _microseconds(self.fixups.seconds, left),
            "round_trip_us": _microseconds(spent.seconds, left),
            "fixup_ns": self.made_seconds * 1e9 / self.made if self.made else None,
            "cpu_us": None if self.squeezed else _microseconds(spent.cpu_seconds, left),
        }


def _in_memory(state: State) -> int:
    """Private pages with fixups that are in memory."""
    return state.pages.copies - state.pages.swapped


def _microseconds(seconds: float, pages: int) -> float | None:
    return seconds * 1e6 / pages if pages else None
