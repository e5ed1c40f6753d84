# SPDX-License-Identifier: Apache-2.0
"""Asking one reader after the other, until one finds all that the file says it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .claims import Claims, read_claims
from .error import OracleError
from .readelf import by_dynamic_section, by_section_headers, installed
from .resolution import ExpectedWord, Library, Resolver, words
from .tables import Tables
from .with_pyelftools import by_pyelftools

Reader = Callable[[Path, Claims], Tables]

_READERS: dict[str, Reader] = {
    "readelf": by_dynamic_section,
    "readelf by section headers": by_section_headers,
    "pyelftools": by_pyelftools,
}
"""In the order in which they are asked."""


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a loader would store, by somebody else.

    Attributes:
        words: for each library the byte offset in its file of every word that RELATIVE, RELR,
            GLOB_DAT, 64 or JUMP_SLOT relocations store, with what is stored there.
        readers: by whom: "readelf", "readelf by section headers", "pyelftools".
        notes: which of them could not be used for what, and why: a sentence each.
    """

    words: list[dict[int, ExpectedWord]]
    readers: tuple[str, ...]
    notes: tuple[str, ...]


def second_opinion(paths: Sequence[str | os.PathLike[str]]) -> SecondOpinion:
    """Work out the words that a loader would store into libraries loaded together.

    Args:
        paths: the libraries in scope order.

    Raises:
        OracleError: readelf is missing, or no reader finds in a file what it says it has.
        OSError: a file can't be read.
    """
    installed()
    read = [_read(Path(path)) for path in paths]
    libraries = [one.library for one in read]
    resolver = Resolver(libraries)
    used = {one.reader for one in read}
    return SecondOpinion(
        words=[words(library, number, resolver) for number, library in enumerate(libraries)],
        readers=tuple(name for name in _READERS if name in used),
        notes=tuple(note for one in read for note in one.notes),
    )


def expected_words(paths: Sequence[str | os.PathLike[str]]) -> list[dict[int, ExpectedWord]]:
    """The words of `second_opinion`, whoever has read them.

    Raises:
        OracleError: readelf is missing, or no reader finds in a file what it says it has.
        OSError: a file can't be read.
    """
    return second_opinion(paths).words


@dataclass(frozen=True, slots=True)
class _Read:
    library: Library
    reader: str
    notes: tuple[str, ...]


def _read(path: Path) -> _Read:
    claims = read_claims(path)
    problems: dict[str, str] = {}
    for name, reader in _READERS.items():
        try:
            tables = reader(path, claims)
        except OracleError as error:
            problems[name] = str(error)
            continue
        problems[name] = _shortfall(tables, claims)
        if not problems[name]:
            notes = [
                f"{path.name}: {other} {why} and can't be used; {name} is."
                for other, why in problems.items()
                if why
            ]
            return _Read(Library(path, claims, tables), name, tuple(notes))
    reasons = "; ".join(f"{name} {why}" for name, why in problems.items())
    raise OracleError(
        f"{path}: nothing here can check what is made of it: {reasons}. Install another release "
        "of binutils, or leave this library out"
    )


def _shortfall(tables: Tables, claims: Claims) -> str:
    """What a reader has not found, or found too much of; empty if it has found what there is."""
    found = {
        "packed relocations": (len(tables.relr), claims.relr.relocations),
        "relocations": (len(tables.rela), claims.rela.relocations),
        "relocations of the PLT": (len(tables.plt), claims.plt.relocations),
    }
    for what, (count, stated) in found.items():
        if count != stated:
            return f"finds {count:,} of {stated:,} {what}"
    if len(tables.symbols) < claims.symbols:
        return f"finds {len(tables.symbols):,} of {claims.symbols:,} symbols"
    asked = max((one.symbol for one in (*tables.rela, *tables.plt)), default=0)
    if asked and len(tables.symbols) <= asked:
        return f"finds {len(tables.symbols):,} symbols, and relocations name number {asked:,}"
    return ""
