# SPDX-License-Identifier: Apache-2.0
"""What is loaded into other programs needs three names of ld.so, whoever builds it and how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from support.places import TREE

from mapscratch.run.launch import ResolverCounts

RUNTIME = TREE / "runtime"


def _compilers() -> list[str]:
    """Each compiler that is here, by one of its names."""
    numbered = [f"gcc-{n}" for n in range(12, 20)] + [f"clang-{n}" for n in range(14, 26)]
    found = {}
    for name in ("gcc", "clang", *numbered):
        if path := shutil.which(name):
            found.setdefault(os.path.realpath(path), name)
    return list(found.values())


def _flags_of_distribution(options: str) -> tuple[str, str]:
    """CFLAGS and LDFLAGS that this distribution builds its packages with."""
    command = "for name in CPPFLAGS CFLAGS LDFLAGS; do dpkg-buildflags --get $name; done"
    variables = os.environ | {"DEB_BUILD_MAINT_OPTIONS": options}
    told = subprocess.run(
        ["sh", "-c", command], env=variables, capture_output=True, text=True, check=False
    )
    preprocessor, compiler, linker = (told.stdout + 3 * "\n").splitlines()[:3]
    return f"{preprocessor} {compiler}", linker


COMPILERS = _compilers()
NEEDED = {"__tls_get_addr", "_r_debug", "_dl_find_object"}
HARDENING = (
    "-O2 -Wp,-D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection "
    "-fcf-protection -fno-plt -fexceptions -fasynchronous-unwind-tables -fno-omit-frame-pointer"
)
LINKING = "-Wl,-z,relro,-z,now -Wl,--as-needed"
SANITIZED = "-fsanitize=undefined"
PROFILED = "-fprofile-generate"
FLAGS = {
    "none": ("", ""),
    "unoptimised": ("-O0 -g", ""),
    "hardened, large files, the next standard, packed relocations": (
        f"{HARDENING} -Wformat -Werror=format-security -std=gnu2x -D_FILE_OFFSET_BITS=64 "
        "-D_TIME_BITS=64",
        f"{LINKING} -Wl,-z,pack-relative-relocs",
    ),
    "link-time optimisation": (f"{HARDENING} -flto", f"{LINKING} -flto"),
    "everything checked, profiled": (
        f"-O1 {SANITIZED} {PROFILED}",
        f"{SANITIZED} {PROFILED}",
    ),
    "all that this distribution knows": _flags_of_distribution("hardening=+all optimize=+lto"),
}
"""CFLAGS and LDFLAGS, as distributions and developers set them; what goes together, together."""

ALONE = {
    "hardened": (f"{HARDENING} -Wformat -Werror=format-security", LINKING),
    "large files and times": ("-O2 -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64", ""),
    "the next standard": ("-std=gnu2x -O2 -D_FORTIFY_SOURCE=2", ""),
    "packed relocations": ("-O2", "-Wl,-z,pack-relative-relocs"),
    "everything checked": (f"-O1 {SANITIZED}", SANITIZED),
    "profiled": (f"-O2 {PROFILED}", PROFILED),
    "packages of this distribution": _flags_of_distribution(""),
}
"""The same one by one, for `make stress`."""

pytestmark = [
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="entries are x86-64 code"),
    pytest.mark.skipif(not COMPILERS, reason="no compiler: apt install build-essential"),
]


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def understands(compiler: str, flags: str, folder: Path) -> bool:
    source = folder / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    command = [compiler, "-Werror", *flags.split(), source, "-o", folder / "probe"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(folder: Path, compiler: str, c_flags: str, link_flags: str) -> tuple[Path, str]:
    """The runtime library, built by meson with these in the environment, and what was said."""
    meson = [sys.executable, "-m", "mesonbuild.mesonmain"]
    variables = os.environ | {"CC": compiler, "CFLAGS": c_flags, "LDFLAGS": link_flags}
    said = ""
    for command in (
        [*meson, "setup", str(folder), str(TREE)],
        [*meson, "compile", "-C", str(folder), "mapscratch"],
    ):
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        said += done.stdout + done.stderr
        assert done.returncode == 0, said
    return folder / "runtime" / "libmapscratch.so.1", said


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*FLAGS, *(pytest.param(kind, marks=pytest.mark.stress) for kind in ALONE)]
)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_needs_the_same_of_others_whatever_the_flags(
    compiler: str, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("mesonbuild", reason="pip install meson")
    c_flags, link_flags = (FLAGS | ALONE)[kind]
    if not understands(compiler, f"{c_flags} {link_flags}", tmp_path):
        pytest.skip(f"{compiler} here has no {c_flags} {link_flags}")
    library, _ = build(tmp_path / "build", compiler, c_flags, link_flags)
    symbols = output("readelf", "-W", "--dyn-syms", library)
    assert set(re.findall(r" UND (\w+)", symbols)) == NEEDED
    dynamic = output("readelf", "-dW", library)
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) == ["ld-linux-x86-64.so.2"]
    # ld.so takes packed relocations only from who needs libc, and must bind us lazily.
    assert "RELR" not in dynamic
    assert "NOW" not in dynamic
    for built in (tmp_path / "build" / "runtime").rglob("*.c.o"):
        names = set(output("nm", "--undefined-only", "--format=posix", built).split())
        assert not {name for name in names if is_redirected(name)}, built.name


def is_redirected(name: str) -> bool:
    """A name that only libc's headers give a function."""
    return bool(re.search(r"^__isoc|_chk$|^(mmap|open|lseek|stat|pread|prlimit)64$|_time64$", name))


OF_MEMORY = {"memcpy", "memmove", "memset", "memcmp"}
"""What compilers call by themselves: under libc's names, and there whether we call it or not."""


@pytest.mark.slow
def test_all_of_it_is_used(tmp_path: Path) -> None:
    pytest.importorskip("mesonbuild", reason="pip install meson")
    # Not optimised, so that what is called is not only inlined.
    told = "-Wl,--gc-sections,--print-gc-sections"
    _, said = build(tmp_path / "build", COMPILERS[0], "-O0 -ffunction-sections", told)
    assert "removing unused section" in said  # or this shows nothing here
    unused = set(re.findall(r"removing unused section '\.text\.(\w+)'", said))
    assert unused <= OF_MEMORY, unused


def test_counts_are_the_same_in_c_and_in_python() -> None:
    text = re.sub(r"(?s)/\*.*?\*/", "", (RUNTIME / "counts.h").read_text())
    found = re.search(r"struct counts \{(.*?)\};", text, re.DOTALL)
    assert found
    in_c = re.findall(r"\s*uint64_t (\w+);\s*", found[1])
    assert "".join(found[1].split()) == "".join(f"uint64_t{name};" for name in in_c)
    assert in_c == [field.name for field in fields(ResolverCounts)]


# Of each kind of other name that libc's headers give: by standard, by offset, by checks.
CALLS = """
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
long calls(int file, char *text, void *memory, size_t count);
long calls(int file, char *text, void *memory, size_t count) {
    char small[16];
    long sum = strtol(text, NULL, 10) + snprintf(small, count, "%s", text) + errno;
    sum += (long)mmap(NULL, count, PROT_READ, MAP_PRIVATE, file, 0) + munmap(memory, count);
    sum += madvise(memory, count, MADV_FREE) + syscall(0) + sysconf(_SC_PAGESIZE);
    free(realloc(calloc(count, 2), count)), free(strdup(text));
    strcpy(small, text), memcpy(small, text, count), memset(small, 0, count);
    memmove(small, text, count);
    return sum + (long)strlen(text) + (long)strcspn(text, small) + memcmp(small, text, count);
}
"""


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("standard", ["gnu11", "gnu17", "gnu2x"])
def test_calls_of_libc_are_our_own_under_names_that_nobody_else_gives(
    compiler: str, standard: str, tmp_path: Path
) -> None:
    source = tmp_path / "calls.c"
    source.write_text(CALLS)
    flags = [f"-std={standard}", "-O2", "-ffreestanding", "-D_GNU_SOURCE", "-w"]
    flags += ["-Wp,-D_FORTIFY_SOURCE=3", "-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64"]

    def called(*more: str) -> set[str]:
        target = tmp_path / "calls.o"
        subprocess.run([compiler, *flags, *more, "-c", source, "-o", target], check=True)
        listing = output("nm", "--undefined-only", "--format=posix", target)
        return {line.split()[0] for line in listing.splitlines()} - {"_GLOBAL_OFFSET_TABLE_"}

    renamed = {
        *("strtol", "snprintf", "errno", "mmap", "munmap", "madvise", "syscall", "sysconf"),
        *("calloc", "realloc", "free", "strdup", "strcpy", "strlen", "strcspn"),
    }
    ours = OF_MEMORY | {f"runtime_{name}" for name in renamed}
    assert called("-I", str(RUNTIME), "-include", "freestanding.h") == ours
    assert any(is_redirected(name) for name in called())  # or this shows nothing here
