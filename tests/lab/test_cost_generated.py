# SPDX-License-Identifier: Apache-2.0
"""Libraries made to measure are what they claim: to readelf, to ld.so, and to our own reader."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from elf_oracle import needs_readelf

from mapscratch.elf import RelocationKind, relocations
from mapscratch.lab.cost.generated import (
    CYCLES,
    WORDS_PER_PAGE,
    Contents,
    relative_words,
    spread_words,
    symbol_names,
    write_library,
)
from mapscratch.lab.oracle import expected_words
from mapscratch.lab.rig.workload import read_workload

NAMES = symbol_names("provider", 300)
FILLER = np.arange(1, 1000, dtype=np.uint64)

needs_loader = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="ld.so of glibc on x86-64 loads them",
)


def everything() -> Contents:
    """A library with all kinds of relocation."""
    return Contents(
        "everything.so",
        pages=5,
        relative=spread_words([0, 1], 64),
        relr=spread_words([2, 4], 200),
        symbolic=spread_words([3], 400)[:100],
        symbols=NAMES[:100],
        jump_slots=NAMES[100:250],
        exports=symbol_names("own", 20),
        needed=("empty.so", "provider.so"),
        filler=FILLER,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("generated")
    write_library(made, Contents("empty.so"))
    write_library(made, Contents("provider.so", exports=NAMES))
    write_library(made, everything())
    write_library(made, Contents("data.so", pages=3, relative=spread_words([0, 2], 512)))
    return made


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def readelf(path: Path, *options: str) -> str:
    program = shutil.which("readelf")
    assert program
    done = subprocess.run(
        [program, *options, str(path)], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    assert "arning" not in done.stdout
    return done.stdout


@needs_readelf
@pytest.mark.parametrize(
    "options", [("-rW",), ("-d",), ("-aW",), ("-rW", "--use-dynamic"), ("-I",)]
)
def test_readelf_has_nothing_to_say_against_them(folder, options):
    for path in libraries(folder):
        readelf(path, *options)


@needs_readelf
def test_readelf_counts_what_was_asked_for(folder):
    printed = readelf(folder / "everything.so", "-rW")
    counts = {kind: printed.count(f"R_X86_64_{kind}") for kind in ("RELATIVE", "GLOB_DAT")}
    assert counts == {"RELATIVE": 128, "GLOB_DAT": 100}
    assert len(re.findall(r"R_X86_64_JUMP_SLO", printed)) == 150
    names = set(re.findall(r"provider_function_\d+", printed))
    assert names == {name.decode() for name in NAMES[:250]}


def test_our_reader_reads_the_same(folder):
    library = relocations(folder / "everything.so")
    counts = {
        RelocationKind(kind): int(count)
        for kind, count in zip(*np.unique(library.kinds, return_counts=True), strict=True)
    }
    assert counts == {
        RelocationKind.RELATIVE: 128,
        RelocationKind.RELR: 400,
        RelocationKind.GLOB_DAT: 100,
        RelocationKind.JUMP_SLOT: 150,
    }
    assert library.soname == "everything.so"
    assert library.needed == ("empty.so", "provider.so")
    assert not library.bind_now
    contents = everything()
    data = int(library.addresses.max()) // 4096 - contents.pages + 1
    for kind, words in (
        (RelocationKind.RELATIVE, contents.relative),
        (RelocationKind.RELR, contents.relr),
        (RelocationKind.GLOB_DAT, contents.symbolic),
    ):
        found = library.addresses[library.kinds == kind]
        assert (found // 8 - data * WORDS_PER_PAGE).tolist() == words.tolist()


@needs_readelf
def test_words_are_what_readelf_says(folder):
    path = folder / "everything.so"
    (expected,) = expected_words([path])
    relative = {at: word.constant for at, word in expected.items() if word.definer == 0}
    ours = relative_words(everything())
    # The library's own exports are the only other words that refer to it; none is used.
    assert relative == ours
    assert len(ours) == 528


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 128, 500])
def test_packed_tables_of_any_density(tmp_path, count):
    rng = np.random.default_rng(count)
    words = np.sort(rng.choice(8 * WORDS_PER_PAGE, count, replace=False)).astype(np.int64)
    path = write_library(tmp_path, Contents("relr.so", pages=8, relr=words))
    library = relocations(path)
    base = path.stat().st_size // 4096 * 4096  # the section headers take less than a page
    found = library.addresses.astype(np.int64) - (base - 8 * 4096)
    assert (found // 8).tolist() == words.tolist()


@needs_readelf
def test_they_are_a_workload(folder):
    workload = read_workload([folder / "data.so"], pages=1)
    assert (workload.pages, workload.mapped_pages, workload.fixups) == (2, 3, 1024)


@needs_loader
def test_loader_stores_the_words(folder):
    path = folder / "everything.so"
    handle = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    # The base: where an own function is, less where it is in the file.
    library = relocations(path)
    table = library.symbol_table
    number = table.names.index(b"own_function_000003")
    function = ctypes.cast(handle.own_function_000003, ctypes.c_void_p).value
    assert function
    base = function - int(table.values[number])
    for offset, value in relative_words(everything()).items():
        assert ctypes.c_uint64.from_address(base + offset).value == base + value
    provider = ctypes.CDLL(str(folder / "provider.so"))
    for kind in (RelocationKind.GLOB_DAT, RelocationKind.JUMP_SLOT):
        for at in np.flatnonzero(library.kinds == kind).tolist():
            name = table.names[int(library.symbols[at])].decode()
            wanted = ctypes.cast(getattr(provider, name), ctypes.c_void_p).value
            stored = ctypes.c_uint64.from_address(base + int(library.addresses[at])).value
            assert stored == wanted
    # Where there is no fixup, the words are the filler's.
    last = base + max(relative_words(everything())) // 8 * 8
    assert ctypes.c_uint64.from_address(last + 8).value in FILLER


@needs_loader
def test_calls_bind_lazily_and_return(folder):
    script = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1], mode=1)\n"
        "library.mapscratch_call_all(); library.mapscratch_call_all()\n"
        f"cycles = library.{CYCLES.decode()}; cycles.restype = ctypes.c_uint64\n"
        "first = cycles(); assert first < cycles()\n"
    )
    environment = {**os.environ, "LD_DEBUG": "statistics"}
    environment.pop("LD_BIND_NOW", None)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(folder / "everything.so")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    at_start, at_end = re.findall(r"number of relocations: (\d+)", done.stderr)[:2]
    # 100 at load, 150 at the first call, and what ctypes itself needs.
    assert int(at_end) - int(at_start) >= 250


def test_a_page_has_room_for_so_many():
    assert spread_words([1], 2).tolist() == [512, 768]
    assert spread_words([0], 512).tolist() == list(range(512))
    assert spread_words([0, 3], 0).tolist() == []
    with pytest.raises(ValueError, match="0 to 512"):
        spread_words([0], 513)
