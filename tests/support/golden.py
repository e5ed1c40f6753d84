# SPDX-License-Identifier: Apache-2.0
"""Texts that are compared whole with files that are kept: a change of words is a change of a file.

``MAPSCRATCH_GOLDEN=write`` in the environment writes the files again; look at what git says then.
"""

from __future__ import annotations

import html
import os
import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from mapscratch.lab.compare.charts import Chart, text_chart

FOLDER = Path(__file__).parent.parent / "golden"
_BLOCKS = (
    "p|li|tr|h1|h2|h3|caption|figcaption|text|dt|summary|button|title|desc|div|small|section|pre|"
    "footer|option"
)


def agrees_with_golden(text: str, name: str) -> None:
    """Asserts that a text is that of a file of ``tests/golden``."""
    path = FOLDER / name
    if os.environ.get("MAPSCRATCH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8")
    assert text.splitlines() == kept.splitlines(), (
        f"{path} differs: if that is right, run the test with MAPSCRATCH_GOLDEN=write"
    )


def plain_console(width: int = 80) -> Console:
    """One that draws into a text, without colour."""
    return Console(file=StringIO(), width=width, highlight=False, markup=False, color_system=None)


def drawn_on(console: Console) -> str:
    """What was drawn on a `plain_console`, without spaces at the ends of lines."""
    assert isinstance(console.file, StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def words_of_page(page: str) -> str:
    """What a page shows, a line for each of its blocks, cells apart by bars."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r"<(p|tr)\b[^>]* hidden\b.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(rf"<({_BLOCKS})\b[^>]*>", "\n", page)
    page = re.sub(r"</t[hd]>", " | ", page)
    lines = html.unescape(re.sub(r"<[^>]+>", "", page)).splitlines()
    told = (" ".join(line.split()).removesuffix(" |") for line in lines)
    return "\n".join(line for line in told if line.strip("| ")) + "\n"


def chart_text(chart: Chart, **options: int) -> str:
    """A text chart without colour."""
    return "\n".join(line.plain for line in text_chart(chart, **options))
