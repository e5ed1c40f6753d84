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

from mapscratch import __version__
from mapscratch.lab.report.page_facts import Documents
from mapscratch.lab.report.page_sections import (
    answer,
    baselines_section,
    caution,
    costs_section,
    fixups_section,
    method_section,
    processes_section,
    ps_section,
    sweeps_section,
    top_chart,
)
from mapscratch.lab.report.page_svg import element, shown

TITLE = "How expensive are the fixups?"
_QUESTION = (
    "“It is a function of how many fixups there are per page, and of how much work ld.so does to "
    "satisfy a fixup. I don't have a good feel for how expensive ld.so's fixup mechanism is... any "
    "comments?” — Andy Isaacson, linux-kernel, 3 February 2004"
)
_CONTENTS = (
    ("fixups", "Fixups a page"),
    ("costs", "Break-even"),
    ("swap", "Swap I/O"),
    ("processes", "Processes"),
    ("baselines", "What else there is"),
    ("method", "Method"),
)


def page(documents: Documents, created: datetime) -> str:
    """The page.

    Args:
        documents: what it is made from.
        created: when, with a time zone.

    Returns:
        HTML, to be encoded as UTF-8.

    Raises:
        ReportError: a member of a document isn't what it has to be.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{shown(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{shown(_machine(documents) or TITLE)}</title>"
        f"<style>{style}</style>"
    )
    body = element(
        "header",
        element("h1", shown(TITLE)),
        element("blockquote", shown(_QUESTION)),
        element("p", answer(documents), class_="answer", id="answer"),
        caution(documents),
        top_chart(documents),
        element("nav", element("ul", *(_link(*pair) for pair in _CONTENTS)), aria_label="Contents"),
    ) + element(
        "main",
        fixups_section(documents),
        costs_section(documents),
        sweeps_section(documents),
        processes_section(documents),
        baselines_section(documents),
        ps_section(documents),
        method_section(documents),
    )
    made = created.strftime("%Y-%m-%d %H:%M %Z").strip()
    footer = element("footer", shown(f"mapscratch {__version__} report, {made}"))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body>{body}{footer}<script>{script}</script></body></html>\n"
    )


def _machine(documents: Documents) -> str:
    kernels = {node.child("machine").text("kernel") for node in documents.all()} - {""}
    return f"{TITLE} Linux {', '.join(sorted(kernels))}" if kernels else ""


def _link(key: str, name: str) -> str:
    return element("li", element("a", shown(name), href=f"#{key}"))


def _asset(name: str) -> str:
    return files("mapscratch.lab.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
