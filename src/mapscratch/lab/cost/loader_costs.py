# SPDX-License-Identifier: Apache-2.0
"""What ld.so takes for a fixup: libraries with many and with few of them, loaded by a new process.

What a fixup costs is the difference between the two, over the difference in their numbers. Both
have the same pages to copy and the same libraries to search, so that page faults of the data are
not in it. What ld.so itself says (``LD_DEBUG=statistics``, see ld.so(8)) is asked as well.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapscratch.lab.cost.costs import Check
from mapscratch.lab.cost.generated import OWN, Contents, symbol_names, write_library
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Heading, Timer, in_turn, run_program

_PAGES = 256
_MANY, _FEW = 512, 1
"""Relative fixups a page."""
_COPIES = range(3)
"""Of each library in a process: the quickest counts."""
_SYMBOLS, _FEW_SYMBOLS = 2000, 20
_SYMBOL_PAGES = 4
_SYMBOLS_OF_OTHERS = 64
_SCOPES = {"short": 4, "long": 64}
"""How many objects are searched in vain, if the program doesn't consist of more."""
_TOLERANCE = 2.0

_TABLE = (
    f"The difference between {_MANY} and {_FEW} a page, on the same {_PAGES} pages: no "
    "copy-on-write fault is in it; reading the relocation table from the page cache is."
)
_LOOKUP = (
    "ld.so searches {} objects in vain, each with a hash table and its filter; the tables are in "
    "memory, the names have no versions."
)
_LAZY = " The first call of each PLT entry, less what a later one takes."
_LOOKUPS = (
    ("relocation.symbolic", "symbol look-up and store", ""),
    ("binding.now", "PLT entry bound at load", ""),
    ("binding.lazy", "PLT entry bound at the first call", _LAZY),
)

_ASKED = {"relocation.relative": "relative", "relocation.symbolic.long": "symbolic"}
"""What ld.so's own statistics are compared with, and as what they count it."""
_ASKED_A_ROUND = 3
# glibc, elf/rtld.c, print_statistics.
_STATISTICS = {
    "total": r"total startup time in dynamic loader: (\d+)",
    "cycles": r"time needed for relocation: (\d+)",
    "symbolic": r"  number of relocations: (\d+)",
    "relative": r"number of relative relocations: (\d+)",
}


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two libraries that differ in their number of fixups alone, each with copies; or one."""

    name: str
    mode: str
    many: str
    few: str
    difference: int

    def tasks(self, folder: Path) -> list[tuple[str, str, str]]:
        """For `loader_probe`, the copies of both in turns."""
        names = [name for name in (self.many, self.few) if name]
        return [(name, _copy(folder, name, at), self.mode) for at in _COPIES for name in names]

    def nanoseconds(self, times: Figures) -> float:
        """What a fixup takes."""
        return (times[self.many] - times.get(self.few, 0.0)) / self.difference


class LoaderTimer(Timer):
    """Times ld.so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pairs: list[_Pair] = []
        self._before = dict(_SCOPES)
        self._statistics: dict[str, list[Figures]] = defaultdict(list)
        self._times: list[Figures] = []
        self._cycles_per_ns: list[float] = []

    def headings(self) -> list[Heading]:
        """Those of relocation, and of binding."""
        named = [
            ("relocation.relative", "RELATIVE relocation of a word", _TABLE),
            ("relocation.relr", "RELR relocation of a word", _TABLE),
        ]
        named += [
            (f"{name}.{scope}", f"{title}, {scope} scope", _LOOKUP.format(count) + how)
            for name, title, how in _LOOKUPS
            for scope, count in self._before.items()
        ]
        return [Heading(*one, "fixup") for one in named]

    def _measure(self, number: int) -> Figures:
        """Starts a process that loads all libraries once, in another order each time."""
        tasks = [task for pair in self._pairs for task in pair.tasks(self.folder)]
        answer = self._probe("warm.so", in_turn(tasks, number * 5))
        times: Figures = answer["times"]
        self._times.append(times)
        self._cycles_per_ns.append(answer["cycles_per_ns"])
        asked = [pair for pair in self._pairs if pair.name in _ASKED]
        for name in [name for pair in asked for name in (pair.many, pair.few)] * _ASKED_A_ROUND:
            self._statistics[name].append(self._ask_loader(name))
        return {pair.name: pair.nanoseconds(times) for pair in self._pairs}

    # --- the libraries --------------------------------------------------------------------------

    def _prepare(self) -> None:
        if platform.machine() != "x86_64":
            raise CannotMeasure(
                f"the libraries made for it are x86-64, and this is {platform.machine()}"
            )
        names = symbol_names("provider", _SYMBOLS)
        write_library(self.folder, "provider.so", Contents(exports=names))
        objects = self._probe("provider.so", [])["objects"]
        self._pairs = [self._relative("relative")]
        self._prepare_relr()
        needed: tuple[str, ...] = ()
        for scope, before in _SCOPES.items():
            # The program's own objects come first, then the library that asks.
            between = max(0, before - objects - 1)
            self._before[scope] = objects + 1 + between
            needed = (*(self._other(number) for number in range(between)), "provider.so")
            self._pairs += self._symbolic(scope, names, needed)
        warm = Contents(names, _SYMBOL_PAGES, calls=names, needed=needed)
        write_library(self.folder, "warm.so", warm)

    def _prepare_relr(self) -> None:
        """An older ld.so ignores DT_RELR, and the words stay as they are."""
        library, version = platform.libc_ver()
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        try:
            if library == "glibc" and numbers < (2, 36):
                raise CannotMeasure(f"glibc {version} has no RELR: it takes 2.36")
            self._pairs.append(self._relative("relr", packed=True))
        except CannotMeasure as reason:
            self.left_out["relocation.relr"] = str(reason)

    def _relative(self, kind: str, *, packed: bool = False) -> _Pair:
        for amount, count in (("many", _MANY), ("few", _FEW)):
            contents = Contents([OWN] * _PAGES * count, _PAGES, packed=packed)
            self._copies(f"{kind}-{amount}", contents)
        difference = _PAGES * (_MANY - _FEW)
        return _Pair(f"relocation.{kind}", "now", f"{kind}-many", f"{kind}-few", difference)

    def _symbolic(self, scope: str, names: list[str], needed: tuple[str, ...]) -> list[_Pair]:
        few = names[:_FEW_SYMBOLS]
        # One on each page, so that both have the same pages to copy.
        a_page = [OWN] * _SYMBOL_PAGES
        self._copies(f"{scope}-many", Contents(names, _SYMBOL_PAGES, needed=needed))
        self._copies(f"{scope}-few", Contents(few, _SYMBOL_PAGES, needed=needed))
        self._copies(f"{scope}-now-many", Contents(calls=names, needed=needed))
        self._copies(f"{scope}-now-few", Contents(a_page, _SYMBOL_PAGES, few, needed=needed))
        self._copies(f"{scope}-lazy", Contents(calls=names, needed=needed))
        less = _SYMBOLS - _FEW_SYMBOLS
        return [
            _Pair(f"relocation.symbolic.{scope}", "now", f"{scope}-many", f"{scope}-few", less),
            _Pair(f"binding.now.{scope}", "now", f"{scope}-now-many", f"{scope}-now-few", less),
            _Pair(f"binding.lazy.{scope}", "lazy", f"{scope}-lazy", "", _SYMBOLS),
        ]

    def _other(self, number: int) -> str:
        """A library that is searched in vain."""
        exports = symbol_names(f"other_{number}", _SYMBOLS_OF_OTHERS)
        write_library(self.folder, f"other-{number}.so", Contents(exports=exports))
        return f"other-{number}.so"

    def _copies(self, name: str, contents: Contents) -> None:
        write_library(self.folder, f"{name}-0.so", contents)
        for number in _COPIES[1:]:
            shutil.copyfile(_copy(self.folder, name, 0), _copy(self.folder, name, number))

    # --- what is asked --------------------------------------------------------------------------

    def _probe(self, warm: str, tasks: list[tuple[str, str, str]]) -> dict[str, Any]:
        request = {"warm": str(self.folder / warm), "tasks": tasks}
        script = str(Path(__file__).with_name("loader_probe.py"))
        # -I -S: neither the environment nor installed packages can get in the way.
        command, what = [sys.executable, "-I", "-S", script], "the process that loads libraries"
        done = run_program(command, what, input=json.dumps(request), env=_environment())
        return dict(json.loads(done.stdout))

    def _ask_loader(self, name: str) -> Figures:
        """What ld.so says of a small program that is started with a library."""
        preload = _copy(self.folder, name, 0)
        environment = _environment(LD_DEBUG="statistics", LD_PRELOAD=preload)
        program = shutil.which("true") or sys.executable
        start = time.perf_counter_ns()
        done = run_program([program], f"{program} with a library", input="", env=environment)
        found = {"wall": float(time.perf_counter_ns() - start)}
        matches = {key: re.search(pattern, done.stderr) for key, pattern in _STATISTICS.items()}
        return found | {key: float(match[1]) for key, match in matches.items() if match}

    # --- checks ---------------------------------------------------------------------------------

    def checks(self) -> list[Check]:
        """What ``LD_DEBUG=statistics`` says of the time and number of relocations."""
        checks = []
        for pair in [pair for pair in self._pairs if pair.name in _ASKED]:
            kind = _ASKED[pair.name]
            said = zip(self._statistics[pair.many], self._statistics[pair.few], strict=True)
            both = [one for one in said if {kind, "cycles"} <= one[0].keys() & one[1].keys()]
            if both:
                what, count = f"{pair.name}: number", pair.difference
                counted = statistics.median(many[kind] - few[kind] for many, few in both)
                checks.append(_check(what, count, counted, 1.0, "Relocations"))
                checks.append(self._check_time(pair, both))
        return checks

    def _check_time(self, pair: _Pair, both: list[tuple[Figures, Figures]]) -> Check:
        cycles = min(many["cycles"] for many, _ in both) - min(few["cycles"] for _, few in both)
        rate = statistics.median(self._cycles_per_ns)
        note = (
            "ns a fixup, the quickest rounds of both: cycles of relocation at the start of a "
            "program with the library"
        )
        if self._last_digit_is_lost(rate):
            cycles *= 10
            note += "; this glibc leaves out the last digit (HP_TIMING_PRINT), taken as 0"
        quickest = {name: min(times[name] for times in self._times) for name in self._times[0]}
        ours, theirs = pair.nanoseconds(quickest), cycles / rate / pair.difference
        return _check(f"{pair.name}: time", ours, theirs, _TOLERANCE, note)

    def _last_digit_is_lost(self, cycles_per_ns: float) -> bool:
        """Whether the cycles that ld.so prints are a tenth of what they are.

        HP_TIMING_PRINT (glibc, sysdeps/generic/hp-timing-common.h) puts the end of the string where
        the last digit is. Where it doesn't, ten times the printed time is longer than the process
        was there, most of whose time goes to relocation.
        """
        asked = [one for one in self._statistics["long-many"] if "total" in one]
        return all(10 * one["total"] / cycles_per_ns < one["wall"] for one in asked)


def _copy(folder: Path, name: str, number: int) -> str:
    return str(folder / f"{name}-{number}.so")


def _check(what: str, ours: float, theirs: float, tolerance: float, note: str) -> Check:
    ratio = ours / theirs if theirs else float("inf")
    agrees = f"agrees within a factor of {tolerance:g}" if tolerance > 1 else "has to be the same"
    note = f"LD_DEBUG=statistics. {note}; {agrees}."
    return Check(what, ours, theirs, ratio, 1 / tolerance <= ratio <= tolerance, note)


def _environment(**more: str) -> dict[str, str]:
    """Without what changes how ld.so works."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    return {**kept, "LC_ALL": "C", **more}
