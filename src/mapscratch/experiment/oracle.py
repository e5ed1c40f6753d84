# SPDX-License-Identifier: Apache-2.0
"""A second opinion on what a loader would store, from what binutils' readelf prints.

The experiment checks every word of every page against this and not against `mapscratch.elf`, whose
words it stored. Nothing is shared with that package: readelf parses the files, the rules of symbol
resolution (those that `mapscratch.elf.link` documents) are written down here a second time, without
arrays. The one thing that readelf does not print is the word that a RELR relocation adds to; it is
read from the file.

Plain dictionaries are the result, so that a check is one look-up a word.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mapscratch.errors import UserError

NO_DEFINER = -1

_WORD = 8
_MASK = (1 << 64) - 1
_SECONDS_PER_FILE = 120


class OracleError(UserError, RuntimeError):
    """readelf is missing, or can't read a library; the message says what to do."""


class ExpectedWord(NamedTuple):
    """What one word should become.

    Attributes:
        constant: the part that does not depend on load bases, 0 to 2**64 - 1.
        definer: the number of the library whose load base is added, or -1.
    """

    constant: int
    definer: int


class _Segment(NamedTuple):
    address: int
    offset: int
    file_size: int


class _Symbol(NamedTuple):
    value: int
    type: str
    binding: str
    visibility: str
    section: str
    name: str
    version: str
    hidden: bool


class _Relocation(NamedTuple):
    address: int
    kind: str
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class _Library:
    path: Path
    segments: list[_Segment]
    symbols: list[_Symbol]
    symbolic: bool
    relocations: list[_Relocation]

    def file_offset(self, address: int) -> int | None:
        for segment in self.segments:
            if segment.address <= address <= segment.address + segment.file_size - _WORD:
                return segment.offset + address - segment.address
        return None


def expected_words(paths: Sequence[str | os.PathLike[str]]) -> list[dict[int, ExpectedWord]]:
    """Work out the words that a loader would store into libraries loaded together.

    Args:
        paths: the libraries in scope order.

    Returns:
        for each library the byte offset in its file of every word that RELATIVE, RELR, GLOB_DAT, 64
        or JUMP_SLOT relocations store, with what is stored there.

    Raises:
        OracleError: readelf is missing or does not understand a file.
        OSError: a file can't be read.
    """
    libraries = [_read_library(Path(path)) for path in paths]
    resolver = _Resolver(libraries)
    return [_words(library, number, resolver) for number, library in enumerate(libraries)]


def expected_values(words: Mapping[int, ExpectedWord], bases: Sequence[int]) -> dict[int, int]:
    """Add load bases, one a library: file offset to the value of the word there."""
    table = [*bases, 0]
    return {at: (word.constant + table[word.definer]) & _MASK for at, word in words.items()}


# --- resolution -------------------------------------------------------------------------------

_SYMBOLIC = {
    "R_X86_64_64",
    "R_X86_64_GLOB_DAT",
    "R_X86_64_JUMP_SLOT",
    "R_AARCH64_ABS64",
    "R_AARCH64_GLOB_DAT",
    "R_AARCH64_JUMP_SLOT",
}
_RELATIVE = {"R_X86_64_RELATIVE", "R_AARCH64_RELATIVE"}
_RELR = "RELR"
_DEFINING_BINDINGS = {"GLOBAL", "WEAK", "UNIQUE"}
_DEFINING_TYPES = {"NOTYPE", "OBJECT", "FUNC", "COMMON", "TLS", "IFUNC"}
_WITHOUT_ADDRESS = {"TLS", "IFUNC"}


class _Resolver:
    """Finds definitions across libraries in scope order."""

    def __init__(self, libraries: Sequence[_Library]) -> None:
        self._libraries = libraries
        self._exports = [_exports(library) for library in libraries]

    def resolve(self, library: int, symbol: int) -> ExpectedWord | None:
        """Value and definer of a library's symbol; None if it has no address to store."""
        if symbol == 0:
            return ExpectedWord(0, library)
        found = self._find(library, self._libraries[library].symbols[symbol])
        if found is None or found[1].type in _WITHOUT_ADDRESS:
            return None
        definer, definition = found
        return ExpectedWord(
            definition.value, NO_DEFINER if definition.section == "ABS" else definer
        )

    def _find(self, library: int, wanted: _Symbol) -> tuple[int, _Symbol] | None:
        defined_here = wanted.section != "UND"
        if wanted.binding == "LOCAL" or wanted.visibility in {"HIDDEN", "INTERNAL"}:
            return (library, wanted) if defined_here else None
        if wanted.visibility == "PROTECTED" and defined_here:
            return library, wanted
        order = list(range(len(self._libraries)))
        if self._libraries[library].symbolic:
            order.insert(0, library)
        for candidate in order:
            definitions = self._exports[candidate].get(wanted.name, [])
            best = _best_match(definitions, wanted.version)
            if best is not None:
                return candidate, best
        return None


def _exports(library: _Library) -> dict[str, list[_Symbol]]:
    exports: dict[str, list[_Symbol]] = {}
    for symbol in library.symbols:
        is_definition = (
            symbol.section != "UND"
            and symbol.binding in _DEFINING_BINDINGS
            and symbol.type in _DEFINING_TYPES
            and symbol.visibility in {"DEFAULT", "PROTECTED"}
            and (symbol.value or symbol.section == "ABS" or symbol.type == "TLS")
        )
        if is_definition:
            exports.setdefault(symbol.name, []).append(symbol)
    return exports


def _best_match(definitions: list[_Symbol], version: str) -> _Symbol | None:
    if version:
        exact = [symbol for symbol in definitions if symbol.version == version]
        usable = exact or [s for s in definitions if not s.version and not s.hidden]
    else:
        usable = [symbol for symbol in definitions if not symbol.hidden]
    return usable[0] if usable else None


def _words(library: _Library, number: int, resolver: _Resolver) -> dict[int, ExpectedWord]:
    words: dict[int, ExpectedWord] = {}
    known: dict[int, ExpectedWord | None] = {}
    with library.path.open("rb") as file:
        for address, kind, symbol, addend in library.relocations:
            offset = library.file_offset(address)
            if offset is None or address % _WORD:
                continue
            if kind in _RELATIVE:
                words[offset] = ExpectedWord(addend & _MASK, number)
            elif kind == _RELR:
                stored = os.pread(file.fileno(), _WORD, offset)
                words[offset] = ExpectedWord(int.from_bytes(stored, "little"), number)
            elif kind in _SYMBOLIC:
                if symbol not in known:
                    known[symbol] = resolver.resolve(number, symbol)
                target = known[symbol]
                if target is not None:
                    constant = (target.constant + addend) & _MASK
                    words[offset] = ExpectedWord(constant, target.definer)
    return words


# --- what readelf prints ----------------------------------------------------------------------

_HEX = r"[0-9a-f]+"
_LOAD_LINE = re.compile(
    rf"^\s+LOAD\s+0x({_HEX})\s+0x({_HEX})\s+0x{_HEX}\s+0x({_HEX})\s", re.MULTILINE
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
_SYMBOLIC_LINE = re.compile(r"\(SYMBOLIC\)|\(FLAGS\).*\bSYMBOLIC\b")
_TABLE_LINE = re.compile(r"^'(RELA|RELR|PLT)' relocation section at offset .*$", re.MULTILINE)
_RELA_LINE = re.compile(rf"^({_HEX})\s+({_HEX})\s+(unrecognized: {_HEX}|\S+)\s*(.*)$", re.MULTILINE)
# Up to binutils 2.42 one address a line; later "0001: ENTRY ADDRESS NAME" and, for the further
# addresses of a bitmap, " ADDRESS NAME".
_RELR_LINE = re.compile(rf"^(?:\d+:\s+{_HEX}\s+|\s+)?([0-9a-f]{{16}})\b", re.MULTILINE)
_ADDEND = re.compile(rf"(?:^|\s)([-+]? ?{_HEX})$")


def _read_library(path: Path) -> _Library:
    listing = _readelf("-lW", "-dW", "--dyn-syms", path=path)
    segments = [
        _Segment(int(match[2], 16), int(match[1], 16), int(match[3], 16))
        for match in _LOAD_LINE.finditer(listing)
    ]
    if not segments:
        raise OracleError(f"{path}: readelf prints no segments; is it an ELF library?")
    start = listing.find("Symbol table '.dynsym'")
    return _Library(
        path=path,
        segments=segments,
        symbols=[] if start < 0 else list(_symbols(listing[start:])),
        symbolic=bool(_SYMBOLIC_LINE.search(listing)),
        # By way of the dynamic section, for a file may hold relocations for the link editor too.
        relocations=list(_relocations(_readelf("-rW", "--use-dynamic", path=path))),
    )


def _readelf(*options: str, path: Path) -> str:
    program = shutil.which("readelf")
    if program is None:
        raise OracleError("readelf is not installed; it comes with `apt install binutils`")
    command = [program, *options, "--", os.path.abspath(path)]
    try:
        done = subprocess.run(
            command,
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


def _symbols(listing: str) -> Iterator[_Symbol]:
    for match in _SYMBOL_LINE.finditer(listing):
        name, version, hidden = _split_version(match["name"] or "")
        yield _Symbol(
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


def _relocations(listing: str) -> Iterator[_Relocation]:
    """Yield the relocations in the order in which ld.so applies them: RELR, RELA, PLT."""
    _, *pieces = _TABLE_LINE.split(listing)
    tables = dict(zip(pieces[::2], pieces[1::2], strict=True))
    for match in _RELR_LINE.finditer(tables.get("RELR", "")):
        yield _Relocation(int(match[1], 16), _RELR, 0, 0)
    for table in ("RELA", "PLT"):
        for match in _RELA_LINE.finditer(tables.get(table, "")):
            address, info, kind, rest = match.groups()
            if kind in _RELATIVE or kind in _SYMBOLIC:
                yield _Relocation(int(address, 16), kind, int(info, 16) >> 32, _addend(rest))


def _addend(text: str) -> int:
    """The addend at the end of "VALUE NAME + ADDEND", "NAME - ADDEND" or "ADDEND"."""
    match = _ADDEND.search(text)
    if match is None:
        raise OracleError(f"readelf prints an addend that is not understood: {text!r}")
    return int(match[1].replace(" ", ""), 16)
