# SPDX-License-Identifier: Apache-2.0
"""Show more decoded data than memory, beside the ordinary way, which is killed.

A temporary file of big-endian integers is read as scaled float32, four times as much as the limit
on memory: first by numpy.memmap and astype, then by mapscratch.array, whose pages are decoded when
they are touched and dropped when memory is wanted. Every value is checked. It takes some seconds,
and nothing is left behind.

As root (or with a memory cgroup of one's own) the limit is a cgroup's. Otherwise each process
limits itself.

Examples:
  mapscratch demo
  mapscratch demo --limit 512     with 512 MiB of memory and 2 GiB of array
  mapscratch demo --json | jq .ours.facts
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from subprocess import PIPE
from typing import Any, Literal

from mapscratch.cli import EXIT_WRONG
from mapscratch.engine import Request, require
from mapscratch.errors import UserError, last_words
from mapscratch.fixups import Words
from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import active_swaps
from mapscratch.terminal import whole_number
from mapscratch.text import mebibytes

HELP = "more decoded data than memory, beside the ordinary way, which is killed"

_TIMES_THE_LIMIT = 4
_ITEM = 4  # bytes of a float32; the file's integers have two
_CHUNK = 1 << 20  # items
_WAYS = {"ordinary": "np.memmap(...).astype(...)", "ours": "mapscratch.array(...)"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is to be shown here, and how; sizes in bytes."""

    limit: int  # of memory that each process could have, beyond an interpreter with NumPy
    limited_by: Literal["cgroup", "itself"]  # by RLIMIT_DATA, and MADV_PAGEOUT for pressure
    why_not_cgroup: str  # empty for a cgroup
    swap: int  # that the machine has
    array: int
    file: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: by itself, by the kernel, or by a MemoryError; what it said last."""

    how: Literal["finished", "killed", "refused"]
    seconds: float
    facts: dict[str, Any]

    @property
    def is_right(self) -> bool:
        """It read all of the array, and every value was right."""
        return self.how == "finished" and self.facts.get("wrong") == 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    limit = "memory for each process; the array is four times that (default: 64)"
    size = whole_number(8, 1 << 20, "a number of MiB from")
    parser.add_argument("--limit", type=size, default=64, metavar="MIB", help=limit)
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; what is known is said at once."""

    def say(lines: Iterable[str]) -> None:
        for line in () if arguments.json else lines:
            print(line, flush=True)

    setting = prepare(arguments.limit << 20)
    say(setting_lines(setting))
    try:
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            _write_source(file.fileno(), setting.array // _ITEM)
            ordinary = _run_limited("ordinary", file.fileno(), setting)
            say(ordinary_lines(setting, ordinary))
            ours = _run_limited("ours", file.fileno(), setting)
    finally:
        _show()
    say(our_lines(ours))
    if arguments.json:
        print(json.dumps(demo_document(setting, ordinary, ours), indent=2))
    return 0 if ours.is_right else EXIT_WRONG


def prepare(limit: int) -> Setting:
    """What can be shown with so many bytes for each process; it takes no time and makes nothing."""
    # What no engine can do is found out before anything is made or killed.
    fixup = Words({0: 0})  # as for an array, whose pages are more than the file's
    require("auto", Request("the file", -1, 0, limit, mmap.PROT_READ, fixup))
    probe = probe_temporary_memory_cgroup()
    return Setting(
        limit=limit,
        limited_by="cgroup" if probe else "itself",
        why_not_cgroup="" if probe else probe.reason,
        swap=sum(area.size for area in active_swaps()),
        array=_TIMES_THE_LIMIT * limit,
        file=_TIMES_THE_LIMIT * limit // 2,
    )


def _show(text: str = "") -> None:
    """Says on standard error how far it is, if that is a terminal; or nothing any more."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _write_source(descriptor: int, items: int) -> None:
    import numpy as np  # it takes longer to load than all that is said before

    random = np.random.default_rng(2004)
    for start in range(0, items, _CHUNK):
        _show(f"writing a file of big-endian integers: {start / items:.0%}")
        count = min(_CHUNK, items - start)
        os.write(descriptor, random.integers(-30_000, 30_000, count).astype(">i2").tobytes())
    os.fsync(descriptor)


def _run_limited(kind: Literal["ordinary", "ours"], descriptor: int, setting: Setting) -> Ending:
    limits_itself = setting.limited_by == "itself"
    numbers = descriptor, setting.array // _ITEM, setting.limit if limits_itself else 0
    command = [sys.executable, "-P", "-m", "mapscratch.demo.worker", kind, *map(str, numbers)]
    with nullcontext() if limits_itself else temporary_memory_cgroup(setting.limit) as group:
        process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, pass_fds=[descriptor]
        )
        try:
            assert process.stdout
            process.stdout.readline()  # it has imported what it needs, or ended
            if group:
                group.add(process.pid)
            return _follow(process, _WAYS[kind])
        finally:
            process.kill()
            process.communicate()


def _follow(process: subprocess.Popen[str], title: str) -> Ending:
    assert process.stdin and process.stdout and process.stderr
    _show(f"{title}: 0%")
    started = time.monotonic()
    with suppress(BrokenPipeError):  # it has ended, and says below why
        process.stdin.write("go\n")
        process.stdin.flush()
    facts: dict[str, Any] = {}
    for line in process.stdout:
        message = json.loads(line)
        if "done" in message:
            _show(f"{title}: {message['done']:.0%}")
        else:
            facts = message
    _show()
    status = process.wait()
    seconds = time.monotonic() - started
    if status == -signal.SIGKILL:
        return Ending("killed", seconds, facts)
    if status or "error" in facts:
        how = f" (exit status {status})" if status else ""
        reason = last_words(process.stderr.read()) if status else facts["error"]
        raise UserError(f"a process of the demonstration failed{how}: {reason}")
    return Ending("refused" if "memory_error" in facts else "finished", seconds, facts)


def setting_lines(setting: Setting) -> list[str]:
    """What will be shown, before anything is done."""
    limit = "A memory cgroup sees to that."
    if setting.limited_by == "itself":
        limit = (
            "Each sees to that itself (RLIMIT_DATA), because "
            f"{setting.why_not_cgroup.rstrip('.')}. That makes no memory pressure, so ours asks "
            "the kernel to take pages (MADV_PAGEOUT) when half of the limit is in use."
        )
    text = (
        f"A file of {mebibytes(setting.file)} of big-endian integers is read as "
        f"{mebibytes(setting.array)} of scaled float32, by processes that may have "
        f"{mebibytes(setting.limit)} of memory. {limit}"
    )
    return textwrap.wrap(text, 80, break_on_hyphens=False)


def ordinary_lines(setting: Setting, ending: Ending) -> Iterator[str]:
    """How the ordinary way ended."""
    yield f"\n{_WAYS['ordinary']}, which has to hold all of the decoded array at once:"
    swap = f": this machine has {mebibytes(setting.swap)} of swap, which took what didn't fit"
    yield f"  {_ending(ending)}{swap if setting.swap and ending.how == 'finished' else ''}"


def our_lines(ending: Ending) -> Iterator[str]:
    """How ours ended."""
    yield f"\n{_WAYS['ours']}, whose pages are decoded when they are touched:"
    if ending.how != "finished":
        yield f"  {_ending(ending)}"
        return
    yield (
        "  read twice from end to end, and {at_random:,} numbers at random, in {seconds:.1f} s\n"
        "  {checked:,} numbers compared with NumPy's own decoding of the file: {wrong:,} wrong\n"
        "  {decoded:,} pages decoded, {decoded_again:,} of them again, because the kernel had "
        "dropped them\n"
        "  at most {most} of the array in memory at a time"
    ).format(**ending.facts, seconds=ending.seconds, most=mebibytes(ending.facts["most_resident"]))


def _ending(ending: Ending) -> str:
    return {
        "killed": f"killed by the kernel, out of memory, after {ending.seconds:.1f} s",
        "refused": f"refused: MemoryError ({ending.facts.get('memory_error', '')})",
        "finished": f"finished after {ending.seconds:.1f} s",
    }[ending.how]


def demo_document(setting: Setting, ordinary: Ending, ours: Ending) -> dict[str, Any]:
    """The same for programs; sizes in bytes."""
    return {
        "document": "mapscratch.demo",
        "version": 1,
        **asdict(setting),
        "ordinary": asdict(ordinary),
        "ours": asdict(ours),
        "right": ours.is_right,
    }
