# SPDX-License-Identifier: Apache-2.0
"""A second look at a converted library, by other means than the converter's.

Every entry is disassembled (capstone) and followed as a processor would; the tables are read from
the new file as a loader would read them. Nothing of the converter is used but the record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mapscratch.errors import UserError
from mapscratch.extras import how_to_install

from .convert import read_record
from .headers import DynamicTable, Headers, read_dynamic, read_headers
from .record import Record, check_value
from .source import ByteSource, ElfError, open_source
from .symbols import SYMBOL, StringTable
from .tables import RELA

_MOST_PROBLEMS = 20
_JUMP_SLOT, _GLOB_DAT, _RELATIVE = 7, 6, 8
_ENTRY_BYTES = 16
_CHANGED_TAGS = {
    *("DT_BIND_NOW", "DT_FLAGS", "DT_FLAGS_1", "DT_JMPREL", "DT_NEEDED", "DT_RELA", "DT_RELACOUNT"),
    *("DT_RELASZ", "DT_STRSZ", "DT_STRTAB", "DT_SYMTAB", "DT_VERSYM"),
}


class CapstoneMissing(UserError, RuntimeError):
    """The disassembler isn't installed."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found.

    Attributes:
        path: the converted library.
        entries: how many entries were followed.
        problems: what is wrong; at most 20 are told.
    """

    path: Path
    entries: int
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"entries": self.entries, "problems": list(self.problems)}


def check(
    converted: str | os.PathLike[str], original: str | os.PathLike[str] | None = None
) -> CheckReport:
    """Verify a converted library.

    Args:
        converted: the library.
        original: what it was made from, to see that nothing else is different; or None.

    Raises:
        CapstoneMissing: capstone isn't installed.
        ElfError: it isn't a converted library, or can't be read.
        OSError: a file can't be opened.
    """
    record = read_record(converted)
    with open_source(converted) as source:
        checker = _Checker(source, record)
        problems = [*checker.entries(), *checker.tables()]
    if original is not None:
        problems += _differences(Path(converted), Path(original), record)
    return CheckReport(Path(converted), checker.followed, tuple(problems[:_MOST_PROBLEMS]))


class _Checker:
    def __init__(self, source: ByteSource, record: Record) -> None:
        self.followed = 0
        self._source = source
        self._record = record
        self._headers = read_headers(source)
        self._dynamic = read_dynamic(source, self._headers)
        self._disassembler = _disassembler()
        self._text = self._read(record.first_page, record.end_page - record.first_page)
        count = record.relocation_count
        self._words = np.frombuffer(self._table(record.entries, 4 * count), dtype="<u4")
        table = self._table(record.relocations, RELA.itemsize * count)
        self._relocations = np.frombuffer(table, dtype=RELA)

    def entries(self) -> Iterator[str]:
        """Follow every entry as it is in the file: to its push, to PLT0, to the two slots."""
        ends = {self._follow(int(number)) for number in np.flatnonzero(self._words)}
        yield from sorted(end for end in ends if isinstance(end, str))
        places = {end for end in ends if isinstance(end, int)}
        if len(places) != 1:
            yield f"entries lead to {len(places)} places instead of one PLT0"
        for place in places:
            yield from self._plt0(place)

    def tables(self) -> Iterator[str]:
        """The relocations, the dummy word, the slots, the record itself."""
        record, relocations = self._record, self._relocations
        is_converted = self._words != 0
        if self._dynamic.values.get("DT_JMPREL") != record.relocations:
            yield "DT_JMPREL is not the table of the record"
        if self._dynamic.values.get("DT_PLTRELSZ") != relocations.nbytes:
            yield "DT_PLTRELSZ is not the size of the record's table"
        if (relocations["address"][is_converted] != record.dummy).any():
            yield "a converted relocation doesn't store to the dummy word"
        if (relocations["type"][is_converted] != _JUMP_SLOT).any():
            yield "something else than a PLT slot is converted"
        if np.count_nonzero(is_converted) != record.converted_count:
            yield "the record counts other entries than its table holds"
        if check_value(self._text) != record.converted_text:
            yield "the text is not what the record says"
        yield from self._dummy()
        yield from self._bindings()

    def _dummy(self) -> Iterator[str]:
        start, end = self._record.dummy, self._record.dummy + 16
        if not any(
            segment.writable
            and segment.virtual_address <= start
            and end <= segment.virtual_address + segment.memory_size
            for segment in self._headers.segments
        ):
            yield "the dummy word is in no writable segment"
        relro = self._headers.relro
        if relro and relro[0] <= start < (relro[0] + relro[1]) // 4096 * 4096:
            yield "the dummy word becomes read-only"

    def _bindings(self) -> Iterator[str]:
        """What ld.so will store into the two slots."""
        values = self._dynamic.values
        size = values.get("DT_RELASZ", 0)
        data = self._headers.read(self._source, values.get("DT_RELA", 0), size, "relocations")
        if size % RELA.itemsize:
            yield "DT_RELASZ is no multiple of a relocation's size"
            return
        table = np.frombuffer(data, dtype=RELA)
        for slot, kind in (
            (self._record.record_slot, _RELATIVE),
            (self._record.resolver_slot, _GLOB_DAT),
        ):
            found = table[table["address"] == slot]
            if len(found) != 1 or found["type"][0] != kind:
                yield f"slot {slot:#x} of PLT0 is not filled once, and rightly, by ld.so"
            elif kind == _RELATIVE and int(found["addend"][0]) != self._record.address:
                yield "the first slot of PLT0 isn't filled with the record"
            elif kind == _GLOB_DAT:
                yield from self._resolver_symbol(int(found["symbol"][0]))
        strings = StringTable(self._source, self._headers, self._dynamic)
        if b"libmapscratch.so.1" not in {strings.name(at) for at in self._dynamic.needed}:
            yield "libmapscratch.so.1 is not needed by it"

    def _resolver_symbol(self, number: int) -> Iterator[str]:
        address = self._dynamic.values.get("DT_SYMTAB", 0) + number * SYMBOL.itemsize
        data = self._headers.read(self._source, address, SYMBOL.itemsize, "symbol")
        symbol = np.frombuffer(data, dtype=SYMBOL)[0]
        strings = StringTable(self._source, self._headers, self._dynamic)
        if strings.name(int(symbol["name"])) != b"mapscratch_plt_entry" or symbol["section"]:
            yield "the second slot of PLT0 isn't bound to the resolver"

    def _follow(self, number: int) -> int | str:
        """The address of PLT0 by this entry, or what is wrong with it."""
        self.followed += 1
        word = int(self._words[number])
        if word % 8:
            return f"entry {number}: its word at {word:#x} is not aligned"
        at = word // _ENTRY_BYTES * _ENTRY_BYTES
        pushed: int | None = None
        # endbr64, nop, jmp, (cc is jumped over,) endbr64, push, jmp
        for _ in range(8):
            step = self._instruction(at)
            if step is None:
                return f"entry {number}: no instruction at {at:#x}"
            name, operand, size = step
            if name == "push":
                pushed = operand
            elif name in ("jmp", "bnd jmp"):
                if pushed == number:
                    return operand
                if pushed is not None:
                    return f"entry {number}: pushes {pushed}"
                at = operand
                continue
            elif name not in ("endbr64", "nop"):
                return f"entry {number}: {name} at {at:#x}"
            at += size
        return f"entry {number}: doesn't come to PLT0"

    def _instruction(self, address: int) -> tuple[str, int, int] | None:
        """Name, immediate operand and size of an instruction of the text."""
        offset = address - self._record.first_page
        if not 0 <= offset < len(self._text):
            return None
        for found in self._disassembler.disasm(self._text[offset : offset + 16], address, 1):
            operands = found.operands
            value = operands[0].imm if operands and operands[0].type == _immediate() else -1
            return found.mnemonic, value, found.size
        return None

    def _plt0(self, address: int) -> Iterator[str]:
        """Push of the first slot, jump through the second."""
        wanted = [("push", self._record.record_slot), ("jmp", self._record.resolver_slot)]
        for name, slot in wanted:
            offset = address - self._record.first_page
            code = self._text[offset : offset + 16] if offset >= 0 else b""
            found = next(self._disassembler.disasm(code, address, 1), None)
            if found is None or found.mnemonic.removeprefix("bnd ") != name:
                yield f"PLT0 has no {name} at {address:#x}"
                return
            operand = found.operands[0]
            if address + found.size + operand.mem.disp != slot:
                yield f"the {name} of PLT0 doesn't use slot {slot:#x}"
            address += found.size

    def _read(self, address: int, size: int) -> bytes:
        """Text by its address; zeros where the file ends."""
        offset = self._record.text_offset + address - self._record.first_page
        available = max(0, min(size, self._record.original_size - offset))
        return self._source.read(offset, available, "text").ljust(size, b"\0")

    def _table(self, address: int, size: int) -> bytes:
        return self._headers.read(self._source, address, size, "table of the record")


def _differences(converted: Path, original: Path, record: Record) -> Iterator[str]:
    """What is different from the original, but for what has to be."""
    with open_source(original) as before, open_source(converted) as after:
        if record.original_size != before.size:
            yield "it was made from another file"
            return
        headers = read_headers(before)
        yield from _changed_tags(
            read_dynamic(before, headers), read_dynamic(after, read_headers(after))
        )
        old = np.frombuffer(before.read(0, before.size, "file"), dtype=np.uint8)
        new = np.frombuffer(after.read(0, before.size, "file"), dtype=np.uint8)
    changed = np.flatnonzero(old != new)
    allowed = np.zeros(len(old), dtype=np.bool_)
    for start, size in _may_change(headers, record, old.tobytes()):
        allowed[start : start + size] = True
    for place in changed[~allowed[changed]][:_MOST_PROBLEMS].tolist():
        yield f"byte {place:#x} of the original has changed"


def _may_change(headers: Headers, record: Record, original: bytes) -> Iterator[tuple[int, int]]:
    """Offsets and sizes: file header, entries, dynamic section, section headers."""
    yield 32, 8
    yield 56, 2
    yield record.text_offset, record.end_page - record.first_page
    address, size = headers.dynamic
    for segment in headers.segments:
        if segment.virtual_address <= address < segment.virtual_address + segment.file_size:
            yield segment.file_offset + address - segment.virtual_address, size
    sections = int.from_bytes(original[40:48], "little")
    yield sections, 64 * int.from_bytes(original[60:62], "little")


def _changed_tags(before: DynamicTable, after: DynamicTable) -> Iterator[str]:
    for tag, value in before.values.items():
        if tag not in _CHANGED_TAGS and after.values.get(tag) != value:
            yield f"{tag} has changed"
    if len(after.needed) != len(before.needed) + 1:
        yield "not one library more is needed"


def _disassembler() -> Any:
    try:
        import capstone
    except ImportError:
        raise CapstoneMissing(
            f"to check a conversion takes the disassembler capstone: {how_to_install('check')}"
        ) from None
    result = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    result.detail = True
    return result


def _immediate() -> int:
    from capstone import x86

    return int(x86.X86_OP_IMM)


__all__ = ["CapstoneMissing", "CheckReport", "ElfError", "check"]
