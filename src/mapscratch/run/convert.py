# SPDX-License-Identifier: Apache-2.0
"""Convert a library's PLT entries, so that they bind themselves again after their page was dropped.

Without memory pressure it then takes more private memory than before. What it gives: those pages
can be dropped and need never be written to swap; what was in them is bound again by the next call.
`mapscratch run` does the same to a whole program, without changing a file.

The result needs libmapscratch.so.1 when it is loaded (its folder is printed; put it where ld.so
looks) and stays loaded after dlclose. A function that is missing is noticed as before, with --lazy
at its first call. Breakpoints of gdb and uprobes in dropped text are lost. Strip before you
convert, not after. More is in docs/code-fixups.md.

Examples:
  mapscratch convert /usr/lib/x86_64-linux-gnu/libssl.so.3 -o converted/libssl.so.3
  mapscratch convert --check libfoo.so -o out.so     disassemble the result and verify every entry
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from mapscratch.elf import Conversion, convert
from mapscratch.elf.check import CheckReport, check
from mapscratch.run.runtime import RUNTIME_NAME, RuntimeMissing, runtime_library

HELP = "a library whose PLT entries bind themselves again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "library",
        type=Path,
        metavar="LIB",
        help="a shared library or position-independent executable for x86-64",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the file to write"
    )
    parser.add_argument(
        "--lazy", action="store_true", help="bind nothing at load, whatever the library asks for"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="disassemble the result and verify every entry (needs capstone)",
    )
    parser.add_argument("--json", action="store_true", help="print what was done for programs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    conversion = convert(arguments.library, arguments.output, lazy=arguments.lazy)
    checked = check(arguments.output, arguments.library) if arguments.check else None
    if arguments.json:
        document = conversion.as_dict()
        if checked:
            document["checked"] = checked.as_dict()
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(_lines(conversion, checked)))
    for problem in checked.problems if checked else ():
        print(f"mapscratch: {problem}", file=sys.stderr)
    return 1 if checked and checked.problems else 0


def _lines(conversion: Conversion, checked: CheckReport | None) -> Iterator[str]:
    yield (
        f"{conversion.output}: {conversion.converted} entries of {conversion.form} converted, on "
        f"{conversion.text_pages} pages of text; {conversion.appended_bytes} bytes appended.\n"
        f"Left alone: {conversion.plt_got} entries through .got; {conversion.got_calls} functions "
        "have a slot there."
    )
    if conversion.lazy:
        yield "Bound lazily: a missing function fails at its first call, not at load."
    elif conversion.bind_now:
        yield "Bound at load, as before; each function that is called is then looked up once more."
    if checked:
        yield f"Checked: {checked.entries} entries, {len(checked.problems)} problems."
    try:
        yield f"The result needs {RUNTIME_NAME}. It is in {runtime_library().parent}."
    except RuntimeMissing as missing:
        yield f"The result needs {RUNTIME_NAME}. But {missing}."
