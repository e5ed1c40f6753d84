# SPDX-License-Identifier: Apache-2.0
"""What fixups cost: the document of ``mapscratch cost --json``, and the same in the terminal.

`CostReport` is everything that is said of one measurement: the figures themselves, the model's
lines and break-even, the other ways, and a fleet. `docs/cost.md` explains it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any

import numpy as np

from mapscratch import __version__
from mapscratch.errors import UserError
from mapscratch.experiment.baselines import Alternatives, Baseline, baselines
from mapscratch.experiment.cost_model import (
    ALONE,
    ENGINES,
    WORDS_A_PAGE,
    BreakEven,
    Device,
    Distribution,
    FixupCost,
    Layout,
    RoundTrip,
    break_evens,
    read_ahead,
    scratch_lines,
    swap_lines,
)
from mapscratch.experiment.costs import Check, Costs, Fit, Line, Measurement, Point
from mapscratch.experiment.fleet import Fleet
from mapscratch.experiment.results import Spread
from mapscratch.reporting.charts import ASCII, UNICODE, Chart, Series, style_of, text_chart
from mapscratch.reporting.documents import Document, machine_document
from mapscratch.reporting.verdict import microseconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NAME = "mapscratch.cost"
VERSION = 1

_CHART_POINTS = tuple(range(0, WORDS_A_PAGE + 1, 128))
_MOST_SWAPS_WITH_BRACKETS = 3
_CHART_ROWS = 14
_ROOM_ABOVE_SWAP = 1.5
"""The chart is so many times as high as the dearest swap; steeper lines leave it."""
_FAR = 10.0
"""A swap so many times as dear as the cheapest is not drawn."""
_NOT_MEASURED = "n/a"


class CostDocumentError(UserError, ValueError):
    """This is no document of ``mapscratch cost --json``; the message says what it is."""


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
    engine = report.engine
    swaps = _list(f"{one.title} ({microseconds(float(one.at(0)[0, 0]))})" for one in report.swaps)
    return (
        f"{first} {_whole_page(report)} Against {swaps}, dropping a page with {engine} and making "
        f"its fixups again takes less time with {_limits(report, weighed)}."
    )


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
            parts.append(f"as ld.so does it {_list(dear)}")
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
        parts.append(f"a relative one costs ld.so {_ns(relative.median)}")
    if short or long:
        low, high = short or long, long or short
        assert low and high
        same = low is high
        cost = _ns(low.median) if same else f"{_ns(low.median)} to {_ns(high.median)}"
        parts.append(f"one that looks a symbol up {cost}")
    if known and known.fixup:
        parts.append(f"storing a value that is known {_ns(known.fixup.ns.median)}")
    text = _list(parts)
    return text[:1].upper() + text[1:]


def _limits(report: CostReport, weighed: Iterable[BreakEven]) -> str:
    """Up to how many fixups of each kind, one number for each swap."""
    weighed = list(weighed)
    if any(one.fixup.fixup == "mixed" for one in weighed):  # No page has symbolic ones alone.
        weighed = [one for one in weighed if one.fixup.fixup != "symbolic"]
    by_kind: dict[FixupCost, list[BreakEven]] = {}
    for one in weighed:
        by_kind.setdefault(one.fixup, []).append(one)
    kinds: dict[str, list[FixupCost]] = {}
    for fixup, limits in by_kind.items():
        kinds.setdefault(_limits_of_kind(report, limits), []).append(fixup)
    return _list(f"{_ones(fixups)} {limit}" for limit, fixups in kinds.items())


def _ones(fixups: Iterable[FixupCost]) -> str:
    names = {"known value": "known", "relative": "relative", "mixed": "ones mixed as here"}
    names["symbolic"] = "symbolic ones alone"
    parts = [names[one.fixup] + (f" in a {one.scope} scope" if one.scope else "") for one in fixups]
    plain = [part for part in parts if " " not in part]
    return _list([*([f"{_list(plain)} ones"] if plain else []), *(p for p in parts if " " in p)])


def _limits_of_kind(report: CostReport, limits: list[BreakEven]) -> str:
    ways = {one.pays for one in limits}
    if ways == {"always"}:
        return "however many fit in a page"
    if ways == {"never"}:
        return "never, however few"
    found = f"up to {_list(map(_number, limits))} a page"
    if limits[0].fixup.fixup == "symbolic":
        return found  # How many pages have only such ones isn't known.
    shares = [
        1.0 if one.pays == "always" else report.pages.share_below(one.fixups.median)
        for one in limits
    ]
    return f"{found} ({_list(f'{share:.0%}' for share in shares)} of pages have no more)"


def _number(one: BreakEven) -> str:
    """With two digits: the rounds don't agree on more."""
    if one.pays == "up to":
        number = max(1.0, one.fixups.median)
        return f"{round(number, 1 - int(math.log10(number))):,.0f}"
    return f"{WORDS_A_PAGE}" if one.pays == "always" else "none"


def _list(parts: Iterable[str]) -> str:
    items = list(parts)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _ns(value: float) -> str:
    return f"{value:,.0f} ns" if value >= 20 else f"{value:.1f} ns"


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
            leaves_at -= top / _CHART_ROWS  # So that names stand below each other.
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
        machine: where (`machine_document`); None for here.
    """
    costs = report.costs
    return {
        "document": NAME,
        "version": VERSION,
        "mapscratch": __version__,
        "created": created.isoformat(timespec="seconds"),
        "machine": machine or machine_document(),
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
        CostDocumentError: it is none.
    """
    checked = _checked(document)
    with _reading():
        return Costs(
            measurements=tuple(_read_measurement(one) for one in checked["measurements"]),
            lines=tuple(_read_line(one) for one in checked["lines"]),
            checks=tuple(Check(**one) for one in checked["checks"]),
            left_out={str(name): str(why) for name, why in checked["left_out"].items()},
            notes=tuple(map(str, checked["notes"])),
            rounds=int(checked["rounds"]),
            seconds=float(checked["seconds"]),
        )


def pages_from_document(document: object) -> Distribution:
    """Whose pages were reckoned with, out of `cost_document`'s document.

    Raises:
        CostDocumentError: it is none.
    """
    checked = _checked(document)
    with _reading():
        pages = checked["pages"]
        found = Distribution(
            title=str(pages["title"]),
            fixups=np.array(pages["fixups"], dtype=np.float64),
            pages=np.array(pages["pages"], dtype=np.int64),
            relative_share=_number_or_none(pages["relative_share"]),
            layout=Layout(**pages["layout"]) if pages["layout"] else None,
        )
        if not found.total_pages or found.fixups.shape != found.pages.shape:
            raise ValueError("no pages")
        return found


def alternatives_from_document(document: object) -> Alternatives | None:
    """What small experiments showed, out of `cost_document`'s document; None if none was made.

    Raises:
        CostDocumentError: it is none.
    """
    checked = _checked(document)
    with _reading():
        found = checked["alternatives"]
        return Alternatives(**found) if found else None


def created_from_document(document: object) -> datetime:
    """When the figures were measured.

    Raises:
        CostDocumentError: it is no document of `cost_document`.
    """
    checked = _checked(document)
    with _reading():
        return datetime.fromisoformat(checked["created"])


def _checked(document: object) -> Mapping[str, Any]:
    if not isinstance(document, dict) or document.get("document") != NAME:
        what = document.get("document") if isinstance(document, dict) else None
        raise CostDocumentError(
            f"this is {what or 'no document of mapscratch'}, and {NAME} is wanted: make one with "
            "`mapscratch cost --json FILE`"
        )
    if not isinstance(document.get("machine"), dict):
        raise CostDocumentError(f"this document of {NAME} is damaged (machine): measure again")
    if document.get("version") != VERSION:
        raise CostDocumentError(
            f"this document has version {document.get('version')}, and {VERSION} is understood: "
            "measure again"
        )
    return document


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever is missing, or of another type, makes the document a damaged one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CostDocumentError(
            f"this document of {NAME} is damaged ({type(error).__name__}: {error}): measure again"
        ) from None


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _read_spread(one: Mapping[str, Any]) -> Spread:
    return Spread(float(one["median"]), float(one["minimum"]), float(one["maximum"]))


def _read_measurement(one: Mapping[str, Any]) -> Measurement:
    return Measurement(
        name=str(one["name"]),
        title=str(one["title"]),
        per=one["per"],
        spread=_read_spread(one),
        rounds=int(one["rounds"]),
        note=str(one["note"]),
    )


def _read_line(one: Mapping[str, Any]) -> Line:
    fits = tuple(Fit(**fit) for fit in one["fits"])
    if not fits:
        raise ValueError("a line without a fit")
    return Line(
        what=str(one["what"]),
        fixups=str(one["fixups"]),
        fits=fits,
        points=tuple(
            Point(fixups, clean, mappings, Spread(median, least, most))
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
        console.print(_measurements_table(report))
    for reason, names in _reasons(costs.left_out).items():
        console.print(f"Left out: {', '.join(names)}; {reason}", style="dim")
    for check in costs.checks:
        console.print(_check_line(check))
    for note in costs.notes:
        console.print(f"Note: {note}")
    console.print()
    _print_chart(console, report)
    if report.break_even:
        console.print()
        console.print("Up to how many fixups a page dropping it takes less time than swapping it")
        console.print()
        console.print(_break_even_table(report))
        for line in _explanations(report):
            console.print(line)
    console.print()
    _print_baselines(console, report)
    if report.fleet:
        _print_fleet(console, report.fleet)
    console.print(answer(report))


def _reasons(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """What was left out, by the reason why."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def _measurements_table(report: CostReport) -> Table:
    costs = report.costs
    rounds = f"{costs.rounds} round{'s' if costs.rounds != 1 else ''}"
    table = _plain_table(f"ns, medians over {rounds}", "median", "least", "most", "for each")
    for one in costs.measurements:
        spread = one.spread
        numbers = [_decimal(value) for value in _three(spread)]
        table.add_row(one.title, *numbers, one.per)
    return table


def _plain_table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _decimal(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _check_line(check: Check) -> str:
    result = "agrees" if check.agrees else "DOES NOT AGREE"
    return (
        f"Check: {check.what}: ours {_decimal(check.ours)}, theirs {_decimal(check.theirs)} "
        f"({check.ratio:.2f} x): {result}{'' if check.agrees else f': {check.note}'}."
    )


def _print_chart(console: Console, report: CostReport) -> None:
    from rich.text import Text

    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    rows = text_chart(
        cost_chart(report),
        width=min(console.width, 100),
        height=_CHART_ROWS,
        glyphs=UNICODE if unicode else ASCII,
    )
    for row in rows:
        text = Text()
        for piece, name in row:
            text.append(piece, style=style_of(name))
        text.rstrip()
        console.print(text)


def _break_even_table(report: CostReport) -> Table:
    found = {(one.engine, one.fixup.title, one.swap): one for one in report.break_even}
    swaps = {one.swap: _without_latency(one.swap_title) for one in report.break_even}
    table = _plain_table("engine", "fixups", *swaps.values())
    table.columns[1].justify = "left"
    # If there is not the room, the brackets go below their number.
    for column in table.columns[2:]:
        column.no_wrap = False
    former = ""
    for engine, fixup in dict.fromkeys((engine, fixup) for engine, fixup, _ in found):
        limits = [_limit(found[engine, fixup, swap]) for swap in swaps]
        if not _has_brackets(report):
            limits = [limit.partition(" ")[0] for limit in limits]
        table.add_row("" if engine == former else engine, fixup, *limits)
        former = engine
    return table


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
    disk = report.costs.measurement("fault.disk")
    cached = report.costs.measurement("fault.page_cache")
    if not disk or not cached:
        return ""
    more = (disk.median - cached.median) / 1e3
    return (
        "The file's page is in the page cache here. Where it was dropped too, it is read again, "
        f"for {microseconds(max(more, 0.0))} more: about what a page from a swapfile on the same "
        "device takes, and the fixups come on top."
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
    console.print(f"{fleet.processes:,} processes on each of {fleet.hosts:,} hosts")
    console.print()
    table = _plain_table("", "to swap", "memory", "left after", "waiting", "processor")
    for plan in fleet.plans:
        table.add_row(
            plan.title,
            _bytes(plan.written_bytes),
            _bytes(plan.private_bytes),
            _bytes(plan.kept_bytes),
            _seconds(plan.seconds),
            _seconds(plan.cpu_seconds),
        )
    console.print(table)
    console.print(
        f"{fleet.pages:,} pages with fixups ({fleet.population}), "
        f"{_bytes(fleet.pages * PAGESIZE)}; the files' own pages: "
        f"{_bytes(fleet.page_cache_bytes)} of page cache, shared. As much comes back from swap as "
        "went there. Assumed:"
    )
    for assumption in fleet.assumptions:
        console.print(f"- {assumption}")
    console.print()


def _bytes(amount: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return (
                f"{amount:,.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
            )
        amount /= 1024
    return f"{amount:,.1f} PiB"


def _seconds(spread: Spread) -> str:
    """A time, with half the range in per cent."""
    value, unit = spread.median, "s"
    if value >= 7200:
        value, unit = value / 3600, "h"
    text = f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"
    if not spread.median:
        return _NOT_MEASURED
    half = (spread.maximum - spread.minimum) / 2 / spread.median
    return f"{text} ±{half:.0%}"
