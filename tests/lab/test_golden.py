# SPDX-License-Identifier: Apache-2.0
"""What compare and cost print of results that nobody measured: every word and every figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.comparisons import NO_SWAP, PAGES, ZRAM, make_comparison, make_round
from support.costs import LINES, distribution_of_counts, make_costs, make_line
from support.golden import agrees_with_golden, chart_text, drawn_on, plain_console

from mapscratch.lab.compare.charts import ASCII, chart_of
from mapscratch.lab.compare.terminal import print_comparison
from mapscratch.lab.compare.verdict import judge
from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.answer import CostReport, answer
from mapscratch.lab.cost.fleet import plan_fleet
from mapscratch.lab.cost.model import Layout, device
from mapscratch.lab.cost.terminal import print_costs
from mapscratch.lab.rig.results import Comparison

# --- compare ------------------------------------------------------------------------------------

COUNTS = (1, 2, 4, 8)
NAMES = ("private", "lazyfree", "dontneed")
SWEEP = make_comparison(
    *(make_round(name, count) for count in COUNTS for name in NAMES), notes=("Mind the gap.",)
)
KEPT: dict[str, Any] = {
    "swapped_out_pages": 0,
    "swapped_in_pages": 0,
    "swap_cache_pages": None,
    "given_back_per_mib": 0.0,
    "reclaim_us": None,
    "page_in_us": None,
    "round_trip_us": None,
    "kept_pages": PAGES,
}
STAYED: dict[str, Any] = {"round_trip_us": None, "fixup_ns": None, "kept_pages": PAGES}
PRIVATE, LAZYFREE = make_round("private"), make_round("lazyfree")
COMPARISONS: dict[str, Comparison] = {
    "scratch pays": make_comparison(PRIVATE, LAZYFREE),
    "the largest number of processes is meant": SWEEP,
    "pages that fit": make_comparison(make_round("private", round_trip_us=8.5), LAZYFREE),
    "fewer fixups than these have": make_comparison(
        make_round("private", round_trip_us=7.8), LAZYFREE, swap=ZRAM
    ),
    "swap is faster for any page": make_comparison(
        make_round("private", round_trip_us=3.0), LAZYFREE, swap=ZRAM
    ),
    "without swap": make_comparison(make_round("private", **KEPT), LAZYFREE, swap=NO_SWAP),
    "swap that the kernel does not use": make_comparison(make_round("private", **KEPT), LAZYFREE),
    "swap that is full half way": make_comparison(
        make_round("private", swapped_out_pages=40, swapped_in_pages=40), LAZYFREE
    ),
    "pages that never left memory": make_comparison(
        make_round("private", swap_cache_pages=50), LAZYFREE
    ),
    "2 % that never left memory": make_comparison(
        make_round("private", swap_cache_pages=2), LAZYFREE
    ),
    "10 % that never left memory": make_comparison(
        make_round("private", swap_cache_pages=10), LAZYFREE
    ),
    "only private": make_comparison(PRIVATE),
    "only private, without swap": make_comparison(make_round("private", **KEPT), swap=NO_SWAP),
    "no private": make_comparison(LAZYFREE),
    "dontneed drops and copies": make_comparison(PRIVATE, make_round("dontneed")),
    "a leak": make_comparison(
        PRIVATE, make_round("lazyfree", swapped_out_pages=7, swapped_in_pages=7)
    ),
    "scratch pages that stayed": make_comparison(
        PRIVATE,
        make_round(
            "lazyfree",
            dropped_by_kernel_pages=0,
            round_trip_us=None,
            fixup_ns=None,
            kept_pages=PAGES,
        ),
    ),
    "wrong words": make_comparison(make_round("private", wrong_words=3), LAZYFREE),
    "nothing measured": make_comparison(),
}


def test_verdicts() -> None:
    lines = []
    for title, comparison in COMPARISONS.items():
        verdict = judge(comparison)
        lines.append(f"{title} ({verdict.case}):\n{verdict.sentence}\n")
    agrees_with_golden("\n".join(lines), "verdicts.txt")


@pytest.mark.parametrize("verbose", [False, True])
def test_a_comparison(verbose: bool) -> None:
    console = plain_console()
    print_comparison(console, SWEEP, verbose=verbose)
    agrees_with_golden(drawn_on(console), f"compare{'-verbose' if verbose else ''}.txt")


def test_charts() -> None:
    without_swap = make_comparison(
        make_round("private", 2, kept_pages=2 * PAGES), make_round("lazyfree", 2), swap=NO_SWAP
    )
    drawn = [
        chart_text(chart_of(SWEEP)),
        chart_text(chart_of(SWEEP), width=56, height=7).translate(ASCII),
        chart_text(chart_of(without_swap), width=56, height=7).translate(ASCII),
    ]
    assert drawn[1].isascii() and drawn[2].isascii()
    agrees_with_golden("\n\n".join(drawn) + "\n", "charts.txt")


# --- cost ---------------------------------------------------------------------------------------

MIXED = distribution_of_counts(
    "three pages", np.array([10, 100, 400]), relative_share=0.75, layout=Layout(0.5, 0.01)
)
UNKNOWN = distribution_of_counts("three pages", np.array([10, 100, 400]))
TRIED = Alternatives("/lib/libx.so", 100, 8, 100 << 12, 11 << 12, 900.0, 0.0, 1.0, 0.2)


def full_report() -> CostReport:
    costs, disk = make_costs(), device("disk")
    fleet = plan_fleet(costs, MIXED, 200, 1000, other=disk, compression=TRIED.compressed)
    return CostReport(costs, MIXED, device=disk, alternatives=TRIED, fleet=fleet)


@pytest.mark.parametrize("width", [80, 40])
def test_costs(width: int) -> None:
    console = plain_console(width)
    print_costs(console, full_report())
    text = drawn_on(console)
    assert max(map(len, text.splitlines())) <= width
    agrees_with_golden(text, f"cost-{width}.txt")


def test_costs_without_swap_or_experiments() -> None:
    console = plain_console()
    print_costs(console, CostReport(make_costs(lines=LINES[2:], nanoseconds={}), UNKNOWN))
    agrees_with_golden(drawn_on(console), "cost-without.txt")


def test_answers() -> None:
    mean = distribution_of_counts("three pages", np.array([10, 100, 400]), relative_share=0.0)
    slow = make_line("lazyfree", (100.0, 30.0))
    near = [make_line("swap.zram", (8.0, 0.0)), make_line("lazyfree", (7.9, 90.0))]
    reports = {
        "fixups as they are mixed": CostReport(make_costs(), MIXED),
        "a mixture that is not known": CostReport(make_costs(), UNKNOWN),
        "a device as well": CostReport(make_costs(), MIXED, device=device("nvme")),
        "one fixup": CostReport(make_costs(lines=near), mean),
        "a slow engine": CostReport(make_costs(lines=[*LINES[:2], slow]), MIXED),
        "no swap": CostReport(make_costs(lines=LINES[2:]), MIXED),
        "no engine": CostReport(make_costs(lines=LINES[:2]), MIXED),
        "nothing": CostReport(make_costs(lines=[], nanoseconds={}), MIXED),
    }
    told = "\n".join(f"{title}:\n{answer(report)}\n" for title, report in reports.items())
    agrees_with_golden(told, "cost-answers.txt")
