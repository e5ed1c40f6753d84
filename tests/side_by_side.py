# SPDX-License-Identifier: Apache-2.0
"""Runs all tests in half the time: those that need no memory of the machine beside the others.

Two runs of pytest, in processes of their own: a worker of pytest-xdist has a thread beside the one
that tests, and much of what is tested here forks. What makes swap, fills control groups, or has the
kernel merge or reclaim pages stays in one run, one after the other.

Usage: side_by_side.py [options of pytest] [files of tests: all, if none is named]. What pytest
alone runs is the same, one by one.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
BESIDE = (
    "distributions", "docs", "elf", "fork", "import", "layering", "libraries", "patience",
    "programs", "report", "reporting", "runtime", "survey",
    "side_by_side", "arrays_api", "arrays_conversions", "arrays_files", "arrays_gathering",
    "arrays_hypothesis", "arrays_python", "arrays_scaling", "arrays_shapes",
)  # fmt: skip
"""They compute, compile, convert and draw. A new kind of test is with the others."""

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|error|xfailed|xpassed|warning)s?\b")


def halves(named: Sequence[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Of all files of tests, or those named: who needs the machine's memory, and the others."""
    files = sorted(named or TESTS.rglob("test_*.py"))
    beside = [path for path in files if _kind(path).startswith(BESIDE)]
    return [path for path in files if path not in beside], beside


def _kind(path: Path) -> str:
    return path.stem.removeprefix("test_")


def total(*outputs: str) -> str:
    """A closing line for several runs, of what pytest wrote last in each."""
    counts: collections.Counter[str] = collections.Counter()
    for output in outputs:
        for count, what in _COUNT.findall(output.rstrip().rpartition("\n")[2]):
            counts[what] += int(count)
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def main(arguments: list[str]) -> int:
    """Runs both halves; the larger exit status."""
    import mapscratch  # noqa: F401  # built now, if need be, and not by two at once

    began = time.monotonic()
    named = [Path(argument) for argument in arguments if argument.endswith(".py")]
    options = [argument for argument in arguments if not argument.endswith(".py")]
    pytest = [sys.executable, "-m", "pytest", *options]
    first, second = halves(named)
    if not first or not second:
        return subprocess.run([*pytest, *map(str, first + second)], check=False).returncode
    with (
        tempfile.TemporaryFile("w+") as kept,
        subprocess.Popen(
            [*pytest, "-p", "no:cacheprovider", *map(str, second)], stdout=kept, stderr=kept
        ) as beside,
        subprocess.Popen([*pytest, *map(str, first)], stdout=subprocess.PIPE) as one,
    ):
        assert one.stdout
        said = bytearray()
        while data := os.read(one.stdout.fileno(), 1 << 16):
            os.write(1, data)
            said += data
        status = max(map(abs, (one.wait(), beside.wait())))
        kept.seek(0)
        also_said = kept.read()
    print(also_said, end="")
    line = f" {total(said.decode(), also_said)} in {time.monotonic() - began:.0f} s "
    print(line.center(80, "="), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
