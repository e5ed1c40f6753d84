# SPDX-License-Identifier: Apache-2.0
"""Three hundred processes with ten mappings each: what they cost, and what a drop of all costs."""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import time
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support.files import PatternFile, make_file
from support.interpreter import run_python, start_python

PROCESSES = 300
MAPPINGS = 10
PAGES = 64

COST = """
    import gc, mmap, os, sys, time
    from mapscratch import ScratchMap
    from mapscratch.proc import process_memory

    path, engine, mappings, pages = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    def now():
        gc.collect()
        memory = process_memory()
        return (
            memory.private_clean + memory.private_dirty,
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
        )

    def plain():
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def use(make):
        made = [make() for _ in range(mappings)]
        for m in made:
            for page in range(pages):
                m[page * 4096]
        cost = now()
        for m in made:
            m.close()
        return cost

    use(plain), use(lambda: ScratchMap(path, engine=engine))  # what is loaded once
    ordinary, scratch = use(plain), use(lambda: ScratchMap(path, engine=engine))
    pages_ours = mappings * pages * 4096 if engine == "lazyfree" else 0
    print(scratch[0] - ordinary[0] - pages_ours, scratch[1] - ordinary[1], scratch[2] - ordinary[2])
"""


@pytest.fixture
def small(tmp_path: Path) -> PatternFile:
    return make_file(tmp_path / "small", PAGES)


def test_a_process_costs_a_thread_few_descriptors_and_little_memory(
    engine: str, small: PatternFile
) -> None:
    output = run_python(COST, small.path, engine, MAPPINGS, PAGES).stdout
    private, descriptors, threads = map(int, output.split())
    assert threads <= 1
    assert descriptors <= 8
    # The pages themselves are apart: a copy a process is what this engine costs.
    assert private <= 256 << 10, private


def test_nothing_runs_while_nobody_touches(engine: str, small: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        import time
        maps = [ScratchMap(path, engine=engine) for _ in range(10)]
        for mapping in maps:
            mapping.store(0, 1)
        time.sleep(0.1)  # the window of the last store

        def ticks():
            fields = open("/proc/self/stat").read().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        def switches():
            total = 0
            for task in os.listdir("/proc/self/task"):
                if int(task) != os.getpid():
                    for line in open(f"/proc/self/task/{task}/status"):
                        if "ctxt_switches" in line:
                            total += int(line.split()[1])
            return total

        before = ticks(), switches()
        time.sleep(0.5)
        assert ticks() - before[0] <= 1, "in hundredths of a second"
        assert switches() - before[1] <= 2, "the native thread woke up"
        """,
        small.path,
        engine,
    )


WORKER = """
    from support.prelude import *
    import time
    m.close()
    maps = [ScratchMap(path, engine=engine) for _ in range(int(sys.argv[3]))]
    pages = len(data) // PAGESIZE

    def ticks():
        fields = open("/proc/self/stat").read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def touch(deadline_free=True):
        worst = 0
        for mapping in maps:
            for page in range(pages):
                started = time.perf_counter_ns()
                word = mapping.load(page * PAGESIZE)
                worst = max(worst, time.perf_counter_ns() - started)
                if word != int.from_bytes(data[page * PAGESIZE : page * PAGESIZE + 8], "little"):
                    raise SystemExit(f"wrong word in page {page}: {word:#x}")
        return worst

    for mapping in maps:
        for page in range(pages):
            mapping.store(page * PAGESIZE, 1)
        mapping.drop()
    touch()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "idle\\n":
            before = ticks()
            time.sleep(1)
            print(ticks() - before, len(os.listdir("/proc/self/task")), flush=True)
        elif line == "drop\\n":
            dropped = sum(mapping.drop() for mapping in maps)
            print(dropped, flush=True)
        elif line == "recover\\n":
            started = time.perf_counter()
            worst = touch()
            print(time.perf_counter() - started, worst / 1e9, flush=True)
"""


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_three_hundred_processes_dropped_at_once_recover(
    engine: str, small: PatternFile, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = PROCESSES * (MAPPINGS * PAGES * PAGESIZE + (16 << 20))
    if needed > os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE * 0.8:
        pytest.skip(f"needs {needed >> 20} MiB of free memory")
    workers: list[subprocess.Popen[str]] = []

    def ask(question: str) -> list[list[str]]:
        for worker in workers:
            assert worker.stdin
            worker.stdin.write(question)
            worker.stdin.flush()
        return [answer(worker) for worker in workers]

    def answer(worker: subprocess.Popen[str]) -> list[str]:
        assert worker.stdout
        line = worker.stdout.readline()
        if not line:
            assert worker.stderr
            raise AssertionError(worker.stderr.read())
        return line.split()

    try:
        for _ in range(PROCESSES):
            workers.append(start_python(WORKER, small.path, engine, MAPPINGS))
            if len(workers) % 10 == 0:
                for worker in workers[-10:]:
                    assert answer(worker) == ["ready"]
        idle = ask("idle\n")
        # The question itself takes a moment; 300 processes share the processors meanwhile.
        assert statistics.median(int(ticks) for ticks, _ in idle) <= 1
        assert all(int(threads) <= 2 for _, threads in idle)
        ask("drop\n")
        started = time.perf_counter()
        recovered = ask("recover\n")
        seconds = time.perf_counter() - started
        times = [float(own) for own, _ in recovered]
        stalls = [float(worst) for _, worst in recovered]
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.communicate()
    with capsys.disabled():
        print(
            f"\n{engine}: {PROCESSES} processes, {PROCESSES * MAPPINGS * PAGES} pages back in "
            f"{seconds:.2f} s; a process {statistics.median(times):.3f} s (median), "
            f"{max(times):.3f} s (most); worst stall of a load {max(stalls) * 1e3:.1f} ms"
        )
