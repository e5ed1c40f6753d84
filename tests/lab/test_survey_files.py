# SPDX-License-Identifier: Apache-2.0
"""Which files a survey finds, and that none of them can end it."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from elf_mutation import mutate
from elf_oracle import compile_library, needs_compiler
from support.held import sleeping
from support.hostile import handmade
from support.interpreter import run_python, start_python
from support.patience import communicate, patient
from support.waiting import eventually

from mapscratch.elf import default_libraries
from mapscratch.lab.survey import libraries as census_libraries
from mapscratch.lab.survey.census import CensusError
from mapscratch.lab.survey.files import find_files
from mapscratch.lab.survey.libraries import survey_files
from mapscratch.lab.survey.take import take_census

CODE = "static int x; int *p = &x;"


@pytest.fixture
def library(tmp_path) -> Path:
    path = compile_library(tmp_path, "a", CODE)
    (tmp_path / "a.c").unlink()
    return path


# --- which files ---------------------------------------------------------------------------------


@needs_compiler
def test_a_folder_is_searched_for_what_starts_like_elf(library, tmp_path):
    deep = tmp_path / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "without an ending").write_bytes(library.read_bytes())
    (deep / "script.so").write_text("#!/bin/sh\n")
    (deep / "empty.so").touch()
    found = find_files([tmp_path])
    assert found.paths == [library, deep / "without an ending"]
    assert not found.skipped


@needs_compiler
def test_links_and_other_names_lead_to_one_file(library, tmp_path):
    (tmp_path / "a-link.so").symlink_to(library)
    (tmp_path / "other-link.so").symlink_to("a-link.so")
    os.link(library, tmp_path / "same.so")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.so").symlink_to(library)
    assert find_files([tmp_path, folder, library, tmp_path / "other-link.so"]).paths == [library]
    assert find_files([folder / "link.so"]).paths == [library]


@needs_compiler
def test_what_is_behind_a_linked_folder_has_the_name_that_a_process_maps_it_by(library, tmp_path):
    """As in Debian's /lib, or a library would be counted as a file and again as one held."""
    folder = tmp_path / "folder"
    folder.mkdir()
    library = library.rename(folder / "a.so")
    (tmp_path / "link").symlink_to(folder)
    assert find_files([tmp_path / "link"]).paths == [library]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inner").symlink_to(folder)
    assert find_files([tmp_path / "other"]).paths == [library]


@needs_compiler
def test_links_in_circles_and_into_nothing(library, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "above").symlink_to(tmp_path)
    (tmp_path / "nothing.so").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.so")
    assert find_files([tmp_path]).paths == [library]
    with pytest.raises(OSError, match="symbolic links"):
        find_files([tmp_path / "loop"])
    with pytest.raises(FileNotFoundError):
        find_files([tmp_path / "nothing.so"])


def test_folders_of_the_kernel_are_not_gone_into(tmp_path):
    (tmp_path / "proc").symlink_to("/proc")
    found = find_files([tmp_path])
    assert (found.paths, found.skipped) == ([], [])


AS_ORDINARY_USER = """
    import os, sys
    from mapscratch.lab.survey.files import find_files
    from support.ordinary_user import become_ordinary_user
    become_ordinary_user()
    for one in find_files(sys.argv[1:]).skipped:
        print(one.path.name, one.reason)
"""


def test_what_may_not_be_read_is_skipped():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0)
        (folder / "secret.so").write_bytes(b"\x7fELF")
        (folder / "secret.so").chmod(0)
        output = run_python(AS_ORDINARY_USER, name).stdout
        (folder / "closed").chmod(0o700)
    assert sorted(output.splitlines()) == [
        "closed Permission denied",
        "secret.so Permission denied",
    ]


def test_installed_is_what_the_loader_and_this_python_find():
    paths = find_files(installed=True).paths
    assert len(paths) == len(set(paths)) > 50
    assert all(path.is_absolute() and path.is_file() for path in paths)
    found = set(paths)
    assert set(default_libraries()) <= found
    assert Path(sys.executable).resolve() in found
    import _ctypes

    import numpy._core._multiarray_umath as umath

    assert {Path(_ctypes.__file__).resolve(), Path(umath.__file__).resolve()} <= found


def test_without_ldconfig_the_default_folders_are_searched(monkeypatch):
    monkeypatch.setattr("mapscratch.lab.survey.files.shutil.which", lambda *_, **__: None)
    assert find_files(installed=True).paths


# --- many of them --------------------------------------------------------------------------------


@needs_compiler
def test_damaged_files_are_skipped_with_the_reason(library, tmp_path):
    data = library.read_bytes()
    randomness = random.Random(2004)
    for number in range(100):
        (tmp_path / f"mutated-{number}.so").write_bytes(mutate(randomness, data))
    (tmp_path / "cut.so").write_bytes(data[:1000])
    (tmp_path / "gone.so").write_bytes(data)
    paths = find_files([tmp_path]).paths
    (tmp_path / "gone.so").unlink()
    told = []
    census = survey_files(paths, progress=lambda what, share: told.append((what, share)))
    assert len(census.libraries) + len(census.skipped) == len(paths) > 50
    assert [library.path for library in census.libraries] == [
        path for path in paths if path in {library.path for library in census.libraries}
    ]
    reasons = {one.path.name: one.reason for one in census.skipped}
    assert "truncated" in reasons["cut.so"]
    assert reasons["gone.so"] == "No such file or directory"
    assert not any(str(tmp_path) in reason or "mistake" in reason for reason in reasons.values())
    assert [share for _, share in told] == pytest.approx(
        [number / len(paths) for number in range(1, len(paths) + 1)]
    )


@pytest.fixture
def forked(monkeypatch):
    """Workers that have what a test has put in place, also where other tests have left threads."""
    monkeypatch.setattr(census_libraries.threading, "active_count", lambda: 1)


@needs_compiler
def test_a_worker_that_is_killed_costs_its_file(library, tmp_path, monkeypatch, forked):
    victim = tmp_path / "victim.so"
    victim.write_bytes(library.read_bytes())
    survey = census_libraries.survey

    def fatal(path):
        if path == str(victim):
            os.kill(os.getpid(), signal.SIGKILL)
        return survey(path)

    monkeypatch.setattr(census_libraries, "survey", fatal)
    census = survey_files([victim, library])
    assert [found.path for found in census.libraries] == [library]
    (skipped,) = census.skipped
    assert skipped.path == victim
    assert "killed by signal 9" in skipped.reason


@needs_compiler
def test_a_file_that_takes_too_long_is_given_up(library, tmp_path, monkeypatch, forked):
    slow = tmp_path / "slow.so"
    slow.write_bytes(library.read_bytes())
    survey = census_libraries.survey
    monkeypatch.setattr(
        census_libraries,
        "survey",
        lambda path: survey(path) if path != str(slow) else time.sleep(60),
    )
    monkeypatch.setattr(census_libraries, "SECONDS_FOR_ONE", patient(1))
    # One process, so that another has to take its place.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    census = survey_files([slow, library])
    assert [found.path for found in census.libraries] == [library]
    assert [one.path for one in census.skipped] == [slow]
    assert "took longer than" in census.skipped[0].reason


@needs_compiler
def test_a_mistake_of_ours_is_told_and_ends_nothing(library, tmp_path, monkeypatch, forked):
    def wrong(path):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(census_libraries, "survey", wrong)
    census = survey_files([library])
    assert [one.reason for one in census.skipped] == [
        "ZeroDivisionError: division by zero (this is a mistake of mapscratch)"
    ]


@needs_compiler
def test_beside_other_threads_nothing_is_forked(library):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        census = survey_files([library])
    finally:
        stop.set()
        thread.join()
    assert [found.path for found in census.libraries] == [library]


def test_a_giant_of_holes_is_no_danger(tmp_path):
    """Two terabytes, sparse, that claim half a gigabyte of strings."""
    path = tmp_path / "giant.so"
    handmade(path, {5: 0x1000, 10: 1 << 30, 14: 1}, b"", 1 << 41)
    census = survey_files([path])
    assert "takes" in census.skipped[0].reason


def test_nothing_to_survey(tmp_path):
    with pytest.raises(CensusError, match="no ELF file"):
        take_census([tmp_path])
    (tmp_path / "bad.so").write_bytes(b"\x7fELF")
    with pytest.raises(CensusError, match=r"bad\.so: not an ELF file"):
        take_census([tmp_path])


def test_files_are_each_found_once_beside_processes():
    path = default_libraries()[0]
    with sleeping() as pid:
        census = take_census([path], pids=[pid])
    assert [library.path for library in census.libraries].count(path) == 1
    assert len(census.libraries) > 1
    assert len(census.processes) == 1


# --- Ctrl-C --------------------------------------------------------------------------------------

ENDLESS = """
    import os, sys, time
    from pathlib import Path
    from mapscratch.lab.survey import libraries
    at_work = Path(sys.argv.pop(1))
    def survey(path):
        (at_work / str(os.getpid())).touch()
        time.sleep(600)
    libraries.survey = survey
    from mapscratch.cli import main
    sys.exit(main(["survey", *sys.argv[1:]]))
"""


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in found.split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_ends_the_workers(number, tmp_path):
    libraries = default_libraries()[:3]
    process = start_python(ENDLESS, tmp_path, *libraries)
    with process:
        try:
            count = min(len(os.sched_getaffinity(0)), len(libraries))
            assert eventually(lambda: len(list(tmp_path.iterdir())) == count, 60)
            workers = children(process.pid)
            assert sorted(workers) == sorted(int(path.name) for path in tmp_path.iterdir())
            process.send_signal(number)
            _, errors = communicate(process, seconds=60)
        finally:
            process.kill()
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert errors == "mapscratch: interrupted; everything that was made is removed\n"
    assert eventually(lambda: not any(is_alive(pid) for pid in workers))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
