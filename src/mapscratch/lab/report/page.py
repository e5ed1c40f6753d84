# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from the documents of the other commands.

The page asks for nothing: its style and script are in it, and a Content-Security-Policy that
knows them by their hashes forbids everything else, so that no text of a document could do any harm
even if it were not escaped. Without its script it says the same but for the slider.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mapscratch import __version__
from mapscratch.lab.cost.answer import answer
from mapscratch.lab.cost.model import WORDS_A_PAGE
from mapscratch.lab.report import bench, charts, facts, words
from mapscratch.lab.report.documents import Documents, Skipped
from mapscratch.lab.report.words import duration
from mapscratch.lab.survey.totals import LARGEST
from mapscratch.text import counted, listed, nanoseconds, size, swap_name, whole

COMMANDS = {
    "survey": "mapscratch survey --installed --pid all --json survey.json",
    "cost": "mapscratch cost --measure --json cost.json",
    "compare": "sudo mapscratch compare --swap auto --json compare.json",
}
"""What makes each document."""
_MADE = ("file", "zram", "zswap")
"""Kinds of swap that can be made for a measurement."""
_PAGE = 4096
"""Bytes of a page where documents count pages."""


def page(documents: Documents, created: datetime) -> str:
    """The page as HTML, to be encoded as UTF-8; `created` has a time zone."""
    ways = facts.ways_of(documents)
    chart = charts.round_trip_chart(ways, ways.pages or documents.pages) if ways else None
    told = (one.verdict.sentence for one in documents.compares)
    own = answer(ways.report) if ways and ways.report else next(told, "")
    sweeps = [one for compare in documents.compares for one in facts.sweeps_of(compare)]
    fixed_up = {round(n) for one in documents.compares if (n := facts.pages_a_process(one))}
    style, script = (Markup(_text("assets", name)) for name in ("page.css", "page.js"))
    return _environment().get_template("page.html").render(
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        made=f"mapscratch {__version__} report, {created.strftime('%Y-%m-%d %H:%M %Z').strip()}",
        documents=documents,
        report=documents.cost.report if documents.cost else None,
        reasons=dict.fromkeys(COMMANDS, "") | dict(documents.missing),
        machines=_machines(documents),
        left_out=list(_left_out(documents)),
        commands=documents.commands or _commands(documents),
        verdict=facts.verdict(documents, ways),
        answer=own.removeprefix("How expensive are the fixups? "),
        cautions=list(_cautions(documents, ways)),
        ways=ways,
        trip=chart,
        other_pages=_other_pages(documents),
        sweep=charts.sweep_chart(sweeps),
        fixed_up=listed(map(whole, sorted(fixed_up))),
        sweeps=sweeps,
        counts=sorted({n for one in sweeps for n, _ in one.swapped}),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _text("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else words.printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    said: list[Any] = [duration, words.percent, words.digits, words.spread]
    said += [counted, nanoseconds, size, swap_name, whole]
    environment.filters.update({say.__name__: say for say in said})
    environment.filters.update(
        n=lambda value: f"{value:.1f}".removesuffix(".0"),
        pages=lambda number: size(number * _PAGE),
        pages_in=_pages_in,
        cost_of=lambda fixups, way: duration(way.at(fixups)),
        skipped=_skipped,
    )
    environment.globals.update(bench=bench, charts=charts, facts=facts, words=words, zip=zip)
    environment.globals.update(COMMANDS=COMMANDS, WORDS_A_PAGE=WORDS_A_PAGE, LARGEST=LARGEST)
    return environment


def _pages_in(pages: int) -> str:
    number = counted(pages, "page").replace(" ", "\N{NO-BREAK SPACE}")
    return f"{size(pages * _PAGE)} ({number})" if pages else "0"


def _skipped(skipped: Sequence[Skipped]) -> str:
    """How many files, and how many processes."""
    processes = sum(one.path.startswith("/proc/") for one in skipped)
    numbers = ((len(skipped) - processes, "file", "files"), (processes, "process", "processes"))
    return listed(counted(*one) for one in numbers if one[0])


def _text(*path: str) -> str:
    return files("mapscratch.lab.report").joinpath(*path).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# --- what is said ---------------------------------------------------------------------------------


def _cautions(documents: Documents, ways: facts.Ways | None) -> Iterator[str]:
    """Why the answer is to be taken with care; none where it isn't."""
    if documents.cost:
        costs = documents.cost.report.costs
        yield from costs.notes
        if doubted := [one.what for one in costs.checks if not one.agrees]:
            yield f"Others measure {listed(doubted)} differently, see below."
        every = (*ways.swaps, *ways.scratch) if ways else ()
        if noisy := [one.title for one in every if one.page_us < 0]:
            yield f"Noise is larger than what was measured of {listed(noisy)}."


def _other_pages(documents: Documents) -> bool:
    """Whether costs were reckoned for other pages than those of the survey."""
    if not documents.cost or not documents.pages:
        return False
    own, others = documents.pages, documents.cost.report.pages
    pairs = ((own.fixups, others.fixups), (own.pages, others.pages))
    return not all(np.array_equal(*pair) for pair in pairs)


# --- where it was measured, and how to do it again ------------------------------------------------


def _machines(documents: Documents) -> list[str]:
    """Where it was measured; one, unless documents of several are mixed."""
    told = (
        f"Linux {one.kernel}, {one.architecture}, {counted(one.processors, 'processor')}, pages of "
        f"{whole(one.page_size)} bytes."
        for one in (document.machine for document in documents.all)
    )
    return list(dict.fromkeys(told))


def _left_out(documents: Documents) -> Iterator[tuple[str, str]]:
    """What isn't there, and why."""
    yield from documents.missing
    given = {"survey": documents.survey, "cost": documents.cost, "compare": documents.compares}
    why = "not among the files that this page is made from"
    for name, found in given.items():
        if not found and not documents.missing:
            yield name, f"{why}; `{COMMANDS[name]}` makes it"
    for one in documents.all:
        yield from one.left_out.items()


def _commands(documents: Documents) -> list[str]:
    """What makes such documents, and a page of them."""
    lines, given = [], []
    if documents.survey or not documents.all:
        alone = documents.survey is not None and not documents.survey.processes
        lines.append(COMMANDS["survey"].replace(" --pid all", "" if alone else " --pid all"))
        given.append("--survey survey.json")
    if documents.cost or not documents.all:
        lines.append(_cost_command(documents))
        given.append("--cost cost.json")
    swaps = list(dict.fromkeys(one.settings.swap for one in documents.compares))
    for number, swap in enumerate(swaps, start=1):
        name = f"compare{number if len(swaps) > 1 else ''}.json"
        made = swap in ("auto", *_MADE)
        option = f" --swap {swap}" if made else ""
        lines.append(f"{'sudo ' if made else ''}mapscratch compare{option} --json {name}")
        given.append(f"--compare {name}")
    return [*lines, f"mapscratch report {' '.join(given)} -o report.html"]


def _cost_command(documents: Documents) -> str:
    """With the swap that was measured, and root, which makes it."""
    lines = documents.cost.report.costs.lines if documents.cost else ()
    names = [name for one in lines if (name := one.what.removeprefix("swap.")) in _MADE]
    swap = f" --swap {names[0] if len(names) == 1 else 'all'}" if names else ""
    survey = " --survey survey.json" if documents.survey else ""
    return f"{'sudo ' if names else ''}mapscratch cost --measure{swap}{survey} --json cost.json"
