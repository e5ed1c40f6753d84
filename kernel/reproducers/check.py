#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Does this kernel have the known defects of anonymous MAP_DROPPABLE memory (Linux 6.11 and newer)?

Three small C programs beside this file each show one defect on a kernel as it is:

  over-reclaim  reclaim takes dirty droppable pages without counting them, and so takes too many
  stale-read    a CPU reads a dropped page that another CPU has already replaced
  uffd-check    userfaultfd accepts droppable memory, which it was meant to refuse

They are compiled into a temporary directory, run one after the other, and summed up. None needs
root; as root, over-reclaim also asks a cgroup for a little memory and shows how much is taken.
They use at most 64 MiB and leave nothing behind.
"""

from __future__ import annotations

import argparse
import enum
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
COMPILER_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
GRACE_SECONDS = 10.0
"""How long a program may take to clean up after SIGTERM."""

EXAMPLES = """\
examples:
  check.py                        all three, in some fifteen seconds
  check.py --only over-reclaim    one of them
  check.py --seconds 60           a longer race for stale-read
  check.py --expect-fixed         on a patched kernel: a defect that is seen is a failure

exit status:
  0  every program could be run, whether it saw its defect or not
  1  one could not be tried or crashed; with --expect-fixed also: a defect was seen
  2  wrong arguments

Each program alone exits with 0 when it saw the defect, 1 when not, 2 when it could not try.
"""


class Result(enum.Enum):
    """What came of one program."""

    SEEN = "SEEN HERE"
    NOT_SEEN = "not seen"
    NOT_TRIED = "not tried"
    BROKEN = "broken"


@dataclass(frozen=True)
class Reproducer:
    """One program: its name, and how long it may take without its own `--seconds`."""

    name: str
    limit_seconds: float
    is_a_race: bool = False

    @property
    def source(self) -> Path:
        """The C file."""
        return HERE / f"{self.name.replace('-', '_')}.c"


@dataclass(frozen=True)
class Outcome:
    """A line of the summary."""

    name: str
    result: Result
    reason: str


REPRODUCERS = (
    Reproducer("over-reclaim", limit_seconds=180),
    Reproducer("stale-read", limit_seconds=60, is_a_race=True),
    Reproducer("uffd-check", limit_seconds=30),
)


def compile_program(reproducer: Reproducer, directory: Path) -> Path:
    """Compiles one program with `$CC`, or gcc or cc.

    Raises:
        RuntimeError: there is no compiler, or it refuses the source.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise RuntimeError("no C compiler; on Debian: apt install build-essential")
    program = directory / reproducer.source.stem
    command = [*compiler.split(), *COMPILER_FLAGS, str(reproducer.source), "-o", str(program)]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"could not be compiled: {error}") from error
    return program


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a program: first so that it can clean up, then for good."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_live(command: list[str], limit_seconds: float) -> tuple[int | None, str]:
    """Runs a program and shows its lines as they come.

    Returns:
        The exit status, or None when it took longer than `limit_seconds`; and the last line.
    """
    last_line = ""
    timed_out = threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")

    def give_up() -> None:
        timed_out.set()
        stop(process)

    timer = threading.Timer(limit_seconds, give_up)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last_line = line.strip() or last_line
        process.wait()
    finally:
        timer.cancel()
        stop(process)
        if process.stdout is not None:
            process.stdout.close()
    return (None if timed_out.is_set() else process.returncode), last_line


def judge(name: str, status: int | None, last_line: str) -> Outcome:
    """Turns an exit status into a line of the summary."""
    results = {0: Result.SEEN, 1: Result.NOT_SEEN, 2: Result.NOT_TRIED}
    if status is None:
        return Outcome(name, Result.BROKEN, "took too long and was stopped")
    if status < 0:
        return Outcome(name, Result.BROKEN, f"died of {signal.Signals(-status).name}")
    # The programs end with a verdict; without one, the status means something else.
    prefix = f"{name}: "
    if status not in results or not last_line.startswith(prefix):
        return Outcome(name, Result.BROKEN, f"exit status {status} without a verdict")
    # "stale-read: not tried: why" and "uffd-check: not seen here": the result has its own column.
    reason = last_line.removeprefix(prefix)
    for opening in ("SEEN HERE", "not seen here", "not tried"):
        reason = reason.removeprefix(opening)
    return Outcome(name, results[status], reason.lstrip(": "))


def check(reproducer: Reproducer, directory: Path, seconds: float) -> Outcome:
    """Compiles and runs one program."""
    try:
        program = compile_program(reproducer, directory)
    except RuntimeError as error:
        print(f"{reproducer.name}: {error}", file=sys.stderr)
        return Outcome(reproducer.name, Result.BROKEN, str(error))
    command = [str(program)]
    limit = reproducer.limit_seconds
    if reproducer.is_a_race:
        command += ["--seconds", f"{seconds:g}"]
        limit += seconds
    return judge(reproducer.name, *run_live(command, limit))


def print_summary(outcomes: list[Outcome]) -> None:
    """Shows one line a program, aligned."""
    name_width = max(len(outcome.name) for outcome in outcomes)
    result_width = max(len(outcome.result.value) for outcome in outcomes)
    print(f"Linux {os.uname().release}, anonymous MAP_DROPPABLE:")
    for outcome in outcomes:
        name = outcome.name.ljust(name_width)
        result = outcome.result.value.ljust(result_width)
        print(f"  {name}  {result}  {outcome.reason}".rstrip())


def is_success(outcomes: list[Outcome], *, expect_fixed: bool) -> bool:
    """Says whether the exit status is 0."""
    allowed = {Result.NOT_SEEN} if expect_fixed else {Result.NOT_SEEN, Result.SEEN}
    return all(outcome.result in allowed for outcome in outcomes)


def seconds_argument(text: str) -> float:
    """Parses `--seconds`: the bounds are those of stale_read.c."""
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 1 to 3600")
    return seconds


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="check.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[reproducer.name for reproducer in REPRODUCERS],
        help="run this one only (may be given more than once)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds_argument,
        default=10.0,
        metavar="N",
        help="how long stale-read races (default: 10)",
    )
    parser.add_argument(
        "--expect-fixed",
        action="store_true",
        help="fail when a defect is seen: for a kernel that has the fixes",
    )
    return parser.parse_args(arguments)


def end_on_signal(number: int, _frame: FrameType | None) -> None:
    """Leaves through every `finally`, so that SIGTERM cleans up as Ctrl-C does."""
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Runs what was asked for and returns the exit status."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGINT, end_on_signal)
    signal.signal(signal.SIGTERM, end_on_signal)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="droppable-check-") as directory:
        for reproducer in REPRODUCERS:
            if options.only and reproducer.name not in options.only:
                continue
            outcomes.append(check(reproducer, Path(directory), options.seconds))
            print(flush=True)
    print_summary(outcomes)
    return 0 if is_success(outcomes, expect_fixed=options.expect_fixed) else 1


if __name__ == "__main__":
    sys.exit(main())
