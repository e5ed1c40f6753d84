# SPDX-License-Identifier: Apache-2.0
"""What the templates show, section by section, where it isn't a figure of a document itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mapscratch.lab.cost.answer import answer
from mapscratch.lab.cost.model import DEVICES
from mapscratch.lab.report import charts, facts
from mapscratch.lab.report.documents import Documents, Skipped
from mapscratch.lab.report.words import duration, known, spread
from mapscratch.text import counted, listed, swap_name, whole

COMMANDS = {
    "survey": "mapscratch survey --installed --pid all --json survey.json",
    "cost": "mapscratch cost --measure --json cost.json",
    "compare": "sudo mapscratch compare --swap auto --json compare.json",
    "ps": "mapscratch ps --json > ps.json",
}
"""What makes each document."""
_MADE = ("file", "zram", "zswap")
"""Kinds of swap that can be made for a measurement."""
_SLOWEST = 10**4.5
_SLIDER_STEPS = 46


def costs(documents: Documents) -> dict[str, Any]:
    """The verdict, the answer, round trips and break-even."""
    ways = facts.ways_of(documents)
    chart = charts.round_trip_chart(ways, ways.pages or documents.pages) if ways else None
    return {
        "verdict": facts.verdict(documents, ways),
        "answer": _answer(documents),
        "cautions": list(_cautions(documents, ways)),
        "ways": ways,
        "trip": chart,
        "slider": _slider(ways, chart.y) if ways and ways.scratch and chart else None,
        "other_pages": _other_pages(documents),
        "report": documents.cost.report if documents.cost else None,
    }


def _answer(documents: Documents) -> str:
    """What the documents answer themselves; empty if they don't."""
    report = documents.cost.report if documents.cost else None
    if report and (report.swaps or report.scratches):
        return answer(report).removeprefix("How expensive are the fixups? ")
    return next((one.verdict.sentence for one in documents.compares), "")


def _cautions(documents: Documents, ways: facts.Ways | None) -> Iterator[str]:
    """Why the answer is to be taken with care; none where it isn't."""
    if documents.cost:
        costs = documents.cost.report.costs
        yield from costs.notes
        if doubted := [one.what for one in costs.checks if not one.agrees]:
            yield f"Others measure {listed(doubted)} differently, see below."
        every = (*ways.swaps, *ways.scratch) if ways else ()
        if noisy := [one.title for one in every if one.page_us < 0]:
            yield f"Noise is larger than what was measured of {listed(noisy)}."


def _other_pages(documents: Documents) -> bool:
    """Whether costs were reckoned for other pages than those of the survey."""
    if not documents.cost or not documents.pages:
        return False
    own, others = documents.pages, documents.cost.report.pages
    pairs = ((own.fixups, others.fixups), (own.pages, others.pages))
    return not all(np.array_equal(*pair) for pair in pairs)


def _slider(ways: facts.Ways, scale: charts.Scale) -> dict[str, Any]:
    """What the page says for each latency that can be chosen: its script only shows it.

    Presets are the names and steps of the model's devices.
    """
    grid = {_SLOWEST ** (step / (_SLIDER_STEPS - 1)) for step in range(_SLIDER_STEPS)}
    latencies = sorted(grid | set(DEVICES.values()))
    steps = [_step(ways, latency, scale) for latency in latencies]
    presets = [
        (f"{way.name}, {duration(latency)}", latencies.index(latency))
        for way, latency in ways.devices()
    ]
    return {"steps": steps, "presets": presets}


def _step(ways: facts.Ways, latency: float, scale: charts.Scale) -> tuple[Any, ...]:
    """In the row's head, in words, where the line is, what is beside it, and the row's cells."""
    device = ways.device("another device", latency)
    trip, read = duration(device.page_us), duration(latency)
    pays = [ways.pays(way, device) for way in ways.scratch]
    told = [
        f"{way.name}: up to {one.limit} a page{f' ({one.note})' if one.note else ''}"
        if one.found.pays == "up to"
        else f"{way.name}: {one.limit}"
        for way, one in zip(ways.scratch, pays, strict=True)
        if way in ways.drawn
    ]
    text = (
        f"A read takes {read}, a page's way out and back {trip}. Dropping takes less time, by how "
        f"fixups are made again: {'; '.join(told)}."
    )
    beyond = " (beyond this chart)" if device.page_us > scale.high else ""
    at = round(scale(device.page_us), 1)
    cells = [(one.limit, one.note) for one in pays]
    return f"{read} a read, {trip} a page", text, at, f"another device, {trip}{beyond}", cells


def sweeps(documents: Documents) -> dict[str, Any]:
    """What goes to swap, by strategy and number of processes."""
    compares = documents.compares
    found = [one for compare in compares for one in facts.sweeps_of(compare)]
    fixed_up = {round(n) for one in compares if (n := facts.pages_a_process(one))}
    counts = sorted({n for one in found for n, _ in one.swapped})
    return {
        "sweep": charts.sweep_chart(found),
        "fixed_up": listed(map(whole, sorted(fixed_up))),
        "counts": [counted(n, "process", "processes") for n in counts],
        "sweeps": [_sweep_row(one, counts) for one in found],
        "no_swap": any(not facts.swapped_to(one) for one in compares),
        "notes": list(dict.fromkeys(note for one in compares for note in one.notes)),
    }


def _sweep_row(one: facts.Sweep, counts: Sequence[int]) -> list[str]:
    swapped, trip = dict(one.swapped), one.round_trip_us
    missing = "not known" if one.swapped else "not asked"
    several = trip and trip.minimum < trip.maximum
    return [
        f"{one.strategy}, {swap_name(one.swap) or 'no swap'}",
        *(whole(swapped[n]) if n in swapped else missing for n in counts),
        duration(trip.median) if trip else "not known",
        spread(trip) if trip and several else "one round",
        known(one.given_back, "{:.2f}".format),
    ]


def machines(documents: Documents) -> list[str]:
    """Where it was measured; one, unless documents of several are mixed."""
    return list(
        dict.fromkeys(
            f"Linux {one.kernel}, {one.architecture}, {counted(one.processors, 'processor')}, "
            f"pages of {whole(one.page_size)} bytes."
            for one in (document.machine for document in documents.all)
        )
    )


def counted_skipped(skipped: Sequence[Skipped]) -> str:
    """How many files, and how many processes."""
    processes = sum(one.path.startswith("/proc/") for one in skipped)
    numbers = ((len(skipped) - processes, "file", "files"), (processes, "process", "processes"))
    return listed(counted(*one) for one in numbers if one[0])


def left_out(documents: Documents) -> Iterator[tuple[str, str]]:
    """What isn't there, and why."""
    yield from documents.missing
    given = {"survey": documents.survey, "cost": documents.cost, "compare": documents.compares}
    for name, found in given.items():
        if not found and not documents.missing:
            made = f"not among the files that this page is made from; `{COMMANDS[name]}` makes it"
            yield name, made
    for one in documents.all:
        yield from one.left_out.items()


def commands(documents: Documents) -> list[str]:
    """What makes such documents, and a page of them."""
    lines, given = [], []
    if documents.survey or not documents.all:
        alone = documents.survey is not None and not documents.survey.processes
        lines.append(COMMANDS["survey"].replace(" --pid all", "" if alone else " --pid all"))
        given.append("--survey survey.json")
    if documents.cost or not documents.all:
        lines.append(_cost_command(documents))
        given.append("--cost cost.json")
    swaps = list(dict.fromkeys(one.settings.swap for one in documents.compares))
    for number, swap in enumerate(swaps, start=1):
        name = f"compare{number if len(swaps) > 1 else ''}.json"
        made = swap in ("auto", *_MADE)
        option = f" --swap {swap}" if made else ""
        lines.append(f"{'sudo ' if made else ''}mapscratch compare{option} --json {name}")
        given.append(f"--compare {name}")
    return [*lines, f"mapscratch report {' '.join(given)} -o report.html"]


def _cost_command(documents: Documents) -> str:
    """With the swap that was measured, and root, which makes it."""
    lines = documents.cost.report.costs.lines if documents.cost else ()
    names = [name for one in lines if (name := one.what.removeprefix("swap.")) in _MADE]
    swap = f" --swap {names[0] if len(names) == 1 else 'all'}" if names else ""
    survey = " --survey survey.json" if documents.survey else ""
    return f"{'sudo ' if names else ''}mapscratch cost --measure{swap}{survey} --json cost.json"
