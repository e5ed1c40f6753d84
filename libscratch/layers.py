# SPDX-License-Identifier: Apache-2.0
"""Holds that no file of libscratch includes or calls one of a higher layer; functions are short.

Which names a file calls is what the compiler says: each file is compiled without optimisation and
``nm`` read. ``make lint`` runs this; without a folder it looks at the tree that it stands in.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAYERS = (
    ("an application's use of the library", "scratch"),
    ("pages that stay", "pin"),
    ("mappings", "mapping"),
    ("fork", "fork"),
    ("the pager's thread", "pager"),
    ("one page fault", "fault"),
    ("page-in", "page_in"),
    ("ways to make pages, and the drop policy", "helper_pages huge_pages pressure"),
    ("putting pages, dropping them, letting them be dropped", "fill drop rearm"),
    ("parts of a range", "ahead check lazyfree registry stage"),
    ("ranges", "range"),
    ("purgeable memory in huge pages", "huge_slot"),
    ("what is made of the tools", "convert_choice description look probe purgeable"),
    (
        "tools",
        "board convert free_lazily handover helper merging pagemap stream tell userfault waiting "
        "wordtable",
    ),
    (
        "the ground",
        "base clock decode descriptor figures lock number placement raw signals sparse states uapi "
        "word",
    ),
)
"""From the highest to the lowest, each with its files: a .c, a .h, or both. Those of one layer know
nothing of each other either."""

LINES_OF_A_FUNCTION = 60
SHORT_FUNCTIONS = ("libscratch/*.[ch]", "runtime/*.[ch]", "src/mapscratch/**/*.[ch]")

# Of one file that is compiled several times, one of its forms.
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-DSCRATCH_CHECK_STATES", "-DSCRATCH_HAS_AVX2_VARIANT")
VARIANT = "-DSCRATCH_CONVERT_VARIANT=scratch_convert_plain"

_PLACE = {
    stem: (len(LAYERS) - 1 - index, name)
    for index, (name, stems) in enumerate(LAYERS)
    for stem in stems.split()
}


def main() -> int:
    """Prints what breaks the rules; the status is 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    own_tree = Path(__file__).resolve().parent.parent
    parser.add_argument("tree", nargs="?", type=Path, default=own_tree)
    tree: Path = parser.parse_args().tree
    files = sorted((tree / "libscratch").glob("*.[ch]"))
    problems = [*_strays(files), *_long_functions(tree)]
    for look in (
        _upward_includes,
        _upward_calls,
    ):  # with a place for each file; the latter takes long
        problems = problems or [*look(files)]
    for problem in problems:
        print(problem)
    if not problems:
        print(f"libscratch: {len(files)} files in {len(LAYERS)} layers, nothing goes up")
    return 1 if problems else 0


def _strays(files: list[Path]) -> Iterator[str]:
    """Files without a layer, and names in `LAYERS` without a file."""
    stems = {path.stem for path in files}
    for stem in sorted(stems - _PLACE.keys()):
        yield f"libscratch/{stem}: in no layer; give it a place in LAYERS of libscratch/layers.py"
    for stem in sorted(_PLACE.keys() - stems):
        yield f"libscratch/{stem}: in LAYERS of libscratch/layers.py, and there is no such file"


def _goes_up(user: str, used: str) -> bool:
    return user != used and _PLACE[used][0] >= _PLACE[user][0]


def _layer(stem: str) -> str:
    number, name = _PLACE[stem]
    return f"(layer {number}, {name})"


def _upward_includes(files: list[Path]) -> Iterator[str]:
    for path in files:
        for used in re.findall(r'^#include "(\w+)\.h"', path.read_text(), re.MULTILINE):
            if _goes_up(path.stem, used):
                yield (
                    f"libscratch/{path.name} {_layer(path.stem)} includes {used}.h "
                    f"{_layer(used)}, which is not below it"
                )


def _upward_calls(files: list[Path]) -> Iterator[str]:
    sources = [path for path in files if path.suffix == ".c"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(source, Path(folder)), sources))
    home = {name: source.stem for source, defined, _ in objects for name in defined}
    for source, _, wanted in objects:
        for name in sorted(wanted & home.keys()):
            if _goes_up(source.stem, home[name]):
                yield (
                    f"libscratch/{source.name} {_layer(source.stem)} calls {name} of "
                    f"{home[name]}.c {_layer(home[name])}, which is not below it"
                )


def _compile(source: Path, folder: Path) -> tuple[Path, set[str], set[str]]:
    """The names that a file defines for others, and those that it wants of others."""
    target = folder / f"{source.stem}.o"
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, *FLAGS, VARIANT, "-O0", "-w", "-c", os.fspath(source), "-o", str(target)]
    subprocess.run(command, check=True)
    listing = subprocess.run(
        ["nm", "--format=posix", "--extern-only", target],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kinds = [line.split()[:2] for line in listing.splitlines()]
    return (
        source,
        {name for name, kind in kinds if kind != "U"},
        {name for name, kind in kinds if kind == "U"},
    )


def _long_functions(tree: Path) -> Iterator[str]:
    for path in sorted(path for pattern in SHORT_FUNCTIONS for path in tree.glob(pattern)):
        for name, first, lines in _functions(path.read_text().splitlines()):
            if lines > LINES_OF_A_FUNCTION:
                yield (
                    f"{path.relative_to(tree)}:{first}: {name} has {lines} lines; "
                    f"a function has {LINES_OF_A_FUNCTION} at most"
                )


def _functions(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """The name of each function, the line where it begins, and how many it has."""
    first = 0
    while first < len(lines):
        heading = _heading(lines, first)
        if heading:
            name, brace = heading
            end = brace if lines[brace].endswith("}") else lines.index("}", brace)
            yield name, first + 1, end - first + 1
            first = end
        first += 1


def _heading(lines: list[str], first: int) -> tuple[str, int] | None:
    """If a function begins in this line: its name, and the line with its brace."""
    if not re.match(r"[A-Za-z_]|} \w", lines[first]):
        return None
    text = ""
    for number in range(first, len(lines)):
        text += lines[number] + " "
        if "{" in text or ";" in text:
            break
    found = re.match(r"}?[\w\s*]*?(\w+)\((?:[^={};]|\([^)]*\))*\)[^={};]*\{", text)
    return (found[1], number) if found else None


if __name__ == "__main__":
    sys.exit(main())
