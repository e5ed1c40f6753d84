# SPDX-License-Identifier: Apache-2.0
"""The picture: in plain text and as a file."""

from __future__ import annotations

import sys

import pytest
from support.comparisons import NO_SWAP, PAGES, make_comparison, make_round
from support.golden import chart_text

from mapscratch.lab.compare.charts import (
    Chart,
    ChartError,
    Series,
    chart_of,
    check_chart_file,
    save_chart,
)

COUNTS = (1, 2, 4, 8)
NAMES = ("private", "lazyfree", "dontneed")
SWEEP = make_comparison(*(make_round(name, count) for count in COUNTS for name in NAMES))


def test_private_rises_and_scratch_is_flat():
    chart = chart_of(SWEEP)
    assert chart.series == (
        Series("private", tuple((count, PAGES * count) for count in COUNTS)),
        Series("lazyfree", tuple((count, 0) for count in COUNTS)),
    )


def test_what_is_not_applicable_is_not_drawn_as_0():
    chart = chart_of(SWEEP)
    assert "dontneed: not applicable" in chart.note


def test_without_swap_it_is_what_was_given_back():
    rounds = [
        make_round("private", 2, kept_pages=2 * PAGES),
        make_round("lazyfree", 2),
        make_round("dontneed", 2),
    ]
    chart = chart_of(make_comparison(*rounds, swap=NO_SWAP))
    mebibytes = 2 * PAGES * 4096 / (1 << 20)
    assert [one.points for one in chart.series] == [
        ((2, 0.0),),
        ((2, mebibytes),),
        ((2, mebibytes),),
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_it_is_not_wider_than_asked_for(width):
    rows = chart_text(Chart("title", chart_of(SWEEP).series, ""), width=width).splitlines()
    assert max(map(len, rows)) <= width


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80])
def test_names_too_long_for_the_room_stand_below(width):
    long = tuple(
        Series(f"lazyfree, mixed, {'very ' * 5}long {at}", ((1, at), (512, 2.0 * at)))
        for at in (3.0, 900_000_000.0)
    )
    rows = chart_text(Chart("title", long, "", ("fixup a page", "fixups a page")), width=width)
    *drawn, names = rows.splitlines()
    assert max(map(len, drawn)) <= max(width, 40)
    assert names.startswith("Lines, from the top at their ends: lazyfree")
    assert names.index(long[1].name) < names.index(long[0].name)
    assert any("512 fixups a page" in row for row in drawn)


def test_lines_that_end_together_share_a_label():
    same = tuple(Series(name, ((1, 5.0), (2, 5.0))) for name in ("kernel", "lazyfree"))
    assert "kernel, lazyfree" in chart_text(Chart("title", same, ""))


@pytest.mark.parametrize(
    "series",
    [
        (),
        (Series("private", ((4, 0.0),)),),
        (Series("private", ((1, 0.0), (1000, 0.4))),),
        (Series("private", ((1, 1e9), (2, 1e9), (3, 1e9), (4, 1e9))),),
    ],
)
def test_odd_data_can_be_drawn(series):
    assert "title" in chart_text(Chart("title", series, "")) or not series


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_files(tmp_path, suffix, start):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"chart{suffix}"
    save_chart(chart_of(SWEEP), "subtitle", path)
    assert path.read_bytes().startswith(start)


def test_another_format_is_refused(tmp_path):
    with pytest.raises(ChartError, match=r"\.svg or \.png"):
        check_chart_file(tmp_path / "chart.pdf")


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ChartError, match="pip install matplotlib"):
        check_chart_file(tmp_path / "chart.svg")
