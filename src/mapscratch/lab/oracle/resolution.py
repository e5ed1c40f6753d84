# SPDX-License-Identifier: Apache-2.0
"""What symbols are bound to, and which words are stored: plain Python over a reader's tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .claims import Claims
from .tables import RELATIVE, SYMBOLIC, Symbol, Tables

NO_DEFINER = -1

_WORD = 8
_MASK = (1 << 64) - 1


class ExpectedWord(NamedTuple):
    """What one word should become.

    Attributes:
        constant: the part that does not depend on load bases, 0 to 2**64 - 1.
        definer: the number of the library whose load base is added, or -1.
    """

    constant: int
    definer: int


@dataclass(frozen=True, slots=True)
class Library:
    """A library as a reader has found it.

    Attributes:
        path: the file.
        claims: what its headers say.
        tables: what the reader found.
    """

    path: Path
    claims: Claims
    tables: Tables


def expected_values(words: Mapping[int, ExpectedWord], bases: Sequence[int]) -> dict[int, int]:
    """Add load bases, one a library: file offset to the value of the word there."""
    table = [*bases, 0]
    return {at: (word.constant + table[word.definer]) & _MASK for at, word in words.items()}


_DEFINING_BINDINGS = {"GLOBAL", "WEAK", "UNIQUE"}
_DEFINING_TYPES = {"NOTYPE", "OBJECT", "FUNC", "COMMON", "TLS", "IFUNC"}
_WITHOUT_ADDRESS = {"TLS", "IFUNC"}


class Resolver:
    """Finds definitions across libraries in scope order."""

    def __init__(self, libraries: Sequence[Library]) -> None:
        self._libraries = libraries
        self._exports = [_exports(library) for library in libraries]

    def resolve(self, library: int, symbol: int) -> ExpectedWord | None:
        """Value and definer of a library's symbol; None if it has no address to store."""
        if symbol == 0:
            return ExpectedWord(0, library)
        found = self._find(library, self._libraries[library].tables.symbols[symbol])
        if found is None or found[1].type in _WITHOUT_ADDRESS:
            return None
        definer, definition = found
        return ExpectedWord(
            definition.value, NO_DEFINER if definition.section == "ABS" else definer
        )

    def _find(self, library: int, wanted: Symbol) -> tuple[int, Symbol] | None:
        defined_here = wanted.section != "UND"
        if wanted.binding == "LOCAL" or wanted.visibility in {"HIDDEN", "INTERNAL"}:
            return (library, wanted) if defined_here else None
        if wanted.visibility == "PROTECTED" and defined_here:
            return library, wanted
        order = list(range(len(self._libraries)))
        if self._libraries[library].claims.symbolic:
            order.insert(0, library)
        for candidate in order:
            definitions = self._exports[candidate].get(wanted.name, [])
            best = _best_match(definitions, wanted.version)
            if best is not None:
                return candidate, best
        return None


def _exports(library: Library) -> dict[str, list[Symbol]]:
    exports: dict[str, list[Symbol]] = {}
    for symbol in library.tables.symbols:
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


def _best_match(definitions: list[Symbol], version: str) -> Symbol | None:
    if version:
        exact = [symbol for symbol in definitions if symbol.version == version]
        usable = exact or [s for s in definitions if not s.version and not s.hidden]
    else:
        usable = [symbol for symbol in definitions if not symbol.hidden]
    return usable[0] if usable else None


def words(library: Library, number: int, resolver: Resolver) -> dict[int, ExpectedWord]:
    """The words that one library's relocations store, by offset in its file.

    Tables are done in the order in which ld.so applies them: RELR, RELA, PLT.

    Args:
        library: which.
        number: its place in the scope.
        resolver: of all of them.
    """
    found = _packed_words(library, number)
    known: dict[int, ExpectedWord | None] = {}
    for address, kind, symbol, addend in (*library.tables.rela, *library.tables.plt):
        offset = library.claims.file_offset(address)
        if offset is None or address % _WORD:
            continue
        if kind in RELATIVE:
            found[offset] = ExpectedWord(addend & _MASK, number)
        elif kind in SYMBOLIC:
            if symbol not in known:
                known[symbol] = resolver.resolve(number, symbol)
            target = known[symbol]
            if target is not None:
                found[offset] = ExpectedWord((target.constant + addend) & _MASK, target.definer)
    return found


def _packed_words(library: Library, number: int) -> dict[int, ExpectedWord]:
    """RELR adds to what the file holds: the one thing that no reader gives, and is read there."""
    found: dict[int, ExpectedWord] = {}
    with library.path.open("rb") as file:
        for address in library.tables.relr:
            offset = library.claims.file_offset(address)
            if offset is not None and not address % _WORD:
                stored = os.pread(file.fileno(), _WORD, offset)
                found[offset] = ExpectedWord(int.from_bytes(stored, "little"), number)
    return found
