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


def test_break_even_is_where_both_take_as_long():
    verdict = judge(make_comparison(make_round("private"), make_round("lazyfree")))
    assert verdict.case == "pays"
    # 50 fixups + (30 - 8) µs at 10 ns each; 10 ns + (30 - 8) µs over 50 fixups.
    assert verdict.break_even_fixups == pytest.approx(50 + 2200)
    assert verdict.break_even_fixup_ns == pytest.approx(10 + 440)
    private = make_round("private", round_trip_us=7.8)
    verdict = judge(make_comparison(private, make_round("lazyfree"), swap=ZRAM))
    assert verdict.case == "pays up to fewer fixups"
    assert verdict.break_even_fixups == pytest.approx(30)


def test_what_was_not_measured_is_none_and_not_0():
    without = judge(make_comparison(make_round("private"), make_round("lazyfree"), swap=NO_SWAP))
    assert without.case == "no swap"
    held = make_round("private", swap_cache_pages=50)
    not_read = judge(make_comparison(held, make_round("lazyfree")))
    assert not_read.case == "not read back"
    assert not_read.break_even_fixups is None and not_read.break_even_fixup_ns is None
    alone = judge(make_comparison(make_round("private")))
    assert alone.scratch is None and alone.scratch_us is None
    assert judge(make_comparison()).processes == 0


def test_fixups_of_dontneed_are_a_step_of_their_own():
    verdict = judge(make_comparison(make_round("private"), make_round("dontneed")))
    assert (verdict.scratch, verdict.fixups_us) == ("dontneed", 4.0)


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
