# SPDX-License-Identifier: Apache-2.0
"""The whole census: what was asked for, looked at in one go."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from mapscratch.lab.survey.census import Census, CensusError, Skipped
from mapscratch.lab.survey.files import find_files
from mapscratch.lab.survey.libraries import survey_files
from mapscratch.lab.survey.processes import survey_processes
from mapscratch.terminal import Progress


def take_census(
    names: Sequence[str | os.PathLike[str]] = (),
    installed: bool = False,
    pids: Sequence[int] | None = (),
    progress: Progress = lambda what, share: None,
) -> Census:
    """Look at files, and at running processes; None for all of these but this one.

    A CensusError: there is no library and no process among what was asked for. An OSError: one that
    was named does not exist, or may not be read.
    """
    started = time.monotonic()
    wants_files, wants_processes = installed or bool(names), pids is None or bool(pids)
    share = 0.5 if wants_files and wants_processes else 1.0
    parts = []
    if wants_files:
        progress("looking for files", 0.0)
        found = find_files(names, installed=installed)
        parts.append(Census(skipped=tuple(found.skipped)))
        parts.append(survey_files(found.paths, lambda what, done: progress(what, done * share)))
    if wants_processes:
        parts.append(
            survey_processes(pids, lambda what, done: progress(what, 1.0 - share + done * share))
        )
    # The same name and content may have been found as a file and in a process.
    libraries = {
        (one.path, one.file_size, one.build_id): one for part in parts for one in part.libraries
    }
    census = Census(
        libraries=tuple(libraries.values()),
        processes=tuple(process for part in parts for process in part.processes),
        skipped=tuple(dict.fromkeys(one for part in parts for one in part.skipped)),
        seconds=time.monotonic() - started,
    )
    if not census.libraries and not census.processes:
        asked = ", ".join(map(str, names)) or "what was asked for"
        raise CensusError(_reason(census.skipped) or f"{asked}: no ELF file is there")
    return census


def _reason(skipped: Sequence[Skipped]) -> str:
    first = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:1])
    return first if len(skipped) < 2 else f"none of {len(skipped):,} can be surveyed; {first}"
