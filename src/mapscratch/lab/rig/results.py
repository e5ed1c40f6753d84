# SPDX-License-Identifier: Apache-2.0
"""What an experiment finds: one `Round` a strategy and round, and what the rounds have in common.

A figure that is not known, or means nothing where it was measured, is None and not 0. What is said
beside the members of a document's classes is also in docs/compare-schema.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
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
    """What is to be done."""

    processes: tuple[int, ...]  # numbers of processes, ascending
    rounds: int  # at most so many for each of them
    seconds: float  # the time for everything
    strategies: tuple[str, ...]  # by name, in the order in which they take turns
    pressure: Pressure  # ``"pageout"``: by MADV_PAGEOUT; ``"cgroup"``: a control group is squeezed
    swap: SwapChoice  # what to swap to; ``"none"``: whatever is there
    pages: int  # at least so many pages with fixups a process


@dataclass(frozen=True, slots=True)
class SwapDescription:
    """Where the kernel swaps to while the experiment runs."""

    kind: Literal["none", "file", "partition", "zram"]  # of the area that is filled first
    path: str  # of it
    size: int  # bytes of all areas
    free: int  # bytes of all areas that nothing used when the experiment began
    temporary: bool  # it was made for this experiment
    zswap: bool | None  # the compressed cache is in front of it; None if that can't be read

    @property
    def title(self) -> str:
        """Where the kernel swaps to, in words; ``swap`` if there is none."""
        if self.kind == "none":
            return "swap"
        article = "" if self.kind == "zram" else "a "
        return f"{article}{swap_name(self.kind)}{' behind zswap' if self.zswap else ''}"


@dataclass(frozen=True, slots=True)
class LibrarySummary:
    """One library, mapped once."""

    path: Path  # the file
    mapped_pages: int  # pages of its window
    pages: int  # of these, those with fixups
    fixups: int  # words stored
    kinds: dict[str, int]  # how many words, by kind of relocation
    skipped: dict[str, int]  # relocations not applied, by reason or kind


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one strategy; numbers are of all its processes together, unless they say else.

    *Pages* are pages that hold fixups. Pages and bytes of swap are counted in the page tables of
    the mappings; only the figures named ``machine_...`` are of the whole machine, and other
    processes move them too. Times are a page that left memory, one process running at a time.
    """

    processes: int  # how many
    strategy: str  # its name
    number: int  # of the round, from 1
    pages: int  # fixed up
    fixups: int  # made on them
    fixups_per_page: float  # their ratio
    # in swap after reclaim, or at most in a squeezed group; None where the kernel isn't asked
    swapped_out_pages: int | None
    swapped_out_bytes: int | None  # the same in bytes
    swapped_in_pages: int | None  # of these, no longer in swap after page-in
    swapped_in_bytes: int | None  # the same in bytes
    # pages in swap that the kernel still had in memory at page-in: that could not be made to leave,
    # or were not read; in a squeezed group those without fixups, too. None if none is in swap
    swap_cache_pages: int | None
    dropped_by_kernel_pages: int | None  # gone without being written
    dropped_by_us_pages: int | None  # dropped by an engine
    kept_pages: int  # still in memory after reclaim
    storage_bytes_read: int | None  # read for these processes at page-in, from files and swap
    file_bytes_read: int | None  # of them, from files; None if the machine read from swap
    clean_pss_bytes: int  # Pss of all mapped pages before anything was stored to them
    before_resident_bytes: int  # Rss of all mapped pages before reclaim
    before_lazily_freed_bytes: int  # of it, lazily freed: the kernel may take it at any moment
    after_resident_bytes: int  # Rss after reclaim
    after_lazily_freed_bytes: int  # of it, lazily freed
    locked_bytes: int  # of the memory before reclaim, locked: the kernel never swaps it
    asked_bytes: int  # private memory before reclaim, that is, what reclaim was for
    given_back_bytes: int  # private memory that had left the processes after reclaim
    given_back_per_mib: float | None  # MiB given back for each MiB asked for
    first_page_in_us: float  # µs a page for reading it the first time
    first_fixups_us: float  # µs a page for making its fixups the first time, where page-in doesn't
    reclaim_us: float | None  # µs a page for leaving memory; a device may go on writing then
    page_in_us: float | None  # µs a page for coming back, with page-in fixups
    fixups_us: float | None  # µs a page for its fixups again, or looking that none is missing
    # µs a page for leaving and coming back as it was; `fixups_us` is in it but for ``private``
    round_trip_us: float | None
    fixup_ns: float | None  # ns for comparing and storing one known value in a page in memory
    fixups_at_page_in: int  # fixups made by page-in
    fixups_after_page_in: int  # fixups missing after page-in, and made
    fixup_table_bytes: int | None  # memory for values of page-in fixups; None if none are kept
    cpu_us: float | None  # µs a page of processor time for the round trip, without kernel threads
    major_faults: int  # page faults that waited for a device, at page-in
    words_checked: int  # words read and compared
    wrong_words: int  # of them wrong
    lost_words: int  # of them lost once more by a drop before they were read, and made again
    machine_pages_written: int | None  # pswpout during reclaim, of the machine
    machine_pages_read: int | None  # pswpin during page-in, of the machine, read-ahead included
    machine_pages_compressed: int | None  # zswpout during reclaim, of the machine
    machine_pages_decompressed: int | None  # zswpin during page-in, of the machine
    machine_pages_lazily_freed: int | None  # pglazyfreed during reclaim, of the machine
    seconds: float  # that the round took, all steps


FIGURES = tuple(
    field.name for field in fields(Round) if field.name not in ("processes", "strategy", "number")
)
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
    """All rounds of one strategy with one number of processes."""

    processes: int
    strategy: str
    rounds: int
    figures: dict[str, Spread | None]  # each of `FIGURES` over the rounds
    ratio_to_private: Spread | None  # of round trips, each over that of the same round

    def median(self, figure: str) -> float | None:
        """The median of a figure; None where it is not known."""
        spread = self.figures[figure]
        return spread.median if spread else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was found."""

    settings: Settings
    libraries: tuple[LibrarySummary, ...]
    copies: int  # of each library in each process
    swap: SwapDescription
    left_out: dict[str, str]  # strategies that don't run here, and why
    notes: tuple[str, ...]  # what else the reader should know, a sentence each
    rounds: tuple[Round, ...]  # in the order in which they were made
    seconds: float
    readers: tuple[str, ...] = ("readelf",)  # of `mapscratch.lab.oracle`

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
        found = (self.summary(count, name) for count in self.processes for name in self.strategies)
        return [summary for summary in found if summary]

    def summary(self, processes: int, strategy: str) -> Summary | None:
        """The rounds of one strategy with one number of processes; None if there are none."""
        rounds = self._rounds(processes, strategy)
        if not rounds:
            return None
        figures = {name: Spread.of(getattr(one, name) for one in rounds) for name in FIGURES}
        private = {one.number: one.round_trip_us for one in self._rounds(processes, "private")}
        ratios = [
            one.round_trip_us / base
            for one in rounds
            if one.round_trip_us is not None and (base := private.get(one.number))
        ]
        return Summary(processes, strategy, len(rounds), figures, Spread.of(ratios))

    def _rounds(self, processes: int, strategy: str) -> list[Round]:
        return [
            one for one in self.rounds if (one.processes, one.strategy) == (processes, strategy)
        ]
