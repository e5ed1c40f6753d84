# SPDX-License-Identifier: Apache-2.0
"""What ld.so does not ask for decides nothing: each of these files loads, and so it can be read."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from elf_oracle import compile_library, link_and_check, needs_compiler, needs_readelf

from mapscratch.elf import convert, relocations, survey

pytestmark = [needs_compiler, needs_readelf]

SOURCE = """
static int x; extern int own(void); int own(void) { return 7; }
void *table[40] = {[0 ... 9] = &x, [20] = own};
"""
PT_NOTE, PT_GNU_PROPERTY = 4, 0x6474E553
BUILD_ID = "00112233445566778899aabbccddeeff01234567"

DT_HASH, DT_VERDEFNUM = 4, 0x6FFFFFFD


def loads(path: Path) -> bool:
    """Whether the loader of this machine takes it, in a process of its own."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1], mode=2)"
    return subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def note(alignment: int, owner: str, content: int) -> str:
    """A note in assembly: so many bytes of content, its parts aligned."""
    pad = f'".balign {alignment}\\n"'
    size = len(owner) + 1
    return (
        f'asm(".long {size}, {content}, 99\\n.asciz \\"{owner}\\"\\n" {pad}'
        f' ".zero {content}\\n" {pad});\n'
    )


def notes(alignment: int, *contents: int) -> str:
    """Several in a section of their own."""
    begin = f'asm(".pushsection .note.some, \\"a\\", @note\\n.balign {alignment}");\n'
    return (
        begin + "".join(note(alignment, "ABC", each) for each in contents) + 'asm(".popsection");'
    )


@pytest.mark.parametrize("alignment", [4, 8])
@pytest.mark.parametrize("contents", [(4, 12, 8), (4,), (20, 20, 20), (0, 0, 0), (8, 3, 5)])
def test_notes_of_any_length_and_alignment(tmp_path, alignment, contents):
    source = SOURCE + notes(alignment, *contents)
    path = compile_library(tmp_path, "noted", source, f"-Wl,--build-id=0x{BUILD_ID}")
    assert loads(path)
    libraries, _ = link_and_check([path])
    assert libraries[0].build_id == BUILD_ID
    assert survey(path).build_id == BUILD_ID


def test_a_build_id_behind_other_notes_of_its_segment(tmp_path):
    """One segment, 8-aligned, that holds the linker's build-id in 4-byte steps."""
    path = compile_library(tmp_path, "noted", SOURCE, f"-Wl,--build-id=0x{BUILD_ID}")
    for at, _, offset, size in program_headers(data := bytearray(path.read_bytes()), PT_NOTE):
        if bytes.fromhex(BUILD_ID) in data[offset : offset + size]:
            struct.pack_into("<Q", data, at + 48, 8)
    path.write_bytes(data)
    assert loads(path)
    assert relocations(path).build_id == BUILD_ID


@pytest.mark.parametrize("alignment", [0, 1, 2, 3, 16, 4096, 2**63])
def test_any_alignment_of_a_note_segment(tmp_path, alignment):
    path = compile_library(tmp_path, "noted", SOURCE, f"-Wl,--build-id=0x{BUILD_ID}")
    change(path, PT_NOTE, lambda data, at, offset, size: put(data, at + 48, alignment))
    assert loads(path)
    assert relocations(path).build_id == BUILD_ID


DAMAGES = {
    "a name longer than the segment": lambda data, at, offset, size: put4(data, offset, 1 << 31),
    "content longer than the segment": lambda data, at, offset, size: put4(data, offset + 4, 999),
    "a segment that ends within a note": lambda data, at, offset, size: put(
        data, at + 32, size - 3
    ),
    "a segment of less than a header": lambda data, at, offset, size: put(data, at + 32, 5),
    "an empty segment": lambda data, at, offset, size: put(data, at + 32, 0),
    "not a note": lambda data, at, offset, size: fill(data, offset, size),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_notes_are_no_build_id(tmp_path, damage):
    path = compile_library(tmp_path, "noted", SOURCE, f"-Wl,--build-id=0x{BUILD_ID}")
    change(path, PT_NOTE, DAMAGES[damage])
    assert loads(path)
    libraries, _ = link_and_check([path])
    assert libraries[0].build_id is None


def test_a_note_segment_outside_of_the_file(tmp_path):
    path = compile_library(tmp_path, "noted", SOURCE, f"-Wl,--build-id=0x{BUILD_ID}")
    change(path, PT_NOTE, lambda data, at, offset, size: put(data, at + 8, 1 << 40))
    assert relocations(path).build_id is None


def test_damaged_properties(tmp_path):
    path = compile_library(tmp_path, "cet", SOURCE, "-fcf-protection=full", "-Wl,-z,ibt,-z,shstk")
    change(path, PT_GNU_PROPERTY, lambda data, at, offset, size: put4(data, offset + 4, 1 << 30))
    assert loads(path)
    link_and_check([path])


@pytest.mark.parametrize("place", [0, 3, 1 << 60])
def test_without_section_headers(tmp_path, place):
    """Stripped of them, or with a place that is none."""
    path = compile_library(tmp_path, "bare", SOURCE, f"-Wl,--build-id=0x{BUILD_ID}")
    data = bytearray(path.read_bytes())
    wanted = relocations(path)
    put(data, 40, place)
    if not place:
        data[58:64] = bytes(6)
    path.write_bytes(data)
    assert loads(path)
    found = relocations(path)
    assert found.build_id == BUILD_ID
    assert found.addresses.tolist() == wanted.addresses.tolist()
    assert found.symbol_table.names == wanted.symbol_table.names


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_each_kind_of_hash_table(tmp_path, style):
    path = compile_library(tmp_path, "hashed", SOURCE, f"-Wl,--hash-style={style}")
    assert loads(path)
    libraries, _ = link_and_check([path])
    assert {b"own", b"table"} <= set(libraries[0].symbol_table.names)


def test_the_old_hash_table_is_not_looked_at_beside_the_new(tmp_path):
    path = compile_library(tmp_path, "hashed", SOURCE, "-Wl,--hash-style=both")
    set_dynamic(path, DT_HASH, value=1 << 50)
    assert loads(path)
    assert {b"own", b"table"} <= set(relocations(path).symbol_table.names)


@pytest.fixture
def versioned(tmp_path) -> Path:
    """A library with two versions."""
    script = tmp_path / "versions.map"
    script.write_text("V1 { own; }; V2 { table; } V1;")
    return compile_library(tmp_path, "versioned", SOURCE, f"-Wl,--version-script={script}")


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_stated_number_of_versions_is_not_looked_at(versioned, count):
    wanted = relocations(versioned).symbol_table.versions
    assert {b"V1", b"V2"} <= set(wanted)
    set_dynamic(versioned, DT_VERDEFNUM, value=count)
    assert loads(versioned)
    assert relocations(versioned).symbol_table.versions == wanted


def test_such_a_library_is_converted(tmp_path):
    source = (
        "int puts(const char *), rand(void); static int x; int *p = &x;"
        "int f(void) { return puts(0) + rand(); }" + notes(8, 4, 12, 8)
    )
    options = ["-fplt", "-Wl,-z,lazy", "-lc", "-fcf-protection=none"]
    path = compile_library(tmp_path, "noted", source, *options)
    assert convert(path, tmp_path / "out.so").converted == 2


# --- changing files ---------------------------------------------------------------------------

Change = Callable[[bytearray, int, int, int], None]


def program_headers(data: bytearray, kind: int) -> Iterator[tuple[int, int, int, int]]:
    """Where each program header of a kind is; its type, and offset and size of its segment."""
    (start,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(start, start + 56 * count, 56):
        (found,) = struct.unpack_from("<I", data, at)
        (offset,) = struct.unpack_from("<Q", data, at + 8)
        (size,) = struct.unpack_from("<Q", data, at + 32)
        if found == kind:
            yield at, found, offset, size


def change(path: Path, kind: int, how: Change) -> None:
    """Change all segments of a kind; there is at least one."""
    data = bytearray(path.read_bytes())
    found = list(program_headers(data, kind))
    if not found:
        pytest.skip("the linker of this machine makes no such segment")
    for at, _, offset, size in found:
        how(data, at, offset, size)
    path.write_bytes(data)


def set_dynamic(path: Path, wanted: int, *, value: int) -> None:
    """Give an entry of the dynamic section another value."""
    data = bytearray(path.read_bytes())
    ((_, _, offset, size),) = program_headers(data, 2)
    for at in range(offset, offset + size, 16):
        (found,) = struct.unpack_from("<Q", data, at)
        if found == wanted:
            put(data, at + 8, value)
            break
    else:
        raise AssertionError("there is no such entry")
    path.write_bytes(data)


def put(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("<Q", data, at, value)


def put4(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("<I", data, at, value)


def fill(data: bytearray, offset: int, size: int) -> None:
    data[offset : offset + size] = b"\xff" * size
