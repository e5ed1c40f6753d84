# SPDX-License-Identifier: Apache-2.0
"""What conversion saves: the survey's figure, and processes that run converted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from code_programs import build_library, converted
from elf_oracle import needs_compiler
from support.held import one, python, running
from support.places import TESTS

from mapscratch.elf import LibrarySurvey, convert, survey
from mapscratch.lab.survey.census import HeldFile
from mapscratch.lab.survey.processes import survey_processes

pytestmark = [
    needs_compiler,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86-64 code is converted"),
]

PAGE = 4096
STYLES = {
    "lazy": ["-Wl,-z,lazy"],
    "now": ["-Wl,-z,now"],
    "bare": ["-Wl,-z,lazy", "-nostdlib"],
}

CALL_ALL = """
#include "callee.h"
#include <stdio.h>
#include <unistd.h>
int main(void) {
    unsigned long sum = 0;
    char byte;
    for (int i = 0; i < FUNCTIONS; i++)
        sum += callers[i](i) - expected_result(i, i);
    printf("%lu\\n", sum);
    fflush(stdout);
    return (int)read(0, &byte, 1);
}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """A folder with programs that call a thousand functions of a library.

    It is bound lazily, or at load; or lazily, and its last page has nothing but slots.
    """
    folder = tmp_path_factory.mktemp("programs")
    build_library(folder / "libcallee.so", "callee.c", "-O0")
    source = folder / "main.c"
    source.write_text(CALL_ALL)
    near = (f"-L{folder}", "-Wl,-rpath,$ORIGIN")
    headers = f"-I{TESTS / 'runtime'}"
    for mode, style in STYLES.items():
        options = (*near, "-lcallee", *style, "-Wl,-z,norelro")
        build_library(folder / f"lib{mode}.so", "caller.c", "-O0", *options)
        command = ["cc", headers, source, "-o", folder / mode, *near, f"-l{mode}", "-lcallee"]
        subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("mode", ["lazy", "now"])
def test_saved_pages_of_a_library_of_calls(programs, mode):
    library = survey(programs / f"lib{mode}.so")
    assert library.bind_mode == mode
    assert library.convertible
    assert library.plt_entries > 1024
    # 1,027 slots of 8 bytes are on three pages; the first two are PLT0's, others' are on the last.
    slots = library.pages.numbers[library.pages.of_kind("JUMP_SLOT")]
    saved = library.pages.numbers[library.pages.saved]
    assert library.plt_pages == len(slots) == 3
    assert 1 <= library.saved_pages <= 2
    assert set(saved.tolist()) < set(slots.tolist())
    assert library.text_pages >= 1024 * 16 // PAGE


def test_a_page_with_data_of_the_program_is_not_saved(programs, tmp_path):
    """Its slots no longer dirty it, but the program may, as CPython 3.14 of Debian does."""
    data = tmp_path / "data.c"
    data.write_text("char stored_to_by_the_program[20000] = {1};")
    options = (f"-L{programs}", "-lcallee", *STYLES["bare"], "-Wl,-z,norelro", str(data))
    library = survey(build_library(tmp_path / "libmixed.so", "caller.c", "-O0", *options))
    slots = np.flatnonzero(library.pages.of_kind("JUMP_SLOT"))
    last = slots[-1]
    assert library.pages.kinds[last] == library.pages.kinds[last - 1]  # nothing but slots
    assert library.pages.saved[slots].tolist() == [False, True, False]


def test_a_library_that_is_converted_already(programs, tmp_path):
    convert(programs / "liblazy.so", tmp_path / "converted.so")
    library = survey(tmp_path / "converted.so")
    assert library.not_convertible_because == "is converted already"
    assert library.dirtied_pages < survey(programs / "liblazy.so").dirtied_pages


@pytest.mark.parametrize("mode", STYLES)
def test_saved_pages_are_saved_in_a_converted_process(programs, tmp_path, mode):
    path = programs / f"lib{mode}.so"
    known = survey(path)
    assert known.saved_pages >= 1
    with running([programs / mode]) as (pid, line):
        assert line == "0\n"
        _, held = one(pid, path)
        check_held(held, known, saved=0)
    with (
        converted(tmp_path, path) as (variables, made, _),
        running([programs / mode], variables) as (pid, line),
    ):
        assert line == "0\n"
        _, held = one(pid, path)
        check_held(held, known, saved=known.saved_pages)
        assert made.counts().overlaid >= 1


def check_held(held: HeldFile, known: LibrarySurvey, saved: int) -> None:
    """Relocation has dirtied exactly what the survey says, less what is saved."""
    assert held.relocated_pages == known.dirtied_pages - saved
    assert held.saved_pages == known.saved_pages - saved


def test_saved_pages_of_real_libraries(tmp_path):
    """All that a Python with ssl loads: each page that is to be saved is, and no other one."""
    command = python("import ssl, hashlib, zlib; print(1, flush=True); input()")
    with running(command) as (pid, _):
        census = survey_processes([pid])
    known = {
        library.path: library
        for library in census.libraries
        if library.convertible and library.saved_pages
    }
    stock = {held.path: held for held in census.processes[0].libraries}
    if not known:
        pytest.skip(f"none of the {len(census.libraries)} libraries here has pages to save")
    with (
        converted(tmp_path, *known) as (variables, _, _),
        running(command, variables) as (pid, _),
    ):
        (process,) = survey_processes([pid]).processes
    after = {held.path: held for held in process.libraries}
    for path, library in known.items():
        assert stock[path].saved_pages == library.saved_pages, path
        assert after[path].saved_pages == 0, path
        saved = stock[path].relocated_pages - after[path].relocated_pages
        assert saved == library.saved_pages, path
