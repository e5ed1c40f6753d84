# SPDX-License-Identifier: Apache-2.0
"""The rules by which `mapscratch.elf.link` resolves, each on a library made for it.

Every test also compares all words with the second parser (`link_and_check`).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np
import pytest
from elf_oracle import compile_library, link_and_check, needs_compiler, needs_readelf, planned_words

from mapscratch.elf import ElfError, link, relocations

pytestmark = [needs_compiler, needs_readelf]

REFERENCE = "extern char f; void *pointer = &f;"


def symbol(library, name: str, version: bytes | None = None) -> int:
    """The value of a defined symbol."""
    table = library.symbol_table
    (number,) = (
        i
        for i, found in enumerate(table.names)
        if found == name.encode() and table.sections[i] and table.versions[i] == version
    )
    return int(table.values[number])


def test_relative_words_are_addend_plus_own_base(tmp_path):
    path = compile_library(tmp_path, "a", "static int x[3]; int *p = &x[2]; int **q = &p;")
    (library,), (plan,) = link_and_check([path])
    assert set(plan.kinds) == {"RELATIVE", "64"}
    assert plan.definers.tolist() == [0] * len(plan)
    base = 0x7F0000000000
    assert plan.values([base]).tolist() == [c + base for c in plan.constants.tolist()]
    assert symbol(library, "p") in plan.constants.tolist()


def test_values_wrap_modulo_two_to_the_64(tmp_path):
    path = compile_library(tmp_path, "a", "static int x; int *p = &x;")
    _, (plan,) = link_and_check([path])
    expected = [(int(c) - 8) % 2**64 for c in plan.constants]
    assert plan.values([2**64 - 8]).tolist() == expected
    assert plan.values([-8]).tolist() == expected


def test_values_wants_one_base_a_library(tmp_path):
    path = compile_library(tmp_path, "a", "static int x; int *p = &x;")
    _, (plan,) = link_and_check([path])
    with pytest.raises(ValueError, match="1 libraries were linked"):
        plan.values([0, 0])


def test_first_library_in_scope_defines_even_if_weak(tmp_path):
    user = compile_library(tmp_path, "user", REFERENCE)
    weak = compile_library(
        tmp_path, "weak", "char pad[64] = {1}; __attribute__((weak)) char f = 1;"
    )
    strong = compile_library(tmp_path, "strong", "char f = 2;")
    for scope in ([user, weak, strong], [user, strong, weak]):
        libraries, plans = link_and_check(scope)
        assert plans[0].definers.tolist() == [1]
        assert plans[0].constants.tolist() == [symbol(libraries[1], "f")]
        assert plans[0].kinds == {"64": 1}


def test_addend_is_added_to_the_symbol(tmp_path):
    user = compile_library(tmp_path, "user", "extern char f[]; void *pointer = f - 24;")
    definer = compile_library(tmp_path, "definer", "char pad[64] = {1}, f[8] = {1};")
    libraries, plans = link_and_check([user, definer])
    assert plans[0].constants.tolist() == [symbol(libraries[1], "f") - 24]


def test_unresolved_strong_and_weak_are_counted(tmp_path):
    source = "extern char f, g __attribute__((weak)); void *p[] = {&f, &g};"
    _, (plan,) = link_and_check([compile_library(tmp_path, "user", source)])
    assert len(plan) == 0
    assert plan.skipped == {"unresolved symbol": 2}
    assert (plan.window_offset, plan.window_length, plan.pages.tolist()) == (0, 0, [])


def test_absolute_symbols_get_no_base(tmp_path):
    user = compile_library(tmp_path, "user", REFERENCE)
    definer = compile_library(tmp_path, "abs", 'asm(".globl f; .set f, 0x1234567");')
    _, plans = link_and_check([user, definer])
    assert (plans[0].constants.tolist(), plans[0].definers.tolist()) == ([0x1234567], [-1])
    assert plans[0].values([1 << 40, 1 << 41]).tolist() == [0x1234567]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "static int g(void){return 1;} static void *r(void){return g;}"
            'int f(void) __attribute__((ifunc("r")));',
            "symbol is an IFUNC",
        ),
        ("__thread int f = 3;", "symbol is thread-local"),
    ],
)
def test_symbols_without_an_address_are_counted(tmp_path, source, reason):
    user = compile_library(tmp_path, "user", REFERENCE)
    definer = compile_library(tmp_path, "definer", source)
    later = compile_library(tmp_path, "later", "char f = 1;")
    _, plans = link_and_check([user, definer, later])
    assert len(plans[0]) == 0
    assert plans[0].skipped == {reason: 1}


def test_kinds_that_are_not_applied_are_counted_by_name(tmp_path):
    source = """
    __attribute__((visibility("hidden"))) int local(void) { return 1; }
    static void *resolver(void) { return local; }
    __attribute__((visibility("hidden"), ifunc("resolver"))) int chosen(void);
    int (*pointer)(void) = chosen;
    __thread int counter; int get(void) { return counter; }
    """
    _, (plan,) = link_and_check([compile_library(tmp_path, "kinds", source)])
    assert plan.skipped["IRELATIVE"] >= 1
    assert plan.skipped["DTPMOD64"] == 1
    assert plan.skipped["DTPOFF64"] == 1


class TestVersions:
    TWO = """
    asm(".symver old, f@V1"); asm(".symver new, f@@V2");
    char pad[64] = {1}, old = 1, new = 2;
    """

    @pytest.fixture
    def versioned(self, tmp_path):
        script = tmp_path / "two.map"
        script.write_text("V1 { f; }; V2 { f; } V1;")
        return compile_library(tmp_path, "two", self.TWO, f"-Wl,--version-script={script}")

    @pytest.fixture
    def built_against_old(self, tmp_path):
        script = tmp_path / "one.map"
        script.write_text("V1 { f; };")
        directory = tmp_path / "old"
        directory.mkdir()
        old = compile_library(directory, "two", "char f = 1;", f"-Wl,--version-script={script}")
        return compile_library(tmp_path, "old_user", REFERENCE, str(old))

    def test_reference_takes_its_exact_version(self, tmp_path, versioned, built_against_old):
        new_user = compile_library(tmp_path, "new_user", REFERENCE, str(versioned))
        libraries, plans = link_and_check([built_against_old, new_user, versioned])
        assert plans[0].constants.tolist() == [symbol(libraries[2], "f", b"V1")]
        assert plans[1].constants.tolist() == [symbol(libraries[2], "f", b"V2")]

    def test_reference_without_version_takes_the_default(self, tmp_path, versioned):
        user = compile_library(tmp_path, "user", REFERENCE)
        libraries, plans = link_and_check([user, versioned])
        assert plans[0].constants.tolist() == [symbol(libraries[1], "f", b"V2")]

    def test_reference_never_takes_another_version(self, tmp_path, built_against_old):
        script = tmp_path / "other.map"
        script.write_text("V3 { f; };")
        other = compile_library(tmp_path, "two", "char f;", f"-Wl,--version-script={script}")
        _, plans = link_and_check([built_against_old, other])
        assert plans[0].skipped == {"unresolved symbol": 1}

    def test_unversioned_library_answers_any_version(self, tmp_path, versioned, built_against_old):
        plain = compile_library(tmp_path, "plain", "char f = 7;")
        _, plans = link_and_check([built_against_old, plain, versioned])
        assert plans[0].definers.tolist() == [1]


def test_symbolic_library_prefers_itself(tmp_path):
    first = compile_library(tmp_path, "first", "char f = 2;")
    own = compile_library(tmp_path, "own", "char f = 1; void *pointer = &f;")
    _, plans = link_and_check([first, own])
    assert plans[1].definers.tolist() == [0]
    # A linker that is told -Bsymbolic leaves no such reference, so the flag is set afterwards,
    # in place of DT_SONAME.
    patch(own, dynamic_entry(own, tag=14), "<q", 16)
    libraries, plans = link_and_check([first, own])
    assert libraries[1].symbolic
    assert plans[1].definers.tolist() == [1]


@pytest.mark.parametrize("visibility", ["protected", "default"])
def test_protected_reference_binds_in_its_own_library(tmp_path, visibility):
    first = compile_library(tmp_path, "first", "char f = 2;")
    own = compile_library(tmp_path, "own", "char f = 1; void *pointer = &f;")
    _, plans = link_and_check([first, own])
    number = relocations(own).symbol_table.names.index(b"f")
    symbol_table = struct.unpack_from("<Q", own.read_bytes(), dynamic_entry(own, tag=6) + 8)[0]
    patch(own, symbol_table + 24 * number + 5, "B", {"default": 0, "protected": 3}[visibility])
    _, plans = link_and_check([first, own])
    assert plans[1].definers.tolist() == [1 if visibility == "protected" else 0]


def test_last_relocation_of_a_word_wins(tmp_path):
    source = "static int x, y; void *p[] = {&x, (char *)&y + 1};"
    path = compile_library(tmp_path, "twice", source)
    before = planned_words(link([relocations(path)])[0])
    first, second = sorted(before)
    table = relocation_table(path)
    assert struct.unpack_from("<Q", path.read_bytes(), table + 24)[0] != 0
    patch(path, table, "<Q", struct.unpack_from("<Q", path.read_bytes(), table + 24)[0])
    _, (plan,) = link_and_check([path])
    assert plan.skipped == {"overwritten by a later relocation": 1}
    assert planned_words(plan) == {second: before[second]}
    assert first not in planned_words(plan)


def test_unaligned_words_are_counted(tmp_path):
    source = """
    static int x;
    struct __attribute__((packed)) { char c; void *p; } s = {0, &x};
    """
    _, (plan,) = link_and_check([compile_library(tmp_path, "unaligned", source)])
    assert plan.skipped == {"unaligned word": 1}


def test_words_beyond_the_file_are_counted(tmp_path):
    path = compile_library(tmp_path, "bss", "int x[99]; static int y; void *p = &y;")
    end = relocations(path).segments[-1]
    patch(path, relocation_table(path), "<Q", (end.virtual_address + end.memory_size - 16) & ~7)
    (library,), (plan,) = link_and_check([path])
    assert library.file_offsets.tolist() == [-1]
    assert plan.skipped == {"word not in the file": 1}


def test_window_covers_the_pages_with_words(tmp_path):
    source = "static int x; void *p[3000] = {[0] = &x, [1500] = &x, [2999] = &x};"
    path = compile_library(tmp_path, "window", source)
    _, (plan,) = link_and_check([path])
    page = mmap.PAGESIZE
    assert plan.window_offset % page == 0
    assert plan.window_length % page == 0 or (
        plan.window_offset + plan.window_length == path.stat().st_size
    )
    assert plan.pages.tolist() == sorted({int(o) // page for o in plan.offsets})
    assert plan.pages[0] == 0
    assert np.all(np.diff(plan.offsets.astype(np.int64)) > 0)
    assert int(plan.offsets[-1]) + 8 <= plan.window_length
    large = link([relocations(path)], page_size=1 << 20)[0]
    assert (large.window_offset, large.pages.tolist()) == (0, [0])


def test_page_size_is_checked(tmp_path):
    with pytest.raises(ValueError, match="power of two"):
        link([], page_size=5000)


def test_machines_are_not_mixed(tmp_path):
    path = compile_library(tmp_path, "x86", "static int x; void *p = &x;")
    other = tmp_path / "arm.so"
    other.write_bytes(path.read_bytes())
    patch(other, 18, "<H", 183)
    with pytest.raises(ElfError, match=r"arm\.so: is for aarch64"):
        link([relocations(path), relocations(other)])


def test_aarch64_kinds(tmp_path):
    """An x86-64 library becomes an aarch64 one, as far as relocation goes, by other numbers."""
    source = "static int x; extern int y; void *p = &x, *q = &y; extern int f(void);"
    path = compile_library(tmp_path, "arm", source + "int g(void) { return f() + y; }")
    to_aarch64 = {8: 1027, 1: 257, 6: 1025, 7: 1026}
    data = path.read_bytes()
    table = relocation_table(path)
    count = len(relocations(path))
    patch(path, 18, "<H", 183)
    for number in range(count):
        at = table + 24 * number + 8
        patch(path, at, "<I", to_aarch64[struct.unpack_from("<I", data, at)[0]])
    definer = tmp_path / "definer.so"
    compiled = compile_library(tmp_path, "definer", "int y = 1; int f(void) { return y; }")
    definer.write_bytes(compiled.read_bytes())
    patch(definer, 18, "<H", 183)
    for number in range(len(relocations(compiled))):
        at = relocation_table(definer) + 24 * number + 8
        patch(definer, at, "<I", to_aarch64[struct.unpack_from("<I", definer.read_bytes(), at)[0]])
    libraries, plans = link_and_check([path, definer])
    assert libraries[0].machine == "aarch64"
    assert plans[0].kinds == {"64": 1, "GLOB_DAT": 2, "RELATIVE": 1}


def patch(path: Path, offset: int, layout: str, value: int) -> None:
    """Write one number into a file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, value)
    path.write_bytes(data)


def dynamic_entry(path: Path, tag: int) -> int:
    """The file offset of a dynamic entry."""
    data = path.read_bytes()
    (program_offset,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(program_offset, program_offset + 56 * count, 56):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 2:
            for entry in range(offset, offset + size, 16):
                if struct.unpack_from("<q", data, entry)[0] == tag:
                    return entry
    raise AssertionError(f"{path} has no dynamic entry {tag}")


def relocation_table(path: Path) -> int:
    """The file offset of DT_RELA's table, in the first segment, where offset and address agree."""
    return struct.unpack_from("<Q", path.read_bytes(), dynamic_entry(path, tag=7) + 8)[0]
