# SPDX-License-Identifier: Apache-2.0
"""Costs in the terminal: the figures, the picture, break-even, other ways, and the answer last."""

from __future__ import annotations

from mmap import PAGESIZE

from jinja2 import Template
from rich.console import Console
from rich.padding import Padding

from mapscratch.lab.compare.charts import print_chart
from mapscratch.lab.cost.answer import CostReport, answer, relative_share, without_latency
from mapscratch.lab.cost.chart import cost_chart
from mapscratch.lab.cost.costs import Check, Costs
from mapscratch.lab.cost.fleet import Fleet
from mapscratch.lab.cost.lines import SWAP_NOTE
from mapscratch.lab.cost.model import WORDS_A_PAGE, BreakEven, break_even, read_ahead
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, decimal, microseconds, size

_MOST_SWAPS_WITH_BRACKETS = 3
_TIME_UNITS = {"years": 365.25 * 86_400, "days": 86_400, "h": 3600, "s": 1, "ms": 1e-3, "µs": 1e-6}

_EXPLANATIONS = """
>{{ most }}: more than fit in a page. {% if brackets %}In brackets the least and the most that the
figures of any rounds allow. {% endif %}Relative and symbolic fixups count as what ld.so takes for
them, mixed ones as it takes in the mean for those of the pages below.

A page's round trip without fixups: {{ trips|join(", ") }}.

Pages: {{ pages.title }}: {{ "{:,}".format(pages.total_pages) }} with fixups,
{{ "%.0f"|format(pages.median) }} on the one in the middle, {{ "%.0f"|format(pages.mean) }} in the
mean, at most {{ "%.0f"|format(pages.quantile(0.95)) }} on 95 %{{ share }}.

{% if cold %}The file's page is in the page cache here. Where it was dropped too, it is read again:
{{ cold|join(", ") }}{% if swap %} (swap-in from a file, in order: {{ us(swap.median / 1e3) }})
{%- endif %}; the fixups come on top.{% endif %}

{% if device %}{{ device.title }}: assumed, not measured. The kernel's part is this machine's, and
the latency comes once, for a page that is read alone{% if ahead %}; or
{{ "{:.0%}".format(ahead.median) }} of it, which is what a page waited for with the kernel's
read-ahead here{% endif %}; see docs/cost.md.{% endif %}
"""


def print_costs(console: Console, report: CostReport) -> None:
    """Prints a report; the last sentence is the answer."""
    console.print()
    _print_measured(console, report.costs)
    console.print()
    print_chart(console, cost_chart(report))
    if report.break_even:
        _print_break_even(console, report)
    console.print("\nWhat else there is, and when it beats us")
    for one in report.baselines:
        how = "" if one.measured else " (not measured here)"
        console.print(f"  {one.title}{how}", style="bold")
        console.print(Padding(one.sentence, (0, 0, 0, 4)))
        console.print(Padding(f"Source: {one.source}", (0, 0, 0, 4)), style="dim")
    console.print()
    if report.fleet:
        _print_fleet(console, report.fleet)
    console.print(answer(report))


def _print_measured(console: Console, costs: Costs) -> None:
    if found := costs.measurements:
        title = f"ns, medians over {counted(costs.rounds, 'round')}"
        figures = [
            Column("median", [decimal(one.median) for one in found]),
            Column("least", [decimal(one.minimum) for one in found]),
            Column("most", [decimal(one.maximum) for one in found]),
            Column("for each", [one.per for one in found]),
        ]
        print_table(console, [Column(title, [one.title for one in found])], figures)
    for reason in dict.fromkeys(costs.left_out.values()):
        names = [name for name, why in costs.left_out.items() if why == reason]
        console.print(f"Left out: {', '.join(names)}; {reason}", style="dim")
    for check in costs.checks:
        console.print(_check_line(check))
    for note in costs.notes:
        console.print(note if note.startswith(SWAP_NOTE) else f"Note: {note}")


def _check_line(check: Check) -> str:
    tolerance = check.note.rpartition("; ")[2].removesuffix(".")
    agrees = tolerance if tolerance.startswith("agrees") else f"agrees ({tolerance})"
    result = agrees if check.agrees else f"DOES NOT AGREE: {check.note.removesuffix('.')}"
    return (
        f"Check: {check.what}: ours {decimal(check.ours)}, theirs {decimal(check.theirs)} "
        f"({check.ratio:.2f} x): {result}."
    )


def _print_break_even(console: Console, report: CostReport) -> None:
    console.print("\nUp to how many fixups a page dropping it takes less time than swapping it\n")
    lines, brackets = report.scratches, len(report.swaps) <= _MOST_SWAPS_WITH_BRACKETS
    labels = [
        Column("engine", [one.what if one.kind == "known value" else "" for one in lines]),
        Column("fixups", [one.fixup.title for one in lines if one.fixup]),
    ]
    limits = {
        without_latency(swap.title): [_limit(break_even(swap, line), brackets) for line in lines]
        for swap in report.swaps
    }
    print_table(console, labels, [Column(*one) for one in limits.items()])
    for sentences in _explained(report, brackets):
        console.print(sentences)


def _limit(one: BreakEven, brackets: bool) -> str:
    """The number, and in brackets the least and the most, where there is room."""
    never = one.pays == "never"
    median = "none" if never else _bounded(one.fixups.median)
    least, most = _bounded(one.fixups.minimum), _bounded(one.fixups.maximum)
    if not brackets or least == most:
        return median
    if never:
        return median if one.fixups.maximum <= 0 else f"none (-{most})"
    return f"{median} ({least}-{most.removeprefix('>')}{'+' if most.startswith('>') else ''})"


def _bounded(fixups: float) -> str:
    return f">{WORDS_A_PAGE}" if fixups > WORDS_A_PAGE else f"{max(0.0, fixups):,.0f}"


def _explained(report: CostReport, brackets: bool) -> list[str]:
    trips = {one.title: one.bare_us for one in (*report.swaps, *report.scratches)}
    # What dropping costs if the file has left memory as well.
    ways = {"fault.disk.sequential": "in order", "fault.disk": "at random"}
    cold = {how: report.costs.measurement(name) for name, how in ways.items()}
    text = Template(_EXPLANATIONS).render(
        most=WORDS_A_PAGE,
        brackets=brackets,
        trips=[f"{title} {microseconds(us)}" for title, us in trips.items()],
        pages=report.pages,
        share=relative_share(report.pages),
        cold=[f"{microseconds(one.median / 1e3)} {how}" for how, one in cold.items() if one],
        swap=report.costs.measurement("swap.file.in"),
        device=report.device,
        ahead=read_ahead(report.costs),
        us=microseconds,
    )
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _print_fleet(console: Console, fleet: Fleet) -> None:
    processes = counted(fleet.processes, "process", "processes")
    hosts = f"each of {fleet.hosts:,} hosts" if fleet.hosts > 1 else "one host"
    console.print(f"{processes} on {hosts}\n")
    figures = {
        "to swap": [size(one.written_bytes) for one in fleet.plans],
        "memory": [size(one.private_bytes) for one in fleet.plans],
        "left after": [size(one.kept_bytes) for one in fleet.plans],
        "waiting": [_seconds(one.seconds) for one in fleet.plans],
        "processor": [_seconds(one.cpu_seconds) for one in fleet.plans],
    }
    names = Column("", [without_latency(one.title) for one in fleet.plans])
    print_table(console, [names], [Column(*one) for one in figures.items()])
    console.print(
        f"{counted(fleet.pages, 'page')} with fixups, {size(fleet.pages * PAGESIZE)}; the files' "
        f"own pages: {size(fleet.page_cache_bytes)} of page cache, shared. Each page leaves memory "
        "once and comes back once, on hosts as fast as this one, and no device is kept waiting by "
        f"another page; in zram and zswap a page takes {fleet.compression:.0%} of its size. "
        "docs/cost.md says what else is assumed.\n"
    )


def _seconds(spread: Spread) -> str:
    """A time, with half the range in per cent."""
    if not spread.median:
        return "n/a"
    unit = next((name for name, one in _TIME_UNITS.items() if spread.median >= 2 * one), "µs")
    value = spread.median / _TIME_UNITS[unit]
    text = f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"
    half = (spread.maximum - spread.minimum) / 2 / spread.median
    return f"{text} {unit} ±{half:.0%}"
