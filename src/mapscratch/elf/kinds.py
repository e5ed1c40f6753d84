# SPDX-License-Identifier: Apache-2.0
"""The kinds of dynamic relocation, the same names for x86-64 and aarch64.

Type numbers are those of the processor supplements to the System V ABI (x86-64 psABI, table 4.9;
ELF for the Arm 64-bit Architecture, dynamic relocations).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class RelocationKind(IntEnum):
    """What a relocation asks the loader to do; `str()` gives the field's name for it.

    In the formulas B is the load base of the library, S the address of the symbol, A the addend.
    """

    NONE = 0
    """Nothing."""
    RELATIVE = 1
    """Store B + A."""
    RELR = 2
    """The same from the packed table (DT_RELR): A is the word that the file holds."""
    GLOB_DAT = 3
    """Store S + A in the global offset table."""
    ABSOLUTE_64 = 4
    """Store S + A in data. `str()` gives "64", as in R_X86_64_64 (R_AARCH64_ABS64)."""
    JUMP_SLOT = 5
    """Store S + A in the table that PLT entries jump through; may be done lazily."""
    COPY = 6
    """Copy the symbol's bytes (executables only)."""
    IRELATIVE = 7
    """Call B + A and store what it returns."""
    DTPMOD64 = 8
    """Store the number of a module with thread-local storage."""
    DTPOFF64 = 9
    """Store an offset in a module's thread-local storage."""
    TPOFF64 = 10
    """Store an offset from the thread pointer."""
    TLSDESC = 11
    """Store a thread-local storage descriptor (two words)."""
    OTHER = 12
    """Any other type; see `type_name` for its name."""

    def __str__(self) -> str:
        """Name the kind as psABI does, without the machine's prefix."""
        return "64" if self is RelocationKind.ABSOLUTE_64 else self.name


APPLIED_KINDS = (
    RelocationKind.RELATIVE,
    RelocationKind.RELR,
    RelocationKind.GLOB_DAT,
    RelocationKind.ABSOLUTE_64,
    RelocationKind.JUMP_SLOT,
)
"""The kinds that `mapscratch.elf.link` computes a word for."""

BASE_RELATIVE_KINDS = (RelocationKind.RELATIVE, RelocationKind.RELR)
"""The applied kinds that look up no symbol."""

_X86_64 = {
    0: RelocationKind.NONE,
    1: RelocationKind.ABSOLUTE_64,
    5: RelocationKind.COPY,
    6: RelocationKind.GLOB_DAT,
    7: RelocationKind.JUMP_SLOT,
    8: RelocationKind.RELATIVE,
    16: RelocationKind.DTPMOD64,
    17: RelocationKind.DTPOFF64,
    18: RelocationKind.TPOFF64,
    36: RelocationKind.TLSDESC,
    37: RelocationKind.IRELATIVE,
}
_AARCH64 = {
    0: RelocationKind.NONE,
    257: RelocationKind.ABSOLUTE_64,
    1024: RelocationKind.COPY,
    1025: RelocationKind.GLOB_DAT,
    1026: RelocationKind.JUMP_SLOT,
    1027: RelocationKind.RELATIVE,
    1028: RelocationKind.DTPMOD64,
    1029: RelocationKind.DTPOFF64,
    1030: RelocationKind.TPOFF64,
    1031: RelocationKind.TLSDESC,
    1032: RelocationKind.IRELATIVE,
}
_KIND_OF_TYPE = {"x86-64": _X86_64, "aarch64": _AARCH64}
# Of what linkers are known to leave for the loader although it hardly can apply it.
_OTHER_NAMES = {
    "x86-64": {
        2: "R_X86_64_PC32",
        4: "R_X86_64_PLT32",
        10: "R_X86_64_32",
        11: "R_X86_64_32S",
        12: "R_X86_64_16",
        14: "R_X86_64_8",
        23: "R_X86_64_TPOFF32",
        24: "R_X86_64_PC64",
    },
    "aarch64": {
        258: "R_AARCH64_ABS32",
        259: "R_AARCH64_ABS16",
        260: "R_AARCH64_PREL64",
        261: "R_AARCH64_PREL32",
        262: "R_AARCH64_PREL16",
    },
}


def kinds_of_types(machine: str, types: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Translate a machine's relocation type numbers, shape (n,), to RelocationKind values."""
    known = _KIND_OF_TYPE[machine]
    # One entry more than the largest known number, so that every larger one lands on OTHER.
    table = np.full(max(known) + 2, RelocationKind.OTHER, dtype=np.uint8)
    for number, kind in known.items():
        table[number] = kind
    return table[np.minimum(types, len(table) - 1)]


def type_name(machine: str, number: int) -> str:
    """Name a type that is none of the kinds as its ABI does, e.g. R_X86_64_PC32."""
    return _OTHER_NAMES[machine].get(number, f"relocation type {number}")
