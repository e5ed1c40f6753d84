# SPDX-License-Identifier: Apache-2.0
"""What pyelftools' own walkers find: no program, and no text made for people.

`mapscratch.elf` takes nothing from pyelftools.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.elf.descriptions import describe_reloc_type
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from .claims import Claims, opened
from .tables import OracleError, Relocation, Symbol, Tables

_NAMES = {
    "STT_LOOS": "IFUNC",
    "STT_GNU_IFUNC": "IFUNC",
    "STB_LOOS": "UNIQUE",
    "STB_GNU_UNIQUE": "UNIQUE",
    "SHN_UNDEF": "UND",
}
_HIDDEN = 0x8000


def by_pyelftools(path: Path, _claims: Claims) -> Tables:
    """Symbols by the section headers, relocations by the dynamic section."""
    with opened(path) as (image, dynamic):
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
