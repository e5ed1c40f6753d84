# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile libraries given to the converter: ElfError or a sound result, in bounds."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from elf_mutation import interesting_ranges, mutate
from support.patience import patient

from mapscratch.elf import ElfError, convert, overlay
from mapscratch.elf.check import check

SOURCE = """
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
static int x; int y = 3;
void *table[40] = {[0 ... 9] = &x, [15] = &y, [20] = (void *)free};
__thread int counter;
int get(const char *text) { return counter + atoi(text) + (int)strlen(text) + puts(text); }
static void *resolver(void) { return get; }
int chosen(const char *text) __attribute__((ifunc("resolver")));
int all(const char *text) { return chosen(text) + rand() + abs(y) + getchar() + system(text); }
"""

STYLES = {
    "lazy": ["-Wl,-z,lazy"],
    "now": ["-Wl,-z,now,-z,relro", "-Wl,--hash-style=sysv"],
    "tracked": ["-Wl,-z,lazy,-z,ibtplt", "-fcf-protection=full"],
    "small": ["-Wl,-z,noseparate-code", "-s"],
}
SECONDS_FOR_ONE = 5.0
BYTES_FOR_ONE = 64 << 20


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "sample.c"
    source.write_text(SOURCE)
    result = []
    for style, options in STYLES.items():
        path = folder / f"{style}.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-fno-builtin", str(source), "-o", str(path)]
        subprocess.run([*command, *options], check=True)
        result.append(path.read_bytes())
    return result


def tables(data: bytes) -> list[tuple[int, int]]:
    """Headers, the dynamic section, and what it leads to: relocations, symbols, entries."""
    ranges = interesting_ranges(data)
    (offset,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(offset, offset + 56 * count, 56):
        kind, flags, start, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 1 and flags & 1:
            ranges.append((start, min(start + size, start + 0x400)))
    return ranges


def survives(path: Path, data: bytes) -> bool:
    """Convert a file that may be anything; whether it was accepted."""
    path.write_bytes(data)
    output = path.with_suffix(".out")
    accepted = False
    start = time.monotonic()
    for action in (lambda: overlay(path), lambda: convert(path, output)):
        try:
            action()
            accepted = True
        except ElfError as problem:
            assert path.name in str(problem)
    if output.exists():
        try:
            # What the mutant itself has wrong is no fault of the conversion.
            check(output)
        except ElfError as problem:
            assert output.name in str(problem)
        output.unlink()
    assert time.monotonic() - start < patient(SECONDS_FOR_ONE)
    return accepted


def test_hundreds_of_mutations(samples: list[bytes], tmp_path: Path) -> None:
    randomness = random.Random(2004)
    path = tmp_path / "mutated.so"
    count = 600
    accepted = 0
    for number in range(count):
        sample = samples[number % len(samples)]
        accepted += survives(path, mutate(randomness, sample, tables(sample)))
    # Both happen, or the mutations test nothing.
    assert count // 20 < accepted < count * 19 // 20


@pytest.mark.stress
def test_twenty_thousand_mutations(samples: list[bytes], tmp_path: Path) -> None:
    randomness = random.Random()
    path = tmp_path / "mutated.so"
    tracemalloc.start()
    accepted = 0
    try:
        for number in range(24_000):
            sample = samples[number % len(samples)]
            tracemalloc.reset_peak()
            accepted += survives(path, mutate(randomness, sample, tables(sample)))
            assert tracemalloc.get_traced_memory()[1] < BYTES_FOR_ONE
    finally:
        tracemalloc.stop()
    print(f"{accepted} of 24,000 were converted all the same")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 21


def test_a_sparse_giant(samples: list[bytes], tmp_path: Path) -> None:
    """A file that claims, and sparsely has, gigabytes of text ends soon and takes little memory."""
    path = tmp_path / "giant.so"
    data = bytearray(samples[0])
    (offset,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(offset, offset + 56 * count, 56):
        kind, flags = struct.unpack_from("<II", data, at)
        if kind == 1 and flags & 1:
            struct.pack_into("<QQ", data, at + 32, 1 << 40, 1 << 40)
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(1 << 41)
    start = time.monotonic()
    with pytest.raises(ElfError):
        overlay(path)
    assert time.monotonic() - start < patient(SECONDS_FOR_ONE)
