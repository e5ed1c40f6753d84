# SPDX-License-Identifier: Apache-2.0
"""What the templates show, section by section, in words and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mapscratch.lab.compare.document import ComparisonDocument
from mapscratch.lab.cost.answer import CostReport, answer
from mapscratch.lab.cost.model import DEVICES
from mapscratch.lab.report import charts, facts
from mapscratch.lab.report.charts import Table, span
from mapscratch.lab.report.documents import Documents, FixupsPerPage, Head, Survey
from mapscratch.lab.report.words import TO, digits, duration, percent
from mapscratch.lab.rig.results import Spread
from mapscratch.text import counted, listed, nanoseconds, size, whole

COMMANDS = {
    "survey": "mapscratch survey --installed --pid all --json survey.json",
    "cost": "mapscratch cost --measure --json cost.json",
    "compare": "sudo mapscratch compare --swap auto --json compare.json",
    "ps": "mapscratch ps --json > ps.json",
}
"""What makes each document."""
PAGE = 4096
"""Bytes of a page where documents count pages."""
_MADE = ("file", "zram", "zswap")
"""Kinds of swap that can be made for a measurement."""
_SKIPPED_SHOWN, _MAPPINGS_SHOWN = 40, 60
_SLOWEST = 10**4.5
_SLIDER_STEPS = 46
_UNKNOWN = "not known"

# --- the answer, round trips and break-even -----------------------------------------------------


def costs(documents: Documents) -> dict[str, Any]:
    """The verdict, the answer, round trips and break-even, and what else there is."""
    ways = facts.ways_of(documents)
    report = documents.cost.report if documents.cost else None
    surveyed = facts.fixups_of_survey(documents.survey)
    reckoned = facts.fixups_of_pages(ways.pages) if ways and ways.pages else None
    chart = charts.round_trip_chart(ways, reckoned or surveyed) if ways else None
    return {
        "verdict": facts.verdict(documents, ways),
        "answer": _answer(documents, report),
        "cautions": _cautions(report, ways) if report else [],
        "ways": ways,
        "trip": chart,
        "trip_note": _trip_note(ways) if ways else "",
        "slider": _slider(ways, chart.scale)
        if ways and ways.scratch and chart and chart.scale
        else None,
        "weighed": list(_weighed(ways)) if ways else [],
        "other_pages": _other_pages(documents, report),
        "others": _others(ways) if ways and ways.others and ways.swaps else None,
        "measurements": report.costs.measurements if report else (),
        "checks": _checks(report) if report else Table((), ()),
        "baselines": report.baselines if report else (),
    }


def _answer(documents: Documents, report: CostReport | None) -> str:
    """What the documents answer themselves; empty if they don't."""
    if report and (report.swaps or report.scratches):
        return answer(report).removeprefix("How expensive are the fixups? ")
    return next((one.verdict.sentence for one in documents.compares), "")


def _cautions(report: CostReport, ways: facts.Ways | None) -> list[str]:
    """Why the answer is to be taken with care; none where it isn't."""
    found = list(report.costs.notes)
    doubted = [one.what for one in report.costs.checks if not one.agrees]
    if doubted:
        found.append(f"Others measure {listed(doubted)} differently, see below.")
    noisy = [one.title for one in (*ways.swaps, *ways.scratch) if one.page_us < 0] if ways else []
    if noisy:
        found.append(f"Noise is larger than what was measured of {listed(noisy)}.")
    return found


def _trip_note(ways: facts.Ways) -> str:
    if not ways.report:
        return "From comparisons: measured at the marks, with one number of fixups a page."
    share = ways.pages.relative_share if ways.pages else None
    composed = (
        "what ld.so takes for a fixup that is relative, or a symbol looked up in few (short) or "
        "many libraries (long)"
    )
    if ways.mixed and share is not None:
        composed = (
            "what ld.so takes for a fixup that is relative, or in the mean for those here: "
            f"{percent(share)} are relative, and for the others it looks up a symbol in few or in "
            "many libraries"
        )
    return (
        "Where a drop's line lies below a swap's, dropping takes less time; rings mark where they "
        "cross. Times of a swap are those of a page without fixups. Dashed lines are reckoned: a "
        f"drop as it was measured, and {composed}.{_misfits(ways)}"
    )


def _misfits(ways: facts.Ways) -> str:
    """How far lines are from their own points, where that is far."""
    told = [
        f"{one.title} says {duration(miss[1])} at {counted(round(miss[0]), 'fixup')}, and "
        f"{duration(miss[2])} were measured"
        for one in (*ways.swaps, *ways.drawn)
        if (miss := one.misfit)
    ]
    return f" Lines that miss marks of their own, at worst: {'; '.join(told)}." if told else ""


def _weighed(ways: facts.Ways) -> Iterator[tuple[facts.Way, str]]:
    """Swaps that were measured, and other devices, and what a page costs by them."""
    for swap in ways.swaps:
        yield swap, f"{duration(swap.page_us)} a page, measured"
    for swap, latency in ways.devices():
        trip, read = duration(swap.page_us), duration(latency)
        yield swap, f"{trip} a page, if a read takes {read}"


def _other_pages(documents: Documents, report: CostReport | None) -> bool:
    """Whether costs were reckoned for other pages than those of the survey."""
    own = facts.pages_of_survey(documents.survey) if documents.survey else None
    if report is None or own is None:
        return False
    pairs = ((own.fixups, report.pages.fixups), (own.pages, report.pages.pages))
    return not all(np.array_equal(*pair) for pair in pairs)


def _others(ways: facts.Ways) -> Table:
    rows = [
        (
            f"{one.trip.what}: {one.name}",
            duration(one.page_us),
            nanoseconds(one.fixup_ns),
            *(ways.pays(one, swap).limit for swap in ways.swaps),
        )
        for one in ways.others
    ]
    against = (f"up to, against {one.name}" for one in ways.swaps)
    return Table(("engine", "a page without fixups", "a fixup", *against), rows)


def _checks(report: CostReport) -> Table:
    rows = [
        (
            one.what,
            digits(one.ours),
            digits(one.theirs),
            digits(one.ratio),
            "agrees" if one.agrees else "does not agree",
            one.note,
        )
        for one in report.costs.checks
    ]
    return Table(("what", "ours", "theirs", "ratio", "", ""), rows, "Checked against others")


def least_to_most(spread: Spread, rounds: int) -> str:
    """The spread of a measurement in ns."""
    if rounds == 1:
        return "one round"
    if spread.minimum >= spread.maximum:
        return _UNKNOWN
    return f"{duration(spread.minimum / 1e3)}{TO}{duration(spread.maximum / 1e3)}"


def plain(value: float) -> str:
    """A figure as it is."""
    return whole(value) if float(value).is_integer() else digits(value)


@dataclass(frozen=True, slots=True)
class Slider:
    """What the page says for each latency that can be chosen: its script only shows it.

    Attributes:
        steps: for each: in the row's head, in words, where the line is, what is said beside it,
            and the cells: limit, and share of pages.
        first: the step to begin with.
        presets: name and step of the model's devices.
    """

    steps: Sequence[tuple[str, str, float, str, Sequence[tuple[str, str]]]]
    first: int
    presets: Sequence[tuple[str, int]]


def _slider(ways: facts.Ways, scale: charts.Scale) -> Slider:
    grid = {_SLOWEST ** (step / (_SLIDER_STEPS - 1)) for step in range(_SLIDER_STEPS)}
    latencies = sorted(grid | set(DEVICES.values()))
    steps = [_step(ways, latency, scale) for latency in latencies]
    presets = [
        (f"{way.name}, {duration(latency)}", latencies.index(latency))
        for way, latency in ways.devices()
    ]
    return Slider(steps, presets[0][1], presets)


def _step(
    ways: facts.Ways, latency: float, scale: charts.Scale
) -> tuple[str, str, float, str, list[tuple[str, str]]]:
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
    return (
        f"{read} a read, {trip} a page",
        text,
        round(scale(device.page_us), 1),
        f"another device, {trip}{beyond}",
        [(one.limit, one.note) for one in pays],
    )


# --- libraries and processes --------------------------------------------------------------------


def survey(survey: Survey | None) -> dict[str, Any]:
    """Fixups a page, kinds of them, libraries and processes."""
    if survey is None:
        return {"processes": Table((), ())}
    fixups = facts.fixups_of_survey(survey)
    return {
        "fixups": fixups,
        "fixups_table": _fixups_table(fixups) if fixups else None,
        "kinds": _kinds(survey),
        "libraries": _holders(
            facts.biggest_libraries(survey),
            "library",
            "The libraries of which relocation dirties most",
        ),
        "processes": _holders(
            facts.biggest_processes(survey),
            "process",
            "Private pages with relocations, by process",
        ),
    }


def _fixups_table(fixups: FixupsPerPage) -> Table:
    most = max(pages for *_, pages in fixups.histogram)
    rows, sum_of_pages = [], 0.0
    for low, high, pages in fixups.histogram:
        sum_of_pages += pages
        shares = (percent(part / fixups.pages) for part in (pages, sum_of_pages))
        rows.append((span(low, high), whole(pages), *shares))
    return Table(
        ("fixups on a page", "pages", "share", "share with at most so many"),
        rows,
        "Fixups a page, over all pages that relocation dirties",
        [(pages / most, 0.0) for *_, pages in fixups.histogram],
    )


def _kinds(survey: Survey) -> Table:
    kinds = facts.kinds_of_fixups(survey)
    total = sum(number for _, number in kinds) or 1
    most = max((number for _, number in kinds), default=1)
    return Table(
        ("kind of relocation", "fixups", "share"),
        [(kind, whole(number), percent(number / total)) for kind, number in kinds],
        "Fixups by kind of relocation, all libraries",
        [(number / most, 0.0) for _, number in kinds],
    )


def _holders(holders: Sequence[facts.Holder], who: str, caption: str) -> Table:
    most = max((one.relocated for one in holders), default=1)
    return Table(
        (who, "saved", "dirtied in all"),
        [(one.name, _pages(one.saved), _pages(one.relocated)) for one in holders],
        caption,
        [(one.relocated / most, min(one.saved / most, 1.0)) for one in holders],
    )


def _pages(pages: int) -> str:
    number = counted(pages, "page").replace(" ", "\N{NO-BREAK SPACE}")
    return f"{size(pages * PAGE)} ({number})" if pages else "0"


# --- swap against the number of processes -------------------------------------------------------


def sweeps(documents: Documents) -> dict[str, Any]:
    """What goes to swap, by strategy and number of processes."""
    compares = documents.compares
    found = [one for compare in compares for one in facts.sweeps_of(compare)]
    fixed_up = {round(n) for one in compares if (n := facts.pages_a_process(one))}
    return {
        "sweep": charts.sweep_chart(found),
        "sweep_note": f"{listed(map(whole, sorted(fixed_up)))} relocated pages a process"
        if fixed_up
        else "",
        "sweeps": _sweep_table(found),
        "no_swap": any(not facts.swapped_to(one) for one in compares),
        "notes": list(dict.fromkeys(note for one in compares for note in one.notes)),
    }


def _sweep_table(sweeps: Sequence[facts.Sweep]) -> Table:
    counts = sorted({n for one in sweeps for n, _ in one.swapped})
    rows = []
    for one in sweeps:
        swapped, trip = dict(one.swapped), one.round_trip_us
        where = facts.SWAP_NAMES.get(one.swap, "no swap")
        missing = _UNKNOWN if one.swapped else "not asked"
        rows.append(
            (
                f"{one.strategy}, {where}",
                *(whole(swapped[n]) if n in swapped else missing for n in counts),
                duration(trip.median) if trip else _UNKNOWN,
                f"{duration(trip.minimum)}{TO}{duration(trip.maximum)}"
                if trip and trip.minimum < trip.maximum
                else "one round",
                _UNKNOWN if one.given_back is None else f"{one.given_back:.2f}",
            )
        )
    head = ["strategy", *(f"pages to swap, {counted(n, 'process', 'processes')}" for n in counts)]
    head += ["a page's round trip", f"least{TO}most", "MiB given back per MiB asked"]
    return Table(head, rows, "Pages to swap; and with the most processes, a page's round trip")


# --- who uses it now, and method ----------------------------------------------------------------


def uses(documents: Documents) -> dict[str, Any]:
    """Who used scratch memory."""
    rows: list[tuple[str, ...]] = []
    for process in documents.ps.processes if documents.ps else ():
        who = f"{process.command} ({process.pid})"
        if process.problem:
            rows.append((who, process.problem, "", "", "", ""))
        rows += [
            (
                who,
                f"{one.kind} {one.name}".strip(),
                one.engine or "",
                _UNKNOWN if one.droppable_bytes is None else size(one.droppable_bytes),
                _UNKNOWN if one.dropped_pages is None else whole(one.dropped_pages),
                _UNKNOWN if one.rebuilt_pages is None else whole(one.rebuilt_pages),
            )
            for one in process.mappings
        ]
    head = ("process", "what", "engine", "droppable", "pages dropped", "pages rebuilt")
    more = max(len(rows) - _MAPPINGS_SHOWN, 0)
    return {"uses": Table(head, rows[:_MAPPINGS_SHOWN]), "more_uses": more}


def method(documents: Documents) -> dict[str, Any]:
    """Machines, what was left out and why, and the commands."""
    skipped = documents.survey.skipped if documents.survey else []
    processes = sum(one.path.startswith("/proc/") for one in skipped)
    numbers = ((len(skipped) - processes, "file", "files"), (processes, "process", "processes"))
    return {
        "machines": list(dict.fromkeys(map(_machine, documents.all))),
        "origins": _origins(documents.all),
        "left_out": Table(("what", "why"), list(dict.fromkeys(_left_out(documents)))),
        "skipped": Table(
            ("file", "why"), [(one.path, one.reason) for one in skipped[:_SKIPPED_SHOWN]]
        ),
        "skipped_title": listed(counted(*one) for one in numbers if one[0]),
        "more_skipped": max(len(skipped) - _SKIPPED_SHOWN, 0),
        "commands": documents.commands or _commands(documents),
    }


def _machine(head: Head | ComparisonDocument) -> str:
    machine = head.machine
    return (
        f"Linux {machine.kernel}, {machine.architecture}, "
        f"{counted(machine.processors, 'processor')}, pages of {whole(machine.page_size)} bytes."
    )


def _origins(heads: Sequence[Head | ComparisonDocument]) -> Table:
    rows = [
        (
            one.document,
            moment(one.created),
            _UNKNOWN if one.seconds is None else f"{digits(one.seconds)} s",
            one.mapscratch,
        )
        for one in heads
    ]
    return Table(("document", "made at", "took", "mapscratch"), rows)


def moment(when: datetime) -> str:
    """A date and time to be read."""
    return when.strftime("%Y-%m-%d %H:%M %Z").strip()


def _left_out(documents: Documents) -> Iterator[tuple[str, str]]:
    yield from documents.missing
    given = (
        ("survey", documents.survey),
        ("cost", documents.cost),
        ("compare", documents.compares),
    )
    for name, found in given:
        if not found and not documents.missing:
            made = f"not among the files that this page is made from; `{COMMANDS[name]}` makes it"
            yield name, made
    for one in documents.all:
        yield from one.left_out.items()


def _commands(documents: Documents) -> list[str]:
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
    kinds = [one.what for one in lines if one.what.removeprefix("swap.") in _MADE]
    names = [kind.removeprefix("swap.") for kind in kinds]
    swap = f" --swap {names[0] if len(names) == 1 else 'all'}" if names else ""
    survey = " --survey survey.json" if documents.survey else ""
    return f"{'sudo ' if names else ''}mapscratch cost --measure{swap}{survey} --json cost.json"
