# SPDX-License-Identifier: Apache-2.0
"""A second opinion on what a loader would store, from what other readers of ELF files say.

The experiment checks every word of every page against this and not against `mapscratch.elf`, whose
words it stored. Nothing is shared with that package: binutils' readelf parses the files, the rules
of symbol resolution (those that `mapscratch.elf.link` documents) are written down a second time,
without arrays.

A reader may itself be wrong: readelf 2.44 prints of RELR, when it is asked for the dynamic section,
the heading and no line. So what a reader finds is held against the sizes that the file states, and
a reader that finds less is not used: the next one is, and the answer says so. The readers are
readelf by the dynamic section, readelf by the section headers, and pyelftools.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .readelf import by_dynamic_section, by_section_headers, installed
from .resolution import ExpectedWord, Library, Resolver, words
from .tables import Claims, OracleError, Tables
from .with_pyelftools import by_pyelftools, read_claims

__all__ = ["ExpectedWord", "OracleError", "SecondOpinion", "second_opinion"]

# In the order in which they are asked.
_READERS: dict[str, Callable[[Path, Claims], Tables]] = {
    "readelf": by_dynamic_section,
    "readelf by section headers": by_section_headers,
    "pyelftools": by_pyelftools,
}


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a loader would store, by somebody else.

    The words are those that RELATIVE, RELR, GLOB_DAT, 64 or JUMP_SLOT relocations store: for each
    library by the byte offset in its file.
    """

    words: list[dict[int, ExpectedWord]]
    readers: tuple[str, ...]  # of "readelf", "readelf by section headers", "pyelftools"
    notes: tuple[str, ...]  # which of them could not be used for what, and why: a sentence each


def second_opinion(paths: Sequence[str | os.PathLike[str]]) -> SecondOpinion:
    """Work out the words that a loader would store into libraries, given in scope order.

    That readelf is missing, or no reader finds in a file what it says it has, is an OracleError.
    """
    installed()
    notes, used, libraries = list[str](), set[str](), list[Library]()
    for path in map(Path, paths):
        claims = read_claims(path)
        tables, reader, why_not = _read(path, claims)
        libraries.append(Library(path, claims, tables))
        used.add(reader)
        notes += [f"{path.name}: {why} and can't be used; {reader} is." for why in why_not]
    resolver = Resolver(libraries)
    return SecondOpinion(
        words=[words(library, number, resolver) for number, library in enumerate(libraries)],
        readers=tuple(name for name in _READERS if name in used),
        notes=tuple(notes),
    )


def _read(path: Path, claims: Claims) -> tuple[Tables, str, list[str]]:
    """What the first reader finds that finds everything, its name, and why not those before it."""
    problems: list[str] = []
    for name, reader in _READERS.items():
        try:
            tables = reader(path, claims)
            problem = _shortfall(tables, claims)
        except OracleError as error:
            problem = str(error)
        else:
            if not problem:
                return tables, name, problems
        problems.append(f"{name} {problem}")
    raise OracleError(
        f"{path}: nothing here can check what is made of it: {'; '.join(problems)}. Install "
        "another release of binutils, or leave this library out"
    )


def _shortfall(tables: Tables, claims: Claims) -> str:
    """What a reader has not found, or found too much of; empty if it has found what there is."""
    for what, found, claimed in (
        ("packed relocations", tables.relr, claims.relr),
        ("relocations", tables.rela, claims.rela),
        ("relocations of the PLT", tables.plt, claims.plt),
    ):
        if len(found) != claimed.relocations:
            return f"finds {len(found):,} of {claimed.relocations:,} {what}"
    if len(tables.symbols) < claims.symbols:
        return f"finds {len(tables.symbols):,} of {claims.symbols:,} symbols"
    asked = max((one.symbol for one in (*tables.rela, *tables.plt)), default=0)
    if asked and len(tables.symbols) <= asked:
        return f"finds {len(tables.symbols):,} symbols, and relocations name number {asked:,}"
    return ""
