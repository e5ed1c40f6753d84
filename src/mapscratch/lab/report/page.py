# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from the documents of the other commands.

The page asks for nothing: its style and script are in it, and a Content-Security-Policy that
knows them by their hashes forbids everything else, so that no text of a document could do any harm
even if it were not escaped. Without its script it says the same but for the slider.
"""

from __future__ import annotations

import base64
import hashlib
import string
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mapscratch import __version__
from mapscratch.lab.cost.model import WORDS_A_PAGE
from mapscratch.lab.report import charts, sections
from mapscratch.lab.report.bench import bench_notes, bench_tables
from mapscratch.lab.report.documents import Documents
from mapscratch.lab.report.words import digits, duration, percent, printable
from mapscratch.lab.survey.totals import LARGEST
from mapscratch.text import counted, nanoseconds, size, whole

_TITLE = "How expensive are the fixups?"
_CONTENTS = (
    ("fixups", "Fixups a page"),
    ("costs", "Break-even"),
    ("swap", "Swap I/O"),
    ("processes", "Processes"),
    ("baselines", "What else there is"),
    ("arrays", "Arrays and Cache"),
    ("method", "Method"),
)


def page(documents: Documents, created: datetime) -> str:
    """The page.

    Args:
        documents: what it is made from.
        created: when, with a time zone.

    Returns:
        HTML, to be encoded as UTF-8.
    """
    style, script = _asset("page.css"), _asset("page.js")
    return _environment().get_template("page.html").render(
        title=_title(documents),
        contents=_CONTENTS,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        made=f"mapscratch {__version__} report, {sections.moment(created)}",
        documents=documents,
        reasons={**dict.fromkeys(sections.COMMANDS, ""), **dict(documents.missing)},
        **sections.costs(documents),
        **sections.survey(documents.survey),
        **sections.sweeps(documents),
        bench=bench_tables(documents.bench),
        bench_notes=list(bench_notes(documents.bench)),
        **sections.uses(documents),
        **sections.method(documents),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _text("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        n=lambda value: f"{value:.1f}".removesuffix(".0"),
        duration=duration,
        nanoseconds=nanoseconds,
        percent=percent,
        counted=counted,
        whole=whole,
        size=size,
        pages=lambda number: size(number * sections.PAGE),
        spread=sections.least_to_most,
        plain=sections.plain,
        digits=digits,
    )
    environment.globals.update(
        COMMANDS=sections.COMMANDS,
        LETTERS=string.ascii_uppercase,
        WORDS_A_PAGE=WORDS_A_PAGE,
        LARGEST=LARGEST,
        TOP=charts.TOP,
        BOTTOM=charts.BOTTOM,
        STRIP_BOTTOM=charts.STRIP_BOTTOM,
    )
    return environment


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else printable(value)


def _asset(name: str) -> Markup:
    return Markup(_text("assets", name))


def _text(*path: str) -> str:
    return files("mapscratch.lab.report").joinpath(*path).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _title(documents: Documents) -> str:
    kernels = {one.machine.kernel for one in documents.all} - {""}
    return f"{_TITLE} Linux {', '.join(sorted(kernels))}" if kernels else _TITLE
