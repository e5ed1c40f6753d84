# SPDX-License-Identifier: Apache-2.0
"""What every reader gives: symbols and relocations, in the words that readelf has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Symbol(NamedTuple):
    """A dynamic symbol.

    Attributes:
        value: st_value.
        type: such as "FUNC", "IFUNC".
        binding: such as "GLOBAL", "UNIQUE".
        visibility: such as "DEFAULT".
        section: "UND", "ABS", or a number.
        name: without its version.
        version: or empty.
        hidden: whether a reference without a version does not see it.
    """

    value: int
    type: str
    binding: str
    visibility: str
    section: str
    name: str
    version: str
    hidden: bool


class Relocation(NamedTuple):
    """A relocation of DT_RELA or DT_JMPREL.

    Attributes:
        address: relative to the load base.
        kind: such as "R_X86_64_RELATIVE".
        symbol: its number, or 0.
        addend: what is added; 0 of a kind that stores no address.
    """

    address: int
    kind: str
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class Tables:
    """What a reader has found in a library.

    Attributes:
        symbols: the dynamic symbols, by number.
        relr: the addresses that DT_RELR stands for.
        rela: the relocations of DT_RELA.
        plt: those of DT_JMPREL.
    """

    symbols: Sequence[Symbol]
    relr: Sequence[int]
    rela: Sequence[Relocation]
    plt: Sequence[Relocation]


SYMBOLIC = {
    "R_X86_64_64",
    "R_X86_64_GLOB_DAT",
    "R_X86_64_JUMP_SLOT",
    "R_AARCH64_ABS64",
    "R_AARCH64_GLOB_DAT",
    "R_AARCH64_JUMP_SLOT",
}
"""Kinds that store the address of a symbol."""
RELATIVE = {"R_X86_64_RELATIVE", "R_AARCH64_RELATIVE"}
"""Kinds that store an address in the library itself."""
