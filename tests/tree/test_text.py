# SPDX-License-Identifier: Apache-2.0
"""Numbers and names in words, and tables in terminals of any width."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.comparisons import NO_SWAP, SWAPFILE, ZRAM
from support.golden import drawn_on, plain_console

from mapscratch import text
from mapscratch.lab.rig.results import SwapDescription
from mapscratch.lab.tables import Column, print_table


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (text.microseconds(0.044), "0.04 µs"),
        (text.microseconds(1.26), "1.3 µs"),
        (text.microseconds(12.5), "12 µs"),
        (text.microseconds(1234.0), "1,234 µs"),
        (text.nanoseconds(3.25), "3.2 ns"),
        (text.nanoseconds(1640.0), "1,640 ns"),
        (text.decimal(1234.5), "1,234"),
        (text.decimal(-12.34), "-12.3"),
        (text.decimal(1.234), "1.23"),
        (text.whole(1234.5), "1,234"),
        (text.size(0), "0 B"),
        (text.size(4096), "4 KiB"),
        (text.size(1023 << 10), "1,023 KiB"),
        (text.size((1 << 20) - 1), "1.0 MiB"),
        (text.size(67.7 * (1 << 20)), "67.7 MiB"),
        (text.size(365 << 30), "365 GiB"),
        (text.size(5000 << 60), "5,000 EiB"),
        (text.mebibytes(3 << 30), "3,072 MiB"),
        (text.counted(1, "page"), "1 page"),
        (text.counted(1200, "page"), "1,200 pages"),
        (text.counted(2, "process", "processes"), "2 processes"),
        (text.listed([]), ""),
        (text.listed(["a"]), "a"),
        (text.listed(["a", "b"]), "a and b"),
        (text.listed(["a", "b", "c"]), "a, b and c"),
        (text.swap_name("swap.file"), "swapfile"),
        (text.swap_name("partition"), "swap partition"),
        (text.swap_name("zswap"), "zswap"),
        (NO_SWAP.title, "swap"),
        (SWAPFILE.title, "a swapfile"),
        (ZRAM.title, "zram"),
        (
            SwapDescription("partition", "/dev/x", 1, 1, temporary=False, zswap=True).title,
            "a swap partition behind zswap",
        ),
    ],
)
def test_each_is_said_in_one_way(said, expected):
    assert said == expected


@given(st.floats(0, 1e22))
def test_a_size_has_at_most_four_digits_before_its_unit(amount):
    number, unit = text.size(amount).split()
    assert unit == "EiB" or float(number.replace(",", "")) < 1024


def test_it_needs_nothing_but_the_standard_library():
    code = "import sys, mapscratch.text; print('rich' in sys.modules or 'msgspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


NAMES = Column("library", ["libc", "libcrypto"])
FIGURES = [Column(f"figure {n}", [f"{10**n:,} (1-{n})", f"{n}"]) for n in range(1, 7)]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_a_table_goes_on_below_and_no_figure_is_cut(width):
    console = plain_console(width)
    print_table(console, [NAMES], FIGURES)
    drawn = drawn_on(console)
    assert max(map(len, drawn.splitlines())) <= width
    words = drawn.split()
    for n in range(1, 7):
        assert f"{10**n:,}" in words and f"(1-{n})" in words
    assert words.count("libcrypto") == words.count("library")


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_cell_that_is_one_figure_stays_in_one_line(width):
    console = plain_console(width)
    cells = [f"{n},000 / 900  1.1{n}" for n in range(1, 5)]
    print_table(console, [NAMES], [Column("1 worker", [one, one], breaks=False) for one in cells])
    drawn = drawn_on(console)
    assert [drawn.count(one) for one in cells] == [2] * 4
    assert max(map(len, drawn.splitlines())) <= width
