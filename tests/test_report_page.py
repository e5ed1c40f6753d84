# SPDX-License-Identifier: Apache-2.0
"""What the page of `mapscratch report` says: the answer, what is missing, and texts escaped."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from support.costs import make_costs
from support.report_documents import (
    CREATED,
    PAGES_BY_FIXUPS,
    make_break_even,
    make_compare,
    make_cost,
    make_ps,
    make_survey,
)

from mapscratch.lab.cost import model as cost_model
from mapscratch.lab.cost.answer import cost_report
from mapscratch.lab.cost.document import cost_document
from mapscratch.lab.report import page_facts
from mapscratch.lab.report.page import page
from mapscratch.lab.report.page_facts import Documents, histogram_of, ways_of
from mapscratch.lab.report.page_reading import ReportError, as_document
from mapscratch.lab.report.page_svg import TO, Scale, apart, mebibytes, microseconds, percent, shown

HOSTILE = "<script>alert(1)</script>&\"'\u202e\udcff\x00\n" + 300 * "long"
VOID = {"meta", "input"}


def documents(survey=None, cost=None, compares=(), ps=None, **fields):
    given = {"survey": survey, "cost": cost, "ps": ps}
    nodes = {
        name: as_document(value, name, f"mapscratch.{name}") if value else None
        for name, value in given.items()
    }
    found = tuple(as_document(value, "compare", "mapscratch.compare") for value in compares)
    return Documents(**nodes, compares=found, **fields)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\N{NO-BREAK SPACE}", " ").split())


class Structure(HTMLParser):
    """Every element is closed where it has to be, ids are unique, references lead somewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert set(self.references) <= set(self.ids)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids.append(value)
            elif name in ("for", "data-copies"):
                self.references.append(value)
            elif name == "aria-labelledby":
                self.references += value.split()
            elif name == "href":
                assert value.startswith("#")
                self.references.append(value[1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


PAGES = cost_model.distribution_of_counts("libc", np.array([1, 1, 20, 300, 512]))
FULL = documents(
    make_survey(), make_cost(), (make_compare(), make_compare("zram")), make_ps()
)  # fmt: skip


@pytest.fixture(scope="module")
def full() -> str:
    return page(FULL, CREATED)


def test_it_is_whole_and_asks_for_nothing(full):
    structure = Structure(full)
    assert structure.tags.count("svg") == 2 * structure.tags.count("figure") == 14
    assert not {"link", "img", "iframe", "object", "a href"} & set(structure.tags)
    assert not [name for name, _ in structure.attributes if name in ("src", "style")]
    assert not [name for name, _ in structure.attributes if name.startswith("on")]
    assert "default-src 'none'" in full.replace("&#x27;", "'")
    assert len(full) < 200_000


def test_each_chart_is_told_and_has_its_figures(full):
    for figure in re.findall(r"<figure.*?</figure>", full, re.S):
        assert "<details" in figure
        assert "<table" in figure
        for drawing in re.findall(r"<svg.*?</svg>", figure, re.S):
            root = ElementTree.fromstring(drawing)
            title, description = root[0], root[1]
            assert (title.tag, description.tag) == ("title", "desc")
            assert title.text
            assert description.text
            assert root.get("role") == "img"


def test_the_answer_is_one_sentence_with_the_figures():
    answer = text_of(re.search(r'id="answer">(.*?)</p>', page(FULL, CREATED), re.S).group(1))
    assert answer.count(". ") == 0
    assert answer.endswith(".")
    # 140.3 fixups of 2.2 ns, or of 412 ns; (8.2 - 7.6) µs / (412 - 1) ns is 1.5.
    for figure in (
        "84 fixups", "mean is 140", "309 ns", "58 µs", "20 µs (swapfile)", "7.6 µs",
        "up to 2 among many libraries if they are looked up",
    ):  # fmt: skip
        assert figure in answer
    assert "never takes less time than zram, but less than zswap and swapfile with" in answer


def test_the_answer_tells_of_fixups_as_they_are_mixed():
    cost = make_cost(break_even=make_break_even(), pages={"relative_share": 0.86})
    html = page(documents(make_survey(), cost), CREATED)
    answer = text_of(re.search(r'id="answer">(.*?)</p>', html, re.S).group(1))
    # 140.3 fixups of 17.7 ns, or of 58.9 ns; 0.6 µs / 17.7 ns is 34, and / 58.9 ns is 10.
    for figure in (
        "as ld.so does it, which adds the load base to 86 % and looks up a symbol for the others, "
        "2.5 µs among few libraries and 8.3 µs among many;",
        "less time than any of these with up to 270 known values a page,",
        "up to 34 among few libraries (46 % of pages have no more) and up to 10 among many (",
    ):
        assert figure in answer
    chart = re.search(r'id="chart-trip".*?</svg>', html, re.S).group(0)
    assert chart.count("way k-mixed-") == 2
    assert not re.search(r"way k-(short|long)", chart)
    table = text_of(re.search(r'id="break-even".*?</table>', html, re.S).group(0))
    for text in (
        "as ld.so does it, few libraries 86 % relative, 17.7 ns each",
        "long look-ups 412 ns each",
        f"34 46 % of pages (0{TO}68)",
        f"any number (0{TO}any)",
    ):
        assert text in table


def test_a_break_even_of_the_document_goes_before_that_of_the_medians():
    row = {
        "swap": "file", "engine": "lazyfree", "fixup": "symbolic", "scope": "long", "pays": "up to",
        "fixups": 33.0, "more_than_fit": False, "page_swap_us": 20.1, "page_scratch_us": 7.6,
        "fixup_ns": 412.0,
    }  # fmt: skip
    html = page(documents(make_survey(), make_cost(break_even=[row])), CREATED)
    assert "up to 33 among many libraries if they are looked up" in text_of(html)
    always = row | {"fixups": 700.0, "pays": "always", "more_than_fit": True}
    html = page(documents(make_survey(), make_cost(break_even=[always])), CREATED)
    assert "any number among many libraries if they are looked up" in text_of(html)


def test_from_a_comparison_alone_its_own_sentence_is_the_answer():
    html = page(documents(compares=[make_compare()]), CREATED)
    Structure(html)
    assert text_of(html).count("With MAP_PRIVATE 8 processes sent all 800") == 2
    assert 'id="chart-trip"' in html
    assert 'id="chart-fixups"' not in html


@pytest.mark.parametrize(
    ("given", "lacking", "there"),
    [
        ({}, ("cost", "survey", "compare"), ()),
        ({"survey": make_survey()}, ("cost", "compare"), ("fixups", "processes")),
        ({"cost": make_cost()}, ("survey", "compare"), ("trip",)),
        ({"compares": [make_compare()]}, ("survey", "cost"), ("trip", "sweep1")),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_gives_it(given, lacking, there):
    html = page(documents(**given), CREATED)
    Structure(html)
    text = text_of(html)
    for name in ("survey", "cost", "compare"):
        assert (f"then mapscratch report --{name} {name}.json" in text) == (name in lacking)
    charts = set(re.findall(r'id="chart-(\w+)"', html))
    assert charts >= set(there)
    assert ("trip" in charts) == ("cost" not in lacking or "compare" not in lacking)


@pytest.mark.parametrize(
    "given",
    [
        {"survey": make_survey(libraries=[], processes=[], totals={}, skipped=[])},
        {"cost": make_cost(lines=[], measurements=[], baselines=[], checks=[])},
        {"compares": [make_compare(results=[], swap={"kind": "none"}, verdict={})]},
    ],
)
def test_nothing_measured_is_no_empty_chart(given):
    html = page(documents(**given), CREATED)
    Structure(html)
    assert "<svg" not in html
    assert 'class="missing"' in html


def test_why_a_part_is_missing_is_told():
    html = page(documents(missing=(("cost", "no room on <disk>"),)), CREATED)
    assert "could not be found out (no room on &lt;disk&gt;)" in html


def test_one_round_and_doubts_are_told_at_the_top():
    assert 'id="caution"' not in page(FULL, CREATED)
    checks = [make_cost()["checks"][0] | {"agrees": False}]
    swap, lazyfree = make_cost()["lines"][0], make_cost()["lines"][3]
    lines = [swap, lazyfree | {"page_us": -1.0}]
    cost = make_cost(notes=["Busy <&."], checks=checks, lines=lines)
    text = text_of(page(documents(cost=cost), CREATED))
    assert "care. Busy &lt;&amp;. Others measure relocation of libbig.so differently" in text
    assert "Noise is larger than what was measured of drop + known values" in text
    assert "again not measurable" in text


def test_one_number_of_processes_is_a_sentence():
    results = [one for one in make_compare()["results"] if one["processes"] == 8]
    html = page(documents(compares=[make_compare(results=results)]), CREATED)
    assert "private sent 800 pages and lazyfree sent 0 pages to swap" in text_of(html)
    assert 'id="chart-sweep1"' not in html


def test_wrong_words_are_an_alarm():
    html = page(documents(compares=[make_compare(wrong_words=3)]), CREATED)
    assert "3 words were wrong" in html
    assert "alarm" in html


def with_hostile_texts(value):
    """Each text of a document replaced, but for those that choose between cases."""
    kept = ("document", "kind", "what", "fixup", "engine", "swap", "strategy", "pays", "scope")
    if isinstance(value, dict):
        return {
            key: one if key in kept and isinstance(one, str) else with_hostile_texts(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [with_hostile_texts(one) for one in value]
    return HOSTILE if isinstance(value, str) else value


def test_every_text_of_a_document_is_escaped():
    hostile = json.loads(
        json.dumps(with_hostile_texts([make_survey(), make_cost(), make_compare(), make_ps()]))
    )
    survey, cost, compare, ps = hostile
    survey["libraries"][0]["kinds"][HOSTILE] = 7
    cost["left_out"][HOSTILE] = HOSTILE
    cost["baselines"][0]["figures"][HOSTILE] = HOSTILE
    compare["results"][0]["strategy"] = HOSTILE
    html = page(documents(survey, cost, (compare,), ps, missing=((HOSTILE, HOSTILE),)), CREATED)
    html.encode()  # No half of a pair, no lone byte.
    structure = Structure(html)
    assert structure.tags.count("script") == 1
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") > 30
    assert "\\u202e\\xff\\x00\\n" in html
    assert not set(html) & {"\u202e", "\udcff", "\x00"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b>&\"'", "a&lt;b&gt;&amp;&quot;&#x27;"),
        ("caf\udcc3\udca9", "caf\\xc3\\xa9"),
        ("\ud800 \x1b[1m \u2066 é µ", "\\ud800 \\x1b[1m \\u2066 é µ"),
        (7, "7"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected


def test_commands_that_made_it_are_there_to_be_copied():
    html = page(documents(commands=("mapscratch survey --json a'b.json",)), CREATED)
    assert "mapscratch survey --json a&#x27;b.json" in html
    assert "mapscratch survey --installed" in page(FULL, CREATED)


def test_commands_are_those_that_made_the_documents():
    html = page(FULL, CREATED)
    commands = text_of(re.search(r'id="commands">(.*?)</code>', html, re.S).group(1))
    assert "mapscratch survey --installed --pid all --json survey.json" in commands
    assert (
        "sudo mapscratch cost --measure --swap all --survey survey.json --json cost.json"
        in commands
    )
    lines = [line for line in make_cost()["lines"] if line["what"] in ("swap.zram", "lazyfree")]
    html = page(documents(cost=make_cost(lines=lines)), CREATED)
    commands = text_of(re.search(r'id="commands">(.*?)</code>', html, re.S).group(1))
    assert commands.startswith("sudo mapscratch cost --measure --swap zram --json cost.json")
    assert commands.endswith("mapscratch report --cost cost.json -o report.html")


def test_what_was_not_given_is_left_out():
    text = text_of(page(documents(cost=make_cost()), CREATED))
    assert "survey not among the files that this page is made from" in text
    assert "Nothing." not in text
    skipped = [{"path": path, "reason": "x"} for path in ("/proc/1", "/lib/a.so", "/lib/b.so")]
    text = text_of(page(documents(make_survey(skipped=skipped)), CREATED))
    assert "2 files and 1 process skipped by the survey" in text


def test_one_is_no_plural():
    html = page(FULL, CREATED)
    assert not re.search(r"\b1 (fixups|pages|processes|words|libraries)\b", text_of(html))


def test_documents_of_different_machines_are_pointed_out():
    other = make_cost(machine={"kernel": "5.10", "architecture": "aarch64"})
    assert "different machines" in page(documents(make_survey(), other), CREATED)
    assert "different machines" not in page(FULL, CREATED)


# --- what is worked out --------------------------------------------------------------------------


def test_a_page_of_the_cost_document_stands_in_for_a_survey():
    cost = make_cost(pages={"title": "libc", "fixups": [1, 3, 5, 512], "pages": [4, 4, 3, 1]})
    found = histogram_of(documents(cost=cost))
    assert found.bins[:3] == ((1, 1, 4), (2, 3, 4), (4, 7, 3))
    assert found.bins[-1] == (512, 512, 1)
    assert (found.median, found.p95, found.pages) == (3, 512, 12)
    assert "in libc" in text_of(page(documents(cost=cost), CREATED))


def test_shares_of_pages():
    found = histogram_of(FULL)
    assert found.share_up_to(0) == 0
    assert found.share_up_to(512) == 1
    assert found.share_up_to(1) == pytest.approx(1210 / found.pages)
    # As many as the survey counted, and so as `mapscratch cost` says.
    pages = cost_model.distribution_of_survey("", PAGES_BY_FIXUPS)
    for limit in (1.5, 15.9, 16.1, 299.9, 300.1, 600.0):
        assert found.share_up_to(limit) == pytest.approx(pages.share_below(limit))


def test_shares_of_pages_where_only_classes_are_known():
    totals = make_survey()["totals"]
    del totals["pages_by_fixups"]
    found = histogram_of(documents(make_survey(totals=totals)))
    assert found.share_up_to(23) == pytest.approx(
        (1210 + 880 + 1130 + 1500 + 1720 / 2) / found.pages
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"fixups": 9.0, "minimum": 3.0, "maximum": 12.0}, (3, 12)),
        ({"fixups": 9.0, "minimum": None, "maximum": None}, (0, math.inf)),
        ({"fixups": None, "pays": "always", "minimum": 5.0, "maximum": None}, (5, math.inf)),
        ({"fixups": None, "pays": "always", "minimum": None, "maximum": None}, None),
        ({"fixups": None, "pays": "never", "minimum": None, "maximum": -4.0}, (0, 0)),
    ],
)
def test_bounds_of_a_break_even(row, expected):
    cost = make_cost(break_even=[make_break_even()[0] | {"pays": "up to"} | row])
    ways = ways_of(documents(cost=cost))
    assert ways.range_of(ways.scratch[0], ways.swaps[0]) == expected


def test_the_last_class_ends_with_what_a_page_has():
    spread = {"maximum": 512, "histogram": [[256, 511, 2], [512, 1023, 1]]}
    survey = make_survey(totals={"fixups_per_page": spread})
    assert histogram_of(documents(survey)).bins[-1] == (512, 512, 1)


def test_pages_without_fixups_between_them_count_as_in_the_libraries():
    cost = make_cost(pages={"layout": {"clean_pages": 2.0, "mappings": 0.1}})
    for line in cost["lines"]:
        line |= {"clean_page_us": 0.5, "mapping_us": 10.0}
        line["layouts"] = [[0.0, 0.01], [4.0, 0.01], [0.0, 0.01], [0.0, 0.01]]
    ways = ways_of(documents(cost=cost))
    swap = next(one for one in ways.swaps if one.key == "file")
    assert swap.points[0][1] == pytest.approx(20.1 + 0.2e-3 + 2 * 0.5 + 0.09 * 10)
    assert [fixups for fixups, *_ in swap.points] == [1, 256, 512]


def test_ways_are_those_of_the_model():
    costs = make_costs()
    report = cost_report(costs, PAGES)
    ways = ways_of(documents(cost=json.loads(json.dumps(cost_document(report, CREATED)))))
    assert {one.key for one in ways.swaps} == {"file", "zram"}
    assert [one.key for one in ways.scratch] == ["known", "relative", "short", "long"]
    assert {one.engine for one in ways.scratch} == {"lazyfree"}
    for swap in ways.swaps:
        trip = next(one for one in report.swaps if one.what == f"swap.{swap.key}")
        for fixups in (0, 100, 512):
            assert swap.microseconds(fixups) == pytest.approx(trip.spread_at(fixups).median)
    for way, trip in zip(ways.scratch, report.scratches, strict=False):
        assert way.microseconds(256) == pytest.approx(trip.spread_at(256).median)
        for swap in ways.swaps:
            expected = next(
                one
                for one in report.break_even
                if (one.swap, one.engine, one.fixup) == (f"swap.{swap.key}", "lazyfree", trip.fixup)
            )
            limit = ways.limit(way, swap)
            assert limit is None if expected.pays == "always" else limit == expected.fixups.median


def test_devices_are_those_of_the_model():
    assert tuple(latency for _, latency in page_facts.DEVICES) == tuple(cost_model.DEVICES.values())
    kernel_us = cost_document(cost_report(make_costs(), PAGES), CREATED)["device"]["kernel_us"]
    assert kernel_us == pytest.approx(4.0 + 0.9)
    assert f'data-kernel-us="{2.9 + 0.64:.4g}"' in page(FULL, CREATED)


@pytest.mark.parametrize("wanted", [[5, 5, 5], [0, 100, 101, 99], [-50, 400, 12, 13], [7], []])
def test_labels_are_moved_apart(wanted):
    places = apart(wanted, 17, 0, 200)
    ordered = sorted(places)
    assert all(b - a >= 17 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert all(0 <= place <= 200 for place in places)
    assert sorted(range(len(wanted)), key=lambda i: (wanted[i], i)) == sorted(
        range(len(wanted)), key=lambda i: (places[i], i)
    )


@pytest.mark.parametrize(
    ("low", "high", "logarithmic"), [(0, 7, False), (0, 1e7, False), (0.4, 900, True), (3, 4, True)]
)
def test_ticks_lie_on_the_axis(low, high, logarithmic):
    scale = Scale(low, high, 100, 0, logarithmic=logarithmic)
    ticks = scale.ticks(6)
    assert len(ticks) <= 6
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert scale(low) == 100
    assert scale(high) == 0
    assert scale(1e99) == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0022, "2.2 ns"), (0.185, "185 ns"), (7.61, "7.6 µs"), (20.4, "20 µs"), (1e4, "10 ms")],
)
def test_times_are_told_in_their_unit(value, expected):
    assert microseconds(value).replace("\N{NO-BREAK SPACE}", " ") == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0"), (229_376, "224 KiB"), (13_793 * 4096, "54 MiB"), (5 << 20, "5.0 MiB")],
)
def test_memory_is_told_as_a_survey_tells_it(size, expected):
    assert mebibytes(size).replace("\N{NO-BREAK SPACE}", " ") == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "over 99.9 %"), (0.0001, "under 0.1 %")],
)
def test_a_share_is_none_or_all_only_if_it_is(share, expected):
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_assets_are_installed():
    assert (Path(page_facts.__file__).parent / "assets" / "page.css").is_file()


JUNK = (
    None, True, -1, 0, 1, 7.5, -1e17, 1e17, 1e-300, "", "file", "lazyfree", "x" * 500, [], {},
    [[]], [{}], [[0, 0, 0, 0]], [[1, 2, 3, 4], [5, 6]], {"median": 0, "minimum": 5, "maximum": -5},
)  # fmt: skip


def places(value, path=()):
    """The way to every member of a document and every item of its lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in items:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


@pytest.mark.parametrize("name", ["survey", "cost", "compare", "ps"])
def test_documents_changed_at_random_give_a_page_or_an_error_in_one_line(name):
    make = {
        "survey": make_survey, "cost": make_cost, "compare": make_compare, "ps": make_ps
    }[name]  # fmt: skip
    draw = random.Random(20040203)
    original = json.dumps(make())
    ways = [way for way in places(json.loads(original)) if way[0] not in ("document", "version")]
    refused = 0
    for _ in range(20):
        document = json.loads(original)
        for _ in range(draw.randint(1, 3)):
            *way, last = draw.choice(ways)
            inner = document
            try:
                for key in way:
                    inner = inner[key]
                inner[last] = draw.choice(JUNK)
            except (KeyError, IndexError, TypeError):
                pass  # What was there has been replaced before.
        given = {"compares": [document]} if name == "compare" else {name: document}
        try:
            Structure(page(documents(**given), CREATED))
        except ReportError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused < 20
