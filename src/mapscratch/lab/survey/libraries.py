# SPDX-License-Identifier: Apache-2.0
"""Many libraries surveyed by several processes, none of which a single file can take down.

Each process gets one file at a time. One that doesn't come back in time, or doesn't come back at
all (the OOM killer, a limit), costs its file and is replaced. Nothing of a file is trusted, but the
reader's bounds are of memory and of a multiple of the file's size: a sparse file of a terabyte may
still take long.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from mapscratch.elf import ElfError, LibrarySurvey, survey
from mapscratch.lab.rig.workers import start_worker
from mapscratch.lab.survey.census import Census, Skipped
from mapscratch.run.parent import endings_wait
from mapscratch.terminal import Progress

SECONDS_FOR_ONE = 30.0
"""The largest library of Debian, half a gigabyte, takes one."""


def survey_files(paths: Sequence[Path], progress: Progress = lambda what, share: None) -> Census:
    """Survey files, in parallel; a file that takes longer than `SECONDS_FOR_ONE` is skipped."""
    answers: dict[Path, LibrarySurvey | str] = {}
    wanted = list(dict.fromkeys(paths))
    waiting = wanted[::-1]
    workers: list[_Worker] = []
    try:
        for _ in range(min(len(os.sched_getaffinity(0)), len(waiting))):
            workers.append(_Worker(workers, waiting.pop()))
        while busy := [worker for worker in workers if worker.is_busy]:
            for worker in _ready(busy):
                path = worker.path
                answers[path] = worker.answer()
                if waiting and worker.connection.closed:
                    workers.append(_Worker(workers, waiting.pop()))
                elif waiting:
                    worker.give(waiting.pop())
                progress(path.name, len(answers) / len(wanted))
    finally:
        for worker in workers:
            worker.end()
    found = [(path, answers[path]) for path in wanted]
    return Census(
        libraries=tuple(one for _, one in found if isinstance(one, LibrarySurvey)),
        skipped=tuple(Skipped(path, reason) for path, reason in found if isinstance(reason, str)),
    )


def _ready(busy: Sequence[_Worker]) -> list[_Worker]:
    """Those that have an answer, or will give none, or should have given one by now."""
    seconds = min(worker.deadline for worker in busy) - time.monotonic()
    ready = wait([worker.connection for worker in busy], max(0.0, seconds))
    now = time.monotonic()
    return [one for one in busy if one.connection in ready or now > one.deadline]


class _Worker:
    """A process that is at a file."""

    connection: Connection

    def __init__(self, others: Sequence[_Worker], path: Path) -> None:
        # Forked is ready at once. Beside other threads that may stop in the middle of anything
        # (a lock of theirs stays locked in the child), so then a fresh interpreter does it.
        method = "fork" if threading.active_count() == 1 else "spawn"
        inherited = [other.connection for other in others]
        with endings_wait():
            self.process, self.connection = start_worker(_survey_or_reason, inherited, method)
        self.give(path)

    def give(self, path: Path) -> None:
        self.path = path
        self.is_busy = True
        self.deadline = time.monotonic() + SECONDS_FOR_ONE
        # One that was killed meanwhile is found out when its answer is waited for.
        with suppress(OSError):
            self.connection.send(os.fspath(path))

    def answer(self) -> LibrarySurvey | str:
        """The survey, or why there is none; a process that gave no answer has ended then."""
        self.is_busy = False
        if not self.connection.poll():
            self.end()
            return f"took longer than {SECONDS_FOR_ONE:g} s"
        try:
            answer: LibrarySurvey | str = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            self.end()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            return f"the process that read it {how}"
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _survey_or_reason(path: str) -> LibrarySurvey | str:
    try:
        return survey(path)
    except ElfError as problem:
        return str(problem).removeprefix(f"{path}: ")
    except OSError as problem:
        return problem.strerror or str(problem)
    except MemoryError:
        return "takes more memory than there is"
    # A file must not end the survey of the others, whatever is in it; that it got here is told.
    except Exception as problem:
        return f"{type(problem).__name__}: {problem} (this is a mistake of mapscratch)"
