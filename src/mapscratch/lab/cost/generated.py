# SPDX-License-Identifier: Apache-2.0
"""Shared libraries made to time ld.so with, by assembler and linker: so many fixups of a kind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from mapscratch.errors import last_words
from mapscratch.lab.cost.timers import CannotMeasure, run_program

OWN = "own_data"
"""The start of a library's data pages. Words with its address have a RELATIVE relocation."""
_ASSEMBLE = ("as", "--64", "-o", "made.o", "-")
# What distributions set otherwise is said: ld.so is to bind lazily if it is asked to, and nothing
# but the fixups is to be there.
_LINK = ("ld", "-shared", "--hash-style=gnu", "-rpath=$ORIGIN", "made.o")
_LINK_OPTIONS = ("lazy", "norelro", "noexecstack")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is to be in a library."""

    words: Sequence[str] = ()  # symbols whose addresses its data holds: `OWN`, or those of others
    pages: int = 0  # of data, over which the words are spread evenly
    calls: Sequence[str] = ()  # what its PLT entries are for; `mapscratch_call_all` calls each once
    exports: Sequence[str] = ()  # functions that it defines; each returns at once
    needed: Sequence[str] = ()  # libraries in the same folder, by name
    packed: bool = False  # RELATIVE relocations are in the packed table (RELR)


def symbol_names(prefix: str, count: int) -> list[str]:
    """Names as long as those of a C library's functions, each another."""
    return [f"{prefix}_function_{number:06d}" for number in range(count)]


def write_library(folder: Path, name: str, contents: Contents) -> None:
    """Writes a library; CannotMeasure if assembler or linker is missing, or too old."""
    options = [*_LINK_OPTIONS, *["pack-relative-relocs"] * contents.packed]
    link = [*_LINK, *contents.needed, *(f"-z{option}" for option in options), "-o", name]
    for command, text in ((_ASSEMBLE, "\n".join(_source(contents)) + "\n"), (link, "")):
        tool = command[0]
        if not shutil.which(tool):
            raise CannotMeasure(
                f"there is no {tool} to make libraries with: apt install build-essential"
            )
        done = run_program(command, f"{tool}, which makes libraries,", cwd=folder, input=text)
        if done.stderr:  # Of what it doesn't know it warns only.
            raise CannotMeasure(f"{tool}, which makes libraries: {last_words(done.stderr)}")


def _source(contents: Contents) -> Iterator[str]:
    """The lines of a library in assembly language."""
    yield ".text"
    yield from _function("mapscratch_call_all", "sub $8, %rsp")
    yield from (f"call {name}@PLT" for name in contents.calls)
    yield from ("add $8, %rsp", "ret")
    # The time stamp counter, in which ld.so counts.
    yield from _function("mapscratch_cycles", "rdtsc", "shl $32, %rdx", "or %rdx, %rax", "ret")
    for name in contents.exports:
        yield from _function(name, "ret")
    yield from (".data", f".balign {PAGESIZE}", f"{OWN}:")
    each = -(-len(contents.words) // max(contents.pages, 1))
    for page in range(contents.pages):
        for number, word in enumerate(contents.words[page * each : (page + 1) * each]):
            yield f".org {OWN} + {page * PAGESIZE + number * PAGESIZE // 8 // each * 8}"
            yield f".quad {word}"
    yield f".org {OWN} + {contents.pages * PAGESIZE}"


def _function(name: str, *instructions: str) -> tuple[str, ...]:
    return (".balign 16", f".globl {name}", f".type {name}, @function", f"{name}:", *instructions)
