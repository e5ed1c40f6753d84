# SPDX-License-Identifier: Apache-2.0
"""What symbols are bound to, and which words are stored: plain Python over a reader's tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .tables import RELATIVE, SYMBOLIC, WORD, Claims, Symbol, Tables

_MASK = (1 << 64) - 1
_DEFINING_BINDINGS = {"GLOBAL", "WEAK", "UNIQUE"}
_DEFINING_TYPES = {"NOTYPE", "OBJECT", "FUNC", "COMMON", "TLS", "IFUNC"}


class ExpectedWord(NamedTuple):
    """What one word should become."""

    constant: int  # the part that does not depend on load bases, 0 to 2**64 - 1
    definer: int  # the number of the library whose load base is added, or -1


class Library(NamedTuple):
    """A library as its headers and a reader tell of it."""

    path: Path
    claims: Claims
    tables: Tables


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
        if found is None or found[1].type in {"TLS", "IFUNC"}:
            return None
        definer, definition = found
        return ExpectedWord(definition.value, -1 if definition.section == "ABS" else definer)

    def _find(self, library: int, wanted: Symbol) -> tuple[int, Symbol] | None:
        defined_here = wanted.section != "UND"
        if wanted.binding == "LOCAL" or wanted.visibility in {"HIDDEN", "INTERNAL"}:
            return (library, wanted) if defined_here else None
        if wanted.visibility == "PROTECTED" and defined_here:
            return library, wanted
        own = [library] if self._libraries[library].claims.symbolic else []
        for candidate in (*own, *range(len(self._libraries))):
            if best := _best_match(self._exports[candidate].get(wanted.name, []), wanted.version):
                return candidate, best
        return None


def _exports(library: Library) -> dict[str, list[Symbol]]:
    exports: dict[str, list[Symbol]] = {}
    for symbol in library.tables.symbols:
        if (
            symbol.section != "UND"
            and symbol.binding in _DEFINING_BINDINGS
            and symbol.type in _DEFINING_TYPES
            and symbol.visibility in {"DEFAULT", "PROTECTED"}
            and (symbol.value or symbol.section == "ABS" or symbol.type == "TLS")
        ):
            exports.setdefault(symbol.name, []).append(symbol)
    return exports


def _best_match(definitions: list[Symbol], version: str) -> Symbol | None:
    usable = [symbol for symbol in definitions if not symbol.hidden]
    if version:
        exact = [symbol for symbol in definitions if symbol.version == version]
        usable = exact or [symbol for symbol in usable if not symbol.version]
    return usable[0] if usable else None


def words(library: Library, number: int, resolver: Resolver) -> dict[int, ExpectedWord]:
    """The words that a library's relocations store, by offset in its file.

    `number` is its place in the scope. Tables are done in the order in which ld.so applies them:
    RELR, RELA, PLT.
    """
    found = _packed_words(library, number)
    known: dict[int, ExpectedWord | None] = {}
    for address, kind, symbol, addend in (*library.tables.rela, *library.tables.plt):
        offset = library.claims.file_offset(address)
        if offset is None or address % WORD:
            continue
        if kind in RELATIVE:
            found[offset] = ExpectedWord(addend & _MASK, number)
        elif kind in SYMBOLIC:
            if symbol not in known:
                known[symbol] = resolver.resolve(number, symbol)
            if target := known[symbol]:
                found[offset] = ExpectedWord((target.constant + addend) & _MASK, target.definer)
    return found


def _packed_words(library: Library, number: int) -> dict[int, ExpectedWord]:
    """RELR adds to what the file holds: the one thing that no reader gives, and is read there."""
    found: dict[int, ExpectedWord] = {}
    with library.path.open("rb") as file:
        for address in library.tables.relr:
            offset = library.claims.file_offset(address)
            if offset is not None and not address % WORD:
                stored = os.pread(file.fileno(), WORD, offset)
                found[offset] = ExpectedWord(int.from_bytes(stored, "little"), number)
    return found
