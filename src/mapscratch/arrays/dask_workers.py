# SPDX-License-Identifier: Apache-2.0
"""Gives back what can be made again before a Dask worker is paused, or killed, for its memory.

Dask judges a worker by its resident memory, ten times a second: from a share of its limit on it
spills results, then takes no more tasks, and at last its nanny kills it. Pages of arrays that the
kernel could take at once, and those of their files, count in it; and a paused worker waits for
memory that nobody but the kernel takes, that is, for ever. So in a process with workers

- the worker's own look at its memory gives such pages back first, if it is about to act on it;
- a thread looks more often, because between two looks of the nanny a task may read more than
  there is between pause and kill. It gives back early, and of caches too.

All of it is left alone where the user has turned these shares off: then the kernel judges.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from mmap import PAGESIZE
from typing import Any, Protocol

from mapscratch._native import Exclusive
from mapscratch.engine import release_all

_AT_THE_LINE = 0.97
"""Of what Dask acts on: its own look gives back from there on."""
_EARLY = 0.85
"""Of the same: the thread does."""
_ROOM = 0.05
"""Of the same: so much more there must be than the last time left, or work would be undone."""
_FASTEST_BYTES_A_SECOND = 4 << 30
"""Nobody decodes or stores faster: so long the thread need not look."""
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.005, 0.1

_ADVICE = (
    "mapscratch doesn't know the workers of this version of distributed ({problem}): one that "
    "reads more than its memory limit may be paused for ever. Before the cluster is made, set "
    "distributed.worker.memory.spill, .pause and .terminate to False (docs/dask.md)"
)


class Reserve(Protocol):
    """What has memory that can be given back, beside arrays."""

    def _give_back(self, wanted: int) -> int: ...


_alone = Exclusive()  # for one thread at a time; an interrupt leaves no lock behind
_reserves: weakref.WeakSet[Reserve] = weakref.WeakSet()
_seen: weakref.WeakSet[Any] = weakref.WeakSet()  # workers
_lines: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Of each worker that is judged: the bytes from which on Dask does something."""
_thread: threading.Thread | None = None


def add_reserve(reserve: Reserve) -> None:
    """Counts in, as long as it lives, something that can give back memory."""
    _alone(_reserves.add, reserve)


def guard() -> None:
    """Sees to the workers of this process, each once; next to nothing where there are none."""
    module = sys.modules.get("distributed.worker")
    workers = getattr(getattr(module, "Worker", None), "_instances", None)
    if not workers or len(workers) == len(_seen):
        return
    problems: list[Exception] = []
    # Another thread may be making a worker: then it is the next call that sees it.
    with suppress(RuntimeError):
        _alone(_guard_new, workers, problems)
    for one in problems:
        warnings.warn(_ADVICE.format(problem=one), RuntimeWarning, stacklevel=3)


def _guard_new(workers: Iterable[Any], problems: list[Exception]) -> None:
    for worker in set(workers) - set(_seen):
        _seen.add(worker)
        try:
            _guard(worker)
        except (AttributeError, TypeError, KeyError) as problem:
            problems.append(problem)


def _guard(worker: Any) -> None:
    line = _line_of(worker)
    if line is None:
        return
    monitor = worker.monitor
    monitor.get_process_memory = _giving_back(monitor.get_process_memory, line)
    _lines[worker] = line
    _watch()


def _line_of(worker: Any) -> int | None:
    """Resident bytes from which on Dask spills, pauses or kills; None if it does none of these."""
    import dask

    manager = worker.memory_manager
    shares = [manager.memory_spill_fraction, manager.memory_pause_fraction]
    if worker.nanny:
        shares.append(dask.config.get("distributed.worker.memory.terminate"))
    limit, active = manager.memory_limit, [share for share in shares if share]
    return int(limit * min(active)) if limit and active else None


def _giving_back(measure: Callable[[], int], line: int) -> Callable[[], int]:
    def measure_what_is_needed() -> int:
        memory = measure()
        if memory > line * _AT_THE_LINE and release_all():
            memory = measure()
        return memory

    return measure_what_is_needed


def _watch() -> None:
    global _thread  # noqa: PLW0603 - there is one a process
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_look, name="mapscratch-dask", daemon=True)
        _thread.start()


def _look() -> None:
    """Gives back early, as long as there are workers."""
    left = 0  # after the last time
    while (line := _lowest_line()) is not None:
        resident = _resident_bytes()
        left = min(left, resident)
        start = max(line * _EARLY, left + line * _ROOM)
        if resident > start:
            left = _give_back(line * _EARLY)
            continue
        until_then = (start - resident) / _FASTEST_BYTES_A_SECOND
        time.sleep(min(max(until_then, _SHORTEST_SLEEP), _LONGEST_SLEEP))


def _lowest_line() -> int | None:
    """Of the workers that live; None, and no thread any more, if there are none."""
    return _alone(_lowest_line_alone)


def _lowest_line_alone() -> int | None:
    global _thread  # noqa: PLW0603 - as above
    alive = [line for worker, line in _lines.items() if worker.status.name != "closed"]
    if not alive:
        _thread = None
    return min(alive, default=None)


def _give_back(wanted: float) -> int:
    """Gives back what it can of arrays, and of caches what is more than wanted; what is left."""
    release_all()
    for reserve in _alone(list, _reserves):
        surplus = int(_resident_bytes() - wanted)
        if surplus > 0:
            with suppress(RuntimeError):  # somebody in this thread is just using it
                reserve._give_back(surplus)
    return _resident_bytes()


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGESIZE


def _forget_workers() -> None:
    """In a forked child: it has no workers, and no thread."""
    global _thread  # noqa: PLW0603 - as above
    _thread = None
    _lines.clear()


os.register_at_fork(after_in_child=_forget_workers)
