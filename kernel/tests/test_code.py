# SPDX-License-Identifier: GPL-2.0-only
"""The sentence of 2004 itself, in the guest: text with fixups, dropped and never swapped.

CPython with sqlite, OpenSSL and others runs with its libraries' PLT entries converted and their
text mapped MAP_SCRATCH. It works, so that entries are bound; its memory is reclaimed; it works
again. Beside it runs the same program as it is, whose bound slots lie in MAP_PRIVATE pages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel.tests.test_pressure import HAS_SCRATCH, Group
from kernel.tests.test_pressure import pytestmark as needs_cgroups
from mapscratch.elf import convert
from mapscratch.lab.code import measure as code
from mapscratch.proc import active_swaps
from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import ResolverCounts, environment, reports
from mapscratch.run.runtime import runtime_library
from tests.code_programs import build_calls

PYTHON = "/usr/bin/python3"
WANTED = 512 << 20
"""Bytes that reclaim is asked for: more than there is, so that every page is looked at."""

pytestmark = [
    *needs_cgroups,
    pytest.mark.skipif(not HAS_SCRATCH, reason="this kernel has no MAP_SCRATCH"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no {PYTHON}"),
]


@dataclass
class Pages:
    """Private pages of a process's file mappings, in KiB."""

    dirty: int = 0
    swapped: int = 0


class Worker:
    """The worker of `mapscratch code` in a group; it works once when it starts."""

    def __init__(self, group: Group, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            group.command(PYTHON, "-I", str(code.WORKER)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )

    def answer(self) -> str:
        """A digest of what it computed."""
        assert self.process.stdout
        return self.process.stdout.readline().split()[1]

    def work(self) -> str:
        assert self.process.stdin
        self.process.stdin.write("w")
        self.process.stdin.flush()
        return self.answer()

    def pages(self, permissions: str) -> Pages:
        """Of file mappings whose permissions match."""
        found = Pages()
        is_meant = False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            header = re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ (\d+)", line)
            if header:
                is_meant = bool(re.match(permissions, header[1])) and header[2] != "0"
            elif is_meant and line.startswith("Private_Dirty:"):
                found.dirty += int(line.split()[1])
            elif is_meant and line.startswith("Swap:"):
                found.swapped += int(line.split()[1])
        return found


@contextmanager
def working(group: Group, variables: dict[str, str]) -> Iterator[Worker]:
    worker = Worker(group, variables)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def test_a_converted_file_is_mapped_scratch(tmp_path: Path) -> None:
    """By the resolver itself, at the first call, after it has compared file and memory."""
    program = build_calls(tmp_path, "-Wl,-z,lazy")
    library = tmp_path / "libcaller.so"
    original = library.rename(tmp_path / "original.so")
    convert(original, library)
    with reports() as made, Group("file") as group:
        variables = os.environ | {
            "LD_LIBRARY_PATH": str(runtime_library().parent),
            "MAPSCRATCH_COUNTS": str(made.counts_file),
        }
        command = group.command(str(program), "2000000", "2", "5")
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            reclaim(group)
            # Or on an emulated processor the program would do nothing but fetch its pages again.
            time.sleep(0.5)
        assert process.stdout
        assert json.loads(process.stdout.read())["wrong"] == 0
        counts = made.counts()
    assert counts.scratch >= 1
    assert counts.scratch == counts.libraries
    assert counts.patched + counts.batched > 1024, "dropped meanwhile, and bound again"


def reclaim(group: Group) -> None:
    with contextlib.suppress(BlockingIOError):  # it took what there was
        group.write("memory.reclaim", str(WANTED))


def told(counts: ResolverCounts, before: ResolverCounts) -> int:
    """Words stored into text between two looks."""
    return counts.patched + counts.batched - before.patched - before.batched


def test_text_is_dropped_and_never_swapped_and_binds_itself_again(tmp_path: Path) -> None:
    assert active_swaps(), "the guest has swap"
    cache = ConversionCache(tmp_path / "cache")
    code.fill_cache(cache, Path(PYTHON))
    plain_variables = {**os.environ}
    with (
        reports() as made,
        Group("plain") as plain_group,
        Group("code") as group,
        working(plain_group, plain_variables) as plain,
        working(group, environment(cache, made)) as worker,
    ):
        expected = plain.answer()
        assert worker.answer() == expected
        for _ in range(4):
            assert worker.work() == expected
        bound = made.counts()
        assert bound.overlaid >= 10
        assert bound.scratch == bound.libraries > 0
        dirty = worker.pages("r-x").dirty
        assert dirty > 0, "entries were bound in text"

        reclaim(group)
        reclaim(plain_group)
        after = worker.pages("r-x")
        assert after.swapped == 0
        assert after.dirty < dirty, "pages were dropped"
        slots = plain.pages("rw-|r--")
        assert slots.swapped > 0, "what MAP_PRIVATE does with such pages"

        assert worker.work() == expected
        assert plain.work() == expected
        again = made.counts()
        rebound = told(again, bound)
        assert rebound > 0
        assert worker.pages("r-x").swapped == 0
        entries = bound.patched + bound.batched
        print(
            f"text of {bound.libraries} libraries: {entries} entries bound in {dirty} KiB; after "
            f"memory.reclaim {after.dirty} KiB, 0 KiB in swap; {rebound} bound again, same output. "
            f"As it is: {slots.swapped} KiB of bound and relocated data in swap",
            file=sys.stderr,
        )
