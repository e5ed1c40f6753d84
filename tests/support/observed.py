# SPDX-License-Identifier: Apache-2.0
"""A process that is looked at from here: it does a step, tells what it knows, and waits."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.interpreter import start_python

_PRELUDE = """\
import json, os, sys, threading, time
from dataclasses import asdict
from mmap import PAGESIZE


def tell(value=None):
    os.write(1, json.dumps(value).encode() + b"\\n")  # in one piece: forked children tell, too


def wait():
    return sys.stdin.readline()


def fork(use):
    '''A child that does something, tells its number and what came of it, and waits to be killed.'''
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        tell([os.getpid(), use()])
        while os.getppid() == parent:
            time.sleep(0.1)
    finally:
        os._exit(1)
"""


class Observed:
    """What the process tells, step by step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def hear(self) -> Any:
        """What it tells next."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr
            raise AssertionError(f"it has ended\n{self._process.stderr.read()}")
        return json.loads(line)

    def go_on(self, text: str = "") -> None:
        """Ends its waiting."""
        assert self._process.stdin
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()


@contextmanager
def observed(code: str, *arguments: object, **how: Any) -> Iterator[Observed]:
    """A process that runs indented code, which may call `tell`, `wait` and `fork`.

    `how` is as for `start_python`.
    """
    process = start_python(_PRELUDE + textwrap.dedent(code), *arguments, **how)
    with process:
        try:
            yield Observed(process)
        finally:
            process.kill()
