# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: competitors measured in turns within one run, and ratios of medians.

Absolute times say more about the machine and its neighbours than about us; so a benchmark prints
the ratio of two things that were measured in turns. With ``--json`` it also writes its figures down
by names that stay the same from run to run, which is what `record.py` keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's command line, with what all of them take."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def save(figures: Mapping[str, object], path: Path | None) -> None:
    """Writes figures down, if a file for them was named."""
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def in_turns(competitors: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Calls each competitor once a round; each returns its figure."""
    figures: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, measure in competitors.items():
            figures[name].append(measure())
    return figures


def describe(figures: Mapping[str, list[float]], unit: str) -> None:
    """Prints the median and the spread (least to greatest) of each competitor."""
    for name, values in figures.items():
        print(
            f"  {name:<44} {statistics.median(values):10.2f} {unit}"
            f"   ({min(values):.2f} to {max(values):.2f})"
        )


def ratio(figures: Mapping[str, list[float]], of: str, to: str) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(figures[of], figures[to], strict=True))
