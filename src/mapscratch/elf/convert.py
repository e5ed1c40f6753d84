# SPDX-License-Identifier: Apache-2.0
"""Converting a library's PLT entries, so that they bind themselves after their page was dropped.

`convert` writes a library that can take the original's place; `overlay` makes the pages that the
loader hook of `mapscratch run` lays over the original in memory. Both do the same to the code:

- Each entry leads to the push of its number, then to PLT0 (plt.py).
- PLT0 pushes, and jumps through, the GOT slots of the first two entries, which nobody else needs
  any more: one holds the record (record.py), the other the resolver.
- In a copy of DT_JMPREL every relocation stores to one dummy word. ld.so still looks all of them up
  when the original would be bound at load, and fails as it would; and `_dl_fixup` still finds the
  symbol of each by its number.

A converted library has, at its end, one read-only segment with what became longer: program headers,
strings, symbols, versions, relocations; and the table of patched words and the record.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mapscratch import opening
from mapscratch.replacing import replacing

from .convertible import PAGE_SIZE, ConversionError, ConvertibleLibrary, TextPages
from .editing import Editor, Segment
from .headers import read_headers
from .record import PT_MAPSCRATCH, RECORD, Record, check_value, pack_record, unpack_record
from .source import open_source


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        path: the library.
        output: where the result was written; None for an overlay.
        build_id: in hexadecimal, or None.
        form: ".plt" or ".plt.sec".
        converted: PLT entries that bind themselves again.
        plt_got: PLT entries that are left alone, because they jump through a slot of .got, which is
            bound when the library is loaded.
        got_calls: functions with such a slot, called by an entry or directly.
        text_pages: pages of text that hold converted entries.
        appended_bytes: how much longer the file became; of an overlay, its size.
        bind_now: whether the original is bound when it is loaded. Unless that is changed, each
            entry is then looked up twice: at load by ld.so, and at its first call.
        lazy: whether that was changed to lazy binding.
    """

    path: Path
    output: Path | None
    build_id: str | None
    form: str
    converted: int
    plt_got: int
    got_calls: int
    text_pages: int
    appended_bytes: int
    bind_now: bool
    lazy: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        output = None if self.output is None else str(self.output)
        return asdict(self) | {"path": str(self.path), "output": output}


def overlay(path: opening.Path) -> tuple[bytes, Conversion]:
    """Convert for `mapscratch run`: text pages, then the segment, whose end is the record.

    Executables at a fixed address will do too, since nothing of the file is moved.

    Raises:
        ConversionError: the library can't be converted.
        ElfError: it is damaged, or no library for x86-64.
        OSError: it can't be read.
    """
    with open_source(path) as source:
        library = ConvertibleLibrary(source, allow_fixed=True)
        text = library.text_pages()
        dummy = library.dummy_in_padding()
        library.check_address(library.free_address())
        segment = Segment(library.free_address(), len(text.converted))
        relocations = segment.add(library.redirected_relocations(dummy).tobytes())
        _add_record(segment, library, text, relocations, dummy, text_offset=0)
        data = text.converted + segment.content()
        return data, _report(library, text, None, len(data), lazy=False)


def convert(path: opening.Path, output: opening.Path, *, lazy: bool = False) -> Conversion:
    """Write a library with converted entries, which needs libmapscratch.so.1 when it is loaded.

    The output appears whole or not at all, with the original's mode bits.

    Args:
        path: a shared library or position-independent executable for x86-64.
        output: the file to write; it may exist, but not be the original, nor a folder or a device.
            A symbolic link stays, and what it leads to is written.
        lazy: bind lazily a library that asks for being bound when it is loaded. A function that is
            missing then fails at its first call and not at load.

    Raises:
        ConversionError: the library can't be converted.
        ElfError: it is damaged, or no library for x86-64.
        OSError: it can't be read, or the output not be written.
    """
    original, target = Path(os.fsdecode(path)), Path(os.fsdecode(output))
    if target.exists() and target.samefile(original):
        raise ConversionError(f"{target}: is the library itself; write to another file")
    if target.exists() and not target.is_file():  # whose place a file must not take
        kind = "a folder" if target.is_dir() else "no ordinary file"
        raise ConversionError(f"{target}: is {kind}; name the file to write")
    with open_source(original) as source:
        library = ConvertibleLibrary(source, allow_fixed=False)
        text = library.text_pages()
        dummy = library.dummy_behind_data()
        editor = Editor(library, text, dummy)
        segment = editor.segment
        record = _add_record(
            segment, library, text, editor.relocations_address, dummy, text_offset=text.file_offset
        )
        editor.bind_slots(record.address)
        if lazy:
            editor.bind_lazily()
        edits = editor.edits(record.address)
        # In small libraries the file's last page of text holds other things too, which changed.
        final = record._replace(converted_text=check_value(_edited(text, edits)))
        segment.replace(record.address, pack_record(final))
        edits.append((segment.offset, segment.content()))
        with replacing(target.resolve(), stat.S_IMODE(original.stat().st_mode)) as file:
            with original.open("rb") as whole:
                shutil.copyfileobj(whole, file, 1 << 20)
            for offset, data in edits:
                file.seek(offset)
                file.write(data)
        appended = segment.offset + len(segment) - source.size
        return _report(library, text, target, appended, lazy=lazy and library.bind_now)


def read_record(path: opening.Path) -> Record:
    """The record of a converted library.

    Raises:
        ElfError: it is not converted, or damaged.
        OSError: it can't be read.
    """
    with open_source(path) as source:
        headers = read_headers(source)
        for program in headers.programs[headers.programs["type"] == PT_MAPSCRATCH]:
            data = source.read(int(program["offset"]), RECORD.itemsize, "record")
            try:
                return unpack_record(data)
            except ValueError as problem:
                raise source.error(str(problem)) from None
        raise source.error("is not converted")


def _add_record(
    segment: Segment,
    library: ConvertibleLibrary,
    text: TextPages,
    relocations: int,
    dummy: int,
    *,
    text_offset: int,
) -> Record:
    """Append the table of patched words and, as the end of the segment, the record."""
    words = library.plt.words
    entries = segment.add(words.astype("<u4").tobytes())
    address = segment.next_address()
    record_slot, resolver_slot = library.slots
    record = Record(
        address=address,
        entries=entries,
        relocations=relocations,
        first_page=text.first,
        end_page=text.end,
        text_offset=text_offset,
        segment_address=segment.address,
        segment_offset=segment.offset,
        segment_size=address + RECORD.itemsize - segment.address,
        record_slot=record_slot,
        resolver_slot=resolver_slot,
        dummy=dummy,
        original_text=check_value(text.original),
        converted_text=check_value(text.converted),
        original_size=library.source.size,
        relocation_count=len(words),
        converted_count=int(np.count_nonzero(words)),
    )
    segment.add(pack_record(record))
    return record


def _edited(text: TextPages, edits: list[tuple[int, bytes]]) -> bytes:
    """The text pages as they will be in the file."""
    pages = bytearray(text.converted)
    for offset, data in edits:
        start = max(offset, text.file_offset)
        end = min(offset + len(data), text.file_offset + len(pages))
        if start < end:
            piece = data[start - offset : end - offset]
            pages[start - text.file_offset : end - text.file_offset] = piece
    return bytes(pages)


def _report(
    library: ConvertibleLibrary,
    text: TextPages,
    output: Path | None,
    appended: int,
    *,
    lazy: bool,
) -> Conversion:
    return Conversion(
        path=library.source.path,
        output=output,
        build_id=library.headers.build_id,
        form=library.plt.form,
        converted=int(np.count_nonzero(library.plt.words)),
        plt_got=library.plt_got(),
        got_calls=library.got_calls(),
        text_pages=len(text.converted) // PAGE_SIZE,
        appended_bytes=appended,
        bind_now=library.bind_now,
        lazy=lazy,
    )
