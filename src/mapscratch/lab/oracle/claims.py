# SPDX-License-Identifier: Apache-2.0
"""How much there is in a library, by its own headers: what a reader's answer is held against.

Only sizes are read here, and where segments lie: pyelftools reads the headers, the dynamic section
and the hash table of symbols, but no relocation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from .tables import OracleError

_WORD, _RELA_SIZE = 8, 24  # bytes
_DF_SYMBOLIC = 2


class Segment(NamedTuple):
    """A PT_LOAD header."""

    address: int
    offset: int
    file_size: int


class Table(NamedTuple):
    """A table of relocations: where it is in the file, its bytes, how many it stands for."""

    offset: int
    size: int
    relocations: int


class Claims(NamedTuple):
    """What the headers of a library say."""

    segments: Sequence[Segment]
    symbolic: bool  # its own definitions come first (DT_SYMBOLIC, DF_SYMBOLIC)
    symbols: int  # so many at least, by its hash table
    relr: Table
    rela: Table
    plt: Table

    def file_offset(self, address: int) -> int | None:
        """Where the word at an address is in the file; None if it is in no segment's file part."""
        for segment in self.segments:
            if segment.address <= address <= segment.address + segment.file_size - _WORD:
                return segment.offset + address - segment.address
        return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[ELFFile, DynamicSegment]]:
    """A library and its dynamic section for pyelftools; what that can't read is an OracleError."""
    with path.open("rb") as file:
        try:
            image = ELFFile(file)
            if image.elfclass != 64 or not image.little_endian:
                raise OracleError(f"{path}: not an ELF library of 64 bits, little-endian")
            segments = (one for one in image.iter_segments() if isinstance(one, DynamicSegment))
            yield image, next(segments)
        except OracleError:
            raise
        except Exception as problem:  # It has no one error for a file that is damaged.
            raise OracleError(f"{path}: pyelftools can't read it: {problem!r}") from None


def read_claims(path: Path) -> Claims:
    """Read them; an OracleError if it is no ELF library of 64 bits, little-endian, or damaged."""
    with opened(path) as (image, dynamic):
        tags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic.iter_tags()}

        def table(tag: str, size_tag: str) -> Table:
            size = tags.get(size_tag, 0) if tag in tags else 0
            offset = dynamic.get_table_offset(tag)[1] if size else 0
            if offset is None:
                raise OracleError(f"{path}: {tag} is in no loaded segment")
            return Table(offset, size, size // _RELA_SIZE)

        relr = table("DT_RELR", "DT_RELRSZ")
        image.stream.seek(relr.offset)
        entries = struct.unpack(f"<{relr.size // _WORD}Q", image.stream.read(relr.size))
        # An even entry is an address; an odd one has a bit for each word, and the lowest.
        packed = sum(entry.bit_count() - 1 if entry & 1 else 1 for entry in entries)
        return Claims(
            segments=[
                Segment(one["p_vaddr"], one["p_offset"], one["p_filesz"])
                for one in image.iter_segments("PT_LOAD")
            ],
            symbolic="DT_SYMBOLIC" in tags or bool(tags.get("DT_FLAGS", 0) & _DF_SYMBOLIC),
            symbols=dynamic.num_symbols() if {"DT_GNU_HASH", "DT_HASH"} & tags.keys() else 0,
            relr=relr._replace(relocations=packed),
            rela=table("DT_RELA", "DT_RELASZ"),
            plt=table("DT_JMPREL", "DT_PLTRELSZ"),
        )
