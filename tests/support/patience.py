# SPDX-License-Identifier: Apache-2.0
"""How long to wait before something is taken for a hang: longer where everything is slow.

A limit in a test is written for an idle machine. Here it is stretched by what is measured: an
emulated processor, or one that others use too, must not look like a fault. It is measured at the
start of a run, between tests, and once more when a `Limit` is reached.

`python tests/support/patience.py` prints the factor, for `meson test --timeout-multiplier`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MOST = 40.0
"""The largest factor: a hang shall be found some day."""

_SECONDS_BETWEEN = 20.0
_INHERITED = "MAPSCRATCH_TESTS_SLOWNESS"
"""So that an interpreter under test, which has limits too, need not measure."""

# What each takes on an idle machine of 2021, with some room; the slowest in CPython's range.
_SECONDS_OF_WORK = 0.03
_SECONDS_OF_TURNS = 0.015
_SECONDS_TO_START = 0.06


def patient(seconds: float) -> float:
    """A limit for an idle machine, as long as it must be here and now."""
    return seconds * _place.slowness()


class Limit:
    """The time until a wait is taken for a hang; it moves away when the place has become slower.

    Args:
        seconds: on an idle machine.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def left(self) -> float:
        """Seconds, 0 at the end; what a wait may take before it looks again."""
        if self._left() <= 0:
            _place.look()
        return max(self._left(), 0.0)

    def _left(self) -> float:
        return self._began + patient(self._seconds) - time.monotonic()


def communicate(
    process: subprocess.Popen[str], text: str | None = None, *, seconds: float
) -> tuple[str, str]:
    """As `Popen.communicate`, with a limit for an idle machine.

    Raises:
        subprocess.TimeoutExpired: it hangs. It is left alive.
    """
    limit = Limit(seconds)
    while True:
        try:
            return process.communicate(text, timeout=limit.left())
        except subprocess.TimeoutExpired:
            if not limit.left():
                raise
            text = None  # what it was to be told goes on its way by itself


def pytest_timeout_set_timer(item: Any, settings: Any) -> Any:
    """A hook of pytest-timeout, for conftest.py: the limit of each test, however it is set."""
    import pytest_timeout

    if _place.is_out_of_date():
        _place.look()
    stretched = settings._replace(timeout=patient(settings.timeout))
    return pytest_timeout.pytest_timeout_set_timer(item, stretched)


def inheritable() -> dict[str, str]:
    """The variable with which another interpreter knows how slow it is here."""
    return {_INHERITED: f"{_place.slowness():.3f}"}


def measure() -> float:
    """How many times as long as on an idle machine things take; the worst of four kinds."""
    return max(
        os.getloadavg()[0] / len(os.sched_getaffinity(0)),  # who works for long gets a share
        _seconds(_work) / _SECONDS_OF_WORK,
        _seconds(_take_turns) / _SECONDS_OF_TURNS,
        _seconds(_start) / _SECONDS_TO_START,
    )


class Place:
    """What is known of how slow it is here.

    Args:
        measured: what makes a measurement.
        told: the factor, if who started this process has measured it; it is then believed.
    """

    def __init__(self, measured: Callable[[], float] = measure, told: float | None = None) -> None:
        self._measured = measured
        self._told = told
        self._slowness = told or 0.0
        self._seen_at = 0.0

    def slowness(self) -> float:
        """The factor, from 1 to `MOST`."""
        if not self._slowness:
            self.look()
        return self._slowness

    def is_out_of_date(self) -> bool:
        return not self._seen_at or time.monotonic() - self._seen_at > _SECONDS_BETWEEN

    def look(self) -> None:
        """Measures. That a place has become slower is believed at once, and faster by and by."""
        if self._told:
            return
        found = min(max(self._measured(), 1.0), MOST)
        self._slowness = max(found, (self._slowness + found) / 2)
        self._seen_at = time.monotonic()


def _seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _work() -> int:
    total = 0
    for number in range(300_000):
        total += number & 7
    return total


def _take_turns() -> None:
    """Two threads that wait for each other, 200 times."""
    mine, theirs = threading.Semaphore(0), threading.Semaphore(0)

    def answer() -> None:
        for _ in range(200):
            theirs.acquire()
            mine.release()

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(200):
        theirs.release()
        mine.acquire()
    thread.join()


def _start() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)


_inherited = os.environ.get(_INHERITED)
_place = Place(told=float(_inherited) if _inherited else None)

if __name__ == "__main__":
    print(f"{_place.slowness():.1f}")
