# SPDX-License-Identifier: Apache-2.0
"""Measuring what fixups and pages cost here: all timers take turns, round by round, in one run.

So whatever disturbs the machine meanwhile disturbs all figures alike, and ratios between them hold.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from mapscratch.lab.cost.costs import Costs, Measurement
from mapscratch.lab.cost.ksm_costs import KsmTimer
from mapscratch.lab.cost.lines import LineTimer
from mapscratch.lab.cost.loader_costs import LoaderTimer
from mapscratch.lab.cost.page_costs import PageTimer
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Timer, working_folder
from mapscratch.lab.rig.machine import SwapKind
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.rig.surroundings import Announce
from mapscratch.terminal import Progress

DEFAULT_SECONDS = 60.0
_MOST_ROUNDS = 20


def measure(
    swaps: Sequence[SwapKind] | None = None,
    *,
    seconds: float = DEFAULT_SECONDS,
    announce: Announce,
    progress: Progress,
) -> Costs:
    """Measures, all of it in one run in which the measurements take turns.

    What can't be measured here is left out, and the reason is told. Files, swap, settings and
    processes that are made for it are gone when it returns or raises.

    Args:
        swaps: temporary swaps to make, one after the other in each round (root). None, or none of
            them: the swap that is there, if any.
        seconds: about how long it may take in all. At least one round is made.
        announce: is told what is about to be changed on the machine.
        progress: is told what is done.

    Raises:
        OSError: there is no room for the files, or something could not be removed.
        WorkerError: a process that measures fails or is killed.
    """
    started = time.monotonic()
    with working_folder() as folder:
        lines = LineTimer(Path(folder), swaps or (), announce)
        timers: dict[str, Timer] = {
            "ld.so": LoaderTimer(Path(folder)),
            "page faults": PageTimer(Path(folder)),
            "round trips": lines,
            "KSM": KsmTimer(),
        }
        run = _Run(timers, started, seconds, progress)
        run.all_rounds()
        found_lines = lines.lines()
        left_out = run.left_out()
        return Costs(
            measurements=tuple(run.measurements()),
            lines=tuple(found_lines),
            checks=tuple(check for timer in timers.values() for check in timer.checks()),
            left_out=left_out,
            notes=(*run.notes, *(note for timer in timers.values() for note in timer.notes())),
            rounds=run.rounds,
            seconds=time.monotonic() - started,
        )


def measurements_of(timers: Iterable[Timer], rounds: Sequence[Figures]) -> list[Measurement]:
    """What timers found, over the rounds; without what is lost in noise.

    Args:
        timers: whose headings say what a figure is.
        rounds: the figures of each.
    """
    measurements = []
    for heading in (heading for timer in timers for heading in timer.headings()):
        values = [figures[heading.name] for figures in rounds if heading.name in figures]
        spread = Spread.of(values)
        if spread and spread.median > 0:
            measurements.append(
                Measurement(
                    name=heading.name,
                    title=heading.title,
                    per=heading.per,
                    **asdict(spread),
                    rounds=len(values),
                    note=heading.note,
                )
            )
    return measurements


class _Run:
    """The rounds, within the time."""

    def __init__(
        self, timers: dict[str, Timer], started: float, seconds: float, progress: Progress
    ) -> None:
        self.timers = timers
        self.notes: list[str] = []
        self.rounds = 0
        self._started = started
        self._seconds = seconds
        self._progress = progress
        self._stopped: dict[str, str] = {}
        self._found: list[Figures] = []

    def all_rounds(self) -> None:
        """At least one, and then as many as there is time for."""
        load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
        if load > processors:
            self.notes.append(
                f"The machine was busy when this began (load {load:.1f} on {processors} "
                "processors): what takes long is interrupted, and seems to take longer."
            )
        turns: list[float] = []
        for number in range(1, _MOST_ROUNDS + 1):
            before = time.monotonic()
            # The first one makes the files.
            if turns and before + statistics.median(turns[1:] or turns) > self._end:
                break
            self._round(number)
            self.rounds = number
            turns.append(time.monotonic() - before)
        if self.rounds == 1:
            self.notes.append(
                f"The {self._seconds:g} s suffice for one round only, which has no spread."
            )

    @property
    def _end(self) -> float:
        return self._started + self._seconds

    def _round(self, number: int) -> None:
        names = [name for name in self.timers if name not in self._stopped]
        first = number % max(len(names), 1)
        figures: Figures = {}
        for name in names[first:] + names[:first]:
            gone = (time.monotonic() - self._started) / self._seconds
            self._progress(f"round {number}, {name}", min(gone, 1.0))
            try:
                figures |= self.timers[name].once(number)
            except CannotMeasure as reason:
                self._stopped[name] = str(reason)
        self._found.append(figures)

    def measurements(self) -> list[Measurement]:
        """Those that were found in some round."""
        return measurements_of(self.timers.values(), self._found)

    def left_out(self) -> dict[str, str]:
        """What was not found, and why."""
        reasons: dict[str, str] = {}
        measured = {one.name for one in self.measurements()}
        for name, timer in self.timers.items():
            reasons |= timer.left_out
            for heading in timer.headings():
                if heading.name not in measured and heading.name not in reasons:
                    reasons[heading.name] = self._stopped.get(
                        name, "too little for this machine's noise: give it more with --seconds"
                    )
        return {name: reason for name, reason in reasons.items() if name not in measured}
