# SPDX-License-Identifier: Apache-2.0
"""What a page says, worked out from the documents: ways of a page, break-evens, shares of pages.

A page's way out of memory and back costs *a + f k* with *k* fixups on it: by swap *f* is next to
nothing, and by dropping it is what one fixup costs. Two ways cost the same where they cross.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mapscratch.lab.compare.verdict import WORDS_A_PAGE
from mapscratch.lab.cost import model as cost_model
from mapscratch.lab.report.page_reading import Node, ReportError

SWAP_NAMES = {
    "file": "a swapfile",
    "partition": "a swap partition",
    "zram": "zram",
    "zswap": "zswap",
}
FIXUP_NAMES = {
    "known": "known values",
    "relative": "relative",
    "mixed-short": "as ld.so does it, few libraries",
    "mixed-long": "as ld.so does it, many libraries",
    "short": "short look-ups",
    "long": "long look-ups",
}
_MIXED = ("mixed-short", "mixed-long")
DEVICES = tuple(
    (title, cost_model.DEVICES[name])
    for name, title in (("nvme", "NVMe"), ("ssd", "SATA SSD"), ("disk", "hard disk"))
)
"""Assumed latencies of reading one page alone, in µs."""
_PREFERRED = ("kernel", "lazyfree", "dontneed")
_BIGGEST = 12
_MOST_CLASSES = 64


@dataclass(frozen=True, slots=True)
class Documents:
    """What there is to make a page from; None and empty for what there is not.

    Attributes:
        survey: a ``mapscratch.survey``.
        cost: a ``mapscratch.cost``.
        compares: each a ``mapscratch.compare``.
        ps: a ``mapscratch.ps``.
        missing: name of a document, and why it could not be made.
        commands: command lines that made them, in order.
    """

    survey: Node | None = None
    cost: Node | None = None
    compares: tuple[Node, ...] = ()
    ps: Node | None = None
    missing: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()

    def all(self) -> list[Node]:
        """Those that there are."""
        return [one for one in (self.survey, self.cost, *self.compares, self.ps) if one]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Fixups a page, over pages that have any.

    Attributes:
        bins: fewest and most fixups of a page, and how many pages; ascending.
        median: fixups of a page; None where not known.
        p95: 95 % of pages have at most so many.
        maximum: the most.
        mean: over pages.
        whose: pages these are, in words.
        counts: fixups of a page, and how many pages have just so many; ascending. Empty where only
            the bins are known.
    """

    bins: tuple[tuple[float, float, float], ...]
    median: float | None
    p95: float | None
    maximum: float | None
    mean: float | None
    whose: str
    counts: tuple[tuple[float, float], ...] = ()

    @property
    def pages(self) -> float:
        """All pages."""
        return sum(pages for _, _, pages in self.bins)

    def classes(self) -> list[tuple[float, float, float]]:
        """As bins, but one for each number of fixups where that is known."""
        return [(fixups, fixups, pages) for fixups, pages in self.counts] or list(self.bins)

    def share_up_to(self, fixups: float) -> float:
        """The share of pages with at most so many fixups; in a bin, as if spread evenly."""
        found, total = 0.0, 0.0
        for low, high, pages in self.classes():
            total += pages
            if low < high:
                found += pages * min(max((fixups - low + 1) / (high - low + 1), 0.0), 1.0)
            elif fixups >= low:
                found += pages
        return found / total if total else 0.0

    def cumulative(self) -> list[float]:
        """The share of pages in each bin and those before it."""
        total, shares = 0.0, []
        for _, _, pages in self.bins:
            total += pages
            shares.append(total / self.pages)
        return shares


def histogram_of(documents: Documents) -> Histogram | None:
    """Fixups a page of a survey's libraries, or else of those that costs were reckoned for.

    Where costs were reckoned for other pages than the survey's, it is those: the break-evens are
    theirs.
    """
    found = surveyed(documents)
    reckoned = _reckoned(documents.cost) if documents.cost else None
    if found and reckoned and documents.cost and documents.cost.children("break_even"):
        return found if found.counts in ((), reckoned.counts) else reckoned
    return found or reckoned


def surveyed(documents: Documents) -> Histogram | None:
    """Fixups a page of a survey's libraries; None without any."""
    return _surveyed(documents.survey) if documents.survey else None


def _surveyed(survey: Node) -> Histogram | None:
    totals = survey.child("totals")
    node = totals.child("fixups_per_page")
    most = node.number("maximum")
    rows = node.rows("histogram", 3)
    if len(rows) > _MOST_CLASSES:
        raise ReportError(f"{node.where}: {len(rows):,} classes are more than can be drawn")
    bins = tuple(
        # The last class may reach beyond what fits in a page.
        (low, high if most is None else max(low, min(high, most)), pages)
        for low, high, pages in sorted(rows)
        if high >= low >= 0 and pages >= 0
    )
    if not sum(pages for _, _, pages in bins):
        return None
    return Histogram(
        bins=bins,
        median=node.number("median"),
        p95=node.number("p95"),
        maximum=most,
        mean=node.number("mean"),
        whose="the pages that relocation dirties here",
        counts=_counts(totals.rows("pages_by_fixups", 2)),
    )


def _reckoned(cost: Node) -> Histogram | None:
    node = cost.child("pages")
    fixups = node.number_list("fixups")
    pages = node.number_list("pages")
    counts = _counts(zip(fixups, pages, strict=False))
    total = sum(number for _, number in counts)
    if not total:
        return None
    most = counts[-1][0]
    bins, low = [], 1.0
    while low <= most:
        high = min(2 * low - 1, most)
        bins.append((low, high, sum(number for k, number in counts if low <= k < 2 * low)))
        low *= 2
    return Histogram(
        bins=tuple(bins),
        median=_quantile(counts, 0.5 * total),
        p95=_quantile(counts, 0.95 * total),
        maximum=most,
        mean=sum(k * number for k, number in counts) / total,
        whose=f"the pages that relocation dirties in {node.text('title') or 'some libraries'}",
        counts=counts,
    )


def _counts(rows: Iterable[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Fixups of a page, no more than it has room for, and how many pages; ascending."""
    found: dict[float, float] = {}
    for fixups, pages in rows:
        if fixups > 0 and pages > 0:
            held = min(fixups, float(WORDS_A_PAGE))
            found[held] = found.get(held, 0.0) + pages
    return tuple(sorted(found.items()))


def _quantile(counts: Sequence[tuple[float, float]], wanted: float) -> float:
    reached = 0.0
    for fixups, number in counts:
        reached += number
        if reached >= wanted:
            return fixups
    return counts[-1][0]


@dataclass(frozen=True, slots=True)
class Way:
    """How a page leaves memory and comes back as it was.

    Attributes:
        key: of the swap, or of the kind of fixup; a class of the style sheet.
        name: in words.
        page_us: µs for a page without fixups.
        fixup_ns: ns more for each fixup.
        points: measured: fixups a page, and the median, least and most µs.
        engine: that drops the page; empty for swap.
    """

    key: str
    name: str
    page_us: float
    fixup_ns: float
    points: tuple[tuple[float, float, float, float], ...] = ()
    engine: str = ""

    @property
    def short_name(self) -> str:
        """The name, where there is little room."""
        return self.name.replace("as ld.so does it", "as ld.so")

    def microseconds(self, fixups: float) -> float:
        """What it costs with so many fixups on the page."""
        return self.page_us + self.fixup_ns * fixups / 1e3

    def as_dear_as(self, swap: Way) -> float | None:
        """From so many fixups a page it costs more than another one; None if it never does."""
        gain, slope = swap.page_us - self.page_us, self.fixup_ns - swap.fixup_ns
        if gain <= 0:
            return 0.0
        return gain * 1e3 / slope if slope > 0 else None


@dataclass(frozen=True, slots=True)
class Ways:
    """All ways that were measured.

    Attributes:
        swaps: the cheapest first.
        scratch: by the engine that is preferred, a way for each kind of fixup.
        others: by other engines.
        source: the name of the document that they are from.
        limits: swap, engine and kind of fixup, and the break-even that the document has: from so
            many fixups a page dropping takes longer; None if it never does.
        ranges: the same, at least and at most: as far as any rounds' figures allow.
    """

    swaps: tuple[Way, ...]
    scratch: tuple[Way, ...]
    others: tuple[Way, ...]
    source: str
    limits: Mapping[tuple[str, str, str], float | None]
    ranges: Mapping[tuple[str, str, str], tuple[float, float]]

    @property
    def drawn(self) -> tuple[Way, ...]:
        """Of `scratch`: fixups as they are mixed here, if that is known, and not look-ups alone."""
        mixed = any(one.key in _MIXED for one in self.scratch)
        return tuple(one for one in self.scratch if not mixed or one.key not in ("short", "long"))

    def mixed(self) -> list[Way]:
        """Fixups as ld.so makes those of the pages here, the cheapest first."""
        return [one for one in self.scratch if one.key in _MIXED]

    def range_of(self, scratch: Way, swap: Way) -> tuple[float, float] | None:
        """The least and the most of `limit`, up to what no page has; None if they aren't known."""
        return self.ranges.get((swap.key, scratch.engine, scratch.key))

    def limit(self, scratch: Way, swap: Way) -> float | None:
        """From so many fixups a page dropping costs more than a swap; None if it never does.

        A cost document's own figure, which was worked out round by round, goes before that of the
        medians' lines.
        """
        key = (swap.key, scratch.engine, scratch.key)
        return self.limits[key] if key in self.limits else scratch.as_dear_as(swap)

    def scratch_by(self, key: str) -> Way | None:
        """The way for a kind of fixup."""
        return next((one for one in self.scratch if one.key == key), None)


def ways_of(documents: Documents) -> Ways | None:
    """The ways from a cost document, or else from the comparisons; None if neither has any."""
    found = _ways_of_cost(documents.cost) if documents.cost else None
    return found or _ways_of_compares(documents.compares)


def _ways_of_cost(cost: Node) -> Ways | None:
    """What the document reckons with."""
    points = {node.text("what"): _points(cost, node) for node in cost.children("lines")}
    found = _ways_of_rows(cost, points)
    return _sorted_ways(*found, "mapscratch.cost", _limits(cost), _ranges(cost))


_Points: TypeAlias = tuple[tuple[float, float, float, float], ...]


def _ways_of_rows(cost: Node, points: Mapping[str, _Points]) -> tuple[list[Way], list[Way]]:
    """From the rows of break-even, which have what the model made of the lines."""
    swaps: dict[str, Way] = {}
    scratch: dict[tuple[str, str], Way] = {}
    for node in cost.children("break_even"):
        key, engine, fixup = _row_key(node)
        swap_us, page_us = node.number("page_swap_us"), node.number("page_scratch_us")
        slope = node.number("fixup_ns")
        if swap_us is not None and not key.startswith("device"):
            own = node.number("swap_fixup_ns") or 0.0
            measured = points.get(f"swap.{key}", ())
            swaps.setdefault(key, Way(key, SWAP_NAMES.get(key, key), swap_us, own, measured))
        if page_us is not None and slope is not None and fixup in FIXUP_NAMES:
            measured = points.get(engine, ()) if fixup == "known" else ()
            way = Way(fixup, FIXUP_NAMES[fixup], page_us, slope, measured, engine)
            scratch.setdefault((engine, fixup), way)
    return list(swaps.values()), list(scratch.values())


def _row_key(row: Node) -> tuple[str, str, str]:
    """Swap, engine and kind of fixup of a row of break-even, as they are named here."""
    fixup = row.text("fixup")
    scope = row.text("scope") or "short"
    named = {"symbolic": scope, "mixed": f"mixed-{scope}"}
    kind = named.get(fixup, fixup.removesuffix(" value"))
    return row.text("swap").removeprefix("swap."), row.text("engine"), kind


def _points(cost: Node, line: Node) -> _Points:
    """What was measured on pages that lie close, moved to how they lie in the libraries."""
    target = cost.child("pages").child("layout")
    wanted = (target.number("clean_pages") or 0.0, target.number("mappings") or 0.0)
    each_us = (line.number("clean_page_us") or 0.0, line.number("mapping_us") or 0.0)
    layouts = line.rows("layouts", 2)
    closest = min(layouts, default=[0.0, 0.0])
    found = []
    for index, (fixups, *times) in enumerate(line.rows("points", 4)):
        own = layouts[index] if index < len(layouts) else closest
        if own != closest:
            continue  # It was measured for what its neighbours cost, and says little by itself.
        moved = sum((a - b) * us for a, b, us in zip(wanted, own, each_us, strict=True))
        middle, low, high = (max(time + moved, 0.001) for time in times)
        found.append((fixups, middle, low, high))
    return tuple(found)


def _ways_of_compares(compares: Sequence[Node]) -> Ways | None:
    """A comparison knows one number of fixups a page, and what one of them costs."""
    swaps, scratch = [], []
    for node in compares:
        verdict = node.child("verdict")
        fixups, slope = verdict.number("fixups_per_page"), verdict.number("fixup_ns")
        swap_us, scratch_us = verdict.number("swap_us"), verdict.number("scratch_us")
        key = swap_key(node)
        if swap_us is not None and key:
            points = ((fixups, swap_us, swap_us, swap_us),) if fixups else ()
            swaps.append(Way(key, SWAP_NAMES[key], swap_us, 0.0, points))
        if scratch_us is not None and fixups and slope is not None:
            page_us = max(scratch_us - slope * fixups / 1e3, 0.01)
            points = ((fixups, scratch_us, scratch_us, scratch_us),)
            engine = verdict.text("scratch")
            scratch.append(Way("known", FIXUP_NAMES["known"], page_us, slope, points, engine))
    return _sorted_ways(swaps, scratch[:1], "mapscratch.compare", {}, {})


def _limits(cost: Node) -> dict[tuple[str, str, str], float | None]:
    found: dict[tuple[str, str, str], float | None] = {}
    for node in cost.children("break_even"):
        limit, pays = node.number("fixups"), node.text("pays")
        if pays == "never":
            limit = 0.0
        elif pays == "always" or node.flag("more_than_fit"):
            limit = None
        elif limit is None:
            continue
        found[_row_key(node)] = None if limit is None else max(limit, 0.0)
    return found


def _ranges(cost: Node) -> dict[tuple[str, str, str], tuple[float, float]]:
    """An end that is null is without a bound; left out where nothing says on which side."""
    found = {}
    for node in cost.children("break_even"):
        least, middle, most = (node.number(name) for name in ("minimum", "fixups", "maximum"))
        if least is None and (middle is not None or node.text("pays") == "never"):
            least = 0.0
        if most is None and (middle is not None or node.text("pays") == "always"):
            most = math.inf
        if least is not None and most is not None:
            found[_row_key(node)] = (max(least, 0.0), max(most, 0.0))
    return found


def _sorted_ways(
    swaps: list[Way],
    scratch: list[Way],
    source: str,
    limits: Mapping[tuple[str, str, str], float | None],
    ranges: Mapping[tuple[str, str, str], tuple[float, float]],
) -> Ways | None:
    if not swaps and not scratch:
        return None
    engines = {one.engine for one in scratch}
    ranked = [name for name in _PREFERRED if name in engines] + sorted(engines - {*_PREFERRED})
    first = ranked[0] if ranked else ""
    order = list(FIXUP_NAMES)
    scratch.sort(key=lambda one: order.index(one.key))
    return Ways(
        swaps=tuple(sorted(swaps, key=lambda one: one.page_us)),
        scratch=tuple(one for one in scratch if one.engine == first),
        others=tuple(one for one in scratch if one.engine != first),
        source=source,
        limits=limits,
        ranges=ranges,
    )


def relative_share(documents: Documents) -> float | None:
    """Of the fixups that costs were reckoned for, how many are relative: 0 to 1.

    A cost document's own figure, which its mixed fixups were reckoned with, goes before that of the
    survey.
    """
    own = documents.cost.child("pages").number("relative_share") if documents.cost else None
    if own is not None:
        return own
    kinds = dict(kinds_of_fixups(documents.survey))
    total = sum(kinds.values())
    return (kinds.get("RELATIVE", 0.0) + kinds.get("RELR", 0.0)) / total if total else None


def swap_key(compare: Node) -> str:
    """Where a comparison's pages were swapped to, a key of `SWAP_NAMES`; empty for nowhere."""
    swap = compare.child("swap")
    kind = swap.text("kind")
    if swap.flag("zswap") and kind in ("file", "partition"):
        return "zswap"
    return kind if kind in SWAP_NAMES else ""


def fits(fixups: float | None) -> bool:
    """Whether a page can have so many."""
    return fixups is not None and fixups < WORDS_A_PAGE


@dataclass(frozen=True, slots=True)
class Process:
    """What a process holds of relocated pages, in pages.

    Attributes:
        name: its command and number.
        saved: no longer dirtied by relocation under `mapscratch run`.
        relocated: private copies of pages that hold relocations.
        pss_bytes: its share of memory; None where not known.
    """

    name: str
    saved: int
    relocated: int
    pss_bytes: float | None


def biggest_processes(survey: Node | None) -> list[Process]:
    """Those that hold most relocated pages."""
    if survey is None:
        return []
    found = [
        Process(
            name=f"{node.text('command') or '?'} ({node.count('pid')})",
            saved=node.count("saved_pages"),
            relocated=node.count("relocated_pages"),
            pss_bytes=node.number("pss_bytes"),
        )
        for node in survey.children("processes")
    ]
    found = [one for one in found if one.relocated]
    return sorted(found, key=lambda one: -one.relocated)[:_BIGGEST]


def biggest_libraries(survey: Node | None) -> list[Process]:
    """Those of which relocation dirties most pages; as a process that loads nothing else."""
    if survey is None:
        return []
    found = [
        Process(
            name=Path(node.text("path")).name,
            saved=node.count("saved_pages"),
            relocated=node.count("dirtied_pages"),
            pss_bytes=None,
        )
        for node in survey.children("libraries")
    ]
    found = [one for one in found if one.relocated]
    return sorted(found, key=lambda one: -one.relocated)[:_BIGGEST]


def kinds_of_fixups(survey: Node | None) -> list[tuple[str, float]]:
    """Kinds of relocation and how many there are, the most first; none without any."""
    totals: dict[str, float] = {}
    for library in survey.children("libraries") if survey else ():
        for kind, number in library.child("kinds").numbers().items():
            totals[kind] = totals.get(kind, 0.0) + number
    return sorted(((kind, n) for kind, n in totals.items() if n > 0), key=lambda pair: -pair[1])


@dataclass(frozen=True, slots=True)
class Sweep:
    """A comparison over numbers of processes.

    Attributes:
        swap: where pages went, a key of `SWAP_NAMES`; empty for nowhere.
        series: strategy, and number of processes with pages sent to swap.
        not_asked: strategies whose pages are dropped without asking the kernel.
        trips: strategy, and µs of a page's round trip with the most processes, as median, least
            and most.
        given_back: strategy, and MiB given back for each MiB asked for, with the most processes.
        processes: the most.
        pages: that a process fixes up.
        wrong_words: that were found.
    """

    swap: str
    series: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    not_asked: tuple[str, ...]
    trips: tuple[tuple[str, float, float, float], ...]
    given_back: tuple[tuple[str, float], ...]
    processes: int
    pages: float | None
    wrong_words: int


def sweep_of(compare: Node) -> Sweep:
    """What a comparison shows."""
    series: dict[str, list[tuple[float, float]]] = {}
    trips: dict[str, tuple[float, float, float]] = {}
    back: dict[str, float] = {}
    names: list[str] = []
    results = compare.children("results")
    most = max((node.count("processes") for node in results), default=0)
    pages = None
    for node in results:
        name, processes, figures = (
            node.text("strategy"),
            node.count("processes"),
            node.child("figures"),
        )
        if name not in names:
            names.append(name)
        swapped = figures.child("swapped_out_pages").number("median")
        if swapped is not None:
            series.setdefault(name, []).append((processes, swapped))
        if processes == most:
            trip = figures.child("round_trip_us")
            low, middle, high = (trip.number(one) for one in ("minimum", "median", "maximum"))
            if low is not None and middle is not None and high is not None:
                trips[name] = (middle, low, high)
            share = figures.child("given_back_per_mib").number("median")
            if share is not None:
                back[name] = share
            total = figures.child("pages").number("median")
            if total is not None and processes:
                pages = total / processes
    return Sweep(
        swap=swap_key(compare),
        series=tuple((name, tuple(sorted(points))) for name, points in series.items()),
        not_asked=tuple(name for name in names if name not in series),
        trips=tuple((name, *values) for name, values in trips.items()),
        given_back=tuple(back.items()),
        processes=most,
        pages=pages,
        wrong_words=compare.count("wrong_words"),
    )
