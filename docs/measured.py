# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of ``bench/results/`` into the documents: ``make docs``.

A figure stands once, in the file of the run that found it. `docs/figures.md` gets a table with a
column a run. In the prose of any document ``<!--= arrays.file_scan -->10 to 20<!--/-->`` holds the
least and the greatest of all runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"

_TABLE = re.compile(r"(<!-- figures: begin -->\n).*?(<!-- figures: end -->)", re.DOTALL)
_INLINE = re.compile(r"(<!--= (\S+) -->).*?(<!--/-->)", re.DOTALL)


class UnknownFigure(KeyError):
    """No run has a figure of that name."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmarks on one machine.

    Attributes:
        name: of its files.
        title: of its column.
        figures: name to the least and the greatest that it found; mostly they are the same.
    """

    name: str
    title: str
    figures: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure in the table.

    Attributes:
        key: its name in the runs.
        unit: behind the number.
        at_least: the goal, for what should be large.
        at_most: the goal, for what should be small.
    """

    key: str
    unit: str = " x"
    at_least: float = -math.inf
    at_most: float = math.inf

    def cell(self, run: Run) -> str:
        """What a run found; bold where it misses the goal."""
        if self.key not in run.figures:
            return "-"
        low, high = run.figures[self.key]
        text = f"{spread(low, high)}{self.unit}"
        return text if self.at_least <= low and high <= self.at_most else f"**{text}**"

    @property
    def goal(self) -> str:
        """In words."""
        if self.at_least > -math.inf:
            return f"at least {self.at_least:g}{self.unit}"
        return f"at most {self.at_most:g}{self.unit}" if self.at_most < math.inf else "measured"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        command: that measures it.
        figures: beside each other.
    """

    what: str
    command: str
    figures: tuple[Shown, ...]

    def markdown(self, runs: Sequence[Run]) -> str:
        """The line; figures that all have the same goal say it once."""
        cells = [", ".join(one.cell(run) for one in self.figures) for run in runs]
        goals = list(dict.fromkeys(one.goal for one in self.figures))
        command = f"`{self.command}`" if self.command else "the same"
        return f"| {self.what} | {command} | {' | '.join(cells)} | {'; '.join(goals)} |"


def _row(what: str, command: str, *figures: Shown) -> Row:
    return Row(what, command, figures)


ROWS = (
    _row(
        "pages in swap after reclaim, every page stored to: MAP_PRIVATE, `lazyfree`",
        "mapscratch compare --swap file",
        Shown("compare.private_swapped", ""),
        Shown("compare.lazyfree_swapped", "", at_most=0),
    ),
    _row(
        "words that differ from what `readelf` says, of so many",
        "",
        Shown("compare.wrong_words", "", at_most=0),
        Shown("compare.words_checked", ""),
    ),
    _row(
        "4 KiB random: reclaim, page-in, 64 fixups, against a swapfile; zram; zswap",
        "bench/round_trip.py",
        Shown("round_trip.file", at_least=3),
        Shown("round_trip.zram"),
        Shown("round_trip.zswap"),
    ),
    _row(
        "sequential page-in, against memcpy to fresh memory",
        "bench/page_in.py",
        Shown("page_in.to_fresh_memory", at_least=0.6),
    ),
    _row("`m.load`, against `m[i]`", "bench/words.py", Shown("words.load_to_index", at_most=2.5)),
    _row(
        '`m.load`, against `memoryview(m).cast("Q")[i]`',
        "",
        Shown("words.load_to_memoryview", at_most=1.5),
    ),
    _row(
        "a page fault by the pager, against SIGBUS mode: a thread bound to one processor; one that "
        "may run anywhere",
        "bench/fault_cost.py",
        Shown("fault_cost.bound", at_most=1.5),
        Shown("fault_cost.free", at_most=1.5),
    ),
    _row(
        "a first call through a converted entry, against glibc's lazy binding",
        "bench/code_fixups.py",
        Shown("code_fixups.first_call"),
    ),
    _row(
        "the same, against that and making one page writable (many share one such window)",
        "",
        Shown("code_fixups.first_call_and_window", at_most=1.25),
    ),
    _row(
        "a bound call, against an ordinary bound PLT entry (goal: the interval holds 1)",
        "",
        Shown("code_fixups.steady_call"),
    ),
    _row(
        "a dropped page of 255 entries back and bound, against one swap-in from a swapfile; their "
        "targets dropped too",
        "",
        Shown("code_fixups.file_small", at_most=1),
        Shown("code_fixups.file_small_lost", at_most=1),
    ),
    _row(
        "the same two, against one swap-in from zram",
        "",
        Shown("code_fixups.zram_small", at_most=1),
        Shown("code_fixups.zram_small_lost", at_most=1),
    ),
    _row(
        "`mapscratch run`: `import numpy` in the program itself, all in the cache; with the start "
        "of `mapscratch run`",
        "",
        Shown("code_fixups.import", at_most=1.05),
        Shown("code_fixups.import_and_start"),
    ),
    _row(
        "arrays: sum of a fresh one, as fast as `astype` of the whole and sum; file in the page "
        "cache; the same by processor time",
        "bench/arrays.py",
        Shown("arrays.scan", at_least=0.9),
        Shown("arrays.scan_processor", at_least=0.9),
    ),
    _row(
        "the same, file not in the page cache; by processor time",
        "",
        Shown("arrays.scan_cold_file", at_least=0.9),
        Shown("arrays.scan_cold_file_processor", at_least=0.9),
    ),
    _row(
        "arrays, twice the memory limit, scanned again and again: as fast as dirty memory and a "
        "swapfile",
        "",
        Shown("arrays.file_scan", at_least=5),
    ),
    _row("the same, zram", "", Shown("arrays.zram_scan", at_least=3)),
    _row("the same, zswap", "", Shown("arrays.zswap_scan")),
    _row(
        "the same, rows of 4 KiB at random by an index array: swapfile",
        "",
        Shown("arrays.file_rows", at_least=4),
    ),
    _row("zram", "", Shown("arrays.zram_rows", at_least=1)),
    _row("zswap", "", Shown("arrays.zswap_rows")),
    _row(
        "the same, single words at random, a page fault each: swapfile",
        "",
        Shown("arrays.file_words", at_least=4),
    ),
    _row("zram", "", Shown("arrays.zram_words", at_least=1)),
    _row("zswap", "", Shown("arrays.zswap_words")),
    _row(
        "the same, the file's pages under the limit too: scans against swapfile, zram, zswap",
        "",
        Shown("arrays.file_scan_charged"),
        Shown("arrays.zram_scan_charged"),
        Shown("arrays.zswap_scan_charged"),
    ),
    _row(
        "rows of 4 KiB at random by an index array",
        "",
        Shown("arrays.file_rows_charged"),
        Shown("arrays.zram_rows_charged"),
        Shown("arrays.zswap_rows_charged"),
    ),
    _row(
        "chunk by chunk, against our time: a fresh sum; scans at twice the limit",
        "",
        Shown("arrays.scan_chunks"),
        Shown("arrays.file_chunks"),
        Shown("arrays.zram_chunks"),
        Shown("arrays.zswap_chunks"),
    ),
    _row(
        "zarr, against our time: scans at twice the limit",
        "",
        Shown("arrays.file_zarr"),
        Shown("arrays.zram_zarr"),
        Shown("arrays.zswap_zarr"),
    ),
    _row(
        "as fast as the same in C: a numba fixup; a Python fixup in a process of its own, blocks "
        "of 256 KiB",
        "",
        Shown("arrays.numba", at_least=0.95),
        Shown("arrays.python", at_least=0.5),
    ),
    _row(
        "Pss of 16 readers of 64 MiB, MiB: ours; loaded once and forked; the file in chunks",
        "",
        Shown("arrays.readers_ours", ""),
        Shown("arrays.readers_forked", ""),
        Shown("arrays.readers_chunks", ""),
    ),
    _row(
        "`Cache`, chunks to decode (deflate; lzma, 7 times as slow), twice the memory limit, by "
        "Zipf's law: as fast as decoding each time",
        "bench/cache.py",
        Shown("cache.deflate_decode", at_least=3),
        Shown("cache.lzma_decode", at_least=3),
    ),
    _row(
        "the same, against the best size of an `lru_cache`, found by trying (one a fifth larger is "
        "killed)",
        "",
        Shown("cache.deflate_best", at_least=1),
        Shown("cache.lzma_best", at_least=1),
    ),
    _row(
        "a neighbour in the same group wants half of the memory, all held by the cache: has it "
        "after",
        "",
        Shown("cache.neighbour", " s", at_most=0.2),
    ),
    _row(
        "a hit on 4 KiB, more than a dict in the order of use: any; by Zipf's law; just used",
        "",
        Shown("cache.hit_4kib_any", " µs", at_most=2),
        Shown("cache.hit_4kib_zipf", " µs", at_most=2),
        Shown("cache.hit_4kib_recent", " µs", at_most=2),
    ),
    _row(
        "a hit on 1 MiB and its sum, against the same with a dict: any; by Zipf's law; just used",
        "",
        Shown("cache.hit_1mib_any", at_most=1.1),
        Shown("cache.hit_1mib_zipf", at_most=1.1),
        Shown("cache.hit_1mib_recent", at_most=1.1),
    ),
    _row(
        "ld.so, for one fixup: relative; symbolic, 7 or 64 objects searched in vain",
        "mapscratch cost --swap all --seconds 100",
        Shown("cost.relocation.relative", " ns"),
        Shown("cost.relocation.symbolic.short", " ns"),
        Shown("cost.relocation.symbolic.long", " ns"),
    ),
    _row(
        "against LD_DEBUG=statistics: relocations counted; time, relative and symbolic",
        "",
        Shown("cost.check.relocation.relative:_number"),
        Shown("cost.check.relocation.relative:_time"),
        Shown("cost.check.relocation.symbolic.long:_time"),
    ),
    _row(
        "fixups a page up to which dropping (`lazyfree`) takes less time than a swapfile, zram, "
        "zswap: as they are mixed in 8 libraries, by ld.so's look-ups in a short scope (their "
        "pages have 167 in the mean)",
        "",
        Shown("cost.break_even.file.short.fixups", ""),
        Shown("cost.break_even.zram.short.fixups", ""),
        Shown("cost.break_even.zswap.short.fixups", ""),
    ),
    _row(
        "the same, in a long scope: it doesn't pay",
        "",
        Shown("cost.break_even.file.long.fixups", ""),
        Shown("cost.break_even.zram.long.fixups", ""),
        Shown("cost.break_even.zswap.long.fixups", ""),
    ),
    _row(
        "libraries surveyed; fixups a page: median, mean, 95 %",
        "mapscratch survey --installed",
        Shown("survey.libraries", ""),
        Shown("survey.fixups_median", ""),
        Shown("survey.fixups_mean", ""),
        Shown("survey.fixups_p95", ""),
    ),
    _row("time for that (goal: 1,000 in 60 s)", "", Shown("survey.seconds", " s", at_most=60)),
    _row("dirtied pages that `mapscratch run` saves", "", Shown("survey.saved_percent", " %")),
)


def number(value: float) -> str:
    """As it is read: as many digits as a second run would repeat."""
    if not value or abs(value) >= 10:
        return f"{value:,.0f}"
    if abs(value) >= 2:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def spread(low: float, high: float) -> str:
    """A number, or two where they differ as they are read."""
    least, greatest = number(low), number(high)
    return least if least == greatest else f"{least} to {greatest}"


def _pair(value: float | list[float]) -> tuple[float, float]:
    values = value if isinstance(value, list) else [value]
    return min(values), max(values)


def read_runs(directory: Path = RESULTS) -> list[Run]:
    """All runs, by date and name."""
    runs = []
    for path in sorted(directory.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        figures = {
            name.replace(" ", "_"): _pair(value) for name, value in document["figures"].items()
        }
        runs.append(Run(path.stem, f"{document['processor']}, {document['date']}", figures))
    return runs


def range_of(runs: Sequence[Run], key: str) -> str:
    """The least and the greatest that any run found.

    Raises:
        UnknownFigure: no run has it.
    """
    found = [run.figures[key] for run in runs if key in run.figures]
    if not found:
        raise UnknownFigure(key)
    return spread(min(low for low, _ in found), max(high for _, high in found))


def table(runs: Sequence[Run]) -> str:
    """The table of all figures."""
    head = ["what", "command", *(run.title for run in runs), "goal"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(row.markdown(runs) for row in ROWS)]) + "\n"


def filled(text: str, runs: Sequence[Run]) -> str:
    """A document with its figures as the runs have them.

    Raises:
        UnknownFigure: it wants one that no run has.
    """
    text = _TABLE.sub(lambda found: f"{found[1]}{table(runs)}{found[2]}", text)
    return _INLINE.sub(lambda found: f"{found[1]}{range_of(runs, found[2])}{found[3]}", text)


def documents() -> Iterator[Path]:
    """Those that may hold figures."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))
