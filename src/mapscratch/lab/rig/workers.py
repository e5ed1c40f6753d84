# SPDX-License-Identifier: Apache-2.0
"""Worker processes: forked, told what to do over pipes, and gone when they should be.

Forked, so that the arrays of a workload are shared and nothing has to be read twice. A worker
ends with its parent, whatever ends that; Ctrl-C, SIGTERM and SIGHUP are the parent's business.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

from mapscratch.errors import UserError
from mapscratch.run.parent import end_with, endings_wait, leave_endings_to_parent

# Seconds in which a worker has to answer. The longest step takes a few seconds.
PATIENCE = 120.0


class WorkerError(UserError, RuntimeError):
    """A worker failed, was killed, or doesn't answer; the others are ended."""


def start_worker(
    answer: Callable[[Any], object], others: Iterable[Connection], method: str = "fork"
) -> tuple[BaseProcess, Connection]:
    """Starts a process that answers what it gets by a pipe; call it within `endings_wait`.

    It ends with this process. The others are this process's ends of the pipes of those before it.
    """
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    inherited = [ours, *others] if method == "fork" else []
    process = context.Process(
        target=_serve, args=(answer, theirs, inherited, os.getpid()), daemon=True
    )
    try:
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


class _Worker(NamedTuple):
    number: int
    process: BaseProcess
    connection: Connection

    @property
    def title(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"


class Workers:
    """A context manager: worker processes, one for each session; all of them end with it.

    The methods of a session are called by name in its process, and answer with what can be pickled,
    within so many seconds of `patience`.
    """

    def __init__(self, sessions: Sequence[object], patience: float = PATIENCE) -> None:
        self._sessions = sessions
        self._patience = patience
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        """Starts the processes: an OSError if there is no room, a WorkerError if one ends."""
        gc.collect()
        gc.freeze()  # A collection in a worker would copy every page that holds an object.
        try:
            for number, session in enumerate(self._sessions, 1):
                inherited = [worker.connection for worker in self._workers]
                with endings_wait():
                    started = start_worker(partial(_called, session), inherited)
                    self._workers.append(_Worker(number, *started))
            self.all("ready")
        except BaseException:
            self._end()
            raise
        finally:
            gc.unfreeze()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the processes; at once, after an exception."""
        if kind is None:
            for worker in self._workers:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
            wait([worker.process.sentinel for worker in self._workers], timeout=1.0)
        self._end()

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [worker.process.pid or 0 for worker in self._workers]

    def all(self, method: str) -> list[Any]:
        """Calls a method of every session, all at once; a WorkerError if one doesn't answer."""
        return self._called(self._workers, method)

    def in_turn(self, method: str) -> list[Any]:
        """As `all`, but one process after the other, so that they don't share the processors."""
        return [self._called([worker], method)[0] for worker in self._workers]

    def _called(self, workers: list[_Worker], method: str) -> list[Any]:
        for worker in workers:
            try:
                worker.connection.send(method)
            except OSError:
                raise _ended(worker, method) from None
        return [self._answer(worker, method) for worker in workers]

    def _answer(self, worker: _Worker, method: str) -> Any:
        ready = wait([worker.connection, worker.process.sentinel], timeout=self._patience)
        if not ready:
            raise WorkerError(
                f"{worker.title} doesn't answer for {self._patience:g} s in step {method!r}: it "
                "is ended. Is the machine out of memory, or the process stopped?"
            )
        try:
            succeeded, answer = worker.connection.recv()
        except (EOFError, OSError):
            raise _ended(worker, method) from None
        if not succeeded:
            raise WorkerError(f"{worker.title} failed in step {method!r}: {answer}")
        return answer

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.connection.close()
        self._workers.clear()


def _ended(worker: _Worker, method: str) -> WorkerError:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    how = f"ended by itself (exit status {code})"
    if code is not None and code < 0:
        names = {number.value: number.name for number in signal.Signals}
        doubt = " (out of memory? see dmesg)" if code == -signal.SIGKILL else ""
        how = f"was killed by {names.get(-code, f'signal {-code}')}{doubt}"
    return WorkerError(f"{worker.title} {how} in step {method!r}; the run is given up")


def _called(session: object, name: str) -> tuple[bool, Any]:
    """Whether a method of a session succeeded, and its answer."""
    try:
        return True, getattr(session, name)()
    except Exception as error:  # Whatever it is, the parent reports it and ends the run.
        return False, f"{type(error).__name__}: {error}"


def _serve(
    answer: Callable[[Any], object],
    connection: Connection,
    inherited: list[Connection],
    parent: int,
) -> None:
    """The worker's main loop, until it gets nothing more."""
    leave_endings_to_parent()
    if not end_with(parent):
        os._exit(1)
    for other in inherited:
        other.close()
    with contextlib.suppress(EOFError, OSError):  # of a parent that has ended
        while asked := connection.recv():
            connection.send(answer(asked))
