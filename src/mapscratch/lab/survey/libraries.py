# SPDX-License-Identifier: Apache-2.0
"""Many libraries surveyed by several processes, none of which a single file can take down.

Each process gets one file at a time. One that doesn't come back in time, or doesn't come back at
all (the OOM killer, a limit), costs its file and is replaced. Nothing of a file is trusted, but the
reader's bounds are of memory and of a multiple of the file's size: a sparse file of a terabyte may
still take long.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mapscratch.elf import ElfError, LibrarySurvey, survey
from mapscratch.lab.survey.files import Skipped
from mapscratch.run.parent import end_with, endings_wait, leave_endings_to_parent
from mapscratch.terminal import Progress

SECONDS_FOR_ONE = 30.0
"""The largest library of Debian, half a gigabyte, takes one."""


@dataclass(frozen=True, slots=True)
class LibraryCensus:
    """What there is in many files.

    Attributes:
        libraries: those that could be read, in the order of the paths.
        skipped: the others, with the reason.
    """

    libraries: tuple[LibrarySurvey, ...]
    skipped: tuple[Skipped, ...]


def survey_files(
    paths: Sequence[Path],
    *,
    workers: int | None = None,
    seconds_for_one: float = SECONDS_FOR_ONE,
    progress: Progress = lambda what, share: None,
) -> LibraryCensus:
    """Survey files, in parallel.

    Args:
        paths: the files.
        workers: how many processes; None for as many as this one may use processors.
        seconds_for_one: a file that takes longer is skipped.
        progress: is told the file that was last looked at.

    Raises:
        OSError: the machine has no room for a process.
    """
    answers: dict[Path, LibrarySurvey | str] = {}
    wanted = list(dict.fromkeys(paths))
    with _Pool(workers or len(os.sched_getaffinity(0)), seconds_for_one) as pool:
        for path, answer in pool.answers(wanted):
            answers[path] = answer
            progress(path.name, len(answers) / len(wanted))
    return LibraryCensus(
        libraries=tuple(
            answer for path in wanted if isinstance(answer := answers[path], LibrarySurvey)
        ),
        skipped=tuple(
            Skipped(path, answer) for path in wanted if isinstance(answer := answers[path], str)
        ),
    )


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    path: Path | None = None
    """What it is at."""
    deadline: float = 0.0
    """When it has to be done with it, by `time.monotonic`."""


class _Pool:
    """A context manager: worker processes, all of which end with it, however it ends."""

    def __init__(self, size: int, seconds_for_one: float) -> None:
        self._size = size
        self._seconds = seconds_for_one
        # Forked is ready at once. Beside other threads that may stop in the middle of anything
        # (a lock of theirs stays locked in the child), so then a fresh interpreter does it.
        self._method = "fork" if threading.active_count() == 1 else "spawn"
        self._context = multiprocessing.get_context(self._method)
        self._workers: list[_Worker] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def answers(self, paths: Sequence[Path]) -> Iterator[tuple[Path, LibrarySurvey | str]]:
        """Yield each path with its survey or why there is none, in the order of completion."""
        waiting = list(reversed(paths))
        for _ in range(min(self._size, len(waiting))):
            self._give(self._start(), waiting.pop())
        while busy := [worker for worker in self._workers if worker.path is not None]:
            soonest = min(worker.deadline for worker in busy)
            ready = wait(
                [worker.connection for worker in busy], max(0.0, soonest - time.monotonic())
            )
            for worker in busy:
                if worker.connection in ready:
                    path, answer = self._answer(worker)
                elif time.monotonic() > worker.deadline:
                    path, answer = self._end(worker, f"took longer than {self._seconds:g} s")
                else:
                    continue
                if waiting:
                    alive = worker if worker in self._workers else self._start()
                    self._give(alive, waiting.pop())
                yield path, answer

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        inherited = [worker.connection for worker in self._workers] + [ours]
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_work,
            args=(theirs, inherited if self._method == "fork" else (), os.getpid()),
            daemon=True,
        )
        with endings_wait():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _give(self, worker: _Worker, path: Path) -> None:
        worker.path = path
        worker.deadline = time.monotonic() + self._seconds
        # One that was killed meanwhile is found out when its answer is waited for.
        with suppress(OSError):
            worker.connection.send(os.fspath(path))

    def _answer(self, worker: _Worker) -> tuple[Path, LibrarySurvey | str]:
        assert worker.path is not None
        try:
            answer: LibrarySurvey | str = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            return self._end(worker, f"the process that read it {how}")
        path, worker.path = worker.path, None
        return path, answer

    def _end(self, worker: _Worker, reason: str) -> tuple[Path, str]:
        assert worker.path is not None
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        return worker.path, reason


def _work(connection: Connection, inherited: Sequence[Connection], parent: int) -> None:
    """A worker: paths come in, surveys or reasons go out, until there is nobody any more."""
    for other in inherited:
        other.close()
    leave_endings_to_parent()
    if not end_with(parent):
        return
    with suppress(EOFError, OSError):
        while True:
            connection.send(_survey_or_reason(connection.recv()))


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
