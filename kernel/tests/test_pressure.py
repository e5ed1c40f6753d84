# SPDX-License-Identifier: GPL-2.0-only
"""MAP_PRIVATE beside MAP_SCRATCH under each kind of memory pressure, in the guest.

A process stores into 64 MiB of a file's pages; then memory is wanted. The pages of MAP_PRIVATE go
to swap, or its process is killed; those of MAP_SCRATCH are dropped, and every word is the file's or
what was stored, by whole pages. ``make kernel-test`` runs this.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.patience import patient

import mapscratch
from mapscratch.proc import active_swaps, read_meminfo

MIB = 1 << 20
PAGES = 64 * MIB // mmap.PAGESIZE
CGROUPS = Path("/sys/fs/cgroup")
WORKER = Path(__file__).with_name("pressure_worker.py")
HAS_SCRATCH = {status.name: status for status in mapscratch.engines()}["kernel"].available
CONTROLLERS = CGROUPS / "cgroup.controllers"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not CONTROLLERS.exists() or "memory" not in CONTROLLERS.read_text().split(),
        reason="no memory controller of cgroup v2 here",
    ),
]
kinds = pytest.mark.parametrize(
    "kind",
    [
        "private",
        pytest.param(
            "kernel",
            marks=pytest.mark.skipif(not HAS_SCRATCH, reason="this kernel has no MAP_SCRATCH"),
        ),
    ],
)


class Group:
    """A control group for the length of a ``with`` block."""

    def __init__(self, name: str, **limits: str) -> None:
        self.directory = CGROUPS / f"mapscratch-{name}-{os.getpid()}"
        self.limits = limits

    def __enter__(self) -> Group:
        self.directory.mkdir()
        for name, limit in self.limits.items():
            self.write(f"memory.{name}", limit)
        return self

    def __exit__(self, *error: object) -> None:
        self.write("cgroup.kill", "1")
        for _ in range(200):
            try:
                self.directory.rmdir()
            except OSError as busy:
                assert busy.errno == errno.EBUSY
                time.sleep(0.02)
            else:
                return
        self.directory.rmdir()

    def write(self, name: str, text: str) -> None:
        # One write(2), whose error is the answer.
        descriptor = os.open(self.directory / name, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def command(self, *arguments: str) -> list[str]:
        """A command that enters the group before it does anything else."""
        enter = 'echo 0 > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self.directory / "cgroup.procs"), *arguments]

    def oom_kills(self) -> int:
        events = dict(
            line.split() for line in (self.directory / "memory.events").read_text().splitlines()
        )
        return int(events["oom_kill"])


class Worker:
    """The process that stores."""

    def __init__(self, group: Group, file: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            group.command(sys.executable, str(WORKER), str(file), kind, str(PAGES)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def is_ready(self) -> bool:
        assert self.process.stdout
        return self.process.stdout.readline() == "ready\n"

    def look(self) -> dict[str, int] | None:
        """What it finds; None if it has been killed."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write("look\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> int:
        self.process.kill()
        return self.process.wait()


@contextmanager
def working(group: Group, file: Path, kind: str) -> Iterator[Worker]:
    worker = Worker(group, file, kind)
    try:
        yield worker
    finally:
        worker.end()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pressure") / "words"
    (np.arange(PAGES * mmap.PAGESIZE // 8, dtype=np.uint64) + np.uint64(1)).tofile(path)
    os.sync()
    return path


@pytest.fixture
def swap() -> None:
    assert active_swaps(), "the guest has swap"


@pytest.fixture
def no_swap() -> Iterator[None]:
    areas = [area.path for area in active_swaps()]
    for area in areas:
        subprocess.run(["swapoff", area], check=True)
    yield
    for area in areas:
        subprocess.run(["swapon", area], check=True)


def tell(scenario: str, kind: str, found: dict[str, int] | None) -> None:
    outcome = found and ", ".join(f"{number} {what}" for what, number in found.items())
    print(f"\n  {scenario}: {kind}: {outcome or 'killed for want of memory'}")


def check_scratch(found: dict[str, int] | None) -> None:
    assert found is not None, "it was killed"
    assert found["swapped"] == 0
    assert found["wrong"] == 0
    assert found["dropped"] > 0


@kinds
def test_memory_reclaim(kind: str, file: Path, swap: None) -> None:
    with Group("reclaim") as group, working(group, file, kind) as worker:
        assert worker.is_ready()
        group.write("memory.reclaim", "40M")
        found = worker.look()
    tell("memory.reclaim of 40 MiB", kind, found)
    if kind == "private":
        assert found
        assert found["swapped"] > PAGES // 4
        assert (found["dropped"], found["kept"], found["wrong"]) == (0, PAGES, 0)
    else:
        check_scratch(found)
        assert found
        assert found["kept"] > PAGES // 4, "no more is dropped than was asked for"


@kinds
def test_squeezed_cgroup(kind: str, file: Path, swap: None) -> None:
    with Group("squeezed", max="64M") as group, working(group, file, kind) as worker:
        assert worker.is_ready()
        found = worker.look()
    tell("64 MiB in a cgroup of 64 MiB", kind, found)
    if kind == "private":
        assert found
        assert found["swapped"] > 0
        assert found["wrong"] == 0
    else:
        check_scratch(found)


HOG = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for offset in range(0, len(memory), mmap.PAGESIZE):
    memory[offset] = 1
"""


@kinds
def test_global_pressure(kind: str, file: Path, swap: None) -> None:
    """Somebody else, who may not swap, takes all memory that is available and then some."""
    with (
        Group("worker") as group,
        Group("hog", **{"swap.max": "0"}) as hogs,
        working(group, file, kind) as worker,
    ):
        assert worker.is_ready()
        # Pages that can be dropped count as available, those that must be swapped do not.
        wanted = read_meminfo().available + (96 * MIB if kind == "private" else 0)
        hog = subprocess.Popen(hogs.command(sys.executable, "-c", HOG, str(wanted)))
        assert hog.wait(timeout=patient(120)) in (0, -signal.SIGKILL)
        found = worker.look()
    tell("a neighbour takes all memory", kind, found)
    if kind == "private":
        assert found is None or found["swapped"] > 0
    else:
        check_scratch(found)


@kinds
def test_no_swap(kind: str, file: Path, no_swap: None) -> None:
    with Group("no-swap", max="64M") as group, working(group, file, kind) as worker:
        ready = worker.is_ready()
        found = worker.look() if ready else None
        kills = group.oom_kills()
    tell("64 MiB in a cgroup of 64 MiB, no swap", kind, found)
    if kind == "private":
        assert not ready
        assert kills == 1
    else:
        check_scratch(found)
        assert kills == 0
