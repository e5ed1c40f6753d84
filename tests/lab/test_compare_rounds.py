# SPDX-License-Identifier: Apache-2.0
"""Whole experiments, small ones: every figure makes sense, and nothing stays behind."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from elf_oracle import needs_readelf
from support.patience import patient
from support.squeezing import groups_of

from mapscratch.elf import default_libraries
from mapscratch.lab.compare import rounds
from mapscratch.lab.compare.rounds import ExperimentError, compare
from mapscratch.lab.rig import surroundings
from mapscratch.lab.rig.machine.cgroups import probe_temporary_memory_cgroup
from mapscratch.lab.rig.machine.swap import SwapError, probe_temporary_swap
from mapscratch.lab.rig.results import Settings, Spread
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.workload import read_workload
from mapscratch.proc import Availability, active_swaps

pytestmark = needs_readelf

RUNNABLE = tuple(name for name, strategy in STRATEGIES.items() if not strategy.unavailable())
SETTINGS = Settings(
    processes=(1, 2),
    rounds=2,
    seconds=60.0,
    strategies=RUNNABLE,
    pressure="pageout",
    swap="none",
    pages=60,
)


def needs(probe) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not probe, reason=probe.reason)


@pytest.fixture(scope="module")
def workload():
    # libc and libcrypto: RELR, and symbols looked up from one in the other.
    return read_workload(default_libraries()[:2], pages=SETTINGS.pages)


def run(workload, settings=SETTINGS, **changes):
    said: list[str] = []
    steps: list[str] = []
    comparison = compare(
        workload,
        replace(settings, **changes),
        announce=said.append,
        progress=lambda what, share: steps.append(what),
    )
    return comparison, said, steps


def rounds_of(comparison, strategy):
    return [one for one in comparison.rounds if one.strategy == strategy]


def test_strategies_take_turns_and_nothing_is_changed(workload):
    comparison, said, steps = run(workload)
    assert said == []
    assert not [area for area in active_swaps() if f"-{os.getpid()}-" in area.path]
    assert len(steps) == len(comparison.rounds) == 2 * 2 * len(RUNNABLE)
    first = [one.strategy for one in comparison.rounds[: len(RUNNABLE)]]
    second = [one.strategy for one in comparison.rounds[len(RUNNABLE) : 2 * len(RUNNABLE)]]
    assert first == list(RUNNABLE)
    assert second == [*RUNNABLE[1:], RUNNABLE[0]]


def test_every_word_is_checked_and_right(workload):
    comparison, _, _ = run(workload, rounds=1)
    assert comparison.wrong_words == 0
    words = sum(len(library.content) for library in workload.libraries)
    for one in comparison.rounds:
        assert one.words_checked == one.processes * workload.copies * words
        assert one.pages == one.processes * workload.pages
        assert one.fixups == one.processes * workload.fixups


@pytest.mark.skipif(bool(active_swaps()), reason="there is swap here")
def test_without_swap_private_gives_nothing_back(workload):
    comparison, _, _ = run(workload, processes=(2,), rounds=1)
    for one in comparison.rounds:
        if one.strategy == "private":
            assert one.given_back_bytes == 0
            assert one.kept_pages == one.pages
            assert one.round_trip_us is None
        else:
            # With MAP_SCRATCH the kernel passes over the pages that wait in a list of another
            # processor (mm/swap.c, PAGEVEC_SIZE); the other engines see to it that none does.
            least = 0.4 if one.strategy == "kernel" else 0.95
            assert least <= one.given_back_per_mib <= 1.05
            assert one.round_trip_us is not None


def test_dropping_by_ourselves_is_no_answer_to_what_the_kernel_swaps(workload):
    (one,) = rounds_of(run(workload, processes=(2,), rounds=1)[0], "dontneed")
    assert one.swapped_out_pages is None
    assert one.swapped_in_bytes is None
    assert one.dropped_by_kernel_pages is None
    assert one.dropped_by_us_pages == one.pages
    assert one.fixups_after_page_in == one.fixups
    assert one.fixup_table_bytes is None


def test_lazyfree_makes_fixups_at_page_in(workload):
    if "lazyfree" not in RUNNABLE:
        pytest.skip(STRATEGIES["lazyfree"].unavailable())
    comparison, _, _ = run(workload, processes=(2,), rounds=1)
    (one,) = rounds_of(comparison, "lazyfree")
    # The kernel need not take every page that it is offered.
    assert one.dropped_by_kernel_pages == one.pages - one.kept_pages > one.pages / 2
    assert one.fixups_after_page_in == 0
    assert 0 < one.fixups_at_page_in <= one.fixups
    assert one.before_lazily_freed_bytes > 0
    assert one.fixup_table_bytes == 16 * one.fixups
    # A copy a process, where mappings of the file would share the page cache.
    assert one.clean_pss_bytes >= one.pages * 4096
    (shared,) = rounds_of(comparison, "private")
    assert shared.clean_pss_bytes <= one.clean_pss_bytes / 2


@pytest.mark.parametrize("kind", ["file", "zram", "zswap"])
def test_private_pages_go_to_a_temporary_swap_once_for_every_process(kind):
    probe = probe_temporary_swap(kind, 128 << 20)
    if not probe:
        pytest.skip(probe.reason)
    workload = read_workload(default_libraries()[:2], pages=500)
    processors = os.cpu_count() or 1
    comparison, said, _ = run(workload, swap=kind, rounds=1)
    assert len(said) == 1 and "removed at the end" in said[0]
    assert comparison.swap.temporary
    assert comparison.swap.kind == ("zram" if kind == "zram" else "file")
    assert comparison.swap.path not in [area.path for area in active_swaps()]
    assert comparison.wrong_words == 0
    swapped = [one.swapped_out_pages for one in rounds_of(comparison, "private")]
    assert swapped == [workload.pages, 2 * workload.pages]
    for one in rounds_of(comparison, "private"):
        assert one.swapped_in_pages == one.pages
        # The kernel holds some tens of pages in lists of each processor (mm/swap.c, PAGEVEC_SIZE).
        assert one.swap_cache_pages < 32 * processors
        assert one.major_faults > 0
        assert one.fixups_after_page_in == 0
    for name in ("lazyfree", "kernel"):
        for one in rounds_of(comparison, name):
            assert one.swapped_out_pages == 0


@needs(probe_temporary_swap("file", 192 << 20))
def test_pages_that_were_never_read_back_are_not_taken_for_read(workload, monkeypatch):
    monkeypatch.setattr("mapscratch.lab.compare.session._SECONDS_TO_LEAVE_MEMORY", 0.0)
    comparison, _, _ = run(workload, swap="file", rounds=1, strategies=("private",))
    for one in comparison.rounds:
        assert one.swapped_in_pages > 0
        # The kernel may have got rid of some, but not of all, a moment after writing them.
        assert one.swap_cache_pages is not None
        assert one.swap_cache_pages > one.swapped_in_pages / 2


@needs(probe_temporary_swap("file", 192 << 20))
def test_neither_are_those_of_a_swap_that_is_over_half_full(workload, monkeypatch):
    size = 3 * workload.mapped_pages * 4096  # for two processes
    monkeypatch.setattr(rounds, "swap_needed", lambda workload, settings: size)
    comparison, _, _ = run(workload, swap="file", rounds=1, processes=(2,), strategies=("private",))
    (one,) = comparison.rounds
    assert one.swap_cache_pages is not None
    assert one.swap_cache_pages + one.machine_pages_read >= one.swapped_in_pages > 0


@needs(probe_temporary_memory_cgroup())
@needs(probe_temporary_swap("file", 192 << 20))
def test_a_squeezed_group_says_what_every_strategy_leaks(workload):
    comparison, _, _ = run(workload, processes=(2,), rounds=1, pressure="cgroup", swap="file")
    assert comparison.wrong_words == 0
    for one in comparison.rounds:
        assert one.swapped_out_pages is not None
        assert one.swapped_out_pages <= one.pages
        assert one.cpu_us is None
    assert not groups_of(os.getpid())


def test_auto_uses_what_is_there(monkeypatch):
    monkeypatch.setattr(surroundings, "active_swaps", lambda: ["some area"])
    said: list[str] = []
    assert surroundings._swap_to_make("auto", 64 << 20, said.append) is None
    assert said == ["Swap: what is there is used as it is."]


def test_auto_says_first_what_it_makes_and_how_to_decline(monkeypatch):
    monkeypatch.setattr(surroundings, "active_swaps", list)
    answer = Availability(True, "a swapfile in /x")
    monkeypatch.setattr(surroundings, "probe_temporary_swap", lambda kind, size: answer)
    said: list[str] = []
    assert surroundings._swap_to_make("auto", 64 << 20, said.append) == "file"
    assert "a swapfile in /x of 64 MiB" in said[0]
    assert "--swap none" in said[0]


def test_auto_goes_on_without_swap_and_a_named_kind_does_not(monkeypatch):
    monkeypatch.setattr(surroundings, "active_swaps", list)
    answer = Availability(False, "you are not root")
    monkeypatch.setattr(surroundings, "probe_temporary_swap", lambda kind, size: answer)
    said: list[str] = []
    assert surroundings._swap_to_make("auto", 64 << 20, said.append) is None
    assert said[0].endswith("none is made: you are not root")
    with pytest.raises(SwapError, match="--swap zram: you are not root"):
        surroundings._swap_to_make("zram", 64 << 20, said.append)


def test_what_does_not_run_is_left_out_with_its_reason(workload, monkeypatch):
    monkeypatch.setattr(type(STRATEGIES["dontneed"]), "unavailable", lambda self: "forbidden here")
    comparison, _, _ = run(workload, processes=(1,), rounds=1, strategies=("private", "dontneed"))
    assert comparison.left_out == {"dontneed": "forbidden here"}
    assert comparison.strategies == ["private"]
    with pytest.raises(ExperimentError, match="dontneed: forbidden here"):
        run(workload, strategies=("dontneed",))


def test_memory_bounds_the_number_of_processes(workload, monkeypatch):
    each = workload.mapped_pages * 4096 + rounds._PROCESS_OVERHEAD

    class Memory:
        available = 2 * each * 2

    monkeypatch.setattr(rounds, "read_meminfo", Memory)
    comparison, _, _ = run(workload, processes=(2, 50), rounds=1, strategies=("private",))
    assert comparison.processes == [2]
    assert any("More than 2 processes" in note for note in comparison.notes)
    with pytest.raises(ExperimentError, match="take fewer processes"):
        run(workload, processes=(50,))


def test_time_bounds_rounds_and_processes(workload):
    start = time.monotonic()
    comparison, _, _ = run(
        workload, processes=(1, 64), rounds=1000, seconds=3.0, strategies=("private",)
    )
    # Two seconds of the three are kept for cleaning up.
    assert time.monotonic() - start < 3.0 + patient(2.0)
    assert comparison.processes == [1]
    assert len(comparison.rounds) < 1000
    assert any("--seconds" in note for note in comparison.notes)


def test_the_ratio_is_that_of_the_same_round(workload):
    comparison, _, _ = run(workload, processes=(1,), rounds=1, strategies=("private", "dontneed"))
    first, second = comparison.rounds
    made_up = [
        replace(first, number=1, round_trip_us=10.0),
        replace(second, number=1, round_trip_us=5.0),
        replace(first, number=2, round_trip_us=100.0),
        replace(second, number=2, round_trip_us=25.0),
        replace(second, number=3, round_trip_us=1000.0),
    ]
    summary = replace(comparison, rounds=tuple(made_up)).summary(1, "dontneed")
    assert summary is not None
    assert summary.ratio_to_private == Spread(0.375, 0.25, 0.5)
    assert summary.rounds == 3


def test_a_spread_leaves_out_what_is_not_known():
    assert Spread.of([None, 3, 1, 2]) == Spread(2, 1, 3)
    assert Spread.of([None]) is None
    assert Spread.of([0, None]) == Spread(0, 0, 0)
