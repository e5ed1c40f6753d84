# SPDX-License-Identifier: Apache-2.0
"""What code fixups cost: first call, steady call, re-fixing a dropped page, `mapscratch run`.

Each measurement is a process of its own; competitors take turns. Of two the ratio within each turn
is what counts, with the interval that holds its median with 95 % confidence (bootstrap). A goal is
reached, or missed, if all of that interval is on one side of it.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from turns import parser_of, save

from mapscratch.errors import UserError
from mapscratch.lab.rig.machine.swap import SwapError
from mapscratch.lab.rig.results import Settings, SwapChoice
from mapscratch.lab.rig.surroundings import Surroundings, prepare
from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import environment, find_program, libraries_at_start, reports

TURNS = 40
IMPORT_TURNS = 100
SWAP_TURNS = 12
SWAP_BYTES = 128 << 20
SWAP_TRIALS = 5
PAGES_HELD_AT_MOST = 80
"""Of 8,192 that were swapped: too few to matter for a median."""
STEADY_FUNCTIONS = 64
SIZES = {"small": 1024, "large": 9216}
"""Functions that a library calls: entries of 5 pages, and of 37."""
SOURCES = Path(__file__).resolve().parent.parent / "tests" / "runtime"
PROGRAM = Path(__file__).with_suffix(".c")
WINDOW_SIZES = (1, 5, 16, 100)

Figures = dict[str, float]
Names = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the table.

    Attributes:
        label: what it is.
        unit: of times; empty for a ratio.
        median: of all turns.
        low: the least of the times; of a ratio where its confidence interval starts.
        high: the greatest, or where it ends.
        goal: of a ratio, in words; empty if it is only measured.
        verdict: whether it is reached.
        key: by which it is written down; empty if it isn't.
    """

    label: str
    unit: str
    median: float
    low: float
    high: float
    goal: str = ""
    verdict: str = ""
    key: str = ""


@dataclass(slots=True)
class Section:
    """Figures that were measured in the same turns.

    Attributes:
        title: what they are about.
        lines: the figures.
        skipped: what could not be measured, and why.
    """

    title: str
    lines: list[Line] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def time(self, label: str, values: Sequence[float], unit: str = "ns") -> None:
        """Adds times: the median, least and greatest."""
        median = statistics.median(values)
        self.lines.append(Line(label, unit, median, min(values), max(values)))

    def ratio(
        self,
        label: str,
        of: Sequence[float],
        to: Sequence[float],
        *,
        at_most: float | None = None,
        holds_one: bool = False,
        key: str = "",
    ) -> None:
        """Adds the ratio within each turn."""
        median, low, high = interval([a / b for a, b in zip(of, to, strict=True)])
        goal = verdict = ""
        if at_most is not None:
            goal = f"at most {at_most:g}"
            verdict = "reached" if high <= at_most else "missed" if low > at_most else "undecided"
        if holds_one:
            goal = "holds 1.0"
            verdict = "missed: slower" if low > 1 else "faster" if high < 1 else "reached"
        self.lines.append(Line(label, "", median, low, high, goal, verdict, key))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and, by bootstrap, the interval that holds it with 95 % confidence."""
    sample = np.array(values)
    randomness = np.random.default_rng(2004)
    draws = np.median(randomness.choice(sample, (10_000, len(sample))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.median(sample)), float(low), float(high)


@dataclass(frozen=True, slots=True)
class Built:
    """What was compiled.

    Attributes:
        program: that measures.
        library: that it calls through entries to convert.
    """

    program: Path
    library: Path


def compile_all(commands: Sequence[Sequence[str | Path]]) -> None:
    for arguments in commands:
        subprocess.run(["cc", "-O2", *map(str, arguments)], check=True)


def build(folder: Path, functions: int) -> Built:
    """The program, a library with an entry for each function, and the library that has these."""
    folder.mkdir()
    for name in ("callee.h", "callee.c", "caller.c"):
        shutil.copy(SOURCES / name, folder)
    header = folder / "callee.h"
    blocks = " ".join(f"X256({block:#x})" for block in range(functions // 256))
    text = re.sub("#define ALL .*", f"#define ALL {blocks}", header.read_text())
    header.write_text(re.sub("FUNCTIONS = [0-9]+", f"FUNCTIONS = {functions}", text))
    built = Built(folder / "code_fixups", folder / "libcaller.so")
    near = [f"-I{folder}", f"-L{folder}", "-Wl,-rpath,$ORIGIN"]
    library = ["-shared", "-fPIC", *near]
    compile_all(
        [
            [
                *library,
                folder / "callee.c",
                "-Wl,-soname,libcallee.so",
                "-o",
                folder / "libcallee.so",
            ],
            [*library, folder / "caller.c", "-Wl,-z,lazy", "-lcallee", "-o", built.library],
            [*near, PROGRAM, "-lcaller", "-lcallee", "-ldl", "-o", built.program],
        ]
    )
    return built


def build_steady(folder: Path) -> tuple[Path, Path]:
    """The same library twice: it calls functions that do nothing, straight through its entries."""
    folder.mkdir()
    numbers = range(STEADY_FUNCTIONS)
    empty, calling = folder / "empty.c", folder / "calling.c"
    empty.write_text("".join(f'void empty_{n}(void) {{ __asm__(""); }}\n' for n in numbers))
    calling.write_text(
        "".join(f"void empty_{n}(void);\n" for n in numbers)
        + "unsigned long call_many(unsigned long rounds) {\n"
        + "for (unsigned long round = 0; round < rounds; round++) {\n"
        + "".join(f"empty_{n}();\n" for n in numbers)
        + "}\nreturn rounds;\n}\n"
    )
    stock, converted = folder / "libstock.so", folder / "libconverted.so"
    library = ["-shared", "-fPIC", f"-L{folder}", "-Wl,-rpath,$ORIGIN"]
    commands: list[list[str | Path]] = [
        [*library, empty, "-Wl,-soname,libempty.so", "-o", folder / "libempty.so"]
    ]
    # Names of their own, or ld.so would take one for the other.
    commands += [
        [*library, calling, f"-Wl,-soname,{output.name},-z,lazy", "-lempty", "-o", output]
        for output in (stock, converted)
    ]
    compile_all(commands)
    return stock, converted


def measure(program: Path, variables: Mapping[str, str], *words: str | Path) -> Figures:
    """The figures of one process, in nanoseconds."""
    told = subprocess.run(
        [program, *words], env=dict(variables), stdout=subprocess.PIPE, text=True, check=True
    )
    return parse(told.stdout)


def parse(lines: str) -> Figures:
    pairs = (line.split() for line in lines.splitlines())
    return {name: float(value) for name, value in pairs}


def columns(turns: Sequence[Figures]) -> dict[str, list[float]]:
    """Each figure's values over the turns."""
    return {name: [turn[name] for turn in turns] for name in turns[0]}


def first_calls(built: Built, stock: Names, ours: Names) -> Section:
    section = Section(f"First calls through 1,024 entries, a call, {TURNS} turns")
    turns: dict[str, list[Figures]] = {"stock": [], "ours": []}
    for _ in range(TURNS):
        turns["stock"].append(measure(built.program, stock, "first"))
        turns["ours"].append(measure(built.program, ours, "first"))
    lazy, fixed = columns(turns["stock"]), columns(turns["ours"])
    window = lazy["window"]
    # Whoever fixes at a later call than the first has paid when all that is over.
    bound = [turn["first"] + turn["second"] - 2 * turn["later"] for turn in turns["stock"]]
    made = [turn["first"] + turn["second"] - 2 * turn["later"] for turn in turns["ours"]]
    section.time("glibc's lazy binding, first call", lazy["first"])
    section.time("converted, first call", fixed["first"])
    section.time("converted, second call", fixed["second"])
    section.time("making one page writable, and back", window)
    section.ratio("both calls, to glibc's lazy binding", made, bound, key="first_call")
    section.ratio(
        "the same, to that and making one page writable",
        made,
        [a + b for a, b in zip(bound, window, strict=True)],
        at_most=1.25,
        key="first_call_and_window",
    )
    return section


def steady_calls(built: Built, libraries: tuple[Path, Path], ours: Names) -> Section:
    section = Section(f"Steady calls, in turns within one process, {TURNS} processes")
    turns = [measure(built.program, ours, "steady", *libraries) for _ in range(TURNS)]
    figures = columns(turns)
    section.time("ordinary entry", figures["one"])
    section.time("converted entry", figures["other"])
    section.ratio(
        "converted, to ordinary entry",
        figures["other"],
        figures["one"],
        holds_one=True,
        key="steady_call",
    )
    return section


def by_hand(turn: Figures) -> float:
    return sum(value for name, value in turn.items() if name.startswith("hand_"))


def refixing(size: str, built: Built, ours: Names) -> Section:
    turns = [measure(built.program, ours, "refix") for _ in range(TURNS // 2)]
    figures = columns(turns)
    entries = statistics.median(figures["entries"])
    pages = statistics.median(figures["pages"])
    section = Section(
        f"A dropped page of {entries:.0f} entries in a {size} library ({pages:.0f} such pages), "
        f"{len(turns)} turns"
    )
    section.time("brought back, all entries called and fixed", figures["refix"])
    section.time("the same, a page, if all of the text was dropped", figures["refix_all"])
    if "lost_first" in figures:
        section.time("targets dropped too: all called once", figures["lost_first"])
        section.time("  and once more, then all are fixed", figures["lost_second"])
    else:
        section.skipped.append("targets dropped too: they were not found")
    if size == "small":
        section.time("by hand, if the words were known", [by_hand(turn) for turn in turns])
        for name, label in (
            ("hand_fault", "the fault on the clean page"),
            ("hand_open", "making the text writable"),
            ("hand_copy", "copying the page, at the first store"),
            ("hand_store", "all other stores"),
            ("hand_close", "taking that back"),
            ("hand_call", "calling what was just written"),
        ):
            section.time(f"  of this {label}", figures[name])
        section.ratio(
            "re-fixing, to doing it by hand", figures["refix"], [by_hand(turn) for turn in turns]
        )
    return section


def windows(built: Built, stock: Names) -> Section:
    section = Section(f"Making copied text writable, and back, {TURNS // 4} turns")
    figures = columns([measure(built.program, stock, "window") for _ in range(TURNS // 4)])
    for size in WINDOW_SIZES:
        section.time(f"all of {size} pages", figures[f"all_{size}"])
        if size > 1:
            section.time("  only the one in their middle", figures[f"one_{size}"])
    return section


def swap_in(program: Path, surroundings: Surroundings) -> float:
    """One page read back from swap, in nanoseconds."""
    for _ in range(SWAP_TRIALS):
        nanoseconds = swap_in_once(program, surroundings)
        if nanoseconds is not None:
            return nanoseconds
    raise SwapError(errno.EBUSY, "swapped pages don't leave the kernel's cache of them here")


def swap_in_once(program: Path, surroundings: Surroundings) -> float | None:
    """The same; None if pages were still in memory, from where they come back for nothing."""
    with subprocess.Popen(
        [program, "swap"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        surroundings.adopt([process.pid])
        process.stdin.write("\n")
        process.stdin.flush()
        if process.stdout.readline() != "written\n":
            raise SwapError(errno.ENOMEM, "the process that is swapped out ended early")
        held = surroundings.empty_swap_cache()
        process.stdin.write("\n")
        process.stdin.flush()
        nanoseconds = parse(process.stdout.read())["swap"]
    return nanoseconds if held < PAGES_HELD_AT_MOST else None


def against_swap(built: Mapping[str, Built], ours: Names) -> Section:
    section = Section(f"A dropped page of entries against one swap-in, {SWAP_TURNS} turns")
    choices: tuple[SwapChoice, ...] = ("file", "zram")
    for choice in choices:
        settings = Settings((), 1, 60.0, (), "cgroup", choice, 0)
        pages: list[float] = []
        turns: dict[str, list[Figures]] = {size: [] for size in built}
        try:
            with prepare(settings, SWAP_BYTES, lambda _: None) as surroundings:
                for _ in range(SWAP_TURNS):
                    pages.append(swap_in(built["small"].program, surroundings))
                    for size, one in built.items():
                        turns[size].append(measure(one.program, ours, "refix"))
        except OSError as problem:
            section.skipped.append(f"{choice}: {problem.strerror}")
            continue
        section.time(f"one swap-in from {choice}", pages)
        for size in built:
            figures = columns(turns[size])
            label, key = f"re-fixing in a {size} library, to that", f"{choice}_{size}"
            section.ratio(label, figures["refix"], pages, at_most=1, key=key)
            section.ratio("  if all of the text was dropped, a page", figures["refix_all"], pages)
            if "lost_first" in figures:
                lost = [turn["lost_first"] + turn["lost_second"] for turn in turns[size]]
                label, key = "  targets dropped too, until all are fixed", f"{key}_lost"
                section.ratio(label, lost, pages, at_most=1, key=key)
    return section


def import_numpy(cache: ConversionCache, stock: Names) -> Section:
    python = find_program(sys.executable).executable
    command = [str(python), "-c", "import numpy"]
    for path in libraries_at_start(find_program(str(python))):
        cache.keep(path)

    def run(variables: Names, words: Sequence[str]) -> tuple[float, float]:
        """Milliseconds by the clock, and of processor time."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(words, env=dict(variables), check=True)
        elapsed = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return 1000 * elapsed, 1000 * used

    for _ in range(2):
        with reports() as made:
            run(environment(cache, made), command)
            for path in made.misses():
                cache.keep(path)
    with reports() as made:
        prepared = environment(cache, made)
        whole = [sys.executable, "-m", "mapscratch", "run", "--", *command]
        with_cache = dict(stock) | {"XDG_CACHE_HOME": str(cache.root.parent.parent.parent)}
        competitors: dict[str, Callable[[], tuple[float, float]]] = {
            "plain": lambda: run(stock, command),
            "prepared": lambda: run(prepared, command),
            "whole": lambda: run(with_cache, whole),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in competitors}
        for turn in range(IMPORT_TURNS + 1):
            # Each is after each other one equally often.
            order = list(competitors) if turn % 2 else list(reversed(competitors))
            for name in order:
                figures = competitors[name]()
                if turn:
                    taken[name].append(figures)
        libraries = made.counts().overlaid // (IMPORT_TURNS + 1)
    clock = {name: [figures[0] for figures in taken[name]] for name in taken}
    processor = {name: [figures[1] for figures in taken[name]] for name in taken}
    section = Section(
        f"python3 -c 'import numpy', {libraries} libraries converted, {IMPORT_TURNS} turns"
    )
    section.time("as it is", clock["plain"], "ms")
    section.time("converted", clock["prepared"], "ms")
    section.time("by mapscratch run, with its own start", clock["whole"], "ms")
    section.ratio(
        "converted, to as it is", clock["prepared"], clock["plain"], at_most=1.05, key="import"
    )
    section.ratio("  the same in processor time", processor["prepared"], processor["plain"])
    section.ratio(
        "by mapscratch run, to as it is", clock["whole"], clock["plain"], key="import_and_start"
    )
    return section


@contextmanager
def converted(cache: ConversionCache, libraries: Sequence[Path]) -> Iterator[dict[str, str]]:
    for library in libraries:
        cache.keep(library)
    with reports() as made:
        yield environment(cache, made, reclaimer="off")


def show(section: Section) -> None:
    print(f"{section.title}:")
    for line in section.lines:
        if line.unit:
            print(
                f"  {line.label:<54} {line.median:9.1f} {line.unit}"
                f"   ({line.low:.1f} to {line.high:.1f})"
            )
        else:
            goal = f"   goal: {line.goal}: {line.verdict}" if line.goal else ""
            print(
                f"  {line.label:<54} {line.median:9.3f} x "
                f"   ({line.low:.3f} to {line.high:.3f}){goal}"
            )
    for reason in section.skipped:
        print(f"  skipped: {reason}")
    sys.stdout.flush()


def measure_all(told: Callable[[Section], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="mapscratch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        cache = ConversionCache(folder / "home" / "mapscratch" / "code")
        built = {size: build(folder / size, count) for size, count in SIZES.items()}
        libraries = build_steady(folder / "steady")
        stock = dict(os.environ)
        to_convert = [one.library for one in built.values()]
        with converted(cache, [*to_convert, libraries[1]]) as ours:
            told(first_calls(built["small"], stock, ours))
            told(steady_calls(built["small"], libraries, ours))
            for size, one in built.items():
                told(refixing(size, one, ours))
            told(windows(built["small"], stock))
            told(against_swap(built, ours))
        told(import_numpy(cache, stock))


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    figures: dict[str, float] = {}

    def told(section: Section) -> None:
        show(section)
        figures.update({line.key: line.median for line in section.lines if line.key})

    try:
        measure_all(told)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, UserError, subprocess.CalledProcessError) as problem:
        sys.exit(f"code_fixups.py: {problem}")
    save(figures, arguments.json)


if __name__ == "__main__":
    main()
