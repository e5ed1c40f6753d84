# SPDX-License-Identifier: Apache-2.0
"""From costs to round trips and break-even, and costs to a document and back."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from datetime import UTC, datetime
from mmap import PAGESIZE

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.costs import (
    LINES,
    distribution_of_counts,
    make_costs,
    make_line,
    make_measurement,
    make_spread,
)

from mapscratch.elf import default_libraries, link, relocations
from mapscratch.lab.cost.alternatives import Alternatives, try_alternatives
from mapscratch.lab.cost.answer import CostReport, answer
from mapscratch.lab.cost.baselines import baselines
from mapscratch.lab.cost.chart import cost_chart
from mapscratch.lab.cost.document import NAME, VERSION, Figures, cost_document
from mapscratch.lab.cost.model import (
    DEVICES,
    WORDS_A_PAGE,
    Device,
    Layout,
    ModelError,
    break_even,
    device,
    device_lines,
    scratch_lines,
    swap_lines,
)
from mapscratch.lab.cost.pages import (
    distribution_of_libraries,
    distribution_of_survey,
)
from mapscratch.lab.reading import ReadingError, checked_document, converted
from mapscratch.lab.rig.results import Spread

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PAGES = distribution_of_counts(
    "three pages", np.array([10, 100, 400, 0]), relative_share=0.75, layout=Layout(0.5, 0.01)
)
ALTERNATIVES = Alternatives("/lib/libx.so", 100, 8, 100 << 12, 11 << 12, 900.0, 0.0, 1.0, 0.2)

times = st.floats(0.5, 1e4)
slopes = st.floats(0.1, 1e4)


def line_of(lines, what, fixup=None):
    return next(
        one
        for one in lines
        if one.what == what and (fixup is None or (one.fixup and one.fixup.title == fixup))
    )


# --- lines and where they meet ------------------------------------------------------------------


@settings(deadline=None)
@given(times, times, slopes)
def test_lines_meet_at_break_even(swap_us, scratch_us, fixup_ns):
    costs = make_costs(
        lines=[make_line("swap.file", (swap_us, 0)), make_line("lazyfree", (scratch_us, fixup_ns))]
    )
    swap = line_of(swap_lines(costs), "swap.file")
    scratch = line_of(scratch_lines(costs), "lazyfree", "known value")
    found = break_even(swap, scratch)
    fixups = found.fixups.median
    assert found.fixups.minimum <= fixups <= found.fixups.maximum
    assert swap.at(fixups)[0, 0] == pytest.approx(scratch.at(fixups)[0, 0], rel=1e-6, abs=1e-6)
    assert (found.pays == "never") == (swap_us <= scratch_us)
    assert (found.pays == "always") == (fixups > WORDS_A_PAGE)
    # In µs and ns: k more fixups of f ns cost k f / 1000 µs more.
    assert fixups * fixup_ns / 1000 == pytest.approx(swap_us - scratch_us, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(times, slopes), min_size=1, max_size=6), st.data())
def test_a_round_trip_grows_with_fixups_and_its_bounds_hold_every_round(fits, data):
    costs = make_costs(lines=[make_line("lazyfree", *fits)])
    fixups = np.array(sorted(data.draw(st.lists(st.floats(0, 512), min_size=2, max_size=20))))
    for line in scratch_lines(costs):
        median, least, most = line.at(fixups)
        for values in (median, least, most):
            assert np.all(np.diff(values) >= -1e-9)
        assert np.all(least <= median) and np.all(median <= most)
    known = scratch_lines(costs)[0]
    for page_us, fixup_ns in fits:
        every = page_us + fixup_ns * fixups / 1000
        assert np.all(known.at(fixups)[1] <= every + 1e-9)
        assert np.all(known.at(fixups)[2] >= every - 1e-9)


@settings(deadline=None)
@given(times, times, slopes, slopes)
def test_dearer_fixups_break_even_earlier_and_dearer_swap_later(swap_us, more_us, low, more):
    def limit(swap, fixup):
        lines = [make_line("swap.file", (swap, 0)), make_line("lazyfree", (0.1, fixup))]
        costs = make_costs(lines=lines, nanoseconds={})
        return break_even(swap_lines(costs)[0], scratch_lines(costs)[0]).fixups.median

    assert limit(swap_us, low + more) <= limit(swap_us, low)
    assert limit(swap_us + more_us, low) >= limit(swap_us, low)


def test_the_model_says_what_the_line_says():
    costs = make_costs()
    for measured in LINES:
        lines = swap_lines(costs, None, Layout(2.0, 0.1)) + scratch_lines(costs, Layout(2.0, 0.1))
        line = next(one for one in lines if one.what == measured.what)
        for fixups in (0, 64, 500):
            # A swapfile takes the same for all: that of the mean of 1 and 512.
            looked_at = 256.5 if measured.what == "swap.file" else fixups
            expected = Spread.of(fit.round_trip_us(looked_at, 2.0, 0.1) for fit in measured.fits)
            assert line.spread_at(fixups).median == pytest.approx(expected.median)
            assert line.spread_at(fixups).minimum == pytest.approx(expected.minimum)
            assert line.spread_at(fixups).maximum == pytest.approx(expected.maximum)


def test_what_is_mapped_beside_a_page_costs_too():
    costs = make_costs(lines=[make_line("lazyfree", (7.0, 30.0, 2.0, 50.0))])
    assert scratch_lines(costs, Layout(3.0, 0.1))[0].at(0)[0, 0] == pytest.approx(18.0)


def test_a_known_value_costs_what_storing_it_takes_and_the_line_keeps_its_mean():
    nanoseconds = {"fixup.at_page_in": 3.0, "fixup.word": 5.0}
    lines = [make_line("lazyfree", (7.0, -6.0), (7.0, 20.0)), make_line("dontneed", (7.0, 1.0))]
    lazyfree, dontneed = scratch_lines(make_costs(lines=lines, nanoseconds=nanoseconds))
    assert lazyfree.fixup_ns[0].tolist() == [3.0, 3.0]
    assert lazyfree.fixup and lazyfree.fixup.ns == make_spread(3.0)
    assert dontneed.fixup and dontneed.fixup.ns.median == 5.0
    middle = (1 + 512) / 2
    at_the_middle = lazyfree.page_us[0] + 3.0 * middle / 1000
    assert at_the_middle == pytest.approx([7 - 6 * middle / 1000, 7 + 20 * middle / 1000])


def test_fixups_of_the_loader_cost_what_the_loader_takes():
    costs = make_costs()
    relative = line_of(scratch_lines(costs), "lazyfree", "relative")
    long = line_of(scratch_lines(costs), "lazyfree", "symbolic, long scope")
    assert relative.at(100)[0, 0] == pytest.approx(7.0 + 100 * 2 / 1000)
    assert long.at(100)[0, 0] == pytest.approx(7.0 + 100 * 400 / 1000)
    assert long.at(100)[2, 0] == pytest.approx(7.5 + 100 * 440 / 1000)


def test_break_even_is_worked_out_within_each_round():
    # Both twice as slow in the second round: that says nothing of break-even.
    lines = [make_line("swap.file", (60, 0), (120, 0)), make_line("lazyfree", (6, 30), (12, 60))]
    costs = make_costs(lines=lines)
    found = break_even(swap_lines(costs)[0], scratch_lines(costs)[0])
    assert found.fixups.minimum == found.fixups.median == found.fixups.maximum == 1800


def test_lines_that_do_not_meet():
    lines = [
        make_line("swap.zram", (60, 40)),
        make_line("lazyfree", (6, 30)),
        make_line("dontneed", (70, 30)),
    ]
    costs = make_costs(lines=lines, nanoseconds={})
    swap = swap_lines(costs)[0]
    always, never = (break_even(swap, one) for one in scratch_lines(costs))
    assert (always.pays, always.fixups.median) == ("always", math.inf)
    assert (never.pays, never.fixups.median) == ("never", -math.inf)


def test_rounds_that_contradict_each_other_are_for_swap():
    lines = [make_line("swap.zram", (60, 40), (5, 40)), make_line("lazyfree", (6, 30), (6, 30))]
    costs = make_costs(lines=lines, nanoseconds={})
    found = break_even(swap_lines(costs)[0], scratch_lines(costs)[0])
    assert found.pays == "never"
    assert (found.fixups.minimum, found.fixups.maximum) == (-math.inf, math.inf)
    assert "making its fixups again takes no less time in most rounds." in answer(
        CostReport(costs, PAGES)
    )


noisy = st.tuples(st.floats(-50, 200), st.floats(-300, 600), st.floats(-5, 5), st.floats(-50, 50))


@settings(deadline=None)
@given(st.lists(noisy, min_size=1, max_size=3), st.lists(noisy, min_size=1, max_size=3))
def test_whatever_noise_was_measured_is_told_and_saved(swap, scratch):
    lines = [make_line("swap.zram", *swap), make_line("lazyfree", *scratch)]
    report = CostReport(make_costs(lines=lines), PAGES, device=device("nvme"))
    json.dumps(cost_document(report, CREATED), allow_nan=False)
    assert cost_chart(report).counts
    assert "nan" not in answer(report)
    for one in report.break_even:
        assert not math.isnan(one.fixups.median)


def test_lines_of_different_rounds_are_compared_by_their_bounds():
    lines = [make_line("swap.file", (60, 0), (80, 0)), make_line("lazyfree", (10, 10))]
    costs = make_costs(lines=lines)
    found = break_even(swap_lines(costs)[0], scratch_lines(costs)[0]).fixups
    assert (found.minimum, found.median, found.maximum) == (5000, 6000, 7000)


# --- other devices ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_slower_device_is_dearer_and_keeps_the_kernels_part(one, other):
    costs = make_costs()
    first, second = (device_lines(costs, Device("", us))[0].at(0)[0, 0] for us in (one, other))
    assert first - one == pytest.approx((4_000 + 900) / 1000, abs=1e-6)
    assert first - one == pytest.approx(second - other, abs=1e-6)
    # 50 µs of swap-in less the fault, over 90 µs of disk less the page cache.
    ahead = device_lines(costs, Device("", one))[1].at(0)[0, 0]
    assert ahead == pytest.approx(4.9 + one * (50.0 - 0.9) / (90.0 - 0.3), abs=1e-6)


def test_without_a_swapfile_leaving_counts_as_nothing():
    costs = make_costs(nanoseconds={"fault.copy_on_write": 900.0})
    (line,) = device_lines(costs, Device("", 80.0))
    assert line.at(0)[0, 0] == pytest.approx(80.9)


def test_devices_by_name_and_by_number():
    assert device("nvme") == Device("nvme", DEVICES["nvme"])
    assert device("12.5") == Device("", 12.5)
    assert "12.5 µs" in device("12.5").title
    for text in ("tape", "-1", "nan", "inf", ""):
        with pytest.raises(ModelError, match="nvme"):
            device(text)


# --- fixups a page ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 512), min_size=1, max_size=200))
def test_a_distribution_is_numpys(counts):
    array = np.array(counts)
    if not array.any():
        with pytest.raises(ModelError, match="no page"):
            distribution_of_counts("x", array)
        return
    found = distribution_of_counts("x", array)
    some = array[array > 0]
    assert found.total_pages == len(some)
    assert found.mean == pytest.approx(some.mean())
    assert found.median == np.quantile(some, 0.5, method="inverted_cdf")
    assert found.quantile(0.95) == np.quantile(some, 0.95, method="inverted_cdf")
    assert found.share_below(100) == pytest.approx((some < 100).mean())


def test_the_pages_of_libraries_are_those_of_the_linker():
    paths = default_libraries()[:2]
    found = distribution_of_libraries(paths)
    plans = link([relocations(path) for path in paths])
    assert found.total_pages == sum(len(plan.pages) for plan in plans)
    assert found.mean * found.total_pages == pytest.approx(sum(map(len, plans)))
    assert found.relative_share is not None and 0 < found.relative_share <= 1
    assert found.layout and found.layout.clean_pages >= 0
    assert found.layout.mappings == 2 / found.total_pages


def test_a_survey_says_how_many_fixups_each_page_has():
    found = distribution_of_survey("x", [[12, 30], [4, 0], [2, 10]], 0.5)
    assert found.total_pages == 40
    assert found.mean == (2 * 10 + 12 * 30) / 40
    for wrong in ([], [[1, 0]]):
        with pytest.raises(ModelError):
            distribution_of_survey("x", wrong)


# --- other ways ---------------------------------------------------------------------------------


def test_other_ways_are_tried_for_real():
    tried = try_alternatives(default_libraries()[-1], lambda what, share: None)
    assert tried.pages > 0
    assert tried.alone_bytes > 0
    # Nine processes share what one had; nothing of it was stored to since.
    assert tried.child_bytes == pytest.approx(tried.alone_bytes / 9, rel=0.5)
    assert tried.equal_random < 0.5
    assert tried.equal_fixed is None or tried.equal_fixed > 0.9
    assert 0 < tried.compressed < 1


@pytest.mark.parametrize("tried", [None, ALTERNATIVES])
@pytest.mark.parametrize("nanoseconds", [None, {}])
def test_every_other_way_has_a_sentence_and_a_source_or_a_figure(tried, nanoseconds):
    report = CostReport(make_costs(nanoseconds=nanoseconds), PAGES, alternatives=tried)
    found = report.baselines
    names = [one.name for one in found]
    assert names == ["prefork", "ksm", "relr", "fixed_base", "binding", "zswap"]
    for one in found:
        assert one.sentence.endswith(".") and "  " not in one.sentence
        assert one.source or one.measured
        assert one.measured == ("Here: " in one.sentence)
    assert ("11 of the 100 dirty pages" in found[0].sentence) == (tried is not None)


# --- the document -------------------------------------------------------------------------------


def figures_of(document: object) -> Figures:
    return converted(checked_document(document, NAME, VERSION, "x.json"), Figures, "x.json")


def report_of(costs=None, **options):
    return CostReport(costs or make_costs(), PAGES, **options)


def test_a_document_gives_back_what_went_in():
    measured = make_line("lazyfree", (7.0, 30.0), cpu_us=Spread(9.0, 8.0, 10.0))
    costs = make_costs(lines=[*LINES[:2], measured])
    report = report_of(costs, device=device("nvme"), alternatives=ALTERNATIVES)
    document = json.loads(json.dumps(cost_document(report, CREATED), allow_nan=False))
    figures = figures_of(document)
    assert figures.costs() == report.costs
    assert figures.alternatives == ALTERNATIVES
    assert figures.created == CREATED
    pages = figures.distribution()
    assert pages.title == PAGES.title
    assert np.array_equal(pages.fixups, PAGES.fixups)
    assert np.array_equal(pages.pages, PAGES.pages)
    assert (pages.relative_share, pages.layout) == (0.75, PAGES.layout)
    again = CostReport(figures.costs(), pages, device=device("nvme"), alternatives=ALTERNATIVES)
    assert json.loads(json.dumps(cost_document(again, CREATED))) == document


def test_a_document_has_what_it_promises():
    document = cost_document(report_of(device=device("100")), CREATED)
    assert (document["document"], document["version"]) == ("mapscratch.cost", 1)
    assert document["machine"]["page_size"] == PAGESIZE
    assert document["device"]["latency_us"] == 100
    first = document["measurements"][0]
    assert first["unit"] == "ns" and first["minimum"] <= first["median"] <= first["maximum"]
    assert all(len(point) == 4 for line in document["lines"] for point in line["points"])
    swaps = {one["swap"] for one in document["break_even"]}
    assert swaps == {"file", "zram", "device", "device.ahead"}
    assert len(document["break_even"]) == len(swaps) * 2 * 6
    assert document["alternatives"] is None and document["fleet"] is None
    assert document["answer"].startswith("How expensive are the fixups? A relative one costs")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "mapscratch.cost is wanted"),
        ({"document": "mapscratch.survey", "version": 1}, "a document 'mapscratch.survey'"),
        ({"document": "mapscratch.cost", "version": 0, "machine": {}}, "make it again"),
        ({"document": "mapscratch.cost", "version": 1}, "missing required field `measurements`"),
        ({"document": "mapscratch.cost", "version": 99}, "a newer mapscratch made it"),
    ],
)
def test_another_document_is_refused(document, message):
    with pytest.raises(ReadingError, match=message):
        figures_of(document)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_document_is_an_error_that_says_so(data):
    document = json.loads(json.dumps(cost_document(report_of(), CREATED)))
    place = data.draw(st.sampled_from(["measurements", "lines", "checks", "pages", "left_out"]))
    wrong = data.draw(st.sampled_from([None, 3, "x", [3], {"a": 1}, [{"name": 1}], [[]]]))
    document[place] = wrong
    try:
        figures_of(document)
    except ReadingError as error:
        assert "make it again" in str(error)


def test_half_a_letter_in_a_document_is_damage():
    document = json.loads(json.dumps(cost_document(report_of(), CREATED)))
    document["measurements"][0]["per"] = "\udcff"
    with pytest.raises(ReadingError, match="make it again"):
        figures_of(document)


# --- the answer and the picture -----------------------------------------------------------------


def test_a_mixed_fixup_costs_what_those_of_a_page_do_in_the_mean():
    lines = scratch_lines(make_costs(), relative_share=0.75)
    mixed = line_of(lines, "lazyfree", "mixed, long scope")
    assert mixed.fixup and mixed.fixup.ns.median == pytest.approx(0.75 * 2 + 0.25 * 400)
    assert mixed.fixup.ns.minimum == pytest.approx(0.75 * 1.8 + 0.25 * 360)
    named = {one.fixup.title for one in scratch_lines(make_costs()) if one.fixup}
    assert not any(title.startswith("mixed") for title in named)


@pytest.mark.parametrize("swaps", ["", "f", "fzs"])
@pytest.mark.parametrize("other", [None, device("disk"), device("0")])
@pytest.mark.parametrize("scratch_us", [2.0, 25.0, 100.0])
@pytest.mark.parametrize("share", [None, 0.7])
def test_the_answer_is_plain_english_whatever_was_measured(swaps, other, scratch_us, share):
    names = {"f": "swap.file", "z": "swap.zram", "s": "swap.zswap"}
    lines = [make_line(names[one], (30.0 + at, 0.1)) for at, one in enumerate(swaps)]
    costs = make_costs(lines=[*lines, make_line("lazyfree", (scratch_us, 30.0))])
    pages = distribution_of_counts("a library", np.array([1, 9]), relative_share=share)
    text = answer(CostReport(costs, pages, device=other))
    assert text.startswith("How expensive are the fixups? A relative one costs") and text[-1] == "."
    for odd in ("  ", " ,", " .", "..", "inf", "nan", "with with", "and and", "()", "None", "> "):
        assert odd not in text
    assert not re.search(r"\d{4}", text)  # Thousands are separated.
    for swap, title in (("f", "swapfile"), ("z", "zram"), ("s", "zswap")):
        assert text.count(f"{title} (") == (swap in swaps)
    if other and other.latency_us > 1000:
        assert "Against disk (assumed, 10,0" in text or "and disk (assumed" in text
        assert "less time with any number of fixups" in text
    if not other and not swaps:
        assert text.endswith("Swap was not measured, so there is nothing to weigh.")
    elif scratch_us == 100.0 and swaps:
        assert "more time, even without fixups" in text


def test_the_picture_has_every_line_and_steep_ones_leave_it():
    pages = distribution_of_counts("three pages", np.array([10, 100, 400]))
    chart = cost_chart(CostReport(make_costs(), pages))
    names = [one.name for one in chart.series]
    assert names[:3] == ["swapfile", "zram", "lazyfree, known"]
    assert "lazyfree, relative" in names
    mixed = [one.name for one in cost_chart(report_of()).series]
    assert "lazyfree, mixed" in mixed and "lazyfree, symbolic" not in mixed
    top = max(value for one in chart.series for _, value in one.points)
    assert top <= 1.5 * 60.3
    steep = next(one for one in chart.series if one.name.endswith("symbolic, long"))
    assert steep.points[-1][0] < WORDS_A_PAGE
    assert "out of the picture" in chart.note


def test_a_device_far_above_the_others_is_named_and_not_drawn():
    chart = cost_chart(report_of(device=device("disk")))
    assert [one.name for one in chart.series][:3] == ["swapfile", "zram", "lazyfree, known"]
    assert "disk at 10,000 µs takes 10,005 µs: far above it." in chart.note


def test_all_pairs_are_weighed():
    found = report_of(device=device("disk")).break_even
    assert len(found) == 4 * 2 * 6
    assert all(one.fixups.minimum <= one.fixups.median <= one.fixups.maximum for one in found)


def test_other_ways_say_what_is_kept_and_do_not_trust_a_median_that_rounds_dispute():
    disputed = dataclasses.replace(make_measurement("fork.page", 186.0), minimum=1.8, maximum=440.0)
    costs = dataclasses.replace(make_costs(), measurements=(disputed,))
    tried = Alternatives("/lib/libx.so", 100, 8, 100 << 12, 11 << 12, 900.0, 0.0, 1.0, 0.25)
    told = {one.name: one.sentence for one in baselines(costs, tried)}
    assert "< 440 ns a page at fork" in told["prefork"]
    assert "compress to 25% (zlib -1, one library), as much as 64 known values" in told["zswap"]
    (fork,) = (one.sentence for one in baselines(make_costs()) if one.name == "prefork")
    assert "20 ns a page at fork" in fork
