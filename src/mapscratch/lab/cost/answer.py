# SPDX-License-Identifier: Apache-2.0
"""What is said of one measurement: the model's lines and break-even, and the answer in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.baselines import Baseline, baselines
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.fleet import Fleet
from mapscratch.lab.cost.model import (
    ALONE,
    DEVICE,
    DEVICE_AHEAD,
    BreakEven,
    Device,
    FixupCost,
    Pays,
    RoundTrip,
    break_even,
    scratch_lines,
    swap_lines,
)
from mapscratch.lab.cost.pages import Distribution
from mapscratch.lab.rig.results import ENGINES
from mapscratch.text import listed, microseconds, nanoseconds


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
        engine: that would be taken here; empty if none was measured.
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
    engine: str


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
    engine = next((name for name in ENGINES if costs.line(name)), "")
    weighed = tuple(break_even(swap, scratch) for swap in swaps for scratch in scratches)
    return CostReport(
        costs=costs,
        pages=pages,
        device=device,
        alternatives=alternatives,
        fleet=fleet,
        swaps=swaps,
        scratches=scratches,
        break_even=weighed,
        engine=engine,
        baselines=baselines(
            costs,
            alternatives,
            [one for one in weighed if one.engine == engine and one.fixup.fixup != "mixed"],
        ),
    )


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
    name = without_latency(swap.title).replace(", read-ahead", " with read-ahead")
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


def without_latency(title: str) -> str:
    """A device's name alone: the latency stands in the sentences."""
    return re.sub(r" at [\d,.e+-]+ µs", "", title)
