# SPDX-License-Identifier: Apache-2.0
"""Reading one library: what its file says about relocation, before anything is resolved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch import opening

from .headers import LoadSegment, read_dynamic, read_headers
from .kinds import RelocationKind, type_name
from .source import open_source
from .symbols import StringTable, SymbolTable, read_symbols
from .tables import read_only, read_relocations

_DF_SYMBOLIC = 0x2


@dataclass(frozen=True, slots=True, eq=False)
class LibraryRelocations:
    """The dynamic relocations of one library, n of them, and what is needed to resolve them.

    The relocations stand in the order in which ld.so applies them: RELR, RELA, PLT. The arrays are
    read-only.

    Attributes:
        path: the file, as the caller named it.
        file_size: in bytes.
        machine: "x86-64" or "aarch64".
        build_id: GNU build-id in hexadecimal, or None.
        soname: DT_SONAME, or None.
        needed: the DT_NEEDED names, in file order.
        bind_now: whether the library asks for its PLT to be resolved when it is loaded.
        symbolic: whether its own definitions come first in its look-ups (DF_SYMBOLIC).
        segments: the PT_LOAD segments, by ascending address.
        relro: virtual address and size in bytes of what is read-only after relocation, or None.
        kinds: uint8, shape (n,), values of RelocationKind.
        types: uint32, shape (n,), the machine's relocation type numbers; 0 for RELR.
        addresses: uint64, shape (n,), virtual addresses relative to the load base.
        file_offsets: int64, shape (n,), the same places as byte offsets in the file; -1 where the
            file holds no whole word (.bss).
        symbols: uint32, shape (n,), numbers in `symbol_table`; 0 for none.
        addends: int64, shape (n,); for RELR the word that the file holds.
        symbol_table: the dynamic symbols.
    """

    path: Path
    file_size: int
    machine: str
    build_id: str | None
    soname: str | None
    needed: tuple[str, ...]
    bind_now: bool
    symbolic: bool
    segments: tuple[LoadSegment, ...]
    relro: tuple[int, int] | None
    kinds: NDArray[np.uint8]
    types: NDArray[np.uint32]
    addresses: NDArray[np.uint64]
    file_offsets: NDArray[np.int64]
    symbols: NDArray[np.uint32]
    addends: NDArray[np.int64]
    symbol_table: SymbolTable

    def __len__(self) -> int:
        """The number of relocations."""
        return len(self.kinds)

    def kind_name(self, index: int) -> str:
        """Name the kind of relocation `index`; OTHER ones by their ABI's name (R_X86_64_PC32)."""
        kind = RelocationKind(self.kinds[index])
        if kind is RelocationKind.OTHER:
            return type_name(self.machine, int(self.types[index]))
        return str(kind)


def relocations(path: opening.Path) -> LibraryRelocations:
    """Read the dynamic relocations of a shared library or position-independent executable.

    Raises:
        ElfError: the file is not a little-endian ELF64 library for x86-64 or aarch64, or it is
            truncated, damaged or made to do harm. Memory and time stay within a small multiple of
            the size of the file, whatever it claims.
        OSError: the file can't be opened or read.
    """
    with open_source(path) as source:
        headers = read_headers(source)
        dynamic = read_dynamic(source, headers)
        strings = StringTable(source, headers, dynamic)
        table = read_relocations(source, headers, dynamic)
        highest_used = int(table.symbols.max(initial=0))
        symbol_table = read_symbols(source, headers, dynamic, strings, highest_used)
        soname = dynamic.values.get("DT_SONAME")
        return LibraryRelocations(
            path=source.path,
            file_size=source.size,
            machine=headers.machine,
            build_id=headers.build_id,
            soname=None if soname is None else _text(strings, soname),
            needed=tuple(_text(strings, offset) for offset in dynamic.needed),
            bind_now=dynamic.bind_now,
            symbolic="DT_SYMBOLIC" in dynamic.values
            or bool(dynamic.values.get("DT_FLAGS", 0) & _DF_SYMBOLIC),
            segments=headers.segments,
            relro=headers.relro,
            kinds=read_only(table.kinds),
            types=read_only(table.types),
            addresses=read_only(table.addresses),
            file_offsets=read_only(table.file_offsets),
            symbols=read_only(table.symbols),
            addends=read_only(table.addends),
            symbol_table=symbol_table,
        )


def _text(strings: StringTable, offset: int) -> str:
    return os.fsdecode(strings.name(offset))
