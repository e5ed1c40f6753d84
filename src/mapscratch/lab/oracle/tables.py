# SPDX-License-Identifier: Apache-2.0
"""What every reader gives, in the words that readelf has for it, and what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mapscratch.errors import UserError

WORD = 8  # bytes


class OracleError(UserError, RuntimeError):
    """readelf is missing, or no reader can be used for a library; the message says what to do."""


class Symbol(NamedTuple):
    """A dynamic symbol."""

    value: int  # st_value
    type: str  # such as "FUNC", "IFUNC"
    binding: str  # such as "GLOBAL", "UNIQUE"
    visibility: str  # such as "DEFAULT"
    section: str  # "UND", "ABS", or a number
    name: str  # without its version
    version: str  # or empty
    hidden: bool  # a reference without a version does not see it


class Relocation(NamedTuple):
    """A relocation of DT_RELA or DT_JMPREL."""

    address: int  # relative to the load base
    kind: str  # such as "R_X86_64_RELATIVE"
    symbol: int  # its number, or 0
    addend: int  # 0 of a kind that stores no address


class Tables(NamedTuple):
    """What a reader has found in a library."""

    symbols: Sequence[Symbol]  # dynamic, by number
    relr: Sequence[int]  # the addresses that DT_RELR stands for
    rela: Sequence[Relocation]  # of DT_RELA
    plt: Sequence[Relocation]  # of DT_JMPREL


class Table(NamedTuple):
    """A table of relocations: where it is in the file, its bytes, how many it stands for."""

    offset: int
    size: int
    relocations: int


class Claims(NamedTuple):
    """What the headers of a library say."""

    segments: Sequence[tuple[int, int, int]]  # loaded: address, offset in the file, bytes there
    symbolic: bool  # its own definitions come first (DT_SYMBOLIC, DF_SYMBOLIC)
    symbols: int  # so many at least, by its hash table
    relr: Table
    rela: Table
    plt: Table

    def file_offset(self, address: int) -> int | None:
        """Where the word at an address is in the file; None if it is in no segment's file part."""
        for start, offset, size in self.segments:
            if start <= address <= start + size - WORD:
                return offset + address - start
        return None


# Kinds that store the address of a symbol, and an address in the library itself.
SYMBOLIC = {
    *("R_X86_64_64", "R_X86_64_GLOB_DAT", "R_X86_64_JUMP_SLOT"),
    *("R_AARCH64_ABS64", "R_AARCH64_GLOB_DAT", "R_AARCH64_JUMP_SLOT"),
}
RELATIVE = {"R_X86_64_RELATIVE", "R_AARCH64_RELATIVE"}
