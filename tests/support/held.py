# SPDX-License-Identifier: Apache-2.0
"""What tests of surveyed processes share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mapscratch.census.processes import HeldFile, ProcessSurvey, survey_processes


@contextmanager
def running(
    command: Sequence[str | Path], variables: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """A process that has said one line and waits; its number and the line."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line, f"status {process.wait()}"
        yield process.pid, line
        process.kill()


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def one(pid: int, path: Path) -> tuple[ProcessSurvey, HeldFile]:
    census = survey_processes([pid])
    assert not [skipped for skipped in census.skipped if skipped.path == path]
    (process,) = census.processes
    (held,) = [held for held in process.files if held.path == path]
    return process, held
