# SPDX-License-Identifier: Apache-2.0
"""What a survey finds; its document has the same members, and docs/survey.md explains them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mapscratch.elf import LibrarySurvey


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, folder or process (``/proc/PID``) that could not be looked at, and why."""

    path: Path
    reason: str

    @classmethod
    def because(cls, path: str | Path, problem: OSError) -> Skipped:
        """By the error."""
        return cls(Path(path), problem.strerror or str(problem))


@dataclass(frozen=True, slots=True)
class HeldFile:
    """The private copies that a process has of one file's pages, in memory or in swap."""

    path: Path
    relocated_pages: int
    """Of pages with relocations."""
    saved_pages: int
    """Of these, what relocation would leave alone under `mapscratch run`."""
    other_pages: int
    """Of pages without."""


@dataclass(frozen=True, slots=True)
class ProcessSurvey:
    """What a process holds: of all memory, of file pages as in `HeldFile`, and by file."""

    pid: int
    command: str
    user: str
    pss_bytes: int
    private_dirty_bytes: int
    swap_bytes: int
    relocated_pages: int
    saved_pages: int
    other_file_pages: int
    relocated_pss_bytes: int
    """The relocated pages; one that n forked processes share is an n-th."""
    anonymous_bytes: int
    """Heap, stacks, .bss: memory and swap of no file."""
    by_kind_pages: dict[str, int]
    """For each of `KINDS` the relocated pages with a fixup of that kind."""
    libraries: tuple[HeldFile, ...]
    """Those of which it has a private copy."""


@dataclass(frozen=True, slots=True)
class Census:
    """What was found: libraries, what processes hold, and what could not be looked at."""

    libraries: tuple[LibrarySurvey, ...] = ()
    processes: tuple[ProcessSurvey, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    seconds: float = field(default=0.0, compare=False)
