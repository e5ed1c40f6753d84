# SPDX-License-Identifier: Apache-2.0
"""The last line is true in every case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.comparisons import (
    FIXUPS_PER_PAGE,
    NO_SWAP,
    PAGES,
    SWAPFILE,
    ZRAM,
    make_comparison,
    make_round,
)

from mapscratch.lab.compare.verdict import judge
from mapscratch.lab.rig.results import SwapDescription
from mapscratch.text import microseconds

KEPT = {
    "swapped_out_pages": 0,
    "swapped_in_pages": 0,
    "swap_cache_pages": None,
    "given_back_per_mib": 0.0,
    "reclaim_us": None,
    "page_in_us": None,
    "round_trip_us": None,
    "kept_pages": PAGES,
}


def test_scratch_pays():
    verdict = judge(make_comparison(make_round("private"), make_round("lazyfree")))
    assert verdict.case == "pays"
    # 50 fixups + (30 - 8) µs at 10 ns each; 10 ns + (30 - 8) µs over 50 fixups.
    assert verdict.break_even_fixups == pytest.approx(50 + 2200)
    assert verdict.break_even_fixup_ns == pytest.approx(10 + 440)
    assert verdict.sentence == (
        "With MAP_PRIVATE 1 process sent all 100 fixed-up pages to a swapfile, with lazyfree none: "
        "making a page's 50 fixups again from known values costs 0.50 µs, dropping it and bringing "
        "it back with them 8.0 µs, and swapping it out and in (the device's own writing not waited "
        "for) 30 µs; so in time scratch would stop paying at 2,250 fixups a page, more than the "
        "512 that fit in one, or when one fixup costs 450 ns."
    )


def test_the_largest_number_of_processes_is_meant():
    rounds = [make_round(name, count) for count in (1, 8) for name in ("private", "lazyfree")]
    assert "8 processes sent all 800" in judge(make_comparison(*rounds)).sentence


def test_pages_that_fit_are_not_said_not_to_fit():
    private = make_round("private", round_trip_us=8.5)
    verdict = judge(make_comparison(private, make_round("lazyfree")))
    assert verdict.case == "pays"
    assert "at 100 fixups a page or when one fixup costs 20 ns." in verdict.sentence


def test_swap_is_faster_for_pages_with_so_many_fixups():
    private = make_round("private", round_trip_us=7.8)
    verdict = judge(make_comparison(private, make_round("lazyfree"), swap=ZRAM))
    assert verdict.case == "pays up to fewer fixups"
    assert verdict.break_even_fixups == pytest.approx(30)
    assert verdict.sentence.endswith(
        "so in time scratch stops paying at 30 fixups a page, and these libraries have more."
    )
    assert "to zram" in verdict.sentence
    assert "device" not in verdict.sentence


def test_swap_is_faster_for_any_page():
    private = make_round("private", round_trip_us=3.0)
    verdict = judge(make_comparison(private, make_round("lazyfree"), swap=ZRAM))
    assert verdict.case == "never pays"
    assert "swap is faster even for a page without fixups" in verdict.sentence
    assert "saves the space in swap but no time" in verdict.sentence


def test_without_swap():
    verdict = judge(
        make_comparison(make_round("private", **KEPT), make_round("lazyfree"), swap=NO_SWAP)
    )
    assert verdict.case == "no swap"
    assert verdict.swap_us is None and verdict.break_even_fixups is None
    assert verdict.sentence.startswith(
        "Without swap 1 process gave back 0.00 MiB of each MiB asked for with MAP_PRIVATE and 1.00 "
        "MiB with lazyfree, where making a page's 50 fixups again from known values costs 0.50 µs;"
    )


def test_swap_that_the_kernel_does_not_use():
    verdict = judge(make_comparison(make_round("private", **KEPT), make_round("lazyfree")))
    assert verdict.case == "nothing swapped"
    assert "put none of the MAP_PRIVATE pages there" in verdict.sentence
    assert "100 of the 100 pages" in verdict.sentence


def test_swap_that_is_full_half_way():
    private = make_round("private", swapped_out_pages=40, swapped_in_pages=40)
    sentence = judge(make_comparison(private, make_round("lazyfree"))).sentence
    assert "sent 40 of 100 fixed-up pages to a swapfile" in sentence


def test_pages_that_never_left_memory_say_nothing_about_swap():
    private = make_round("private", swap_cache_pages=50)
    verdict = judge(make_comparison(private, make_round("lazyfree")))
    assert verdict.case == "not read back"
    assert verdict.break_even_fixups is None and verdict.break_even_fixup_ns is None
    assert "50 of 100 pages were still in memory and not read back" in verdict.sentence
    assert "stop paying isn't either" in verdict.sentence


@pytest.mark.parametrize(("held", "told"), [(0, False), (2, False), (5, True), (10, True)])
def test_a_few_that_never_left_memory_are_told(held, told):
    private = make_round("private", swap_cache_pages=held)
    verdict = judge(make_comparison(private, make_round("lazyfree")))
    assert verdict.case == "pays"
    assert ("still in memory" in verdict.sentence) == told


def test_only_private():
    verdict = judge(make_comparison(make_round("private")))
    assert verdict.case == "only private"
    assert verdict.scratch is None and verdict.scratch_us is None
    assert "no scratch engine was measured" in verdict.sentence
    without = judge(make_comparison(make_round("private", **KEPT), swap=NO_SWAP))
    assert "got 0.00 MiB back of each MiB asked for, for there is no swap" in without.sentence


def test_no_private():
    verdict = judge(make_comparison(make_round("lazyfree")))
    assert verdict.case == "no private"
    assert verdict.sentence.startswith("With lazyfree 100 of the 100 pages that 1 process fixed up")
    assert "and none went to swap" in verdict.sentence
    assert "MAP_PRIVATE was not measured" in verdict.sentence


def test_dontneed_alone_says_that_it_drops_and_copies():
    verdict = judge(make_comparison(make_round("private"), make_round("dontneed")))
    assert verdict.scratch == "dontneed"
    assert verdict.fixups_us == 4.0
    assert "while dontneed dropped its pages itself" in verdict.sentence
    assert "with copying the page, costs 4.0 µs" in verdict.sentence


def test_leaks_of_a_scratch_engine_are_told():
    leaking = make_round("lazyfree", swapped_out_pages=7, swapped_in_pages=7)
    assert "with lazyfree 7:" in judge(make_comparison(make_round("private"), leaking)).sentence


def test_scratch_pages_that_stayed_in_memory():
    kept = make_round(
        "lazyfree", dropped_by_kernel_pages=0, round_trip_us=None, fixup_ns=None, kept_pages=PAGES
    )
    verdict = judge(make_comparison(make_round("private"), kept))
    assert verdict.case == "nothing dropped"
    assert "no page of lazyfree had to come back" in verdict.sentence


def test_wrong_words_come_before_everything():
    verdict = judge(make_comparison(make_round("private", wrong_words=3), make_round("lazyfree")))
    assert verdict.case == "wrong words"
    assert verdict.sentence.startswith("3 of 102,400 words read were wrong")


def test_nothing_measured():
    verdict = judge(make_comparison())
    assert verdict.case == "nothing measured"
    assert verdict.processes == 0
    assert "--seconds" in verdict.sentence


@given(
    swap=st.sampled_from([NO_SWAP, SWAPFILE, ZRAM]),
    private_us=st.none() | st.floats(0.1, 1e4),
    scratch_us=st.none() | st.floats(0.1, 1e4),
    fixup_ns=st.none() | st.floats(0.1, 1e4),
    swapped=st.integers(0, PAGES),
    held=st.none() | st.integers(0, PAGES),
    scratch=st.sampled_from(["lazyfree", "dontneed", None]),
)
def test_any_result_makes_one_sentence(
    swap, private_us, scratch_us, fixup_ns, swapped, held, scratch
):
    rounds = [
        make_round(
            "private", round_trip_us=private_us, swapped_out_pages=swapped,
            swapped_in_pages=swapped, swap_cache_pages=held,
        )
    ]  # fmt: skip
    if scratch:
        rounds.append(make_round(scratch, round_trip_us=scratch_us, fixup_ns=fixup_ns))
    verdict = judge(make_comparison(*rounds, swap=swap))
    assert verdict.sentence.endswith(".")
    assert "\n" not in verdict.sentence
    assert "None" not in verdict.sentence and "nan" not in verdict.sentence
    # What is claimed about paying follows from the times.
    if verdict.case in ("pays", "pays up to fewer fixups", "never pays"):
        assert private_us is not None and scratch_us is not None
        assert verdict.break_even_fixups is not None
        assert (verdict.case == "pays") == (verdict.break_even_fixups > FIXUPS_PER_PAGE)
        assert (private_us > scratch_us) == (verdict.case == "pays") or private_us == scratch_us


@pytest.mark.parametrize(
    ("value", "text"), [(0.044, "0.04 µs"), (1.26, "1.3 µs"), (12.5, "12 µs"), (1234.0, "1,234 µs")]
)
def test_times(value, text):
    assert microseconds(value) == text


def test_names_of_swap():
    assert SWAPFILE.title == "a swapfile"
    behind = SwapDescription("partition", "/dev/x", 1, 1, temporary=False, zswap=True)
    assert behind.title == "a swap partition behind zswap"
