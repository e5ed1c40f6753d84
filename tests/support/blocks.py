# SPDX-License-Identifier: Apache-2.0
"""The code blocks of a document, and which of them are to be run.

A block that can't be run has a comment right above it that says why::

    <!-- not run: it makes swap -->
    ```console
    $ sudo mapscratch cost --swap all
    ```
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from support.places import TREE

DOCUMENTS = [
    TREE / "README.md",
    TREE / "CONTRIBUTING.md",
    TREE / "kernel" / "README.md",
    *sorted((TREE / "docs").glob("*.md")),
]

SHELL = ("console", "sh")
"""``console`` has commands after ``$``, and what they print; ``sh`` is a script."""

_WHY_NOT = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        document: where it stands.
        line: of its first line of code, from 1.
        language: as the fence has it; empty for output and the like.
        text: the code.
        why_not_run: the reason that the document gives; empty for a block that is to be run.
    """

    document: Path
    line: int
    language: str
    text: str
    why_not_run: str

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.document.relative_to(TREE)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a block for a shell: each command of ``console``, or the script."""
        if self.language == "sh":
            return [self.text]
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line[:2] == "$ "]

    @property
    def programs(self) -> list[list[str]]:
        """The words of each command as the program gets them, by its name, without ``sudo``."""
        found = []
        for line in "\n".join(self.commands).splitlines():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if words[:1] == ["sudo"]:
                words = words[1:]
            found.append([Path(words[0]).name, *words[1:]])
        return found


def blocks_of(document: Path) -> list[Block]:
    """All of them, in order."""
    tokens = MarkdownIt().parse(document.read_text(encoding="utf-8"))
    blocks = []
    above = ""
    for token in tokens:
        if token.type == "fence":
            assert token.map
            why_not = _WHY_NOT.search(above)
            blocks.append(
                Block(
                    document,
                    token.map[0] + 2,
                    token.info.strip(),
                    token.content,
                    " ".join(why_not[1].split()) if why_not else "",
                )
            )
        above = token.content if token.type == "html_block" else ""
    return blocks
