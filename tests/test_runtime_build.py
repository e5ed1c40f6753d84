# SPDX-License-Identifier: Apache-2.0
"""What is loaded into other programs needs three names of ld.so, whoever builds it and how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import TREE

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
FLAGS = {
    "none": ("", ""),
    "hardened": (f"{HARDENING} -Wformat -Werror=format-security", LINKING),
    "large files and times": ("-O2 -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64", ""),
    "the next standard": ("-std=gnu2x -O2 -D_FORTIFY_SOURCE=2", ""),
    "link-time optimisation": (f"{HARDENING} -flto", f"{LINKING} -flto"),
    "packed relocations": ("-O2", "-Wl,-z,pack-relative-relocs"),
    "everything checked": ("-O1 -fsanitize=undefined", "-fsanitize=undefined"),
    "profiled": ("-O2 -fprofile-generate", "-fprofile-generate"),
    "unoptimised": ("-O0 -g", ""),
    "packages of this distribution": _flags_of_distribution(""),
    "all that it knows": _flags_of_distribution("hardening=+all optimize=+lto"),
}
"""CFLAGS and LDFLAGS, as distributions and developers set them."""

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


def build(folder: Path, compiler: str, c_flags: str, link_flags: str) -> Path:
    """The runtime library, built by meson with these in the environment."""
    meson = [sys.executable, "-m", "mesonbuild.mesonmain"]
    variables = os.environ | {"CC": compiler, "CFLAGS": c_flags, "LDFLAGS": link_flags}
    for command in (
        [*meson, "setup", str(folder), str(TREE)],
        [*meson, "compile", "-C", str(folder), "mapscratch"],
    ):
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runtime" / "libmapscratch.so.1"


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_needs_the_same_of_others_whatever_the_flags(
    compiler: str, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("mesonbuild", reason="pip install meson")
    c_flags, link_flags = FLAGS[kind]
    if not understands(compiler, f"{c_flags} {link_flags}", tmp_path):
        pytest.skip(f"{compiler} here has no {c_flags} {link_flags}")
    library = build(tmp_path / "build", compiler, c_flags, link_flags)
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


# Of each kind of other name one that glibc of any version has: by standard, by offset, by checks.
CALLS = """
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wchar.h>
long calls(int file, char *text, size_t count, struct rlimit *limit, struct pollfd *polled);
long calls(int file, char *text, size_t count, struct rlimit *limit, struct pollfd *polled) {
    char small[16];
    wchar_t wide[4];
    long sum = strtol(text, NULL, 10) + (long)strtoull(text, NULL, 10) + sscanf(text, "%d", &file);
    sum += wcstol(wide, NULL, 10) + snprintf(small, count, "%s", text) + printf("%s", text);
    sum += read(file, small, count) + pread(file, small, count, 0) + recv(file, small, count, 0);
    sum += lseek(file, 0, SEEK_SET) + open(text, O_RDONLY) + getrlimit(RLIMIT_AS, limit);
    sum += (long)mmap(NULL, count, PROT_READ, MAP_PRIVATE, file, 0) + poll(polled, count, 0);
    strcpy(small, text), memcpy(small, text, count);
    memset(small, 0, count), wmemset(wide, 0, count);
    return sum + (long)readdir(fdopendir(file)) + small[0];
}
"""


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("standard", ["gnu11", "gnu17", "gnu2x"])
def test_headers_of_libc_give_no_call_another_name(
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
        return {line.split()[0] for line in listing.splitlines()}

    written = {
        *("strtol", "strtoull", "sscanf", "wcstol", "snprintf", "printf", "read", "pread", "recv"),
        *("lseek", "open", "getrlimit", "mmap", "poll", "strcpy", "memcpy", "memset", "wmemset"),
        *("readdir", "fdopendir"),
    }
    assert called("-I", str(RUNTIME), "-include", "own_names.h") == written
    assert called() != written  # or this shows nothing here
