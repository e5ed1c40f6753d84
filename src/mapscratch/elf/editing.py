# SPDX-License-Identifier: Apache-2.0
"""The edits that make a library a converted one: tables that became longer, and who points to them.

Nothing is moved. What has to be longer is copied, with its addition, to a new segment behind
everything else, and the dynamic section, the program headers and (for readelf and debuggers, since
no loader looks at them) the section headers are told.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .convertible import PAGE_SIZE, ConvertibleLibrary, TextPages, page_up
from .headers import DF_1_NOW, DF_BIND_NOW
from .record import PT_MAPSCRATCH, RECORD
from .structures import PROGRAM
from .symbols import SYMBOL
from .tables import RELA

RESOLVER_SYMBOL = b"mapscratch_plt_entry"
RUNTIME_SONAME = b"libmapscratch.so.1"

_DT_NEEDED, _DT_STRSZ = 1, 10
_DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 5, 6, 7, 8, 23
_DT_BIND_NOW, _DT_FLAGS, _DT_FLAGS_1 = 24, 30, 0x6FFFFFFB
_DT_VERSYM, _DT_RELACOUNT = 0x6FFFFFF0, 0x6FFFFFF9
_DF_1_NODELETE = 0x8
_PT_LOAD, _PT_INTERP, _PT_PHDR, _PF_R = 1, 3, 6, 4
_RELATIVE_TYPE, _GLOB_DAT_TYPE = 8, 6
_GLOBAL_FUNCTION = 0x12
_VERSION_GLOBAL = 1
_SHT_STRTAB, _SHT_RELA, _SHT_DYNSYM, _SHT_VERSYM = 3, 4, 11, 0x6FFFFFFF

SECTION = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("address", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entry_size", "<u8"),
    ]
)
"""Elf64_Shdr."""

_PROGRAM_OFFSET, _SECTION_OFFSET, _PROGRAM_COUNT, _SECTION_COUNT = 32, 40, 56, 60
"""Where Elf64_Ehdr says where the headers are: two words of 8 bytes, two of 2."""


class Segment:
    """The segment that is appended: pieces, each at a multiple of 16 bytes.

    Attributes:
        address: its virtual address.
        offset: where it will be in the file.
    """

    def __init__(self, address: int, offset: int) -> None:
        self.address = address
        self.offset = offset
        self._data = bytearray()

    def __len__(self) -> int:
        """Bytes until now."""
        return len(self._data)

    def add(self, piece: bytes) -> int:
        """Append a piece; its virtual address."""
        address = self.next_address()
        self._data.extend(bytes(address - self.address - len(self._data)))
        self._data.extend(piece)
        return address

    def next_address(self) -> int:
        """Where the next piece will be."""
        return self.address + -(-len(self._data) // 16) * 16

    def replace(self, address: int, piece: bytes) -> None:
        """Write over a piece of the same length."""
        start = address - self.address
        self._data[start : start + len(piece)] = piece

    def content(self) -> bytes:
        """All of it."""
        return bytes(self._data)


class Editor:
    """Collects what changes in a library.

    Attributes:
        segment: what is appended.
        relocations_address: where the new DT_JMPREL is.
    """

    def __init__(self, library: ConvertibleLibrary, text: TextPages, dummy: int) -> None:
        """Start with the text, and with data grown by two words.

        Args:
            library: what is converted.
            text: its text with converted entries.
            dummy: where ld.so will write its answers; behind it is the word of the resolver, who
                finds zero there when the library is loaded.

        Raises:
            ConversionError: there is no room.
        """
        self._library = library
        self._dynamic = library.dynamic.entries.copy()
        self._programs = self._grown_programs(dummy + 16)
        self._edits: list[tuple[int, bytes]] = [
            (text.file_offset, text.converted[: library.source.size - text.file_offset])
        ]
        self.segment = self._new_segment()
        room = bytes((len(self._programs) + 2) * PROGRAM.itemsize)
        self._programs_address = self.segment.add(room)
        self._add_symbol()
        self.relocations_address = self.segment.add(library.redirected_relocations(dummy).tobytes())
        self._set(_DT_JMPREL, self.relocations_address)
        # Room for what `bind_slots` adds to the relocations.
        size = library.dynamic.values.get("DT_RELASZ", 0)
        self._relocations = self._read(_DT_RELA, size, RELA)
        self._new_relocations = self.segment.add(bytes(size + 2 * RELA.itemsize))
        self._stay_loaded()

    def bind_slots(self, record_address: int) -> None:
        """Have ld.so fill PLT0's two slots: with the record's address, and with the resolver's."""
        added = np.zeros(2, dtype=RELA)
        record_slot, resolver_slot = self._library.slots
        added[0] = (record_slot, _RELATIVE_TYPE, 0, record_address)
        added[1] = (resolver_slot, _GLOB_DAT_TYPE, self._new_symbol, 0)
        # Behind those that ld.so does first without looking at their type, and before the others,
        # since to apply these may call code (IFUNC resolvers).
        values = self._library.dynamic.values
        first = min(values.get("DT_RELACOUNT", 0), len(self._relocations))
        table = np.concatenate([self._relocations[:first], added, self._relocations[first:]])
        self.segment.replace(self._new_relocations, table.tobytes())
        self._set(_DT_RELA, self._new_relocations)
        self._set(_DT_RELASZ, table.nbytes)
        if "DT_RELACOUNT" in values:
            self._set(_DT_RELACOUNT, first + 1)

    def bind_lazily(self) -> None:
        """Don't ask for being bound when loaded."""
        self._clear(_DT_FLAGS, DF_BIND_NOW)
        self._clear(_DT_FLAGS_1, DF_1_NOW)
        # A tag can't be left out; one that says again what another says does no harm.
        strings_size = int(self._dynamic["value"][self._dynamic["tag"] == _DT_STRSZ][0])
        self._dynamic[self._dynamic["tag"] == _DT_BIND_NOW] = (_DT_STRSZ, strings_size)

    def edits(self, record_address: int) -> list[tuple[int, bytes]]:
        """Offsets in the original's part of the file and what to write there, in this order."""
        library, segment = self._library, self.segment
        programs = self._final_programs(record_address)
        segment.replace(self._programs_address, programs.tobytes())
        header = library.source.read(0, 64, "file header")
        sections = int.from_bytes(header[_SECTION_OFFSET : _SECTION_OFFSET + 8], "little")
        section_count = int.from_bytes(header[_SECTION_COUNT : _SECTION_COUNT + 2], "little")
        self._edits += self._section_edits(sections, section_count)
        self._edits.append((_PROGRAM_OFFSET, segment.offset.to_bytes(8, "little")))
        self._edits.append((_PROGRAM_COUNT, len(programs).to_bytes(2, "little")))
        self._edits.append((library.dynamic.file_offset, self._dynamic.tobytes()))
        return self._edits

    def _grown_programs(self, data_end: int) -> NDArray[np.void]:
        self._library.check_growth(data_end)
        programs = self._library.headers.programs.copy()
        writable = np.flatnonzero((programs["type"] == _PT_LOAD) & (programs["flags"] & 2 != 0))
        last = writable[-1]
        programs["memory_size"][last] = data_end - int(programs["address"][last])
        return programs

    def _new_segment(self) -> Segment:
        loads = self._programs[self._programs["type"] == _PT_LOAD]
        address = page_up(int((loads["address"] + loads["memory_size"]).max()))
        offset = page_up(self._library.source.size)
        if (self._programs["type"] == _PT_INTERP).any():
            # Linux before 5.18 tells an executable where its program headers are by their offset.
            address = offset = max(address, offset)
        self._library.check_address(address)
        return Segment(address, offset)

    def _add_symbol(self) -> None:
        """Copy strings, symbols and versions, with the resolver's name behind them."""
        values = self._library.dynamic.values
        size = values.get("DT_STRSZ", 0)
        strings = self._read(_DT_STRTAB, size, np.dtype("u1")).tobytes()
        names = RESOLVER_SYMBOL + b"\0" + RUNTIME_SONAME + b"\0"
        self._set(_DT_STRTAB, self.segment.add(strings + names))
        self._set(_DT_STRSZ, size + len(names))
        self._new_symbol = len(self._library.symbols)
        symbols = self._read(_DT_SYMTAB, self._new_symbol * SYMBOL.itemsize, SYMBOL)
        added = np.zeros(1, dtype=SYMBOL)
        added["name"], added["info"] = size, _GLOBAL_FUNCTION
        self._set(_DT_SYMTAB, self.segment.add(symbols.tobytes() + added.tobytes()))
        if "DT_VERSYM" in values:
            versions = self._read(_DT_VERSYM, 2 * self._new_symbol, np.dtype("<u2"))
            grown = np.append(versions, np.uint16(_VERSION_GLOBAL))
            self._set(_DT_VERSYM, self.segment.add(grown.astype("<u2").tobytes()))
        self._append_dynamic(_DT_NEEDED, size + len(RESOLVER_SYMBOL) + 1)

    def _stay_loaded(self) -> None:
        """Text that is dropped by a thread must not be unmapped under it, so never."""
        if (self._dynamic["tag"] == _DT_FLAGS_1).any():
            self._dynamic["value"][self._dynamic["tag"] == _DT_FLAGS_1] |= np.uint64(_DF_1_NODELETE)
        else:
            self._append_dynamic(_DT_FLAGS_1, _DF_1_NODELETE)

    def _append_dynamic(self, tag: int, value: int) -> None:
        ends = np.flatnonzero(self._dynamic["tag"] == 0)
        # One has to remain.
        if len(ends) < 2 or ends[1] != ends[0] + 1:
            raise self._library.problem("has no room for another entry in its dynamic section")
        self._dynamic[ends[0]] = (tag, value)

    def _read(self, tag: int, size: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        entries = self._library.dynamic.entries[: self._library.dynamic.used]
        found = entries["value"][entries["tag"] == tag]
        if not len(found):
            raise self._library.problem(f"has no table for tag {tag} in its dynamic section")
        library = self._library
        data = library.headers.read(library.source, int(found[-1]), size, "dynamic tables")
        return np.frombuffer(data, dtype=dtype)

    def _set(self, tag: int, value: int) -> None:
        used = self._dynamic[: self._library.dynamic.used]
        # Of a repeated tag ld.so takes the last.
        used["value"][np.flatnonzero(used["tag"] == tag)[-1:]] = value

    def _clear(self, tag: int, flag: int) -> None:
        self._dynamic["value"][self._dynamic["tag"] == tag] &= np.uint64(~flag & (2**64 - 1))

    def _final_programs(self, record_address: int) -> NDArray[np.void]:
        segment = self.segment
        load = np.zeros(1, dtype=PROGRAM)
        load[0] = (
            _PT_LOAD, _PF_R, segment.offset, segment.address, segment.address,
            len(segment), len(segment), PAGE_SIZE,
        )  # fmt: skip
        record = np.zeros(1, dtype=PROGRAM)
        record_offset = segment.offset + record_address - segment.address
        record[0] = (
            PT_MAPSCRATCH, _PF_R, record_offset, record_address, record_address,
            RECORD.itemsize, RECORD.itemsize, 16,
        )  # fmt: skip
        # Those that are loaded have to ascend.
        last = int(np.flatnonzero(self._programs["type"] == _PT_LOAD)[-1]) + 1
        programs = np.concatenate([self._programs[:last], load, self._programs[last:], record])
        itself = programs["type"] == _PT_PHDR
        programs["offset"][itself] = segment.offset
        programs["address"][itself] = programs["physical"][itself] = segment.address
        programs["file_size"][itself] = programs["memory_size"][itself] = programs.nbytes
        return programs

    def _section_edits(self, offset: int, count: int) -> list[tuple[int, bytes]]:
        source = self._library.source
        size = count * SECTION.itemsize
        if not count or offset + size > source.size:
            return []
        sections = np.frombuffer(source.read(offset, size, "section headers"), SECTION).copy()
        before = self._library.dynamic.entries[: self._library.dynamic.used]
        after = self._dynamic[: self._library.dynamic.used]
        sizes = {
            _DT_STRTAB: (_SHT_STRTAB, self._value(after, _DT_STRSZ)),
            _DT_SYMTAB: (_SHT_DYNSYM, (self._new_symbol + 1) * SYMBOL.itemsize),
            _DT_VERSYM: (_SHT_VERSYM, (self._new_symbol + 1) * 2),
            _DT_RELA: (_SHT_RELA, self._value(after, _DT_RELASZ)),
            _DT_JMPREL: (_SHT_RELA, len(self._library.relocations) * RELA.itemsize),
        }
        for tag, (kind, new_size) in sizes.items():
            address = self._value(after, tag)
            if not address:
                continue
            is_meant = (sections["address"] == self._value(before, tag)) & (
                sections["type"] == kind
            )
            sections["address"][is_meant] = address
            sections["offset"][is_meant] = self.segment.offset + address - self.segment.address
            sections["size"][is_meant] = new_size
        return [(offset, sections.tobytes())]

    @staticmethod
    def _value(entries: NDArray[np.void], tag: int) -> int:
        found = entries["value"][entries["tag"] == tag]
        return int(found[-1]) if len(found) else 0
