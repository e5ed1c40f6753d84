# SPDX-License-Identifier: Apache-2.0
"""What pyelftools' own walkers find: no program, and no text made for people.

`mapscratch.elf` takes nothing from pyelftools.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.descriptions import describe_reloc_type
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from .claims import Claims
from .error import OracleError
from .tables import Relocation, Symbol, Tables

_GNU_NAMES = {
    "STT_LOOS": "IFUNC",
    "STT_GNU_IFUNC": "IFUNC",
    "STB_LOOS": "UNIQUE",
    "STB_GNU_UNIQUE": "UNIQUE",
    "SHN_UNDEF": "UND",
    "SHN_ABS": "ABS",
}
_HIDDEN = 0x8000


def by_pyelftools(path: Path, _claims: Claims) -> Tables:
    """Symbols by the section headers, relocations by the dynamic section.

    Raises:
        OracleError: pyelftools can't read it.
    """
    with path.open("rb") as file:
        try:
            image = ELFFile(file)
            return _tables(image, next(_of_kind(image.iter_segments(), DynamicSegment)))
        except (ELFError, ConstructError, StopIteration) as problem:
            raise OracleError(f"{path}: pyelftools can't read it: {problem!r}") from None


def _tables(image: ELFFile, dynamic: Any) -> Tables:
    found = dynamic.get_relocation_tables()
    return Tables(
        symbols=list(_symbols(image)),
        relr=[one["r_offset"] for one in _all(found.get("RELR"))],
        rela=[_relocation(image, one) for one in _all(found.get("RELA"))],
        plt=[_relocation(image, one) for one in _all(found.get("JMPREL"))],
    )


def _all(table: Any) -> Iterator[Any]:
    return iter(()) if table is None else table.iter_relocations()


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
            value=one["st_value"],
            type=_name(one["st_info"]["type"]),
            binding=_name(one["st_info"]["bind"]),
            visibility=_name(one["st_other"]["visibility"]),
            section=_name(one["st_shndx"]),
            name=one.name,
            version=names.get(bits & ~_HIDDEN, ""),
            hidden=bool(bits & _HIDDEN),
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
    return _GNU_NAMES.get(text) or text.partition("_")[2] or text
