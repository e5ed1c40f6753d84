# SPDX-License-Identifier: Apache-2.0
"""The plans of real libraries equal what a second parser makes of readelf's output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from elf_oracle import compile_library, link_and_check, needs_compiler, needs_readelf, supports

from mapscratch.elf import ElfError, default_libraries, relocations
from mapscratch.lab import oracle

SAMPLE_SIZE = 40
LARGEST = 30 << 20


def installed_libraries() -> list[Path]:
    """Shared libraries of the system and of installed Python packages, in a fixed order."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    system = [Path("/usr/lib", multiarch), Path("/usr/lib64"), Path("/usr/lib")]
    found = [path for directory in system for path in directory.glob("*.so*")]
    packages = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    for directory in packages:
        found += directory.rglob("*.so*")
    files = {path.resolve() for path in found if path.is_file()}
    return sorted(path for path in files if path.stat().st_size <= LARGEST)


def readable(path: Path) -> bool:
    """Whether it is a library; directories of libraries hold linker scripts and object files."""
    try:
        relocations(path)
    except ElfError:
        return False
    return True


@needs_readelf
def test_default_libraries():
    libraries, plans = link_and_check(default_libraries())
    assert sum(len(plan) for plan in plans) > 0.9 * sum(map(len, libraries))
    # Across libraries, not only inside each.
    assert any(set(plan.definers.tolist()) - {-1, at} for at, plan in enumerate(plans))


@needs_readelf
def test_a_sample_of_installed_libraries():
    candidates = installed_libraries()
    # Twice as many as are wanted, for some are linker scripts.
    spread = candidates[:: max(1, len(candidates) // (2 * SAMPLE_SIZE))]
    sample = [path for path in spread if readable(path)][:: 2 if len(spread) > SAMPLE_SIZE else 1]
    if len(sample) < 30:
        pytest.skip(f"only {len(sample)} shared libraries to compare are installed here")
    system = [path for path in default_libraries() if path not in sample]
    _, plans = link_and_check([*sample, *system])
    assert len(plans) >= 30


@needs_readelf
@pytest.mark.stress
def test_every_installed_library():
    candidates = [path for path in installed_libraries() if readable(path)]
    for start in range(0, len(candidates), 60):
        link_and_check([*candidates[start : start + 60], *default_libraries()])


def test_missing_readelf_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(oracle.OracleError, match="apt install binutils"):
        oracle.second_opinion(default_libraries()[:1])


@needs_readelf
def test_other_files_are_refused_by_name(tmp_path):
    text = tmp_path / "libtext.so"
    text.write_text("no library")
    with pytest.raises(oracle.OracleError, match=r"libtext\.so"):
        oracle.second_opinion([text])


# --- readers that find less than there is -----------------------------------------------------

SOURCE = """
extern int other(void); static int x; int y = 3;
void *table[300] = {[0 ... 99] = &x, [150] = &y, [200] = other};
int get(void) { return other(); }
"""


@pytest.fixture
def library(tmp_path) -> Path:
    """A library with relocations of every table."""
    relr = ["-Wl,-z,pack-relative-relocs"] if supports(tmp_path, RELR) else []
    options = [*relr, "-fplt", "-Wl,-z,lazy,-z,undefs"]
    return compile_library(tmp_path, "every", SOURCE, *options)


RELR = "-Wl,-z,pack-relative-relocs"
READELF = shutil.which("readelf")


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program in the place of readelf: a shell script in which $* are its arguments."""
    program = directory / "bin" / "readelf"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nreal() {{ {READELF} "$@"; }}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


ONLY_DYNAMIC = 'case "$*" in *-rW*use-dynamic*) real "$@" | {} ;; *) real "$@" ;; esac'
EVERYWHERE = 'real "$@" | {}'
LESS = {
    "no line of a table": "awk '/RELR|RELA/{print; skip = 1; next} /^$/{skip = 0} !skip'",
    "one line less": "awk '/_RELATIVE|^[0-9a-f]+$|JUMP_SLO/ && !done {done = 1; next} 1'",
    "the first bytes": "head -c 300",
    "nothing": "cat > /dev/null",
    "no table of the PLT": "awk '/PLT/{skip = 1} !skip'",
    "lines of another form": "sed 's/^\\([0-9a-f]\\)/> \\1/'",
}


@needs_compiler
@needs_readelf
@pytest.mark.parametrize("less", LESS)
def test_a_reader_that_finds_less_is_not_used_and_another_is(tmp_path, monkeypatch, library, less):
    wanted = oracle.second_opinion([library])
    assert (wanted.readers, wanted.notes) in [
        (("readelf",), ()),
        (("readelf by section headers",), wanted.notes),  # binutils 2.43 and 2.44
    ]
    stand_in(tmp_path, monkeypatch, ONLY_DYNAMIC.format(LESS[less]))
    found = oracle.second_opinion([library])
    assert found.words == wanted.words
    assert found.readers == ("readelf by section headers",)
    (note,) = found.notes
    assert note.startswith("libevery.so: readelf finds ")
    assert "can't be used; readelf by section headers is" in note
    stand_in(tmp_path, monkeypatch, EVERYWHERE.format(LESS[less]))
    found = oracle.second_opinion([library])
    assert found.words == wanted.words
    assert found.readers[-1] in {"pyelftools", "readelf by section headers"}
    assert found.notes


@needs_compiler
@needs_readelf
@pytest.mark.parametrize(
    "less",
    ["awk '/ (table|get|other)/ && !done {done = 1; next} 1'", "sed '/Symbol table/,$d'", "tac"],
    ids=["one less", "none", "in another order"],
)
def test_symbols_that_are_missing_are_asked_of_another_reader(tmp_path, monkeypatch, library, less):
    wanted = oracle.second_opinion([library]).words
    stand_in(
        tmp_path,
        monkeypatch,
        f'case "$*" in *dyn-syms*) real "$@" | {less} ;; *) real "$@" ;; esac',
    )
    found = oracle.second_opinion([library])
    assert found.readers == ("pyelftools",)
    assert found.words == wanted


@needs_compiler
@needs_readelf
def test_a_readelf_that_fails_is_not_used(tmp_path, monkeypatch, library):
    wanted = oracle.second_opinion([library]).words
    stand_in(tmp_path, monkeypatch, "echo it is broken >&2; exit 3")
    found = oracle.second_opinion([library])
    assert (found.words, found.readers) == (wanted, ("pyelftools",))
    assert "it is broken" in found.notes[0]


@needs_compiler
@needs_readelf
def test_where_nobody_finds_all_nothing_is_checked(tmp_path, monkeypatch, library):
    def blind(path, claims):
        return oracle.Tables([], [], [], [])

    monkeypatch.setitem(oracle._READERS, "pyelftools", blind)
    stand_in(tmp_path, monkeypatch, EVERYWHERE.format("cat > /dev/null"))
    with pytest.raises(oracle.OracleError, match="nothing here can check") as raised:
        oracle.second_opinion([library])
    assert str(raised.value).count("finds 0 of") == 3


@needs_readelf
@pytest.mark.parametrize("reader", list(oracle._READERS))
def test_all_readers_say_the_same_of_real_libraries(monkeypatch, reader):
    paths = default_libraries()[:3]
    wanted = oracle.second_opinion(paths).words
    monkeypatch.setattr(oracle, "_READERS", {reader: oracle._READERS[reader]}, raising=True)
    try:
        found = oracle.second_opinion(paths).words
    except oracle.OracleError as error:
        assert reader == "readelf"
        assert "packed relocations" in str(error)
        pytest.skip(f"this machine's {error}")
    assert found == wanted


@needs_compiler
@needs_readelf
@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_how_many_symbols_there_are(tmp_path, style):
    path = compile_library(tmp_path, "hashed", SOURCE, f"-Wl,--hash-style={style},-z,undefs")
    claims = oracle.with_pyelftools.read_claims(path)
    assert claims.symbols == len(relocations(path).symbol_table)


@needs_compiler
def test_without_section_headers(tmp_path, monkeypatch, library):
    wanted = oracle.second_opinion([library]).words
    data = bytearray(library.read_bytes())
    data[40:48] = bytes(8)
    data[58:64] = bytes(6)
    library.write_bytes(data)
    try:
        found = oracle.second_opinion([library])
    except oracle.OracleError as error:  # binutils 2.43 and 2.44
        assert "packed relocations" in str(error)
    else:
        assert (found.words, found.readers) == (wanted, ("readelf",))


RELR_OLD = """
'RELR' relocation section at offset 0x568 contains 24 bytes:
  3 offsets
0000000000003dc0
0000000000003dc8
0000000000004020
"""
RELR_NEW = """
'RELR' relocation section at offset 0x568 contains 24 bytes:
  3 offsets
Index: Entry            Address           Symbolic Address
0000:  0000000000003dc0 0000000000003dc0  first (new starting address)
0001:  0000000000000801 0000000000003dc8  first + 0x8 (start of bitmap)
                        0000000000004020  deadbeefdeadbeef + 0x10
"""


@pytest.mark.parametrize("printed", [RELR_OLD, RELR_NEW], ids=["binutils-2.40", "binutils-2.43"])
def test_both_ways_in_which_readelf_prints_relr(printed):
    assert oracle.readelf._addresses(printed) == [0x3DC0, 0x3DC8, 0x4020]


# Prints file name, load base and memory of every library, as the loader left them.
LOAD_AND_DUMP = """
import ctypes, json, sys
requests = json.loads(sys.argv[1])
for path, _ in requests:
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL | 2)
with open("/proc/self/maps") as maps:
    lines = [line.split() for line in maps]
answer = []
for path, addresses in requests:
    base = min(int(line[0].split("-")[0], 16) for line in lines if line[-1] == path)
    words = [ctypes.c_uint64.from_address(base + address).value for address in addresses]
    answer.append([base, words])
print(json.dumps(answer))
"""


@needs_compiler
@needs_readelf
def test_the_loader_itself_stores_the_same(tmp_path):
    """The last word: libraries loaded by ld.so, and their memory compared with the plans."""
    definer = compile_library(
        tmp_path,
        "definer",
        "char pad[40] = {1}; long table[9] = {1}; int one(void) { return 1; }"
        'asm(".globl absolute; .set absolute, 0x4321");',
    )
    source = """
    extern long table[]; extern int one(void), two(void); extern char absolute;
    static int x; int own;
    void *words[] = {&x, &own, table + 3, one, &absolute, (char *)&x + 1};
    int get(void) { return one() + two() + own; }
    """
    user = compile_library(tmp_path, "user", source, "-fplt", "-Wl,-z,lazy", "-Wl,-z,undefs")
    last = compile_library(tmp_path, "last", "int two(void) { return 2; } int one(void);")
    # ld.so searches what is loaded already before the library itself.
    paths = [definer, last, user]
    libraries, plans = link_and_check(paths)
    shifts = [
        {int(o): int(a) for o, a in zip(lib.file_offsets, lib.addresses, strict=True)}
        for lib in libraries
    ]
    wanted = [
        [shift[int(offset) + plan.window_offset] for offset in plan.offsets]
        for shift, plan in zip(shifts, plans, strict=True)
    ]
    request = json.dumps([[str(p), w] for p, w in zip(paths, wanted, strict=True)])
    answer = subprocess.run(
        [sys.executable, "-c", LOAD_AND_DUMP, request], check=True, capture_output=True
    ).stdout
    stored = json.loads(answer)
    bases = [base for base, _ in stored]
    assert set(plans[2].kinds) >= {"RELATIVE", "64", "JUMP_SLOT"}
    assert -1 in plans[2].definers
    for plan, (_, words) in zip(plans, stored, strict=True):
        assert plan.values(bases).tolist() == words
