# SPDX-License-Identifier: Apache-2.0
"""What a survey finds; its document has the same members, and docs/survey.md explains them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mapscratch.elf import LibrarySurvey
from mapscratch.errors import UserError


class CensusError(UserError, RuntimeError):
    """There is nothing to look at, or it can't be looked at here; the message says why."""


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
    relocated_pages: int  # of pages with relocations
    saved_pages: int  # of these, what relocation would leave alone under `mapscratch run`
    other_pages: int  # of pages without


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
    relocated_pss_bytes: int  # a page that n forked processes share is an n-th
    anonymous_bytes: int  # heap, stacks, .bss: memory and swap of no file
    by_kind_pages: dict[str, int]  # for each of `KINDS` the relocated pages with such a fixup
    libraries: tuple[HeldFile, ...]  # those of which it has a private copy


@dataclass(frozen=True, slots=True)
class Census:
    """What was found: libraries, what processes hold, and what could not be looked at."""

    libraries: tuple[LibrarySurvey, ...] = ()
    processes: tuple[ProcessSurvey, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    seconds: float = field(default=0.0, compare=False)
