# SPDX-License-Identifier: Apache-2.0
"""Other commands of ours run for a report, one after the other, each in a process of its own.

So each is exactly what a user would type, one that fails or hangs costs its own part and nothing
else, and memory that a survey took is given back before times are measured. Ctrl-C reaches us alone
and is passed on once: each command removes what it made, and we wait for that. If we are killed,
the kernel passes on the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mapscratch.cli import EXIT_INTERRUPTED, EXIT_WRONG, main
from mapscratch.errors import last_words
from mapscratch.run.parent import ENDINGS, end_with

_POLL_SECONDS = 0.1
_SECONDS_TO_CLEAN_UP = 20.0
_LONGEST_REASON = 3000  # an engine's says what each lacks, and then what to do


@dataclass(frozen=True, slots=True)
class Part:
    """A command that saves a document into a file."""

    name: str
    title: str
    words: tuple[str, ...]  # in which ``{folder}/`` stands for where documents are
    file: str
    limit: float  # seconds, after which it is interrupted

    @property
    def command(self) -> str:
        """What a user would type."""
        return f"mapscratch {' '.join(self.words)}".replace("{folder}/", "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part: what it saved, as JSON gave it, or None, and then the reason."""

    part: Part
    document: object
    reason: str
    seconds: float


def run_part(part: Part, folder: Path, tick: Callable[[float], None] = lambda _: None) -> Outcome:
    """Runs one command, which saves its document into a folder; `tick` is told how long it has run.

    Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt when the command has ended and cleaned up.
    """
    started = time.monotonic()
    errors, file = folder / f"{part.file}.errors", folder / part.file
    # Without the folder that we are in among the paths of modules: what lies there isn't ours.
    command = [sys.executable, "-P", "-m", __spec__.name, str(os.getpid())]
    command += [word.replace("{folder}", str(folder)) for word in part.words]
    nothing = subprocess.DEVNULL
    with errors.open("wb") as stderr, _later() as came:
        process = subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=stderr, process_group=0
        )
        try:
            while process.poll() is None and not came:
                ran = time.monotonic() - started
                if ran >= part.limit:
                    break
                tick(ran)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
            late = process.poll() is None
        finally:
            _end(process)
    status = process.returncode
    document, reason = _saved(file) if status in (0, EXIT_WRONG) else None, ""
    if document is None:
        reason = f"it was interrupted after {part.limit:.0f} s" if late else _last_words(errors)
        reason = reason or f"it ended with status {status}"
    return Outcome(part, document, reason, time.monotonic() - started)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupts it if it still runs, and lets it clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)  # Not if it has ended.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_CLEAN_UP)
            return


@contextmanager
def _later() -> Iterator[list[int]]:
    """What would end us within it, Ctrl-C again and again, is noted and does so after it."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    # nohup, and shells for what runs in the background, have some ignored.
    noted = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]
    previous = [(number, signal.signal(number, note)) for number in noted]
    try:
        yield came
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _saved(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _last_words(path: Path) -> str:
    said = last_words(path.read_text(errors="replace"))
    return said.removeprefix("mapscratch: ")[:_LONGEST_REASON]


def _run_for(parent: int, words: list[str]) -> int:
    """A command, in the process that was started for it: it is interrupted if its parent ends."""
    # A shell's background jobs ignore it, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(words) if end_with(parent, signal.SIGINT) else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(_run_for(int(sys.argv[1]), sys.argv[2:]))
