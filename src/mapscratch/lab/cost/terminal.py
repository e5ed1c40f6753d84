# SPDX-License-Identifier: Apache-2.0
"""What fixups cost: the document of ``mapscratch cost --json``, and the same in the terminal.

`CostReport` is everything that is said of one measurement: the figures themselves, the model's
lines and break-even, the other ways, and a fleet. `docs/cost.md` explains it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mapscratch.documents import Document, document_head
from mapscratch.errors import UserError
from mapscratch.lab.compare.charts import ROWS, Chart, Series, print_chart
from mapscratch.lab.cost.baselines import Alternatives, Baseline, baselines
from mapscratch.lab.cost.costs import Check, Costs, Fit, Line, Measurement, Per, Point
from mapscratch.lab.cost.fleet import Fleet, Plan
from mapscratch.lab.cost.lines import SWAP_NOTE
from mapscratch.lab.cost.model import (
    ALONE,
    DEVICE,
    DEVICE_AHEAD,
    WORDS_A_PAGE,
    BreakEven,
    Device,
    Distribution,
    FixupCost,
    Layout,
    Pays,
    RoundTrip,
    break_evens,
    kernel_part_us,
    read_ahead,
    scratch_lines,
    swap_lines,
)
from mapscratch.lab.reading import checked_document
from mapscratch.lab.rig.results import ENGINES, Spread
from mapscratch.text import counted, decimal, listed, microseconds, nanoseconds, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NAME = "mapscratch.cost"
VERSION = 1

_CHART_POINTS = tuple(range(0, WORDS_A_PAGE + 1, 128))
_MOST_SWAPS_WITH_BRACKETS = 3
_ROOM_ABOVE_SWAP = 1.5
"""The chart is so many times as high as the dearest swap; steeper lines leave it."""
_FAR = 10.0
"""A swap so many times as dear as the cheapest is not drawn."""
_NOT_MEASURED = "n/a"
_ROOM_FOR_ALL = 64
"""Columns of a terminal that has room for the least and the most as well."""
_LEAST_LABEL = 12
_BETWEEN = 3
"""Columns between those of a table."""
_TRIED_OTHERWISE = (
    "library",
    "pages",
    "children",
    "alone_bytes",
    "child_bytes",
    "equal_fixed",
)
"""Of `Alternatives`, what is not simply a number."""


class CostDocumentError(UserError, ValueError):
    """A document of ``mapscratch cost --json`` is damaged; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class CostReport:
    """Everything that is said of one measurement.

    Attributes:
        costs: what was measured.
        pages: whose pages are reckoned with.
        device: another device to swap to; None for none.
        alternatives: what small experiments showed; None if they were not made.
        fleet: what many hosts would do; None if that was not asked.
        swaps: a page's round trip by each swap.
        scratches: the same by each engine and kind of fixup.
        break_even: where they meet.
        baselines: the other ways.
    """

    costs: Costs
    pages: Distribution
    device: Device | None
    alternatives: Alternatives | None
    fleet: Fleet | None
    swaps: tuple[RoundTrip, ...]
    scratches: tuple[RoundTrip, ...]
    break_even: tuple[BreakEven, ...]
    baselines: tuple[Baseline, ...]

    @property
    def engine(self) -> str:
        """The engine that would be taken here; empty if none was measured."""
        return next((name for name in ENGINES if self.costs.line(name)), "")


def cost_report(
    costs: Costs,
    pages: Distribution,
    *,
    device: Device | None = None,
    alternatives: Alternatives | None = None,
    fleet: Fleet | None = None,
) -> CostReport:
    """Puts a report together.

    Args:
        costs: what was measured.
        pages: whose pages are reckoned with.
        device: another device to swap to.
        alternatives: what small experiments showed.
        fleet: what many hosts would do.
    """
    layout = pages.layout or ALONE
    swaps = tuple(swap_lines(costs, device, layout))
    scratches = tuple(scratch_lines(costs, layout, pages.relative_share))
    return CostReport(
        costs=costs,
        pages=pages,
        device=device,
        alternatives=alternatives,
        fleet=fleet,
        swaps=swaps,
        scratches=scratches,
        break_even=tuple(break_evens(swaps, scratches)),
        baselines=baselines(costs, alternatives, layout),
    )


# --- the answer ---------------------------------------------------------------------------------


def answer(report: CostReport) -> str:
    """How expensive the fixups are, in words."""
    prices = _prices(report)
    if not prices:
        return "Neither ld.so's fixups nor ours were measured, so there is no answer."
    first = f"How expensive are the fixups? {prices}."
    weighed = [one for one in report.break_even if one.engine == report.engine]
    if not weighed:
        why = "swap" if report.scratches else "a scratch engine"
        return f"{first} {why.capitalize()} was not measured, so there is nothing to weigh."
    return f"{first} {_whole_page(report)} {_weighing(report, weighed)}"


def _whole_page(report: CostReport) -> str:
    """What all fixups of a page take, as many and of such kinds as pages have in the mean."""
    pages, costs = report.pages, report.costs
    known = next((one for one in report.scratches if one.what == report.engine), None)
    relative = costs.measurement("relocation.relative")
    parts = []
    if known and known.fixup:
        parts.append(f"{microseconds(known.fixup.ns.median * pages.mean / 1e3)} from known values")
    if relative and pages.relative_share is not None:
        dear = []
        for scope in ("short", "long"):
            symbolic = costs.measurement(f"relocation.symbolic.{scope}")
            if symbolic:
                rest = 1 - pages.relative_share
                each = pages.relative_share * relative.median + rest * symbolic.median
                dear.append(f"{microseconds(each * pages.mean / 1e3)} in a {scope} scope")
        if dear:
            parts.append(f"as ld.so does it {listed(dear)}")
    share = (
        f", {pages.relative_share:.0%} of them relative" if pages.relative_share is not None else ""
    )
    takes = f": all of them again take {', and '.join(parts)}" if parts else ""
    return f"A page of {pages.title} has {pages.mean:.0f} in the mean{share}{takes}."


def _prices(report: CostReport) -> str:
    costs = report.costs
    known = next((one for one in report.scratches if one.what == report.engine), None)
    parts = []
    relative = costs.measurement("relocation.relative")
    short, long = (costs.measurement(f"relocation.symbolic.{scope}") for scope in ("short", "long"))
    if relative:
        parts.append(f"a relative one costs ld.so {nanoseconds(relative.median)}")
    if short or long:
        low, high = short or long, long or short
        assert low and high
        same = low is high
        cost = (
            nanoseconds(low.median)
            if same
            else f"{nanoseconds(low.median)} to {nanoseconds(high.median)}"
        )
        parts.append(f"one that looks a symbol up {cost}")
    if known and known.fixup:
        parts.append(f"storing a value that is known {nanoseconds(known.fixup.ns.median)}")
    text = listed(parts)
    return text[:1].upper() + text[1:]


def _weighing(report: CostReport, weighed: Iterable[BreakEven]) -> str:
    """Against which swaps dropping takes less time, with how many fixups of which kind.

    Swaps of which the same is to be said, but for the numbers, share a sentence.
    """
    limits = list(weighed)
    if any(one.fixup.fixup == "mixed" for one in limits):  # No page has symbolic ones alone.
        limits = [one for one in limits if one.fixup.fixup != "symbolic"]
    by_swap: dict[str, list[BreakEven]] = {}
    for one in limits:
        by_swap.setdefault(one.swap, []).append(one)
    alike: dict[tuple[Pays, ...], list[str]] = {}
    for swap, ones in by_swap.items():
        alike.setdefault(tuple(one.pays for one in ones), []).append(swap)
    what = f"dropping a page with {report.engine} and making its fixups again takes"
    sentences = []
    for swaps in alike.values():
        names = listed(_with_time(one) for one in report.swaps if one.what in swaps)
        verdict = _verdict(report, [by_swap[swap] for swap in swaps])
        sentences.append(f"Against {names}, {what} {verdict}.")
        what = "it takes"
    return " ".join(sentences)


def _with_time(swap: RoundTrip) -> str:
    """A swap's name, and what a page takes by it; of a device, that it is assumed."""
    name = _without_latency(swap.title).replace(", read-ahead", " with read-ahead")
    assumed = "assumed, " if swap.what in (DEVICE, DEVICE_AHEAD) else ""
    return f"{name} ({assumed}{microseconds(float(swap.at(0)[0, 0]))})"


def _verdict(report: CostReport, by_swap: Sequence[Sequence[BreakEven]]) -> str:
    """The same kinds of fixups, in the same ways, for each of some swaps."""
    first = by_swap[0]
    if all(one.pays == "never" for one in first):
        dearer = all(
            one.page_scratch_us.median >= one.page_swap_us.median
            for ones in by_swap
            for one in ones
        )
        return "more time, even without fixups" if dearer else "no less time in most rounds"
    if all(one.pays == "always" for one in first):
        return "less time with any number of fixups"
    parts = []
    for pays, number in (("always", "any number of"), ("up to", ""), ("never", "no")):
        at = [index for index, one in enumerate(first) if one.pays == pays]
        if number and at:
            fixups = [first[index].fixup for index in at]
            simple = [one for one in fixups if not one.scope]
            others = [[one] for one in fixups if one.scope]
            parts += [f"{number} {_ones(group)}" for group in (simple, *others) if group]
        elif at:
            parts += _numbers_of_kinds(report, [[ones[index] for ones in by_swap] for index in at])
    return (
        f"less time with {', with '.join(parts[:-1])}{' and with ' * (len(parts) > 1)}{parts[-1]}"
    )


def _numbers_of_kinds(report: CostReport, kinds: Iterable[Sequence[BreakEven]]) -> Iterator[str]:
    """Up to how many of each kind, a number for each swap, and how many pages have no more."""
    former = ""
    have_no_more = " of pages have no more"
    for ones in kinds:
        fixup = ones[0].fixup
        name = _ones([fixup])
        if fixup.fixup == former:
            name = f"in a {fixup.scope} scope"
        numbers = [_number(one) for one in ones]
        if set(numbers) == {"1"}:
            name = re.sub(r"\bones\b", "one", name)
        text = f"up to {listed(numbers)} {name}"
        if fixup.fixup != "symbolic":  # How many pages have only such ones isn't known.
            shares = [f"{report.pages.share_below(one.fixups.median):.0%}" for one in ones]
            text += f" ({listed(shares)}{have_no_more})"
            have_no_more = ""
        yield text
        former = fixup.fixup


def _ones(fixups: Sequence[FixupCost]) -> str:
    """One kind, or several that are the same in all scopes."""
    names = {"known value": "known", "relative": "relative", "mixed": "ones mixed as here"}
    names["symbolic"] = "symbolic ones alone"
    parts = [names[one.fixup] + (f" in a {one.scope} scope" if one.scope else "") for one in fixups]
    return listed(parts) + ("" if " " in parts[-1] else " ones")


def _number(one: BreakEven) -> str:
    """With two digits: the rounds don't agree on more."""
    number = max(1.0, one.fixups.median)
    return f"{round(number, 1 - int(math.log10(number))):,.0f}"


# --- the chart ----------------------------------------------------------------------------------


def cost_chart(report: CostReport) -> Chart:
    """A page's round trip against its fixups: each swap, and one engine with each kind of fixup."""
    lines = _drawn([one for one in report.scratches if one.what == report.engine])
    swaps, far = _within_reach(report.swaps)
    swap_us = [_highest(one) for one in swaps]
    known_us = [_highest(line) for line in lines[:1]]
    top = max([_ROOM_ABOVE_SWAP * value for value in swap_us] + known_us, default=0.0)
    series = [_series(one.title, one, math.inf) for one in swaps]
    leaves_at = top
    for line in lines:
        one = _series(_series_name(line), line, leaves_at)
        series.append(one)
        if one.points and one.points[-1][0] < WORDS_A_PAGE:
            leaves_at -= top / ROWS  # So that names stand below each other.
    series = [one for one in series if one.points]
    leaving = any(one.points[-1][0] < WORDS_A_PAGE for one in series)
    notes = ["Lines that end early go on upwards, out of the picture."] if leaving else []
    notes += [f"{one.title} takes {microseconds(_highest(one))}: far above it." for one in far]
    title = "µs for a page to leave memory and come back, by its number of fixups"
    unit = ("fixup a page", "fixups a page")
    return Chart(title, tuple(series), " ".join(notes), unit, _CHART_POINTS)


def _drawn(lines: Sequence[RoundTrip]) -> list[RoundTrip]:
    """Fixups as they are mixed here, if that is known, in place of symbolic ones alone."""
    mixed = any(one.fixup and one.fixup.fixup == "mixed" for one in lines)
    left_out = "symbolic" if mixed else "mixed"
    return [one for one in lines if one.fixup and one.fixup.fixup != left_out]


def _highest(line: RoundTrip) -> float:
    return float(line.at(_CHART_POINTS)[0].max())


def _within_reach(swaps: Sequence[RoundTrip]) -> tuple[list[RoundTrip], list[RoundTrip]]:
    """Those to be drawn, and those that are so dear that nothing else could be seen beside them."""
    ordered = sorted(swaps, key=_highest)
    reach = _FAR * _highest(ordered[0]) if ordered else 0.0
    drawn = [one for one in swaps if _highest(one) <= reach]
    return drawn, [one for one in ordered if _highest(one) > reach]


def _series_name(line: RoundTrip) -> str:
    assert line.fixup
    kind = line.fixup.fixup.removesuffix(" value")
    return f"{line.title}, {kind}{', long' if line.fixup.scope == 'long' else ''}"


def _series(name: str, line: RoundTrip, top: float) -> Series:
    """The points of a line, as far as they are in the picture."""
    values = line.at(_CHART_POINTS)[0]
    points = [
        (count, float(value))
        for count, value in zip(_CHART_POINTS, values, strict=True)
        if value <= top
    ]
    if len(points) < len(_CHART_POINTS):
        numbers = np.arange(WORDS_A_PAGE + 1)
        inside = np.flatnonzero(line.at(numbers)[0] <= top)
        if len(inside) and (not points or inside[-1] > points[-1][0]):
            last = int(inside[-1])
            points.append((last, float(line.at([last])[0, 0])))
    return Series(name, tuple(points))


# --- the document -------------------------------------------------------------------------------


def cost_document(
    report: CostReport, created: datetime, machine: Document | None = None
) -> Document:
    """The document of a report: nothing but what JSON has.

    Args:
        report: what is said.
        created: when it was measured, with a time zone.
        machine: where, as another document has it; None for here.
    """
    costs = report.costs
    return {
        **document_head(NAME, VERSION, created),
        **({"machine": machine} if machine else {}),
        "seconds": costs.seconds,
        "rounds": costs.rounds,
        "measurements": [_measurement(one) for one in costs.measurements],
        "lines": [_line(one) for one in costs.lines],
        "checks": [asdict(one) for one in costs.checks],
        "left_out": dict(costs.left_out),
        "notes": list(costs.notes),
        "pages": {
            "title": report.pages.title,
            "fixups": report.pages.fixups.tolist(),
            "pages": report.pages.pages.tolist(),
            "relative_share": report.pages.relative_share,
            "layout": asdict(report.pages.layout) if report.pages.layout else None,
        },
        "device": {
            "name": report.device.name if report.device else None,
            "latency_us": report.device.latency_us if report.device else None,
            "kernel_us": float(kernel_part_us(costs)[0]),
        },
        "break_even": [_break_even(one) for one in report.break_even],
        "alternatives": asdict(report.alternatives) if report.alternatives else None,
        "baselines": [asdict(one) for one in report.baselines],
        "fleet": asdict(report.fleet) if report.fleet else None,
        "answer": answer(report),
    }


def _measurement(one: Measurement) -> Document:
    return {
        "name": one.name,
        "title": one.title,
        "unit": "ns",
        "per": one.per,
        **asdict(one.spread),
        "rounds": one.rounds,
        "note": one.note,
    }


def _line(line: Line) -> Document:
    return {
        "what": line.what,
        "fixups": line.fixups,
        "page_us": line.page_us.median,
        "fixup_ns": line.fixup_ns.median,
        "clean_page_us": line.clean_page_us.median,
        "mapping_us": line.mapping_us.median,
        "spread": {
            "page_us": asdict(line.page_us),
            "fixup_ns": asdict(line.fixup_ns),
            "clean_page_us": asdict(line.clean_page_us),
            "mapping_us": asdict(line.mapping_us),
        },
        "fits": [asdict(fit) for fit in line.fits],
        "points": [[one.fixups, *_three(one.round_trip_us)] for one in line.points],
        "layouts": [[one.clean_pages, one.mappings] for one in line.points],
        "cpu_us": asdict(line.cpu_us) if line.cpu_us else None,
    }


def _three(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.minimum, spread.maximum


def _break_even(one: BreakEven) -> Document:
    median, least, most = (_finite(value) for value in _three(one.fixups))
    return {
        "swap": one.swap.removeprefix("swap."),
        "engine": one.engine,
        "fixup": one.fixup.fixup,
        "scope": one.fixup.scope,
        "fixup_ns": one.fixup.ns.median,
        "page_swap_us": one.page_swap_us.median,
        "swap_fixup_ns": one.swap_fixup_ns,
        "page_scratch_us": one.page_scratch_us.median,
        "pays": one.pays,
        "fixups": median,
        "minimum": least,
        "maximum": most,
        "more_than_fit": one.more_than_fit,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def costs_from_document(document: object) -> Costs:
    """What was measured, out of `cost_document`'s document.

    Raises:
        ReadingError: it is none.
        CostDocumentError: it is damaged.
    """
    checked = _checked(document)
    with _reading():
        return Costs(
            measurements=tuple(_read_measurement(one) for one in checked["measurements"]),
            lines=tuple(_read_line(one) for one in checked["lines"]),
            checks=tuple(_read_check(one) for one in checked["checks"]),
            left_out={str(name): str(why) for name, why in checked["left_out"].items()},
            notes=tuple(map(str, checked["notes"])),
            rounds=int(checked["rounds"]),
            seconds=float(checked["seconds"]),
        )


def pages_from_document(document: object) -> Distribution:
    """Whose pages were reckoned with, out of `cost_document`'s document.

    Raises:
        ReadingError: it is none.
        CostDocumentError: it is damaged.
    """
    checked = _checked(document)
    with _reading():
        pages = checked["pages"]
        found = Distribution(
            title=str(pages["title"]),
            fixups=np.array(pages["fixups"], dtype=np.float64),
            pages=np.array(pages["pages"], dtype=np.int64),
            relative_share=_number_or_none(pages["relative_share"]),
            layout=Layout(**_numbers(pages["layout"])) if pages["layout"] else None,
        )
        if found.fixups.ndim != 1 or found.fixups.shape != found.pages.shape:
            raise ValueError("pages are not one for each number of fixups")
        if not len(found.pages) or found.pages.min() < 1 or found.fixups.min() < 0:
            raise ValueError("no pages")
        return found


def alternatives_from_document(document: object) -> Alternatives | None:
    """What small experiments showed, out of `cost_document`'s document; None if none was made.

    Raises:
        ReadingError: it is none.
        CostDocumentError: it is damaged.
    """
    checked = _checked(document)
    with _reading():
        found = checked["alternatives"]
        if not found:
            return None
        fixed = found["equal_fixed"]
        rest = {name: value for name, value in found.items() if name not in _TRIED_OTHERWISE}
        return Alternatives(
            library=str(found["library"]),
            pages=int(found["pages"]),
            children=int(found["children"]),
            alone_bytes=int(found["alone_bytes"]),
            child_bytes=int(found["child_bytes"]),
            equal_fixed=_number_or_none(fixed),
            **_numbers(rest),
        )


def created_from_document(document: object) -> datetime:
    """When the figures were measured.

    Raises:
        ReadingError: it is none.
        CostDocumentError: it is damaged.
    """
    checked = _checked(document)
    with _reading():
        return datetime.fromisoformat(checked["created"])


def _checked(document: object) -> Mapping[str, Any]:
    checked = checked_document(document, NAME, VERSION, "these figures")
    if not isinstance(checked.get("machine"), dict):
        raise CostDocumentError(f"this document of {NAME} has no machine: measure again")
    return checked


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever is missing, or of another type, makes the document a damaged one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CostDocumentError(
            f"this document of {NAME} is damaged ({why}): measure again"
        ) from None


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _read_check(one: Mapping[str, Any]) -> Check:
    return Check(
        what=str(one["what"]),
        ours=float(one["ours"]),
        theirs=float(one["theirs"]),
        ratio=float(one["ratio"]),
        agrees=bool(one["agrees"]),
        note=str(one["note"]),
    )


def _read_spread(one: Mapping[str, Any]) -> Spread:
    return Spread(float(one["median"]), float(one["minimum"]), float(one["maximum"]))


def _read_per(value: Any) -> Per:
    if value not in get_args(Per):
        raise ValueError(f"for each {value!r:.20}")
    per: Per = value
    return per


def _read_measurement(one: Mapping[str, Any]) -> Measurement:
    return Measurement(
        name=str(one["name"]),
        title=str(one["title"]),
        per=_read_per(one["per"]),
        spread=_read_spread(one),
        rounds=int(one["rounds"]),
        note=str(one["note"]),
    )


def _read_line(one: Mapping[str, Any]) -> Line:
    fits = tuple(Fit(**_numbers(fit)) for fit in one["fits"])
    if not fits:
        raise ValueError("a line without a fit")
    return Line(
        what=str(one["what"]),
        fixups=str(one["fixups"]),
        fits=fits,
        points=tuple(
            Point(
                float(fixups),
                float(clean),
                float(mappings),
                Spread(float(median), float(least), float(most)),
            )
            for (fixups, median, least, most), (clean, mappings) in zip(
                one["points"], one["layouts"], strict=True
            )
        ),
        cpu_us=_read_spread(one["cpu_us"]) if one.get("cpu_us") else None,
    )


# --- the terminal -------------------------------------------------------------------------------


def print_costs(console: Console, report: CostReport) -> None:
    """Prints a report; the last sentence is the answer."""
    costs = report.costs
    console.print()
    if costs.measurements:
        console.print(_measurements_table(report, console.width))
    for reason, names in _reasons(costs.left_out).items():
        console.print(f"Left out: {', '.join(names)}; {reason}", style="dim")
    for check in costs.checks:
        console.print(_check_line(check))
    for note in costs.notes:
        console.print(note if note.startswith(SWAP_NOTE) else f"Note: {note}")
    console.print()
    print_chart(console, cost_chart(report))
    if report.break_even:
        console.print()
        console.print("Up to how many fixups a page dropping it takes less time than swapping it")
        console.print()
        _print_tables(console, _break_even_tables(report, console.width))
        for line in _explanations(report):
            console.print(line)
    console.print()
    _print_baselines(console, report)
    if report.fleet:
        _print_fleet(console, report.fleet)
    console.print(answer(report))


def _print_tables(console: Console, tables: Iterable[Table]) -> None:
    for index, table in enumerate(tables):
        if index:
            console.print()
        console.print(table)


def _reasons(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """What was left out, by the reason why."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def _measurements_table(report: CostReport, width: int) -> Table:
    costs = report.costs
    first = f"ns, medians over {counted(costs.rounds, 'round')}"
    titles = ["median", "least", "most", "for each"]
    kept = range(4) if width >= _ROOM_FOR_ALL else (0, 3)  # Numbers are never cut.
    table = _plain_table(first, *(titles[at] for at in kept))
    table.columns[0].min_width = _LEAST_LABEL
    for one in costs.measurements:
        cells = [*(decimal(value) for value in _three(one.spread)), one.per]
        table.add_row(one.title, *(cells[at] for at in kept))
    return table


def _plain_table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        texts = (line for cell in (self.title, *self.cells) for line in cell.splitlines())
        return max(map(len, texts), default=0)


def _tables(width: int, labels: Sequence[_Column], numbers: Sequence[_Column]) -> Iterator[Table]:
    """A table, or if it were too wide for the terminal, several with the same labels."""
    room = width - sum(one.width + _BETWEEN for one in labels)
    left = list(numbers)
    while left:
        taken, used = [left.pop(0)], 0
        used = taken[0].width
        while left and used + _BETWEEN + left[0].width <= room:
            used += _BETWEEN + left[0].width
            taken.append(left.pop(0))
        table = _plain_table(labels[0].title, *(one.title for one in (*labels[1:], *taken)))
        table.columns[0].no_wrap = used <= room
        for column in table.columns[1 : len(labels)]:
            column.justify = "left"
            column.no_wrap = used <= room
        for cells in zip(*(one.cells for one in (*labels, *taken)), strict=True):
            table.add_row(*cells)
        yield table


def _check_line(check: Check) -> str:
    tolerance = check.note.rpartition("; ")[2].removesuffix(".")
    agrees = tolerance if tolerance.startswith("agrees") else f"agrees ({tolerance})"
    result = agrees if check.agrees else f"DOES NOT AGREE: {check.note.removesuffix('.')}"
    return (
        f"Check: {check.what}: ours {decimal(check.ours)}, theirs {decimal(check.theirs)} "
        f"({check.ratio:.2f} x): {result}."
    )


def _break_even_tables(report: CostReport, width: int) -> Iterator[Table]:
    found = {(one.engine, one.fixup.title, one.swap): one for one in report.break_even}
    swaps = {one.swap: _without_latency(one.swap_title) for one in report.break_even}
    rows = list(dict.fromkeys((engine, fixup) for engine, fixup, _ in found))
    engines = [engine for engine, _ in rows]
    labels = [
        _Column(
            "engine",
            tuple(
                "" if former == engine else engine
                for former, engine in zip(["", *engines], engines, strict=False)
            ),
        ),
        _Column("fixups", tuple(fixup for _, fixup in rows)),
    ]

    def columns(between: str) -> list[_Column]:
        """If there is not the room, the brackets go below their number."""
        made = []
        for swap, title in swaps.items():
            limits = [_limit(found[engine, fixup, swap]) for engine, fixup in rows]
            if not _has_brackets(report):
                limits = [limit.partition(" ")[0] for limit in limits]
            cells = tuple(limit.replace(" ", between) for limit in limits)
            made.append(_Column(title.replace(", ", "," + between), cells))
        return made

    beside = columns(" ")
    needed = sum(one.width + _BETWEEN for one in (*labels, *beside)) - _BETWEEN
    return _tables(width, labels, beside if needed <= width else columns("\n"))


def _has_brackets(report: CostReport) -> bool:
    """Whether there is room for the least and the most."""
    return len(report.swaps) <= _MOST_SWAPS_WITH_BRACKETS


def _without_latency(title: str) -> str:
    """A device's name alone: the latency stands in the sentences."""
    return re.sub(r" at [\d,.e+-]+ µs", "", title)


def _limit(one: BreakEven) -> str:
    if one.pays == "never":
        return "none" + ("" if one.fixups.maximum <= 0 else f" (-{_bounded(one.fixups.maximum)})")
    least, most = _bounded(one.fixups.minimum), _bounded(one.fixups.maximum)
    median = _bounded(one.fixups.median)
    if least == most == median:
        return median
    return f"{median} ({least}-{most.removeprefix('>')}{'+' if most.startswith('>') else ''})"


def _bounded(fixups: float) -> str:
    if fixups > WORDS_A_PAGE:
        return f">{WORDS_A_PAGE}"
    return f"{max(0.0, fixups):,.0f}"


def _explanations(report: CostReport) -> Iterator[str]:
    pages = report.pages
    brackets = ""
    if _has_brackets(report):
        brackets = "In brackets the least and the most that the figures of any rounds allow. "
    share = (
        f", {pages.relative_share:.0%} of them relative" if pages.relative_share is not None else ""
    )
    yield (
        f">{WORDS_A_PAGE}: more than fit in a page. {brackets}Relative and symbolic fixups count "
        "as what ld.so takes for them, mixed ones as it takes in the mean for those of the pages "
        "below."
    )
    trips = {one.title: one.at(0)[0, 0] for one in (*report.swaps, *report.scratches)}
    yield (
        "A page's round trip without fixups: "
        f"{', '.join(f'{title} {microseconds(float(us))}' for title, us in trips.items())}."
    )
    yield (
        f"Pages: {pages.title}: {pages.total_pages:,} with fixups, {pages.median:.0f} on the one "
        f"in the middle, {pages.mean:.0f} in the mean, at most {pages.quantile(0.95):.0f} on 95 %"
        f"{share}."
    )
    cold = _cold(report)
    if cold:
        yield cold
    if report.device:
        ahead = read_ahead(report.costs)
        part = (
            f"; or {ahead.median:.0%} of it, which is what a page waited for with the kernel's "
            "read-ahead here"
            if ahead
            else ""
        )
        yield (
            f"{report.device.title}: assumed, not measured. The kernel's part is this machine's "
            "(the call that reclaims, to a swapfile, if that was measured; a page fault that gets "
            f"a page), and the latency comes once, for a page that is read alone{part}."
        )


def _cold(report: CostReport) -> str:
    """What dropping costs if the file has left memory as well."""
    order, disk, swap = (
        report.costs.measurement(name)
        for name in ("fault.disk.sequential", "fault.disk", "swap.file.in")
    )
    ways = [
        f"{microseconds(one.median / 1e3)} {how}"
        for one, how in ((order, "in order"), (disk, "at random"))
        if one
    ]
    if not ways:
        return ""
    beside = f" (swap-in from a file, in order: {microseconds(swap.median / 1e3)})" if swap else ""
    return (
        "The file's page is in the page cache here. Where it was dropped too, it is read again: "
        f"{', '.join(ways)}{beside}; the fixups come on top."
    )


def _print_baselines(console: Console, report: CostReport) -> None:
    from rich.padding import Padding

    console.print("What else there is, and when it beats us")
    for one in report.baselines:
        how = "" if one.measured else " (not measured here)"
        console.print(f"  {one.title}{how}", style="bold")
        console.print(Padding(one.sentence, (0, 0, 0, 4)))
        if one.source:
            console.print(Padding(f"Source: {one.source}", (0, 0, 0, 4)), style="dim")
    console.print()


def _print_fleet(console: Console, fleet: Fleet) -> None:
    processes = counted(fleet.processes, "process", "processes")
    hosts = f"each of {fleet.hosts:,} hosts" if fleet.hosts > 1 else "one host"
    console.print(f"{processes} on {hosts}")
    console.print()
    names = _Column("", tuple(_without_latency(plan.title) for plan in fleet.plans))
    columns = [
        _Column(title, tuple(map(said, fleet.plans))) for title, said in _FLEET_COLUMNS.items()
    ]
    _print_tables(console, _tables(console.width, [names], columns))
    console.print(
        f"{counted(fleet.pages, 'page')} with fixups ({fleet.population}), "
        f"{size(fleet.pages * PAGESIZE)}; the files' own pages: "
        f"{size(fleet.page_cache_bytes)} of page cache, shared. As much comes back from swap as "
        "went there. Assumed:"
    )
    for assumption in fleet.assumptions:
        console.print(f"- {assumption}")
    console.print()


def _seconds(spread: Spread) -> str:
    """A time, with half the range in per cent."""
    if not spread.median:
        return _NOT_MEASURED
    value = spread.median
    size, unit = next(
        ((size, unit) for size, unit in _TIME_UNITS if value >= 2 * size), _TIME_UNITS[-1]
    )
    value /= size
    text = f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"
    half = (spread.maximum - spread.minimum) / 2 / spread.median
    return f"{text} {unit} ±{half:.0%}"


_TIME_UNITS = (
    (365.25 * 86_400, "years"),
    (86_400, "days"),
    (3600, "h"),
    (1, "s"),
    (1e-3, "ms"),
    (1e-6, "µs"),
)
_FLEET_COLUMNS: dict[str, Callable[[Plan], str]] = {
    "to swap": lambda plan: size(plan.written_bytes),
    "memory": lambda plan: size(plan.private_bytes),
    "left after": lambda plan: size(plan.kept_bytes),
    "waiting": lambda plan: _seconds(plan.seconds),
    "processor": lambda plan: _seconds(plan.cpu_seconds),
}
