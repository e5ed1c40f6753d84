# SPDX-License-Identifier: Apache-2.0
"""The record that a conversion leaves for the resolver; `struct record` of runtime/record.h."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PT_MAPSCRATCH = 0x6EF51004
"""The type of the program header that covers the record in a converted library."""
MAGIC = b"MAPSCR1\0"

RECORD = np.dtype(
    [
        ("magic", "S8"),
        ("address", "<u8"),
        ("entries", "<u8"),
        ("relocations", "<u8"),
        ("first_page", "<u8"),
        ("end_page", "<u8"),
        ("text_offset", "<u8"),
        ("segment_address", "<u8"),
        ("segment_offset", "<u8"),
        ("segment_size", "<u8"),
        ("record_slot", "<u8"),
        ("resolver_slot", "<u8"),
        ("dummy", "<u8"),
        ("original_text", "<u8"),
        ("converted_text", "<u8"),
        ("original_size", "<u8"),
        ("relocation_count", "<u4"),
        ("converted_count", "<u4"),
        ("for_the_process", "<u8", (3,)),
    ]
)
"""160 bytes. The last field is zero in files."""

_MULTIPLIER = 0x9E3779B97F4A7C15


class Record(NamedTuple):
    """The fields of a record. Addresses are virtual addresses of the library, sizes are in bytes.

    Attributes:
        address: of the record itself.
        entries: of the table of patched words, 4 bytes for each relocation.
        relocations: of the table that DT_JMPREL points to.
        first_page: the first text page with converted entries.
        end_page: the end of the last one.
        text_offset: where first_page is in the converted file.
        segment_address: of what was appended.
        segment_offset: where that is in the converted file.
        segment_size: its size.
        record_slot: the GOT slot that PLT0 pushes.
        resolver_slot: the GOT slot that PLT0 jumps through.
        dummy: a word that ld.so may write its answers to.
        original_text: `check_value` of the text pages before conversion.
        converted_text: and after.
        original_size: of the file before conversion.
        relocation_count: entries of the table of relocations.
        converted_count: how many of them are converted.
    """

    address: int
    entries: int
    relocations: int
    first_page: int
    end_page: int
    text_offset: int
    segment_address: int
    segment_offset: int
    segment_size: int
    record_slot: int
    resolver_slot: int
    dummy: int
    original_text: int
    converted_text: int
    original_size: int
    relocation_count: int
    converted_count: int


def pack_record(record: Record) -> bytes:
    """The record as it stands in a file."""
    packed = np.zeros(1, dtype=RECORD)
    packed["magic"] = MAGIC
    for name, value in record._asdict().items():
        packed[name] = value
    return packed.tobytes()


def unpack_record(data: bytes) -> Record:
    """The opposite.

    Raises:
        ValueError: these bytes are no record.
    """
    if len(data) != RECORD.itemsize or not data.startswith(MAGIC):
        raise ValueError("not a record of a converted library")
    values = np.frombuffer(data, dtype=RECORD)[0]
    return Record(*(int(values[name]) for name in Record._fields))


def check_value(pages: bytes) -> int:
    """A polynomial over the 64-bit words of whole pages, modulo 2**64.

    The resolver and the loader hook compute it too, to see that a file and memory hold the same. It
    guards against mistakes, not against malice.
    """
    words = np.frombuffer(pages, dtype="<u8")
    powers = np.full(len(words), _MULTIPLIER, dtype=np.uint64)
    powers[:1] = 1
    # The first word has the highest power, as when Horner's rule is followed.
    with np.errstate(over="ignore"):
        return int((words * np.multiply.accumulate(powers)[::-1]).sum(dtype=np.uint64))
