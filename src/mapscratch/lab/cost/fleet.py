# SPDX-License-Identifier: Apache-2.0
"""What many hosts would write, hold and compute: the figures of this one, multiplied.

All pages with fixups of all processes leave memory once, and come back once. `docs/cost.md` says
what else is assumed.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from mmap import PAGESIZE

import numpy as np

from mapscratch.lab.cost import model
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.model import Device, Floats, RoundTrip
from mapscratch.lab.cost.pages import Distribution
from mapscratch.lab.rig.results import Spread

TABLE_ENTRY = 16
"""Bytes in which an engine keeps a known value: its offset, and itself."""
ASSUMED_COMPRESSION = 1 / 3
"""Of a page in zram or zswap, where it was not tried what pages compress to."""
_ON_A_DEVICE = ("swap.file", "swap.partition", model.DEVICE, model.DEVICE_AHEAD)


@dataclass(frozen=True, slots=True)
class Plan:
    """One strategy in the whole fleet; all figures are of all hosts together."""

    strategy: str  # ``private`` or an engine
    swap: str | None  # what private pages go to
    title: str
    written_bytes: int  # to swap, from which as much comes back
    private_bytes: int  # of the processes alone before reclaim, tables of fixups included
    kept_bytes: int  # what pages still take after it
    seconds: Spread  # that processes wait, one page at a time
    cpu_seconds: Spread  # of processor time


@dataclass(frozen=True, slots=True)
class Fleet:
    """What so many processes on each of so many hosts would do, by each swap and each engine."""

    processes: int
    hosts: int
    pages: int  # with fixups, of all processes
    page_cache_bytes: int  # the files' own pages, on which fixups are made, once a host
    compression: float  # the share of its size that a page takes in zram or zswap
    plans: tuple[Plan, ...]


def plan_fleet(
    costs: Costs,
    pages: Distribution,
    processes: int,
    hosts: int,
    *,
    pages_each: float | None = None,
    other: Device | None = None,
    compression: float | None = None,
) -> Fleet:
    """Reckons what a fleet would do, its hosts like this one, its processes with these pages.

    A process has `pages_each` of them in the mean, or all. In zram or zswap a page takes a share of
    its size, and there may be another device to swap to.
    """
    layout = pages.layout or model.ALONE
    count = round(processes * hosts * (pages.total_pages if pages_each is None else pages_each))
    share = ASSUMED_COMPRESSION if compression is None else compression
    trips = model.swap_lines(costs, other, layout)
    trips += [one for one in model.scratch_lines(costs, layout) if one.kind == "known value"]
    in_files = hosts * pages.total_pages * (1 + layout.clean_pages) * PAGESIZE
    plans = tuple(_plan(trip, costs, pages, count, share) for trip in trips)
    return Fleet(processes, hosts, count, round(in_files), share, plans)


def _plan(
    trip: RoundTrip, costs: Costs, pages: Distribution, count: int, compression: float
) -> Plan:
    swapped, what = trip.fixup is None, trip.what
    # An engine keeps a table of fixups, and lazyfree has a copy of what lies between as well.
    table = 0.0 if swapped else TABLE_ENTRY * pages.mean
    between = (pages.layout or model.ALONE).clean_pages if what == "lazyfree" else 0.0
    in_memory = PAGESIZE * compression if what in ("swap.zram", "swap.zswap") else table
    waiting_us = trip.at(pages.mean)[:, 0]
    times = (waiting_us, _processor_us(trip, costs, waiting_us))
    waiting, processor = (Spread(*(each * count / 1e6).tolist()) for each in times)
    return Plan(
        strategy="private" if swapped else what,
        swap=what if swapped else None,
        title=f"private, {trip.title}" if swapped else trip.title,
        written_bytes=count * PAGESIZE if swapped else 0,
        private_bytes=round(count * (PAGESIZE * (1 + between) + table)),
        kept_bytes=round(count * in_memory),
        seconds=waiting,
        cpu_seconds=processor,
    )


def _processor_us(trip: RoundTrip, costs: Costs, waiting_us: Floats) -> Floats:
    """µs of processor time a page: as it was measured, or the round trip but what a device takes.

    It was measured for pages with other numbers of fixups, and with other things mapped beside
    them; the share of the round trip counts.
    """
    line = costs.line(trip.what)
    if line and line.cpu_us and line.points:
        beside = np.mean(line.layouts, axis=0).tolist()
        measured = np.median([fit.round_trip_us(line.mean_fixups, *beside) for fit in line.fits])
        cpu: Floats = np.array(astuple(line.cpu_us)) * (waiting_us[0] / measured)
        return cpu
    on_device = trip.what in _ON_A_DEVICE
    return np.minimum(model.kernel_part_us(costs), waiting_us) if on_device else waiting_us
