# SPDX-License-Identifier: Apache-2.0
"""The whole census: what was asked for, looked at in one go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mapscratch.elf import LibrarySurvey
from mapscratch.errors import UserError
from mapscratch.lab.survey.census import Census
from mapscratch.lab.survey.files import FoundFiles, find_files, installed_files
from mapscratch.lab.survey.libraries import survey_files
from mapscratch.lab.survey.processes import survey_processes
from mapscratch.terminal import Progress


class CensusError(UserError, RuntimeError):
    """There is nothing to look at; the message says why."""


def take_census(
    names: Sequence[str | os.PathLike[str]] = (),
    *,
    installed: bool = False,
    pids: Sequence[int] | None = (),
    progress: Progress = lambda what, share: None,
) -> Census:
    """Look at files and processes.

    Args:
        names: files, and folders with all that is below them.
        installed: also what the loader and this Python find by themselves.
        pids: running processes; None for all but this one.
        progress: is told what is being done, and the share of it that is.

    Raises:
        CensusError: there is no library and no process among what was asked for.
        OSError: a file or process that was named does not exist; a process may not be read.
    """
    started = time.monotonic()
    wants_files, wants_processes = installed or bool(names), pids is None or bool(pids)
    share = 0.5 if wants_files and wants_processes else 1.0
    parts = []
    if wants_files:
        progress("looking for files", 0.0)
        found = _find(names, installed)
        parts.append(Census(skipped=tuple(found.skipped)))
        parts.append(survey_files(found.paths, lambda what, done: progress(what, done * share)))
    if wants_processes:
        parts.append(
            survey_processes(pids, lambda what, done: progress(what, 1.0 - share + done * share))
        )
    census = Census(
        libraries=_each_once(library for part in parts for library in part.libraries),
        processes=tuple(process for part in parts for process in part.processes),
        skipped=tuple(dict.fromkeys(one for part in parts for one in part.skipped)),
        seconds=time.monotonic() - started,
    )
    if not census.libraries and not census.processes:
        names_said = ", ".join(map(str, names)) or "what was asked for"
        what = "files and processes" if wants_processes else "files"
        raise CensusError(_nothing(census, names_said, what))
    return census


def _find(names: Iterable[str | os.PathLike[str]], installed: bool) -> FoundFiles:
    found = installed_files() if installed else FoundFiles()
    named = find_files(names)
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


def _nothing(census: Census, names: str, what: str) -> str:
    if not census.skipped:
        return f"{names}: no ELF file is there"
    first, count = census.skipped[0], len(census.skipped)
    reason = f"{first.path}: {first.reason}"
    return reason if count == 1 else f"none of {count:,} {what} can be surveyed; {reason}"
