# SPDX-License-Identifier: Apache-2.0
"""What takes turns in `mapscratch.lab.cost.measure`: timers, each of some figures at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from mmap import PAGESIZE
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mapscratch import SystemCallWarning
from mapscratch.elf import default_libraries, relocations
from mapscratch.errors import last_words
from mapscratch.lab.cost.costs import Check, Per
from mapscratch.lab.rig.workers import Workers

Figures = dict[str, float]
"""By name; ns."""
WORDS_PER_PAGE = PAGESIZE // 8
_FOLDER = "mapscratch-cost-"
_SECONDS = 60
_Thing = TypeVar("_Thing")


@dataclass(frozen=True, slots=True)
class Heading:
    """What a figure is; see `mapscratch.lab.cost.costs.Measurement`."""

    name: str
    title: str
    note: str
    per: Per = "page"


class CannotMeasure(Exception):
    """A figure can't be had here; the message says why."""


class Timer(ABC):
    """Measures some figures, once each time that it is asked, with files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Names of figures that it gives up, and why; it may grow while it measures.
        self.left_out: dict[str, str] = {}

    def once(self, number: int) -> Figures:
        """Measures in the round of that number, from 1; what makes no sense this time is left out.

        CannotMeasure says why nothing can be had here, now or later.
        """
        if number == 1:
            self._prepare()
        return self._measure(number)

    @abstractmethod
    def _prepare(self) -> None:
        """Makes what every round needs."""

    @abstractmethod
    def _measure(self, number: int) -> Figures:
        """A round, once that is there."""

    @abstractmethod
    def headings(self) -> Sequence[Heading]:
        """The figures that it has, those that are left out among them; asked in the end."""

    def checks(self) -> list[Check]:
        """What others say of the same; asked in the end."""
        return []

    def notes(self) -> list[str]:
        """What else the reader should know, a sentence each; asked in the end."""
        return []


def in_turn(things: Sequence[_Thing], number: int) -> list[_Thing]:
    """The same, beginning with another one for each number."""
    first = number % max(len(things), 1)
    return [*things[first:], *things[:first]]


@dataclass(frozen=True, slots=True)
class _Session:
    step: Callable[[], Figures | str]

    def ready(self) -> None:
        """Nothing to prepare."""

    def measure(self) -> Figures | str:
        warnings.simplefilter("ignore", SystemCallWarning)
        return self.step()


def in_a_process(step: Callable[[], Figures | str]) -> Figures:
    """What a process of its own finds, which is gone then; CannotMeasure if it says why not."""
    with Workers([_Session(step)]) as workers:
        answer: Figures | str = workers.all("measure")[0]
    if isinstance(answer, str):
        raise CannotMeasure(answer)
    return answer


def run_program(command: Sequence[str], what: str, **options: Any) -> CompletedProcess[str]:
    """Runs a program; CannotMeasure, which calls it `what`, if it fails or takes a minute."""
    options |= {"capture_output": True, "text": True, "timeout": _SECONDS}
    try:
        done = subprocess.run(command, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotMeasure(f"{what} failed: {error}") from None
    if done.returncode:
        reason = last_words(done.stderr) or f"exit status {done.returncode}"
        raise CannotMeasure(f"{what} failed: {reason}")
    return done


@contextmanager
def working_folder() -> Iterator[Path]:
    """A folder for files that are measured with, on a disk if there is one; removed in the end.

    Folders of processes that were killed are removed as well.
    """
    place = "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
    _sweep(Path(place))
    prefix = f"{_FOLDER}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as folder, _locked(folder):
        yield Path(folder)


def _sweep(place: Path) -> None:
    """Removes our folders whose processes have ended.

    That no process has the number is not enough: in a container it may not be seen. The lock tells.
    """
    for folder in place.glob(f"{_FOLDER}*"):
        owner = re.match(rf"{_FOLDER}(\d+)-", folder.name)
        if owner and not Path("/proc", owner[1]).exists():
            with suppress(OSError):
                if folder.lstat().st_uid == os.geteuid():
                    with _locked(folder):
                        shutil.rmtree(folder)


@contextmanager
def _locked(folder: str | Path) -> Iterator[None]:
    """Within it no other process has the folder's lock."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def real_words(count: int) -> NDArray[np.uint64]:
    """So many words of pages that hold relocations in this machine's libraries, as files have them.

    How well pages compress decides what zram and zswap cost.
    """
    words = _library_words()
    return np.resize(words, count) if len(words) else np.arange(count, dtype=np.uint64)


@cache
def _library_words() -> NDArray[np.uint64]:
    pieces = []
    for path in default_libraries():
        offsets = relocations(path).file_offsets
        pages = np.unique(offsets[offsets >= 0] // PAGESIZE).tolist()
        with path.open("rb") as file:
            pieces += [os.pread(file.fileno(), PAGESIZE, page * PAGESIZE) for page in pages]
    data = b"".join(pieces)
    return np.frombuffer(data[: len(data) // 8 * 8], dtype="<u8")
