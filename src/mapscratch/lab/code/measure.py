# SPDX-License-Identifier: Apache-2.0
"""What code fixups cost and save: the same workers as they are, and with converted entries.

Two strategies run interleaved: `stock`, where PLT slots are bound in MAP_PRIVATE data, and
`converted`, where entries are bound in text that may be dropped. Workers are spawned (each executes
its own program) or pre-forked (one loads everything, works, and forks the others). For each the
private pages of file mappings are counted: after work, without pressure; after the group that the
workers are in was squeezed; and after they have worked again.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing.connection import wait
from operator import attrgetter
from pathlib import Path
from subprocess import PIPE
from typing import IO, Literal

from mapscratch.engine.dontneed import reclaimer_setting
from mapscratch.errors import UserError, last_words
from mapscratch.lab.rig.machine.cgroups import probe_temporary_memory_cgroup
from mapscratch.lab.rig.results import Settings, SwapDescription
from mapscratch.lab.rig.surroundings import Announce, Surroundings, prepare
from mapscratch.proc import range_memory, read_vmstat
from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import ResolverCounts, environment, find_program, reports
from mapscratch.terminal import Progress

Start = Literal["spawned", "pre-forked"]
Strategy = Literal["stock", "converted"]
STARTS: tuple[Start, ...] = ("spawned", "pre-forked")
STRATEGIES: tuple[Strategy, ...] = ("stock", "converted")

WORKER = Path(__file__).with_name("worker.py")
_SYSTEM_PYTHON = "/usr/bin/python3"
_WHOLE_ADDRESS_SPACE = (1 << 47) - 4096
_ANSWER_SECONDS = 60.0
_SECONDS_TO_END = 5.0
_SECONDS_FOR_A_DROP = 0.3  # that a drop policy may still act after pressure, before is counted
_SWAP_BYTES_A_WORKER = 24 << 20
_SMALLEST_SWAP = 256 << 20


class CodeError(UserError, RuntimeError):
    """The comparison can't be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Private pages of the file mappings of one process, in bytes; means over its workers."""

    text: float  # private copies of executable pages: what code fixups dirty
    data: float  # private copies of other pages: slots, relocated and changed data
    text_swapped: float  # of executable pages, in swap
    data_swapped: float  # of the others, in swap

    @property
    def dirty(self) -> float:
        """Private copies in memory."""
        return self.text + self.data

    @property
    def swapped(self) -> float:
        """Private copies in swap."""
        return self.text_swapped + self.data_swapped


@dataclass(frozen=True, slots=True)
class CodeRound:
    """One group of workers, once."""

    start: Start  # how they came to be
    strategy: Strategy  # what they ran
    workers: int  # how many
    round: int  # its number
    calm: Footprint  # after they worked, without pressure
    squeezed: Footprint | None  # under pressure; None if there was none
    # after they have worked once more under pressure; None if there was none
    again: Footprint | None
    swap_writes: int  # pages that the machine wrote to swap meanwhile
    counts: ResolverCounts | None  # what the resolvers did, in all; None for `stock`
    digests: tuple[str, ...]  # what they computed: one, if all is well


@dataclass(frozen=True, slots=True)
class CodeComparison:
    """All rounds."""

    interpreter: Path  # the Python that the workers run
    libraries: int  # how many libraries of it run converted
    entries: int  # their converted PLT entries
    swap: SwapDescription  # where the kernel swaps to
    kernel_drops: bool  # whether the kernel has MAP_SCRATCH
    no_pressure: str  # why there is no pressure; empty if there is
    rounds: tuple[CodeRound, ...]  # in the order in which they ran

    @property
    def is_wrong(self) -> bool:
        """Whether workers computed different things."""
        return len({digest for one in self.rounds for digest in one.digests}) > 1

    def median(self, start: Start, workers: int, strategy: Strategy, figure: str) -> float:
        """The median over rounds of one kind of a figure, such as ``calm.dirty``, in KiB."""
        kind = (start, workers, strategy)
        found = [one for one in self.rounds if (one.start, one.workers, one.strategy) == kind]
        median: float = statistics.median(map(attrgetter(figure), found))
        return median / 1024


def compare_code(settings: Settings, *, announce: Announce, progress: Progress) -> CodeComparison:
    """Runs the comparison, with each number of workers in turn, under pressure if it can be had."""
    started = time.monotonic()
    cache = ConversionCache()
    # The system's Python: its extension modules are libraries, and nearly everybody has it.
    python = _SYSTEM_PYTHON if os.path.exists(_SYSTEM_PYTHON) else sys.executable
    interpreter = find_program(python).executable
    libraries, entries = fill_cache(cache, interpreter)
    probe = probe_temporary_memory_cgroup()
    no_pressure = "" if probe else probe.reason
    size = max(_SMALLEST_SWAP, max(settings.processes) * _SWAP_BYTES_A_WORKER)
    chosen = settings if probe else replace(settings, pressure="pageout", swap="none")
    rounds: list[CodeRound] = []
    plan = list(product(range(settings.rounds), settings.processes, STARTS))
    with prepare(chosen, size, announce) as surroundings:
        if probe and surroundings.swap.kind == "none":
            no_pressure = "there is no swap; as root, --swap file makes one for this run"
        measured = partial(_round, cache, interpreter, surroundings, bool(no_pressure))
        for done, (number, count, start) in enumerate(plan):
            if number > 0 and time.monotonic() - started > settings.seconds:
                break
            for strategy in STRATEGIES if number % 2 == 0 else STRATEGIES[::-1]:
                progress(f"{count} {start}, {strategy}", done / len(plan))
                rounds.append(measured(number, count, start, strategy))
    drops = any(one.counts and one.counts.scratch for one in rounds)
    swap = surroundings.swap
    return CodeComparison(interpreter, libraries, entries, swap, drops, no_pressure, tuple(rounds))


def fill_cache(cache: ConversionCache, interpreter: Path) -> tuple[int, int]:
    """Converts all that a worker loads; how many libraries run converted, and their entries."""
    with tempfile.TemporaryDirectory(prefix="mapscratch-code-") as folder, reports() as made:
        # With an empty cache everything that is loaded is told as missing.
        variables = environment(ConversionCache(Path(folder)), made, reclaimer="off")
        result = subprocess.run(
            [interpreter, "-I", WORKER], input=b"", capture_output=True, env=variables, check=False
        )
        if result.returncode:
            raise CodeError(f"{interpreter} can't run the worker: {_why(result.stderr)}")
        loaded = made.misses()
    kept = [cache.keep(path) for path in dict.fromkeys(path.resolve() for path in loaded)]
    entries = [one.converted for one in kept if one.converted]
    return len(entries), sum(entries)


def _why(errors: bytes) -> str:
    return last_words(errors.decode(errors="replace")) or "it was killed"


class _Workers:
    """The workers of one round: processes, each of which answers for itself or its children."""

    def __init__(self, count: int, errors: IO[bytes]) -> None:
        self.count = count
        self.errors = errors
        self.processes: list[subprocess.Popen[bytes]] = []
        self.pids: list[int] = []
        self.digests: set[str] = set()

    def tell(self, word: bytes) -> None:
        """Tells each process something, and waits for the answer of each worker."""
        for process in self.processes:
            assert process.stdin
            with suppress(BrokenPipeError):  # it has ended, which is found out below
                process.stdin.write(word)
        end = time.monotonic() + _ANSWER_SECONDS
        self.pids = []
        for process in self.processes * (self.count // len(self.processes)):
            assert process.stdout
            if not wait([process.stdout.fileno()], timeout=max(0.0, end - time.monotonic())):
                raise CodeError(f"a worker didn't answer within {_ANSWER_SECONDS:g} s")
            pid, _, digest = process.stdout.readline().decode().partition(" ")
            if not digest:
                self.errors.seek(0)
                why = _why(self.errors.read())
                raise CodeError(f"a worker ended before its work was done: {why}")
            self.pids.append(int(pid))
            self.digests.add(digest.strip())

    def footprint(self) -> Footprint:
        """The mean over the workers."""
        each = [_footprint(pid) for pid in self.pids]
        return Footprint(*map(statistics.fmean, zip(*each, strict=True)))

    def end(self) -> None:
        """Has the workers end, or ends them."""
        for process in self.processes:
            assert process.stdin
            process.stdin.close()
        end = time.monotonic() + _SECONDS_TO_END
        for process in self.processes:
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout
            process.stdout.close()


def _footprint(pid: int) -> list[int]:
    text_and_data, swapped = [0, 0], [0, 0]
    for area in range_memory(0, _WHOLE_ADDRESS_SPACE, pid).areas:
        if area.path.startswith("/"):
            kind = 0 if "x" in area.permissions else 1
            # What nobody shares; a forked worker shares the rest with its parent.
            text_and_data[kind] += area.usage.private_dirty
            swapped[kind] += area.usage.swap
    return text_and_data + swapped


def _round(
    cache: ConversionCache,
    interpreter: Path,
    surroundings: Surroundings,
    is_calm: bool,
    number: int,
    count: int,
    start: Start,
    strategy: Strategy,
) -> CodeRound:
    with ExitStack() as stack:
        variables, counts = dict(os.environ), None
        if strategy == "converted":
            made = stack.enter_context(reports())
            setting = surroundings.reclaimer_setting() or reclaimer_setting()
            variables, counts = environment(cache, made, reclaimer=setting), made.counts
        workers = _Workers(count, stack.enter_context(tempfile.TemporaryFile()))
        stack.callback(workers.end)
        # It waits to be in the control group before it allocates anything.
        command: list[str | Path] = ["/bin/sh", "-c", 'read go && exec "$@"', "worker"]
        command += [interpreter, "-I", WORKER]
        is_forking = start == "pre-forked"
        if is_forking:
            command.append(str(count))
        for _ in range(1 if is_forking else count):
            process = subprocess.Popen(
                command, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=workers.errors, env=variables
            )
            workers.processes.append(process)
            surroundings.adopt([process.pid])
        workers.tell(b"go\n")
        before = read_vmstat()
        calm = workers.footprint()
        squeezed = again = None
        if not is_calm:
            surroundings.squeeze(surroundings.usage(), lambda: 0)
            time.sleep(_SECONDS_FOR_A_DROP)
            squeezed = workers.footprint()
            workers.tell(b"w")
            again = workers.footprint()
        swap_writes = (read_vmstat() - before).swapped_out
        told = counts() if counts else None
        digests = tuple(sorted(workers.digests))
    return CodeRound(
        start, strategy, count, number, calm, squeezed, again, swap_writes, told, digests
    )
