# SPDX-License-Identifier: Apache-2.0
"""What processes hold, by survey and by pagemap."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from elf_oracle import compile_library, needs_compiler
from numpy.typing import NDArray
from support.held import one, python, running
from support.interpreter import run_python
from support.swap import some_swap

from mapscratch.elf import survey
from mapscratch.lab.survey import processes as census_processes
from mapscratch.lab.survey.processes import survey_processes
from mapscratch.proc import count_pages, page_entries, range_memory

pytestmark = needs_compiler

PAGE = 4096
PAGES = 300
FRAME = np.uint64((1 << 55) - 1)

# Pages with relocations, pages that the program stores to, pages that nobody touches.
LIBRARY = f"""
static int x;
void *const relocated[{PAGES} * 512] = {{[0 ... {PAGES} * 512 - 1] = &x}};
__attribute__((aligned(4096))) char changed[40 * 4096] = {{1}};
__attribute__((aligned(4096))) char untouched[40 * 4096] = {{1}};
void change(void) {{ for (int i = 0; i < 40; i++) changed[i * 4096] = 2; }}
"""

LOAD = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
library.change()
print("ready", flush=True)
sys.stdin.read()
"""

LOAD_AND_FORK = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
library.change()
children = []
for _ in range(3):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    children.append(pid)
print(*children, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return compile_library(tmp_path_factory.mktemp("held"), "held", LIBRARY)


def private_pages(pid: int, path: Path) -> int:
    """Counted without the survey: all private copies in mappings of a file."""
    areas = range_memory(0, 1 << 47, pid).areas
    return sum(
        count_pages(area.start, area.end - area.start, pid).private
        for area in areas
        if area.path == str(path)
    )


# --- one process ---------------------------------------------------------------------------------


def test_relocated_pages_are_what_pagemap_shows(library):
    known = survey(library)
    with running(python(LOAD, library)) as (pid, _):
        process, held = one(pid, library)
        assert held.relocated_pages == known.dirtied_pages >= PAGES
        assert held.relocated_pages + held.other_pages == private_pages(pid, library)
        assert 40 <= held.other_pages <= 42  # the dynamic section is stored to by ld.so
        assert held.saved_pages == 0
        # It is one of several: the interpreter, libc, ...
        assert process.relocated_pages == sum(file.relocated_pages for file in process.libraries)
        assert process.other_file_pages == sum(file.other_pages for file in process.libraries)
        assert process.relocated_pages > held.relocated_pages
        assert process.by_kind_pages["RELATIVE"] >= PAGES
        assert process.pid == pid
        # Nobody shares them.
        assert process.relocated_pss_bytes == process.relocated_pages * PAGE
        assert process.private_dirty_bytes >= process.relocated_pss_bytes
        assert process.pss_bytes >= process.private_dirty_bytes
        assert process.anonymous_bytes > PAGE


def test_every_page_that_the_interpreter_holds_is_accounted_for():
    with running(python("import ssl; print(1, flush=True); input()")) as (pid, _):
        (process,) = survey_processes([pid]).processes
        areas = range_memory(0, 1 << 47, pid).areas
        files = [area for area in areas if area.path.startswith("/")]
        private = sum(count_pages(area.start, area.end - area.start, pid).private for area in files)
        assert process.relocated_pages + process.other_file_pages == private
        assert process.relocated_pages and process.other_file_pages


def test_a_library_that_is_loaded_twice(library, tmp_path):
    code = """
import ctypes, sys
dlmopen = ctypes.CDLL(None).dlmopen
dlmopen.restype = ctypes.c_void_p
library = ctypes.CDLL(sys.argv[1])
assert dlmopen(ctypes.c_long(-1), sys.argv[1].encode(), 2)
print(1, flush=True)
input()
"""
    with running(python(code, library)) as (pid, _):
        _, held = one(pid, library)
        assert held.relocated_pages == 2 * survey(library).dirtied_pages
        assert held.relocated_pages + held.other_pages == private_pages(pid, library)


def test_pages_in_swap_are_held_too(library):
    code = """
import ctypes, sys
libc = ctypes.CDLL(None)
ctypes.CDLL(sys.argv[1])
for line in open("/proc/self/maps"):
    if sys.argv[1] in line:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 21)  # MADV_PAGEOUT
print(1, flush=True)
input()
"""
    with some_swap(), running(python(code, library)) as (pid, _):
        process, held = one(pid, library)
        assert held.relocated_pages == survey(library).dirtied_pages
        assert process.swap_bytes > PAGES // 2 * PAGE
        assert process.relocated_pss_bytes == pytest.approx(process.relocated_pages * PAGE, rel=0.1)


# --- several processes ---------------------------------------------------------------------------


def test_forked_children_share_what_their_parent_relocated(library, monkeypatch):
    with running(python(LOAD_AND_FORK, library)) as (pid, line):
        family = [pid, *map(int, line.split())]
        census = survey_processes(family)
        assert [process.pid for process in census.processes] == sorted(family)
        copies = [process.relocated_pages for process in census.processes]
        assert min(copies) >= PAGES
        # Every one of them maps all, and has but its part, or a copy of its own of what it changed.
        parts = [process.relocated_pss_bytes for process in census.processes]
        assert max(parts) < 0.5 * max(copies) * PAGE
        assert sum(parts) >= 0.95 * max(copies) * PAGE
        assert sum(parts) == pytest.approx(sum(exact_parts(family, monkeypatch)), rel=0.02)


def exact_parts(family: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same by /proc/kpagecount, which says of each page how often it is mapped (root)."""
    last: list[memoryview] = []

    def remember(*arguments: int) -> memoryview:
        last[:] = [page_entries(*arguments)]
        return last[0]

    def parts(_: object, is_in_memory: NDArray[np.bool_], *rest: object) -> NDArray[np.float64]:
        frames = np.frombuffer(last[0], dtype=np.uint64)[is_in_memory] & FRAME
        if not frames.all():
            pytest.skip("page frame numbers can't be read here")
        result = np.zeros(len(is_in_memory))
        result[is_in_memory] = [PAGE / mapped(frame) for frame in frames.tolist()]
        return result

    def mapped(frame: int) -> int:
        return int.from_bytes(os.pread(counts, 8, 8 * frame), sys.byteorder)

    try:
        counts = os.open("/proc/kpagecount", os.O_RDONLY)
    except OSError as problem:
        pytest.skip(f"/proc/kpagecount: {problem.strerror}")
    monkeypatch.setattr(census_processes, "page_entries", remember)
    monkeypatch.setattr(census_processes, "_parts", parts)
    try:
        found = survey_processes(family).processes
    finally:
        os.close(counts)
    return [process.relocated_pss_bytes for process in found]


def test_of_all_processes_those_that_ended_do_no_harm(library, monkeypatch):
    with running(python(LOAD, library)) as (pid, _):
        assert {pid, os.getpid()} <= set(census_processes.all_pids())
        # One that ended; kthreadd, which has no memory; and this one, which looks.
        there = [(1 << 22) - 1, 2, pid, os.getpid()]
        monkeypatch.setattr(census_processes, "all_pids", lambda: there)
        census = survey_processes(None)
        assert [process.pid for process in census.processes] == [pid]
        assert library in [one.path for one in census.libraries]
        assert len({(one.path, one.build_id) for one in census.libraries}) == len(census.libraries)


def test_a_process_that_ends_between_its_mappings_and_its_pages(library, monkeypatch):
    def end_first(*arguments, **named):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return read_files(*arguments, **named)

    read_files = census_processes.survey_files
    with running(python(LOAD, library)) as (pid, _):
        monkeypatch.setattr(census_processes, "survey_files", end_first)
        monkeypatch.setattr(census_processes, "all_pids", lambda: [pid])
        assert survey_processes(None).processes == ()


def test_no_such_process():
    with pytest.raises(ProcessLookupError, match="no process"):
        survey_processes([(1 << 22) - 1])


# --- files that are gone -------------------------------------------------------------------------


def load_copy(library: Path, folder: Path) -> Path:
    copy = folder / "libcopy.so"
    copy.write_bytes(library.read_bytes())
    return copy


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/PID/map_files takes root")
def test_a_deleted_library_is_read_through_its_mapping(library, tmp_path):
    copy = load_copy(library, tmp_path)
    with running(python(LOAD, copy)) as (pid, _):
        copy.unlink()
        _, held = one(pid, copy)
        assert held.relocated_pages == survey(library).dirtied_pages
        # Another file has taken its place: it is not taken for the one that is mapped.
        copy.write_bytes(b"\x7fELF and nothing more")
        _, held = one(pid, copy)
        assert held.relocated_pages == survey(library).dirtied_pages


AS_ORDINARY_USER = """
    import os, subprocess, sys, tempfile, time
    import mapscratch.lab.survey.command, mapscratch.lab.survey.processes, rich.table, rich.box
    import multiprocessing.popen_fork, multiprocessing.connection
    from mapscratch.cli import main
    from mapscratch.lab.survey.processes import survey_processes
    from pathlib import Path
    from support.ordinary_user import become_ordinary_user

    data = Path(sys.argv[1]).read_bytes()
    root = os.getppid()
    with subprocess.Popen(["sleep", "60"]) as first:
        main(["survey", "--pid", str(first.pid)])  # imports what it needs
        first.kill()
    become_ordinary_user()
    folder = tempfile.mkdtemp()
    copy = os.path.join(folder, "libcopy.so")
    open(copy, "wb").write(data)
    process = subprocess.Popen(["sleep", "60"], env={"LD_PRELOAD": copy})
    child = process.pid
    while copy not in Path(f"/proc/{child}/maps").read_text():
        time.sleep(0.01)
    os.unlink(copy)
    os.rmdir(folder)
    try:
        print("MINE")
        census = survey_processes([child])
        print(*census.skipped, sep="\\n")
        print(*(held for held in census.processes[0].libraries if "libcopy" in str(held.path)))
        print("ALL", flush=True)
        everything = survey_processes(None)
        print(root in [int(one.path.name) for one in everything.skipped
                           if one.path.parent == Path("/proc")])
        print(child in [process.pid for process in everything.processes], flush=True)
        print("STATUS", main(["survey", "--pid", str(root)]), flush=True)
    finally:
        process.kill()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="there is no other user's process to read")
def test_an_ordinary_user(library):
    done = run_python(AS_ORDINARY_USER, library)
    mine, _, rest = done.stdout.partition("MINE")[2].partition("ALL")
    assert "deleted or replaced" in mine
    assert "relocated_pages=0, saved_pages=0, other_pages=" in mine
    assert rest.split() == ["True", "True", "STATUS", "2"]
    (line,) = done.stderr.splitlines()
    assert "run as its user or as root" in line
