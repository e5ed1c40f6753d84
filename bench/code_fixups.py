# SPDX-License-Identifier: Apache-2.0
"""What code fixups cost: first call, steady call, re-fixing a dropped page, `mapscratch run`.

Each measurement is a process of its own; competitors take turns. Of two the ratio within each turn
is what counts, with the interval that holds its median with 95 % confidence (bootstrap).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mapscratch.experiment.results import Settings, SwapChoice
from mapscratch.experiment.surroundings import Surroundings, prepare
from mapscratch.programs.cache import ConversionCache
from mapscratch.programs.launch import environment, find_program, libraries_at_start, reports

TURNS = 40
IMPORT_TURNS = 40
SWAP_BYTES = 128 << 20
SOURCES = Path(__file__).resolve().parent.parent / "tests" / "runtime"
PROGRAM = Path(__file__).with_suffix(".c")

Figures = dict[str, float]


def build(folder: Path) -> Path:
    """The program, its library and the library that this calls."""
    near = [f"-I{SOURCES}", f"-L{folder}", "-Wl,-rpath,$ORIGIN"]
    library = ["-O2", "-shared", "-fPIC", *near]
    callee, caller = folder / "libcallee.so", folder / "libcaller.so"
    program = folder / "code_fixups"
    for output, arguments in (
        (callee, [*library, str(SOURCES / "callee.c"), "-Wl,-soname,libcallee.so"]),
        (
            caller,
            [*library, str(SOURCES / "caller.c"), "-Wl,-soname,libcaller.so,-z,lazy", "-lcallee"],
        ),
        (program, ["-O2", *near, str(PROGRAM), "-lcaller", "-lcallee"]),
    ):
        subprocess.run(["cc", *arguments, "-o", str(output)], check=True)
    return program


def measure(program: Path, what: str, variables: Mapping[str, str]) -> Figures:
    """The figures of one process, in nanoseconds."""
    told = subprocess.run(
        [program, what], env=dict(variables), capture_output=True, text=True, check=True
    )
    pairs = (line.split() for line in told.stdout.splitlines())
    return {name: float(value) for name, value in pairs}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and, by bootstrap, the interval that holds it with 95 % confidence."""
    sample = np.array(values)
    randomness = np.random.default_rng(2004)
    draws = np.median(randomness.choice(sample, (10_000, len(sample))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.median(sample)), float(low), float(high)


def tell_ratio(what: str, values: Sequence[float], goal: str) -> None:
    middle, low, high = interval(values)
    print(f"  {what:<58} {middle:6.3f}   ({low:.3f} to {high:.3f})   goal: {goal}")


def first_and_steady(program: Path, stock: Mapping[str, str], ours: Mapping[str, str]) -> None:
    ratios: dict[str, list[float]] = {"bound": [], "with a window": [], "steady": []}
    nanoseconds: dict[str, list[float]] = {"lazy": [], "ours": [], "window": []}
    for turn in range(TURNS):
        # Who comes first takes turns too.
        order = (stock, ours) if turn % 2 == 0 else (ours, stock)
        first = {id(one): measure(program, "first", one) for one in order}
        lazy, fixed = first[id(stock)], first[id(ours)]
        bound, made = lazy["bound"], fixed["bound"]
        ratios["bound"].append(made / bound)
        ratios["with a window"].append(made / (bound + lazy["window"]))
        nanoseconds["lazy"].append(bound)
        nanoseconds["ours"].append(made)
        nanoseconds["window"].append(lazy["window"])
        steady = {id(one): measure(program, "steady", one)["steady"] for one in order}
        ratios["steady"].append(steady[id(ours)] / steady[id(stock)])
    print(f"First and steady calls, 1,024 entries, {TURNS} turns:")
    for name, values in nanoseconds.items():
        print(f"  {name:<58} {statistics.median(values):6.0f} ns")
    tell_ratio("first call, to glibc's lazy binding", ratios["bound"], "measured")
    tell_ratio(
        "the same, to that and making one page writable", ratios["with a window"], "at most 1.25"
    )
    tell_ratio("steady call, to an ordinary bound entry", ratios["steady"], "holds 1.0")


def refix(program: Path, ours: Mapping[str, str]) -> float:
    """The median of what a page of entries takes to be fixed again, in nanoseconds."""
    turns = [measure(program, "refix", ours) for _ in range(TURNS // 2)]
    whole = [turn["refix"] for turn in turns]
    entries = statistics.median(turn["entries"] for turn in turns)
    print(f"A dropped page of {entries:.0f} entries, {len(turns)} turns:")
    middle, low, high = interval(whole)
    print(f"  brought back and all fixed again      {middle:8.0f} ns   ({low:.0f} to {high:.0f})")
    fault = statistics.median(turn["fault"] for turn in turns)
    print(f"  of this the fault on the clean page   {fault:8.0f} ns")
    return middle


def swap_in(program: Path, surroundings: Surroundings) -> float:
    """One page read back from swap that has left memory altogether, in nanoseconds."""
    with subprocess.Popen(
        [program, "swap"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        surroundings.adopt([process.pid])
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
        surroundings.empty_swap_cache()
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline().split()[1])


def against_swap(program: Path, ours: Mapping[str, str]) -> None:
    choices: tuple[SwapChoice, ...] = ("file", "zram")
    for choice in choices:
        settings = Settings((), 1, 60.0, (), "cgroup", choice, 0)
        try:
            with prepare(settings, SWAP_BYTES, lambda _: None) as surroundings:
                ratios, times = [], []
                for _ in range(8):
                    page = swap_in(program, surroundings)
                    times.append(page)
                    ratios.append(measure(program, "refix", ours)["refix"] / page)
        except OSError as problem:
            print(f"  one swap-in from {choice}: not measured: {problem.strerror}")
            continue
        print(f"  one swap-in from {choice:<20} {statistics.median(times):8.0f} ns")
        tell_ratio(f"re-fixing the page, to one swap-in from {choice}", ratios, "under 1")


def run_overhead(cache: ConversionCache, stock: Mapping[str, str]) -> None:
    python = find_program(sys.executable).executable
    command = [str(python), "-c", "import numpy"]
    for path in libraries_at_start(find_program(str(python))):
        cache.keep(path)

    def seconds(variables: Mapping[str, str], words: Sequence[str]) -> float:
        start = time.perf_counter()
        subprocess.run(words, env=dict(variables), check=True)
        return time.perf_counter() - start

    for _ in range(2):
        with reports() as made:
            seconds(environment(cache, made), command)
            for path in made.misses():
                cache.keep(path)
    with reports() as made:
        prepared = environment(cache, made)
        whole = [sys.executable, "-m", "mapscratch", "run", "--", *command]
        with_cache = dict(stock) | {"XDG_CACHE_HOME": str(cache.root.parent.parent.parent)}
        figures: dict[str, list[float]] = {"plain": [], "prepared": [], "whole": []}
        competitors: dict[str, Callable[[], float]] = {
            "plain": lambda: seconds(stock, command),
            "prepared": lambda: seconds(prepared, command),
            "whole": lambda: seconds(with_cache, whole),
        }
        for turn in range(IMPORT_TURNS + 1):
            for name, competitor in competitors.items():
                value = competitor()
                if turn:
                    figures[name].append(value)
        libraries = made.counts().overlaid // (IMPORT_TURNS + 1)
    print(f"python3 -c 'import numpy', {libraries} libraries converted, {IMPORT_TURNS} turns:")
    for name, goal in (("prepared", "at most 1.05"), ("whole", "measured")):
        label = (
            "in the program itself" if name == "prepared" else "with the start of mapscratch run"
        )
        ratios = [a / b for a, b in zip(figures[name], figures["plain"], strict=True)]
        tell_ratio(label, ratios, goal)


@contextmanager
def converted(cache: ConversionCache, *libraries: Path) -> Iterator[dict[str, str]]:
    for library in libraries:
        cache.keep(library)
    with reports() as made:
        yield environment(cache, made, reclaimer="off")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mapscratch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        cache = ConversionCache(folder / "home" / "mapscratch" / "code")
        program = build(folder)
        stock = dict(os.environ)
        with converted(cache, folder / "libcaller.so") as ours:
            first_and_steady(program, stock, ours)
            refix(program, ours)
            against_swap(program, ours)
        run_overhead(cache, stock)


if __name__ == "__main__":
    main()
