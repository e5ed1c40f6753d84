# SPDX-License-Identifier: Apache-2.0
"""What is said of one measurement: the model's lines and break-even, and the answer in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mapscratch.lab.cost import model
from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.baselines import Baseline, baselines
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.fleet import Fleet
from mapscratch.lab.cost.model import BreakEven, Device, FixupCost, RoundTrip, break_even
from mapscratch.lab.cost.pages import Distribution
from mapscratch.text import listed, microseconds, nanoseconds

_PRICES = {
    "relative": "a relative one costs ld.so {}",
    "symbolic": "one that looks a symbol up {}",
    "known value": "storing a value that is known {}",
}


@dataclass(slots=True, eq=False)
class CostReport:
    """Everything that is said of one measurement."""

    costs: Costs
    pages: Distribution  # with which it is reckoned
    device: Device | None = None  # another one to swap to
    alternatives: Alternatives | None = None  # small experiments with other ways
    fleet: Fleet | None = None
    swaps: list[RoundTrip] = field(init=False)
    scratches: list[RoundTrip] = field(init=False)
    break_even: list[BreakEven] = field(init=False)
    baselines: list[Baseline] = field(init=False)

    def __post_init__(self) -> None:
        costs, layout = self.costs, self.pages.layout or model.ALONE
        self.swaps = model.swap_lines(costs, self.device, layout)
        self.scratches = model.scratch_lines(costs, layout, self.pages.relative_share)
        self.break_even = [break_even(one, other) for one in self.swaps for other in self.scratches]
        self.baselines = baselines(costs, self.alternatives, self.swaps, self.scratches)

    @property
    def told(self) -> list[RoundTrip]:
        """Of the engine that would be taken here: by known values, relative ones, and others.

        Those are as they are mixed, if that is known: then no page has symbolic ones alone.
        """
        own = [one for one in self.scratches if one.what == self.scratches[0].what]
        mixed = any(one.kind == "mixed" for one in own)
        return [one for one in own if not mixed or one.kind != "symbolic"]


def answer(report: CostReport) -> str:
    """How expensive the fixups are, in words."""
    prices = _prices(report)
    if not prices:
        return "Neither ld.so's fixups nor ours were measured, so there is no answer."
    first = f"How expensive are the fixups? {prices[0].upper()}{prices[1:]}."
    if not report.break_even:
        why = "Swap" if report.scratches else "A scratch engine"
        return f"{first} {why} was not measured, so there is nothing to weigh."
    return " ".join([first, _whole_page(report), *_against_swaps(report)])


def _prices(report: CostReport) -> str:
    known = [one.fixup for one in report.told[:1] if one.fixup]
    prices: dict[str, list[str]] = {}
    for one in known + model.measured_fixups(report.costs):
        prices.setdefault(one.fixup, []).append(nanoseconds(one.ns.median))
    found = [(text, prices[kind]) for kind, text in _PRICES.items() if kind in prices]
    return listed(text.format(" to ".join(scopes)) for text, scopes in found)


def _whole_page(report: CostReport) -> str:
    """What all fixups of a page take, as many and of such kinds as pages have in the mean."""
    pages = report.pages
    known, *others = (one.fixup for one in report.told if one.fixup)

    def take(one: FixupCost) -> str:
        return microseconds(one.ns.median * pages.mean / 1e3)

    mixed = [f"{take(one)} in a {one.scope} scope" for one in others if one.fixup == "mixed"]
    as_loader = f", and as ld.so does it {listed(mixed)}" if mixed else ""
    return (
        f"A page of {pages.title} has {pages.mean:.0f} in the mean{relative_share(pages)}: all of "
        f"them again take {take(known)} from known values{as_loader}."
    )


def relative_share(pages: Distribution) -> str:
    """How many of the fixups are relative, in words that follow others; empty if not known."""
    share = pages.relative_share
    return "" if share is None else f", {share:.0%} of them relative"


def _against_swaps(report: CostReport) -> Iterator[str]:
    """With how many fixups dropping takes less time than which swaps; alike ones in a sentence."""
    swaps: dict[str, list[str]] = {}
    for swap in report.swaps:
        verdict = _verdict(report.pages, [break_even(swap, line) for line in report.told])
        swaps.setdefault(verdict, []).append(_with_time(swap))
    what = f"dropping a page with {report.told[0].what} and making its fixups again takes"
    for verdict, names in swaps.items():
        yield f"Against {listed(names)}, {what} {verdict}."
        what = "it takes"


def _with_time(swap: RoundTrip) -> str:
    """A swap's name, and what a page takes by it; of a device, that it is assumed."""
    name = without_latency(swap.title).replace(", read-ahead", " with read-ahead")
    assumed = "assumed, " if swap.what in (model.DEVICE, model.DEVICE_AHEAD) else ""
    return f"{name} ({assumed}{microseconds(swap.bare_us)})"


def _verdict(pages: Distribution, limits: Sequence[BreakEven]) -> str:
    """What dropping takes against one swap, with each kind of fixup."""
    pays = {one.pays for one in limits}
    if pays == {"never"}:
        dearer = all(one.scratch.bare_us >= one.swap.bare_us for one in limits)
        return "more time, even without fixups" if dearer else "no less time in most rounds"
    if pays == {"always"}:
        return "less time with any number of fixups"
    return f"less time with {listed(_limit(pages, one) for one in limits)}"


def _limit(pages: Distribution, limit: BreakEven) -> str:
    """Up to how many fixups of a kind, and how many pages have fewer of such a kind alone."""
    kind = limit.fixup.fixup.removesuffix(" value")
    where = f" in a {limit.fixup.scope} scope" if limit.fixup.scope else ""
    if limit.pays != "up to":
        return f"{'no' if limit.pays == 'never' else 'any number of'} {kind} ones{where}"
    # With two digits: the rounds don't agree on more.
    most = max(1.0, limit.fixups.median)
    number = f"{round(most, 1 - int(math.log10(most))):,.0f}"
    share = f" ({pages.share_below(limit.fixups.median):.0%} of pages)" * (kind != "symbolic")
    return f"up to {number} {kind} one{'s' * (number != '1')}{where}{share}"


def without_latency(title: str) -> str:
    """A device's name alone: the latency stands in the sentences."""
    return re.sub(r" at [\d,.e+-]+ µs", "", title)
