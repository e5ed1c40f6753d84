# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile libraries end in ElfError: no other exception, no wait, little memory."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from elf_mutation import EDGES, interesting_ranges, mutate
from elf_oracle import compile_library, needs_compiler, supports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hostile import HOSTILE, handmade

from mapscratch.elf import ElfError, link, relocations
from mapscratch.elf import source as elf_source

pytestmark = needs_compiler

SOURCE = """
extern int other(void), weak(void) __attribute__((weak));
static int x; int y = 3;
void *table[300] = {[0 ... 99] = &x, [150] = &y, [200] = other, [201] = weak};
__thread int counter;
int new(void) { return counter + other() + weak(); }
static void *resolver(void) { return new; }
int chosen(void) __attribute__((ifunc("resolver")));
asm(".symver new, get@@V2");
asm(".symver old, get@V1");
int old(void) { return 1; }
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Small libraries with every table: with RELR where the linker can, and with the old hash."""
    directory = tmp_path_factory.mktemp("hostile")
    script = directory / "versions.map"
    script.write_text("V1 { }; V2 { chosen; table; get; } V1;")
    other = compile_library(directory, "other", "int other(void) { return 1; }")
    options = [f"-Wl,--version-script={script}", str(other)]
    styles = {"gnu": "-Wl,--hash-style=gnu", "sysv": "-Wl,--hash-style=sysv"}
    if supports(directory, "-Wl,-z,pack-relative-relocs"):
        styles["relr"] = "-Wl,-z,pack-relative-relocs"
    paths = [compile_library(directory, n, SOURCE, o, *options) for n, o in styles.items()]
    return [path.read_bytes() for path in paths]


def survives(path, data: bytes) -> bool:
    """Read and link a file that may be anything; whether it was accepted."""
    path.write_bytes(data)
    try:
        library = relocations(path)
        (plan,) = link([library])
    except ElfError as error:
        assert path.name in str(error)
        return False
    assert sum(plan.kinds.values()) + sum(plan.skipped.values()) == len(library)
    assert len(plan.values([0x7F0000000000])) == len(plan)
    assert plan.window_offset + plan.window_length <= len(data)
    return True


def test_many_mutations(samples, tmp_path):
    randomness = random.Random(2004)
    path = tmp_path / "mutated.so"
    accepted = sum(
        survives(path, mutate(randomness, samples[i % len(samples)])) for i in range(1500)
    )
    # Both happen, or the mutations test nothing.
    assert 50 < accepted < 1450


@pytest.mark.stress
def test_many_more_mutations(samples, tmp_path):
    randomness = random.Random()
    path = tmp_path / "mutated.so"
    for i in range(100_000):
        survives(path, mutate(randomness, samples[i % len(samples)]))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(choice=st.integers(0, 2), size=st.integers(0, 20_000), tail=st.binary(max_size=64))
def test_cut_and_continued_otherwise(samples, tmp_path, choice, size, tail):
    survives(tmp_path / "cut.so", samples[choice % len(samples)][:size] + tail)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    choice=st.integers(0, 2),
    entry=st.integers(0, 25),
    value=st.sampled_from(EDGES) | st.integers(0, 0x6000) | st.integers(0, 2**64 - 1),
)
def test_any_value_in_a_dynamic_entry(samples, tmp_path, choice, entry, value):
    data = bytearray(samples[choice % len(samples)])
    start, end = interesting_ranges(bytes(data))[-1]
    struct.pack_into("<Q", data, min(start + 16 * entry + 8, end - 8), value)
    survives(tmp_path / "dynamic.so", bytes(data))


@pytest.mark.parametrize("case", HOSTILE)
def test_absurd_claims_take_little_memory(tmp_path, case):
    """Files, some of them two terabytes long (of hole), that claim an absurd number of things."""
    dynamic, tables, size, message = HOSTILE[case]
    path = tmp_path / "giant.so"
    handmade(path, dynamic, tables, size)
    tracemalloc.start()
    try:
        with pytest.raises(ElfError, match=rf"giant\.so: .*{message}"):
            relocations(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


def test_file_that_shrinks_while_it_is_read(samples, tmp_path):
    path = tmp_path / "shrinking.so"
    path.write_bytes(samples[0])
    with elf_source.open_source(path) as source:
        path.write_bytes(samples[0][:100])
        with pytest.raises(ElfError, match=r"shrinking\.so: the file became shorter"):
            source.read(64, 500, "symbol table")
