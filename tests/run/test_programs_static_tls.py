# SPDX-License-Identifier: Apache-2.0
"""`mapscratch run`: thread-local variables of libraries find room in each thread's block."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from code_programs import run

from mapscratch.run.segments import Facts, read_facts
from mapscratch.run.static_tls import needed_bytes, tunables

RUN = (sys.executable, "-m", "mapscratch", "run", "--")
OPTION = "glibc.rtld.optional_static_tls"
NNS = "glibc.rtld.nns"

LIBRARY = """
__attribute__((tls_model("initial-exec"), aligned(ALIGN))) __thread char block[SIZE] = {1};
int sum(void) {
    int total = 0;
    for (int at = 0; at < SIZE; at++)
        total += block[at]++;
    return total;
}
"""
PROGRAM = """
#include <pthread.h>
#include <stdio.h>
int sum(void);
static void *in_thread(void *ignored) { return (void *)(long)(sum() == 1); }
int main(void) {
    pthread_t thread;
    void *right;
    if (pthread_create(&thread, 0, in_thread, 0) || pthread_join(thread, &right))
        return 1;
    printf("%d %ld\\n", sum(), (long)right);
}
"""


@pytest.fixture(autouse=True)
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def library(folder: Path, size: int, name: str = "libblock.so", align: int = 1) -> Path:
    (folder / "library.c").write_text(LIBRARY)
    output = folder / name
    sizes = (f"-DSIZE={size}", f"-DALIGN={align}")
    source = str(folder / "library.c")
    subprocess.run(["cc", *sizes, "-shared", "-fPIC", source, "-o", str(output)], check=True)
    return output


def program(folder: Path) -> Path:
    """One that needs libblock.so."""
    (folder / "program.c").write_text(PROGRAM)
    words = ["cc", str(folder / "program.c"), f"-L{folder}", "-lblock", "-Wl,-rpath,$ORIGIN"]
    subprocess.run([*words, "-pthread", "-o", str(folder / "program")], check=True)
    return folder / "program"


def with_variables(**changes: str) -> Mapping[str, str]:
    return {**os.environ, **changes}


@pytest.mark.parametrize(("size", "align"), [(3000, 1), (20_000, 64), (800_000, 16)])
def test_what_the_command_loads_at_start_has_room(tmp_path: Path, size: int, align: int) -> None:
    library(tmp_path, size, align=align)
    for _ in range(2):  # the second time its libraries are known
        assert run([*RUN, program(tmp_path)], os.environ) == "1 1\n"


@pytest.mark.parametrize("size", [3000, 60_000])
def test_what_is_loaded_before_all_else_has_room(tmp_path: Path, size: int) -> None:
    preloaded = library(tmp_path, size)
    # Not in our own process, which has to start with it, too.
    words = [*RUN, "env", f"LD_PRELOAD={preloaded}", "echo", "started"]
    if size <= 3000:
        assert run(words, os.environ) == "started\n"
    assert run([*RUN, "echo", "started"], with_variables(LD_PRELOAD=str(preloaded))) == "started\n"


def test_what_the_command_starts_has_room(tmp_path: Path) -> None:
    library(tmp_path, 3000)
    script = f"{shlex.quote(str(program(tmp_path)))}; echo ended $?"
    assert run([*RUN, "sh", "-c", script], os.environ) == "1 1\nended 0\n"


def test_several_libraries_are_added_up(tmp_path: Path) -> None:
    paths = [library(tmp_path, 2500, f"lib{number}.so") for number in range(5)]
    preloaded = ":".join(map(str, paths))
    assert run([*RUN, "echo", "started"], with_variables(LD_PRELOAD=preloaded)) == "started\n"


def test_the_user_s_tunables_stay(tmp_path: Path) -> None:
    given = f"glibc.malloc.arena_max=1:{OPTION}=0x8000"
    words = [*RUN, "printenv", "GLIBC_TUNABLES"]
    assert run(words, with_variables(GLIBC_TUNABLES=given)) == f"{given}\n"
    given = "glibc.malloc.arena_max=1"
    told = run(words, with_variables(GLIBC_TUNABLES=given)).strip()
    assert told.split(":") == [given, f"{OPTION}=4096"]


def test_namespaces_are_left_for_the_hook() -> None:
    """With 16 of them for others ld.so would end the program."""
    variables = with_variables(GLIBC_TUNABLES="glibc.rtld.nns=16")
    assert run([*RUN, "echo", "started"], variables) == "started\n"


def test_a_hook_of_the_user_has_its_namespace(tmp_path: Path) -> None:
    hook = tmp_path / "hook.c"
    hook.write_text("unsigned la_version(unsigned version) { return version; }")
    subprocess.run(
        ["cc", "-shared", "-fPIC", str(hook), "-o", str(hook.with_suffix(".so"))], check=True
    )
    variables = with_variables(
        LD_AUDIT=str(hook.with_suffix(".so")), GLIBC_TUNABLES="glibc.rtld.nns=0xf"
    )
    assert run([*RUN, "echo", "started"], variables) == "started\n"


@pytest.mark.parametrize(
    ("given", "needed", "expected"),
    [
        ("", 0, f"{OPTION}=4096"),
        ("", 4000, f"{OPTION}=4512"),
        (f"{OPTION}=4096", 0, f"{OPTION}=4096"),
        (f"{OPTION}=4095", 0, f"{OPTION}=4095:{OPTION}=4096"),
        (f"{OPTION}=010000", 0, f"{OPTION}=010000"),
        (f"{OPTION}=9999:{OPTION}=1", 0, f"{OPTION}=9999:{OPTION}=1:{OPTION}=4096"),
        (f"{OPTION}=much", 0, f"{OPTION}=much:{OPTION}=4096"),
        (f"{OPTION}=50000:a.b.c=1", 99_000, f"{OPTION}=50000:a.b.c=1:{OPTION}=99512"),
        (f"{NNS}=16:{OPTION}=4096", 0, f"{NNS}=16:{OPTION}=4096:{NNS}=15"),
        (f"{NNS}=15:{OPTION}=4096", 0, f"{NNS}=15:{OPTION}=4096"),
    ],
)  # fmt: skip
def test_only_what_is_missing_is_added(given: str, needed: int, expected: str) -> None:
    assert tunables(given, needed, hooks=1) == expected


def test_only_what_must_be_in_the_block_counts(tmp_path: Path) -> None:
    static = library(tmp_path, 3000)
    assert 3000 <= read_facts(static).static_tls <= 3064
    found_at_a_call = tmp_path / "libdynamic.so"
    words = ["cc", "-shared", "-fPIC", str(tmp_path / "library.c"), "-DSIZE=9"]
    source = (tmp_path / "library.c").read_text().replace("initial-exec", "global-dynamic")
    (tmp_path / "library.c").write_text(source)
    subprocess.run([*words, "-DALIGN=1", "-o", str(found_at_a_call)], check=True)
    assert read_facts(found_at_a_call) == Facts("", 0)
    assert needed_bytes([static, found_at_a_call, static]) == 2 * read_facts(static).static_tls


@pytest.mark.parametrize("length", [0, 3, 63, 64, 100, 500])
def test_a_damaged_file_has_none(tmp_path: Path, length: int) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(library(tmp_path, 3000).read_bytes()[:length])
    assert read_facts(damaged) == Facts("", 0)
    assert read_facts(tmp_path / "missing") == Facts("", 0)
