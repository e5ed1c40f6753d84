# SPDX-License-Identifier: Apache-2.0
"""Every Python and shell block of the documents is run, or says why it isn't.

All Python blocks of a document are run in one interpreter, in order, in an empty folder. Names and
files that they take for granted are made by ``tests/documents/NAME.py``, whose `check` is called at
the end and asserts what they should have found. Commands are run by bash, after what
``tests/documents/NAME.sh`` prepares.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.blocks import DOCUMENTS, SHELL, Block, blocks_of
from support.interpreter import run_python
from support.patience import patient
from support.places import TREE

from mapscratch import cli

if not DOCUMENTS[0].exists():
    pytest.skip("the documents are not there: an installed package", allow_module_level=True)

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
OTHER_LANGUAGES = {"", "c", "ini"}
"""Output and pictures; a signature; the unit that test_operating_guide.py has systemd check."""

RUN = """
import os, sys
from pathlib import Path
from support.blocks import blocks_of
document, prelude = Path(sys.argv[1]), Path(sys.argv[2])
names = vars(sys.modules["__main__"])
if prelude.exists():
    exec(compile(prelude.read_text(), prelude, "exec"), names)
for block in blocks_of(document):
    if block.language == "python" and not block.why_not_run:
        print("running", block.place, flush=True)
        exec(compile("\\n" * (block.line - 1) + block.text, document, "exec"), names)
if "check" in names:
    names["check"]()
print("checked")
"""


def to_run(document: Path, *languages: str) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if block.document == document and block.language in languages and not block.why_not_run
    ]


def prepared(document: Path, suffix: str) -> Path:
    """What a document takes for granted; it need not exist."""
    name = document.stem.lower().replace("-", "_")
    return TREE / "tests" / "documents" / f"{name}{suffix}"


@pytest.mark.parametrize(
    "document",
    [one for one in DOCUMENTS if to_run(one, "python")],
    ids=lambda document: str(document.relative_to(TREE)),
)
def test_python(lazyfree: str, tmp_path: Path, document: Path) -> None:
    here = f"import os; os.chdir({os.fspath(tmp_path)!r})"
    done = run_python(f"{here}\n{RUN}", document, prepared(document, ".py"))
    assert done.stdout.endswith("checked\n")


@pytest.mark.parametrize(
    "block",
    [block for one in DOCUMENTS for block in to_run(one, *SHELL)],
    ids=lambda block: block.place,
)
def test_commands(lazyfree: str, tmp_path: Path, block: Block) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.fspath(tmp_path),
        "XDG_CACHE_HOME": os.fspath(tmp_path / "cache"),
    }
    assert block.commands, "no line begins with '$ '"
    before = prepared(block.document, ".sh")
    script = [before.read_text() if before.exists() else "", *block.commands]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    assert not done.returncode, done
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in SHELL],
    ids=lambda block: block.place,
)
def test_commands_are_understood(block: Block) -> None:
    """Those of blocks that aren't run as well: options and targets that don't exist are found."""
    makefile = (TREE / "Makefile").read_text()
    for program, *arguments in block.programs:
        if program == "mapscratch":
            parsed = cli._parser(arguments).parse_args(arguments)
            assert callable(parsed.run)
        elif program == "make":
            targets = [word for word in arguments if "=" not in word]
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_what_is_not_run_says_why(capsys: Any) -> None:
    assert {block.language for block in BLOCKS} <= {"python", *SHELL, *OTHER_LANGUAGES}
    with capsys.disabled():
        print("\nBlocks of the documents that no test runs:")
        for block in BLOCKS:
            if block.why_not_run:
                print(f"  {block.place}: {block.why_not_run}")


def test_a_block_knows_its_line_and_why_it_is_not_run(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# Title\n\n<!-- not run: it\nmakes swap -->\n```console\n$ sudo /x/mapscratch ps # all\n"
        "out\n$ make lint\n```\n\n<!-- not run: far away -->\n\ntext\n\n```python\na = 1\n```\n"
    )
    first, second = blocks_of(document)
    assert (first.line, first.language, first.why_not_run) == (6, "console", "it makes swap")
    assert first.programs == [["mapscratch", "ps"], ["make", "lint"]]
    assert (second.line, second.text, second.why_not_run) == (16, "a = 1\n", "")
