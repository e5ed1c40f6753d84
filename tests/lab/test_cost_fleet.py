# SPDX-License-Identifier: Apache-2.0
"""A fleet from the figures of one machine: the sums, by hand."""

from __future__ import annotations

from mmap import PAGESIZE

import numpy as np
import pytest
from support.costs import distribution_of_counts, make_costs, make_line

from mapscratch.lab.cost.costs import Fit, Line, Point
from mapscratch.lab.cost.fleet import Fleet, Plan, plan_fleet
from mapscratch.lab.cost.model import Layout, device
from mapscratch.lab.rig.results import Spread

PAGES = distribution_of_counts(
    "test pages", np.full(1000, 100), relative_share=None, layout=Layout(0.5, 0.01)
)


def plan(fleet: Fleet, strategy: str, swap: str | None = None) -> Plan:
    (found,) = (one for one in fleet.plans if (one.strategy, one.swap) == (strategy, swap))
    return found


def test_the_sums_by_hand():
    fleet = plan_fleet(make_costs(), PAGES, 10, 3, compression=0.25)
    swapfile, zram = plan(fleet, "private", "swap.file"), plan(fleet, "private", "swap.zram")
    lazyfree, dontneed = plan(fleet, "lazyfree"), plan(fleet, "dontneed")
    pages = 30_000
    assert (len(fleet.plans), fleet.pages) == (4, pages)
    assert swapfile.seconds.median == pytest.approx(pages * 60.0 / 1e6)
    # The kernel's work alone: the call that reclaims and a fault that gets a page.
    assert swapfile.cpu_seconds.median == pytest.approx(pages * (4.0 + 0.9) / 1e6)
    assert zram.cpu_seconds.median == zram.seconds.median == pytest.approx(pages * 14.2 / 1e6)
    assert lazyfree.seconds.median == pytest.approx(pages * (7.0 + 3.0) / 1e6)
    assert swapfile.written_bytes == zram.written_bytes == pages * PAGESIZE
    assert lazyfree.written_bytes == dontneed.written_bytes == 0
    assert (swapfile.kept_bytes, zram.kept_bytes) == (0, pages * PAGESIZE // 4)
    # lazyfree has a copy of the half page beside each as well, and a table of 100 fixups.
    assert lazyfree.private_bytes == pages * (PAGESIZE * 3 // 2 + 1600)
    assert dontneed.private_bytes == pages * (PAGESIZE + 1600)
    assert lazyfree.kept_bytes == dontneed.kept_bytes == pages * 1600
    assert swapfile.private_bytes == pages * PAGESIZE
    assert fleet.page_cache_bytes == 3 * 1500 * PAGESIZE


def test_processes_that_were_seen_say_how_many_pages_each_has():
    fleet = plan_fleet(make_costs(), PAGES, 10, 3, pages_each=12.5)
    assert fleet.pages == 375
    assert fleet.page_cache_bytes == 3 * 1500 * PAGESIZE


def test_processor_time_is_what_was_measured_where_it_was():
    lines = [
        make_line("swap.file", (60.0, 0.0), cpu_us=Spread(12.0, 10.0, 15.0)),
        # Twice the processor time of the clock's, with 256.5 fixups a page as with 100.
        make_line("lazyfree", (7.0, 30.0), cpu_us=Spread(29.39, 29.39, 29.39)),
    ]
    fleet = plan_fleet(make_costs(lines=lines), PAGES, 10, 3)
    swapfile, lazyfree = plan(fleet, "private", "swap.file"), plan(fleet, "lazyfree")
    assert swapfile.cpu_seconds == Spread(*(pytest.approx(0.03 * us) for us in (12.0, 10.0, 15.0)))
    assert lazyfree.cpu_seconds.median == pytest.approx(2 * lazyfree.seconds.median)


def test_processor_time_is_of_pages_as_they_were_measured_however_they_lie_here():
    # 20 µs where measured: a page and its mapping alone. Here half a page lies beside each.
    measured = Point(100.0, 20.0, 20.0, 20.0)
    fits = (Fit(15.0, 40.0, 4.0, 100.0),)
    line = Line(
        "lazyfree", "known values", fits, (measured,), ((0.0, 0.01),), Spread(10.0, 10.0, 10.0)
    )
    found = plan(plan_fleet(make_costs(lines=[line], nanoseconds={}), PAGES, 1, 1), "lazyfree")
    assert found.seconds.median == pytest.approx(1000 * (15.0 + 4.0 + 0.5 * 4.0 + 1.0) / 1e6)
    assert found.cpu_seconds.median == pytest.approx(found.seconds.median / 2)


def test_another_device_is_one_more_swap():
    fleet = plan_fleet(make_costs(), PAGES, 10, 3, other=device("disk"))
    once, ahead = (plan(fleet, "private", f"swap.device{how}") for how in ("", ".ahead"))
    assert once.seconds.median == pytest.approx(30_000 * 10_004.9 / 1e6)
    assert ahead.seconds.median < once.seconds.median
    assert once.cpu_seconds.median == pytest.approx(30_000 * 4.9 / 1e6)
