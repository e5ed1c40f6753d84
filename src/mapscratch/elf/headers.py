# SPDX-License-Identifier: Apache-2.0
"""File header, segments, notes and dynamic section: what a loader looks at before the tables.

Section headers are not used: a loader doesn't need them, and stripped libraries may have none.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .source import ByteSource, ElfError
from .structures import (
    DYNAMIC_ENTRY,
    ET_DYN,
    ET_EXEC,
    FILE_HEADER,
    FILE_TYPES,
    MACHINES,
    OTHER_MACHINES,
    PF_W,
    PF_X,
    PROGRAM,
    PT_DYNAMIC,
    PT_GNU_RELRO,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    TAGS,
    Record,
    parse,
    records,
)

_NOTE_HEADER = struct.Struct("<III")  # Elf64_Nhdr
_NT_GNU_BUILD_ID = 3

# Offset and address of a segment agree modulo the page size, or no kernel can map it. 4 KiB is the
# smallest page of both machines.
PAGE = 4096
_ADDRESS_LIMIT = 1 << 63

DF_BIND_NOW, DF_1_NOW = 0x8, 0x1
"""In DT_FLAGS, and in DT_FLAGS_1: all symbols are to be looked up at load."""

# Bounds far beyond any real file, so that a damaged count costs milliseconds.
_MAX_SEGMENTS = 1024
_MAX_DYNAMIC_ENTRIES = 4096
_MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """One PT_LOAD program header. All sizes and offsets are in bytes.

    Attributes:
        virtual_address: where it starts, relative to the load base.
        memory_size: how much memory it takes; beyond `file_size` it is zeros (.bss).
        file_offset: where its bytes start in the file.
        file_size: how many bytes of it the file holds.
        writable: whether PF_W is set.
        executable: whether PF_X is set.
    """

    virtual_address: int
    memory_size: int
    file_offset: int
    file_size: int
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Headers:
    """What the file header and the program headers say.

    Attributes:
        machine: "x86-64" or "aarch64".
        is_fixed: whether it is an executable that runs at one address only (ET_EXEC).
        programs: all program headers, as they stand in the file: an array of `PROGRAM`.
        segments: the PT_LOAD headers, by ascending address, not overlapping.
        relro: address and size of PT_GNU_RELRO, or None.
        dynamic: address and size of PT_DYNAMIC.
        build_id: GNU build-id in hexadecimal, or None.
    """

    machine: str
    is_fixed: bool
    programs: NDArray[np.void]
    segments: tuple[LoadSegment, ...]
    relro: tuple[int, int] | None
    dynamic: tuple[int, int]
    build_id: str | None

    def file_offsets(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where 8-byte words at virtual addresses, shape (n,), lie in the file; -1 for nowhere.

        A word that is only partly in the file (its end is in .bss) counts as nowhere.
        """
        if not self.segments:
            return np.full(len(addresses), -1, dtype=np.int64)
        starts = np.array([s.virtual_address for s in self.segments], dtype=np.uint64)
        sizes = np.array([s.file_size for s in self.segments], dtype=np.uint64)
        offsets = np.array([s.file_offset for s in self.segments], dtype=np.int64)
        index = np.searchsorted(starts, addresses, side="right") - 1
        inside = np.maximum(index, 0)
        distance = addresses - starts[inside]
        backed = (index >= 0) & (distance < sizes[inside]) & (sizes[inside] - distance >= 8)
        found = offsets[inside] + np.where(backed, distance, 0).astype(np.int64)
        return np.where(backed, found, np.int64(-1))

    def locate(self, source: ByteSource, address: int, what: str) -> tuple[int, int]:
        """Find a table by its address.

        Returns:
            its offset in the file and how many bytes of the segment follow there.

        Raises:
            ElfError: no segment's file part holds the address.
        """
        for segment in self.segments:
            distance = address - segment.virtual_address
            if 0 <= distance < segment.file_size:
                return segment.file_offset + distance, segment.file_size - distance
        raise source.error(f"the address of the {what}, {address:#x}, is in no loaded segment")

    def read(self, source: ByteSource, address: int, size: int, what: str) -> bytes:
        """Read a table of `size` bytes at a virtual address.

        Raises:
            ElfError: the table is not wholly inside one segment of the file.
        """
        offset, available = self.locate(source, address, what)
        if size > available:
            raise source.error(f"the {what} ({size} bytes at {address:#x}) exceeds its segment")
        return source.read(offset, size, what)


@dataclass(frozen=True, slots=True)
class DynamicTable:
    """The dynamic section.

    Attributes:
        values: tag ("DT_STRTAB") to value; of a repeated tag the last one, as in ld.so.
        needed: string table offsets of all DT_NEEDED, in file order.
        entries: DYNAMIC_ENTRY, shape (n,): all that fit in, also behind the first DT_NULL.
        used: how many of them stand before the first DT_NULL.
        file_offset: where the first of them is in the file, in bytes.
    """

    values: dict[str, int]
    needed: tuple[int, ...]
    entries: NDArray[np.void]
    used: int
    file_offset: int

    @property
    def bind_now(self) -> bool:
        """Whether the library asks for its PLT to be resolved when it is loaded."""
        return (
            "DT_BIND_NOW" in self.values
            or bool(self.values.get("DT_FLAGS", 0) & DF_BIND_NOW)
            or bool(self.values.get("DT_FLAGS_1", 0) & DF_1_NOW)
        )


def read_headers(source: ByteSource, *, allow_fixed: bool = False) -> Headers:
    """Read and check the file header and all program headers.

    Args:
        source: the file.
        allow_fixed: whether an executable at a fixed address (ET_EXEC) will do.

    Raises:
        ElfError: not a little-endian ELF64 shared library (or position-independent executable) for
            x86-64 or aarch64, or its segments can't be mapped.
    """
    header = _read_file_header(source, allow_fixed=allow_fixed)
    table = _program_table(source, header)
    programs = list(records(table))
    loads = tuple(_load_segment(program) for program in programs if program["type"] == PT_LOAD)
    _check_segments(source, loads)
    ranges = {program["type"]: (program["address"], program["memory_size"]) for program in programs}
    if PT_DYNAMIC not in ranges:
        raise source.error("not a shared library: it has no dynamic section")
    notes = [program for program in programs if program["type"] == PT_NOTE]
    return Headers(
        machine=MACHINES[header["machine"]],
        is_fixed=header["type"] == ET_EXEC,
        programs=table,
        segments=loads,
        relro=ranges.get(PT_GNU_RELRO),
        dynamic=ranges[PT_DYNAMIC],
        build_id=_build_id(source, notes),
    )


def read_dynamic(source: ByteSource, headers: Headers) -> DynamicTable:
    """Read the dynamic section up to DT_NULL.

    Raises:
        ElfError: it is outside the file, or has an absurd number of entries.
    """
    address, size = headers.dynamic
    count = min(size // DYNAMIC_ENTRY.itemsize, _MAX_DYNAMIC_ENTRIES)
    data = headers.read(source, address, count * DYNAMIC_ENTRY.itemsize, "dynamic section")
    entries = np.frombuffer(data, dtype=DYNAMIC_ENTRY)
    values: dict[str, int] = {}
    needed: list[int] = []
    for tag, value in entries.tolist():
        name = TAGS.get(tag, f"tag {tag:#x}")
        if name == "DT_NULL":
            break
        if name == "DT_NEEDED":
            needed.append(value)
        values[name] = value
    else:
        if count == _MAX_DYNAMIC_ENTRIES:
            raise source.error(f"the dynamic section has more than {count} entries")
    ends = np.flatnonzero(entries["tag"] == 0)
    return DynamicTable(
        values=values,
        needed=tuple(needed),
        entries=entries,
        used=int(ends[0]) if len(ends) else count,
        file_offset=headers.locate(source, address, "dynamic section")[0] if count else 0,
    )


def read_interpreter(source: ByteSource) -> str | None:
    """The dynamic linker that an executable names; None if it names none, as a static one.

    Raises:
        ElfError: as `read_headers`, but executables need no dynamic section.
    """
    header = _read_file_header(source, allow_fixed=True)
    for program in records(_program_table(source, header)):
        if program["type"] != PT_INTERP:
            continue
        data = source.read(program["offset"], program["file_size"], "interpreter's name")
        return os.fsdecode(data.rstrip(b"\0"))
    return None


def _read_file_header(source: ByteSource, *, allow_fixed: bool) -> Record:
    if source.size < FILE_HEADER.itemsize:
        raise source.error(f"not an ELF file: only {source.size} bytes long")
    data = source.read(0, FILE_HEADER.itemsize, "file header")
    if data[:4] != b"\x7fELF":
        raise source.error("not an ELF file: it does not start with the magic bytes 7f 45 4c 46")
    if data[4] != 2:
        raise source.error("not a 64-bit ELF file")
    if data[5] != 1:
        raise source.error("not a little-endian ELF file")
    header = parse(source, FILE_HEADER, data, 0, "file header")
    kind, machine = header["type"], header["machine"]
    if machine not in MACHINES:
        name = OTHER_MACHINES.get(machine, machine)
        known = " and ".join(MACHINES.values())
        raise source.error(f"made for the machine {name}; read are {known}")
    if kind != ET_DYN and not (allow_fixed and kind == ET_EXEC):
        raise source.error(
            "neither a shared library nor a position-independent executable, "
            f"but {FILE_TYPES.get(kind, kind)}"
        )
    return header


def _program_table(source: ByteSource, header: Record) -> NDArray[np.void]:
    count, size = header["programs"], header["program_size"]
    if size != PROGRAM.itemsize or not 0 < count <= _MAX_SEGMENTS:
        raise source.error(
            f"states {count} program headers of {size} bytes; "
            f"1 to {_MAX_SEGMENTS} of {PROGRAM.itemsize} bytes are possible"
        )
    data = source.read(header["program_offset"], count * size, "program headers")
    return np.frombuffer(data, dtype=PROGRAM)


def _load_segment(program: Record) -> LoadSegment:
    return LoadSegment(
        virtual_address=program["address"],
        memory_size=program["memory_size"],
        file_offset=program["offset"],
        file_size=program["file_size"],
        writable=bool(program["flags"] & PF_W),
        executable=bool(program["flags"] & PF_X),
    )


def _check_segments(source: ByteSource, segments: tuple[LoadSegment, ...]) -> None:
    end = 0
    for number, segment in enumerate(segments):
        problem = _segment_problem(segment, end, source.size)
        if problem:
            raise source.error(f"loaded segment {number} {problem}")
        end = segment.virtual_address + segment.memory_size


def _segment_problem(segment: LoadSegment, previous_end: int, file_size: int) -> str | None:
    if segment.file_offset + segment.file_size > file_size:
        return f"ends beyond the file's {file_size} bytes: the file is truncated or damaged"
    if segment.file_size > segment.memory_size:
        return "is larger in the file than in memory"
    if segment.virtual_address < previous_end:
        return "overlaps the one before or is out of order"
    if segment.virtual_address + segment.memory_size > _ADDRESS_LIMIT:
        return "ends beyond the address space"
    if (segment.virtual_address - segment.file_offset) % PAGE:
        return "can't be mapped: its address and its file offset differ within a page"
    return None


def _build_id(source: ByteSource, notes: list[Record]) -> str | None:
    """The build-id, or None: no loader asks for it, so damaged notes are as good as none."""
    for program in notes:
        size = min(program["file_size"], _MAX_NOTE_BYTES)
        try:
            data = source.read(program["offset"], size, "note segment")
        except ElfError:
            continue
        # Some linkers put notes one after the other in 4-byte steps whatever the segment says.
        steps = (8, 4) if program["align"] == 8 else (4, 8)
        found = _build_id_note(data, steps[0]) or _build_id_note(data, steps[1])
        if found:
            return found
    return None


def _build_id_note(data: bytes, alignment: int) -> str | None:
    """The build-id in a segment whose notes, and what they hold, start at multiples of 4 or 8.

    The layout is glibc's (`ELF_NOTE_NEXT_OFFSET` in elf/elf.h) and readelf's.
    """
    offset = 0
    while offset + _NOTE_HEADER.size <= len(data):
        name_size, content_size, kind = _NOTE_HEADER.unpack_from(data, offset)
        name_at = offset + _NOTE_HEADER.size
        content_at = _aligned(name_at + name_size, alignment)
        end = content_at + content_size
        if end > len(data):
            return None
        if kind == _NT_GNU_BUILD_ID and data[name_at : name_at + name_size] == b"GNU\0":
            return data[content_at:end].hex() or None
        offset = _aligned(end, alignment)
    return None


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
