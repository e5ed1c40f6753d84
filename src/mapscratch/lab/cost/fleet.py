# SPDX-License-Identifier: Apache-2.0
"""What many hosts would write, read, hold and compute, from the figures of this one.

Every process has pages that relocation fixed up; each host takes all of them away once, and they
all come back. How many pages a process has may differ: then the processes of each host are drawn
from those that were seen. It is a multiplication, not a simulation: what happens on a device that
many use at a time is not in it, and `Fleet.assumptions` says what else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapscratch.errors import UserError
from mapscratch.lab.cost.costs import SQUEEZE, Costs
from mapscratch.lab.cost.model import (
    DEVICE,
    DEVICE_AHEAD,
    Device,
    Layout,
    RoundTrip,
    scratch_lines,
    swap_lines,
)
from mapscratch.lab.rig.results import ENGINES, Spread

Pages: TypeAlias = NDArray[np.int64]

TABLE_ENTRY = 16
"""Bytes in which an engine keeps a known value: its offset, and itself."""
ASSUMED_COMPRESSION = 1 / 3
"""Of a page in zram or zswap, where it was not tried what pages compress to."""
MOST_PROCESSES = 10**13
MOST_HOSTS = 10**6
_SEED = 2004
_HOSTS_AT_A_TIME = 4096
_COMPRESSED = ("swap.zram", "swap.zswap")
_ON_A_DEVICE = ("swap.file", "swap.partition", DEVICE, DEVICE_AHEAD)


class FleetError(UserError, ValueError):
    """Such a fleet can't be planned; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """The processes of a fleet.

    Attributes:
        title: what they are.
        pages: int64, shape (k,), pages with fixups of each process that was seen; those of a fleet
            are drawn from them, one as often as the other.
        layout: what is mapped beside these pages.
        fixups: on a page, in the mean.
    """

    title: str
    pages: Pages
    layout: Layout
    fixups: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One strategy in the whole fleet; bytes and seconds of all hosts together.

    Attributes:
        strategy: ``private``, or the engine.
        swap: what private pages go to; None for an engine.
        title: both in words.
        pages: with fixups.
        written_pages: to swap.
        read_pages: from swap.
        written_bytes: the same in bytes.
        read_bytes: the same in bytes.
        device_bytes: written to and read from a device, not only compressed in memory.
        private_bytes: memory of the processes alone before reclaim, tables of fixups included.
        kept_bytes: of memory, what their pages still take after reclaim.
        fullest_host_bytes: of `private_bytes`, the host that has most.
        seconds: that processes wait, one page at a time.
        cpu_seconds: of processor time.
    """

    strategy: str
    swap: str | None
    title: str
    pages: int
    written_pages: int
    read_pages: int
    written_bytes: int
    read_bytes: int
    device_bytes: int
    private_bytes: int
    kept_bytes: int
    fullest_host_bytes: int
    seconds: Spread
    cpu_seconds: Spread


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a fleet would do.

    Attributes:
        processes: on each host.
        hosts: how many.
        population: what the processes are.
        pages: with fixups, of all processes.
        page_cache_bytes: memory of the files' own pages, once a host and kind of process; what
            fixups are made on again.
        plans: one for each swap and each engine.
        assumptions: what is taken for granted, a sentence each.
    """

    processes: int
    hosts: int
    population: str
    pages: int
    page_cache_bytes: int
    plans: tuple[Plan, ...]
    assumptions: tuple[str, ...]

    def plan(self, strategy: str, swap: str | None = None) -> Plan | None:
        """The plan of that strategy; None if there is none."""
        return next(
            (one for one in self.plans if (one.strategy, one.swap) == (strategy, swap)), None
        )


def plan_fleet(
    costs: Costs,
    population: Population,
    processes: int,
    hosts: int,
    *,
    other: Device | None = None,
    compression: float | None = None,
) -> Fleet:
    """Reckons what a fleet would do.

    Args:
        costs: of this machine.
        population: what its processes are.
        processes: on each host.
        hosts: how many.
        other: another device to swap to.
        compression: what a page takes in zram or zswap: a share of its size; None if that is not
            known.

    Raises:
        FleetError: see `check_fleet`.
    """
    check_fleet(processes, hosts)
    by_host = np.concatenate(list(_pages_by_host(population, processes, hosts)))
    share = ASSUMED_COMPRESSION if compression is None else compression
    lines: list[RoundTrip] = list(swap_lines(costs, other, population.layout))
    lines += [
        line
        for line in scratch_lines(costs, population.layout)
        if line.fixup is not None and line.fixup.fixup == "known value"
    ]
    return Fleet(
        processes=processes,
        hosts=hosts,
        population=population.title,
        pages=int(by_host.sum()),
        page_cache_bytes=_page_cache_bytes(population, processes, hosts),
        plans=tuple(_plan(line, costs, population, by_host, share) for line in lines),
        assumptions=tuple(_assumptions(costs, population, share, compression is not None, other)),
    )


def check_fleet(processes: int, hosts: int) -> None:
    """Whether a fleet of so many processes on each of so many hosts can be planned.

    Raises:
        FleetError: there is no process, or more than `MOST_PROCESSES`.
    """
    if processes < 1 or hosts < 1 or processes * hosts > MOST_PROCESSES or hosts > MOST_HOSTS:
        raise FleetError(
            f"a fleet has 1 to {MOST_PROCESSES:.0e} processes on at most {MOST_HOSTS:.0e} hosts, "
            f"not {processes:,} on each of {hosts:,}"
        )


def _pages_by_host(population: Population, processes: int, hosts: int) -> Iterator[Pages]:
    """Pages with fixups of each host, some hosts at a time."""
    kinds = len(population.pages)
    generator = np.random.default_rng(_SEED)
    for start in range(0, hosts, _HOSTS_AT_A_TIME):
        count = min(_HOSTS_AT_A_TIME, hosts - start)
        if processes < kinds:
            yield population.pages[generator.integers(kinds, size=(count, processes))].sum(axis=1)
        else:
            # How many processes of each kind a host has, not which process is what.
            drawn = generator.multinomial(processes, np.full(kinds, 1 / kinds), size=count)
            yield drawn.astype(np.int64) @ population.pages


def _page_cache_bytes(population: Population, processes: int, hosts: int) -> int:
    """Each kind that a host is likely to have at all, once a host."""
    kinds = len(population.pages)
    likely = 1 - (1 - 1 / kinds) ** processes
    pages = float(population.pages.sum()) * likely * (1 + population.layout.clean_pages)
    return round(hosts * pages * PAGESIZE)


def _plan(
    line: RoundTrip, costs: Costs, population: Population, by_host: Pages, compression: float
) -> Plan:
    pages = int(by_host.sum())
    by_swap = line.fixup is None
    moved = pages if by_swap else 0
    strategy = "private" if by_swap else line.what
    squeezed = costs.squeezed(strategy)
    page_bytes = float(PAGESIZE)
    kept_bytes = 0.0
    if not by_swap:
        kept_bytes = TABLE_ENTRY * population.fixups
        page_bytes += kept_bytes
        if line.what == "lazyfree":  # A copy of what lies between as well.
            page_bytes += PAGESIZE * population.layout.clean_pages
    elif line.what in _COMPRESSED:
        kept_bytes = PAGESIZE * compression
    on_device = line.what in _ON_A_DEVICE
    return Plan(
        strategy=strategy,
        swap=line.what if by_swap else None,
        title=f"private, {line.title}" if by_swap else line.title,
        pages=pages,
        written_pages=moved,
        read_pages=moved,
        written_bytes=moved * PAGESIZE,
        read_bytes=moved * PAGESIZE,
        device_bytes=2 * moved * PAGESIZE if on_device else 0,
        private_bytes=round(pages * page_bytes),
        kept_bytes=round(pages * kept_bytes),
        fullest_host_bytes=round(int(by_host.max()) * page_bytes),
        seconds=_seconds(_sum(line.spread_at(population.fixups), squeezed), pages),
        cpu_seconds=_seconds(_sum(_processor_us(line, costs, population.fixups), squeezed), pages),
    )


def _processor_us(trip: RoundTrip, costs: Costs, fixups: float) -> Spread:
    """µs of processor time a page: as it was measured, or the round trip but what a device takes.

    It was measured for pages with other numbers of fixups, and with other things mapped beside
    them; the share of the round trip counts.
    """
    whole = trip.spread_at(fixups)
    line = costs.line(trip.what)
    if line and line.cpu_us and line.points:
        points = [(one.fixups, one.clean_pages, one.mappings) for one in line.points]
        fixed, clean_pages, mappings = np.mean(points, axis=0).tolist()
        ratio = whole.median / line.round_trip_us(fixed, clean_pages, mappings).median
        cpu = line.cpu_us
        return Spread(cpu.median * ratio, cpu.minimum * ratio, cpu.maximum * ratio)
    if trip.what not in _ON_A_DEVICE:
        return whole
    out, fault = costs.measurement("swap.file.out"), costs.measurement("fault.copy_on_write")
    known = [one.spread for one in (out, fault) if one]
    if not known:
        return Spread(0.0, 0.0, whole.maximum)
    return Spread(
        min(sum(one.median for one in known) / 1e3, whole.median),
        min(sum(one.minimum for one in known) / 1e3, whole.minimum),
        min(sum(one.maximum for one in known) / 1e3, whole.maximum),
    )


def _sum(one: Spread, other: Spread) -> Spread:
    """At least, the least of both; at most, the most."""
    return Spread(
        one.median + other.median, one.minimum + other.minimum, one.maximum + other.maximum
    )


def _seconds(each_us: Spread, pages: int) -> Spread:
    return Spread(
        each_us.median * pages / 1e6, each_us.minimum * pages / 1e6, each_us.maximum * pages / 1e6
    )


def _assumptions(
    costs: Costs,
    population: Population,
    compression: float,
    tried: bool,
    other: Device | None,
) -> Iterator[str]:
    kinds = len(population.pages)
    if kinds == 1:
        pages = int(population.pages[0])
        yield f"Every process has {pages:,} page{'s' if pages != 1 else ''} with fixups."
    else:
        yield (
            f"Each host's processes are drawn from the {kinds:,} that were seen, with "
            f"{population.pages.mean():,.0f} pages with fixups in the mean."
        )
    clean_pages = population.layout.clean_pages
    fixups = f"{population.fixups:.0f}"
    yield f"A page has {fixups} fixup{'s' if fixups != '1' else ''}, " + (
        f"and {clean_pages:.2g} pages without any lie beside it."
        if clean_pages
        else "and nothing else is mapped beside it."
    )
    yield (
        "Each host takes all of these pages away once, and all of them come back once; multiply by "
        "how often that happens."
    )
    yield (
        "Every host is as fast as this one, a page costs as much among many as alone, and no "
        "device is kept waiting by another page."
    )
    yield (
        "Engines make fixups from known values; the files' pages stay in the page cache, once a "
        "host. If they were read again too, each would cost a read from the file's device."
    )
    yield _squeeze_assumption(costs)
    yield _processor_assumption(costs, other)
    engines = [line.what for line in map(costs.line, ENGINES) if line]
    if engines:
        yield (
            f"Known values ({', '.join(engines)}) take {TABLE_ENTRY} bytes a fixup that is kept: "
            "ordinary memory, which counts as left, and which the kernel may swap; a fixup that "
            "works its value out needs none."
        )
    if "lazyfree" in engines:
        yield "lazyfree holds the pages between in every process, too."
    if any(costs.line(what) for what in _COMPRESSED):
        how = "by zlib -1, one library" if tried else "assumed"
        yield f"In zram and zswap a page takes {compression:.0%} of its size ({how})."
    if costs.line("dontneed"):
        yield (
            "dontneed drops its own pages in time; where memory runs short faster than that the "
            "kernel swaps some (`mapscratch compare --pressure cgroup` counts them)."
        )
    if other:
        yield (
            f"{other.title} is assumed, not measured: the latency once for a page that comes back "
            "alone, a part of it with read-ahead as it was here; writing is not waited for."
        )


def _squeeze_assumption(costs: Costs) -> str:
    more = [
        (name, costs.squeezed(name).median)
        for name in ("private", *ENGINES)
        if costs.measurement(f"{SQUEEZE}.{name}")
    ]
    if not more:
        return (
            "Pages leave as MADV_PAGEOUT takes them. Under memory pressure the kernel has to look "
            "for them, which takes longer: --swap, as root, measures by how much."
        )
    told = ", ".join(f"{name} {us:.2g} µs" for name, us in more)
    return (
        "The kernel looks for the pages: a page takes so much more than by MADV_PAGEOUT, as "
        f"measured in a squeezed control group: {told}."
    )


def _processor_assumption(costs: Costs, other: Device | None) -> str:
    reckoned = (
        "the round trip without what a device takes (for a device, the call that reclaims and a "
        "page fault that gets a page)"
    )
    if not any(line.cpu_us for line in costs.lines):
        return f"Processor time is {reckoned}."
    beside = f"; for {other.title}, {reckoned}" if other else ""
    return (
        "Processor time is that of the processes, as measured; the kernel's own threads are not in "
        f"it{beside}."
    )
