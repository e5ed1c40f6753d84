# SPDX-License-Identifier: Apache-2.0
"""Measuring what fixups and pages cost here: all timers take turns, round by round, in one run.

So whatever disturbs the machine meanwhile disturbs all figures alike, and ratios between them hold.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from mapscratch.lab.cost.costs import Costs, Measurement
from mapscratch.lab.cost.ksm_costs import KsmTimer
from mapscratch.lab.cost.lines import LineTimer
from mapscratch.lab.cost.loader_costs import LoaderTimer
from mapscratch.lab.cost.page_costs import PageTimer
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Timer, in_turn, working_folder
from mapscratch.lab.rig.machine.swap import SwapKind
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.rig.surroundings import Announce
from mapscratch.terminal import Progress

DEFAULT_SECONDS = 60.0
_MOST_ROUNDS = 20
_NOISE = "too little for this machine's noise: give it more with --seconds"


def measure(
    swaps: Sequence[SwapKind] | None = None,
    *,
    seconds: float = DEFAULT_SECONDS,
    announce: Announce,
    progress: Progress,
) -> Costs:
    """Measures for some seconds, at least one round, with temporary swaps (root) or what is there.

    What can't be measured here is left out, and the reason is told. Files, swap, settings and
    processes that are made for it are gone when it returns or raises.
    """
    started = time.monotonic()
    with working_folder() as folder:
        lines = LineTimer(folder, swaps or (), announce)
        timers: dict[str, Timer] = {
            "ld.so": LoaderTimer(folder),
            "page faults": PageTimer(folder),
            "round trips": lines,
            "KSM": KsmTimer(folder),
        }
        run = _Run(timers, started, seconds, progress)
        run.all_rounds()
        # Which lines are left out is known then.
        found_lines, measurements = tuple(lines.lines()), tuple(run.measurements())
        return Costs(
            measurements=measurements,
            lines=found_lines,
            checks=tuple(check for timer in timers.values() for check in timer.checks()),
            left_out=run.left_out({one.name for one in measurements}),
            notes=(*run.notes, *(note for timer in timers.values() for note in timer.notes())),
            rounds=len(run.rounds),
            seconds=time.monotonic() - started,
        )


@dataclass(slots=True)
class _Run:
    """The rounds, within the time."""

    timers: dict[str, Timer]
    started: float
    seconds: float
    progress: Progress
    rounds: list[Figures] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)

    def all_rounds(self) -> None:
        """At least one, and then as many as there is time for."""
        load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
        if load > processors:
            self.notes.append(
                f"The machine was busy when this began (load {load:.1f} on {processors} "
                "processors): what takes long is interrupted, and seems to take longer."
            )
        turns: list[float] = []
        while len(turns) < _MOST_ROUNDS:
            before = time.monotonic()
            # The first one makes the files.
            likely = statistics.median(turns[1:] or turns or [0.0])
            if turns and before + likely > self.started + self.seconds:
                break
            self.rounds.append(self._round(len(turns) + 1))
            turns.append(time.monotonic() - before)
        if len(turns) == 1:
            self.notes.append(
                f"The {self.seconds:g} s suffice for one round only, which has no spread."
            )

    def _round(self, number: int) -> Figures:
        figures: Figures = {}
        for name in in_turn([name for name in self.timers if name not in self.stopped], number):
            gone = (time.monotonic() - self.started) / self.seconds
            self.progress(f"round {number}, {name}", min(gone, 1.0))
            try:
                figures |= self.timers[name].once(number)
            except CannotMeasure as reason:
                self.stopped[name] = str(reason)
        return figures

    def measurements(self) -> list[Measurement]:
        """What was found, over the rounds; without what is lost in noise."""
        found = []
        for heading in (heading for one in self.timers.values() for heading in one.headings()):
            values = [figures[heading.name] for figures in self.rounds if heading.name in figures]
            spread = Spread.of(values)
            if spread and spread.median > 0:
                found.append(Measurement(**asdict(heading), **asdict(spread), rounds=len(values)))
        return found

    def left_out(self, measured: set[str]) -> dict[str, str]:
        """What was not found, and why."""
        reasons: dict[str, str] = {}
        for name, timer in self.timers.items():
            why = self.stopped.get(name, _NOISE)
            reasons |= {heading.name: why for heading in timer.headings()} | timer.left_out
        return {name: reason for name, reason in reasons.items() if name not in measured}
