# SPDX-License-Identifier: Apache-2.0
"""What a loader would store: relocations of several libraries, resolved across them.

`link` takes libraries in scope order (the order in which ld.so would search them) and gives each a
`FixupPlan`: the words to store, as a part that every process shares and the number of the library
whose load base is added. The plan of a library is thus the same in all processes; a process only
adds its own bases.

The rules are ld.so's for a library loaded with BIND_NOW (glibc, elf/dl-lookup.c and
sysdeps/x86_64/dl-machine.h), with these differences, all towards storing less:

- IFUNCs, thread-local symbols, COPY, IRELATIVE and 32-bit relocations are counted, not applied.
- A symbol that nobody defines is counted, also a weak one (ld.so stores 0 + addend).
- A reference without a version sees default versions only (ld.so also takes a library's oldest).
- An undefined symbol with a value (the PLT entry of a non-PIC executable) defines nothing.

If two relocations hit one word, the one that ld.so would apply last wins.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .kinds import APPLIED_KINDS, BASE_RELATIVE_KINDS, RelocationKind
from .lookup import Scope
from .reader import LibraryRelocations
from .source import ElfError
from .tables import read_only

WORD_SIZE = 8
_MASK = (1 << 64) - 1

UNALIGNED = "unaligned word"
NOT_IN_FILE = "word not in the file"
OVERWRITTEN = "overwritten by a later relocation"


@dataclass(frozen=True, slots=True, eq=False)
class FixupPlan:
    """The words of one library that a loader would store; m of them.

    The arrays are read-only. `sum(kinds.values()) + sum(skipped.values())` is the number of the
    library's relocations.

    Attributes:
        path: the library's file.
        window_offset: where the part of the file to map starts: bytes, a multiple of the page size.
        window_length: its length in bytes: whole pages, unless the file ends first. 0 if m is 0.
        offsets: uint64, shape (m,), byte offsets in the window, multiples of 8, ascending, unique.
        constants: uint64, shape (m,), the part of each value that doesn't depend on load bases.
        definers: int32, shape (m,), the number (in the sequence linked) of the library whose load
            base is added to the constant; -1 for none.
        pages: int64, shape (p,), the page numbers in the window, ascending, that hold such a word.
        page_size: bytes a page.
        library_count: how many libraries were linked together, so how many bases `values` wants.
        kinds: how many words are stored, by kind ("RELATIVE", "RELR", "GLOB_DAT", "64",
            "JUMP_SLOT").
        skipped: how many relocations are not applied, by reason or by kind.
    """

    path: Path
    window_offset: int
    window_length: int
    offsets: NDArray[np.uint64]
    constants: NDArray[np.uint64]
    definers: NDArray[np.int32]
    pages: NDArray[np.int64]
    page_size: int
    library_count: int
    kinds: dict[str, int]
    skipped: dict[str, int]

    def __len__(self) -> int:
        """The number of words that are stored."""
        return len(self.offsets)

    def values(self, bases: Sequence[int]) -> NDArray[np.uint64]:
        """Compute the words for given load bases.

        Args:
            bases: the load base of each library in the sequence linked, taken modulo 2**64.

        Returns:
            shape (m,), in the order of `offsets`; constant plus base, modulo 2**64.

        Raises:
            ValueError: not one base for each library.
        """
        if len(bases) != self.library_count:
            raise ValueError(
                f"{self.library_count} libraries were linked, so {self.library_count} load bases "
                f"are needed, not {len(bases)}"
            )
        # The 0 at the end is what definer -1 picks.
        table = np.array([*(int(base) & _MASK for base in bases), 0], dtype=np.uint64)
        return self.constants + table[self.definers]


def link(
    libraries: Sequence[LibraryRelocations], *, page_size: int = mmap.PAGESIZE
) -> list[FixupPlan]:
    """Resolve the relocations of libraries across the set.

    Args:
        libraries: in scope order: the first that defines a symbol gives its value.
        page_size: bytes a page of the plans, a power of two and at least 8.

    Returns:
        one plan for each library, in the same order.

    Raises:
        ElfError: the libraries are for different machines.
        ValueError: the page size is impossible.
    """
    if page_size < WORD_SIZE or page_size & (page_size - 1):
        raise ValueError(f"a page size is a power of two of at least 8, not {page_size}")
    for library in libraries[1:]:
        if library.machine != libraries[0].machine:
            raise ElfError(
                f"{library.path}: is for {library.machine}, but {libraries[0].path} is for "
                f"{libraries[0].machine}; link libraries of one machine"
            )
    used = [_used_symbols(library) for library in libraries]
    scope = Scope(libraries, used)
    return [_plan(scope, number, used[number], page_size) for number in range(len(libraries))]


def _used_symbols(library: LibraryRelocations) -> NDArray[np.int64]:
    """The numbers of the symbols that relocations of an applied kind refer to, ascending."""
    return np.unique(library.symbols[_is_symbolic(library)]).astype(np.int64)


def _is_symbolic(library: LibraryRelocations) -> NDArray[np.bool_]:
    symbolic_kinds = [kind for kind in APPLIED_KINDS if kind not in BASE_RELATIVE_KINDS]
    return np.isin(library.kinds, np.array(symbolic_kinds, dtype=np.uint8))


def _plan(scope: Scope, number: int, used: NDArray[np.int64], page_size: int) -> FixupPlan:
    library = scope.libraries[number]
    skipped: Counter[str] = Counter()
    constants = library.addends.view(np.uint64).copy()
    definers = np.full(len(library), number, dtype=np.int32)

    applied = _skip_kinds(library, skipped)
    applied = _skip(applied, library.addresses % WORD_SIZE != 0, UNALIGNED, skipped)
    applied = _skip(applied, library.file_offsets < 0, NOT_IN_FILE, skipped)

    symbolic = np.flatnonzero(_is_symbolic(library) & applied)
    bindings = scope.bindings(number, used)
    at = np.searchsorted(used, library.symbols[symbolic])
    constants[symbolic] += bindings.values[at]
    definers[symbolic] = bindings.definers[at]
    for reason, unbound in bindings.unbound.items():
        failed = np.zeros(len(library), dtype=np.bool_)
        failed[symbolic] = unbound[at]
        applied = _skip(applied, failed, reason, skipped)

    chosen = _last_of_each_word(library, np.flatnonzero(applied), skipped)
    kinds = Counter(str(RelocationKind(kind)) for kind in library.kinds[chosen].tolist())
    offsets = library.file_offsets[chosen]
    start = int(offsets[0]) // page_size * page_size if len(offsets) else 0
    end = (int(offsets[-1]) // page_size + 1) * page_size if len(offsets) else 0
    return FixupPlan(
        path=library.path,
        window_offset=start,
        window_length=min(end, library.file_size) - start,
        offsets=read_only(offsets.astype(np.uint64) - np.uint64(start)),
        constants=read_only(constants[chosen]),
        definers=read_only(definers[chosen]),
        pages=read_only(np.unique((offsets - start) // page_size)),
        page_size=page_size,
        library_count=len(scope.libraries),
        kinds=dict(sorted(kinds.items())),
        skipped=dict(sorted(skipped.items())),
    )


def _skip_kinds(library: LibraryRelocations, skipped: Counter[str]) -> NDArray[np.bool_]:
    applied = np.isin(library.kinds, np.array(APPLIED_KINDS, dtype=np.uint8))
    others = np.flatnonzero(~applied)
    _, first, counts = np.unique(
        np.stack([library.kinds[others], library.types[others]], axis=1).astype(np.uint32),
        axis=0,
        return_index=True,
        return_counts=True,
    )
    for index, count in zip(others[first].tolist(), counts.tolist(), strict=True):
        skipped[library.kind_name(index)] += count
    return applied


def _skip(
    applied: NDArray[np.bool_],
    unfit: NDArray[np.bool_],
    reason: str,
    skipped: Counter[str],
) -> NDArray[np.bool_]:
    """Take unfit relocations out of the applied ones and count them."""
    count = int(np.count_nonzero(applied & unfit))
    if count:
        skipped[reason] += count
    return applied & ~unfit


def _last_of_each_word(
    library: LibraryRelocations, applied: NDArray[np.int64], skipped: Counter[str]
) -> NDArray[np.int64]:
    """Of relocations that store to the same word keep the last; ordered by file offset."""
    latest_first = applied[::-1]
    _, first = np.unique(library.file_offsets[latest_first], return_index=True)
    chosen: NDArray[np.int64] = latest_first[first]
    if len(chosen) < len(applied):
        skipped[OVERWRITTEN] += len(applied) - len(chosen)
    return chosen
