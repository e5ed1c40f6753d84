# SPDX-License-Identifier: Apache-2.0
"""The sections of a page: each from the documents that there are, or a word on what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from mapscratch.lab.compare.verdict import WORDS_A_PAGE
from mapscratch.lab.report.page_charts import (
    PAGE,
    Chart,
    Table,
    fixups_chart,
    kinds_chart,
    round_trip_chart,
    savings_chart,
    sweep_chart,
    way_name,
)
from mapscratch.lab.report.page_facts import (
    DEVICES,
    Documents,
    Histogram,
    Sweep,
    Way,
    Ways,
    biggest_libraries,
    biggest_processes,
    fits,
    histogram_of,
    kinds_of_fixups,
    relative_share,
    surveyed,
    sweep_of,
    ways_of,
)
from mapscratch.lab.report.page_reading import Node
from mapscratch.lab.report.page_svg import (
    TO,
    count,
    counted,
    digits,
    element,
    mebibytes,
    microseconds,
    nanoseconds,
    percent,
    shown,
)
from mapscratch.lab.survey.terminal import LARGEST

COMMANDS = {
    "survey": "mapscratch survey --installed --pid all --json survey.json",
    "cost": "mapscratch cost --measure --json cost.json",
    "compare": "sudo mapscratch compare --swap auto --json compare.json",
    "ps": "mapscratch ps --json > ps.json",
}
"""What makes each document."""
_SYMBOLIC = ("long", "short")
_AMONG = {
    "mixed-short": "among few libraries",
    "mixed-long": "among many",
    "short": "among few libraries",
    "long": "among many libraries",
}
_MADE = ("file", "zram", "zswap")
"""Kinds of swap that can be made for a measurement."""
_SKIPPED_SHOWN = 40
_MAPPINGS_SHOWN = 60


def paragraph(*content: str, class_: str | None = None, id: str | None = None) -> str:
    """A paragraph of content that is escaped already."""
    return element("p", *content, class_=class_, id=id)


def missing(documents: Documents, name: str, what: str) -> str:
    """Says that a part isn't there, why, and how to get it."""
    reason = dict(documents.missing).get(name, "")
    lacks = "was not looked at for this page"
    if reason:
        lacks = f"could not be found out ({shown(reason.rstrip('.'))})"
    then = f"mapscratch report --{name} {name}.json"
    return paragraph(
        f"{shown(what)} {lacks}. This gives it: {command(COMMANDS[name])}, then {command(then)}.",
        class_="missing",
    )


def command(line: str) -> str:
    """A command amid text: no line breaks in the middle of an option."""
    words = (element("span", shown(word)) for word in line.split(" "))
    return element("code", " ".join(words), class_="command")


def figure(chart: Chart, note: str = "", key: str = "") -> str:
    """A chart with its legend and its figures."""
    caption = shown(chart.title) + (element("small", shown(note)) if note else "")
    names = [
        element("li", element("b", chr(ord("A") + index), class_=f"k-{key}"), shown(name))
        for index, (key, name) in enumerate(chart.legend)
    ]
    return element(
        "figure",
        element("figcaption", caption),
        key,
        chart.wide,
        chart.narrow,
        element("ul", *names, class_="legend") if names else "",
        element(
            "details",
            element("summary", "The figures as a table"),
            table(chart.table, caption=chart.title),
            class_="table",
        ),
        id=f"chart-{chart.key}",
    )


def table(content: Table, *, caption: str = "", words: bool = False) -> str:
    """A table; the first column names the row."""
    head = element("tr", *(element("th", shown(text), scope="col") for text in content.head))
    rows = [
        element(
            "tr",
            element("th", shown(row[0]), scope="row"),
            *(element("td", shown(text)) for text in row[1:]),
        )
        for row in content.rows
    ]
    return _scrolling(
        element(
            "table",
            element("caption", shown(caption)) if caption else "",
            element("thead", head),
            element("tbody", *rows),
            class_="words" if words else "figures",
        )
    )


def _scrolling(content: str) -> str:
    # To be reached by keyboard, where it is wider than a phone.
    return element("div", content, class_="scroll", tabindex="0")


def section(key: str, title: str, *content: str) -> str:
    """A section with its heading."""
    return element("section", element("h2", shown(title)), *content, id=key)


# --- the answer ---------------------------------------------------------------------------------


def answer(documents: Documents) -> str:
    """How expensive the fixups are, in one sentence."""
    ways, histogram = ways_of(documents), histogram_of(documents)
    if ways is None or not ways.scratch:
        return _answer_without_ways(documents, histogram)
    if ways.source == "mapscratch.compare" and documents.compares:
        sentence = documents.compares[0].child("verdict").text("sentence")
        if sentence:
            return shown(sentence)
    known = ways.scratch_by("known") or ways.scratch[0]
    costs = _what_fixups_cost(documents, ways, known, histogram)
    dropped = f"dropping it and reading it again {_time(known.page_us)}"
    if not ways.swaps:
        return (
            f"{costs}; {dropped} without them, and what swap would cost instead is not known, for "
            "none was measured."
        )
    trips: dict[str, list[str]] = {}
    for one in ways.swaps[::-1]:
        trips.setdefault(_time(one.page_us), []).append(shown(_bare(one)))
    swapped = _listed(f"{time} ({_listed(names)})" for time, names in trips.items())
    return (
        f"{costs}; swapping a page out and in takes {swapped}, {dropped}, so "
        f"{_verdict(ways, known, histogram)}."
    )


def _what_fixups_cost(
    documents: Documents, ways: Ways, known: Way, histogram: Histogram | None
) -> str:
    fixups, pages = _typical_page(histogram)

    def cost(way: Way) -> str:
        return _time(way.fixup_ns * fixups / 1e3)

    text = f"{pages}: to make them again takes {cost(known)} from known values"
    mixed, share = ways.mixed(), relative_share(documents)
    if mixed and share is not None:
        each = _listed(f"{cost(one)} {_AMONG[one.key]}" for one in mixed)
        return (
            f"{text}, and as ld.so does it, which adds the load base to {percent(share)} and looks "
            f"up a symbol for the others, {each}"
        )
    relative, symbolic = ways.scratch_by("relative"), _dearest(ways)
    if relative:
        text += f", {cost(relative)} if ld.so adds the load base to each"
    if symbolic:
        text += f", and {cost(symbolic)} if it looks up a symbol for each {_AMONG[symbolic.key]}"
    return text


def _time(value: float) -> str:
    return _strong(microseconds(value))


def _bare(swap: Way) -> str:
    return swap.name.removeprefix("a ")


def caution(documents: Documents) -> str:
    """Why the answer is to be taken with care; nothing where it isn't."""
    if documents.cost is None:
        return ""
    reasons = list(map(shown, documents.cost.texts("notes")))
    doubted = [
        node.text("what")
        for node in documents.cost.children("checks")
        if node.values.get("agrees") is False
    ]
    if doubted:
        reasons.append(f"Others measure {_listed(map(shown, doubted))} differently, see below.")
    ways = ways_of(documents)
    noisy = (
        [way_name(one) for one in (*ways.swaps, *ways.scratch) if one.page_us < 0] if ways else []
    )
    if noisy:
        reasons.append(f"Noise is larger than what was measured of {_listed(map(shown, noisy))}.")
    if not reasons:
        return ""
    return paragraph(
        f"To be taken with care. {' '.join(reasons)} A machine that does nothing else, and more "
        "--seconds, give better figures.",
        class_="missing",
        id="caution",
    )


def _answer_without_ways(documents: Documents, histogram: Histogram | None) -> str:
    if histogram and histogram.median is not None:
        return (
            f"Half of {shown(histogram.whose)} have up to {_strong(count(histogram.median))} "
            "fixups; what one costs was not measured for this page."
        )
    if documents.all():
        return "What a fixup costs was not measured for this page."
    return "Nothing could be measured here; below is why, and what to do."


def _typical_page(histogram: Histogram | None) -> tuple[float, str]:
    """Fixups of a page, and whose they are in words."""
    if histogram and histogram.median:
        half = (
            f"Half of {shown(histogram.whose)} have up to {_strong(count(histogram.median))} fixups"
        )
        if histogram.mean is None:
            return histogram.median, half
        return histogram.mean, f"{half}, and the mean is {_strong(count(histogram.mean))}"
    return 100.0, "If a page has 100 fixups"


def _dearest(ways: Ways) -> Way | None:
    found = [one for one in ways.scratch if one.key in _SYMBOLIC]
    return max(found, key=lambda one: one.fixup_ns, default=None)


def _verdict(ways: Ways, known: Way, histogram: Histogram | None) -> str:
    """Up to how many fixups dropping takes less time than every swap that it beats at all."""
    beaten = [one for one in ways.swaps if ways.limit(known, one) != 0]
    never = " or ".join(shown(_bare(one)) for one in ways.swaps if one not in beaten)
    if not beaten:
        return f"dropping {_strong('never')} takes less time than {never}"
    text = "dropping takes less time than"
    if never:
        text = f"dropping {_strong('never')} takes less time than {never}, but less than"
    whom = "any of these" if len(beaten) > 1 and not never else ""
    whom = whom or _listed(shown(_bare(one)) for one in beaten)
    limit = _limit_of_all(ways, known, beaten)
    text = f"{text} {whom} with {_up_to(limit) or 'any number of'} known values a page"
    dear = _dearest(ways)
    others = ways.mixed() or ([dear] if dear else [])
    limits = [_up_to_among(one, _limit_of_all(ways, one, beaten), histogram) for one in others]
    if not limits:
        return text
    how = "made as ld.so does it" if ways.mixed() else "looked up"
    return f"{text}, and with {_listed(limits)} if they are {how}"


def _limit_of_all(ways: Ways, way: Way, swaps: Sequence[Way]) -> float | None:
    limits = (ways.limit(way, swap) for swap in swaps)
    return min((one for one in limits if one is not None), default=None)


def _up_to_among(way: Way, limit: float | None, histogram: Histogram | None) -> str:
    """Up to how many fixups, for how many libraries, and how many pages have no more."""
    if limit == 0:
        return f"none {_AMONG[way.key]}"
    most = _up_to(limit)
    if most and histogram and limit and way.key not in _SYMBOLIC:
        share = percent(histogram.share_up_to(limit))
        return f"{most} {_AMONG[way.key]} ({share} of pages have no more)"
    return f"{most or 'any number'} {_AMONG[way.key]}"


def _up_to(limit: float | None) -> str:
    """A bound; empty where no page has so many."""
    if limit is None or not fits(limit):
        return ""
    # With two digits: the rounds don't agree on more.
    most = max(limit, 1.0)
    return f"up to {_strong(count(round(most, 1 - int(math.log10(most)))))}"


def _strong(text: str) -> str:
    return element("strong", shown(text))


def _listed(parts: Iterable[str]) -> str:
    parts = list(parts)
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


# --- the chart at the top -----------------------------------------------------------------------


def top_chart(documents: Documents) -> str:
    """The one chart, and the slider for another device."""
    ways, histogram = ways_of(documents), histogram_of(documents)
    if ways is None:
        return missing(documents, "cost", "What a page's way out of memory and back costs")
    composed = _what_ld_so_takes(documents, ways)
    note = (
        "Where a drop's line lies below a swap's, dropping takes less time; rings mark where they "
        f"cross. Dashed lines are reckoned: a drop as it was measured, and {composed}."
    )
    if ways.source == "mapscratch.compare":
        note = "From comparisons: measured at the marks, with one number of fixups a page."
    parts = [figure(round_trip_chart(ways, histogram), note)]
    if not ways.swaps:
        parts.append(missing(documents, "compare", "What swapping a page costs"))
    if ways.scratch:
        parts.append(_device_form(documents, histogram))
    return "".join(parts)


def _what_ld_so_takes(documents: Documents, ways: Ways) -> str:
    share = relative_share(documents)
    if ways.mixed() and share is not None:
        return (
            "what ld.so takes for a fixup that is relative, or in the mean for those here: "
            f"{percent(share)} are relative, and for the others it looks up a symbol in few or in "
            "many libraries"
        )
    return (
        "what ld.so takes for a fixup that is relative, or a symbol looked up in few (short) or "
        "many libraries (long)"
    )


def _kernel_part_us(documents: Documents) -> float:
    """Of a page's way through a device what is the kernel's work."""
    cost = documents.cost
    return (cost.child("device").number("kernel_us") or 0.0) if cost else 0.0


def _device_form(documents: Documents, histogram: Histogram | None) -> str:
    bins = [list(row) for row in histogram.classes()] if histogram else []
    presets = [
        element(
            "button",
            shown(f"{name}, {microseconds(latency)}"),
            type="button",
            data_us=f"{latency:g}",
        )
        for name, latency in DEVICES
    ]
    return element(
        "div",
        element("label", "If swap were on another device: what one read takes", for_="device"),
        '<input type="range" id="device" min="0" max="4.5" step="any" value="2">',
        element("div", " ".join(presets), class_="presets"),
        element("output", for_="device"),
        class_="device-form",
        data_kernel_us=f"{_kernel_part_us(documents):.4g}",
        data_words=WORDS_A_PAGE,
        data_bins=json.dumps(bins),
    )


# --- fixups a page ------------------------------------------------------------------------------


def fixups_section(documents: Documents) -> str:
    """How many fixups pages have, over all libraries here."""
    title = "Fixups a page, over the libraries here"
    survey, histogram = documents.survey, surveyed(documents)
    if survey is None:
        return section("fixups", title, missing(documents, "survey", "How many fixups pages have"))
    totals = survey.child("totals")
    tiles = [
        ("libraries", totals.number("libraries"), count),
        ("fixups", totals.number("fixups"), count),
        ("dirtied by relocation in all", _bytes(totals.number("dirtied_pages")), mebibytes),
        ("of it saved by what mapscratch ships", _bytes(totals.number("saved_pages")), mebibytes),
        ("with BIND_NOW or no PLT", totals.number("bind_now_or_no_plt_share"), percent),
    ]
    parts = [
        element(
            "ul",
            *(
                element("li", element("b", shown(form(value))), element("span", shown(name)))
                for name, value, form in tiles
                if value is not None
            ),
            class_="tiles",
        )
    ]
    if histogram is None:
        parts.append(paragraph("None of the files has a page with fixups.", class_="missing"))
    else:
        parts.append(figure(fixups_chart(histogram), _quantile_note(histogram)))
        parts.append(_by_library(totals))
    kinds = kinds_of_fixups(survey)
    if kinds:
        parts.append(figure(kinds_chart(kinds)))
    libraries = biggest_libraries(survey)
    if libraries:
        heading = "The libraries of which relocation dirties most"
        parts.append(
            figure(savings_chart(libraries, "libraries", heading, "library"), "", _savings_key())
        )
    return section("fixups", title, *parts)


def _by_library(totals: Node) -> str:
    """That large libraries have most of the pages; nothing where there are few."""
    names = ("libraries", "largest_share", "library_median", "library_symbolic_share")
    libraries, largest, middle, symbolic = (totals.number(name) for name in names)
    if libraries is None or largest is None or middle is None or symbolic is None:
        return ""
    if libraries <= 2 * LARGEST:
        return ""
    return paragraph(
        shown(
            f"{LARGEST} libraries have {percent(largest)} of these pages; the library in the "
            f"middle has {counted(middle, 'fixup')} a page, and {percent(symbolic)} of its fixups "
            "look up a symbol."
        ),
        class_="note",
    )


def _bytes(pages: float | None) -> float | None:
    return None if pages is None else pages * PAGE


def _quantile_note(histogram: Histogram) -> str:
    names = (("median", histogram.median), ("95 %", histogram.p95), ("most", histogram.maximum))
    parts = [f"{name} {count(value)}" for name, value in names if value is not None]
    if histogram.mean is not None:
        parts.insert(1, f"mean {digits(histogram.mean)}")
    return ", ".join(parts) + f"; a page has room for {WORDS_A_PAGE} pointers"


def _savings_key() -> str:
    return element(
        "ul",
        element("li", element("span", class_="swatch part"), "saved by what mapscratch ships"),
        element("li", element("span", class_="swatch"), "dirtied by relocation in all"),
        class_="key",
    )


# --- costs and break-even -----------------------------------------------------------------------


def costs_section(documents: Documents) -> str:
    """What was measured, and from how many fixups a page dropping costs more time than swap."""
    title = "Round trips and break-even"
    ways, histogram = ways_of(documents), histogram_of(documents)
    if ways is None or documents.cost is None:
        parts = [missing(documents, "cost", "What each fixup and each fault costs")]
        if ways and ways.scratch:
            parts.append(_break_even_table(documents, ways, histogram))
        return section("costs", title, *parts)
    parts = []
    if ways.scratch:
        parts.append(_break_even_table(documents, ways, histogram))
        parts.append(_other_pages(documents, histogram))
    else:
        parts.append(paragraph("No engine that drops pages was measured.", class_="missing"))
    if ways.others and ways.swaps:
        parts.append(_other_engines(ways))
    parts.append(_measurements(documents.cost))
    parts.append(_checks(documents.cost))
    return section("costs", title, *parts)


def _other_pages(documents: Documents, histogram: Histogram | None) -> str:
    """Says so where the costs weren't reckoned for the pages of the survey."""
    of_survey = surveyed(documents)
    if histogram is None or of_survey is None or histogram.counts == of_survey.counts:
        return ""
    again = "mapscratch cost --from cost.json --survey survey.json --json costs-here.json"
    return paragraph(
        f"This was reckoned for {shown(histogram.whose)}, and not for those of the survey. This "
        f"reckons with the survey's, and measures nothing: {command(again)}.",
        class_="note",
    )


def _break_even_table(documents: Documents, ways: Ways, histogram: Histogram | None) -> str:
    engine = ways.scratch[0].engine or "an engine"
    heads = [
        element(
            "th",
            shown(one.name),
            element("small", shown(_each(one, relative_share(documents)))),
            scope="col",
            data_page_us=f"{one.page_us:.6g}",
            data_fixup_ns=f"{one.fixup_ns:.6g}",
            data_name=one.name,
            data_told=one in ways.drawn,
            data_share=one.key not in _SYMBOLIC,
        )
        for one in ways.scratch
    ]
    kernel = _kernel_part_us(documents)
    swaps = [(one, f"{microseconds(one.page_us)} a page, measured") for one in ways.swaps]
    swaps += [
        (
            Way("device", name, kernel + latency, 0.0),
            f"{microseconds(kernel + latency)} a page, if a read takes {microseconds(latency)}",
        )
        for name, latency in DEVICES
    ]
    rows = [
        element(
            "tr",
            element(
                "th",
                shown(_bare(swap)),
                element("small", shown(note)),
                scope="row",
            ),
            *(element("td", _pays(ways, one, swap, histogram)) for one in ways.scratch),
        )
        for swap, note in swaps
    ]
    slider = element(
        "tr",
        element("th", "the slider's device", element("small"), scope="row"),
        *(element("td") for _ in ways.scratch),
        class_="slider",
    )
    dropped = microseconds(ways.scratch[0].page_us)
    caption = (
        f"Up to how many fixups a page dropping takes less time than swap ({engine}: {dropped} for "
        "a page without fixups)"
    )
    return element(
        "div",
        _scrolling(
            element(
                "table",
                element("caption", shown(caption)),
                element("thead", element("tr", element("th", "swap", scope="col"), *heads)),
                element("tbody", *rows, slider),
            )
        ),
        paragraph(
            f"{_in_brackets(ways)}{_kernel_part(kernel)} A device's own time for writing is not "
            f"waited for. “Any number” means more than the {WORDS_A_PAGE} pointers that fit in a "
            "page.",
            class_="note",
        ),
        id="break-even",
    )


def _kernel_part(kernel_us: float) -> str:
    if not kernel_us:
        return (
            "Of a device that isn't here only the latency is counted, for the kernel's own part "
            "was not measured."
        )
    return (
        f"Of a device that isn't here the kernel's part, {microseconds(kernel_us)}, is a swap-out "
        "and a page fault as they were measured, and the latency counts once: for a page that is "
        "read alone, without read-ahead."
    )


def _each(way: Way, share: float | None) -> str:
    text = f"{digits(way.fixup_ns)} ns each"
    return f"{percent(share)} relative, {text}" if way.key.startswith("mixed") and share else text


def _in_brackets(ways: Ways) -> str:
    if not ways.ranges:
        return ""
    return "In brackets the least and the most that the figures of any rounds allow. "


def _pays(ways: Ways, way: Way, swap: Way, histogram: Histogram | None) -> str:
    """Up to how many fixups, how many pages have no more, and within which bounds."""
    limit, bounds = ways.limit(way, swap), ways.range_of(way, swap)
    text, notes = _bounded(limit), []
    if histogram and limit and fits(limit) and way.key not in _SYMBOLIC:
        notes.append(f"{percent(histogram.share_up_to(limit))} of pages")
    if bounds and _bounded(bounds[0]) != _bounded(bounds[1]):
        notes.append(f"({_end(bounds[0])}{TO}{_end(bounds[1])})")
    return shown(text) + "".join(element("small", shown(note)) for note in notes)


def _bounded(limit: float | None) -> str:
    if limit == 0:
        return "never"
    return count(limit) if limit is not None and fits(limit) else "any number"


def _end(limit: float) -> str:
    return count(limit) if fits(limit) else "any"


def _other_engines(ways: Ways) -> str:
    rows = tuple(
        (
            f"{one.engine}: {one.name}",
            microseconds(one.page_us),
            f"{digits(one.fixup_ns)} ns",
            *(_plain_pays(ways.limit(one, swap)) for swap in ways.swaps),
        )
        for one in ways.others
    )
    swaps = (f"up to, against {_bare(one)}" for one in ways.swaps)
    head = ("engine", "a page without fixups", "a fixup", *swaps)
    return element("details", element("summary", "Other engines"), table(Table(head, rows)))


def _plain_pays(limit: float | None) -> str:
    if limit == 0:
        return "never"
    return "any number" if limit is None or not fits(limit) else f"{count(limit)} a page"


def _measurements(cost: Node) -> str:
    rows = []
    for node in cost.children("measurements"):
        median, low, high = (node.number(name) for name in ("median", "minimum", "maximum"))
        if median is None:
            continue
        spread = "one round" if node.number("rounds") == 1 else "not known"
        if low is not None and high is not None and low < high:
            spread = f"{nanoseconds(low)}{TO}{nanoseconds(high)}"
        rows.append(
            element(
                "tr",
                element(
                    "th",
                    shown(node.text("title") or node.text("name")),
                    element("small", shown(node.text("note"))) if node.text("note") else "",
                    scope="row",
                ),
                element("td", shown(nanoseconds(median)), class_="number"),
                element("td", shown(spread), class_="number"),
                element("td", shown(node.text("per")), class_="number"),
            )
        )
    if not rows:
        return paragraph("No single cost was measured.", class_="missing")
    heads = ("what", "median", f"least{TO}most", "for each")
    figures = _scrolling(
        element(
            "table",
            element("caption", "Medians over rounds in which all of them take turns"),
            element(
                "thead", element("tr", *(element("th", shown(text), scope="col") for text in heads))
            ),
            element("tbody", *rows),
        )
    )
    figures_here = counted(len(rows), "figure")
    summary = element("summary", shown(f"What each step costs here: {figures_here}"))
    return element("details", summary, figures, open=True)


def _checks(cost: Node) -> str:
    checks = cost.children("checks")
    if not checks:
        return ""
    rows = tuple(
        (
            node.text("what"),
            _maybe(node.number("ours"), digits),
            _maybe(node.number("theirs"), digits),
            _maybe(node.number("ratio"), digits),
            "agrees" if node.flag("agrees") else "does not agree",
            node.text("note"),
        )
        for node in checks
    )
    head = ("what", "ours", "theirs", "ratio", "", "")
    return table(Table(head, rows), caption="Checked against others", words=True)


def _maybe(value: float | None, form: Callable[[float], str]) -> str:
    return "not known" if value is None else form(value)


# --- swap against the number of processes --------------------------------------------------------


def sweeps_section(documents: Documents) -> str:
    """What goes to swap, by strategy and number of processes."""
    title = "Swap I/O by strategy and number of processes"
    if not documents.compares:
        what = "What N processes send to swap"
        return section("swap", title, missing(documents, "compare", what))
    parts = []
    for number, compare in enumerate(documents.compares, start=1):
        parts.append(_one_sweep(compare, sweep_of(compare), number))
    reason = dict(documents.missing).get("compare")
    if reason:
        parts.append(missing(documents, "compare", "Another comparison"))
    return section("swap", title, *parts)


def _one_sweep(compare: Node, sweep: Sweep, number: int) -> str:
    parts = []
    if sweep.wrong_words:
        text = (
            f"{counted(sweep.wrong_words, 'word was', 'words were')} wrong: nothing else in this "
            "comparison counts."
        )
        parts.append(paragraph(shown(text), class_="missing alarm"))
    chart = sweep_chart(sweep, number)
    if sweep.swap and not chart:
        text = "Only one number of processes was measured"
        sent = _listed(
            f"{name} sent {counted(points[0][1], 'page')}" for name, points in sweep.series
        )
        parts.append(paragraph(shown(f"{text}: {sent} to swap." if sent else f"{text}.")))
    elif chart:
        pages = f"{count(sweep.pages)} relocated pages a process" if sweep.pages else ""
        parts.append(figure(chart, pages))
    else:
        parts.append(
            paragraph(
                "There was no swap in this comparison, so no page could go there. As root this "
                "makes a temporary swapfile and removes it: "
                f"{command(COMMANDS['compare'])}.",
                class_="missing",
            )
        )
    if sweep.not_asked:
        names = _listed(map(shown, sweep.not_asked))
        parts.append(
            paragraph(
                f"{names} drops its pages itself: nothing of them goes to swap.", class_="note"
            )
        )
    back = dict(sweep.given_back)
    rows = tuple(
        (
            name,
            microseconds(median),
            f"{microseconds(low)}{TO}{microseconds(high)}" if low < high else "one round",
            f"{back[name]:.2f}" if name in back else "not known",
        )
        for name, median, low, high in sweep.trips
    )
    if rows:
        head = ("strategy", "a page's round trip", f"least{TO}most", "MiB given back per MiB asked")
        caption = f"With {counted(sweep.processes, 'process', 'processes')}"
        parts.append(table(Table(head, rows), caption=caption))
    sentence = compare.child("verdict").text("sentence")
    if sentence:
        parts.append(paragraph(shown(sentence)))
    parts += [paragraph(shown(note), class_="note") for note in compare.texts("notes")]
    return "".join(parts)


# --- processes ----------------------------------------------------------------------------------


def processes_section(documents: Documents) -> str:
    """What the biggest processes hold and would save."""
    title = "What the biggest processes would save"
    if documents.survey is None:
        what = "What running processes hold of relocated pages"
        return section("processes", title, missing(documents, "survey", what))
    processes = biggest_processes(documents.survey)
    if not processes:
        what = "What running processes hold of relocated pages"
        return section("processes", title, missing(documents, "survey", what))
    totals = documents.survey.child("totals")
    relocated, saved = totals.number("relocated_pages"), totals.number("saved_pages_in_processes")
    share, number = totals.number("relocated_pss_bytes"), totals.number("processes")
    text = ""
    if number is not None and relocated is not None and saved is not None:
        text = (
            f"{counted(number, 'process holds', 'processes hold')} "
            f"{_strong(mebibytes(relocated * PAGE))} of private pages that relocation dirtied; "
            f"what mapscratch ships saves {_strong(mebibytes(saved * PAGE))} of them."
        )
        if share is not None:
            text += f" With what forked processes still share counted once: {mebibytes(share)}."
    return section(
        "processes",
        title,
        paragraph(text) if text else "",
        figure(
            savings_chart(
                processes, "processes", "Private pages with relocations, by process", "process"
            ),
            "",
            _savings_key(),
        ),
        paragraph(
            "“Saved” counts pages whose only fixups are PLT slots, which converted entries make "
            "again by themselves. All others hold data relocations: no kernel that is released "
            "can drop and rebuild those in an ordinary program.",
            class_="note",
        ),
    )


# --- baselines ----------------------------------------------------------------------------------


def baselines_section(documents: Documents) -> str:
    """What else could be done about dirty relocated pages."""
    title = "What else there is"
    nodes = documents.cost.children("baselines") if documents.cost else []
    if not nodes:
        what = "How pre-forking, KSM, RELR, prelink, -z now and zswap compare"
        return section("baselines", title, missing(documents, "cost", what))
    items = []
    for node in nodes:
        badge = "measured" if node.flag("measured") else "reasoned"
        facts = [
            element("dt", shown(name.replace("_", " "))) + element("dd", shown(_plain(value)))
            for name, value in node.child("figures").values.items()
        ]
        source = node.text("source")
        items.append(
            element(
                "li",
                element(
                    "h3",
                    shown(node.text("title") or node.text("name")),
                    " ",
                    element("span", badge, class_="badge"),
                ),
                paragraph(shown(node.text("sentence"))),
                element("dl", *facts) if facts else "",
                paragraph("Source: ", shown(source), class_="note") if source else "",
            )
        )
    return section("baselines", title, element("ul", *items, class_="baselines"))


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, int | float):
        return count(value) if float(value).is_integer() else digits(value)
    return str(value)[:200]


# --- who uses it now ----------------------------------------------------------------------------


def ps_section(documents: Documents) -> str:
    """The processes that used scratch memory, if a document says so; nothing otherwise."""
    if documents.ps is None:
        return ""
    rows = []
    for process in documents.ps.children("processes"):
        who = f"{process.text('command')} ({process.count('pid')})"
        if process.text("problem"):
            rows.append((who, process.text("problem"), "", "", "", ""))
        rows += [
            (
                who,
                f"{node.text('kind')} {node.text('name')}".strip(),
                node.text("engine"),
                _maybe(node.number("droppable_bytes"), mebibytes),
                _maybe(node.number("dropped_pages"), count),
                _maybe(node.number("rebuilt_pages"), count),
            )
            for node in process.children("mappings")
        ]
    if not rows:
        return section("ps", "Who uses scratch memory now", paragraph("No process did."))
    head = ("process", "what", "engine", "droppable", "pages dropped", "pages rebuilt")
    more = len(rows) - _MAPPINGS_SHOWN
    return section(
        "ps",
        "Who uses scratch memory now",
        table(Table(head, tuple(rows[:_MAPPINGS_SHOWN])), words=True),
        paragraph(shown(f"and {count(more)} more"), class_="note") if more > 0 else "",
    )


# --- method -------------------------------------------------------------------------------------


def method_section(documents: Documents) -> str:
    """Machine, kernel, how it was measured, what was left out, and the commands."""
    return section(
        "method",
        "Machine, method, and how to do it again",
        _origins(documents.all()),
        element("h3", "How it was found"),
        paragraph(
            "Relocations are read from the files' own tables, and counted for every page that a "
            "loader would store to. Costs are medians over rounds in which all measurements take "
            "turns, so that whatever slows the machine down slows all of them. A round trip is "
            "measured by processes that map generated or real libraries, make the fixups, have the "
            "kernel reclaim the pages (MADV_PAGEOUT), touch them again and check every word. "
            "Writing to a swap device is not waited for. What is not known is said to be so, "
            "and is never 0."
        ),
        element("h3", "What was left out, and why"),
        _left_out(documents),
        element("h3", "To do it again"),
        element("button", "Copy", type="button", class_="copy", data_copies="commands"),
        element("pre", element("code", shown_lines(_commands(documents)), id="commands")),
    )


def shown_lines(lines: Iterable[str]) -> str:
    """Lines of text, each escaped."""
    return "\n".join(map(shown, lines))


def _origins(nodes: Sequence[Node]) -> str:
    machines = dict.fromkeys(map(_machine, nodes))
    rows = tuple(
        (
            node.text("document"),
            _date(node.text("created")),
            _maybe(node.number("seconds"), lambda value: f"{digits(value)} s"),
            node.text("mapscratch"),
        )
        for node in nodes
    )
    if not rows:
        return ""
    alarm = ""
    if len(machines) > 1:
        text = "These documents are from different machines: compare them with care."
        alarm = paragraph(text, class_="missing alarm")
    return (
        "".join(paragraph(shown(machine)) for machine in machines)
        + alarm
        + table(Table(("document", "made at", "took", "mapscratch"), rows))
    )


def _machine(node: Node) -> str:
    machine = node.child("machine")
    processors, page_size = machine.number("processors"), machine.number("page_size")
    parts = [
        f"Linux {machine.text('kernel') or '(release not known)'}",
        machine.text("architecture"),
    ]
    if processors is not None:
        parts.append(counted(processors, "processor"))
    if page_size is not None:
        parts.append(f"pages of {count(page_size)} bytes")
    return ", ".join(filter(None, parts)) + "."


def _date(text: str) -> str:
    """A date and time to be read; what is none is shown as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text[:40]


def _left_out(documents: Documents) -> str:
    rows = [(name, reason) for name, reason in documents.missing]
    if not documents.missing:
        rows += [
            (name, f"not among the files that this page is made from; `{COMMANDS[name]}` makes it")
            for name, found in (
                ("survey", documents.survey),
                ("cost", documents.cost),
                ("compare", documents.compares),
            )
            if not found
        ]
    for node in documents.all():
        rows += [(name, reason) for name, reason in node.reasons("left_out").items()]
    skipped = documents.survey.children("skipped") if documents.survey else []
    parts = []
    if rows:
        parts.append(table(Table(("what", "why"), tuple(dict.fromkeys(rows))), words=True))
    if skipped:
        shown_files = tuple(
            (node.text("path"), node.text("reason")) for node in skipped[:_SKIPPED_SHOWN]
        )
        more = len(skipped) - len(shown_files)
        processes = sum(node.text("path").startswith("/proc/") for node in skipped)
        numbers = ((len(skipped) - processes, "file", "files"), (processes, "process", "processes"))
        files = _listed(counted(*one) for one in numbers if one[0])
        parts.append(
            element(
                "details",
                element("summary", shown(f"{files} skipped by the survey")),
                table(Table(("file", "why"), shown_files), words=True),
                paragraph(shown(f"and {count(more)} more"), class_="note") if more else "",
            )
        )
    return "".join(parts) or paragraph("Nothing.")


def _commands(documents: Documents) -> list[str]:
    if documents.commands:
        return list(documents.commands)
    lines, files = [], []
    if documents.survey or not documents.all():
        lines.append(_survey_command(documents.survey))
        files.append("--survey survey.json")
    if documents.cost or not documents.all():
        lines.append(_cost_command(documents))
        files.append("--cost cost.json")
    swaps = list(dict.fromkeys(map(_swap_option, documents.compares)))
    for number, swap in enumerate(swaps, start=1):
        name = f"compare{number if len(swaps) > 1 else ''}.json"
        root = "sudo " if swap else ""
        lines.append(f"{root}mapscratch compare{swap} --json {name}")
        files.append(f"--compare {name}")
    lines.append(f"mapscratch report {' '.join(files)} -o report.html")
    return lines


def _survey_command(survey: Node | None) -> str:
    processes = " --pid all" if survey is None or survey.children("processes") else ""
    return f"mapscratch survey --installed{processes} --json survey.json"


def _cost_command(documents: Documents) -> str:
    """With the swap that was measured, and root, which makes it."""
    found = (
        [node.text("what") for node in documents.cost.children("lines")] if documents.cost else []
    )
    kinds = [kind for kind in _MADE if f"swap.{kind}" in found]
    swap = f" --swap {kinds[0] if len(kinds) == 1 else 'all'}" if kinds else ""
    survey = " --survey survey.json" if documents.survey else ""
    root = "sudo " if kinds else ""
    return f"{root}mapscratch cost --measure{swap}{survey} --json cost.json"


def _swap_option(compare: Node) -> str:
    swap = compare.child("settings").text("swap")
    return f" --swap {swap}" if swap in ("auto", *_MADE) else ""
