# SPDX-License-Identifier: Apache-2.0
"""What a page says, worked out from the documents: by the cost model, and not a second time here.

A page's way out of memory and back, by swap or by dropping it, is a `RoundTrip` of the model, and
where dropping stops paying is its `BreakEven`. Comparisons alone give such lines, too, but coarser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from msgspec.structs import replace

from mapscratch.lab.compare.document import ComparisonDocument, Result
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.costs import Line
from mapscratch.lab.cost.model import (
    ALONE,
    DEVICES,
    WORDS_A_PAGE,
    BreakEven,
    Device,
    FixupCost,
    Layout,
    ModelError,
    RoundTrip,
    break_even,
    device_lines,
    kernel_part_us,
)
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
from mapscratch.lab.report.documents import Documents, FixupsPerPage, Survey
from mapscratch.lab.report.words import TO, duration, percent
from mapscratch.lab.rig.results import Spread

SWAP_NAMES = {
    "file": "swapfile",
    "partition": "swap partition",
    "zram": "zram",
    "zswap": "zswap",
}
_FIXUP_NAMES = {
    "known": "known values",
    "relative": "relative",
    "mixed-short": "as ld.so does it, few libraries",
    "mixed-long": "as ld.so does it, many libraries",
    "short": "short look-ups",
    "long": "long look-ups",
}
_DEVICE_NAMES = {"nvme": "NVMe", "ssd": "SATA SSD", "disk": "hard disk"}
_BIGGEST = 12
_IN_VERDICT = 3
"""Swaps that there is room for in 20 words."""
_MISSES = 0.1
"""A line that is so far from a point of its own, as a share of what was measured, misses it."""


# --- a page's ways ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How a page leaves memory and comes back as it was.

    Attributes:
        key: of the swap, or of the kind of fixup; a class of the style sheet.
        name: in words.
        trip: what it costs, by the page's fixups.
        points: measured: fixups a page, and µs.
    """

    key: str
    name: str
    trip: RoundTrip
    points: tuple[tuple[float, Spread], ...] = ()

    @property
    def drops(self) -> bool:
        """The page is dropped, and not swapped."""
        return self.trip.fixup is not None

    @property
    def title(self) -> str:
        """The name with what is done."""
        return f"drop + {self.name}" if self.drops else f"swap: {self.name}"

    @property
    def page_us(self) -> float:
        """µs for a page without fixups: the one figure that is said of it everywhere."""
        return self.at(0)

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
    """All ways that are known.

    Attributes:
        swaps: the cheapest first.
        scratch: by the engine that is preferred, a way for each kind of fixup.
        others: by other engines.
        pages: whose fixups these are; None where that isn't known.
        report: what it was all measured for; None where comparisons are all that there is.
    """

    swaps: tuple[Way, ...]
    scratch: tuple[Way, ...]
    others: tuple[Way, ...]
    pages: Distribution | None
    report: CostReport | None = None

    @property
    def engine(self) -> str:
        """The preferred one; empty if none was measured."""
        return self.scratch[0].trip.what if self.scratch else ""

    @property
    def drawn(self) -> tuple[Way, ...]:
        """Of `scratch`: fixups as they are mixed here, if that is known, and not look-ups alone."""
        mixed = bool(self.mixed)
        return tuple(one for one in self.scratch if not mixed or one.key not in ("short", "long"))

    @property
    def mixed(self) -> tuple[Way, ...]:
        """Fixups as ld.so makes those of the pages here, the cheapest first."""
        return tuple(one for one in self.scratch if one.key.startswith("mixed"))

    @property
    def kernel_us(self) -> float:
        """Of a page's way through a device what is the kernel's work; 0 if it is not known."""
        return float(kernel_part_us(self.report.costs)[0]) if self.report else 0.0

    def device(self, name: str, latency_us: float) -> Way:
        """Swap to a device that isn't here."""
        if self.report:
            trip = device_lines(self.report.costs, Device("", latency_us))[0]
        else:
            trip = _constant("device", name, latency_us)
        return Way("device", name, trip)

    def devices(self) -> list[tuple[Way, float]]:
        """Those of the model, and how many µs a read takes."""
        return [
            (self.device(_DEVICE_NAMES[name], latency), latency)
            for name, latency in DEVICES.items()
        ]

    def pays(self, way: Way, swap: Way) -> Pays:
        """Up to how many fixups a page dropping takes less time than a swap."""
        shares = None if way.key in ("short", "long") else self.pages  # No page has these alone.
        return Pays(break_even(swap.trip, way.trip), shares)


@dataclass(frozen=True, slots=True)
class Pays:
    """A break-even in words."""

    found: BreakEven
    pages: Distribution | None

    @property
    def limit(self) -> str:
        """Up to how many fixups."""
        return self._bound(self.found.fixups.median)

    @property
    def share(self) -> float | None:
        """Of the pages, how many have fewer; None where that isn't known."""
        return self.pages.share_below(self.found.fixups.median) if self.pages else None

    @property
    def note(self) -> str:
        """The share of the pages, where it isn't all or none of them."""
        some = self.found.pays == "up to" and self.share is not None
        return f"{percent(self.share or 0.0)} of pages" if some else ""

    @property
    def bounds(self) -> str:
        """The least and the most that the figures of any rounds allow; empty where it's one."""
        low, high = (
            self._bound(max(value, 0.0), never="0", always="any")
            for value in (self.found.fixups.minimum, self.found.fixups.maximum)
        )
        return f"({low}{TO}{high})" if low != high else ""

    @staticmethod
    def _bound(fixups: float, never: str = "never", always: str = "any number") -> str:
        if fixups <= 0:
            return never
        return always if fixups > WORDS_A_PAGE else f"{fixups:,.0f}"


def ways_of(documents: Documents) -> Ways | None:
    """The ways from a cost document, or else from the comparisons; None if neither has any."""
    report = documents.cost.report if documents.cost else None
    if report and (report.swaps or report.scratches):
        found = [_way(report, trip) for trip in (*report.swaps, *report.scratches)]
        return _sorted(found, report.pages, report)
    return _of_compares(documents)


def _way(report: CostReport, trip: RoundTrip) -> Way:
    line = report.costs.line(trip.what)
    layout = report.pages.layout or ALONE
    key = _key(trip)
    measured = line and key not in ("relative", "mixed-short", "mixed-long", "short", "long")
    points = tuple(_points(line, layout)) if line and measured else ()
    return Way(key, _FIXUP_NAMES.get(key) or SWAP_NAMES.get(key, key), trip, points)


def _key(trip: RoundTrip) -> str:
    if trip.fixup is None:
        return trip.what.removeprefix("swap.")
    kind, scope = trip.fixup.fixup, trip.fixup.scope or ""
    return {"symbolic": scope, "mixed": f"mixed-{scope}"}.get(kind, kind.removesuffix(" value"))


def _points(line: Line, layout: Layout) -> Iterator[tuple[float, Spread]]:
    """What was measured on pages that lie close, moved to how they lie in the libraries."""
    closest = min(((one.clean_pages, one.mappings) for one in line.points), default=None)
    for point in line.points:
        if (point.clean_pages, point.mappings) != closest:
            continue  # It was measured for what its neighbours cost, and says little by itself.
        moved = (layout.clean_pages - point.clean_pages) * line.fitted("clean_page_us").median
        moved += (layout.mappings - point.mappings) * line.fitted("mapping_us").median
        spread = point.round_trip_us
        values = (spread.median, spread.minimum, spread.maximum)
        yield point.fixups, Spread(*(max(value + moved, 0.001) for value in values))


def _of_compares(documents: Documents) -> Ways | None:
    """A comparison knows one number of fixups a page, and what one of them costs."""
    found = []
    for one in documents.compares:
        verdict, key = one.verdict, swapped_to(one)
        fixups, ns, us = verdict.fixups_per_page, verdict.fixup_ns, verdict.scratch_us
        if verdict.swap_us is not None and key:
            trip = _constant(f"swap.{key}", SWAP_NAMES[key], verdict.swap_us)
            points = ((fixups, _exactly(verdict.swap_us)),) if fixups else ()
            found.append(Way(key, SWAP_NAMES[key], trip, points))
        dropped = any(way.drops for way in found)
        if us is not None and fixups and ns is not None and verdict.scratch and not dropped:
            fixup = FixupCost("known value", None, _exactly(ns))
            page_us = np.full((3, 1), max(us - ns * fixups / 1e3, 0.01))
            trip = RoundTrip(verdict.scratch, verdict.scratch, fixup, page_us, np.full((3, 1), ns))
            found.append(Way("known", _FIXUP_NAMES["known"], trip, ((fixups, _exactly(us)),)))
    pages = pages_of_survey(documents.survey) if documents.survey else None
    return _sorted(found, pages) if found else None


def _sorted(
    found: Sequence[Way], pages: Distribution | None, report: CostReport | None = None
) -> Ways:
    swaps = sorted((one for one in found if not one.drops), key=lambda one: one.page_us)
    drops = [one for one in found if one.drops]
    first = drops[0].trip.what if drops else ""
    return Ways(
        swaps=tuple(swaps),
        scratch=tuple(one for one in drops if one.trip.what == first),
        others=tuple(one for one in drops if one.trip.what != first),
        pages=pages,
        report=report,
    )


def _constant(what: str, title: str, microseconds: float) -> RoundTrip:
    return RoundTrip(what, title, None, np.full((3, 1), microseconds), np.zeros((3, 1)))


def _exactly(value: float) -> Spread:
    return Spread(value, value, value)


# --- the verdict --------------------------------------------------------------------------------


def verdict(documents: Documents, ways: Ways | None) -> str:
    """The answer to the page's question, in at most 20 words."""
    if any(one.wrong_words for one in documents.compares):
        return "Words were wrong after a page came back: no other figure here counts."
    if ways and ways.swaps and ways.scratch:
        return _weighed(ways)
    if ways and ways.scratch:
        dropped = duration(ways.scratch[0].page_us)
        return f"Dropping a page and reading it again takes {dropped}; no swap was measured."
    found = fixups_of_survey(documents.survey)
    if found and found.median is not None:
        return (
            f"Half of the pages that relocation dirties have up to {found.median:,.0f} fixups; "
            "their cost was not measured."
        )
    if documents.all:
        return "What a fixup costs was not measured for this page."
    return "Nothing could be measured here; below is why, and what to do."


def _weighed(ways: Ways) -> str:
    """On how many pages dropping takes less time; from many libraries to few, if that is known."""
    kinds = ways.mixed or ways.scratch[:1]
    swaps = ways.swaps[:_IN_VERDICT]
    if not ways.pages:
        limits = (f"{one.name} {ways.pays(kinds[0], one).limit}" for one in swaps)
        return f"Dropping pages beats swapping up to so many known fixups: {', '.join(limits)}."
    if all(ways.pays(way, swap).found.pays == "never" for way in kinds for swap in ways.swaps):
        times = (f"{one.name} {duration(one.page_us)}" for one in swaps)
        dropped = duration(ways.scratch[0].page_us)
        return f"Dropping a page never beats swapping it: {', '.join(times)}, dropping {dropped}."
    parts: list[str] = []
    for swap in swaps:
        shares = {round(100 * (ways.pays(way, swap).share or 0.0)) for way in kinds}
        low, high = min(shares), max(shares)
        span = f"{low}" if low == high else f"{low}{TO.strip()}{high}"
        pages = " of pages" if not parts else ""
        parts.append(f"{span}\N{NO-BREAK SPACE}%{pages} ({swap.name})")
    return f"Making fixups again beats swapping on {', '.join(parts)}."


# --- fixups a page ------------------------------------------------------------------------------


def fixups_of_survey(survey: Survey | None) -> FixupsPerPage | None:
    """Of a survey's libraries; None without any."""
    found = survey.totals.fixups_per_page if survey else FixupsPerPage()
    most = WORDS_A_PAGE if found.maximum is None else round(found.maximum)
    # The last bin may reach beyond what fits in a page.
    bins = [(low, max(low, min(high, most)), n) for low, high, n in sorted(found.histogram)]
    return replace(found, histogram=bins) if sum(n for *_, n in bins) else None


def fixups_of_pages(pages: Distribution) -> FixupsPerPage:
    """Of the pages that costs were reckoned for."""
    most = max(int(pages.fixups[-1]), 1)
    bins = []
    for low in (2**power for power in range(most.bit_length())):
        inside = (pages.fixups >= low) & (pages.fixups < 2 * low)
        bins.append((low, min(2 * low - 1, most), int(pages.pages[inside].sum())))
    return FixupsPerPage(pages.median, pages.quantile(0.95), most, pages.mean, bins)


def pages_of_survey(survey: Survey) -> Distribution | None:
    """A survey's pages by their fixups; None without any."""
    try:
        return distribution_of_survey("the libraries here", survey.totals.pages_by_fixups)
    except ModelError:
        return None


# --- what most of it is in ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """A process or a library, and pages that relocation dirties there, and would not."""

    name: str
    saved: int
    relocated: int


def biggest_processes(survey: Survey) -> list[Holder]:
    """Those that hold most relocated pages."""
    return _biggest(
        Holder(f"{one.command or '?'} ({one.pid})", one.saved_pages, one.relocated_pages)
        for one in survey.processes
    )


def biggest_libraries(survey: Survey) -> list[Holder]:
    """Those of which relocation dirties most pages, by names that tell them apart."""
    found = _biggest(
        Holder(one.path, one.saved_pages, one.dirtied_pages) for one in survey.libraries
    )
    names = told_apart([one.name for one in found])
    return [Holder(name, one.saved, one.relocated) for name, one in zip(names, found, strict=True)]


def told_apart(paths: Sequence[str]) -> list[str]:
    """The ends of paths, no longer than it takes for each to be another."""
    parts = [PurePosixPath(path).parts for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = [
            "/".join(own[-n:]).replace("//", "/") for own, n in zip(parts, lengths, strict=True)
        ]
        times = Counter(names)
        longer = [
            at for at, name in enumerate(names) if times[name] > 1 and lengths[at] < len(parts[at])
        ]
        if not longer:
            return names
        for at in longer:
            lengths[at] += 1


def _biggest(holders: Iterable[Holder]) -> list[Holder]:
    found = [one for one in holders if one.relocated]
    return sorted(found, key=lambda one: -one.relocated)[:_BIGGEST]


def kinds_of_fixups(survey: Survey) -> list[tuple[str, int]]:
    """Kinds of relocation and how many there are, the most first."""
    totals: Counter[str] = Counter()
    for library in survey.libraries:
        totals.update(library.kinds)
    return [(kind, number) for kind, number in totals.most_common() if number > 0]


# --- swap against the number of processes -------------------------------------------------------


def swapped_to(compare: ComparisonDocument) -> str:
    """``file``, ``partition``, ``zram`` or ``zswap``; empty for nowhere."""
    kind = compare.swap.kind
    if compare.swap.zswap and kind in ("file", "partition"):
        return "zswap"
    return kind if kind in SWAP_NAMES else ""


def _median(result: Result, name: str) -> float | None:
    spread = result.figures.get(name)
    return spread.median if spread else None


@dataclass(frozen=True, slots=True)
class Sweep:
    """One strategy of a comparison over numbers of processes.

    Attributes:
        swap: where pages went; empty for nowhere.
        strategy: its name.
        swapped: number of processes, and pages sent to swap; none if the kernel wasn't asked to.
        round_trip_us: with the most processes.
        given_back: MiB for each MiB asked for, with the most processes.
    """

    swap: str
    strategy: str
    swapped: tuple[tuple[int, float], ...]
    round_trip_us: Spread | None
    given_back: float | None


def sweeps_of(compare: ComparisonDocument) -> list[Sweep]:
    """What a comparison shows, by strategy."""
    most = max((one.processes for one in compare.results), default=0)
    found = []
    for name in dict.fromkeys(one.strategy for one in compare.results):
        own = sorted(
            (one for one in compare.results if one.strategy == name), key=lambda one: one.processes
        )
        swapped = [(one.processes, _median(one, "swapped_out_pages")) for one in own]
        last = own[-1] if own[-1].processes == most else None
        found.append(
            Sweep(
                swapped_to(compare),
                name,
                tuple((n, pages) for n, pages in swapped if pages is not None),
                last.figures.get("round_trip_us") if last else None,
                _median(last, "given_back_per_mib") if last else None,
            )
        )
    return found


def pages_a_process(compare: ComparisonDocument) -> float | None:
    """How many pages each process fixes up; None if it isn't known."""
    for one in compare.results:
        pages = _median(one, "pages")
        if pages is not None and one.processes:
            return pages / one.processes
    return None
