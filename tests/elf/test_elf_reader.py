# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch.elf.relocations` reads, and what it says of files that are no libraries."""

from __future__ import annotations

import os
import struct
import subprocess

import numpy as np
import pytest
from elf_oracle import compile_library, link_and_check, needs_compiler, needs_readelf, supports
from hypothesis import given
from hypothesis import strategies as st

from mapscratch.elf import ElfError, RelocationKind, default_libraries, relocations
from mapscratch.elf.tables import decode_relr

RELR_OPTION = "-Wl,-z,pack-relative-relocs"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("library")
    other = compile_library(directory, "other", "int other(void) { return 1; }")
    source = """
    extern int other(void);
    static int x;
    int *pointer = &x, (*function)(void) = other;
    void *const table[2] = {&x, &pointer};
    int zeros[100];
    """
    return compile_library(
        directory, "sample", source, str(other), "-Wl,--build-id=0x0123456789abcdef", "-Wl,-z,now"
    )


@needs_compiler
def test_headers(library):
    read = relocations(library)
    assert read.path == library
    assert read.file_size == library.stat().st_size
    assert read.machine == "x86-64"
    assert read.build_id == "0123456789abcdef"
    assert read.soname == "libsample.so"
    assert read.needed == ("libother.so",)
    assert read.bind_now
    assert not read.symbolic
    data = read.segments[-1]
    assert data.writable
    assert not data.executable
    assert data.memory_size >= data.file_size + 400
    start, size = read.relro
    assert start == data.virtual_address
    assert 0 < size <= data.memory_size


@needs_compiler
def test_relocations_stand_at_their_words(library):
    read = relocations(library)
    kinds = [str(RelocationKind(kind)) for kind in read.kinds]
    assert sorted(kinds) == ["64", "64", "RELATIVE", "RELATIVE"]
    names = {read.symbol_table.names[number] for number in read.symbols.tolist() if number}
    assert names == {b"other", b"pointer"}
    segment = read.segments[-1]
    shift = segment.virtual_address - segment.file_offset
    assert (read.file_offsets + shift == read.addresses.astype(np.int64)).all()
    with pytest.raises(ValueError):
        read.addends[0] = 1


@needs_compiler
def test_lazy_binding_is_the_default(tmp_path):
    path = compile_library(tmp_path, "lazy", "int lazy;", "-Wl,-z,lazy", "-Wl,--build-id=none")
    read = relocations(path)
    assert (read.bind_now, read.build_id, read.needed, len(read)) == (False, None, (), 0)


@needs_compiler
@needs_readelf
def test_relr(tmp_path):
    if not supports(tmp_path, RELR_OPTION):
        pytest.skip("the linker does not know -z pack-relative-relocs")
    source = "static int x[9]; void *p[200] = {[0 ... 70] = &x[1], [90] = &x[3], [199] = &x[8]};"
    packed = compile_library(tmp_path, "packed", source, RELR_OPTION)
    plain = compile_library(tmp_path, "plain", source)
    (read, reference), (plan, reference_plan) = link_and_check([packed, plain])
    assert plan.kinds == {"RELR": 73}
    assert reference_plan.kinds == {"RELATIVE": 73}
    assert read.kind_name(0) == "RELR"
    distances = [np.diff(r.addresses[np.argsort(r.addresses)]) for r in (read, reference)]
    assert distances[0].tolist() == distances[1].tolist()


def test_libraries_without_section_headers_are_read(library, tmp_path):
    data = bytearray(library.read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HHH", data, 58, 0, 0, 0)
    stripped = tmp_path / "stripped.so"
    stripped.write_bytes(data)
    assert (relocations(stripped).addends == relocations(library).addends).all()


def packed(words: list[int]) -> list[int]:
    """Encode ascending word addresses the way a linker may."""
    entries: list[int] = []
    at = 0
    while at < len(words):
        entries.append(words[at])
        base = words[at] + 8
        at += 1
        while True:
            bitmap = 0
            while at < len(words) and words[at] < base + 63 * 8:
                bitmap |= 1 << ((words[at] - base) // 8 + 1)
                at += 1
            if not bitmap:
                break
            entries.append(bitmap | 1)
            base += 63 * 8
    return entries


@given(st.sets(st.integers(0, 1 << 16) | st.integers(0, 400)))
def test_relr_decoding_inverts_encoding(numbers):
    words = [number * 8 for number in sorted(numbers)]
    decoded = decode_relr(np.array(packed(words), dtype=np.uint64))
    assert decoded.tolist() == words


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_relr_decoding_follows_the_definition(entries):
    entries = [0x1000, *entries]
    expected = []
    where = 0
    for entry in entries:
        if entry % 2 == 0:
            expected.append(entry)
            where = entry + 8
        else:
            expected += [where + 8 * bit for bit in range(63) if entry >> (bit + 1) & 1]
            where += 63 * 8
    decoded = decode_relr(np.array(entries, dtype=np.uint64))
    assert decoded.tolist() == sorted(address % 2**64 for address in expected)


class TestRefusals:
    @pytest.fixture
    def changed(self, library, tmp_path):
        def change(offset: int, layout: str, value: int):
            data = bytearray(library.read_bytes())
            struct.pack_into(layout, data, offset, value)
            path = tmp_path / "changed.so"
            path.write_bytes(data)
            return path

        return change

    @pytest.mark.parametrize(
        ("offset", "layout", "value", "message"),
        [
            (0, "B", 0, "not an ELF file"),
            (4, "B", 1, "not a 64-bit ELF file"),
            (5, "B", 2, "not a little-endian ELF file"),
            (18, "<H", 3, "EM_386"),
            (18, "<H", 0x1234, "machine 4660"),
            (16, "<H", 1, "ET_REL"),
            (16, "<H", 2, "ET_EXEC"),
            (32, "<Q", 1 << 60, "program headers"),
            (54, "<H", 32, "program headers of 32 bytes"),
            (56, "<H", 0, "0 program headers"),
        ],
    )
    def test_wrong_header(self, changed, offset, layout, value, message):
        with pytest.raises(ElfError, match=message) as caught:
            relocations(changed(offset, layout, value))
        assert "changed.so" in str(caught.value)

    def test_other_files(self, tmp_path):
        text = tmp_path / "libtext.so"
        text.write_text("INPUT(libreal.so.1) and more words, so that a header would fit in here.")
        with pytest.raises(ElfError, match=r"libtext\.so: not an ELF file"):
            relocations(text)
        empty = tmp_path / "empty"
        empty.touch()
        with pytest.raises(ElfError, match="only 0 bytes"):
            relocations(str(empty))

    def test_directories_pipes_and_impossible_names(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for path in (tmp_path, pipe, "/dev/null"):
            with pytest.raises(ElfError, match="not a regular file"):
                relocations(path)
        with pytest.raises(ElfError, match=r"a\\x00b"):
            relocations("a\0b")
        with pytest.raises(FileNotFoundError):
            relocations(tmp_path / "missing.so")

    @needs_compiler
    def test_object_files(self, tmp_path):
        source = tmp_path / "a.c"
        source.write_text("int a;")
        subprocess.run(["gcc", "-c", source, "-o", tmp_path / "a.o"], check=True)
        with pytest.raises(ElfError, match="ET_REL"):
            relocations(tmp_path / "a.o")

    def test_truncated_anywhere(self, library, tmp_path):
        data = library.read_bytes()
        loaded = max(s.file_offset + s.file_size for s in relocations(library).segments)
        path = tmp_path / "short.so"
        for size in range(0, loaded, 61):
            path.write_bytes(data[:size])
            with pytest.raises(ElfError, match=r"short\.so"):
                relocations(path)


def test_default_libraries_exist_and_can_be_read():
    libraries = default_libraries()
    assert libraries
    assert libraries == default_libraries()
    assert len({path.resolve() for path in libraries}) == len(libraries)
    assert all(path.is_file() and path == path.resolve() for path in libraries)
    names = " ".join(path.name for path in libraries)
    assert "libc" in names
    assert "_multiarray_umath" in names
    assert sum(len(relocations(path)) for path in libraries) > 1000
