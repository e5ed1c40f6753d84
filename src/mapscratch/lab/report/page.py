# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from the documents of the other commands.

The page asks for nothing: its style and script are in it, and a Content-Security-Policy that
knows them by their hashes forbids everything else, so that no text of a document could do any harm
even if it were not escaped. Without its script it says the same but for the slider.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mapscratch import __version__
from mapscratch.lab.cost.model import WORDS_A_PAGE
from mapscratch.lab.report import bench, charts, facts, sections, words
from mapscratch.lab.report.documents import Documents
from mapscratch.lab.survey.totals import LARGEST
from mapscratch.text import counted, nanoseconds, size, whole

_PAGE = 4096
"""Bytes of a page where documents count pages."""


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
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        created=created,
        documents=documents,
        reasons={**dict.fromkeys(sections.COMMANDS, ""), **dict(documents.missing)},
        kernels=sorted({one.machine.kernel for one in documents.all} - {""}),
        machines=sections.machines(documents),
        left_out=list(sections.left_out(documents)),
        commands=documents.commands or sections.commands(documents),
        **sections.costs(documents),
        **sections.sweeps(documents),
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
    said = (words.duration, words.percent, words.digits, words.moment, words.spread)
    environment.filters.update({say.__name__: say for say in (*said, counted, nanoseconds, whole)})
    environment.filters.update(
        n=lambda value: f"{value:.1f}".removesuffix(".0"),
        size=size,
        pages=lambda number: size(number * _PAGE),
        pages_in=_pages_in,
        cost_of=lambda fixups, way: words.duration(way.at(fixups)),
        run=bench.title,
    )
    environment.globals.update(bench=bench, charts=charts, facts=facts, sections=sections)
    environment.globals.update(words=words, size=size, whole=whole, version=__version__)
    environment.globals.update(WORDS_A_PAGE=WORDS_A_PAGE, LARGEST=LARGEST)
    return environment


def _pages_in(pages: int) -> str:
    number = counted(pages, "page").replace(" ", "\N{NO-BREAK SPACE}")
    return f"{size(pages * _PAGE)} ({number})" if pages else "0"


def _asset(name: str) -> Markup:
    return Markup(_text("assets", name))


def _text(*path: str) -> str:
    return files("mapscratch.lab.report").joinpath(*path).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
