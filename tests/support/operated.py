# SPDX-License-Identifier: Apache-2.0
"""A process that uses mapscratch, as who operates it sees it: from outside."""

from __future__ import annotations

import ast
import os
import re
import select
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.engines import STATUS, why_not
from support.interpreter import start_python
from support.patience import communicate, patient
from support.waiting import eventually

MIB = 1 << 20

ARRAY = """
    import mapscratch, numpy as np
    array = mapscratch.array(sys.argv[1], "f8", source="i1", scale=0.37)
"""
"""What most of these processes run: an array eight times as large as its file."""

_ANSWER = """
for line in sys.stdin:
    print(repr(eval(line, globals())), flush=True)
"""


class Operated:
    """An interpreter that evaluates one expression after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def begin(self, expression: str) -> None:
        """Has it evaluated, without waiting."""
        assert self._process.stdin
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The value of the expression that was begun first."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            _, errors = communicate(self._process, seconds=30)
            raise AssertionError(f"it ended with {self._process.returncode}\n{errors}")
        return ast.literal_eval(line)

    def ask(self, expression: str) -> Any:
        """The value of an expression."""
        self.begin(expression)
        return self.answer()

    def wait(self) -> int:
        """Waits for its end; its exit status."""
        return self._process.wait(patient(30))

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def is_well(self) -> bool:
        """Whether it runs, and answers what it is asked next, and that alone."""
        if self.has_ended() or self.state() in "tT":
            return False
        token = os.urandom(8).hex()
        try:
            self.begin(repr(token))
        except OSError:
            return False
        assert self._process.stdout
        answers, _, _ = select.select([self._process.stdout], [], [], patient(10))
        return bool(answers) and self._process.stdout.readline() == f"{token!r}\n"

    def thread(self, name: str) -> int:
        """The number of the thread with a name."""
        threads = os.listdir(f"/proc/{self.pid}/task")
        return next(int(thread) for thread in threads if self._read(thread, "comm") == name)

    def waits_in(self, thread: int) -> str:
        """The kernel's function in which a thread waits."""
        return self._read(thread, "wchan")

    def state(self, thread: int | None = None) -> str:
        """R, S, D, T: proc_pid_stat(5)."""
        return self._read(thread or self.pid, "stat").rpartition(")")[2].split()[0]

    def _read(self, thread: int | str, name: str) -> str:
        return Path(f"/proc/{self.pid}/task/{thread}/{name}").read_text().strip()

    def status(self, label: str) -> int:
        """A figure of /proc/PID/status, in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{label}:\s+(\d+) kB", text, re.M)[1]) * 1024  # type: ignore[index]


@contextmanager
def operated(code: str, *arguments: object) -> Iterator[Operated]:
    """Runs code in a process, then what it is asked for; it is killed in the end."""
    text = "import os, sys, threading\n" + textwrap.dedent(code) + _ANSWER
    # Threads of a library for linear algebra would add memory of their own to every figure.
    with start_python(text, *arguments, environment={"OPENBLAS_NUM_THREADS": "1"}) as process:
        try:
            one = Operated(process)
            assert one.ask("0") == 0
            yield one
        finally:
            process.kill()


@contextmanager
def lasting(
    start: Callable[[], AbstractContextManager[Operated]],
) -> Iterator[Callable[[], Operated]]:
    """What gives one process to many tests, and another one after a test that broke it.

    Args:
        start: starts a process, and ends it.
    """
    process: Operated | None = None
    with ExitStack() as started:

        def whole() -> Operated:
            nonlocal process
            if not process or not process.is_well():
                started.close()
                process = started.enter_context(start())
            return process

        yield whole


def require_lazyfree() -> None:
    """Skips the test where there is no such engine; for fixtures of a whole module."""
    if not STATUS["lazyfree"].available:
        pytest.skip(why_not("lazyfree"))


def make_source(path: Path, size: int) -> Path:
    """A file of random bytes."""
    np.random.default_rng(0).integers(-128, 127, size, "i1", endpoint=True).tofile(path)
    return path


@contextmanager
def temporary_group(controller: str) -> Iterator[Path]:
    """A control group of version 1 with a controller; "": of version 2, with none.

    Skips the test where it can't be had. Who is in it must have ended before it is removed.
    """
    mount = _mount_of(controller)
    directory = mount / f"mapscratch-test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        yield directory
    finally:
        eventually(lambda: not (directory / "cgroup.procs").read_text())
        directory.rmdir()


def _mount_of(controller: str) -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == ("cgroup" if controller else "cgroup2") and (
            not controller or controller in options.split(",")
        ):
            return Path(mount)
    version = f"version 1 with {controller}" if controller else "version 2"
    pytest.skip(f"control groups of {version} are not mounted here")
