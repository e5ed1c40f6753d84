# SPDX-License-Identifier: Apache-2.0
"""What tests of surveyed processes share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mapscratch.lab.survey.census import HeldFile, ProcessSurvey
from mapscratch.lab.survey.processes import survey_processes
from support.patience import patient
from support.waiting import eventually

_SECONDS = 60.0


@contextmanager
def running(
    command: Sequence[str | Path], variables: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """A process that has said one line and waits; its number and the line.

    It, and what it has forked, ends with the block.

    Raises:
        AssertionError: it has ended, or said nothing in a minute.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
        start_new_session=True,
    ) as process:
        timer = threading.Timer(patient(_SECONDS), _end, [process])
        timer.start()
        try:
            assert process.stdout
            line = process.stdout.readline()
            timer.cancel()
            timer.join()  # Beside other threads, a survey works in another way.
            assert line, f"status {process.wait()}"
            yield process.pid, line
        finally:
            timer.cancel()
            _end(process)


@contextmanager
def sleeping() -> Iterator[int]:
    """A small process that has loaded its libraries; its number. It ends with the block."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            maps = Path(f"/proc/{process.pid}/maps")
            assert eventually(lambda: "libc" in maps.read_text())
            yield process.pid
        finally:
            process.kill()


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def one(pid: int, path: Path) -> tuple[ProcessSurvey, HeldFile]:
    census = survey_processes([pid])
    assert not [skipped for skipped in census.skipped if skipped.path == path]
    (process,) = census.processes
    (held,) = [held for held in process.libraries if held.path == path]
    return process, held
