# SPDX-License-Identifier: Apache-2.0
"""A library as the converter sees it: whether it can be converted, and what its text becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .headers import LoadSegment, read_dynamic, read_headers
from .kinds import RelocationKind
from .plt import ENTRY_SIZE, PltError, count_plt_got, find_plt
from .record import PT_MAPSCRATCH
from .source import ByteSource, ElfError
from .symbols import STT_FUNC, StringTable, read_symbols
from .tables import RELA, read_relocations

WORD = 8
PAGE_SIZE = 4096
"""Of x86-64, whatever machine this runs on."""
_FEWEST_ENTRIES = 2
"""PLT0 takes the slots of two."""
_DF_TEXTREL = 0x4
_C_LIBRARY = (b"libc.so.6", b"ld-linux-x86-64.so.2")


class ConversionError(ElfError):
    """The library is sound, but can't be converted; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class TextPages:
    """The pages that hold converted entries and PLT0.

    Attributes:
        first: virtual address of the first.
        end: of the end of the last.
        file_offset: where the first is in the file.
        original: their bytes as the file has them, whole pages; zeros beyond the end of the file.
        converted: their bytes after conversion.
    """

    first: int
    end: int
    file_offset: int
    original: bytes
    converted: bytes


class ConvertibleLibrary:
    """A library whose PLT entries can all be converted.

    Attributes:
        source: the file.
        headers: its headers.
        dynamic: its dynamic section.
        relocations: DT_JMPREL, shape (n,), of `RELA`.
        table: all of its relocations.
        symbols: its dynamic symbols.
        plt: its entries.
        slots: the addresses of the GOT slots that PLT0 will go through.
    """

    def __init__(self, source: ByteSource, *, allow_fixed: bool) -> None:
        """Read and check.

        Args:
            source: the file.
            allow_fixed: whether an executable at a fixed address will do.

        Raises:
            ConversionError: it can't be converted.
            ElfError: it is damaged, or no library for x86-64.
        """
        self.source = source
        self.headers = read_headers(source, allow_fixed=allow_fixed)
        self._require(self.headers.machine == "x86-64", f"is for {self.headers.machine}")
        is_converted = (self.headers.programs["type"] == PT_MAPSCRATCH).any()
        self._require(not is_converted, "is converted already")
        self.dynamic = read_dynamic(source, self.headers)
        values = self.dynamic.values
        self._require(
            bool(values.get("DT_JMPREL")) and bool(values.get("DT_PLTRELSZ")),
            "has no PLT entries to bind (built with -fno-plt, or it calls nobody)",
        )
        has_text_relocations = "DT_TEXTREL" in values or values.get("DT_FLAGS", 0) & _DF_TEXTREL
        self._require(not has_text_relocations, "has relocations in its text")
        self.table = read_relocations(source, self.headers, self.dynamic)
        self.relocations = self._read_plt_relocations()
        strings = StringTable(source, self.headers, self.dynamic)
        highest = int(self.table.symbols.max(initial=0))
        self.symbols = read_symbols(source, self.headers, self.dynamic, strings, highest)
        soname = values.get("DT_SONAME")
        self._require(
            soname is None or strings.name(soname) not in _C_LIBRARY,
            "is a part of the C library, which is left alone",
        )
        try:
            self.plt = find_plt(source, self.headers, self.relocations)
        except PltError as problem:
            raise self.problem(str(problem)) from None
        self.slots = self._free_slots()

    @property
    def bind_now(self) -> bool:
        """Whether the library asks for being bound when it is loaded."""
        return self.dynamic.bind_now

    def problem(self, text: str) -> ConversionError:
        """Make (not raise) the exception that says why this library can't be converted."""
        return ConversionError(f"{self.source.path}: {text}")

    def free_address(self) -> int:
        """The first page behind everything that is loaded."""
        last = self.headers.segments[-1]
        return page_up(last.virtual_address + last.memory_size)

    def dummy_behind_data(self) -> int:
        """Where a word can be that stays writable: behind the last writable segment."""
        segment = self._last_writable()
        address = -(-(segment.virtual_address + segment.memory_size) // WORD) * WORD
        relro = self.headers.relro
        if relro and address < (relro[0] + relro[1]) // PAGE_SIZE * PAGE_SIZE:
            raise self.problem("has no room for a word behind its data: all of it is RELRO")
        return address

    def dummy_in_padding(self) -> int:
        """The same, on a page that the segment has anyway."""
        address = self.dummy_behind_data()
        segment = self._last_writable()
        if address + WORD > page_up(segment.virtual_address + segment.memory_size):
            raise self.problem("has no room for a word on the last page of its data")
        return address

    def check_address(self, address: int) -> None:
        """Raise ConversionError if an address doesn't fit into the table of patched words."""
        self._require(address < 1 << 32, "takes more than 4 GiB of address space")

    def check_growth(self, end: int) -> None:
        """Raise ConversionError if the last writable segment can't reach to `end`."""
        for segment in self.headers.segments:
            start = segment.virtual_address // PAGE_SIZE * PAGE_SIZE
            if start > self._last_writable().virtual_address and start < page_up(end):
                raise self.problem("has no room for a word between its segments")

    def _last_writable(self) -> LoadSegment:
        writable = [segment for segment in self.headers.segments if segment.writable]
        self._require(bool(writable), "has no writable segment")
        return writable[-1]

    def text_pages(self) -> TextPages:
        """The text with all entries rewritten and PLT0 led to the free slots."""
        addresses = self.plt.addresses
        lowest = min(int(addresses[0]), self.plt.plt0)
        highest = max(int(addresses[-1]), self.plt.plt0) + ENTRY_SIZE
        first, end = lowest // PAGE_SIZE * PAGE_SIZE, page_up(highest)
        segment = self._segment_of(lowest, highest)
        offset = segment.file_offset + first - segment.virtual_address
        self._require(offset >= 0, "has text that starts before the file")
        available = min(end - first, self.source.size - offset)
        original = self.source.read(offset, available, "text").ljust(end - first, b"\0")
        text = np.frombuffer(original, dtype=np.uint8).copy()
        text[(addresses - first)[:, None] + np.arange(ENTRY_SIZE)] = self.plt.content
        for operand, slot in zip(self.plt.operands, self.slots, strict=True):
            displacement = np.array([slot - (operand + 4)], dtype="<i4")
            text[operand - first : operand - first + 4] = displacement.view(np.uint8)
        return TextPages(first, end, offset, original, text.tobytes())

    def redirected_relocations(self, dummy: int) -> NDArray[np.void]:
        """DT_JMPREL with every converted relocation storing to the dummy word."""
        result = self.relocations.copy()
        result["address"][self.plt.words != 0] = dummy
        return result

    def plt_got(self) -> int:
        """How many PLT entries jump through slots that are bound when the library is loaded."""
        is_bound = self.table.kinds == RelocationKind.GLOB_DAT
        return count_plt_got(self.source, self.headers, self.table.addresses[is_bound])

    def got_calls(self) -> int:
        """How many functions have a slot that is bound when the library is loaded."""
        is_bound = self.table.kinds == RelocationKind.GLOB_DAT
        return int(np.sum(self.symbols.types[self.table.symbols[is_bound]] == STT_FUNC))

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise self.problem(problem)

    def _read_plt_relocations(self) -> NDArray[np.void]:
        values = self.dynamic.values
        address, size = values["DT_JMPREL"], values["DT_PLTRELSZ"]
        start, length = values.get("DT_RELA", 0), values.get("DT_RELASZ", 0)
        self._require(
            not (start <= address < start + length),
            "counts its PLT relocations among the others, as old linkers did",
        )
        data = self.headers.read(self.source, address, size, "PLT relocation table")
        return np.frombuffer(data, dtype=RELA)

    def _free_slots(self) -> tuple[int, int]:
        """The GOT slots of the first two entries."""
        converted = np.flatnonzero(self.plt.words)
        self._require(
            len(converted) >= _FEWEST_ENTRIES,
            f"has only {len(converted)} PLT entry; it takes {_FEWEST_ENTRIES} to convert any",
        )
        slots = self.relocations["address"][converted]
        addresses, times = np.unique(self.table.addresses, return_counts=True)
        shared = addresses[times > 1]
        self._require(
            not np.isin(slots, shared).any(), "has two relocations for one slot of its PLT"
        )
        self._require(
            all(self._is_writable(int(slot)) for slot in slots[:_FEWEST_ENTRIES])
            and self._is_writable(self.headers.dynamic[0]),
            "has PLT slots or a dynamic section that can't be written to",
        )
        reach = np.abs(slots[:_FEWEST_ENTRIES].astype(np.int64) - self.plt.plt0)
        self._require(int(reach.max()) < 1 << 30, "has its PLT too far from its slots")
        return int(slots[0]), int(slots[1])

    def _is_writable(self, address: int) -> bool:
        return address % WORD == 0 and any(
            segment.writable
            and segment.virtual_address <= address
            and address + WORD <= segment.virtual_address + segment.memory_size
            for segment in self.headers.segments
        )

    def _segment_of(self, lowest: int, highest: int) -> LoadSegment:
        for segment in self.headers.segments:
            start = segment.virtual_address
            if start <= lowest and highest <= start + segment.file_size:
                self._require(
                    segment.file_size == segment.memory_size,
                    "has text that is not all in the file",
                )
                return segment
        raise self.problem("has its PLT entries in more than one segment")


def page_up(address: int) -> int:
    """Round up to whole pages."""
    return -(-address // PAGE_SIZE) * PAGE_SIZE
