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
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mapscratch.errors import last_words
from mapscratch.lab.cost.costs import Check
from mapscratch.lab.cost.generated import Contents, spread_words, symbol_names, write_library
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Heading, Timer

_PAGES = 256
_MANY, _FEW = 512, 1
"""Relative fixups a page."""
_COPIES = 3
"""Libraries of each kind in a process: the quickest counts."""
_SYMBOLS = 2000
_FEW_SYMBOLS = 20
_SYMBOLS_OF_OTHERS = 64
_SCOPES = {"short": 4, "long": 64}
"""How many objects are searched in vain, if the program doesn't consist of more."""
_ASKED_A_ROUND = 3
_SECONDS = 60
_TOLERANCE = 2.0
_SYMBOL_PAGES = -(-_SYMBOLS * 8 // 4096)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two libraries that differ in their number of fixups alone."""

    name: str
    mode: str
    many: tuple[str, ...]
    few: tuple[str, ...]
    difference: int


class LoaderTimer(Timer):
    """Times ld.so.

    Args:
        folder: where the libraries go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._pairs: list[_Pair] = []
        self._before = dict(_SCOPES)
        self._relr = True
        self._statistics: dict[str, list[dict[str, float]]] = {}
        self._times: list[Figures] = []
        self._cycles_per_ns: list[float] = []
        self._true = shutil.which("true") or sys.executable

    def headings(self) -> list[Heading]:
        """Those of relocation, and of binding."""
        short, long = self._before["short"], self._before["long"]
        table = (
            f"The difference between {_MANY} and {_FEW} a page, on the same {_PAGES} pages: no "
            "copy-on-write fault is in it; reading the relocation table from the page cache is."
        )
        lookup = (
            "ld.so searches {} objects in vain, each with a hash table and its filter; the tables "
            "are in memory, the names have no versions."
        )
        lazy = " The first call of each PLT entry, less what a later one takes."
        headings = [
            Heading("relocation.relative", "RELATIVE relocation of a word", "fixup", table),
            Heading("relocation.relr", "RELR relocation of a word", "fixup", table),
        ]
        for scope, count in (("short", short), ("long", long)):
            headings.append(
                Heading(
                    f"relocation.symbolic.{scope}",
                    f"symbol look-up and store, {scope} scope",
                    "fixup",
                    lookup.format(count),
                )
            )
        for mode, title in (("now", "bound at load"), ("lazy", "bound at the first call")):
            for scope, count in (("short", short), ("long", long)):
                headings.append(
                    Heading(
                        f"binding.{mode}.{scope}",
                        f"PLT entry {title}, {scope} scope",
                        "fixup",
                        lookup.format(count) + (lazy if mode == "lazy" else ""),
                    )
                )
        return headings

    def once(self, number: int) -> Figures:
        """Starts a process that loads all libraries once, in another order each time."""
        if not self._pairs:
            self._prepare()
        tasks = [
            task
            for pair in self._pairs
            for task in self._tasks(pair)
            if self._relr or pair.name != "relocation.relr"
        ]
        first = number * 5 % len(tasks)
        answer = self._probe(["warm.so"], tasks[first:] + tasks[:first])
        times: dict[str, float] = answer["times"]
        self._times.append(times)
        self._cycles_per_ns.append(answer["cycles_per_ns"])
        figures = {
            pair.name: _difference(pair, times) for pair in self._pairs if pair.many[0] in times
        }
        for name in [name for names in _ASKED.values() for name in names] * _ASKED_A_ROUND:
            self._statistics.setdefault(name, []).append(self._ask_loader(name))
        return figures

    def checks(self) -> list[Check]:
        """What ``LD_DEBUG=statistics`` says of the time and number of relocations."""
        checks = []
        for what, (many, few) in _ASKED.items():
            kind = "relative" if what == "relocation.relative" else "symbolic"
            pairs = [
                (one, other)
                for one, other in zip(self._statistics[many], self._statistics[few], strict=True)
                if {kind, "cycles"} <= one.keys() & other.keys()
            ]
            if not pairs:
                continue
            (pair,) = (pair for pair in self._pairs if pair.name == what)
            count = pair.difference
            counted = statistics.median(one[kind] - other[kind] for one, other in pairs)
            checks.append(_check(f"{what}: number", count, counted, 1.0, "Relocations"))
            cycles = min(one["cycles"] for one, _ in pairs) - min(few["cycles"] for _, few in pairs)
            rate = statistics.median(self._cycles_per_ns)
            note = (
                "ns a fixup, the quickest rounds of both: cycles of relocation at the start of a "
                "program with the library"
            )
            if self._last_digit_is_lost(rate):
                cycles *= 10
                note += "; this glibc leaves out the last digit (HP_TIMING_PRINT), taken as 0"
            theirs = cycles / rate / count
            checks.append(_check(f"{what}: time", self._quickest(pair), theirs, _TOLERANCE, note))
        return checks

    def _quickest(self, pair: _Pair) -> float:
        return _difference(
            pair,
            {name: min(times[name] for times in self._times) for name in pair.many + pair.few},
        )

    def _last_digit_is_lost(self, cycles_per_ns: float) -> bool:
        """Whether the cycles that ld.so prints are a tenth of what they are.

        HP_TIMING_PRINT (glibc, sysdeps/generic/hp-timing-common.h) puts the end of the string where
        the last digit is. Where it doesn't, ten times the printed time is longer than the process
        was there, most of whose time goes to relocation.
        """
        name = _ASKED["relocation.symbolic.long"][0]
        asked = [one for one in self._statistics[name] if "total" in one]
        return all(10 * one["total"] / cycles_per_ns < one["wall"] for one in asked)

    def _prepare(self) -> None:
        if platform.machine() != "x86_64":
            raise CannotMeasure(
                f"the libraries made for it are x86-64, and this is {platform.machine()}"
            )
        folder = self._folder
        names = symbol_names("provider", _SYMBOLS)
        write_library(folder, Contents("provider.so", exports=names))
        write_library(folder, Contents("warm.so", exports=names[:1]))
        objects = self._probe(["warm.so"], [])["objects"]
        others = []
        for number in range(max(_SCOPES.values())):
            other = f"other-{number}.so"
            exports = symbol_names(f"other_{number}", _SYMBOLS_OF_OTHERS)
            write_library(folder, Contents(other, exports=exports))
            others.append(other)
        needed = {}
        for scope, before in _SCOPES.items():
            # The program's own objects come first, then the library that asks.
            between = max(0, before - objects - 1)
            self._before[scope] = objects + 1 + between
            needed[scope] = (*others[:between], "provider.so")
        words = np.arange(_SYMBOLS, dtype=np.int64)
        write_library(
            folder,
            Contents(
                "warm.so",
                pages=_SYMBOL_PAGES,
                symbolic=words,
                symbols=names,
                jump_slots=names,
                needed=needed["long"],
            ),
        )
        self._pairs = [self._relative("relative"), self._relative("relr")]
        for scope in _SCOPES:
            self._pairs += self._symbolic(scope, names, needed[scope])
        self._find_out_about_relr()

    def _relative(self, kind: str) -> _Pair:
        names: dict[str, list[str]] = {"many": [], "few": []}
        for number in range(_COPIES):
            for amount, count in (("many", _MANY), ("few", _FEW)):
                words = spread_words(range(_PAGES), count)
                name = f"{kind}-{amount}-{number}.so"
                of_kind: dict[str, Any] = {kind: words}
                write_library(self._folder, Contents(name, pages=_PAGES, **of_kind))
                names[amount].append(name)
        return _Pair(
            f"relocation.{kind}",
            "now",
            tuple(names["many"]),
            tuple(names["few"]),
            _PAGES * (_MANY - _FEW),
        )

    def _symbolic(self, scope: str, names: list[bytes], needed: tuple[str, ...]) -> list[_Pair]:
        # One on each page, so that both have the same pages to copy.
        a_page = spread_words(range(_SYMBOL_PAGES), 1)
        few = spread_words(range(_SYMBOL_PAGES), _FEW_SYMBOLS // _SYMBOL_PAGES)
        all_words = np.arange(_SYMBOLS, dtype=np.int64)
        few_names = names[: len(few)]
        common: dict[str, Any] = {"needed": needed, "pages": _SYMBOL_PAGES}
        groups: dict[str, dict[str, Any]] = {
            "many": {"symbolic": all_words, "symbols": names, **common},
            "few": {"symbolic": few, "symbols": few_names, **common},
            "now-many": {"jump_slots": names, "needed": needed},
            "now-few": {"jump_slots": few_names, "relative": a_page, **common},
            "lazy": {"jump_slots": names, "needed": needed},
        }
        made: dict[str, tuple[str, ...]] = {}
        for group, contents in groups.items():
            made[group] = tuple(f"{scope}-{group}-{number}.so" for number in range(_COPIES))
            for name in made[group]:
                write_library(self._folder, Contents(name, **contents))
        fewer = _SYMBOLS - len(few)
        return [
            _Pair(f"relocation.symbolic.{scope}", "now", made["many"], made["few"], fewer),
            _Pair(f"binding.now.{scope}", "now", made["now-many"], made["now-few"], fewer),
            _Pair(f"binding.lazy.{scope}", "lazy", made["lazy"], (), _SYMBOLS),
        ]

    def _find_out_about_relr(self) -> None:
        """An older ld.so ignores DT_RELR, and the words stay as they are."""
        library, version = platform.libc_ver()
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if library == "glibc" and numbers < (2, 36):
            self._relr = False
            self.left_out["relocation.relr"] = f"glibc {version} has no RELR: it takes 2.36"

    def _tasks(self, pair: _Pair) -> list[tuple[str, str, str]]:
        names = [name for both in zip_longest(pair.many, pair.few) for name in both if name]
        return [(name, str(self._folder / name), pair.mode) for name in names]

    def _probe(self, warm: list[str], tasks: list[tuple[str, str, str]]) -> dict[str, Any]:
        request = {"warm": [str(self._folder / name) for name in warm], "tasks": tasks}
        script = Path(__file__).with_name("loader_probe.py")
        # -I -S: neither the environment nor installed packages can get in the way.
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(script)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
                env=_environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotMeasure(
                f"no other process can be made to load libraries: {error}"
            ) from None
        if done.returncode:
            reason = last_words(done.stderr) or f"exit status {done.returncode}"
            raise CannotMeasure(f"the process that loads libraries failed: {reason}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _ask_loader(self, name: str) -> dict[str, float]:
        """What ld.so says of a small program that is started with a library."""
        start = time.perf_counter_ns()
        done = subprocess.run(
            [self._true],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=_environment(LD_DEBUG="statistics", LD_PRELOAD=str(self._folder / name)),
        )
        found = {"wall": float(time.perf_counter_ns() - start)}
        for key, pattern in _STATISTICS.items():
            match = re.search(pattern, done.stderr)
            if match:
                found[key] = float(match[1])
        return found


def _difference(pair: _Pair, times: Figures) -> float:
    many = min(times[name] for name in pair.many)
    few = min((times[name] for name in pair.few), default=0.0)
    return (many - few) / pair.difference


_ASKED = {
    "relocation.relative": ("relative-many-0.so", "relative-few-0.so"),
    "relocation.symbolic.long": ("long-many-0.so", "long-few-0.so"),
}
"""What ld.so's own statistics are compared with: the libraries with many and with few."""
# glibc, elf/rtld.c, print_statistics.
_STATISTICS = {
    "total": r"total startup time in dynamic loader: (\d+)",
    "cycles": r"time needed for relocation: (\d+)",
    "symbolic": r"  number of relocations: (\d+)",
    "relative": r"number of relative relocations: (\d+)",
}


def _check(what: str, ours: float, theirs: float, tolerance: float, note: str) -> Check:
    ratio = ours / theirs if theirs else float("inf")
    within = (
        "has to be the same" if tolerance == 1.0 else f"agrees within a factor of {tolerance:g}"
    )
    return Check(
        what=what,
        ours=ours,
        theirs=theirs,
        ratio=ratio,
        agrees=1 / tolerance <= ratio <= tolerance,
        note=f"LD_DEBUG=statistics. {note}; {within}.",
    )


def _environment(**more: str) -> dict[str, str]:
    """Without what changes how ld.so works."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    return {**kept, "LC_ALL": "C", **more}
