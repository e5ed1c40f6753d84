# SPDX-License-Identifier: Apache-2.0
"""The few facts of an ELF file that a warm start needs.

`mapscratch.elf` is the reader of everything else; importing it takes longer than a program's start.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

# elf(5), 64 bits, little-endian: of the header e_phoff, e_phentsize, e_phnum; of a program header
# p_type, p_offset, p_filesz, p_memsz, p_align.
_HEADER = struct.Struct("<4s28xQ14xHH6x")
_PROGRAM_HEADER = struct.Struct("<I4xQ16xQQQ")
_DYNAMIC_ENTRY = struct.Struct("<QQ")
_PT_DYNAMIC, _PT_INTERP, _PT_TLS = 2, 3, 7
_DT_FLAGS, _DF_STATIC_TLS = 30, 0x10
_LONGEST_DYNAMIC_SECTION = 1 << 16
_LONGEST_PATH = 4096


class Facts(NamedTuple):
    """What a file asks ld.so for.

    Attributes:
        interpreter: the dynamic linker that it names; empty for a library.
        static_tls: bytes of its thread-local variables, and what their alignment may take, if these
            must be in the block that each thread has from the start (the initial-exec model).
    """

    interpreter: str
    static_tls: int


_NOTHING = Facts("", 0)


def read_facts(path: Path) -> Facts:
    """Reads them; nothing of a file that can't be read: ld.so will say what is wrong with it."""
    try:
        with path.open("rb") as file:
            magic, offset, size, count = _HEADER.unpack(file.read(_HEADER.size))
            if magic != b"\x7fELF" or size < _PROGRAM_HEADER.size:
                return _NOTHING
            file.seek(offset)
            table = file.read(size * count)
            interpreter, section, variables = b"", b"", 0
            for at in range(0, size * count, size):
                kind, where, length, memory, align = _PROGRAM_HEADER.unpack_from(table, at)
                file.seek(where)
                if kind == _PT_INTERP:
                    interpreter = file.read(min(length, _LONGEST_PATH)).rstrip(b"\0")
                elif kind == _PT_DYNAMIC:
                    section = file.read(min(length, _LONGEST_DYNAMIC_SECTION))
                elif kind == _PT_TLS:
                    variables = memory + align
    except (OSError, OverflowError, struct.error):
        return _NOTHING
    return Facts(os.fsdecode(interpreter), variables if _is_static(section) else 0)


def _is_static(dynamic_section: bytes) -> bool:
    whole = len(dynamic_section) // _DYNAMIC_ENTRY.size * _DYNAMIC_ENTRY.size
    return any(
        tag == _DT_FLAGS and value & _DF_STATIC_TLS
        for tag, value in _DYNAMIC_ENTRY.iter_unpack(dynamic_section[:whole])
    )
