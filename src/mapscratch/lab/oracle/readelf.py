# SPDX-License-Identifier: Apache-2.0
"""What binutils' readelf prints, by either of the two ways in which it finds tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .tables import RELATIVE, SYMBOLIC, Claims, OracleError, Relocation, Symbol, Table, Tables

_SECONDS_PER_FILE = 120

_HEX = r"[0-9a-f]+"
_SYMBOL_TABLE_LINE = re.compile(r"(?m)^Symbol table (?:'\.dynsym'|for image) contains \d+ entr.*$")
_SYMBOL_LINE = re.compile(
    rf"(?m)^\s*(?P<number>\d+): (?P<value>{_HEX})\s+\S+\s+"
    r"(?P<type><[^>]*>: \d+|\S+)\s+(?P<binding><[^>]*>: \d+|\S+)\s+"
    r"(?P<visibility>\S+)\s+(?:\[[^]]*\]\s+)?(?P<section>\S+)(?: (?P<name>.*))?$"
)
# readelf withholds the GNU names from files that don't declare the GNU ABI; ld.so doesn't care.
_UNNAMED = "<OS specific>: 10"
_TABLE_LINE = re.compile(r"(?m)^'(RELA|RELR|PLT)' relocation section at offset .*$")
_SECTION_LINE = re.compile(
    rf"(?m)^Relocation section '.*' at offset 0x({_HEX}) contains \d+ entr.*$"
)
_RELA_LINE = re.compile(rf"(?m)^({_HEX})\s+({_HEX})\s+(unrecognized: {_HEX}|\S+)\s*(.*)$")
# Up to binutils 2.42 one address a line; later "0001: ENTRY ADDRESS NAME" and, for the further
# addresses of a bitmap, " ADDRESS NAME".
_RELR_LINE = re.compile(rf"(?m)^(?:\d+:\s+{_HEX}\s+|\s+)?([0-9a-f]{{16}})\b")
_ADDEND = re.compile(rf"(?:^|\s)([-+]? ?{_HEX})$")


def by_dynamic_section(path: Path, _claims: Claims) -> Tables:
    """Relocations as ld.so finds them; a file may hold some for the link editor too."""
    _, *pieces = _TABLE_LINE.split(_readelf("-rW", "--use-dynamic", path=path))
    printed = dict(zip(pieces[::2], pieces[1::2], strict=True))
    return _tables(path, *(printed.get(name, "") for name in ("RELR", "RELA", "PLT")))


def by_section_headers(path: Path, claims: Claims) -> Tables:
    """The same, of the sections that lie where the dynamic section says that the tables are."""
    _, *pieces = _SECTION_LINE.split(_readelf("-rW", path=path))
    sections = list(zip((int(at, 16) for at in pieces[::2]), pieces[1::2], strict=True))

    def printed(table: Table) -> str:
        end = table.offset + table.size
        return "\n".join(text for offset, text in sections if table.offset <= offset < end)

    return _tables(path, *map(printed, (claims.relr, claims.rela, claims.plt)))


def _tables(path: Path, relr: str, rela: str, plt: str) -> Tables:
    symbols = _symbols(path)
    return Tables(symbols, _addresses(relr), list(_relocations(rela)), list(_relocations(plt)))


def installed() -> str:
    """The program, or an OracleError if there is none."""
    if program := shutil.which("readelf"):
        return program
    raise OracleError("readelf is not installed; it comes with `apt install binutils`")


def _readelf(*options: str, path: Path) -> str:
    command = [installed(), *options, "--", os.path.abspath(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS_PER_FILE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise OracleError(f"{path}: readelf took more than {_SECONDS_PER_FILE} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise OracleError(f"{path}: readelf failed: {lines[0]}")
    return done.stdout.decode("utf-8", errors="surrogateescape")


def _symbols(path: Path) -> list[Symbol]:
    for options in (("--dyn-syms",), ("--dyn-syms", "--use-dynamic")):  # no section headers
        _, *printed = _SYMBOL_TABLE_LINE.split(_readelf("-W", *options, path=path), 1)
        if printed:
            return list(_printed_symbols(printed[0]))
    return []


def _printed_symbols(listing: str) -> Iterator[Symbol]:
    for number, match in enumerate(_SYMBOL_LINE.finditer(listing)):
        if int(match["number"]) != number:
            raise OracleError(f"readelf's symbol {number} can't be read")
        # "name@@VERSION", "name@VERSION", or "name@VERSION (3)" of an undefined symbol.
        name, mark, version = re.sub(r" \(\d+\)$", "", (match["name"] or "").strip()).partition("@")
        yield Symbol(
            int(match["value"], 16),
            match["type"].replace(_UNNAMED, "IFUNC"),
            match["binding"].replace(_UNNAMED, "UNIQUE"),
            match["visibility"],
            match["section"],
            name,
            version.removeprefix("@"),
            hidden=bool(mark) and not version.startswith("@"),
        )


def _addresses(listing: str) -> list[int]:
    return [int(match[1], 16) for match in _RELR_LINE.finditer(listing)]


def _relocations(listing: str) -> Iterator[Relocation]:
    for match in _RELA_LINE.finditer(listing):
        address, info, kind, rest = match.groups()
        addend = 0
        if kind in RELATIVE or kind in SYMBOLIC:
            # At the end of "VALUE NAME + ADDEND", "NAME - ADDEND" or "ADDEND".
            found = _ADDEND.search(rest)
            if not found:
                raise OracleError(f"readelf prints an addend that is not understood: {rest!r}")
            addend = int(found[1].replace(" ", ""), 16)
        yield Relocation(int(address, 16), kind, int(info, 16) >> 32, addend)
