# SPDX-License-Identifier: Apache-2.0
"""The README stays short, in the order in which a new user asks, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.blocks import DOCUMENTS, blocks_of
from support.places import TREE

README = TREE / "README.md"
MOST_WORDS = 900
SECTIONS = [
    "What it needs",
    "`array`: more decoded data than memory",
    "`Cache`: no size to choose",
    "Your case, do this",
    "What it loses at",
    "The two commands",
    "ScratchMap",
    "The idea of 2004, and its answer",
    "`mapscratch run`",
    "The kernel patch",
    "Operating",
]
CASES = [
    "No userfaultfd",
    "No swap and no root",
    "DataLoader's random samples",
    "Many workers that read one array",
    "Compressed HDF5",
    "Code that writes in place",
]

if not README.exists():
    pytest.skip("the documents are not there: an installed package", allow_module_level=True)


def read_text() -> str:
    """As it is read: without comments."""
    return re.sub(r"<!--.*?-->", "", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_it_is_short() -> None:
    """Tables, code and addresses included."""
    assert len(read_text().split()) <= MOST_WORDS


def test_its_sections_are_in_the_order_of_a_new_user() -> None:
    assert re.findall(r"^## (.+)$", read_text(), re.MULTILINE) == SECTIONS


def test_it_says_in_two_sentences_what_it_is() -> None:
    first = read_text().partition("\n## ")[0].partition("\n")[2].strip()
    assert len(re.findall(r"\.(?=\s|$)", first)) == 2


@pytest.mark.parametrize("name", ["array", "Cache"])
def test_it_shows_each_in_five_lines(name: str) -> None:
    block = next(one for one in blocks_of(README) if f"mapscratch.{name}(" in one.text)
    assert 0 < len([line for line in block.text.splitlines() if line]) <= 5


@pytest.mark.parametrize("case", CASES)
def test_it_says_what_to_do(case: str) -> None:
    (row,) = [line for line in read_text().splitlines() if line.startswith("| ") and case in line]
    assert len(row.split("|")[2].split()) > 2


@pytest.mark.parametrize("section", SECTIONS[6:])
def test_what_is_below_is_a_paragraph_and_a_link(section: str) -> None:
    text = read_text().partition(f"## {section}\n")[2].partition("\n## ")[0].strip()
    assert "\n\n" not in text
    assert "](" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def anchors(path: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
