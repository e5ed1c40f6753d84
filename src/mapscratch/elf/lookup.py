# SPDX-License-Identifier: Apache-2.0
"""Symbol look-up across libraries in scope order, with versions.

Only the names that relocations ask for are put into dictionaries: of a hundred thousand symbols a
few thousand are ever looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .reader import LibraryRelocations
from .symbols import (
    SHN_ABS,
    SHN_UNDEF,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_LOCAL,
    STB_WEAK,
    STT_COMMON,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_OBJECT,
    STT_TLS,
    STV_DEFAULT,
    STV_PROTECTED,
    SymbolTable,
)

NO_BASE = -1

UNRESOLVED = "unresolved symbol"
IFUNC = "symbol is an IFUNC"
THREAD_LOCAL = "symbol is thread-local"

_UNBOUND_TYPES = {STT_GNU_IFUNC: IFUNC, STT_TLS: THREAD_LOCAL}
_DEFINING_TYPES = (STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_COMMON, STT_TLS, STT_GNU_IFUNC)
_DEFINING_BINDINGS = (STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE)
_DEFINING_VISIBILITIES = (STV_DEFAULT, STV_PROTECTED)


@dataclass(frozen=True, slots=True, eq=False)
class Bindings:
    """What k symbols of one library are bound to.

    Attributes:
        values: uint64, shape (k,), st_value of the definition; 0 where there is none.
        definers: int32, shape (k,), the number of the library that defines the symbol; NO_BASE for
            an absolute symbol and where there is no binding.
        unbound: reason to boolean array, shape (k,): the symbols that have no binding.
    """

    values: NDArray[np.uint64]
    definers: NDArray[np.int32]
    unbound: dict[str, NDArray[np.bool_]]


class Scope:
    """Libraries in the order in which they are searched.

    Attributes:
        libraries: the libraries, in that order.
    """

    __slots__ = ("_definitions", "libraries")

    def __init__(
        self, libraries: Sequence[LibraryRelocations], used: Sequence[NDArray[np.int64]]
    ) -> None:
        """Index the definitions.

        Args:
            libraries: in scope order.
            used: for each library the numbers of the symbols that will be looked up.
        """
        self.libraries = tuple(libraries)
        wanted = {
            library.symbol_table.names[number]
            for library, numbers in zip(libraries, used, strict=True)
            for number in numbers.tolist()
        }
        self._definitions = [_definitions(lib.symbol_table, wanted) for lib in libraries]

    def bindings(self, library: int, symbols: NDArray[np.int64]) -> Bindings:
        """Bind symbols, given by number and shape (k,), that a library's relocations refer to."""
        values = np.zeros(len(symbols), dtype=np.uint64)
        definers = np.full(len(symbols), NO_BASE, dtype=np.int32)
        reasons = (UNRESOLVED, IFUNC, THREAD_LOCAL)
        unbound = {reason: np.zeros(len(symbols), dtype=np.bool_) for reason in reasons}
        for at, symbol in enumerate(symbols.tolist()):
            found = self._definition(library, symbol)
            if found is None:
                unbound[UNRESOLVED][at] = True
                continue
            definer, number = found
            table = self.libraries[definer].symbol_table
            reason = _UNBOUND_TYPES.get(int(table.types[number]))
            if reason is not None:
                unbound[reason][at] = True
                continue
            values[at] = table.values[number]
            definers[at] = NO_BASE if table.sections[number] == SHN_ABS else definer
        return Bindings(values, definers, unbound)

    def _definition(self, library: int, symbol: int) -> tuple[int, int] | None:
        """Find the library and symbol number that define what a library's symbol refers to."""
        table = self.libraries[library].symbol_table
        if symbol == 0:
            # Number 0 means no symbol: the loader adds the library's own base and nothing else.
            return library, 0
        if _binds_itself(table, symbol):
            return (library, symbol) if table.sections[symbol] != SHN_UNDEF else None
        name, version = table.names[symbol], table.versions[symbol]
        for candidate in self._search_order(library):
            number = self._definition_in(candidate, name, version)
            if number is not None:
                return candidate, number
        return None

    def _search_order(self, library: int) -> Iterator[int]:
        if self.libraries[library].symbolic:
            yield library
        yield from range(len(self.libraries))

    def _definition_in(self, library: int, name: bytes, version: bytes | None) -> int | None:
        """Find a name in one library: its exact version first, else what any reference may see.

        A reference with a version takes that version or, from a library that doesn't version the
        symbol, the symbol; it never takes another version. One without takes the default version.
        """
        numbers = self._definitions[library].get(name, ())
        table = self.libraries[library].symbol_table
        if version is not None:
            for number in numbers:
                if table.versions[number] == version:
                    return number
        for number in numbers:
            if not table.hidden[number] and (version is None or table.versions[number] is None):
                return number
        return None


def _definitions(table: SymbolTable, wanted: set[bytes]) -> dict[bytes, list[int]]:
    """The symbols that define a wanted name for others, by name, in the order of the table."""
    visible = (
        (table.sections != SHN_UNDEF)
        & np.isin(table.bindings, _DEFINING_BINDINGS)
        & np.isin(table.types, _DEFINING_TYPES)
        & np.isin(table.visibilities, _DEFINING_VISIBILITIES)
        # As in ld.so, a symbol at address 0 is no definition, unless 0 can be its value.
        & ((table.values != 0) | (table.sections == SHN_ABS) | (table.types == STT_TLS))
    )
    found: dict[bytes, list[int]] = {}
    for number in np.flatnonzero(visible).tolist():
        name = table.names[number]
        if name in wanted:
            found.setdefault(name, []).append(number)
    return found


def _binds_itself(table: SymbolTable, symbol: int) -> bool:
    """Whether a reference to the symbol can't be answered by another library."""
    return bool(
        table.bindings[symbol] == STB_LOCAL or table.visibilities[symbol] != STV_DEFAULT
    ) and bool(
        # A protected reference that its library doesn't define is an ordinary one.
        table.visibilities[symbol] != STV_PROTECTED or table.sections[symbol] != SHN_UNDEF
    )
