# SPDX-License-Identifier: Apache-2.0
"""The whole census: what was asked for, looked at in one go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mapscratch.elf import LibrarySurvey
from mapscratch.errors import UserError
from mapscratch.lab.survey.files import FoundFiles, Skipped, find_files, installed_files
from mapscratch.lab.survey.libraries import SECONDS_FOR_ONE, survey_files
from mapscratch.lab.survey.processes import ProcessSurvey, survey_processes
from mapscratch.terminal import Progress


class CensusError(UserError, RuntimeError):
    """There is nothing to look at; the message says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look at; the parts add up.

    Attributes:
        names: files, and folders with all that is below them.
        installed: what the loader and this Python find by themselves.
        all_processes: all running processes but this one.
        pids: these processes.
    """

    names: Sequence[str | os.PathLike[str]] = ()
    installed: bool = False
    all_processes: bool = False
    pids: Sequence[int] = ()

    @property
    def has_processes(self) -> bool:
        """Whether any process is wanted."""
        return self.all_processes or bool(self.pids)

    @property
    def has_files(self) -> bool:
        """Whether files are wanted, other than those that processes have mapped."""
        return self.installed or bool(self.names)


@dataclass(frozen=True, slots=True)
class Census:
    """What was found.

    Attributes:
        wanted: what was looked for.
        libraries: of files and of processes, each once.
        processes: what processes hold.
        skipped: what could not be looked at.
        seconds: how long it took.
    """

    wanted: Wanted
    libraries: tuple[LibrarySurvey, ...]
    processes: tuple[ProcessSurvey, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    seconds: float = field(default=0.0, compare=False)


def take_census(
    wanted: Wanted,
    *,
    workers: int | None = None,
    seconds_for_one: float = SECONDS_FOR_ONE,
    progress: Progress = lambda what, share: None,
) -> Census:
    """Look at files and processes.

    Args:
        wanted: what to look at.
        workers: how many processes read files; None for as many as there are processors.
        seconds_for_one: a file that takes longer is skipped.
        progress: is told what is being done, and the share of it that is.

    Raises:
        CensusError: there is no library and no process among what was asked for.
        OSError: a file or process that was named does not exist; a process may not be read.
    """
    started = time.monotonic()
    libraries: list[LibrarySurvey] = []
    processes: tuple[ProcessSurvey, ...] = ()
    skipped: list[Skipped] = []
    share = 0.5 if wanted.has_files and wanted.has_processes else 1.0
    if wanted.has_files:
        progress("looking for files", 0.0)
        found = _find(wanted)
        census = survey_files(
            found.paths,
            workers=workers,
            seconds_for_one=seconds_for_one,
            progress=lambda what, done: progress(what, done * share),
        )
        libraries += census.libraries
        skipped += [*found.skipped, *census.skipped]
    if wanted.has_processes:
        held = survey_processes(
            None if wanted.all_processes else wanted.pids,
            workers=workers,
            seconds_for_one=seconds_for_one,
            progress=lambda what, done: progress(what, 1.0 - share + done * share),
        )
        libraries += held.libraries
        processes = held.processes
        skipped += held.skipped
    if not libraries and not processes:
        raise CensusError(_nothing(wanted, skipped))
    return Census(
        wanted=wanted,
        libraries=_each_once(libraries),
        processes=processes,
        skipped=tuple(dict.fromkeys(skipped)),
        seconds=time.monotonic() - started,
    )


def _find(wanted: Wanted) -> FoundFiles:
    found = installed_files() if wanted.installed else FoundFiles()
    named = find_files(wanted.names)
    for path in named.paths:
        found.add(path)
    found.skipped += named.skipped
    return found


def _each_once(libraries: Iterable[LibrarySurvey]) -> tuple[LibrarySurvey, ...]:
    """Leave out what was found both as a file and in a process: of the same name and content."""
    once: dict[tuple[Path, int, str | None], LibrarySurvey] = {}
    for library in libraries:
        once.setdefault((library.path, library.file_size, library.build_id), library)
    return tuple(once.values())


def _nothing(wanted: Wanted, skipped: Sequence[Skipped]) -> str:
    if len(skipped) == 1:
        return f"{skipped[0].path}: {skipped[0].reason}"
    if skipped:
        first = skipped[0]
        what = "files and processes" if wanted.has_processes else "files"
        return f"none of {len(skipped):,} {what} can be surveyed; {first.path}: {first.reason}"
    names = ", ".join(str(name) for name in wanted.names) or "what was asked for"
    return f"{names}: no ELF file is there"
