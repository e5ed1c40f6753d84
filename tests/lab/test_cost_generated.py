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
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from elf_oracle import needs_readelf

from mapscratch.elf import RelocationKind, relocations
from mapscratch.lab.cost.generated import OWN, Contents, symbol_names, write_library
from mapscratch.lab.cost.lines import Shape
from mapscratch.lab.cost.loader_costs import LoaderTimer
from mapscratch.lab.cost.timers import CannotMeasure

NAMES = symbol_names("provider", 300)

needs_loader = pytest.mark.skipif(
    platform.machine() != "x86_64"
    or platform.libc_ver()[0] != "glibc"
    or not (shutil.which("as") and shutil.which("ld")),
    reason="as and ld make libraries that ld.so of glibc on x86-64 loads",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("generated")
    write_library(made, "empty.so", Contents())
    write_library(made, "provider.so", Contents(exports=NAMES))
    everything = Contents(
        words=[OWN] * 64 + NAMES[:96],
        pages=5,
        calls=NAMES[100:250],
        exports=symbol_names("own", 20),
        needed=("empty.so", "provider.so"),
    )
    write_library(made, "everything.so", everything)
    write_library(made, "packed.so", Contents([OWN] * 3 * 200, 3, packed=True))
    write_library(made, "full.so", Contents([OWN] * 2 * 512, 2))
    return made


def counts(path: Path) -> dict[str, int]:
    return dict(Counter(str(RelocationKind(kind)) for kind in relocations(path).kinds))


@needs_readelf
@needs_loader
@pytest.mark.parametrize("options", [("-rW",), ("-aW",), ("-rW", "--use-dynamic")])
def test_readelf_has_nothing_to_say_against_them(folder, options):
    for path in folder.glob("*.so"):
        done = subprocess.run(
            ["readelf", *options, str(path)], capture_output=True, text=True, check=True
        )
        assert not done.stderr
        assert "arning" not in done.stdout


@needs_loader
def test_they_have_the_fixups_that_were_asked_for(folder):
    assert counts(folder / "full.so") == {"RELATIVE": 1024}
    assert counts(folder / "packed.so") == {"RELR": 600}
    path = folder / "everything.so"
    assert counts(path) == {"RELATIVE": 64, "64": 96, "JUMP_SLOT": 150}
    library = relocations(path)
    assert library.needed == ("empty.so", "provider.so")
    assert not library.bind_now
    table = library.symbol_table
    used = {table.names[number].decode() for number in library.symbols.tolist() if number}
    assert used == {*NAMES[:96], *NAMES[100:250]}


@needs_loader
@pytest.mark.parametrize(
    ("name", "kinds", "pages", "each"),
    [
        ("full.so", [RelocationKind.RELATIVE], 2, 512),
        ("packed.so", [RelocationKind.RELR], 3, 200),
        ("everything.so", [RelocationKind.RELATIVE, RelocationKind.ABSOLUTE_64], 5, 32),
    ],
)
def test_fixups_are_spread_evenly_over_whole_pages(folder, name, kinds, pages, each):
    library = relocations(folder / name)
    words = np.sort(library.addresses[np.isin(library.kinds, kinds)].astype(np.int64)) // 8
    found, numbers = np.unique(words // 512, return_counts=True)
    assert np.diff(found).tolist() == [1] * (pages - 1)
    assert set(numbers.tolist()) == {each}
    apart = np.diff(words % 512)
    assert set(apart[apart > 0].tolist()) == {512 // each, -(-512 // each)}


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
    provider = ctypes.CDLL(str(folder / "provider.so"))
    for at, kind in enumerate(library.kinds.tolist()):
        stored = ctypes.c_uint64.from_address(base + int(library.addresses[at])).value
        if kind == RelocationKind.RELATIVE:
            assert stored == base + int(library.addends[at])
        else:
            name = table.names[int(library.symbols[at])].decode()
            assert stored == ctypes.cast(getattr(provider, name), ctypes.c_void_p).value


@needs_loader
def test_calls_bind_lazily_and_return(folder):
    script = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1], mode=1)\n"
        "library.mapscratch_call_all(); library.mapscratch_call_all()\n"
        "cycles = library.mapscratch_cycles; cycles.restype = ctypes.c_uint64\n"
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
    # 96 at load, 150 at the first call, and what ctypes itself needs.
    assert int(at_end) - int(at_start) >= 246


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere there is another reason")
def test_without_assembler_or_linker_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotMeasure, match=r"there is no as .* apt install build-essential"):
        LoaderTimer(tmp_path).once(1)
    (tmp_path / "as").symlink_to("/bin/true")
    with pytest.raises(CannotMeasure, match=r"there is no ld .* apt install build-essential"):
        LoaderTimer(tmp_path).once(1)
    (tmp_path / "ld").symlink_to("/bin/false")
    with pytest.raises(CannotMeasure, match="ld, which makes libraries, failed"):
        LoaderTimer(tmp_path).once(1)


@pytest.mark.parametrize(
    ("shape", "mapped"), [(Shape(1), 64), (Shape(512, pages=2), 2), (Shape(256, 64, 8), 120)]
)
def test_files_for_round_trips_are_a_workload(tmp_path, shape, mapped):
    workload = shape.workload(tmp_path)
    (library,) = workload.libraries
    assert (len(library.pages), library.mapped_pages) == (shape.pages, mapped)
    assert library.fixups_by_page.tolist() == [shape.fixups] * shape.pages
    assert not library.file_words.any()
    base = 7 << 30
    changed = library.expected_content([base]) != library.content
    assert np.flatnonzero(changed).tolist() == (library.plan.offsets // 8).tolist()
    values = library.plan.values([base])
    assert (library.expected_content([base])[changed] == values).all()
    assert ((values >= base) & (values < base + library.plan.window_length)).all()
