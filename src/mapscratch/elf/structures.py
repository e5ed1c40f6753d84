# SPDX-License-Identifier: Apache-2.0
"""The structures of ELF64 files, little-endian, as NumPy's types, and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .source import ByteSource

FILE_HEADER = np.dtype(
    [
        ("ident", "V16"),
        ("type", "<u2"),
        ("machine", "<u2"),
        ("version", "<u4"),
        ("entry", "<u8"),
        ("program_offset", "<u8"),
        ("section_offset", "<u8"),
        ("flags", "<u4"),
        ("header_size", "<u2"),
        ("program_size", "<u2"),
        ("programs", "<u2"),
        ("section_size", "<u2"),
        ("sections", "<u2"),
        ("section_names", "<u2"),
    ]
)
"""Elf64_Ehdr."""

PROGRAM = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("address", "<u8"),
        ("physical", "<u8"),
        ("file_size", "<u8"),
        ("memory_size", "<u8"),
        ("align", "<u8"),
    ]
)
"""Elf64_Phdr."""

DYNAMIC_ENTRY = np.dtype([("tag", "<i8"), ("value", "<u8")])
"""Elf64_Dyn."""

VERSION_DEFINITION = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u2"),
        ("index", "<u2"),
        ("count", "<u2"),
        ("hash", "<u4"),
        ("first", "<u4"),
        ("next", "<u4"),
    ]
)
"""Elf64_Verdef; `first` and `next` are distances in bytes."""

VERSION_NAME = np.dtype([("name", "<u4"), ("next", "<u4")])
"""Elf64_Verdaux."""

VERSIONS_NEEDED = np.dtype(
    [("version", "<u2"), ("count", "<u2"), ("file", "<u4"), ("first", "<u4"), ("next", "<u4")]
)
"""Elf64_Verneed."""

VERSION_NEEDED = np.dtype(
    [("hash", "<u4"), ("flags", "<u2"), ("index", "<u2"), ("name", "<u4"), ("next", "<u4")]
)
"""Elf64_Vernaux."""

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_RELRO = 1, 2, 3, 4, 0x6474E552
PF_X, PF_W = 1, 2

ET_EXEC, ET_DYN = 2, 3
FILE_TYPES = {0: "ET_NONE", 1: "ET_REL", 2: "ET_EXEC", 3: "ET_DYN", 4: "ET_CORE"}
"""Names of e_type."""

MACHINES = {62: "x86-64", 183: "aarch64"}
"""The machines that are read, by e_machine."""
OTHER_MACHINES = {
    3: "EM_386",
    8: "EM_MIPS",
    20: "EM_PPC",
    21: "EM_PPC64",
    22: "EM_S390",
    40: "EM_ARM",
    43: "EM_SPARCV9",
    243: "EM_RISCV",
    258: "EM_LOONGARCH",
}
"""Names of those that a Debian of today, or of yesterday, runs on."""

TAGS = {
    0: "DT_NULL",
    1: "DT_NEEDED",
    2: "DT_PLTRELSZ",
    3: "DT_PLTGOT",
    4: "DT_HASH",
    5: "DT_STRTAB",
    6: "DT_SYMTAB",
    7: "DT_RELA",
    8: "DT_RELASZ",
    9: "DT_RELAENT",
    10: "DT_STRSZ",
    11: "DT_SYMENT",
    12: "DT_INIT",
    13: "DT_FINI",
    14: "DT_SONAME",
    15: "DT_RPATH",
    16: "DT_SYMBOLIC",
    17: "DT_REL",
    18: "DT_RELSZ",
    19: "DT_RELENT",
    20: "DT_PLTREL",
    21: "DT_DEBUG",
    22: "DT_TEXTREL",
    23: "DT_JMPREL",
    24: "DT_BIND_NOW",
    25: "DT_INIT_ARRAY",
    26: "DT_FINI_ARRAY",
    27: "DT_INIT_ARRAYSZ",
    28: "DT_FINI_ARRAYSZ",
    29: "DT_RUNPATH",
    30: "DT_FLAGS",
    32: "DT_PREINIT_ARRAY",
    33: "DT_PREINIT_ARRAYSZ",
    34: "DT_SYMTAB_SHNDX",
    35: "DT_RELRSZ",
    36: "DT_RELR",
    37: "DT_RELRENT",
    0x6FFFFEF5: "DT_GNU_HASH",
    0x6FFFFFF0: "DT_VERSYM",
    0x6FFFFFF9: "DT_RELACOUNT",
    0x6FFFFFFA: "DT_RELCOUNT",
    0x6FFFFFFB: "DT_FLAGS_1",
    0x6FFFFFFC: "DT_VERDEF",
    0x6FFFFFFD: "DT_VERDEFNUM",
    0x6FFFFFFE: "DT_VERNEED",
    0x6FFFFFFF: "DT_VERNEEDNUM",
}
"""Names of d_tag."""

Record = dict[str, Any]
"""A structure's fields by name."""


def records(array: NDArray[np.void]) -> Iterator[Record]:
    """Each structure of an array, shape (n,)."""
    names = array.dtype.names or ()
    for values in array.tolist():
        yield dict(zip(names, values, strict=True))


def parse(
    source: ByteSource, kind: np.dtype[np.void], data: bytes, offset: int, what: str
) -> Record:
    """One structure out of bytes.

    Raises:
        ElfError: it isn't wholly within them.
    """
    if not 0 <= offset <= len(data) - kind.itemsize:
        raise source.error(f"damaged {what}: it ends in the midst of a record")
    return next(records(np.frombuffer(data, dtype=kind, count=1, offset=offset)))
