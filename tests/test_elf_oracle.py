# SPDX-License-Identifier: Apache-2.0
"""The plans of real libraries equal what a second parser makes of readelf's output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from elf_oracle import compile_library, link_and_check, needs_compiler, needs_readelf

from mapscratch.elf import ElfError, default_libraries, relocations
from mapscratch.experiment import oracle

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


@needs_compiler
@needs_readelf
def test_expected_values_add_bases(tmp_path):
    path = compile_library(tmp_path, "a", "static int x; int *p = &x;")
    (words,) = oracle.expected_words([path])
    ((at, word),) = words.items()
    assert word.definer == 0
    assert oracle.expected_values(words, [2**64 - 4]) == {at: (word.constant - 4) % 2**64}


def test_missing_readelf_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(oracle.OracleError, match="apt install binutils"):
        oracle.expected_words(default_libraries()[:1])


@needs_readelf
def test_other_files_are_refused_by_name(tmp_path):
    text = tmp_path / "libtext.so"
    text.write_text("no library")
    with pytest.raises(oracle.OracleError, match=r"libtext\.so"):
        oracle.expected_words([text])


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
def test_both_ways_in_which_readelf_prints_relr(tmp_path, monkeypatch, printed):
    """Binutils 2.43 changed what it prints; a stand-in program prints either."""
    program = tmp_path / "readelf"
    program.write_text(
        "#!/bin/sh\n"
        f"case \"$*\" in *use-dynamic*) cat <<'END'\n{printed}\nEND\n;;\n"
        "*) echo '  LOAD 0x002000 0x0000000000003000 0x0 0x002000 0x002000 RW 0x1000' ;; esac\n"
    )
    program.chmod(0o755)
    file = tmp_path / "lib.so"
    content = bytearray(0x4000)
    for number, offset in enumerate((0x2DC0, 0x2DC8, 0x3020)):
        content[offset] = number + 1
    file.write_bytes(content)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (words,) = oracle.expected_words([file])
    assert words == {0x2DC0: (1, 0), 0x2DC8: (2, 0), 0x3020: (3, 0)}


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
