# SPDX-License-Identifier: Apache-2.0
"""A fleet from the figures of one machine: the sums, their speed, and a real one of eight."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elf_oracle import needs_readelf
from hypothesis import given, settings
from hypothesis import strategies as st
from support.costs import make_costs, make_line
from support.patience import patient

from mapscratch.elf import default_libraries
from mapscratch.lab.cost.costs import Costs, Fit, Line, Point
from mapscratch.lab.cost.fleet import Fleet, FleetError, Plan, Population, plan_fleet
from mapscratch.lab.cost.lines import LineTimer, regressors
from mapscratch.lab.cost.measure import measurements_of
from mapscratch.lab.cost.model import Layout, device
from mapscratch.lab.cost.squeeze_costs import SqueezeTimer
from mapscratch.lab.cost.timers import Figures
from mapscratch.lab.rig.machine import probe_temporary_memory_cgroup, probe_temporary_swap
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.workload import Workload, read_workload

COSTS = make_costs()


def population(*pages: int) -> Population:
    return Population("test processes", np.array(pages, dtype=np.int64), Layout(0.5, 0.01), 100.0)


# --- sums ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 5_000))
def test_equal_processes_are_a_multiplication(processes, hosts, pages):
    fleet = plan_fleet(COSTS, population(pages), processes, hosts)
    total = processes * hosts * pages
    assert fleet.pages == total
    for plan in fleet.plans:
        by_swap = plan.strategy == "private"
        assert plan.pages == total
        assert plan.written_pages == plan.read_pages == total * by_swap
        assert plan.written_bytes == plan.read_bytes == total * by_swap * PAGESIZE
        assert plan.fullest_host_bytes == pytest.approx(plan.private_bytes / hosts)
        assert plan.cpu_seconds.median <= plan.seconds.median * (1 + 1e-9)
        assert plan.seconds.minimum <= plan.seconds.median <= plan.seconds.maximum


@settings(deadline=None)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=20), st.integers(1, 500))
def test_processes_of_a_fleet_are_drawn_from_those_that_were_seen(pages, hosts):
    fleet = plan_fleet(COSTS, population(*pages), 200, hosts)
    again = plan_fleet(COSTS, population(*pages), 200, hosts)
    count = 200 * hosts
    assert again.pages == fleet.pages
    assert count * min(pages) <= fleet.pages <= count * max(pages)
    deviation = np.std(pages) * np.sqrt(count)
    assert fleet.pages == pytest.approx(count * np.mean(pages), abs=6 * deviation + 1)


def test_the_sums_by_hand():
    fleet = plan_fleet(COSTS, population(1000), 10, 3, compression=0.25)
    swapfile, zram = fleet.plan("private", "swap.file"), fleet.plan("private", "swap.zram")
    lazyfree, dontneed = fleet.plan("lazyfree"), fleet.plan("dontneed")
    assert swapfile and zram and lazyfree and dontneed
    pages = 30_000
    assert swapfile.seconds.median == pytest.approx(pages * 60.0 / 1e6)
    # The kernel's work alone: the call that reclaims and a fault that gets a page.
    assert swapfile.cpu_seconds.median == pytest.approx(pages * (4.0 + 0.9) / 1e6)
    assert zram.cpu_seconds.median == zram.seconds.median == pytest.approx(pages * 14.2 / 1e6)
    assert lazyfree.seconds.median == pytest.approx(pages * (7.0 + 3.0) / 1e6)
    assert (swapfile.device_bytes, zram.device_bytes) == (2 * pages * PAGESIZE, 0)
    assert (swapfile.kept_bytes, zram.kept_bytes) == (0, pages * PAGESIZE // 4)
    # lazyfree has a copy of the half page beside each as well, and a table of 100 fixups.
    assert lazyfree.private_bytes == pages * (PAGESIZE * 3 // 2 + 1600)
    assert lazyfree.kept_bytes == pages * 1600
    assert dontneed.private_bytes == pages * (PAGESIZE + 1600)
    assert dontneed.kept_bytes == pages * 1600
    assert swapfile.private_bytes == pages * PAGESIZE
    assert fleet.page_cache_bytes == 3 * 1500 * PAGESIZE
    assert fleet.plan("kernel") is None


def test_processor_time_is_what_was_measured_where_it_was():
    lines = [
        make_line("swap.file", (60.0, 0.0), cpu_us=Spread(12.0, 10.0, 15.0)),
        # Twice the processor time of the clock's, with 256.5 fixups a page as with 100.
        make_line("lazyfree", (7.0, 30.0), cpu_us=Spread(29.39, 29.39, 29.39)),
    ]
    fleet = plan_fleet(make_costs(lines=lines), population(1000), 10, 3)
    swapfile, lazyfree = fleet.plan("private", "swap.file"), fleet.plan("lazyfree")
    assert swapfile and lazyfree
    assert swapfile.cpu_seconds == Spread(*(pytest.approx(0.03 * us) for us in (12.0, 10.0, 15.0)))
    assert lazyfree.cpu_seconds.median == pytest.approx(2 * lazyfree.seconds.median)
    assert any("as measured" in one for one in fleet.assumptions)


def test_processor_time_is_of_pages_as_they_were_measured_however_they_lie_here():
    # 20 µs where measured: a page and its mapping alone. Here half a page lies beside each.
    measured = Point(100.0, 0.0, 0.01, Spread(20.0, 20.0, 20.0))
    fits = (Fit(15.0, 40.0, 4.0, 100.0),)
    line = Line("lazyfree", "known values", fits, (measured,), Spread(10.0, 10.0, 10.0))
    plan = plan_fleet(make_costs(lines=[line], nanoseconds={}), population(1000), 1, 1).plan(
        "lazyfree"
    )
    assert plan
    assert plan.seconds.median == pytest.approx(1000 * (15.0 + 4.0 + 0.5 * 4.0 + 1.0) / 1e6)
    assert plan.cpu_seconds.median == pytest.approx(plan.seconds.median / 2)


def test_where_the_kernel_looks_for_pages_a_squeezed_group_tells_how_long_it_takes():
    nanoseconds = {"squeeze.private": 4_000.0, "squeeze.lazyfree": 2_500.0}
    costs = make_costs(nanoseconds=nanoseconds)
    without, with_it = (
        plan_fleet(each, population(1000), 10, 3, other=device("disk"))
        for each in (make_costs(nanoseconds={}), costs)
    )
    assert len(without.plans) == len(with_it.plans) == 5
    for before, after in zip(without.plans, with_it.plans, strict=True):
        more = nanoseconds.get(f"squeeze.{after.strategy}", 0.0) / 1e3
        for what in ("seconds", "cpu_seconds"):
            spreads = getattr(before, what), getattr(after, what)
            for part, share in (("minimum", 0.9), ("median", 1.0), ("maximum", 1.1)):
                one, other = (getattr(spread, part) for spread in spreads)
                assert other == pytest.approx(one + 30_000 * more * share / 1e6), (after, what)
    assert any(
        "squeezed control group: private 4 µs, lazyfree 2.5 µs." in one
        for one in with_it.assumptions
    )
    assert any("--swap, as root, measures by how much" in one for one in without.assumptions)


def test_another_device_is_one_more_swap_and_its_assumption_is_told():
    fleet = plan_fleet(COSTS, population(1000), 10, 3, other=device("disk"))
    once, ahead = fleet.plan("private", "swap.device"), fleet.plan("private", "swap.device.ahead")
    assert once and ahead
    assert once.seconds.median == pytest.approx(30_000 * 10_004.9 / 1e6)
    assert ahead.seconds.median < once.seconds.median
    assert once.cpu_seconds.median == pytest.approx(30_000 * 4.9 / 1e6)
    assert any("disk at 10,000 µs is assumed" in one for one in fleet.assumptions)


def test_what_is_assumed_is_told():
    told = " ".join(plan_fleet(COSTS, population(10, 30), 1, 1).assumptions)
    assert "drawn from the 2 that were seen, with 20 pages" in told
    assert "33% of its size (assumed)" in told
    tried = " ".join(plan_fleet(COSTS, population(10), 1, 1, compression=0.2).assumptions)
    assert "20% of its size (by zlib -1, one library)" in tried


@pytest.mark.parametrize(("processes", "hosts"), [(0, 1), (1, 0), (10**9, 10**9)])
def test_no_fleet_without_processes_and_none_without_end(processes, hosts):
    with pytest.raises(FleetError, match="1 to 1e"):
        plan_fleet(COSTS, population(1), processes, hosts)


def test_a_million_processes_of_many_kinds_take_seconds_at_most():
    kinds = np.random.default_rng(1).integers(1, 5000, 300)
    begun = time.process_time()
    for processes, hosts in ((1000, 1000), (1, 1_000_000), (1_000_000, 1)):
        fleet = plan_fleet(COSTS, population(*kinds), processes, hosts)
        assert fleet.pages == pytest.approx(1_000_000 * kinds.mean(), rel=0.01)
    # Of its own processor time: it takes well under a second for each but the second.
    assert time.process_time() - begun < 30


# --- against a real one -------------------------------------------------------------------------

RUNNABLE = tuple(
    name
    for name in ("private", "lazyfree", "kernel")
    if name == "private" or not STRATEGIES[name].unavailable()
)
PROCESSES = 8
LIBRARIES = default_libraries()[:2]
PAGES = 200


def run(pages: int, folder: Path) -> dict[str, Any]:
    """The document of `mapscratch compare --pressure cgroup`, of one round of eight processes.

    A process of its own, whose workers have little else in the group that the kernel could take.
    """
    file = folder / "compared.json"
    strategies = [word for name in RUNNABLE for word in ("--strategy", name)]
    command = [sys.executable, "-m", "mapscratch", "compare", "--swap", "file", *strategies]
    command += ["--pressure", "cgroup", "-n", str(PROCESSES), "--rounds", "1"]
    command += ["--pages", str(pages), "--seconds", "30", "--json", file, *LIBRARIES]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=patient(50))
    document: dict[str, Any] = json.loads(file.read_text())
    assert document["wrong_words"] == 0
    assert [one["strategy"] for one in document["results"]] == list(RUNNABLE)
    return document


def planned_from(costs: Costs, pages: int) -> tuple[Fleet, Workload]:
    workload = read_workload(LIBRARIES, pages=pages)
    fixups, clean_pages, mappings = regressors(workload)
    these = Population("workers", np.array([workload.pages]), Layout(clean_pages, mappings), fixups)
    return plan_fleet(costs, these, PROCESSES, 1), workload


def plan_of(fleet: Fleet, strategy: str) -> Plan:
    plan = fleet.plan(strategy, "swap.file" if strategy == "private" else None)
    assert plan
    return plan


@pytest.fixture
def squeezable() -> None:
    for probe in (probe_temporary_swap("file", 256 << 20), probe_temporary_memory_cgroup()):
        if not probe:
            pytest.skip(probe.reason)


@needs_readelf
def test_pages_of_a_real_comparison_of_eight_are_as_planned(squeezable, tmp_path):
    lines = [make_line("swap.file" if name == "private" else name, (1.0,)) for name in RUNNABLE]
    fleet, workload = planned_from(make_costs(lines=lines), PAGES)
    for found in run(PAGES, tmp_path)["results"]:
        plan, figures = plan_of(fleet, found["strategy"]), found["figures"]
        assert figures["pages"]["median"] == plan.pages == PROCESSES * workload.pages
        # The kernel may leave a page in memory, and takes some of the workers' own in its place.
        few = plan.pages * 0.15
        for figure, planned in (
            ("swapped_out_pages", plan.written_pages),
            ("swapped_in_pages", plan.read_pages),
        ):
            spread, kept = figures[figure], figures["kept_pages"]["maximum"]
            # Where others want the processors and the disk, too, the squeeze may end early.
            assert spread["minimum"] - few <= planned <= spread["maximum"] + kept + few
            assert spread["maximum"] >= planned / 4
        table = plan.kept_bytes  # The workers' ordinary memory, which asked_bytes doesn't count.
        asked = plan.private_bytes - table
        assert figures["asked_bytes"]["median"] == pytest.approx(asked, rel=0.1)


ROUNDS = 5


@pytest.mark.stress
@needs_readelf
@pytest.mark.timeout(300)
def test_a_real_comparison_of_eight_takes_as_long_as_was_planned(squeezable, tmp_path):
    # Noise may spoil one run, not two.
    apart = plan_and_comparison(tmp_path) and plan_and_comparison(tmp_path)
    assert not apart


def plan_and_comparison(folder: Path) -> list[str]:
    """Where µs a page, as planned from a run of `cost` and as compared, have no spread in common.

    In turns: whatever else happens on this machine happens to both.
    """
    pages = 1000
    found: dict[str, list[float]] = {}
    said: list[str] = []
    lines = LineTimer(folder, ("file",), said.append)
    timers = (lines, SqueezeTimer(folder, ("file",), said.append))
    figures: list[Figures] = []
    for number in range(1, ROUNDS + 1):
        figures.append(timers[0].once(number) | timers[1].once(number))
        for one in run(pages, folder)["rounds"]:
            found.setdefault(one["strategy"], []).append(one["round_trip_us"])
    measured = tuple(measurements_of(timers, figures))
    costs = Costs(measured, tuple(lines.lines()), (), {}, (), ROUNDS, 0.0)
    fleet, _ = planned_from(costs, pages)
    apart = []
    for strategy, times in found.items():
        plan = plan_of(fleet, strategy)
        least, most = (
            seconds * 1e6 / plan.pages for seconds in (plan.seconds.minimum, plan.seconds.maximum)
        )
        if least > max(times) or most < min(times):
            apart.append(f"{strategy}: {least:.1f} to {most:.1f} µs planned, {times} found")
    return apart
