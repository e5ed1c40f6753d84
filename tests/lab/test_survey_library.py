# SPDX-License-Identifier: Apache-2.0
"""A survey of one library: equal to readelf's listing, and to what the converter does."""

from __future__ import annotations

import functools
import os
import random
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from elf_mutation import mutate
from elf_oracle import compile_library, needs_compiler, needs_readelf, supports
from support.hostile import HOSTILE, handmade

from mapscratch.elf import (
    ElfError,
    LibrarySurvey,
    default_libraries,
    fixups_per_page,
    overlay,
    survey,
)
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.files import find_files
from mapscratch.lab.survey.libraries import survey_files

PAGE = 4096
FEWEST = 200
WANTED = 220
LARGEST = 1 << 18

# --- readelf -------------------------------------------------------------------------------------

_GROUPS = {
    "RELATIVE": "RELATIVE",
    "GLOB_DAT": "symbolic",
    "64": "symbolic",
    "ABS64": "symbolic",
    "JUMP_SLOT": "JUMP_SLOT",
    "JUMP_SLO": "JUMP_SLOT",
    "IRELATIVE": "IRELATIVE",
    "IRELATIV": "IRELATIVE",
    "COPY": "COPY",
    "DTPMOD64": "TLS",
    "DTPOFF64": "TLS",
    "TPOFF64": "TLS",
    "TLSDESC": "TLS",
}
_SECTION = re.compile(
    r"^Relocation section '([^']*)' at offset \S+ contains (\d+) entr\w+(?: which relocate (\d+))?"
)
_OFFSETS = re.compile(r"^  (\d+) offsets?$")  # of a .relr section, up to binutils 2.42
_RELOCATION = re.compile(r"^([0-9a-f]{16})  [0-9a-f]{16} R_(?:X86_64|AARCH64)_(\S+)")
_PACKED = re.compile(r"^(?:\d+:\s+[0-9a-f]+\s+|\s+)?([0-9a-f]{16})\b")
_SEGMENT = re.compile(
    r"^  LOAD +0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+ 0x[0-9a-f]+ 0x([0-9a-f]+) (.{3})"
)


def readelf(path: Path) -> tuple[dict[str, int], Counter[int]]:
    """By readelf: relocations by kind, and fixups of each page."""
    command = ["readelf", "-rlW", path]
    listing = subprocess.run(command, capture_output=True, check=True).stdout.decode(
        errors="replace"
    )
    fixed = []
    kinds: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    pages: Counter[int] = Counter()
    for line in listing.splitlines():
        if match := _SEGMENT.match(line):
            start, size = int(match[1], 16), int(match[2], 16)
            if "W" not in match[3]:
                fixed.append((start, start + size))
    for address, name in relocations(listing):
        if name == "NONE":
            continue
        in_text = any(start <= address < end for start, end in fixed)
        kinds["text" if in_text else _GROUPS.get(name, "RELR" if name == "RELR" else "other")] += 1
        size = 16 if name == "TLSDESC" else 8
        pages.update(range(address // PAGE, (address + size - 1) // PAGE + 1))
    return dict(kinds), pages


def relocations(listing: str) -> Iterator[tuple[int, str]]:
    """The relocations that are listed; of each section as many as its heading says."""
    section, stated, found = "", 0, 0
    for line in listing.splitlines():
        if match := _SECTION.match(line):
            assert found == stated, f"readelf lists {found} of {stated} relocations in {section}"
            section, stated, found = match[1], int(match[3] or match[2]), 0
        elif not section:
            continue
        elif ".relr" in section:
            if match := _OFFSETS.match(line):
                stated = int(match[1])
            elif match := _PACKED.match(line):
                found += 1
                yield int(match[1], 16), "RELR"
        elif match := _RELOCATION.match(line):
            found += 1
            yield int(match[1], 16), match[2]
    assert found == stated, f"readelf lists {found} of {stated} relocations in {section}"


@functools.cache
def many_libraries() -> list[Path]:
    """Real libraries of this machine, of all sizes, in a fixed order."""
    found = find_files(installed=True)
    if len(found.paths) < 2 * FEWEST:
        # Other versions of Python, and what is only found by a path.
        for folder in (Path("/usr/lib"), Path("/usr/lib64"), Path(sys.base_prefix).parent):
            found.add_folder(folder, passed_over=(".py", ".pyc", ".h"))
    files = sorted({path for path in found.paths if ".so" in path.name})
    small = [path for path in files if path.stat().st_size <= LARGEST]
    return list(dict.fromkeys([*small[:: max(1, len(small) // WANTED)], *default_libraries()]))


@needs_readelf
def test_equal_to_readelf_on_hundreds_of_libraries():
    paths = many_libraries()
    libraries = survey_files(paths).libraries
    assert len(libraries) >= FEWEST
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        listings = pool.map(readelf, [library.path for library in libraries])
        for library, (kinds, pages) in zip(libraries, listings, strict=True):
            assert library.kinds == kinds, library.path
            assert library.fixups == sum(kinds.values())
            found = dict(zip(library.pages.numbers.tolist(), library.pages.fixups, strict=True))
            assert found == pages, library.path
            check_sums(library)
    assert sum(library.dirtied_pages for library in libraries) > FEWEST
    assert len({library.bind_mode for library in libraries}) > 1


def check_sums(library: LibrarySurvey) -> None:
    histogram = library.fixups_per_page.histogram
    assert sum(pages for _, _, pages in histogram) == library.dirtied_pages == len(library.pages)
    assert library.saved_pages <= library.plt_pages <= library.dirtied_pages
    assert library.relro_dirtied_pages <= min(library.relro_pages, library.dirtied_pages)
    assert library.convertible == (library.not_convertible_because is None)
    assert library.convertible or library.saved_pages == library.text_pages == 0
    for bit, kind in enumerate(KINDS):
        assert bool(library.kinds[kind]) == bool((library.pages.kinds >> bit & 1).any())


def test_convertible_is_what_the_converter_converts():
    paths = [path for path in many_libraries()[::16] if path.stat().st_size < 1 << 19]
    paths += default_libraries()[:1]  # libc, which is declined
    declined = 0
    for library in survey_files(paths).libraries:
        try:
            _, conversion = overlay(library.path)
        except ElfError as problem:
            declined += 1
            assert library.not_convertible_because == str(problem).removeprefix(f"{library.path}: ")
            continue
        assert library.convertible
        assert library.text_pages <= conversion.text_pages
        assert library.bind_now == conversion.bind_now
        assert library.plt_entries == conversion.converted
    assert declined


# --- libraries made for it -----------------------------------------------------------------------

TWO_PAGES = """
extern int other(void);
static int x;
__attribute__((aligned(4096))) void *full[512] = {[0 ... 511] = &x};
__attribute__((aligned(4096))) void *few[512] = {[7] = &x, [8] = (void *)other, [511] = &x};
__thread int counter;
int *get(void) { return &counter; }
"""


@needs_compiler
def test_kinds_and_pages_of_a_known_library(tmp_path):
    other = compile_library(tmp_path, "other", "int other(void) { return 1; }")
    path = compile_library(tmp_path, "known", TWO_PAGES, str(other))
    library = survey(path)
    # Symbolic are other and, of the thread's variable, __tls_get_addr.
    wanted = dict.fromkeys(KINDS, 0) | {"RELATIVE": 514, "symbolic": 2}
    assert library.kinds | {"TLS": 0} == wanted
    assert library.kinds["TLS"] > 0
    assert library.soname == "libknown.so"
    assert library.bind_mode == "no PLT"
    assert not library.convertible
    assert "no PLT entries" in str(library.not_convertible_because)
    counts = sorted(library.pages.fixups.tolist())
    assert counts[-2:] == [3, 512]
    assert library.fixups_per_page.maximum == 512
    assert 1 <= library.pages.of_kind("symbolic").sum() <= 2


@needs_compiler
def test_packed_relocations(tmp_path):
    if not supports(tmp_path, "-Wl,-z,pack-relative-relocs"):
        pytest.skip("the linker has no -z pack-relative-relocs")
    code = "static int x; void *t[600] = {[0 ... 599] = &x};"
    packed = compile_library(tmp_path, "packed", code, "-Wl,-z,pack-relative-relocs")
    plain = compile_library(tmp_path, "plain", code)
    assert survey(packed).kinds["RELR"] == survey(plain).kinds["RELATIVE"] == 600


@needs_compiler
def test_a_word_over_the_end_of_a_page_is_on_both(tmp_path):
    code = """
    static int x;
    struct __attribute__((packed)) { char before[4092]; void *p; char after[100]; }
        over __attribute__((aligned(4096))) = {.p = &x, .after = {1}};
    """
    library = survey(compile_library(tmp_path, "over", code))
    assert library.fixups == 1
    assert library.pages.fixups.tolist() == [1, 1]
    assert np.diff(library.pages.numbers).tolist() == [1]


@needs_compiler
def test_relocations_of_text(tmp_path):
    code = '__asm__(".text\\n.quad outside\\n");'
    path = compile_library(tmp_path, "text", code, "-Wl,-z,notext")
    library = survey(path)
    assert library.kinds == dict.fromkeys(KINDS, 0) | {"text": 1}
    assert not library.convertible


@needs_compiler
def test_an_executable_at_a_fixed_address(tmp_path):
    source = tmp_path / "main.c"
    source.write_text(
        "#include <stdio.h>\nint main(int n, char **a) { puts(a[0]); fflush(stdout); return n; }"
    )
    path = tmp_path / "fixed"
    subprocess.run(["cc", "-O1", "-no-pie", "-Wl,-z,lazy", source, "-o", path], check=True)
    library = survey(path)
    assert library.kinds["RELATIVE"] == 0
    assert library.kinds["COPY"] == 1
    assert library.plt_entries >= 2
    assert library.convertible


@needs_compiler
def test_one_plt_entry_is_not_convertible(tmp_path):
    code = "int other(int); int f(void) { return other(1) + 1; }"
    source = tmp_path / "one.c"
    source.write_text(code)
    path = tmp_path / "libone.so"
    command = ["cc", "-O1", "-fPIC", "-shared", "-nostdlib", "-fplt", source, "-o", path]
    subprocess.run(command, check=True)
    library = survey(path)
    assert library.plt_entries == 1
    assert "only 1 PLT entry" in str(library.not_convertible_because)
    assert library.saved_pages == 0


def test_the_distribution_of_no_pages():
    assert fixups_per_page(np.empty(0, dtype=np.int64)).histogram == ()


def test_a_distribution():
    found = fixups_per_page(np.array([1, 2, 3, 4, 512, 512], dtype=np.int64))
    assert found.histogram == ((1, 1, 1), (2, 3, 2), (4, 7, 1), (512, 1023, 2))
    assert (found.median, found.p95, found.maximum) == (3.5, 512, 512)


# --- damaged and hostile -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("sample")
    source = folder / "sample.c"
    source.write_text(TWO_PAGES + "int f(void) { return other() + *get(); }")
    path = folder / "libsample.so"
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", source, "-o", path], check=True)
    return path.read_bytes()


def survives(path: Path, data: bytes) -> bool:
    """Survey what may be anything; whether it was accepted."""
    path.write_bytes(data)
    try:
        library = survey(path)
    except ElfError as problem:
        assert path.name in str(problem)
        return False
    check_sums(library)
    return True


@needs_compiler
def test_hundreds_of_mutations(sample, tmp_path):
    randomness = random.Random(2004)
    path = tmp_path / "mutated.so"
    accepted = sum(survives(path, mutate(randomness, sample)) for _ in range(200))
    assert 10 < accepted < 190


@needs_compiler
def test_cut_off_anywhere(sample, tmp_path):
    path = tmp_path / "cut.so"
    assert survives(path, sample)
    for size in (0, 1, 3, 4, 63, 64, 100, 4095, 4096, len(sample) // 2):
        assert not survives(path, sample[:size])


@pytest.mark.parametrize("case", ["relocations", "packed bitmaps", "dynamic entries"])
def test_absurd_claims(tmp_path, case):
    dynamic, tables, size, message = HOSTILE[case]
    path = tmp_path / "giant.so"
    handmade(path, dynamic, tables, size)
    with pytest.raises(ElfError, match=message):
        survey(path)


def test_copies_of_terabytes(tmp_path):
    """A COPY relocation whose symbol claims to be as large as memory."""
    symbols = bytes(24) + struct.pack("<IBBHQQ", 0, 17, 0, 1, 0x1000, 1 << 60)
    table = struct.pack("<QIIq", 0x2000, 5, 1, 0)
    path = tmp_path / "copies.so"
    dynamic = {6: 0x1000, 11: 24, 7: 0x1000 + len(symbols), 8: 24, 9: 24}
    handmade(path, dynamic, symbols + table, 1 << 16)
    with pytest.raises(ElfError, match="COPY"):
        survey(path)


def test_fixups_at_the_end_of_the_address_space(tmp_path):
    table = struct.pack("<QIIq", 2**64 - 1, 8, 0, 0) + struct.pack("<QIIq", 2**63, 8, 0, 0)
    path = tmp_path / "far.so"
    handmade(path, {7: 0x1000, 8: len(table), 9: 24}, table, 1 << 16)
    library = survey(path)
    assert library.fixups == library.dirtied_pages == 2
