# SPDX-License-Identifier: Apache-2.0
"""The dynamic symbol table with names and versions, as read-only arrays.

How many symbols there are is nowhere stated without section headers: the hash tables say it
(DT_HASH its number of chains, DT_GNU_HASH its last chain), and relocations may name undefined
symbols that no hash table counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .headers import DynamicTable, Headers
from .source import ByteSource
from .structures import (
    VERSION_DEFINITION,
    VERSION_NAME,
    VERSION_NEEDED,
    VERSIONS_NEEDED,
    Record,
    parse,
)
from .tables import read_only

SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
"""Elf64_Sym."""

STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_COMMON, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 5, 6, 10
STV_DEFAULT, STV_PROTECTED = 0, 3
SHN_UNDEF, SHN_ABS = 0, 0xFFF1

_VERSYM_HIDDEN = 0x8000
_VERSYM_INDEX = 0x7FFF
_VER_FLG_BASE = 1

# Bounds far beyond any real file. The last is relative to the string table: linkers share the tails
# of strings, but a file whose names add up to many times their table is made to exhaust memory.
_MAX_SYMBOLS = 1 << 22
_MAX_VERSIONS = 1 << 15
_MAX_VERSION_BYTES = 1 << 22
_MAX_NAME = 4096
_MAX_NAME_SHARING = 16


@dataclass(frozen=True, slots=True, eq=False)
class SymbolTable:
    """The dynamic symbols of a library; n of them, number 0 being the undefined symbol.

    Attributes:
        names: n names.
        values: shape (n,), st_value: an address relative to the load base, except for SHN_ABS.
        sections: shape (n,), st_shndx.
        bindings: shape (n,), STB_*.
        types: shape (n,), STT_*.
        visibilities: shape (n,), STV_*.
        versions: n version names; None where a symbol has none, or the library's base version.
        hidden: shape (n,), True where a reference without a version does not see the symbol
            (`name@VERSION` and not `name@@VERSION`).
    """

    names: tuple[bytes, ...]
    values: NDArray[np.uint64]
    sections: NDArray[np.uint16]
    bindings: NDArray[np.uint8]
    types: NDArray[np.uint8]
    visibilities: NDArray[np.uint8]
    versions: tuple[bytes | None, ...]
    hidden: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of symbols."""
        return len(self.names)


class StringTable:
    """The dynamic string table: NUL-terminated names by offset."""

    __slots__ = ("_data", "_source", "_terminators")

    def __init__(self, source: ByteSource, headers: Headers, dynamic: DynamicTable) -> None:
        self._source = source
        self._data = b""
        size = dynamic.values.get("DT_STRSZ", 0)
        if "DT_STRTAB" in dynamic.values and size:
            address = dynamic.values["DT_STRTAB"]
            self._data = headers.read(source, address, size, "string table")
        if self._data and self._data[-1]:
            raise source.error("the string table does not end with a zero byte")
        self._terminators = np.flatnonzero(np.frombuffer(self._data, dtype=np.uint8) == 0)

    def name(self, offset: int) -> bytes:
        """The name at an offset; ElfError if it is outside the table or longer than _MAX_NAME."""
        if not 0 <= offset < len(self._data):
            raise self._source.error(f"a name lies outside the string table ({offset:#x})")
        end = self._data.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise self._source.error(f"a name of a library or version exceeds {_MAX_NAME} bytes")
        return self._data[offset:end]

    def names(self, offsets: NDArray[np.uint32]) -> tuple[bytes, ...]:
        """The names at offsets, shape (n,); ElfError if one lies outside or they are too long."""
        starts = offsets.astype(np.int64)
        if len(starts) and int(starts.max()) >= len(self._data):
            # A table of nothing but the null symbol needs no strings.
            if not self._data and not starts.any():
                return (b"",) * len(starts)
            raise self._source.error("a symbol's name lies outside the string table")
        ends = self._terminators[np.searchsorted(self._terminators, starts)]
        total = int((ends - starts).sum())
        if total > _MAX_NAME_SHARING * len(self._data):
            raise self._source.error(f"the names of the symbols add up to {total} bytes")
        data = self._data
        return tuple([data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def read_symbol_records(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, highest_used: int
) -> NDArray[np.void]:
    """Read the symbols that a hash table or a relocation knows of, without their names.

    Args:
        source: the file.
        headers: its headers.
        dynamic: its dynamic section.
        highest_used: the highest symbol number in its relocations.

    Returns:
        SYMBOL, shape (n,).

    Raises:
        ElfError: a table is damaged or lies outside the file.
    """
    count = max(_hashed_symbols(source, headers, dynamic), highest_used + 1)
    if count > _MAX_SYMBOLS:
        raise source.error(f"claims {count} symbols; no real library has as many")
    if "DT_SYMTAB" not in dynamic.values:
        if highest_used:
            raise source.error("relocations name symbols, but there is no symbol table")
        return np.zeros(1, dtype=SYMBOL)
    if dynamic.values.get("DT_SYMENT", SYMBOL.itemsize) != SYMBOL.itemsize:
        raise source.error(f"symbols of {dynamic.values['DT_SYMENT']} bytes are unknown")
    size = count * SYMBOL.itemsize
    data = headers.read(source, dynamic.values["DT_SYMTAB"], size, "symbol table")
    return np.frombuffer(data, dtype=SYMBOL)


def read_symbols(
    source: ByteSource,
    headers: Headers,
    dynamic: DynamicTable,
    strings: StringTable,
    highest_used: int,
) -> SymbolTable:
    """Read all symbols that a hash table or a relocation knows of.

    Args:
        source: the file.
        headers: its headers.
        dynamic: its dynamic section.
        strings: its string table.
        highest_used: the highest symbol number in its relocations.

    Raises:
        ElfError: a table is damaged or lies outside the file.
    """
    records = read_symbol_records(source, headers, dynamic, highest_used)
    versions, hidden = _symbol_versions(source, headers, dynamic, strings, len(records))
    return SymbolTable(
        names=strings.names(records["name"]),
        values=read_only(np.ascontiguousarray(records["value"])),
        sections=read_only(np.ascontiguousarray(records["section"])),
        bindings=read_only(records["info"] >> np.uint8(4)),
        types=read_only(records["info"] & np.uint8(0xF)),
        visibilities=read_only(records["other"] & np.uint8(3)),
        versions=versions,
        hidden=read_only(hidden),
    )


def _hashed_symbols(source: ByteSource, headers: Headers, dynamic: DynamicTable) -> int:
    # As in ld.so (_dl_setup_hash): with both tables, the old one is not looked at.
    if "DT_GNU_HASH" in dynamic.values:
        return _gnu_hashed_symbols(source, headers, dynamic.values["DT_GNU_HASH"])
    if "DT_HASH" in dynamic.values:
        data = headers.read(source, dynamic.values["DT_HASH"], 8, "hash table")
        return int(np.frombuffer(data, dtype="<u4")[1])
    return 0


def _gnu_hashed_symbols(source: ByteSource, headers: Headers, address: int) -> int:
    what = "GNU hash table"
    head = np.frombuffer(headers.read(source, address, 16, what), dtype="<u4")
    bucket_count, first_hashed, bloom_count = (int(word) for word in head[:3])
    buckets_at = address + 16 + 8 * bloom_count
    if not bucket_count:
        return first_hashed
    data = headers.read(source, buckets_at, 4 * bucket_count, what)
    last_chain = int(np.frombuffer(data, dtype="<u4").max())
    if last_chain < first_hashed:
        return first_hashed
    # The chains stand one behind the other; a set lowest bit ends each. Symbol numbers and chain
    # words run in step from `first_hashed` on.
    chain_at = buckets_at + 4 * bucket_count + 4 * (last_chain - first_hashed)
    offset, available = headers.locate(source, chain_at, what)
    size = min(available, 4 * _MAX_SYMBOLS) // 4 * 4
    ends = np.flatnonzero(np.frombuffer(source.read(offset, size, what), dtype="<u4") & 1)
    if not len(ends):
        raise source.error(f"the last chain of the {what} has no end")
    return last_chain + int(ends[0]) + 1


def _symbol_versions(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, strings: StringTable, count: int
) -> tuple[tuple[bytes | None, ...], NDArray[np.bool_]]:
    address = dynamic.values.get("DT_VERSYM")
    if address is None:
        return (None,) * count, np.zeros(count, dtype=np.bool_)
    data = headers.read(source, address, 2 * count, "table of symbol versions")
    words = np.frombuffer(data, dtype="<u2")
    names = dict(_defined_versions(source, headers, dynamic, strings))
    names.update(_needed_versions(source, headers, dynamic, strings))
    versions = tuple([names.get(index) for index in (words & _VERSYM_INDEX).tolist()])
    return versions, (words & _VERSYM_HIDDEN) != 0


def _defined_versions(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, strings: StringTable
) -> Iterator[tuple[int, bytes]]:
    """Yield number and name of each version that the library defines, its base version excepted."""
    what = "version definitions"
    data = _version_bytes(source, headers, dynamic, "DT_VERDEF", what)
    for entry, offset in _chain(source, VERSION_DEFINITION, data, 0, what):
        first = parse(source, VERSION_NAME, data, offset + entry["first"], what)
        if not entry["flags"] & _VER_FLG_BASE:
            yield entry["index"] & _VERSYM_INDEX, strings.name(first["name"])


def _needed_versions(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, strings: StringTable
) -> Iterator[tuple[int, bytes]]:
    """Yield number and name of each version that the library needs of others."""
    what = "version references"
    data = _version_bytes(source, headers, dynamic, "DT_VERNEED", what)
    left = _MAX_VERSIONS
    for entry, offset in _chain(source, VERSIONS_NEEDED, data, 0, what):
        left -= entry["count"]
        at = offset + entry["first"]
        for reference, _ in _chain(source, VERSION_NEEDED, data, at, what):
            left -= 1
            if left < 0:
                raise source.error(f"more than {_MAX_VERSIONS} version references")
            yield reference["index"] & _VERSYM_INDEX, strings.name(reference["name"])


def _chain(
    source: ByteSource, kind: np.dtype[np.void], data: bytes, offset: int, what: str
) -> Iterator[tuple[Record, int]]:
    """Yield each record of a linked list and its offset.

    The links alone say where a list ends, as for ld.so: it ignores the counts that a file states.
    """
    for _ in range(_MAX_VERSIONS if data else 0):
        entry = parse(source, kind, data, offset, what)
        yield entry, offset
        if not entry["next"]:
            return
        offset += entry["next"]
    if data:
        raise source.error(f"more than {_MAX_VERSIONS} {what}")


def _version_bytes(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, tag: str, what: str
) -> bytes:
    """Read from a version table to the end of its segment, for nothing states its length."""
    if tag not in dynamic.values:
        return b""
    _check_version_count(source, dynamic, f"{tag}NUM")
    offset, available = headers.locate(source, dynamic.values[tag], what)
    return source.read(offset, min(available, _MAX_VERSION_BYTES), what)


def _check_version_count(source: ByteSource, dynamic: DynamicTable, tag: str) -> None:
    count = dynamic.values.get(tag, 0)
    if count > _MAX_VERSIONS:
        raise source.error(f"{tag} claims {count} versions; their numbers have 15 bits")
