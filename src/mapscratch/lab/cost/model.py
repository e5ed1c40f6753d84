# SPDX-License-Identifier: Apache-2.0
"""From what was measured to an answer: a page's round trip by swap and by fixups, and break-even.

A page's *round trip* is to leave memory and to come back as it was. By swap it costs the same
however many fixups it has (but for how well they compress); by fixups it costs what the engine
takes for a page without any, and *f* for each of its *k* fixups::

    swap(k) = S + s k        scratch(k) = T + f k        break-even: k = (S - T) / (f - s)

*S*, *s* and *T* come from the lines of one run (`mapscratch.lab.cost.costs.Line`), a straight line
for each round; the *f* of a fixup that is worked out again as ld.so does it is what ld.so takes,
measured in the same run. Lines meet round by round; the least and the most are of the corners: of
the round that is worst, or best, for dropping with the dearest, or cheapest, fixups of any round.

Two slopes are known better than a line through noisy points says. A swapfile doesn't look at what
is on a page: its *s* is 0. And what storing a known value takes is timed by itself, in the same
rounds, without the page faults around it: that is its *f*. Both lines go through the mean of what
was measured, so *S* and *T* are what was left of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from mmap import PAGESIZE
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapscratch.errors import UserError
from mapscratch.lab.cost.costs import Costs, Line
from mapscratch.lab.rig.results import ENGINES, Spread
from mapscratch.text import swap_name

Floats: TypeAlias = NDArray[np.float64]
FixupName: TypeAlias = Literal["known value", "relative", "mixed", "symbolic"]
Scope: TypeAlias = Literal["short", "long"]
Pays: TypeAlias = Literal["never", "up to", "always"]

WORDS_A_PAGE = PAGESIZE // 8
SCOPES: tuple[Scope, ...] = ("short", "long")
SWAPS = ("swap.file", "swap.partition", "swap.zram", "swap.zswap")
_CONTENT_DOES_NOT_MATTER = ("swap.file", "swap.partition")
_STORING, _HEALING = {"lazyfree": "fixup.at_page_in"}, "fixup.word"
"""What storing a known value alone takes, by engine; where pages heal word by word."""
DEVICE, DEVICE_AHEAD = "swap.device", "swap.device.ahead"

DEVICES = {"nvme": 80.0, "ssd": 150.0, "disk": 10_000.0}
"""Assumed latencies of reading or writing 4 KiB alone, in µs: what data sheets and reviews give for
flash behind NVMe and SATA, and seek and half a turn of a disk of 7,200 a minute."""
_OPPOSITE = [0, 2, 1]
"""Rows that turn the median, the least and the most into those of what is taken away."""


class ModelError(UserError, ValueError):
    """There are no figures to reckon with; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Device:
    """Another device to swap to."""

    name: str  # in `DEVICES`; or empty
    latency_us: float  # for one page, alone

    @property
    def title(self) -> str:
        """What it is called in a table."""
        return f"{self.name or 'device'} at {self.latency_us:,.6g} µs"


def device(text: str) -> Device:
    """A device from what the user says: a name of `DEVICES`, or µs; else it is a `ModelError`."""
    try:
        latency = DEVICES[text] if text in DEVICES else float(text)
    except ValueError:
        latency = -1.0
    if not 0 <= latency <= 60e6:
        raise ModelError(
            f"a device's latency is a number of µs up to a minute, or one of {', '.join(DEVICES)}; "
            f"not {text!r}"
        )
    return Device(text if text in DEVICES else "", latency)


@dataclass(frozen=True, slots=True)
class FixupCost:
    """What making one fixup again takes, its page in memory, by how its value is found."""

    fixup: FixupName  # a mixed one is the mean over those that pages have
    scope: Scope | None  # how many libraries are searched for a symbolic or mixed one
    ns: Spread

    @property
    def title(self) -> str:
        """What it is called in a table."""
        return f"{self.fixup}, {self.scope} scope" if self.scope else self.fixup


def measured_fixups(costs: Costs, relative_share: float | None = None) -> list[FixupCost]:
    """What ld.so takes for each kind of fixup, as far as it was measured.

    With the share of relative ones among the fixups that pages have, 0 to 1, there is also what one
    of those takes in the mean.
    """
    relative = costs.measurement("relocation.relative")
    found = [FixupCost("relative", None, relative)] if relative else []
    looked_up = [
        FixupCost("symbolic", scope, one)
        for scope in SCOPES
        if (one := costs.measurement(f"relocation.symbolic.{scope}"))
    ]
    if relative and relative_share is not None:
        for other in looked_up:
            mean = relative_share * _row(relative) + (1 - relative_share) * _row(other.ns)
            found.append(FixupCost("mixed", other.scope, _spread(mean)))
    return found + looked_up


@dataclass(frozen=True, slots=True)
class Layout:
    """What is mapped for each page with fixups, and leaves and comes back with it: see `Line`."""

    clean_pages: float
    mappings: float


ALONE = Layout(0.0, 0.0)
"""Nothing but pages with fixups, in a mapping so large that it takes no time."""


# --- lines --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RoundTrip:
    """A page's round trip by its number of fixups; straight lines, one for each of r rounds."""

    what: str  # the swap or the engine, as in a `Line`
    title: str
    fixup: FixupCost | None  # None for swap, which keeps everything: none is made again
    page_us: Floats  # without fixups, shape (3, r): likely, at least and at most
    fixup_ns: Floats  # more for each, the same shape

    @property
    def kind(self) -> FixupName | None:
        """How values of fixups are found; None for swap."""
        return self.fixup.fixup if self.fixup else None

    def at(self, fixups: ArrayLike) -> Floats:
        """µs for pages with n numbers of fixups: median over the rounds, least and most, (3, n)."""
        numbers = np.atleast_1d(np.asarray(fixups, dtype=np.float64))
        return _over_rounds(self.page_us[:, :, None] + self.fixup_ns[:, :, None] * numbers / 1e3)

    def spread_at(self, fixups: float) -> Spread:
        """µs for a page with so many fixups."""
        return _spread(self.at(fixups)[:, 0])

    @property
    def bare_us(self) -> float:
        """µs for a page without fixups: the median."""
        return self.spread_at(0).median


def swap_lines(
    costs: Costs, other: Device | None = None, layout: Layout = ALONE
) -> list[RoundTrip]:
    """The round trip by each swap that was measured, and by another device, if one is given."""
    found = []
    for line in filter(None, map(costs.line, SWAPS)):
        trip = _round_trip(line, swap_name(line.what), layout)
        level = line.what in _CONTENT_DOES_NOT_MATTER
        found.append(_turned(trip, np.zeros(3), line.mean_fixups) if level else trip)
    return found + (device_lines(costs, other) if other else [])


def scratch_lines(
    costs: Costs, layout: Layout = ALONE, relative_share: float | None = None
) -> list[RoundTrip]:
    """The round trip by each engine that was measured: with known values, then as ld.so does it."""
    found = []
    for line in filter(None, map(costs.line, ENGINES)):
        trip = _round_trip(line, line.what, layout)
        if stored := costs.measurement(_STORING.get(line.what, _HEALING)):
            trip = _turned(trip, _row(stored), line.mean_fixups)
        known = FixupCost("known value", None, _spread(_over_rounds(trip.fixup_ns)))
        found.append(replace(trip, fixup=known))
        fixups = measured_fixups(costs, relative_share)
        found += [replace(_turned(trip, _row(one.ns)), fixup=one) for one in fixups]
    return found


def device_lines(costs: Costs, other: Device) -> list[RoundTrip]:
    """The round trip by a device that isn't here: the kernel's part as measured, and its latency.

    The latency comes once, for a page that is read alone; the second line is with read-ahead, where
    a page waits for a part of it. `docs/cost.md` says more, and on which side it errs.
    """
    waits = {(DEVICE, other.title): np.ones(3)}
    if part := read_ahead(costs):
        waits[DEVICE_AHEAD, f"{other.title}, read-ahead"] = _row(part)
    found = []
    for (what, title), wait in waits.items():
        page_us = kernel_part_us(costs) + wait * other.latency_us
        found.append(RoundTrip(what, title, None, page_us[:, None], np.zeros((3, 1))))
    return found


def kernel_part_us(costs: Costs) -> Floats:
    """Of a page's way through a device what is the kernel's work: median, least and most, in µs.

    That is the call that has it leave, 0 if no swapfile was measured, and a fault that gets a page.
    """
    names = ("swap.file.out", "fault.copy_on_write")
    return sum((_row(one) for one in map(costs.measurement, names) if one), np.zeros(3)) / 1e3


def read_ahead(costs: Costs) -> Spread | None:
    """The part of a device's latency that a page waits for when pages come back in order: 0 to 1.

    It is what swap-in took beyond a page fault, over what a page-in from the disk in random order
    took beyond one from the page cache. None if one of them was not measured.
    """
    names = ("swap.file.in", "fault.copy_on_write", "fault.disk", "fault.page_cache")
    found = [_row(one) for one in map(costs.measurement, names) if one]
    if len(found) < len(names):
        return None
    swapped, fault, disk, cached = found
    waited, latency = swapped - fault[_OPPOSITE], disk[_OPPOSITE] - cached
    share = np.divide(waited.clip(0.0), latency, out=np.ones(3), where=latency > 0)
    return _spread(share.clip(max=1.0))


def _round_trip(line: Line, title: str, layout: Layout) -> RoundTrip:
    beside = (layout.clean_pages, layout.mappings)
    page_us = [fit.round_trip_us(0, *beside) for fit in line.fits]
    fixup_ns = [fit.fixup_ns for fit in line.fits]
    return RoundTrip(line.what, title, None, np.array([page_us] * 3), np.array([fixup_ns] * 3))


def _turned(trip: RoundTrip, fixup_ns: Floats, about: float = 0.0) -> RoundTrip:
    """The same with another slope, shape (3,), and as it was for `about` fixups a page."""
    page_us = trip.page_us + (trip.fixup_ns - fixup_ns[0]) * about / 1e3
    slopes = np.broadcast_to(fixup_ns[:, None], page_us.shape)
    return replace(trip, page_us=page_us, fixup_ns=slopes)


def _row(spread: Spread) -> Floats:
    return np.array([spread.median, spread.minimum, spread.maximum])


def _spread(row: Floats) -> Spread:
    return Spread(*row.tolist())


def _over_rounds(values: Floats) -> Floats:
    """Of likely, least and most values, shape (3, r, ...), the median, the least and the most.

    Between a finite and an infinite median, or two infinite ones, it is the lower: that for swap.
    """
    ordered = np.sort(values[0], axis=0)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    with np.errstate(invalid="ignore"):
        median = np.where(np.isfinite(high), (low + high) / 2, low)
    return np.stack([median, values[1].min(axis=0), values[2].max(axis=0)])


# --- break-even ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From how many fixups a page a line of scratch costs more time than one of swap."""

    swap: RoundTrip
    scratch: RoundTrip
    fixups: Spread  # infinite where they don't meet; 0 or less: swap is faster without fixups, too

    @property
    def fixup(self) -> FixupCost:
        """What is made again, and for how much."""
        assert self.scratch.fixup
        return self.scratch.fixup

    @property
    def pays(self) -> Pays:
        """Whether scratch takes less time: for no page, for some, or whatever fits in a page."""
        if self.fixups.median <= 0:
            return "never"
        return "always" if self.fixups.median > WORDS_A_PAGE else "up to"


def break_even(swap: RoundTrip, scratch: RoundTrip) -> BreakEven:
    """Where two lines meet."""
    figures = [swap.page_us, swap.fixup_ns, scratch.page_us, scratch.fixup_ns]
    if swap.page_us.shape != scratch.page_us.shape:  # Not measured in the same rounds.
        figures = [_over_rounds(values)[:, None] for values in figures]
    swap_us, swap_ns, scratch_us, scratch_ns = figures
    # The least of the meetings has the most that scratch may cost.
    gain_ns = (swap_us - scratch_us[_OPPOSITE]) * 1e3
    slope = scratch_ns[_OPPOSITE] - swap_ns
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        meeting = gain_ns / slope
    parallel = np.where(gain_ns > 0, np.inf, -np.inf)
    return BreakEven(swap, scratch, _spread(_over_rounds(np.where(slope > 0, meeting, parallel))))
