# SPDX-License-Identifier: Apache-2.0
"""What pyelftools finds: no program, and no text made for people.

The sizes that a library states are read by it, too: what every reader's answer is held against.
That takes the headers, the dynamic section and the hash table of symbols, but no relocation.
`mapscratch.elf` takes nothing from pyelftools.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elftools.elf.descriptions import describe_reloc_type
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from .tables import WORD, Claims, OracleError, Relocation, Symbol, Table, Tables

_RELA_SIZE = 24  # bytes
_DF_SYMBOLIC = 2
_NAMES = {
    "STT_LOOS": "IFUNC",
    "STT_GNU_IFUNC": "IFUNC",
    "STB_LOOS": "UNIQUE",
    "STB_GNU_UNIQUE": "UNIQUE",
    "SHN_UNDEF": "UND",
}
_HIDDEN = 0x8000


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ELFFile, DynamicSegment]]:
    """A library and its dynamic section for pyelftools; what that can't read is an OracleError."""
    with path.open("rb") as file:
        try:
            image = ELFFile(file)
            if image.elfclass != 64 or not image.little_endian:
                raise OracleError(f"{path}: not an ELF library of 64 bits, little-endian")
            yield image, next(_of_kind(image.iter_segments(), DynamicSegment))
        except OracleError:
            raise
        except Exception as problem:  # It has no one error for a file that is damaged.
            raise OracleError(f"{path}: pyelftools can't read it: {problem!r}") from None


def read_claims(path: Path) -> Claims:
    """Read them; an OracleError if it is no ELF library of 64 bits, little-endian, or damaged."""
    with _opened(path) as (image, dynamic):
        tags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic.iter_tags()}

        def table(tag: str, size_tag: str) -> Table:
            size = tags.get(size_tag, 0) if tag in tags else 0
            offset = dynamic.get_table_offset(tag)[1] if size else 0
            if offset is None:
                raise OracleError(f"{path}: {tag} is in no loaded segment")
            return Table(offset, size, size // _RELA_SIZE)

        relr = table("DT_RELR", "DT_RELRSZ")
        image.stream.seek(relr.offset)
        entries = struct.unpack(f"<{relr.size // WORD}Q", image.stream.read(relr.size))
        # An even entry is an address; an odd one has a bit for each word, and the lowest.
        packed = sum(entry.bit_count() - 1 if entry & 1 else 1 for entry in entries)
        return Claims(
            segments=[
                (one["p_vaddr"], one["p_offset"], one["p_filesz"])
                for one in image.iter_segments("PT_LOAD")
            ],
            symbolic="DT_SYMBOLIC" in tags or bool(tags.get("DT_FLAGS", 0) & _DF_SYMBOLIC),
            symbols=dynamic.num_symbols() if {"DT_GNU_HASH", "DT_HASH"} & tags.keys() else 0,
            relr=relr._replace(relocations=packed),
            rela=table("DT_RELA", "DT_RELASZ"),
            plt=table("DT_JMPREL", "DT_PLTRELSZ"),
        )


def by_pyelftools(path: Path, _claims: Claims) -> Tables:
    """Symbols by the section headers, relocations by the dynamic section."""
    with _opened(path) as (image, dynamic):
        found = dynamic.get_relocation_tables()
        relr, rela, plt = (
            list(found[name].iter_relocations()) if name in found else []
            for name in ("RELR", "RELA", "JMPREL")
        )
        return Tables(
            symbols=list(_symbols(image)),
            relr=[one["r_offset"] for one in relr],
            rela=[_relocation(image, one) for one in rela],
            plt=[_relocation(image, one) for one in plt],
        )


def _relocation(image: ELFFile, one: Any) -> Relocation:
    kind = describe_reloc_type(one["r_info_type"], image)
    return Relocation(one["r_offset"], kind, one["r_info_sym"], one["r_addend"])


def _symbols(image: ELFFile) -> Iterator[Symbol]:
    tables = _of_kind(image.iter_sections(), SymbolTableSection)
    table = next((one for one in tables if one["sh_type"] == "SHT_DYNSYM"), None)
    if table is None:
        raise OracleError("pyelftools finds no symbols without section headers")
    numbers = next(_of_kind(image.iter_sections(), GNUVerSymSection), None)
    names = dict(_versions(image))
    for index, one in enumerate(table.iter_symbols()):
        number = numbers.get_symbol(index)["ndx"] if numbers else 0
        # The library's own version and none at all have names instead of numbers.
        bits = number if isinstance(number, int) else 0
        yield Symbol(
            one["st_value"],
            _name(one["st_info"]["type"]),
            _name(one["st_info"]["bind"]),
            _name(one["st_other"]["visibility"]),
            _name(one["st_shndx"]),
            one.name,
            names.get(bits & ~_HIDDEN, ""),
            bool(bits & _HIDDEN),
        )


def _versions(image: ELFFile) -> Iterator[tuple[int, str]]:
    for section in _of_kind(image.iter_sections(), GNUVerDefSection):
        for entry, names in section.iter_versions():
            if entry["vd_ndx"] > 1:
                yield entry["vd_ndx"], next(names).name
    for section in _of_kind(image.iter_sections(), GNUVerNeedSection):
        for _, names in section.iter_versions():
            for one in names:
                yield one["vna_other"], one.name


def _of_kind(found: Iterator[Any], kind: type[Any]) -> Iterator[Any]:
    return (one for one in found if isinstance(one, kind))


def _name(value: object) -> str:
    """In readelf's words."""
    text = str(value)
    return _NAMES.get(text) or text.partition("_")[2] or text
