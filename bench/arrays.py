# SPDX-License-Identifier: Apache-2.0
"""Arrays that are decoded on page-in, against what else one would do.

Parts, each one run with its competitors in turns: `scan` (a cold sequential sum with room enough),
`overcommit` (twice the limit of a memory cgroup: repeated scans, rows and single words at random),
`fixups` (built in, C, numba, Python), `readers` (memory of 1, 4 and 16 processes). The file is in
the page cache, and of nobody's limit, where nothing else is said.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from turns import describe, in_turns, parser_of, ratio, save

import mapscratch
from mapscratch.fixups import Compiled, Python
from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.lab.rig.machine.swap import SwapKind, probe_temporary_swap, temporary_swap

SCALE = np.float32(0.5)
ROUNDS = 7
CHUNK = 1 << 19  # items
BLOCK = 256 * 1024
LIMIT = 192 << 20
WORKER = Path(__file__).with_name("array_worker.py")
PARTS = ("scan", "overcommit", "fixups", "readers")

Results = dict[str, float]


def told(results: Results, name: str, value: float, goal: float, text: str) -> None:
    """Prints a ratio beside its goal, if it has one, and keeps it."""
    results[name] = value
    verdict = "reached" if value >= goal else "MISSED"
    beside = f" (goal: at least {goal:g} x: {verdict})" if goal else ""
    print(f"  {text}: {value:.2f} x{beside}")


# Scan: whole, ours, and chunk by chunk


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def whole(path: str, items: int) -> float:
    return float((np.memmap(path, ">i2", "r", shape=items).astype("f4") * SCALE).sum())


def whole_in_place(path: str, items: int) -> float:
    return float(np.memmap(path, ">i2", "r", shape=items).astype("f4").sum())


def ours(path: str, items: int) -> float:
    array = mapscratch.array(path, "f4", shape=items, source=">i2")
    return float(np.asarray(array).sum())


def chunks(path: str, items: int) -> float:
    raw = np.memmap(path, ">i2", "r", shape=items)
    return sum(
        float(raw[start : start + CHUNK].astype("f4").sum()) for start in range(0, items, CHUNK)
    )


def drop_cache(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def least_of_three(measure: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Each figure's least of three in a row, where all take as much memory as the one before.

    The host of a virtual machine takes back what is free for two seconds (free page reporting).
    Whoever touches it next waits for the host: up to ten times as long as the array takes.
    """
    first, second = zip(*(measure() for _ in range(3)), strict=True)
    return min(first), min(second)


def scan(path: str, items: int, results: Results) -> None:
    ways = {"astype of the whole, then sum": whole_in_place, "ours": ours, "chunk by chunk": chunks}
    for cold in (False, True):
        processor: dict[str, list[float]] = {name: [] for name in ways}

        def once(name: str, cold: bool = cold) -> tuple[float, float]:
            if cold:
                drop_cache(path)
            before = processor_seconds()
            started = time.perf_counter()
            ways[name](path, items)
            spent = time.perf_counter() - started
            return spent, processor_seconds() - before

        def timed(name: str, into: dict[str, list[float]] = processor) -> float:
            spent, of_processors = least_of_three(lambda: once(name))
            into[name].append(of_processors)
            return spent

        for name in ways:
            timed(name)  # warms up
        for times in processor.values():
            times.clear()
        wall = in_turns({name: lambda name=name: timed(name) for name in ways}, ROUNDS)
        print(f"cold sequential sum, file {'not ' if cold else ''}in the page cache")
        describe(wall, "s")
        key, title = ("scan_cold_file", "cold file") if cold else ("scan", "warm file")
        told(results, key, ratio(wall, *list(ways)[:2]), 0.9, f"{title}: as fast as the whole")
        told(
            results,
            f"{key}_processor",
            ratio(processor, *list(ways)[:2]),
            0.9,
            f"{title}: the same by processor time",
        )
        results[f"{key}_chunks"] = ratio(wall, "chunk by chunk", "ours")
        print(f"  chunk by chunk takes {results[f'{key}_chunks']:.2f} x our time: it beats us")


# Overcommit: twice the limit


class Worker:
    """A reader of one kind, in a memory cgroup of its own."""

    def __init__(self, kind: str, path: str, items: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), kind, path, str(items)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str, seed: int = 0) -> float:
        """Has it do something, and returns how many seconds that took."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{command} {seed}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a reader ended: exit status {self.process.wait()}")
        return float(json.loads(line)["seconds"])


@contextmanager
def worker(kind: str, path: str, items: int) -> Iterator[Worker]:
    with temporary_memory_cgroup(LIMIT) as group:
        reader = Worker(kind, path, items)
        try:
            group.add(reader.process.pid)
            reader.ask("make")
            yield reader
        finally:
            reader.process.kill()
            reader.process.communicate()


GOALS = {  # scan, rows of 4 KiB; 0: measured without a goal
    "file": (5.0, 4.0),
    "zram": (3.0, 1.0),
    "zswap": (0.0, 0.0),
}
SWAP_NAMES = {"file": "a swapfile", "zram": "zram", "zswap": "zswap"}


def overcommit(path: str, results: Results) -> None:
    possible = probe_temporary_memory_cgroup()
    if not possible:
        print(f"overcommit: not measured: {possible.reason}")
        return
    items = 2 * LIMIT // 4
    kinds: tuple[SwapKind, ...] = ("file", "zram", "zswap")
    for kind in kinds:
        probe = probe_temporary_swap(kind, 2 * LIMIT)
        if not probe:
            print(f"{kind}: not measured: {probe.reason}")
            continue
        with ExitStack() as stack:
            stack.enter_context(temporary_swap(kind, 3 * LIMIT))
            against(kind, path, items, stack, results)


def against(kind: SwapKind, path: str, items: int, stack: ExitStack, results: Results) -> None:
    charged = path + ".charged"
    shutil.copyfile(path, charged)
    drop_cache(charged)
    readers = {
        "ours": stack.enter_context(worker("ours", path, items)),
        "dirty": stack.enter_context(worker("dirty", path, items)),
        "ours, file charged": stack.enter_context(worker("ours", charged, items)),
        "chunks": stack.enter_context(worker("chunks", path, items)),
    }
    if find_spec("zarr"):
        readers["zarr"] = stack.enter_context(worker("zarr", path, items))
    else:
        print("  zarr: not measured: it is not installed")
    named = {"dirty": f"dirty memory and {SWAP_NAMES[kind]}"}
    scans = take_turns(readers, "scan", 5)
    table = {name: readers[name] for name in ("ours", "dirty", "ours, file charged")}
    rows = take_turns(table, "rows", 8)
    words = take_turns(table, "words", 8)
    print(f"twice the limit, against {named['dirty']}")
    for title, figures, unit, factor in (
        ("repeated scans", scans, "ms", 1e3),
        ("rows of 4 KiB by an index array", rows, "us", 1e6),
        ("single words", words, "us", 1e6),
    ):
        print(f" {title}")
        in_unit = {
            named.get(name, name): [factor * seconds for seconds in values]
            for name, values in figures.items()
        }
        describe(in_unit, unit)
    scan_goal, row_goal = GOALS[kind]
    told(results, f"{kind}_scan", ratio(scans, "dirty", "ours"), scan_goal, "scans")
    told(results, f"{kind}_rows", ratio(rows, "dirty", "ours"), row_goal, "rows of 4 KiB")
    told(results, f"{kind}_words", ratio(words, "dirty", "ours"), row_goal, "single words")
    charged_scan = ratio(scans, "dirty", "ours, file charged")
    charged_rows = ratio(rows, "dirty", "ours, file charged")
    results[f"{kind}_scan_charged"], results[f"{kind}_rows_charged"] = charged_scan, charged_rows
    print(
        f"  with the file's pages under the same limit: scans {charged_scan:.2f} x, rows "
        f"{charged_rows:.2f} x"
    )
    results[f"{kind}_chunks"] = ratio(scans, "chunks", "ours")
    print(f"  chunk by chunk takes {results[f'{kind}_chunks']:.2f} x our time for a scan")
    if "zarr" in scans:
        results[f"{kind}_zarr"] = ratio(scans, "zarr", "ours")
        print(f"  zarr takes {results[f'{kind}_zarr']:.2f} x our time for a scan")


def take_turns(readers: dict[str, Worker], command: str, rounds: int) -> dict[str, list[float]]:
    for seed in range(2):  # the working set settles
        for reader in readers.values():
            reader.ask(command, 1000 + seed)
    figures: dict[str, list[float]] = {name: [] for name in readers}
    for seed in range(rounds):
        for name, reader in readers.items():
            figures[name].append(reader.ask(command, seed))
    return figures


# Fixups: who decodes

C_SOURCE = """
#include <stdint.h>
int32_t decode(void *output, const void *source, int64_t items, int64_t first, void *user_data) {
    float *to = output;
    const uint16_t *from = source;
    for (int64_t item = 0; item < items; item++)
        to[item] = (int16_t)__builtin_bswap16(from[item]) * 0.5f;
    return 0;
}
"""


def compiled_by_c(directory: str) -> Compiled | None:
    compiler = shutil.which("cc")
    if not compiler:
        return None
    source, library = Path(directory, "decode.c"), Path(directory, "decode.so")
    source.write_text(C_SOURCE)
    subprocess.run(
        [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source], check=True
    )
    return Compiled(ctypes.CDLL(str(library)).decode)


def compiled_by_numba() -> Compiled | None:
    try:
        import numba
    except ImportError:
        print("  numba: not measured: it is not installed")
        return None

    @numba.cfunc(Compiled.SIGNATURE)
    def decode(output, source, items, first, user_data):
        to = numba.carray(output, (items,), dtype=np.float32)
        read = numba.carray(source, (items,), dtype=np.uint16)
        for item in range(items):
            swapped = np.uint16((read[item] << 8) | (read[item] >> 8))
            to[item] = np.float32(np.int16(swapped)) * np.float32(0.5)
        return 0

    return Compiled(decode)


def decode_by_numpy(source: np.ndarray) -> np.ndarray:
    return source.astype("f4") * SCALE


def fixups(path: str, items: int, results: Results) -> None:
    with tempfile.TemporaryDirectory() as directory:
        in_c, in_numba = compiled_by_c(directory), compiled_by_numba()
        if in_c is None:
            print("fixups: not measured: there is no C compiler (cc)")
            return
        ways: dict[str, Callable[[], mapscratch.ScratchArray]] = {}

        def add(name: str, **arguments: object) -> None:
            ways[name] = lambda: mapscratch.array(
                path,
                "f4",
                shape=items,
                source=">i2",
                **arguments,  # type: ignore[arg-type]
            )

        add("C, 256 KiB blocks", fixup=in_c, block=BLOCK)
        add("built in, adapting blocks", scale=SCALE)
        if in_numba:
            add("numba, 256 KiB blocks", fixup=in_numba, block=BLOCK)
        add("Python, 256 KiB blocks", fixup=Python(decode_by_numpy), block=BLOCK)
        wanted = whole(path, items)

        def once(name: str) -> tuple[float, float]:
            array = ways[name]()
            started = time.perf_counter()
            total = float(np.asarray(array).sum())
            spent = time.perf_counter() - started
            if total != wanted:
                raise SystemExit(f"{name}: {total} is not {wanted}")
            return spent, array.scratch.counts().fixup_seconds

        def timed(name: str) -> float:
            return least_of_three(lambda: once(name))[0]

        for name in ways:
            timed(name)
        figures = in_turns({name: lambda name=name: timed(name) for name in ways}, ROUNDS)
        print("who decodes: a sequential sum of a fresh array")
        describe(figures, "s")
        if in_numba:
            value = ratio(figures, "C, 256 KiB blocks", "numba, 256 KiB blocks")
            told(results, "numba", value, 0.95, "numba, 256 KiB blocks")
        value = ratio(figures, "C, 256 KiB blocks", "Python, 256 KiB blocks")
        told(results, "python", value, 0.5, "Python in a process of its own, 256 KiB blocks")


# Readers: memory of many processes

READER = """
import sys, numpy as np
kind, path, items = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "ours":
    import mapscratch
    array = mapscratch.array(path, "f4", shape=items, source=">i2")
    np.asarray(array).sum()
else:
    array = np.memmap(path, ">i2", "r", shape=items)
    for start in range(0, items, 1 << 19):
        array[start : start + (1 << 19)].astype("f4").sum()
print("ready", flush=True)
sys.stdin.read()
"""

FORKING = """
import os, sys, numpy as np
path, items, readers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
array = np.memmap(path, ">i2", "r", shape=items).astype("f4")
stop, go = os.pipe()
for reader in range(readers):
    if not os.fork():
        os.close(go)
        array.sum()
        os.write(1, b"ready\\n")
        os.read(stop, 1)
        os._exit(0)
sys.stdin.read()
"""


READERS = {
    "ours": "ours",
    "forked": "load, then fork",
    "chunks": "memmap of the file, in chunks",
}


def pss_mib(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def readers_pss(kind: str, path: str, items: int, count: int) -> float:
    """Of `count` processes that have each read all of the array, MiB."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    if kind == "load, then fork":
        commands = [[sys.executable, "-c", FORKING, path, str(items), str(count)]]
    else:
        commands = [[sys.executable, "-c", READER, kind, path, str(items)]] * count
    processes = [subprocess.Popen(command, text=True, **pipes) for command in commands]
    try:
        lines = count // len(processes)
        for process in processes:
            for _ in range(lines):
                if process.stdout.readline() != "ready\n":
                    raise SystemExit(f"a reader of {kind} ended")
        pids = [process.pid for process in processes]
        return pss_mib(pids + [child for pid in pids for child in children_of(pid)])
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


def readers(path: str, results: Results) -> None:
    items = 64 << 18  # 64 MiB of output
    print(f"Pss of all readers of an array of {items * 4 >> 20} MiB, MiB")
    print(f"  {'readers':<28}" + "".join(f"{count:>10}" for count in (1, 4, 16)))
    for kind, name in READERS.items():
        pss = [readers_pss(name, path, items, count) for count in (1, 4, 16)]
        print(f"  {name:<28}" + "".join(f"{value:>10.0f}" for value in pss))
        results[f"readers_{kind}"] = pss[-1]
    print("  ours is a copy a process (until memory is wanted): it loses here")


def draw(results: Results, path: Path) -> None:
    """Bars of how many times as fast we are as dirty memory and swap, at twice the limit."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "mapscratch"
    kinds = [kind for kind in SWAP_NAMES if f"{kind}_scan" in results]
    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for offset, (key, label) in enumerate(
        (("scan", "repeated scans"), ("rows", "4 KiB rows by index"), ("words", "single words"))
    ):
        values = [results[f"{kind}_{key}"] for kind in kinds]
        places = [index + (offset - 1) * 0.27 for index in range(len(kinds))]
        bars = axes.bar(places, values, 0.25, label=label)
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=2, fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(kinds)), [SWAP_NAMES[kind] for kind in kinds])
    axes.set_ylabel("times as fast")
    axes.set_title("Decoded on page-in, against dirty memory and swap; twice the memory limit")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--size", type=int, default=384, help="MiB of output in `scan`, `fixups`")
    parser.add_argument("--chart", type=Path, help="draw `overcommit` there, as SVG")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    items = max(arguments.size << 18, 2 * LIMIT // 4)
    results: Results = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        path = str(Path(directory, "values"))
        random = np.random.default_rng(0)
        with open(path, "wb") as file:
            for _ in range(0, items, CHUNK):
                random.integers(-30_000, 30_000, CHUNK).astype(">i2").tofile(file)
            file.flush()
            os.fsync(file.fileno())
        items = arguments.size << 18
        if "scan" in parts:
            scan(path, items, results)
        if "overcommit" in parts:
            overcommit(path, results)
        if "fixups" in parts:
            fixups(path, items, results)
        if "readers" in parts:
            readers(path, results)
    save(results, arguments.json)
    if arguments.chart and any(name.endswith("_scan") for name in results):
        draw(results, arguments.chart)


if __name__ == "__main__":
    main()
