# SPDX-License-Identifier: Apache-2.0
"""Runs all tests in less time: those that need no memory of the machine beside the others.

Three runs of pytest, in processes of their own: a worker of pytest-xdist has a thread beside the
one that tests, and much of what is tested here forks. What makes swap, fills control groups, or has
the kernel merge or reclaim pages stays in one run, one after the other. There are three for two
processors, because a good part of each is waiting.

Usage: side_by_side.py [options of pytest] [files of tests: all, if none is named]. What pytest
alone runs is the same, one by one.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

TESTS = Path(__file__).resolve().parent
BESIDE = (
    (
        "arrays_api", "arrays_conversions", "arrays_files", "arrays_gathering", "arrays_hypothesis",
        "arrays_pickles", "arrays_python", "arrays_scaling", "arrays_shapes", "backend",
        "cache_types",
        "commands_extras", "commands_frame", "contract_interleavings", "distributions", "elf",
        "import", "kernel_runner", "layering", "libraries", "patience", "runtime", "side_by_side",
        "support", "traps_warnings",
    ),
    (
        "docs", "fork", "mapping_api", "mapping_arguments", "mapping_words", "programs", "ps",
        "report", "reporting", "survey", "traps_signals",
    ),
)  # fmt: skip
"""They compute, compile, convert, draw and start programs. A new kind of test is alone."""

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|error|xfailed|xpassed|warning)s?\b")


def streams(named: Sequence[Path] = ()) -> list[list[Path]]:
    """Of all files of tests, or those named: who needs the machine's memory, and the others."""
    files = sorted(named or TESTS.glob("**/test_*.py"))
    beside = [[path for path in files if kind_of(path).startswith(kinds)] for kinds in BESIDE]
    others = [path for path in files if not any(path in some for some in beside)]
    return [others, *beside]


def kind_of(path: Path) -> str:
    """Of tests/elf/test_elf_reader.py "elf_reader"."""
    return path.stem.removeprefix("test_")


def total(*outputs: str) -> str:
    """A closing line for several runs, of what pytest wrote last in each."""
    counts: collections.Counter[str] = collections.Counter()
    for output in outputs:
        for count, what in _COUNT.findall(output.rstrip().rpartition("\n")[2]):
            counts[what] += int(count)
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def main(arguments: list[str]) -> int:
    """Runs all of them; the largest exit status."""
    import mapscratch  # noqa: F401  # built now, if need be, and not by two at once

    began = time.monotonic()
    named = [Path(argument) for argument in arguments if argument.endswith(".py")]
    options = [argument for argument in arguments if not argument.endswith(".py")]
    pytest = [sys.executable, "-m", "pytest", *options]
    shown, *beside = filter(None, streams(named))
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in beside]
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    [*pytest, "-p", "no:cacheprovider", *map(str, files)], stdout=to, stderr=to
                )
            )
            for files, to in zip(beside, kept, strict=True)
        ]
        said, status = _watched([*pytest, *map(str, shown)])
        status = max(status, *(abs(run.wait()) for run in runs)) if runs else status
        outputs = [_whole(file) for file in kept]
    for output in outputs:
        print(output, end="")
    line = f" {total(said, *outputs)} in {time.monotonic() - began:.0f} s "
    print(line.center(80, "="), flush=True)
    return status


def _watched(command: list[str]) -> tuple[str, int]:
    """What a run says, which is shown meanwhile, and its exit status."""
    said = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        assert run.stdout
        while data := os.read(run.stdout.fileno(), 1 << 16):
            os.write(1, data)
            said += data
    return said.decode(), abs(run.returncode)


def _whole(file: TextIO) -> str:
    file.seek(0)
    return file.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
