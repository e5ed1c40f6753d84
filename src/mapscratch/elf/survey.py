# SPDX-License-Identifier: Apache-2.0
"""What relocation does to the pages of one library, and how much of it conversion takes away.

Pages are of 4 KiB and numbered by virtual address from the load base. A fixup counts on each page
that it stores to, so a word over the end of a page counts on two. Page counts are of what the
library's own relocations ask for when all of them are done, lazy ones too: ld.so adds the load base
to every lazy PLT slot when it loads the library, so that its page is dirty before the first call.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mapscratch import opening

from .convertible import ConvertibleLibrary
from .headers import PAGE, DynamicTable, Headers, read_dynamic, read_headers
from .kinds import RelocationKind
from .source import ByteSource, ElfError, open_source
from .symbols import StringTable, read_symbol_records
from .tables import RelocationTable, read_only, read_relocations

BindMode = Literal["now", "lazy", "no PLT"]

KINDS = (
    "RELATIVE",
    "RELR",
    "symbolic",
    "JUMP_SLOT",
    "IRELATIVE",
    "TLS",
    "COPY",
    "text",
    "other",
)
"""The groups that relocations are counted in. A relocation of a page that is not writable counts as
"text", whatever it asks for; `TouchedPages.kinds` has bit i for group i."""

_TEXT, _OTHER = KINDS.index("text"), KINDS.index("other")
_GROUP_OF_KIND = {
    RelocationKind.RELATIVE: "RELATIVE",
    RelocationKind.RELR: "RELR",
    RelocationKind.GLOB_DAT: "symbolic",
    RelocationKind.ABSOLUTE_64: "symbolic",
    RelocationKind.JUMP_SLOT: "JUMP_SLOT",
    RelocationKind.COPY: "COPY",
    RelocationKind.IRELATIVE: "IRELATIVE",
    RelocationKind.DTPMOD64: "TLS",
    RelocationKind.DTPOFF64: "TLS",
    RelocationKind.TPOFF64: "TLS",
    RelocationKind.TLSDESC: "TLS",
}

_PAGE_SHIFT = np.uint64(12)
_WORD = 8
_GOT_HEADER_WORDS = 3
"""Of `.got.plt` the second and third word are ld.so's own (x86-64 psABI, "Procedure Linkage")."""
# The dynamic entries whose addresses ld.so adds the load base to in memory (ADJUST_DYN_INFO in
# elf/get-dynamic-info.h of glibc): PLTGOT, HASH, STRTAB, SYMTAB, RELA, REL, JMPREL, VERSYM,
# GNU_HASH. In an executable at a fixed address it has nothing to add. It fills in DEBUG of any
# executable, and the loader hook stores to JMPREL.
_MOVED_TAGS = (3, 4, 5, 6, 7, 17, 23, 0x6FFFFFF0, 0x6FFFFEF5)
_ALWAYS_STORED_TAGS = (21, 23)

_MAX_COPIED_BYTES = 1 << 30
"""By all COPY relocations of a file: far beyond any real program."""


@dataclass(frozen=True, slots=True)
class FixupsPerPage:
    """How many fixups the pages have that have any.

    Attributes:
        median: of the pages.
        p95: so many or fewer have 95 % of the pages.
        maximum: on one page.
        mean: over the pages.
        histogram: for each power of two, in ascending order: least and most fixups of the bin, and
            its pages. Bins without pages are left out.
    """

    median: float
    p95: int
    maximum: int
    mean: float
    histogram: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TouchedPages:
    """The pages that relocation stores to; p of them. The arrays are read-only.

    Attributes:
        numbers: int64, shape (p,), virtual address relative to the load base / 4096, ascending.
        fixups: int64, shape (p,), how many are on the page.
        kinds: uint16, shape (p,), bit i set if one of them is of group i of `KINDS`.
        saved: bool, shape (p,), whether relocation leaves the page alone after conversion.
    """

    numbers: NDArray[np.int64]
    fixups: NDArray[np.int64]
    kinds: NDArray[np.uint16]
    saved: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of pages."""
        return len(self.numbers)

    def of_kind(self, kind: str) -> NDArray[np.bool_]:
        """Which pages have a fixup of a group of `KINDS`; shape (p,)."""
        result: NDArray[np.bool_] = (self.kinds & np.uint16(1 << KINDS.index(kind))) != 0
        return result


@dataclass(frozen=True, slots=True, eq=False)
class LibrarySurvey:
    """The relocations of one library by kind and by page.

    Attributes:
        path: the file, as the caller named it.
        file_size: in bytes.
        machine: "x86-64" or "aarch64".
        build_id: GNU build-id in hexadecimal, or None.
        soname: DT_SONAME, or None.
        bind_now: whether it asks for its PLT to be resolved when it is loaded.
        bind_mode: "now" or "lazy"; "no PLT" if nothing is bound by a PLT entry.
        kinds: relocations by group, for each of `KINDS`. Those that ask for nothing (NONE) are
            left out.
        fixups: their sum.
        pages: the pages that they store to.
        fixups_per_page: of these pages.
        segments: its PT_LOAD segments as (virtual address, memory size, file offset, file size),
            in bytes, by ascending address.
        convertible: whether `mapscratch run` converts its PLT entries.
        not_convertible_because: why not, or None.
        text_pages: pages of text that converted entries dirty when all of them were called; the
            kernel may drop them. 0 if it can't be converted.
        relro_pages: pages that are read-only after relocation.
        relro_dirtied_pages: of these, what relocation stores to.
        plt_entries: relocations of kind JUMP_SLOT.
        plt_pages: pages that hold their slots.
    """

    path: Path
    file_size: int
    machine: str
    build_id: str | None
    soname: str | None
    bind_now: bool
    bind_mode: BindMode
    kinds: dict[str, int]
    fixups: int
    pages: TouchedPages
    fixups_per_page: FixupsPerPage
    segments: tuple[tuple[int, int, int, int], ...]
    convertible: bool
    not_convertible_because: str | None
    text_pages: int
    relro_pages: int
    relro_dirtied_pages: int
    plt_entries: int
    plt_pages: int

    @property
    def dirtied_pages(self) -> int:
        """Pages that relocation dirties in all: at load, and when all PLT entries are bound."""
        return len(self.pages)

    @property
    def saved_pages(self) -> int:
        """Of these, what relocation leaves alone under `mapscratch run`.

        Their only fixups are PLT slots, and nothing else that ld.so stores is on them: the slots
        that PLT0 takes over, the dummy word, the head of `.got.plt`, the dynamic section. Nor is
        anything that the program may store to.
        """
        return int(np.count_nonzero(self.pages.saved))


def survey(path: opening.Path) -> LibrarySurvey:
    """Survey a shared library or a dynamically linked executable, at a fixed address or not.

    Raises:
        ElfError: the file is not a little-endian ELF64 library for x86-64 or aarch64, or it is
            truncated, damaged or made to do harm.
        OSError: the file can't be opened or read.
    """
    with open_source(path) as source:
        library, dummy, reason = _convertible(source)
        if library:
            headers, dynamic, table = library.headers, library.dynamic, library.table
        else:
            headers = read_headers(source, allow_fixed=True)
            dynamic = read_dynamic(source, headers)
            table = read_relocations(source, headers, dynamic)
        soname = _soname(source, headers, dynamic)
        groups = _groups(headers, table)
        touched = _Touched(source, headers, dynamic, table, groups)
        counts = np.bincount(groups, minlength=len(KINDS) + 1)[: len(KINDS)].tolist()
        kinds = dict(zip(KINDS, counts, strict=True))
        saved = np.zeros(len(touched.numbers), dtype=np.bool_)
        text_pages = 0
        if library:
            saved = _saved(library, dummy, touched)
            text_pages = len(np.unique(library.plt.words[library.plt.words != 0] // PAGE))
        pages = TouchedPages(
            numbers=read_only(touched.numbers),
            fixups=read_only(touched.fixups),
            kinds=read_only(touched.kinds),
            saved=read_only(saved),
        )
        relro = _relro(headers)
        slots = int(np.count_nonzero(table.kinds == RelocationKind.JUMP_SLOT))
        bind_now = dynamic.bind_now
        return LibrarySurvey(
            path=source.path,
            file_size=source.size,
            machine=headers.machine,
            build_id=headers.build_id,
            soname=soname,
            bind_now=bind_now,
            bind_mode="no PLT" if not slots else "now" if bind_now else "lazy",
            kinds=kinds,
            fixups=sum(counts),
            pages=pages,
            fixups_per_page=fixups_per_page(pages.fixups),
            segments=tuple(
                (one.virtual_address, one.memory_size, one.file_offset, one.file_size)
                for one in headers.segments
            ),
            convertible=reason is None,
            not_convertible_because=reason,
            text_pages=text_pages,
            relro_pages=relro[1] - relro[0],
            relro_dirtied_pages=int(
                np.count_nonzero((pages.numbers >= relro[0]) & (pages.numbers < relro[1]))
            ),
            plt_entries=slots,
            plt_pages=int(np.count_nonzero(pages.of_kind("JUMP_SLOT"))),
        )


def fixups_per_page(fixups: NDArray[np.int64]) -> FixupsPerPage:
    """Describe a distribution.

    Args:
        fixups: shape (p,), the fixups of each page, all of them positive.
    """
    if not len(fixups):
        return FixupsPerPage(0.0, 0, 0, 0.0, ())
    exponents = np.frexp(fixups.astype(np.float64))[1] - 1
    bins = np.bincount(exponents)
    return FixupsPerPage(
        median=float(np.median(fixups)),
        p95=int(np.percentile(fixups, 95, method="inverted_cdf")),
        maximum=int(fixups.max()),
        mean=float(fixups.mean()),
        histogram=tuple(
            (1 << exponent, (2 << exponent) - 1, int(bins[exponent]))
            for exponent in np.flatnonzero(bins).tolist()
        ),
    )


class _Touched:
    """Which pages are stored to, by what.

    Attributes:
        numbers: as in `TouchedPages`.
        fixups: the same.
        kinds: the same.
    """

    def __init__(
        self,
        source: ByteSource,
        headers: Headers,
        dynamic: DynamicTable,
        table: RelocationTable,
        groups: NDArray[np.intp],
    ) -> None:
        stores = np.flatnonzero(table.kinds != RelocationKind.NONE)
        sizes = _sizes(source, headers, dynamic, table)[stores]
        addresses = table.addresses[stores]
        first = (addresses >> _PAGE_SHIFT).astype(np.int64)
        with np.errstate(over="ignore"):
            last = ((addresses + sizes - np.uint64(1)) >> _PAGE_SHIFT).astype(np.int64)
        # A damaged file may name the very end of the address space.
        spans = np.maximum(last - first, 0) + 1
        pages = np.repeat(first, spans)
        starts = np.cumsum(spans) - spans
        pages += np.arange(len(pages)) - np.repeat(starts, spans)
        self.numbers, place = np.unique(pages, return_inverse=True)
        self.fixups = np.bincount(place, minlength=len(self.numbers))
        self.kinds = np.zeros(len(self.numbers), dtype=np.uint16)
        group_of_store = np.repeat(groups[stores], spans)
        for group in range(len(KINDS)):
            self.kinds[np.unique(place[group_of_store == group])] |= np.uint16(1 << group)


def _groups(headers: Headers, table: RelocationTable) -> NDArray[np.intp]:
    """The number in `KINDS` of each relocation; len(KINDS) for those that ask for nothing."""
    group = np.full(len(RelocationKind), _OTHER, dtype=np.intp)
    group[RelocationKind.NONE] = len(KINDS)
    for kind, name in _GROUP_OF_KIND.items():
        group[kind] = KINDS.index(name)
    result: NDArray[np.intp] = group[table.kinds]
    fixed = [segment for segment in headers.segments if not segment.writable]
    if fixed:
        starts = np.array([segment.virtual_address for segment in fixed], dtype=np.uint64)
        sizes = np.array([segment.memory_size for segment in fixed], dtype=np.uint64)
        index = np.searchsorted(starts, table.addresses, side="right") - 1
        inside = np.maximum(index, 0)
        in_text = (index >= 0) & (table.addresses - starts[inside] < sizes[inside])
        result[in_text & (result < len(KINDS))] = _TEXT
    return result


def _sizes(
    source: ByteSource, headers: Headers, dynamic: DynamicTable, table: RelocationTable
) -> NDArray[np.uint64]:
    """How many bytes each relocation stores; shape (n,), at least 1."""
    sizes = np.full(len(table.kinds), _WORD, dtype=np.uint64)
    sizes[table.kinds == RelocationKind.TLSDESC] = 2 * _WORD
    # Those of other types are of 1 to 8 bytes; the page of the first is certain.
    sizes[table.kinds == RelocationKind.OTHER] = 1
    copies = np.flatnonzero(table.kinds == RelocationKind.COPY)
    if len(copies):
        symbols = read_symbol_records(source, headers, dynamic, int(table.symbols.max()))
        copied = symbols["size"][table.symbols[copies]]
        if sum(copied.tolist()) > _MAX_COPIED_BYTES:
            raise source.error("its COPY relocations are for more than any program copies")
        sizes[copies] = np.maximum(copied, 1)
    return sizes


def _convertible(source: ByteSource) -> tuple[ConvertibleLibrary | None, int, str | None]:
    """The library as the converter sees it and the address of its dummy word; or why not.

    The steps are those of `mapscratch.elf.overlay`, so that what it declines is declined here.
    """
    try:
        library = ConvertibleLibrary(source, allow_fixed=True)
        library.text_pages()
        dummy = library.dummy_in_padding()
        library.check_address(library.free_address())
    except ElfError as problem:
        return None, 0, str(problem).removeprefix(f"{source.path}: ")
    return library, dummy, None


def _saved(library: ConvertibleLibrary, dummy: int, touched: _Touched) -> NDArray[np.bool_]:
    """Which pages relocation leaves alone after conversion."""
    is_slot = touched.kinds == np.uint16(1 << KINDS.index("JUMP_SLOT"))
    stored = np.array(_stored_by_loader(library, dummy), dtype=np.int64) // PAGE
    # A slot that has no entry of its own is bound as ever.
    kept = library.relocations["address"][library.plt.words == 0] >> _PAGE_SHIFT
    still = np.isin(touched.numbers, stored) | np.isin(touched.numbers, kept.astype(np.int64))
    result: NDArray[np.bool_] = is_slot & ~still & ~_has_data(library, touched.numbers)
    return result


def _has_data(library: ConvertibleLibrary, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pages hold more than slots that the program itself may store to, and so dirties."""
    is_plt = library.table.kinds == RelocationKind.JUMP_SLOT
    slots = np.unique(library.table.addresses[is_plt]).astype(np.int64)
    of_slots = _WORD * np.bincount(
        np.minimum(np.searchsorted(numbers, slots // PAGE), len(numbers) - 1),
        minlength=len(numbers),
    )
    writable = np.zeros(len(numbers), dtype=np.int64)
    for segment in library.headers.segments:
        if segment.writable:
            start, end = segment.virtual_address, segment.virtual_address + segment.memory_size
            first, last = np.maximum(numbers * PAGE, start), np.minimum((numbers + 1) * PAGE, end)
            writable += np.maximum(last - first, 0)
    first_fixed, end_fixed = _relro(library.headers)
    is_fixed = (numbers >= first_fixed) & (numbers < end_fixed)
    result: NDArray[np.bool_] = (writable > of_slots) & ~is_fixed
    return result


def _stored_by_loader(library: ConvertibleLibrary, dummy: int) -> list[int]:
    """Addresses that ld.so and the loader hook store to beside other relocations' words."""
    entries = library.dynamic.entries[: library.dynamic.used]
    tags = _ALWAYS_STORED_TAGS if library.headers.is_fixed else _MOVED_TAGS + _ALWAYS_STORED_TAGS
    numbers = np.flatnonzero(np.isin(entries["tag"], np.array(tags, dtype=np.int64)))
    start = library.headers.dynamic[0]
    found = [start + number * entries.itemsize + _WORD for number in numbers.tolist()]
    table = library.dynamic.values.get("DT_PLTGOT")
    if table is not None and not library.bind_now and table < 1 << 62:
        found += [table + _WORD * word for word in range(1, _GOT_HEADER_WORDS)]
    return [*found, *library.slots, dummy]


def _relro(headers: Headers) -> tuple[int, int]:
    """First page, and page after the last, that ld.so makes read-only (_dl_protect_relro)."""
    if headers.relro is None:
        return 0, 0
    start, size = headers.relro
    return start // PAGE, max(start // PAGE, (start + size) // PAGE)


def _soname(source: ByteSource, headers: Headers, dynamic: DynamicTable) -> str | None:
    offset = dynamic.values.get("DT_SONAME")
    if offset is None:
        return None
    return os.fsdecode(StringTable(source, headers, dynamic).name(offset))
