# SPDX-License-Identifier: Apache-2.0
"""What it takes more where the kernel looks for pages itself: round trips in a squeezed group.

MADV_PAGEOUT is told which pages to reclaim. Under memory pressure the kernel walks its lists, takes
some of a process's other pages among them, and comes back for those that it could not take at once.
The same processes do both, in the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mapscratch.lab.compare.rounds import run_round, swap_needed
from mapscratch.lab.cost.costs import SQUEEZE
from mapscratch.lab.cost.generated import WORDS_PER_PAGE
from mapscratch.lab.cost.lines import Shape, shape_workload
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Heading, Timer, real_words
from mapscratch.lab.rig.machine import (
    CgroupError,
    SwapError,
    SwapKind,
    probe_temporary_memory_cgroup,
    probe_temporary_swap,
)
from mapscratch.lab.rig.results import Settings
from mapscratch.lab.rig.strategies import STRATEGIES, Strategy
from mapscratch.lab.rig.surroundings import Announce, Surroundings, prepare
from mapscratch.lab.rig.workload import Workload

_PROCESSES = 8
_PAGES = 1024
"""Of each process: many, beside what a squeeze finds of the processes' other memory."""
_SHAPE = Shape(256)
_STRATEGIES = tuple(one for one in STRATEGIES.values() if one.reclaimed_by_kernel)


class SqueezeTimer(Timer):
    """Measures what a round trip takes more in a squeezed control group than by MADV_PAGEOUT.

    Args:
        folder: where the library goes.
        swaps: temporary ones to make, one each round; none: nothing is measured, for nothing of
            the machine is to be changed.
        announce: is told what is about to be changed on the machine.
    """

    def __init__(self, folder: Path, swaps: Sequence[SwapKind], announce: Announce) -> None:
        super().__init__()
        self._folder = folder
        self._announce = announce
        self._swaps = tuple(dict.fromkeys(swaps))
        self._workload: Workload | None = None

    def headings(self) -> list[Heading]:
        """For private pages, and for each engine whose pages the kernel drops."""
        about = (
            "Round trip, beyond that with MADV_PAGEOUT: the kernel looks for the pages, and takes "
            "others of the processes as well. A temporary control group; "
        )
        return [
            Heading(
                _name(one),
                f"a squeezed group, more than MADV_PAGEOUT ({one.name})",
                "page",
                about + ("all swaps in turns." if one.name == "private" else "no swap is used."),
            )
            for one in _STRATEGIES
        ]

    def once(self, number: int) -> Figures:
        """Two rounds of each strategy: one by MADV_PAGEOUT, one squeezed."""
        if not self._workload:
            self._prepare()
        assert self._workload
        settings = _settings(self._swaps[number % len(self._swaps)])
        try:
            with prepare(settings, swap_needed(self._workload, settings), _known) as surroundings:
                return self._round(self._workload, number, surroundings)
        except (SwapError, CgroupError) as error:
            raise CannotMeasure(str(error.strerror)) from None

    def _round(self, workload: Workload, number: int, surroundings: Surroundings) -> Figures:
        figures: Figures = {}
        for strategy in _STRATEGIES:
            if _name(strategy) in self.left_out:
                continue
            asked, squeezed = (
                run_round(
                    workload, strategy, _PROCESSES, number, surroundings, squeezed=how
                ).round_trip_us
                for how in (False, True)
            )
            if asked is not None and squeezed is not None:
                figures[_name(strategy)] = (squeezed - asked) * 1e3
        return figures

    def _prepare(self) -> None:
        if not self._swaps:
            raise CannotMeasure("a control group is made only if swap is, too: --swap, as root")
        probe = probe_temporary_memory_cgroup()
        if not probe:
            raise CannotMeasure(probe.reason)
        filler = real_words(_SHAPE.pages * WORDS_PER_PAGE)
        self._workload = shape_workload(self._folder, _SHAPE, filler, _PAGES)
        size = swap_needed(self._workload, _settings(self._swaps[0]))
        probes = {kind: probe_temporary_swap(kind, size) for kind in self._swaps}
        self._swaps = tuple(kind for kind in self._swaps if probes[kind])
        if not self._swaps:
            raise CannotMeasure("; ".join(probe.reason for probe in probes.values()))
        self._announce(
            "Control group: for this run one is made in each round, squeezed, and removed."
        )
        for strategy in _STRATEGIES:
            if reason := strategy.unavailable():
                self.left_out[_name(strategy)] = reason


def _name(strategy: Strategy) -> str:
    return f"{SQUEEZE}.{strategy.name}"


def _settings(kind: SwapKind) -> Settings:
    return Settings((_PROCESSES,), 1, 0.0, ("private",), "cgroup", kind, _PAGES)


def _known(said: str) -> None:
    """What is made in each round was announced before the first."""
