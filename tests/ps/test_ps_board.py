# SPDX-License-Identifier: Apache-2.0
"""The board harms nobody: no file, no limit, and no count of the program whose figures it holds."""

from __future__ import annotations

import mmap
import os
import signal
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support import seccomp
from support.files import PatternFile, make_file
from support.observed import observed

from mapscratch.elf.source import ElfError, open_source
from mapscratch.lab.survey import processes
from mapscratch.lab.survey.files import is_elf
from mapscratch.proc import range_memory
from mapscratch.proc.maps import MappedFile, mapped_files
from mapscratch.proc.procfs import user_name
from mapscratch.ps import board
from mapscratch.ps import census as scratch
from mapscratch.ps.census import take_census

PAGES = 40


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> PatternFile:
    return make_file(tmp_path_factory.mktemp("ps") / "pattern", PAGES)


def boards_of(pid: int) -> list[MappedFile]:
    return [each for each in mapped_files(pid) if board.is_board(each)]


# --- descriptors, limits, the switch


def test_no_file_of_the_programs_is_touched(tmp_path: Path) -> None:
    """A thread closes all descriptors and opens a file, again and again, while boards are made."""
    code = """
        import ctypes, mapscratch
        from mapscratch._native import BoardEntry
        path = sys.argv[1]
        close_range = ctypes.CDLL(None).close_range
        def churn():
            while True:
                close_range(3, 64, 0)
                try:
                    descriptor = os.open(path, os.O_RDWR)
                    os.read(descriptor, 1)
                    os.close(descriptor)
                except OSError:
                    pass
        def attempt():
            threading.Thread(target=churn, daemon=True).start()
            time.sleep(0.002)
            BoardEntry(None, None)
            child = os.fork()
            if not child:
                BoardEntry(None, None)
                os._exit(0)
            os.waitpid(child, 0)
        for _ in range(20):
            child = os.fork()
            if not child:
                try:
                    attempt()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            with open(path, "rb") as file:
                assert file.read() == b"precious"
        tell("done")
    """
    file = tmp_path / "of the program"
    file.write_bytes(b"precious")
    with observed(code, file) as process:
        assert process.hear() == "done"


def test_no_descriptor_is_opened_in_the_programs_table() -> None:
    code = """
        import resource, mapscratch
        mapscratch.Cache  # loads what it needs
        before = os.open("/dev/null", os.O_RDONLY)
        os.close(before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, before))  # none is left
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        tell()
        wait()
    """
    with observed(code) as process:
        process.hear()
        (found,) = boards_of(process.pid)
        assert found.path == "/dev/zero (deleted)"
        (mapping,) = take_census([process.pid]).processes[0].mappings
        assert mapping.cache
        assert mapping.cache.entries == 1


def test_a_limit_on_the_size_of_files_ends_nobody(lazyfree: str, pattern: PatternFile) -> None:
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        import mapscratch
        cache = mapscratch.Cache()
        from support.prelude import *
        check()
        in_child(check)
        tell()
        wait()
    """
    with observed(code, pattern.path, lazyfree) as process:
        process.hear()
        found = take_census([process.pid]).processes[0]
        assert {each.kind for each in found.mappings} == {"map", "cache"}


@pytest.mark.parametrize("value", ["off", "on"])
def test_the_switch(value: str, lazyfree: str, pattern: PatternFile) -> None:
    code = """
        import mapscratch
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        from support.prelude import *
        check()
        in_child(check)
        tell([m.counts().filled, cache.stats().entries])
        wait()
    """
    environment = {"MAPSCRATCH_BOARD": value}
    with observed(code, pattern.path, lazyfree, environment=environment) as process:
        assert process.hear() == [PAGES, 1]
        assert bool(boards_of(process.pid)) == (value == "on")
        assert bool(take_census([process.pid]).processes) == (value == "on")


# --- shared memory of no file


def test_other_shared_memory_is_no_board() -> None:
    code = """
        import mmap
        memory = mmap.mmap(-1, 16384 * 256)
        tell()
        wait()
        memory[:8] = b"scratch\\n"
        tell()
        wait()
    """
    with observed(code) as process:
        process.hear()
        (found,) = boards_of(process.pid)
        assert take_census([process.pid]).processes == ()
        if not os.geteuid():
            size = found.end - found.start
            assert not range_memory(found.start, size, process.pid).usage.rss  # looking makes none
        process.go_on()
        process.hear()
        assert take_census([process.pid]).processes[0].problem


@pytest.mark.parametrize("is_ours", [True, False])
def test_no_way_in_is_said_of_our_processes_alone(
    is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in ("_by_memory", "_by_mapping"):
        monkeypatch.setattr(board, way, lambda pid, mapped: None)
    code = """
        import mmap
        if len(sys.argv) > 1:
            import mapscratch
            cache = mapscratch.Cache()
        else:
            memory = mmap.mmap(-1, 16384 * 256)
        tell()
        wait()
    """
    with observed(code, *["ours"] * is_ours) as process:
        process.hear()
        problems = [each.problem for each in take_census([process.pid]).processes]
        assert len(problems) == is_ours
        assert all("run as root" in (problem or "") for problem in problems)


def test_locked_memory_of_no_file_holds_no_more_than_is_used() -> None:
    if os.geteuid():
        pytest.skip("needs root, to lock all memory")
    code = """
        import ctypes
        assert not ctypes.CDLL(None).mlockall(3)  # MCL_CURRENT | MCL_FUTURE
        from mapscratch._native import BoardEntry
        entry = BoardEntry(None, None)
        fork(lambda: None)
        wait()
    """
    with observed(code) as process:
        child, _ = process.hear()
        for pid in (process.pid, child):
            (found,) = boards_of(pid)
            usage = range_memory(found.start, found.end - found.start, pid).usage
            assert 0 < usage.rss <= 4 * PAGESIZE


@pytest.mark.skipif(not seccomp.is_supported(), reason="clone's number is not known here")
def test_a_raw_clone_changes_no_memory_of_its_parents() -> None:
    code = """
        import ctypes, mapscratch
        from support.seccomp import system_call_number
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        child = ctypes.CDLL(None).syscall(system_call_number("clone"), 17, 0, 0, 0, 0)
        if not child:
            cache.put("b", b"something")
            with cache.get("a"):
                tell(os.getpid())
            while True:
                time.sleep(60)
        wait()
    """
    with observed(code) as process:
        child = process.hear()
        try:
            (mapping,) = take_census([process.pid]).processes[0].mappings
            assert mapping.cache
            assert (mapping.cache.entries, mapping.cache.hits) == (1, 0)
            assert take_census([child]).processes == ()
        finally:
            os.kill(child, signal.SIGKILL)


# --- counts


def test_counts_are_exact_while_the_process_forks(lazyfree: str, pattern: PatternFile) -> None:
    """Each fork moves the board."""
    code = """
        from support.prelude import *
        other = ScratchMap(path, engine="dontneed")
        ends, dropped = [], 0
        def work():
            global dropped
            while not ends:
                for page in range(8):
                    other[page * PAGESIZE] = 1
                dropped += other.drop() or 0
        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(100):
            in_child(lambda: None)
        ends.append(True)
        thread.join()
        tell([dropped, other.counts().dropped])
        wait()
    """
    with observed(code, pattern.path, lazyfree) as process:
        dropped, counted = process.hear()
        assert dropped
        assert counted == dropped
        found = take_census([process.pid]).processes[0].mappings
        assert dropped in [each.dropped_pages for each in found]


def test_totals_never_fall(lazyfree: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        tell()
        while True:
            with ScratchMap(path, engine=engine) as each:
                each[:]
    """
    with observed(code, pattern.path, lazyfree) as process:
        process.hear()
        maps = mapped_files(process.pid)
        last = 0
        for _ in range(1500):
            found = board.read_board(process.pid, maps)
            assert found
            filled = scratch._totals(found).filled_pages
            assert filled >= last
            last = filled
        assert last


def test_a_child_has_no_mapping_that_was_being_closed(pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        def work():
            while True:
                with ScratchMap(path, engine=engine) as each:
                    each.store(0, 1)
        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(40):
            child = fork(lambda: None)
            wait()
            os.kill(child, 9)
            os.waitpid(child, 0)
    """
    with observed(code, pattern.path, "dontneed") as process:
        for _ in range(40):
            child, _ = process.hear()
            maps = mapped_files(child)
            found = board.read_board(child, maps)
            assert found
            for slot in found.slots:
                assert any(
                    each.start <= slot.address < each.end and each.path == slot.name
                    for each in maps
                )
            process.go_on()


def test_memory_that_outlives_its_cache_is_no_others() -> None:
    code = """
        import numpy as np, mapscratch
        cache = mapscratch.Cache()
        value = cache.get("a", lambda: np.ones(1 << 20)).__enter__()
        del cache
        other = mapscratch.Cache()
        tell()
        wait()
    """
    with observed(code) as process:
        process.hear()
        mappings = take_census([process.pid]).processes[0].mappings
        empty = [each for each in mappings if each.cache and not each.cache.entries]
        assert [each.bytes for each in empty] == [0]


# --- names


@pytest.mark.parametrize("name", ["a\rb", "a\x1eb", "a\x85b\u2028c", " a \t"])
def test_names_of_files_with_what_ends_a_line_elsewhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * PAGESIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        names = [each.path for each in mapped_files(os.getpid())]
    assert str(path) in names


@pytest.mark.parametrize("name", ["a\\rUid:\\t7", "a\\x1eUid: 7 7", "Uid:\\x0b7 7"])
def test_the_name_of_a_process_is_no_line_of_its_status(name: str) -> None:
    code = f"""
        import ctypes
        ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)  # PR_SET_NAME
        tell()
        wait()
    """
    with observed(code) as process:
        process.hear()
        assert user_name(process.pid) == user_name(os.getpid())


def test_a_fifo_in_the_place_of_a_mapped_file_is_not_opened(tmp_path: Path) -> None:
    """What has the path now may have the number of the file that was mapped."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    area = range_memory(0, 1 << 63).areas[0]
    mapping = replace(area, path=str(fifo), inode=fifo.stat().st_ino)
    assert processes._where(os.getpid(), mapping) is None


def test_devices_and_pipes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    really = os.open

    def watched(name: str, flags: int) -> int:
        if not flags & os.O_PATH:
            opened.append(name)
        return really(name, flags)

    monkeypatch.setattr(os, "open", watched)
    os.mkfifo(tmp_path / "fifo")
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    for path in (tmp_path / "fifo", link, tmp_path):
        assert not is_elf(os.fspath(path))
        with pytest.raises(ElfError, match="not a regular file"), open_source(path):
            pass
    assert opened == []
    assert is_elf("/proc/self/exe")
    with pytest.raises(FileNotFoundError, match="missing"):
        is_elf(os.fspath(tmp_path / "missing"))


# --- who says that each of their mappings is all of their memory


def test_slots_without_end_cost_no_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    area = range_memory(0, 1 << 63).areas[0]
    areas = [replace(area, start=index * 8192, end=index * 8192 + 4096) for index in range(4000)]
    whole = type("Range", (), {"areas": areas})
    monkeypatch.setattr(scratch, "range_memory", lambda *_: whole)
    monkeypatch.setattr(scratch, "_MOST_LOOKED_AT", 20_000 * scratch._PAGES_OF_AN_AREA)
    slots = [
        board.Slot(number, "map", "kernel", 0, 1 << 56, 0, "", (0,) * 8)
        for number in range(1, 4000)
    ]
    found = list(scratch._Memory(os.getpid(), slots).mappings())
    looked_at = sum(each.resident_bytes is not None for each in found)
    assert looked_at == 5
