# SPDX-License-Identifier: Apache-2.0
"""More decoded data than memory: the ordinary way and ours, each in a process under one limit."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mapscratch.engine import Request, require
from mapscratch.errors import UserError, last_words
from mapscratch.fixups import Words
from mapscratch.lab.rig.machine import probe_temporary_memory_cgroup, temporary_memory_cgroup
from mapscratch.proc import active_swaps

TIMES_THE_LIMIT = 4
_SOURCE_ITEM = 2
_OUTPUT_ITEM = 4
_CHUNK = 1 << 20  # items
_WAYS = (
    ("ordinary", "the ordinary way: np.memmap(...).astype(...)"),
    ("ours", "mapscratch.array(...)"),
)

Progress = Callable[[str, float], None]
"""Is told what is going on, and how much of it is done (0 to 1)."""


class DemoError(UserError, RuntimeError):
    """The demonstration could not be given."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        how: ``"finished"``, ``"killed"`` by the kernel, or ``"refused"`` memory (MemoryError).
        seconds: it ran so long.
        facts: what it printed last.
    """

    how: Literal["finished", "killed", "refused"]
    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is to be shown here, and how.

    Attributes:
        limit: bytes of memory that each process could have.
        limited_by: ``"cgroup"``, or ``"itself"`` (RLIMIT_DATA, and MADV_PAGEOUT in place of
            pressure).
        why_not_cgroup: why by itself; empty for a cgroup.
        swap: bytes of swap that the machine has.
        array: bytes of the decoded array.
        file: bytes of the file.
    """

    limit: int
    limited_by: Literal["cgroup", "itself"]
    why_not_cgroup: str
    swap: int
    array: int
    file: int


@dataclass(frozen=True, slots=True)
class Demo:
    """What happened.

    Attributes:
        setting: how it was tried.
        ordinary: how ``np.memmap(...).astype(...)`` ended.
        ours: how ``mapscratch.array(...)`` ended.
    """

    setting: Setting
    ordinary: Ending
    ours: Ending

    @property
    def is_right(self) -> bool:
        """Ours read all of the array, and every value was right."""
        return self.ours.how == "finished" and self.ours.facts.get("wrong") == 0


def prepare(limit: int) -> Setting:
    """Finds out what can be shown; it takes no time, and makes nothing.

    Args:
        limit: bytes of memory for each process, beyond an interpreter with NumPy.

    Raises:
        EngineUnavailable: no engine decodes here; the message says why, and what to do.
    """
    _check_engine(limit)
    items = TIMES_THE_LIMIT * limit // _OUTPUT_ITEM
    probe = probe_temporary_memory_cgroup()
    return Setting(
        limit=limit,
        limited_by="cgroup" if probe else "itself",
        why_not_cgroup="" if probe else probe.reason,
        swap=sum(area.size for area in active_swaps()),
        array=items * _OUTPUT_ITEM,
        file=items * _SOURCE_ITEM,
    )


def run_demo(setting: Setting, progress: Progress) -> Generator[Ending, None, None]:
    """Gives the demonstration, the ordinary way first and then ours; nothing is left behind.

    Raises:
        DemoError: a process ended in a way that says nothing, or with an error, which is told.
        OSError: there is no room for the file, or the limit can't be set.
    """
    items = setting.array // _OUTPUT_ITEM
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        for done in _write_source(file.fileno(), items):
            progress("writing a file of big-endian integers", done)
        for kind, title in _WAYS:
            yield _run_limited(kind, file.fileno(), items, setting, partial(progress, title))


def _check_engine(length: int) -> None:
    """Finds out before anything is made or killed; the process may still be refused something."""
    fixup = Words({0: 0})  # as for an array, whose pages are more than the file's
    require("auto", Request("the file", -1, 0, length, mmap.PROT_READ, fixup))


def _write_source(descriptor: int, items: int) -> Iterator[float]:
    import numpy as np  # it takes longer to load than all that is said before

    random = np.random.default_rng(2004)
    for start in range(0, items, _CHUNK):
        count = min(_CHUNK, items - start)
        os.write(descriptor, random.integers(-30_000, 30_000, count).astype(">i2").tobytes())
        yield (start + count) / items
    os.fsync(descriptor)


def _run_limited(
    kind: str,
    descriptor: int,
    items: int,
    setting: Setting,
    progress: Callable[[float], None],
) -> Ending:
    progress(0)
    by_cgroup = setting.limited_by == "cgroup"
    with _worker(kind, descriptor, items, 0 if by_cgroup else setting.limit) as process:
        if not by_cgroup:
            return _follow(process, progress)
        with temporary_memory_cgroup(setting.limit) as group:
            assert process.stdout
            process.stdout.readline()  # it has imported what it needs, or ended
            group.add(process.pid)
            try:
                return _follow(process, progress)
            finally:
                process.kill()
                process.wait()


@contextmanager
def _worker(
    kind: str, descriptor: int, items: int, own_limit: int
) -> Iterator[subprocess.Popen[str]]:
    arguments = [kind, str(descriptor), str(items), str(own_limit)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mapscratch.demo.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[descriptor],
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _follow(process: subprocess.Popen[str], progress: Callable[[float], None]) -> Ending:
    assert process.stdin and process.stdout and process.stderr
    started = time.monotonic()
    with suppress(BrokenPipeError):  # it has ended, and says below why
        process.stdin.write("go\n")
        process.stdin.flush()
    facts: dict[str, Any] = {}
    for line in process.stdout:
        message = json.loads(line)
        if "ready" in message:
            continue
        if "done" in message:
            progress(message["done"])
        else:
            facts = message
    status = process.wait()
    seconds = time.monotonic() - started
    if status == -signal.SIGKILL:
        return Ending("killed", seconds, facts)
    if status:
        reason = last_words(process.stderr.read())
        raise DemoError(f"a process of the demonstration failed (exit status {status}): {reason}")
    if "error" in facts:
        raise DemoError(f"a process of the demonstration failed: {facts['error']}")
    return Ending("refused" if "memory_error" in facts else "finished", seconds, facts)
