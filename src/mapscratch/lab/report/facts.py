# SPDX-License-Identifier: Apache-2.0
"""What a page says, worked out from the documents: by the cost model, and not a second time here.

A page's way out of memory and back, by swap or by dropping it, is a `RoundTrip` of the model, and
where dropping stops paying is its `BreakEven`. Comparisons alone give such lines, too, but coarser.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np

from mapscratch.lab.compare.document import ComparisonDocument
from mapscratch.lab.cost import model
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.costs import Line
from mapscratch.lab.cost.pages import Distribution
from mapscratch.lab.report.documents import Documents, Library, Survey, SurveyedProcess
from mapscratch.lab.report.words import duration, percent, ranged
from mapscratch.lab.rig.results import Spread
from mapscratch.text import swap_name, whole

_DROPS = {
    ("known value", None): ("known", "known values"),
    ("relative", None): ("relative", "relative"),
    ("mixed", "short"): ("mixed-short", "as ld.so does it, few libraries"),
    ("mixed", "long"): ("mixed-long", "as ld.so does it, many libraries"),
    ("symbolic", "short"): ("short", "short look-ups"),
    ("symbolic", "long"): ("long", "long look-ups"),
}
"""How fixups are made again, by their kind and scope: a key, and a name."""
_NAMES = {"nvme": "NVMe", "ssd": "SATA SSD", "disk": "hard disk"}
DEVICES = {_NAMES[name]: latency_us for name, latency_us in model.DEVICES.items()}
LATENCIES = sorted({10 ** (step / 10) for step in range(46)} | set(DEVICES.values()))
"""µs that a read takes of devices that can be chosen."""
_BIGGEST = 12
_IN_VERDICT = 3
"""Swaps that there is room for in 20 words."""
_MISSES = 0.1
"""A line that is so far from a point of its own, as a share of what was measured, misses it."""


# --- a page's ways ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How a page leaves memory and comes back as it was."""

    key: str  # a class of the style sheet
    name: str
    trip: model.RoundTrip
    points: tuple[tuple[float, Spread], ...] = ()  # what was measured: fixups, and µs

    @property
    def title(self) -> str:
        """The name with what is done."""
        return f"drop + {self.name}" if self.trip.fixup else f"swap: {self.name}"

    @property
    def page_us(self) -> float:
        """µs for a page without fixups: the one figure that is said of it everywhere."""
        return self.trip.bare_us

    @property
    def fixup_ns(self) -> float:
        """What each fixup adds, in ns."""
        return float(np.median(self.trip.fixup_ns[0]))

    def at(self, fixups: float) -> float:
        """µs with so many fixups on the page."""
        return self.trip.spread_at(fixups).median

    @property
    def misfit(self) -> tuple[float, float, float] | None:
        """Where the line is farthest from what was measured: fixups, µs by the line, and measured.

        None where it is near all of its points.
        """
        off = [(k, self.at(k), spread.median) for k, spread in self.points if spread.median > 0]
        worst = max(off, key=lambda one: abs(one[1] / one[2] - 1), default=None)
        return worst if worst and abs(worst[1] / worst[2] - 1) > _MISSES else None


@dataclass(frozen=True, slots=True)
class Ways:
    """All ways that are known."""

    swaps: list[Way]  # the cheapest first
    scratch: list[Way]  # one for each kind of fixup, by the engine that is preferred
    others: list[Way]  # by other engines
    pages: Distribution | None  # whose fixups these are, if that is known
    report: CostReport | None  # without one, comparisons are all that there is

    @property
    def mixed(self) -> list[Way]:
        """Fixups as ld.so makes those of the pages here, the cheapest first."""
        return [one for one in self.scratch if one.trip.kind == "mixed"]

    @property
    def drawn(self) -> list[Way]:
        """Of `scratch`: fixups as they are mixed here, if that is known, and not look-ups alone."""
        return [one for one in self.scratch if one.trip.kind != "symbolic" or not self.mixed]

    def from_the_top(self, ways: Sequence[Way]) -> list[Way]:
        """As their lines end at the right: names, letters and tables have the order of the eye."""
        return sorted(ways, key=lambda one: -one.at(model.WORDS_A_PAGE))

    @property
    def kernel_us(self) -> float:
        """Of a page's way through a device what is the kernel's work; 0 if it is not known."""
        return float(model.kernel_part_us(self.report.costs)[0]) if self.report else 0.0

    def device(self, latency_us: float, name: str = "another device") -> Way:
        """Swap to a device that isn't here."""
        trip = _constant(model.DEVICE, latency_us)
        if self.report:
            trip = model.device_lines(self.report.costs, model.Device(name, latency_us))[0]
        return Way("device", name, trip)

    def pays(self, way: Way, swap: Way) -> Pays:
        """Up to how many fixups a page dropping takes less time than a swap."""
        pages = None if way.trip.kind == "symbolic" else self.pages  # No page has these alone.
        return Pays(model.break_even(swap.trip, way.trip), pages)

    def limits(self, way: Way) -> list[str]:
        """The same in words, for each swap."""
        return [self.pays(way, swap).limit for swap in self.swaps]


@dataclass(frozen=True, slots=True)
class Pays:
    """A break-even in words."""

    found: model.BreakEven
    pages: Distribution | None

    @property
    def limit(self) -> str:
        """Up to how many fixups."""
        if self.found.pays == "up to":
            return whole(self.found.fixups.median)
        return "never" if self.found.pays == "never" else "any number"

    @property
    def share(self) -> float:
        """Of the pages, how many have fewer; 0 where that isn't known."""
        return self.pages.share_below(self.found.fixups.median) if self.pages else 0.0

    @property
    def note(self) -> str:
        """The share of the pages, where it isn't all or none of them."""
        some = self.found.pays == "up to" and self.pages
        return f"{percent(self.share)} of pages" if some else ""

    @property
    def bounds(self) -> str:
        """The least and the most that the figures of any rounds allow; empty where it's one."""
        ends = (max(self.found.fixups.minimum, 0.0), max(self.found.fixups.maximum, 0.0))
        low, high = (whole(end) if end <= model.WORDS_A_PAGE else "any" for end in ends)
        return f"({ranged(low, high)})" if low != high else ""


def ways_of(documents: Documents) -> Ways | None:
    """The ways from a cost document, or else from the comparisons; None if neither has any."""
    report = documents.cost.report if documents.cost else None
    if report and (report.swaps or report.scratches):
        found = [_way(report, trip) for trip in (*report.swaps, *report.scratches)]
        pages: Distribution | None = report.pages
    else:
        found, pages, report = list(_of_compares(documents)), documents.pages, None
    swaps = sorted((one for one in found if not one.trip.fixup), key=lambda one: one.page_us)
    drops = [one for one in found if one.trip.fixup]
    scratch = [one for one in drops if one.trip.what == drops[0].trip.what]
    ways = Ways(swaps, scratch, [one for one in drops if one not in scratch], pages, report)
    return ways if found else None


def _way(report: CostReport, trip: model.RoundTrip) -> Way:
    line, fixup = report.costs.line(trip.what), trip.fixup
    key, name = trip.what.removeprefix("swap."), swap_name(trip.what)
    if fixup:
        key, name = _DROPS[fixup.fixup, fixup.scope]
    layout = report.pages.layout or model.ALONE
    measured = line if key == "known" or not fixup else None
    return Way(key, name, trip, tuple(moved_points(measured, layout)) if measured else ())


def moved_points(line: Line, layout: model.Layout) -> Iterator[tuple[float, Spread]]:
    """What was measured on pages that lie close, moved to how they lie in the libraries."""
    closest = min(line.layouts, default=None)
    for (fixups, *values), (clean_pages, mappings) in zip(line.points, line.layouts, strict=True):
        if (clean_pages, mappings) != closest:
            continue  # It was measured for what its neighbours cost, and says little by itself.
        moved = (layout.clean_pages - clean_pages) * line.fitted("clean_page_us").median
        moved += (layout.mappings - mappings) * line.fitted("mapping_us").median
        yield fixups, Spread(*(max(value + moved, 0.001) for value in values))


def _of_compares(documents: Documents) -> Iterator[Way]:
    """A comparison knows one number of fixups a page, and what one of them costs."""
    dropped = False
    for one in documents.compares:
        verdict, key = one.verdict, swapped_to(one)
        fixups, ns, us = verdict.fixups_per_page, verdict.fixup_ns, verdict.scratch_us
        if verdict.swap_us is not None and key:
            points = ((fixups, _exactly(verdict.swap_us)),) if fixups else ()
            yield Way(key, swap_name(key), _constant(f"swap.{key}", verdict.swap_us), points)
        if us is not None and fixups and ns is not None and verdict.scratch and not dropped:
            dropped = True
            fixup = model.FixupCost("known value", None, _exactly(ns))
            trip = _constant(verdict.scratch, max(us - ns * fixups / 1e3, 0.01), ns, fixup)
            yield Way(*_DROPS["known value", None], trip, ((fixups, _exactly(us)),))


def _constant(
    what: str, us: float, ns: float = 0.0, fixup: model.FixupCost | None = None
) -> model.RoundTrip:
    return model.RoundTrip(what, what, fixup, np.full((3, 1), us), np.full((3, 1), ns))


def _exactly(value: float) -> Spread:
    return Spread(value, value, value)


# --- the verdict --------------------------------------------------------------------------------


def verdict(documents: Documents, ways: Ways | None) -> str:
    """The answer to the page's question, in at most 20 words."""
    if any(one.wrong_words for one in documents.compares):
        return "Words were wrong after a page came back: no other figure here counts."
    if ways and ways.scratch:
        dropped = duration(ways.scratch[0].page_us)
        alone = f"Dropping a page and reading it again takes {dropped}; no swap was measured."
        return _weighed(ways, dropped) if ways.swaps else alone
    if documents.pages:
        return (
            f"Half of the pages that relocation dirties have up to {whole(documents.pages.median)} "
            "fixups; their cost was not measured."
        )
    if documents.all:
        return "What a fixup costs was not measured for this page."
    return "Nothing could be measured here; below is why, and what to do."


def _weighed(ways: Ways, dropped: str) -> str:
    """On how many pages dropping takes less time; from many libraries to few, if that is known."""
    kinds = ways.mixed or ways.scratch[:1]
    swaps = ways.swaps[:_IN_VERDICT]
    if not ways.pages:
        limits = (f"{one.name} {ways.pays(kinds[0], one).limit}" for one in swaps)
        return f"Dropping pages beats swapping up to so many known fixups: {', '.join(limits)}."
    if all(ways.pays(way, swap).found.pays == "never" for way in kinds for swap in ways.swaps):
        times = (f"{one.name} {duration(one.page_us)}" for one in swaps)
        return f"Dropping a page never beats swapping it: {', '.join(times)}, dropping {dropped}."
    parts: list[str] = []
    for swap in swaps:
        shares = sorted(round(100 * ways.pays(way, swap).share) for way in kinds)
        span = f"{ranged(str(shares[0]), str(shares[-1]))}\N{NO-BREAK SPACE}%"
        parts.append(f"{span}{'' if parts else ' of pages'} ({swap.name})")
    return f"Making fixups again beats swapping on {', '.join(parts)}."


# --- fixups a page, and what most of them are in ------------------------------------------------


def classes(pages: Distribution) -> list[tuple[int, int, int]]:
    """How many pages have fixups from a number to another, which is less than twice as large."""
    most = max(int(pages.fixups[-1]), 1)
    lows = [2**power for power in range(most.bit_length())]
    parts = np.split(pages.pages, np.searchsorted(pages.fixups, [*lows, most + 1]))[1:-1]
    ends = (min(2 * low - 1, most) for low in lows)
    return [(low, end, int(part.sum())) for low, end, part in zip(lows, ends, parts, strict=True)]


Holder = TypeVar("Holder", Library, SurveyedProcess)


def biggest(holders: Sequence[Holder]) -> list[Holder]:
    """Those in which relocation dirties most pages."""
    dirtied = [one for one in holders if one.dirtied_pages]
    return heapq.nlargest(_BIGGEST, dirtied, key=lambda one: one.dirtied_pages)


def told_apart(paths: Sequence[str]) -> list[str]:
    """The ends of paths, no longer than it takes for each to be another."""
    parts = [PurePosixPath(path).parts for path in paths]
    lengths = [1] * len(parts)
    while True:
        ends = [own[-length:] for own, length in zip(parts, lengths, strict=True)]
        times = Counter(ends)
        longer = [at for at, end in enumerate(ends) if times[end] > 1 and end != parts[at]]
        if not longer:
            return ["/".join(end).replace("//", "/") for end in ends]
        for at in longer:
            lengths[at] += 1


def kinds_of_fixups(survey: Survey) -> list[tuple[str, int]]:
    """Kinds of relocation and how many there are, the most first."""
    kinds = sum((Counter(one.kinds) for one in survey.libraries), Counter[str]())
    return kinds.most_common()


# --- swap against the number of processes -------------------------------------------------------


def swapped_to(compare: ComparisonDocument) -> str:
    """``file``, ``partition``, ``zram`` or ``zswap``; empty for nowhere."""
    kind = compare.swap.kind
    if compare.swap.zswap and kind in ("file", "partition"):
        return "zswap"
    return "" if kind == "none" else kind


@dataclass(frozen=True, slots=True)
class Sweep:
    """One strategy of a comparison over numbers of processes."""

    swap: str  # empty for nowhere
    strategy: str
    swapped: tuple[tuple[int, float], ...]  # pages to swap by processes, if the kernel was asked
    round_trip_us: Spread | None  # with the most processes, and so:
    given_back: Spread | None

    def told(self, counts: Sequence[int]) -> list[str]:
        """Pages sent to swap by so many processes, in words."""
        swapped, missing = dict(self.swapped), "not known" if self.swapped else "not asked"
        return [whole(swapped[n]) if n in swapped else missing for n in counts]


def sweeps_of(compare: ComparisonDocument) -> Iterator[Sweep]:
    """What a comparison shows, by strategy."""
    results = sorted(compare.results, key=lambda one: one.processes)
    for name in dict.fromkeys(one.strategy for one in compare.results):
        own = [one for one in results if one.strategy == name]
        swapped = ((one.processes, one.figures.get("swapped_out_pages")) for one in own)
        last = own[-1].figures if own[-1].processes == results[-1].processes else {}
        yield Sweep(
            swapped_to(compare),
            name,
            tuple((n, pages.median) for n, pages in swapped if pages),
            last.get("round_trip_us"),
            last.get("given_back_per_mib"),
        )


def pages_a_process(compare: ComparisonDocument) -> float | None:
    """How many pages each process fixes up; None if it isn't known."""
    known = ((one.figures.get("pages"), one.processes) for one in compare.results)
    return next((pages.median / n for pages, n in known if pages and n), None)
