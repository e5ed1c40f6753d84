# SPDX-License-Identifier: Apache-2.0
"""Shared libraries made to measure: exactly so many fixups of a kind, on exactly so many pages.

They are written from here, so that no compiler is needed, and are what a linker would write: ELF64
for x86-64, hash tables by binutils' rules of size (bfd/elflink.c), PLT entries of the classic form
(x86-64 psABI, figure 5.2), packed relative relocations (DT_RELR, generic ABI). ld.so loads them,
readelf reads them without a warning. They are laid out in three parts, each on pages of its own:
tables, code, data. Addresses are offsets in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORDS_PER_PAGE = PAGESIZE // 8
CALL_ALL = b"mapscratch_call_all"
"""Exported by every library with code: calls each PLT entry once, in order."""
CYCLES = b"mapscratch_cycles"
"""Exported by every library with code: returns the time stamp counter, which ld.so counts in."""

_NONE = np.empty(0, dtype=np.int64)
_MASK = (1 << 64) - 1

_R_GLOB_DAT, _R_JUMP_SLOT, _R_RELATIVE = 6, 7, 8
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_R, _X, _W = 4, 1, 2
_STB_GLOBAL, _STT_FUNC = 1 << 4, 2
_PLT_ENTRY = 16
_FUNCTION = 16
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
# bfd/elflink.c, elf_buckets: the largest that is no larger than the number of symbols.
_BUCKETS = (1, 3, 17, 37, 67, 97, 131, 197, 263, 521, 1031, 2053, 4099, 8209, 16411, 32771)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What is to be in a library. Words are numbers of aligned 8-byte words in its data pages.

    Attributes:
        name: the file's name and its soname.
        pages: of data.
        relative: int64, shape (r,), words with a RELATIVE relocation, ascending.
        relr: int64, shape (q,), words with one in the packed table, ascending.
        symbolic: int64, shape (s,), words with a GLOB_DAT relocation.
        symbols: what those are to, s names.
        jump_slots: the functions that PLT entries call.
        exports: functions that it defines; each returns at once.
        needed: sonames of libraries in the same folder.
        filler: uint64, what the data's words are where nothing else is stored, repeated; None: 0.
    """

    name: str
    pages: int = 0
    relative: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    relr: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    symbolic: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    symbols: Sequence[bytes] = ()
    jump_slots: Sequence[bytes] = ()
    exports: Sequence[bytes] = ()
    needed: Sequence[str] = ()
    filler: NDArray[np.uint64] | None = None


def spread_words(pages: Iterable[int], per_page: int) -> NDArray[np.int64]:
    """The words of `per_page` fixups on each page, evenly apart, shape (pages * per_page,).

    Raises:
        ValueError: a page has no room for so many.
    """
    if not 0 <= per_page <= WORDS_PER_PAGE:
        raise ValueError(f"a page has 0 to {WORDS_PER_PAGE} words, not {per_page}")
    within = np.arange(per_page, dtype=np.int64) * WORDS_PER_PAGE // max(per_page, 1)
    starts = np.fromiter(pages, dtype=np.int64) * WORDS_PER_PAGE
    return np.asarray((starts[:, np.newaxis] + within).ravel(), dtype=np.int64)


def symbol_names(prefix: str, count: int) -> list[bytes]:
    """Names as long as those of a C library's functions, each another."""
    return [f"{prefix}_function_{number:06d}".encode() for number in range(count)]


def write_library(folder: Path, contents: Contents) -> Path:
    """Writes the library and returns its path.

    Raises:
        OSError: the file can't be written.
    """
    path = folder / contents.name
    path.write_bytes(_Image(contents).build())
    return path


def relative_words(contents: Contents) -> dict[int, int]:
    """What RELATIVE and RELR relocations store, by offset in the file, with load base 0."""
    image = _Image(contents)
    words = np.concatenate([contents.relative, contents.relr])
    offsets = image.data + 8 * words
    return dict(zip(offsets.tolist(), image.targets(words).tolist(), strict=True))


@dataclass(slots=True)
class _Section:
    name: bytes
    type: int
    flags: int
    address: int
    size: int
    link: int = 0
    info: int = 0
    alignment: int = 8
    entry: int = 0


_PROGBITS, _STRTAB, _RELA_TYPE, _DYNAMIC, _DYNSYM, _RELR_TYPE = 1, 3, 4, 6, 11, 19
_GNU_HASH = 0x6FFFFFF6
_ALLOC, _EXEC, _WRITE, _INFO_LINK = 2, 4, 1, 0x40


class _Image:
    """A file being put together: first where everything is, then what is there."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.slots = list(contents.jump_slots)
        imports = list(dict.fromkeys([*contents.symbols, *self.slots]))
        self.has_code = bool(self.slots or contents.exports)
        functions = [*contents.exports, *((CALL_ALL, CYCLES) if self.has_code else ())]
        self.exports = _by_bucket(functions)
        self.strings = _Strings([*imports, *self.exports, *_texts(contents)])
        self.imports = {name: number for number, name in enumerate(imports, 1)}
        self.relr_table = _relr_size(contents.relr)
        self._lay_out()

    def _lay_out(self) -> None:
        contents = self.contents
        headers = 64 + 56 * (5 if self.has_code else 4)
        symbols = 1 + len(self.imports) + len(self.exports)
        rela = len(contents.relative) + len(contents.symbolic)
        sizes = (
            len(_gnu_hash(self.exports, 0)),
            24 * symbols,
            -(-len(self.strings.data) // 8) * 8,
            24 * rela,
            8 * self.relr_table,
            24 * len(self.slots),
        )
        self.hash, self.dynsym, self.dynstr, self.rela, self.relr, self.jmprel, end = accumulate(
            sizes, initial=headers
        )
        self.tables_end = end
        self.code = _up(end)
        self.plt = self.code
        self.call_all = self.plt + (_PLT_ENTRY * (1 + len(self.slots)) if self.slots else 0)
        self.cycles = self.call_all + -(-(9 + 5 * len(self.slots)) // 16) * 16
        self.functions = self.cycles + _FUNCTION
        self.code_end = (
            self.functions + _FUNCTION * len(contents.exports) if self.has_code else self.code
        )
        self.dynamic = _up(self.code_end)
        # The tags depend on addresses in value only.
        self.got = self.dynamic + 16 * len(self._tags(0))
        self.got_size = 8 * (3 + len(self.slots)) if self.slots else 0
        self.data = _up(self.got + self.got_size)
        self.end = self.data + contents.pages * PAGESIZE

    def build(self) -> bytes:
        """The file's bytes."""
        image = bytearray(self.end)
        self._put(image, self.hash, _gnu_hash(self.exports, 1 + len(self.imports)))
        self._put(image, self.dynsym, self._dynsym())
        self._put(image, self.dynstr, self.strings.data)
        self._put(image, self.rela, self._rela().tobytes())
        self._put(image, self.jmprel, self._jmprel().tobytes())
        if self.has_code:
            self._put(image, self.plt, self._code())
        tags = b"".join(struct.pack("<qQ", *tag) for tag in self._tags(self.got))
        self._put(image, self.dynamic, tags)
        if self.slots:
            self._put(image, self.got, self._got())
        self._put(image, self.data, self._data().tobytes())
        self._put(image, self.relr, _relr(self.contents.relr, self.data).tobytes())
        sections, section_data = self._sections()
        self._put(image, 0, self._headers(len(sections)))
        return bytes(image) + section_data

    @staticmethod
    def _put(image: bytearray, at: int, data: bytes) -> None:
        image[at : at + len(data)] = data

    def _headers(self, sections: int) -> bytes:
        writable_end = self.end if self.contents.pages else self.got + self.got_size
        segments = [
            (_PT_LOAD, _R, 0, self.tables_end, PAGESIZE),
            (_PT_LOAD, _R | _W, self.dynamic, writable_end, PAGESIZE),
            (_PT_DYNAMIC, _R | _W, self.dynamic, self.got, 8),
            # Without it ld.so makes the stack executable.
            (_PT_GNU_STACK, _R | _W, 0, 0, 16),
        ]
        if self.has_code:
            segments.insert(1, (_PT_LOAD, _R | _X, self.code, self.code_end, PAGESIZE))
        names = sections - 1
        header = struct.pack(
            "<4sBBBB8xHHIQQQIHHHHHH",
            b"\x7fELF", 2, 1, 1, 0,  # 64-bit, little-endian, version 1, System V
            3, 62, 1,  # shared object, x86-64, version 1
            0, 64, self.section_headers,
            0, 64, 56, len(segments), 64, sections, names,
        )  # fmt: skip
        return header + b"".join(
            struct.pack("<IIQQQQQQ", kind, flags, at, at, at, end - at, end - at, alignment)
            for kind, flags, at, end, alignment in segments
        )

    def _tags(self, got: int) -> list[tuple[int, int]]:
        """The dynamic table; how many there are doesn't depend on addresses."""
        contents, strings = self.contents, self.strings
        tags = [(1, strings.at[name.encode()]) for name in contents.needed]
        tags += [(14, strings.at[contents.name.encode()])]
        if contents.needed:
            tags += [(29, strings.at[b"$ORIGIN"])]
        tags += [(0x6FFFFEF5, self.hash), (5, self.dynstr), (6, self.dynsym)]
        tags += [(10, len(strings.data)), (11, 24)]
        if self.slots:
            tags += [(3, got), (2, 24 * len(self.slots)), (20, 7), (23, self.jmprel)]
        rela = len(contents.relative) + len(contents.symbolic)
        if rela:
            tags += [(7, self.rela), (8, 24 * rela), (9, 24)]
        if len(contents.relative):
            tags += [(0x6FFFFFF9, len(contents.relative))]
        if self.relr_table:
            tags += [(36, self.relr), (35, 8 * self.relr_table), (37, 8)]
        return [*tags, (0, 0)]

    def _dynsym(self) -> bytes:
        strings = self.strings
        imported = [(name, _STB_GLOBAL, 0, 0, 0) for name in self.imports]
        addresses = {name: self._function(at) for at, name in enumerate(self.contents.exports)}
        addresses |= {CALL_ALL: self.call_all, CYCLES: self.cycles}
        text = self._section_number(b".text")
        kind = _STB_GLOBAL | _STT_FUNC
        exported = [(name, kind, text, addresses[name], _FUNCTION) for name in self.exports]
        return bytes(24) + b"".join(
            struct.pack("<IBBHQQ", strings.at[name], kind, 0, section, address, size)
            for name, kind, section, address, size in imported + exported
        )

    def _function(self, number: int) -> int:
        return self.functions + _FUNCTION * number

    def _rela(self) -> NDArray[np.void]:
        contents = self.contents
        relative = np.zeros(len(contents.relative), dtype=_RELA)
        relative["offset"] = self.data + 8 * contents.relative
        relative["info"] = _R_RELATIVE
        relative["addend"] = self.targets(contents.relative)
        symbolic = np.zeros(len(contents.symbolic), dtype=_RELA)
        symbolic["offset"] = self.data + 8 * contents.symbolic
        numbers = np.array([self.imports[name] for name in contents.symbols], dtype=np.uint64)
        symbolic["info"] = (numbers << np.uint64(32)) | np.uint64(_R_GLOB_DAT)
        return np.concatenate([relative, symbolic])

    def _jmprel(self) -> NDArray[np.void]:
        table = np.zeros(len(self.slots), dtype=_RELA)
        table["offset"] = self.got + 8 * (3 + np.arange(len(self.slots)))
        numbers = np.array([self.imports[name] for name in self.slots], dtype=np.uint64)
        table["info"] = (numbers << np.uint64(32)) | np.uint64(_R_JUMP_SLOT)
        return table

    def targets(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """What relative words point to: some place in the library, as pointers in tables do."""
        spread = (words.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        return (spread % np.uint64(max(self.end, 1)) & np.uint64(_MASK - 7)).astype(np.int64)

    def _code(self) -> bytes:
        slots = len(self.slots)
        code = bytearray()
        if slots:
            # push GOT[1]; jmp *GOT[2]; a no-op of four bytes
            code += b"\xff\x35" + struct.pack("<i", self.got + 8 - (self.plt + 6))
            code += b"\xff\x25" + struct.pack("<i", self.got + 16 - (self.plt + 12))
            code += b"\x0f\x1f\x40\x00"
            for number in range(slots):
                at = self.plt + _PLT_ENTRY * (1 + number)
                # jmp *GOT[3 + number]; push number; jmp to the first entry
                code += b"\xff\x25" + struct.pack("<i", self._slot(number) - (at + 6))
                code += b"\x68" + struct.pack("<i", number)
                code += b"\xe9" + struct.pack("<i", self.plt - (at + 16))
        code += b"\x48\x83\xec\x08"  # sub rsp, 8: the stack is aligned at calls
        for number in range(slots):
            at = self.call_all + 4 + 5 * number
            target = self.plt + _PLT_ENTRY * (1 + number)
            code += b"\xe8" + struct.pack("<i", target - (at + 5))
        code += b"\x48\x83\xc4\x08\xc3"  # add rsp, 8; ret
        code = code.ljust(self.cycles - self.plt, b"\xcc")
        code += b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl rdx, 32; or rax, rdx; ret
        code = code.ljust(self.functions - self.plt, b"\xcc")
        return bytes(code) + b"\xc3".ljust(_FUNCTION, b"\xcc") * len(self.contents.exports)

    def _slot(self, number: int) -> int:
        return self.got + 8 * (3 + number)

    def _got(self) -> bytes:
        # Until it is bound, a slot leads back into its PLT entry, behind the jump.
        entries = self.plt + _PLT_ENTRY * (1 + np.arange(len(self.slots), dtype=np.int64)) + 6
        return struct.pack("<QQQ", self.dynamic, 0, 0) + entries.tobytes()

    def _data(self) -> NDArray[np.uint64]:
        contents = self.contents
        count = contents.pages * WORDS_PER_PAGE
        if contents.filler is None:
            words = np.zeros(count, dtype=np.uint64)
        else:
            words = np.resize(contents.filler, count)
        words[contents.relative] = 0
        words[contents.symbolic] = 0
        words[contents.relr] = self.targets(contents.relr).astype(np.uint64)
        return words

    def _section_list(self) -> list[_Section]:
        contents = self.contents
        dynsym_size = 24 * (1 + len(self.imports) + len(self.exports))
        rela_size = 24 * (len(contents.relative) + len(contents.symbolic))
        plt_size = self.call_all - self.plt
        relr_size, slots_size = 8 * self.relr_table, 24 * len(self.slots)
        sections = [
            _Section(b"", 0, 0, 0, 0, alignment=0),
            _Section(b".gnu.hash", _GNU_HASH, _ALLOC, self.hash, self.dynsym - self.hash, link=2),
            _Section(b".dynsym", _DYNSYM, _ALLOC, self.dynsym, dynsym_size, 3, 1, entry=24),
            _Section(b".dynstr", _STRTAB, _ALLOC, self.dynstr, len(self.strings.data), alignment=1),
            _Section(b".rela.dyn", _RELA_TYPE, _ALLOC, self.rela, rela_size, 2, entry=24),
            _Section(b".relr.dyn", _RELR_TYPE, _ALLOC, self.relr, relr_size, entry=8),
            _Section(b".rela.plt", _RELA_TYPE, _ALLOC, self.jmprel, slots_size, 2, entry=24),
            _Section(b".plt", _PROGBITS, _ALLOC | _EXEC, self.plt, plt_size, alignment=16),
            _Section(
                b".text",
                _PROGBITS,
                _ALLOC | _EXEC,
                self.call_all,
                self.code_end - self.call_all,
                alignment=16,
            ),
            _Section(
                b".dynamic",
                _DYNAMIC,
                _ALLOC | _WRITE,
                self.dynamic,
                self.got - self.dynamic,
                3,
                entry=16,
            ),
            _Section(b".got.plt", _PROGBITS, _ALLOC | _WRITE, self.got, self.got_size, entry=8),
            _Section(
                b".data",
                _PROGBITS,
                _ALLOC | _WRITE,
                self.data,
                self.end - self.data,
                alignment=PAGESIZE,
            ),
        ]
        kept = [section for section in sections if section.size > 0 or not section.name]
        for number, section in enumerate(kept):
            if section.name == b".got.plt":
                for other in kept:
                    if other.name == b".rela.plt":
                        other.flags |= _INFO_LINK
                        other.info = number
        return kept

    def _section_number(self, name: bytes) -> int:
        names = [section.name for section in self._section_list()]
        return names.index(name) if name in names else 0

    @property
    def section_headers(self) -> int:
        """Where in the file they are: behind everything that is loaded."""
        return -(-self.end // 8) * 8

    def _sections(self) -> tuple[list[_Section], bytes]:
        sections = self._section_list()
        names = _Strings([*(section.name for section in sections), b".shstrtab"])
        at = self.section_headers + 64 * (len(sections) + 1)
        sections.append(_Section(b".shstrtab", _STRTAB, 0, at, len(names.data), alignment=1))
        table = b"".join(
            struct.pack(
                "<IIQQQQIIQQ",
                names.at[one.name],
                one.type,
                one.flags,
                one.address if one.flags & _ALLOC else 0,
                one.address,
                one.size,
                one.link,
                one.info,
                one.alignment,
                one.entry,
            )
            for one in sections
        )
        return sections, bytes(self.section_headers - self.end) + table + names.data


class _Strings:
    """A string table, and where in it each string is."""

    def __init__(self, strings: Iterable[bytes]) -> None:
        data = bytearray(b"\0")
        self.at = {b"": 0}
        for string in strings:
            if string not in self.at:
                self.at[string] = len(data)
                data += string + b"\0"
        self.data = bytes(data)


def _texts(contents: Contents) -> list[bytes]:
    return [name.encode() for name in (contents.name, *contents.needed)] + [b"$ORIGIN"]


def _up(address: int) -> int:
    """The next start of a page."""
    return -(-address // PAGESIZE) * PAGESIZE


def _hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _bucket_count(symbols: int) -> int:
    return max(count for count in _BUCKETS if count <= max(symbols, 1))


def _by_bucket(names: Sequence[bytes]) -> list[bytes]:
    """Exported symbols stand in the order of the buckets that they are found by."""
    buckets = _bucket_count(len(names))
    return sorted(names, key=lambda name: _hash(name) % buckets)


def _gnu_hash(names: Sequence[bytes], first: int) -> bytes:
    """The hash table of symbols in the order of `_by_bucket`; the first has number `first`.

    The size of the filter is binutils' (bfd/elflink.c, bfd_elf_size_dynsym_hash_dynstr).
    """
    log = max(len(names) - 1, 0).bit_length() + 1
    if log < 3:
        log = 6
    else:
        log += 3 if (1 << (log - 2)) & len(names) else 2
        log = max(log, 6)
    filter_words = 1 << (log - 6)
    bloom = [0] * filter_words
    count = _bucket_count(len(names))
    buckets = [0] * count
    hashes = [_hash(name) for name in names]
    chains = []
    for number, value in enumerate(hashes):
        bloom[(value >> 6) % filter_words] |= 1 << (value & 63) | 1 << (value >> log & 63)
        bucket = value % count
        buckets[bucket] = buckets[bucket] or first + number
        is_last = number + 1 == len(hashes) or hashes[number + 1] % count != bucket
        chains.append(value & ~1 | is_last)
    # Without symbols the table still names a first one, which isn't there.
    table = struct.pack("<IIII", count, first, filter_words, log)
    table += struct.pack(f"<{filter_words}Q", *bloom)
    table += struct.pack(f"<{count + len(chains)}I", *buckets, *chains)
    return table.ljust(-(-len(table) // 8) * 8, b"\0")


def _relr_size(words: NDArray[np.int64]) -> int:
    return len(_relr(words, 0))


def _relr(words: NDArray[np.int64], base: int) -> NDArray[np.uint64]:
    """The packed table: an address, then bitmaps of the 63 words that follow each."""
    table: list[int] = []
    at = 0
    while at < len(words):
        table.append(base + 8 * int(words[at]))
        start = int(words[at]) + 1
        at += 1
        while at < len(words) and int(words[at]) < start + 63:
            end = int(np.searchsorted(words, start + 63))
            bits = 1
            for word in words[at:end].tolist():
                bits |= 2 << (word - start)
            table.append(bits)
            at = end
            start += 63
    return np.array(table, dtype=np.uint64)
