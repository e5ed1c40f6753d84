# SPDX-License-Identifier: Apache-2.0
"""What an experiment finds: one `Round` a strategy and round, and what the rounds have in common.

A figure that is not known, or means nothing where it was measured, is None and not 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from mapscratch.text import swap_name

ENGINES = ("kernel", "lazyfree", "dontneed")
"""Those that bring pages back by fixups, the preferred one first."""

Pressure: TypeAlias = Literal["pageout", "cgroup"]
SwapChoice: TypeAlias = Literal["none", "auto", "file", "zram", "zswap"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be done.

    Attributes:
        processes: numbers of processes, ascending.
        rounds: at most so many for each of them.
        seconds: the time for everything.
        strategies: by name, in the order in which they take turns.
        pressure: ``"pageout"``: the kernel is asked to reclaim the pages (MADV_PAGEOUT).
            ``"cgroup"``: a memory control group is squeezed, and the kernel chooses.
        swap: what to swap to; ``"none"``: whatever is there.
        pages: at least so many pages with fixups a process.
    """

    processes: tuple[int, ...]
    rounds: int
    seconds: float
    strategies: tuple[str, ...]
    pressure: Pressure
    swap: SwapChoice
    pages: int


@dataclass(frozen=True, slots=True)
class SwapDescription:
    """Where the kernel swaps to while the experiment runs.

    Attributes:
        kind: of the area that is filled first; ``"none"`` if there is no swap.
        path: of it.
        size: bytes of all areas.
        free: bytes of all areas that nothing used when the experiment began.
        temporary: it was made for this experiment.
        zswap: the compressed cache in memory is in front of it; None if that can't be read.
    """

    kind: Literal["none", "file", "partition", "zram"]
    path: str
    size: int
    free: int
    temporary: bool
    zswap: bool | None

    @property
    def title(self) -> str:
        """Where the kernel swaps to, in words; ``swap`` if there is none."""
        if self.kind == "none":
            return "swap"
        article = "" if self.kind == "zram" else "a "
        return f"{article}{swap_name(self.kind)}{' behind zswap' if self.zswap else ''}"


@dataclass(frozen=True, slots=True)
class LibrarySummary:
    """One library, mapped once.

    Attributes:
        path: the file.
        mapped_pages: pages of its window.
        pages: of these, those with fixups.
        fixups: words stored.
        kinds: how many words, by kind of relocation.
        skipped: relocations not applied, by reason or kind.
    """

    path: Path
    mapped_pages: int
    pages: int
    fixups: int
    kinds: dict[str, int]
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one strategy; numbers are of all its processes together, unless they say else.

    *Pages* are pages that hold fixups. Pages and bytes of swap are counted in the page tables of
    the mappings; only the figures named ``machine_...`` are of the whole machine, and other
    processes move them too. Times are a page that left memory, one process running at a time.

    Attributes:
        processes: how many.
        strategy: its name.
        number: of the round, from 1.
        pages: fixed up.
        fixups: made on them.
        fixups_per_page: their ratio.
        swapped_out_pages: in swap after reclaim. In a squeezed group the most seen at a time.
            None where the kernel isn't asked to reclaim.
        swapped_out_bytes: the same in bytes.
        swapped_in_pages: of these, no longer in swap after page-in.
        swapped_in_bytes: the same in bytes.
        swap_cache_pages: pages in swap that the kernel still had in memory at page-in: those that
            could not be made to leave, or more, if the machine read fewer than came back. In a
            squeezed group pages without fixups may be among them. None if none is in swap.
        dropped_by_kernel_pages: gone without being written.
        dropped_by_us_pages: dropped by an engine.
        kept_pages: still in memory after reclaim.
        storage_bytes_read: read for these processes at page-in, from files and swap.
        file_bytes_read: of them, from files; known where the machine read nothing from swap.
        clean_pss_bytes: Pss of all mapped pages before anything was stored to them.
        before_resident_bytes: Rss of all mapped pages before reclaim.
        before_lazily_freed_bytes: of it, lazily freed: the kernel may take it at any moment.
        after_resident_bytes: Rss after reclaim.
        after_lazily_freed_bytes: of it, lazily freed.
        locked_bytes: of the memory before reclaim, locked: the kernel never swaps it.
        asked_bytes: private memory before reclaim, that is, what reclaim was for.
        given_back_bytes: private memory that had left the processes after reclaim.
        given_back_per_mib: MiB given back for each MiB asked for.
        first_page_in_us: µs a page for reading it the first time.
        first_fixups_us: µs a page for making its fixups the first time, where page-in doesn't.
        reclaim_us: µs a page for leaving memory: the call that does it, not what a device goes
            on writing afterwards.
        page_in_us: µs a page for coming back, with page-in fixups.
        fixups_us: µs a page for making its fixups again, or looking that none is missing.
        round_trip_us: µs a page for leaving and coming back as it was. `fixups_us` is in it but
            for ``private``, which needs not look.
        fixup_ns: ns for one fixup where its page is in memory: comparing and storing a value that
            is known.
        fixups_at_page_in: fixups made by page-in.
        fixups_after_page_in: fixups missing after page-in, and made.
        fixup_table_bytes: ordinary memory in which page-in fixups keep their values, 16 bytes a
            fixup; None for strategies that may work out a value when it is missing.
        cpu_us: µs a page of processor time of the processes for the round trip. The kernel's own
            threads are not in it.
        major_faults: page faults that waited for a device, at page-in.
        words_checked: words read and compared.
        wrong_words: of them wrong.
        lost_words: of them lost once more by a drop before they were read, and made again.
        machine_pages_written: pswpout during reclaim, of the machine.
        machine_pages_read: pswpin during page-in, of the machine, read-ahead included.
        machine_pages_compressed: zswpout during reclaim, of the machine.
        machine_pages_decompressed: zswpin during page-in, of the machine.
        machine_pages_lazily_freed: pglazyfreed during reclaim, of the machine.
        seconds: that the round took, all steps.
    """

    processes: int
    strategy: str
    number: int
    pages: int
    fixups: int
    fixups_per_page: float
    swapped_out_pages: int | None
    swapped_out_bytes: int | None
    swapped_in_pages: int | None
    swapped_in_bytes: int | None
    swap_cache_pages: int | None
    dropped_by_kernel_pages: int | None
    dropped_by_us_pages: int | None
    kept_pages: int
    storage_bytes_read: int | None
    file_bytes_read: int | None
    clean_pss_bytes: int
    before_resident_bytes: int
    before_lazily_freed_bytes: int
    after_resident_bytes: int
    after_lazily_freed_bytes: int
    locked_bytes: int
    asked_bytes: int
    given_back_bytes: int
    given_back_per_mib: float | None
    first_page_in_us: float
    first_fixups_us: float
    reclaim_us: float | None
    page_in_us: float | None
    fixups_us: float | None
    round_trip_us: float | None
    fixup_ns: float | None
    fixups_at_page_in: int
    fixups_after_page_in: int
    fixup_table_bytes: int | None
    cpu_us: float | None
    major_faults: int
    words_checked: int
    wrong_words: int
    lost_words: int
    machine_pages_written: int | None
    machine_pages_read: int | None
    machine_pages_compressed: int | None
    machine_pages_decompressed: int | None
    machine_pages_lazily_freed: int | None
    seconds: float


IDENTITY = ("processes", "strategy", "number")
FIGURES = tuple(field.name for field in fields(Round) if field.name not in IDENTITY)
"""The names of a round's figures."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """The spread of the values that are known; None if none is."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one strategy with one number of processes.

    Attributes:
        processes: how many.
        strategy: its name.
        rounds: how many.
        figures: each of `FIGURES` over the rounds; None where it is not known.
        ratio_to_private: its round trip over that of ``private`` in the same round, over the
            rounds; None where one of them is not known.
    """

    processes: int
    strategy: str
    rounds: int
    figures: dict[str, Spread | None]
    ratio_to_private: Spread | None

    def median(self, figure: str) -> float | None:
        """The median of a figure; None where it is not known."""
        spread = self.figures[figure]
        return spread.median if spread else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was found.

    Attributes:
        settings: what was to be done.
        libraries: what was mapped.
        copies: how often in each process.
        swap: where the kernel swapped to.
        left_out: strategies that don't run here, and why.
        notes: what else the reader should know, a sentence each.
        rounds: in the order in which they were made.
        seconds: that everything took.
        readers: who has said what every word should be; see `mapscratch.lab.oracle`.
    """

    settings: Settings
    libraries: tuple[LibrarySummary, ...]
    copies: int
    swap: SwapDescription
    left_out: dict[str, str]
    notes: tuple[str, ...]
    rounds: tuple[Round, ...]
    seconds: float
    readers: tuple[str, ...] = ("readelf",)

    @property
    def strategies(self) -> list[str]:
        """The strategies that were measured, in the order of the settings."""
        measured = {one.strategy for one in self.rounds}
        return [name for name in self.settings.strategies if name in measured]

    @property
    def processes(self) -> list[int]:
        """The numbers of processes that were measured, ascending."""
        return sorted({one.processes for one in self.rounds})

    @property
    def wrong_words(self) -> int:
        """In all rounds."""
        return sum(one.wrong_words for one in self.rounds)

    @property
    def words_checked(self) -> int:
        """In all rounds."""
        return sum(one.words_checked for one in self.rounds)

    def summaries(self) -> list[Summary]:
        """One for each number of processes and strategy, in that order."""
        return [
            self._summary(processes, strategy)
            for processes in self.processes
            for strategy in self.strategies
            if self._rounds(processes, strategy)
        ]

    def summary(self, processes: int, strategy: str) -> Summary | None:
        """The rounds of one strategy with one number of processes; None if there are none."""
        return self._summary(processes, strategy) if self._rounds(processes, strategy) else None

    def _rounds(self, processes: int, strategy: str) -> list[Round]:
        return [
            one for one in self.rounds if (one.processes, one.strategy) == (processes, strategy)
        ]

    def _summary(self, processes: int, strategy: str) -> Summary:
        rounds = self._rounds(processes, strategy)
        return Summary(
            processes=processes,
            strategy=strategy,
            rounds=len(rounds),
            figures={name: Spread.of(getattr(one, name) for one in rounds) for name in FIGURES},
            ratio_to_private=_ratio(rounds, self._rounds(processes, "private")),
        )


def _ratio(rounds: Sequence[Round], private: Sequence[Round]) -> Spread | None:
    base = {one.number: one.round_trip_us for one in private}
    ratios = []
    for one in rounds:
        denominator = base.get(one.number)
        if one.round_trip_us is not None and denominator:
            ratios.append(one.round_trip_us / denominator)
    return Spread.of(ratios)
