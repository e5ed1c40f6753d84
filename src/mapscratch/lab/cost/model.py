# SPDX-License-Identifier: Apache-2.0
"""From what was measured to an answer: a page's round trip by swap and by fixups, and break-even.

A page's *round trip* is to leave memory and to come back as it was. By swap it costs the same
however many fixups it has (but for how well they compress); by fixups it costs what the engine
takes for a page without any, and *f* for each of its *k* fixups::

    swap(k) = S + s k        scratch(k) = T + f k        break-even: k = (S - T) / (f - s)

*S*, *s* and *T* come from the lines of one run
(`mapscratch.lab.cost.costs.Line`), a straight line for each round; the *f* of a fixup that is
worked out again as ld.so does it is what ld.so takes, measured in the same run. Lines meet round by
round; the least and the most are of the corners: of the round that is worst, or best, for dropping
with the dearest, or cheapest, fixups of any round.

Two slopes are known better than a line through noisy points says. A swapfile doesn't look at what
is on a page: its *s* is 0. And what storing a known value takes is timed by itself, in the same
rounds, without the page faults around it: that is its *f*. Both lines go through the mean of what
was measured, so *S* and *T* are what was left of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapscratch.errors import UserError
from mapscratch.lab.cost.costs import Costs, Line, Measurement
from mapscratch.lab.rig.results import ENGINES, Spread
from mapscratch.text import swap_name

Floats: TypeAlias = NDArray[np.float64]
FixupName: TypeAlias = Literal["known value", "relative", "mixed", "symbolic"]
Scope: TypeAlias = Literal["short", "long"]
Pays: TypeAlias = Literal["never", "up to", "always"]

WORDS_A_PAGE = PAGESIZE // 8
SWAPS = ("swap.file", "swap.partition", "swap.zram", "swap.zswap")
_CONTENT_DOES_NOT_MATTER = ("swap.file", "swap.partition")
_STORING, _HEALING = {"lazyfree": "fixup.at_page_in"}, "fixup.word"
"""What storing a known value alone takes, by engine; where pages heal word by word."""
DEVICE, DEVICE_AHEAD = "swap.device", "swap.device.ahead"

DEVICES = {"nvme": 80.0, "ssd": 150.0, "disk": 10_000.0}
"""Assumed latencies of reading or writing 4 KiB alone, in µs: what data sheets and reviews give for
flash behind NVMe and SATA, and seek and half a turn of a disk of 7,200 a minute."""
_SLOWEST_DEVICE = 60_000_000.0


class ModelError(UserError, ValueError):
    """There are no figures to reckon with; the message says what to do."""


# --- what is put in -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Device:
    """Another device to swap to.

    Attributes:
        name: of `DEVICES`, or empty.
        latency_us: µs for reading or writing one page, alone.
    """

    name: str
    latency_us: float

    @property
    def title(self) -> str:
        """What it is called in a table."""
        return f"{self.name or 'device'} at {self.latency_us:,.6g} µs"


def device(text: str) -> Device:
    """A device from what the user says: a name of `DEVICES`, or µs.

    Raises:
        ModelError: it is neither.
    """
    if text in DEVICES:
        return Device(text, DEVICES[text])
    try:
        latency = float(text)
    except ValueError:
        latency = -1.0
    if not 0 <= latency <= _SLOWEST_DEVICE:
        raise ModelError(
            f"a device's latency is a number of µs up to a minute, or one of {', '.join(DEVICES)}; "
            f"not {text!r}"
        )
    return Device("", latency)


@dataclass(frozen=True, slots=True)
class FixupCost:
    """What making one fixup again takes.

    Attributes:
        fixup: how its value is found; a mixed one is the mean over those that pages have.
        scope: of a symbolic or mixed one: how many libraries are searched.
        ns: for one, its page in memory.
    """

    fixup: FixupName
    scope: Scope | None
    ns: Spread

    @property
    def title(self) -> str:
        """What it is called in a table."""
        return f"{self.fixup}, {self.scope} scope" if self.scope else self.fixup


def measured_fixups(costs: Costs, relative_share: float | None = None) -> list[FixupCost]:
    """What ld.so takes for each kind of fixup, as far as it was measured.

    Args:
        costs: what was measured.
        relative_share: of the fixups that pages have, how many are relative: 0 to 1. Then also what
            it takes for one of them in the mean, the others looked up.
    """
    relative = costs.measurement("relocation.relative")
    scopes: tuple[Scope, ...] = ("short", "long")
    symbolic = {scope: costs.measurement(f"relocation.symbolic.{scope}") for scope in scopes}
    found = [FixupCost("relative", None, relative.spread)] if relative else []
    for scope, one in symbolic.items():
        if relative and one and relative_share is not None:
            mixed = _mixed(relative.spread, one.spread, relative_share)
            found.append(FixupCost("mixed", scope, mixed))
    looked_up = [FixupCost("symbolic", scope, one.spread) for scope, one in symbolic.items() if one]
    return found + looked_up


def _mixed(one: Spread, other: Spread, share_of_one: float) -> Spread:
    def mean(value: float, other_value: float) -> float:
        return share_of_one * value + (1 - share_of_one) * other_value

    return Spread(
        mean(one.median, other.median),
        mean(one.minimum, other.minimum),
        mean(one.maximum, other.maximum),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """What is mapped beside a page with fixups, and leaves memory and comes back with it.

    Attributes:
        clean_pages: mapped pages without fixups for each page with some.
        mappings: for each page with fixups: 0.01 if a library has a hundred of them.
    """

    clean_pages: float
    mappings: float


ALONE = Layout(0.0, 0.0)
"""Nothing but pages with fixups, in a mapping so large that it takes no time."""


# --- lines --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RoundTrip:
    """A page's round trip by its number of fixups; straight lines, one for each of r rounds.

    Attributes:
        what: the swap or the engine, as `mapscratch.lab.cost.costs.Line.what`.
        title: the same in words.
        fixup: what is made again; None for swap, which keeps everything.
        page_us: float64, shape (3, r), µs without fixups: likely, at least, at most.
        fixup_ns: float64, shape (3, r), ns more for each fixup, likewise.
    """

    what: str
    title: str
    fixup: FixupCost | None
    page_us: Floats
    fixup_ns: Floats

    def at(self, fixups: ArrayLike) -> Floats:
        """µs for pages with so many fixups each.

        Args:
            fixups: shape (n,).

        Returns:
            shape (3, n): the median over the rounds, the least, the most.
        """
        numbers = np.atleast_1d(np.asarray(fixups, dtype=np.float64))
        every = self.page_us[:, :, None] + self.fixup_ns[:, :, None] * numbers / 1e3
        return np.stack([np.median(every[0], axis=0), every[1].min(axis=0), every[2].max(axis=0)])

    def spread_at(self, fixups: float) -> Spread:
        """µs for a page with so many fixups."""
        median, least, most = (float(value) for value in self.at(fixups)[:, 0])
        return Spread(median, least, most)


def swap_lines(
    costs: Costs, other: Device | None = None, layout: Layout = ALONE
) -> list[RoundTrip]:
    """The round trip by each swap that was measured, and by another device, if one is given.

    Args:
        costs: what was measured.
        other: the device.
        layout: what is mapped beside the pages.
    """
    found = []
    for line in map(costs.line, SWAPS):
        if line:
            trip = _round_trip(line, swap_name(line.what), None, layout)
            found.append(_level(trip, line) if line.what in _CONTENT_DOES_NOT_MATTER else trip)
    if other:
        found += device_lines(costs, other)
    return found


def scratch_lines(
    costs: Costs, layout: Layout = ALONE, relative_share: float | None = None
) -> list[RoundTrip]:
    """The round trip by each engine that was measured, with each kind of fixup.

    Args:
        costs: what was measured.
        layout: what is mapped beside the pages.
        relative_share: as for `measured_fixups`.
    """
    found = []
    for line in map(costs.line, ENGINES):
        if line is None:
            continue
        with_known = _known(_round_trip(line, line.what, None, layout), line, costs)
        found.append(with_known)
        fixups = measured_fixups(costs, relative_share)
        found += [_with_fixups(with_known, fixup) for fixup in fixups]
    return found


def device_lines(costs: Costs, other: Device) -> list[RoundTrip]:
    """The round trip by a device that isn't here: the kernel's part as measured, and its latency.

    Of the swapfile that was measured the *device* is replaced and the kernel's work kept:

    - leaving memory: `swap.file.out` as it is, which is the call alone; the kernel writes
      afterwards, and nobody waits for it. Where no swapfile was measured it counts as 0.
    - coming back: a page fault that gets a page and fills it (`fault.copy_on_write`), and the
      latency, once: for a page that is read alone.

    What the kernel does beyond that for a page in swap is left out, so it errs on the side of swap.
    With read-ahead, where neighbours come back with a page, each waits for a part of the latency
    only: for the second line that is the part that it was here, see `read_ahead`.
    """
    kernel_us = kernel_part_us(costs)
    part = read_ahead(costs)
    lines = [_device_line(DEVICE, other.title, kernel_us + other.latency_us)]
    if part:
        parts = np.array([part.median, part.minimum, part.maximum])
        title = f"{other.title}, read-ahead"
        lines.append(_device_line(DEVICE_AHEAD, title, kernel_us + parts * other.latency_us))
    return lines


def kernel_part_us(costs: Costs) -> Floats:
    """Of a page's way through a device what is the kernel's work, in µs, as `device_lines` has it.

    Returns:
        shape (3,): the median, the least, the most.
    """
    out, fault = costs.measurement("swap.file.out"), costs.measurement("fault.copy_on_write")
    result: Floats = (_bounds(out) + _bounds(fault)) / 1e3
    return result


def read_ahead(costs: Costs) -> Spread | None:
    """The part of a device's latency that a page waits for when pages come back in order: 0 to 1.

    It is what swap-in from the swapfile took beyond a page fault, over what a page-in from the disk
    in random order took beyond one from the page cache. None if one of them was not measured.
    """
    names = ("swap.file.in", "fault.copy_on_write", "fault.disk", "fault.page_cache")
    found = [one.spread for one in map(costs.measurement, names) if one]
    if len(found) < len(names):
        return None
    swapped, fault, disk, cached = found

    def share(waited_ns: float, latency_ns: float) -> float:
        return min(max(waited_ns, 0.0) / latency_ns, 1.0) if latency_ns > 0 else 1.0

    return Spread(
        share(swapped.median - fault.median, disk.median - cached.median),
        share(swapped.minimum - fault.maximum, disk.maximum - cached.minimum),
        share(swapped.maximum - fault.minimum, disk.minimum - cached.maximum),
    )


def _device_line(what: str, title: str, page_us: Floats) -> RoundTrip:
    return RoundTrip(what, title, None, page_us[:, None], np.zeros((3, 1)))


def _round_trip(line: Line, title: str, fixup: FixupCost | None, layout: Layout) -> RoundTrip:
    page_us = np.array(
        [fit.round_trip_us(0, layout.clean_pages, layout.mappings) for fit in line.fits]
    )
    fixup_ns = np.array([fit.fixup_ns for fit in line.fits])
    return RoundTrip(line.what, title, fixup, _thrice(page_us), _thrice(fixup_ns))


def _level(trip: RoundTrip, line: Line) -> RoundTrip:
    """The same for any number of fixups: what it is for the mean number that was measured."""
    page_us = _turned(trip, line, 0.0)
    return RoundTrip(trip.what, trip.title, None, page_us, np.zeros_like(page_us))


def _known(trip: RoundTrip, line: Line, costs: Costs) -> RoundTrip:
    """An engine that stores known values, each for what storing it alone takes."""
    stored = costs.measurement(_STORING.get(trip.what, _HEALING))
    page_us, fixup_ns = trip.page_us, trip.fixup_ns
    if stored:
        page_us = _turned(trip, line, stored.median)
        fixup_ns = np.broadcast_to(_bounds(stored)[:, None], fixup_ns.shape).copy()
    spread = Spread(
        float(np.median(fixup_ns[0])), float(fixup_ns[1].min()), float(fixup_ns[2].max())
    )
    known = FixupCost("known value", None, spread)
    return RoundTrip(trip.what, trip.title, known, page_us, fixup_ns)


def _turned(trip: RoundTrip, line: Line, fixup_ns: float) -> Floats:
    """Where each line begins if it has another slope, and its mean is what was measured."""
    fixups = float(np.mean([point.fixups for point in line.points])) if line.points else 0.0
    return trip.page_us + (trip.fixup_ns - fixup_ns) * fixups / 1e3


def _with_fixups(known: RoundTrip, fixup: FixupCost) -> RoundTrip:
    """The same engine, whose fixups take as long as ld.so's."""
    ns = np.array([fixup.ns.median, fixup.ns.minimum, fixup.ns.maximum])
    fixup_ns = np.broadcast_to(ns[:, None], known.fixup_ns.shape).copy()
    return RoundTrip(known.what, known.title, fixup, known.page_us, fixup_ns)


def _thrice(values: Floats) -> Floats:
    return np.broadcast_to(values, (3, len(values))).copy()


def _bounds(measurement: Measurement | None) -> Floats:
    """Median, least and most in ns; 0 for what was not measured."""
    if measurement is None:
        return np.zeros(3)
    spread = measurement.spread
    return np.array([spread.median, spread.minimum, spread.maximum])


# --- break-even ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From how many fixups a page scratch costs more time than swap.

    Attributes:
        swap: what MAP_PRIVATE's pages go to.
        swap_title: the same in words.
        engine: what drops pages.
        fixup: what is made again, and for how much.
        page_swap_us: a page without fixups by swap.
        swap_fixup_ns: by swap, ns more for each fixup: how it compresses depends on them.
        page_scratch_us: the same by the engine.
        fixups: the number; infinite where the lines don't meet, at most 0 where swap is faster for
            a page without fixups.
    """

    swap: str
    swap_title: str
    engine: str
    fixup: FixupCost
    page_swap_us: Spread
    swap_fixup_ns: float
    page_scratch_us: Spread
    fixups: Spread

    @property
    def pays(self) -> Pays:
        """Whether scratch takes less time: for no page, for some, or whatever fits in a page."""
        if self.fixups.median <= 0:
            return "never"
        return "always" if self.more_than_fit else "up to"

    @property
    def more_than_fit(self) -> bool:
        """No page has so many fixups."""
        return self.fixups.median > WORDS_A_PAGE


def break_even(swap: RoundTrip, scratch: RoundTrip) -> BreakEven:
    """Where two lines meet."""
    assert scratch.fixup is not None
    figures = [swap.page_us, swap.fixup_ns, scratch.page_us, scratch.fixup_ns]
    if swap.page_us.shape != scratch.page_us.shape:  # Not measured in the same rounds.
        figures = [_over_rounds(values) for values in figures]
    swap_us, swap_ns, scratch_us, scratch_ns = figures
    # The least of the meetings has the most that scratch may cost.
    values = _meeting(swap_us, swap_ns, scratch_us[[0, 2, 1]], scratch_ns[[0, 2, 1]])
    return BreakEven(
        swap=swap.what,
        swap_title=swap.title,
        engine=scratch.what,
        fixup=scratch.fixup,
        page_swap_us=swap.spread_at(0),
        swap_fixup_ns=float(np.median(swap.fixup_ns[0])),
        page_scratch_us=scratch.spread_at(0),
        fixups=Spread(_median(values[0]), float(values[1].min()), float(values[2].max())),
    )


def break_evens(swaps: Iterable[RoundTrip], scratches: Sequence[RoundTrip]) -> list[BreakEven]:
    """Each swap against each engine with each kind of fixup."""
    return [break_even(swap, scratch) for swap in swaps for scratch in scratches]


def _median(values: Floats) -> float:
    """Of values that may be infinite; between the two infinities the lower, which is for swap."""
    ordered = np.sort(values)
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    return (low + high) / 2 if np.isfinite(low) and np.isfinite(high) else low


def _over_rounds(values: Floats) -> Floats:
    """Median, least and most: shape (3, 1)."""
    return np.array([[np.median(values[0])], [values[1].min()], [values[2].max()]])


def _meeting(swap_us: Floats, swap_ns: Floats, scratch_us: Floats, scratch_ns: Floats) -> Floats:
    """Where lines meet; infinite where scratch is below for ever, minus infinite where swap is."""
    gain_ns, slope = (swap_us - scratch_us) * 1e3, scratch_ns - swap_ns
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        meeting = gain_ns / slope
    return np.where(slope > 0, meeting, np.where(gain_ns > 0, np.inf, -np.inf))
