# SPDX-License-Identifier: Apache-2.0
"""What binutils' readelf prints, by either of the two ways in which it finds tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .claims import Claims, Table
from .error import OracleError
from .tables import RELATIVE, SYMBOLIC, Relocation, Symbol, Tables

_SECONDS_PER_FILE = 120

_HEX = r"[0-9a-f]+"
_SYMBOL_TABLE_LINE = re.compile(
    r"^Symbol table (?:'\.dynsym'|for image) contains \d+ entr.*$", re.MULTILINE
)
_SYMBOL_LINE = re.compile(
    rf"^\s*(?P<number>\d+): (?P<value>{_HEX})\s+\S+\s+"
    r"(?P<type><[^>]*>: \d+|\S+)\s+(?P<binding><[^>]*>: \d+|\S+)\s+"
    r"(?P<visibility>\S+)\s+(?:\[[^]]*\]\s+)?(?P<section>\S+)(?: (?P<name>.*))?$",
    re.MULTILINE,
)
# readelf withholds the GNU names from files that don't declare the GNU ABI; ld.so doesn't care.
_GNU_NAMES = {
    ("type", "<OS specific>: 10"): "IFUNC",
    ("binding", "<OS specific>: 10"): "UNIQUE",
}
_TABLE_LINE = re.compile(r"^'(RELA|RELR|PLT)' relocation section at offset .*$", re.MULTILINE)
_SECTION_LINE = re.compile(
    rf"^Relocation section '.*' at offset 0x({_HEX}) contains \d+ entr.*$", re.MULTILINE
)
_RELA_LINE = re.compile(rf"^({_HEX})\s+({_HEX})\s+(unrecognized: {_HEX}|\S+)\s*(.*)$", re.MULTILINE)
# Up to binutils 2.42 one address a line; later "0001: ENTRY ADDRESS NAME" and, for the further
# addresses of a bitmap, " ADDRESS NAME".
_RELR_LINE = re.compile(rf"^(?:\d+:\s+{_HEX}\s+|\s+)?([0-9a-f]{{16}})\b", re.MULTILINE)
_ADDEND = re.compile(rf"(?:^|\s)([-+]? ?{_HEX})$")


def by_dynamic_section(path: Path, _claims: Claims) -> Tables:
    """Relocations as ld.so finds them; a file may hold some for the link editor too."""
    _, *pieces = _TABLE_LINE.split(_readelf("-rW", "--use-dynamic", path=path))
    printed = dict(zip(pieces[::2], pieces[1::2], strict=True))
    return Tables(
        symbols=_symbols(path),
        relr=_addresses(printed.get("RELR", "")),
        rela=list(_relocations(printed.get("RELA", ""))),
        plt=list(_relocations(printed.get("PLT", ""))),
    )


def by_section_headers(path: Path, claims: Claims) -> Tables:
    """The same, of the sections that lie where the dynamic section says that the tables are."""
    _, *pieces = _SECTION_LINE.split(_readelf("-rW", path=path))
    sections = [
        (int(offset, 16), text) for offset, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]

    def printed(table: Table) -> str:
        end = table.offset + table.size
        return "\n".join(text for offset, text in sections if table.offset <= offset < end)

    return Tables(
        symbols=_symbols(path),
        relr=_addresses(printed(claims.relr)),
        rela=list(_relocations(printed(claims.rela))),
        plt=list(_relocations(printed(claims.plt))),
    )


def installed() -> str:
    """The program.

    Raises:
        OracleError: there is none.
    """
    program = shutil.which("readelf")
    if program is None:
        raise OracleError("readelf is not installed; it comes with `apt install binutils`")
    return program


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
        name, version, hidden = _split_version(match["name"] or "")
        yield Symbol(
            value=int(match["value"], 16),
            type=_GNU_NAMES.get(("type", match["type"]), match["type"]),
            binding=_GNU_NAMES.get(("binding", match["binding"]), match["binding"]),
            visibility=match["visibility"],
            section=match["section"],
            name=name,
            version=version,
            hidden=hidden,
        )


def _split_version(text: str) -> tuple[str, str, bool]:
    """Split "name@@VERSION", "name@VERSION" and "name@VERSION (3)" (an undefined symbol)."""
    text = text.strip()
    if text.endswith(")"):
        text = re.sub(r" \(\d+\)$", "", text)
    name, mark, version = text.partition("@")
    if version.startswith("@"):
        return name, version[1:], False
    return name, version, bool(mark)


def _addresses(listing: str) -> list[int]:
    return [int(match[1], 16) for match in _RELR_LINE.finditer(listing)]


def _relocations(listing: str) -> Iterator[Relocation]:
    for match in _RELA_LINE.finditer(listing):
        address, info, kind, rest = match.groups()
        addend = _addend(rest) if kind in RELATIVE or kind in SYMBOLIC else 0
        yield Relocation(int(address, 16), kind, int(info, 16) >> 32, addend)


def _addend(text: str) -> int:
    """The addend at the end of "VALUE NAME + ADDEND", "NAME - ADDEND" or "ADDEND"."""
    match = _ADDEND.search(text)
    if match is None:
        raise OracleError(f"readelf prints an addend that is not understood: {text!r}")
    return int(match[1].replace(" ", ""), 16)
