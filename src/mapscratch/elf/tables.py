# SPDX-License-Identifier: Apache-2.0
"""The relocation tables: Elf64_Rela records, and the packed addresses of DT_RELR.

The order of the result is the order in which glibc's ld.so applies the tables
(`ELF_DYNAMIC_RELOCATE` in elf/dynamic-link.h): RELR, then RELA, then the PLT's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .headers import DynamicTable, Headers
from .kinds import RelocationKind, kinds_of_types
from .source import ByteSource

RELA = np.dtype([("address", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
"""Elf64_Rela, r_info taken apart: on a little-endian machine its low half comes first."""

_Scalar = TypeVar("_Scalar", bound=np.generic)

_DT_RELA = 7
_RELR_SIZE = 8

# Ten times as many as Chromium has, the largest known user.
_MAX_RELOCATIONS = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class RelocationTable:
    """All relocations of a library, n of them. Fields as in `LibraryRelocations`, shape (n,)."""

    kinds: NDArray[np.uint8]
    types: NDArray[np.uint32]
    addresses: NDArray[np.uint64]
    file_offsets: NDArray[np.int64]
    symbols: NDArray[np.uint32]
    addends: NDArray[np.int64]


def read_relocations(
    source: ByteSource, headers: Headers, dynamic: DynamicTable
) -> RelocationTable:
    """Read DT_RELR, DT_RELA and DT_JMPREL.

    Raises:
        ElfError: a table is damaged, of an unknown format, or lies outside the file.
    """
    if dynamic.values.get("DT_RELSZ"):
        raise source.error("has DT_REL relocations, which its machine's ABI does not know")
    packed = _read_relr(source, headers, dynamic)
    records = np.concatenate(read_rela_tables(source, headers, dynamic))
    addresses = np.concatenate([packed, records["address"]])
    offsets = headers.file_offsets(addresses)
    zeros = np.zeros(len(packed), dtype=np.uint32)
    packed_kind = np.full(len(packed), RelocationKind.RELR, dtype=np.uint8)
    packed_words = _read_words(source, offsets[: len(packed)])
    return RelocationTable(
        kinds=np.concatenate([packed_kind, kinds_of_types(headers.machine, records["type"])]),
        types=np.concatenate([zeros, records["type"]]),
        addresses=addresses,
        file_offsets=offsets,
        symbols=np.concatenate([zeros, records["symbol"]]),
        addends=np.concatenate([packed_words.view(np.int64), records["addend"]]),
    )


def read_only(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Forbid writing to an array that will be part of a frozen result."""
    array.setflags(write=False)
    return array


def read_rela_tables(
    source: ByteSource, headers: Headers, dynamic: DynamicTable
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Read the records of DT_RELA and those of DT_JMPREL.

    Returns:
        RELA, shapes (m,) and (n,); a table that isn't there is empty.

    Raises:
        ElfError: a table is damaged, of an unknown format, or lies outside the file.
    """
    values = dynamic.values
    size, plt_size = values.get("DT_RELASZ", 0), values.get("DT_PLTRELSZ", 0)
    address, plt_address = values.get("DT_RELA"), values.get("DT_JMPREL")
    if plt_size and values.get("DT_PLTREL", _DT_RELA) != _DT_RELA:
        raise source.error("its PLT relocations are not of the Rela format")
    if values.get("DT_RELAENT", RELA.itemsize) != RELA.itemsize:
        raise source.error(f"relocations of {values['DT_RELAENT']} bytes are unknown")
    if address is not None and plt_address is not None and address + size == plt_address + plt_size:
        # Some linkers count the PLT's table as the tail of DT_RELA; it is to be done once.
        size -= min(size, plt_size)
    _check_count(source, (size + plt_size) // RELA.itemsize)
    return (
        _read_rela(source, headers, address, size, "relocation table"),
        _read_rela(source, headers, plt_address, plt_size, "PLT relocation table"),
    )


def _check_count(source: ByteSource, count: int) -> None:
    if count > _MAX_RELOCATIONS:
        raise source.error(f"claims {count} relocations; no real library has as many")


def _read_rela(
    source: ByteSource, headers: Headers, address: int | None, size: int, what: str
) -> NDArray[np.void]:
    if address is None or size == 0:
        return np.empty(0, dtype=RELA)
    if size % RELA.itemsize:
        raise source.error(f"the {what} takes {size} bytes, no multiple of {RELA.itemsize}")
    return np.frombuffer(headers.read(source, address, size, what), dtype=RELA)


def _read_relr(source: ByteSource, headers: Headers, dynamic: DynamicTable) -> NDArray[np.uint64]:
    what = "packed relocation table"
    address, size = dynamic.values.get("DT_RELR"), dynamic.values.get("DT_RELRSZ", 0)
    if address is None or size == 0:
        return np.empty(0, dtype=np.uint64)
    if dynamic.values.get("DT_RELRENT", _RELR_SIZE) != _RELR_SIZE or size % _RELR_SIZE:
        raise source.error(f"the {what} is not made of words of {_RELR_SIZE} bytes")
    entries = np.frombuffer(headers.read(source, address, size, what), dtype="<u8")
    if int(entries[0]) & 1:
        raise source.error(f"the {what} starts with a bitmap instead of an address")
    count = _relr_count(entries)
    _check_count(source, count)
    if count > source.size // _RELR_SIZE:
        raise source.error(f"the {what} names more words than the file holds")
    return decode_relr(entries)


def _relr_count(entries: NDArray[np.uint64]) -> int:
    """How many addresses a RELR table stands for, found in less memory than the table takes."""
    bytes_of_bitmaps = entries[(entries & 1) != 0].view(np.uint8)
    bits_of_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
    occurrences = np.bincount(bytes_of_bitmaps, minlength=256)
    set_bits = int((occurrences * bits_of_byte).sum())
    bitmaps = len(bytes_of_bitmaps) // _RELR_SIZE
    return len(entries) - bitmaps + set_bits - bitmaps


def decode_relr(entries: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Expand a RELR table, shape (n,), to virtual addresses, in ascending order.

    An even entry is an address. An odd one is a bitmap over the 63 words that follow the last word
    spoken of: bit i + 1 is set if word i is to be relocated (ELF gABI, SHT_RELR). The first entry
    must be even.
    """
    numbers = np.arange(len(entries))
    is_bitmap = (entries & 1) != 0
    latest_address = np.maximum.accumulate(np.where(is_bitmap, 0, numbers))
    maps = numbers[is_bitmap]
    before = latest_address[maps]
    first_word = entries[before] + 8 + (maps - before - 1).astype(np.uint64) * (63 * 8)
    bits = np.unpackbits(entries[maps].view(np.uint8), bitorder="little").reshape(-1, 64)[:, 1:]
    rows, columns = np.nonzero(bits)
    found = first_word[rows] + columns.astype(np.uint64) * 8
    return np.sort(np.concatenate([entries[~is_bitmap], found]))


def _read_words(source: ByteSource, offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Read the 8-byte words at file offsets, shape (n,), aligned or not; 0 where it is -1."""
    words = np.zeros(len(offsets), dtype=np.uint64)
    backed = np.flatnonzero(offsets >= 0)
    if len(backed):
        wanted = offsets[backed]
        start = int(wanted.min())
        size = int(wanted.max()) + 8 - start
        span = np.frombuffer(source.read(start, size, "relocated words"), dtype=np.uint8)
        octets = span[(wanted - start)[:, None] + np.arange(8)]
        words[backed] = np.ascontiguousarray(octets).view("<u8")[:, 0]
    return words
