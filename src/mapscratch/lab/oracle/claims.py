# SPDX-License-Identifier: Apache-2.0
"""How much there is in a library, by its own headers: what a reader's answer is held against.

Only sizes are read here, and where segments lie; with the standard library's struct, after the
ELF specification (Elf64_Ehdr, Elf64_Phdr, Elf64_Dyn; gABI "SHT_RELR") and glibc's `_dl_setup_hash`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .error import OracleError

_WORD = 8
_RELA_SIZE = 24
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_PLTRELSZ, _DT_HASH, _DT_RELA, _DT_RELASZ, _DT_SYMBOLIC, _DT_JMPREL = 2, 4, 7, 8, 16, 23
_DT_FLAGS, _DT_RELRSZ, _DT_RELR, _DT_GNU_HASH = 30, 35, 36, 0x6FFFFEF5
_DF_SYMBOLIC = 2


class Segment(NamedTuple):
    """A PT_LOAD header."""

    address: int
    offset: int
    file_size: int


class Table(NamedTuple):
    """A table of relocations.

    Attributes:
        offset: where it is in the file.
        size: in bytes.
        relocations: how many it stands for.
    """

    offset: int
    size: int
    relocations: int


class Claims(NamedTuple):
    """What the headers of a library say.

    Attributes:
        segments: those that are loaded.
        symbolic: whether its own definitions come first (DT_SYMBOLIC, DF_SYMBOLIC).
        symbols: so many at least, by its hash table.
        relr: the table of DT_RELR.
        rela: of DT_RELA.
        plt: of DT_JMPREL.
    """

    segments: Sequence[Segment]
    symbolic: bool
    symbols: int
    relr: Table
    rela: Table
    plt: Table

    def file_offset(self, address: int) -> int | None:
        """Where the word at an address is in the file; None if it is in no segment's file part."""
        for segment in self.segments:
            if segment.address <= address <= segment.address + segment.file_size - _WORD:
                return segment.offset + address - segment.address
        return None


def read_claims(path: Path) -> Claims:
    """Read them.

    Raises:
        OracleError: it is no ELF library of 64 bits, little-endian, or it is damaged.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return _Headers(path, file.fileno()).claims()


class _Headers:
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        identification = os.pread(descriptor, 6, 0)
        if identification != b"\x7fELF\x02\x01":
            raise OracleError(f"{path}: not an ELF library of 64 bits, little-endian")
        programs = self._programs()
        self._segments = [
            Segment(address, offset, size)
            for kind, _, offset, address, _, size, _, _ in programs
            if kind == _PT_LOAD
        ]
        self._dynamic = self._read_dynamic([one for one in programs if one[0] == _PT_DYNAMIC])

    def claims(self) -> Claims:
        flags = self._dynamic.get(_DT_FLAGS, 0)
        relr = self._table(_DT_RELR, _DT_RELRSZ)
        return Claims(
            segments=self._segments,
            symbolic=_DT_SYMBOLIC in self._dynamic or bool(flags & _DF_SYMBOLIC),
            symbols=self._symbols(),
            relr=relr._replace(relocations=self._packed(relr)),
            rela=self._table(_DT_RELA, _DT_RELASZ),
            plt=self._table(_DT_JMPREL, _DT_PLTRELSZ),
        )

    def _unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        data = os.pread(self._descriptor, size, offset) if 0 <= offset < 1 << 63 else b""
        if len(data) != size:
            raise OracleError(f"{self._path}: {size} bytes at {offset:#x} are not in the file")
        return struct.unpack(layout, data)

    def _programs(self) -> list[tuple[Any, ...]]:
        (start,) = self._unpack("<Q", 32)
        size, count = self._unpack("<HH", 54)
        return [self._unpack("<IIQQQQQQ", start + number * size) for number in range(count)]

    def _read_dynamic(self, programs: list[tuple[Any, ...]]) -> dict[int, int]:
        if not programs:
            raise OracleError(f"{self._path}: it has no dynamic section")
        _, _, offset, _, _, size, _, _ = programs[-1]
        values: dict[int, int] = {}
        for at in range(offset, offset + size, 16):
            tag, value = self._unpack("<QQ", at)
            if not tag:
                break
            values[tag] = value
        return values

    def _offset(self, address: int) -> int:
        for segment in self._segments:
            if segment.address <= address < segment.address + segment.file_size:
                return segment.offset + address - segment.address
        raise OracleError(f"{self._path}: the address {address:#x} is in no loaded segment")

    def _table(self, tag: int, size_tag: int) -> Table:
        size = self._dynamic.get(size_tag, 0) if tag in self._dynamic else 0
        offset = self._offset(self._dynamic[tag]) if size else 0
        return Table(offset, size, size // _RELA_SIZE)

    def _packed(self, table: Table) -> int:
        """An even entry is an address; an odd one has a bit for each word, and the lowest."""
        entries = self._unpack(f"<{table.size // _WORD}Q", table.offset) if table.size else ()
        return sum(entry.bit_count() - 1 if entry & 1 else 1 for entry in entries)

    def _symbols(self) -> int:
        if _DT_GNU_HASH in self._dynamic:
            return self._hashed(self._offset(self._dynamic[_DT_GNU_HASH]))
        if _DT_HASH in self._dynamic:
            return int(self._unpack("<II", self._offset(self._dynamic[_DT_HASH]))[1])
        return 0

    def _hashed(self, offset: int) -> int:
        """The highest symbol in a bucket begins the last chain; an odd word ends it."""
        buckets, first, bloom, _ = self._unpack("<IIII", offset)
        at = offset + 16 + _WORD * bloom
        number = max(self._unpack(f"<{buckets}I", at), default=0)
        if number < first:
            return int(first)
        at += 4 * buckets
        while not self._unpack("<I", at + 4 * (number - first))[0] & 1:
            number += 1
        return int(number) + 1
