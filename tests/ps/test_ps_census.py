# SPDX-License-Identifier: Apache-2.0
"""What is seen of a process's scratch memory from outside is what the process itself knows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest
from code_programs import converted
from support import seccomp
from support.files import PatternFile, make_file
from support.interpreter import run_python
from support.observed import observed
from support.waiting import eventually

from mapscratch.proc import range_memory
from mapscratch.proc.maps import mapped_files
from mapscratch.ps import board
from mapscratch.ps import census as scratch
from mapscratch.ps.census import CacheFigures, ScratchMapping, ScratchProcess, take_census
from mapscratch.ps.document import ps_document
from mapscratch.ps.prometheus import prometheus_lines
from mapscratch.ps.terminal import ps_lines

PAGES = 40


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> PatternFile:
    return make_file(tmp_path_factory.mktemp("ps") / "pattern", PAGES)


def the_process(pid: int) -> ScratchProcess:
    (process,) = take_census([pid]).processes
    assert process.problem is None
    assert not process.unlisted
    return process


def the_mapping(pid: int) -> ScratchMapping:
    (mapping,) = the_process(pid).mappings
    return mapping


def as_counts(mapping: ScratchMapping) -> dict[str, Any]:
    """In the words of `PageCounts`."""

    def pages(size: int | None) -> int | None:
        return None if size is None else size // PAGESIZE

    return {
        "resident": pages(mapping.resident_bytes),
        "dirty": pages(mapping.dirty_bytes),
        "droppable": pages(mapping.droppable_bytes),
        "swapped": pages(mapping.swapped_bytes),
        "pinned": pages(mapping.pinned_bytes),
        "filled": mapping.filled_pages,
        "dropped": mapping.dropped_pages,
        "rebuilt": mapping.rebuilt_pages,
        "fixup_seconds": mapping.fixup_seconds,
    }


def test_a_map(engine: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        check()
        m.drop(0, 20 * PAGESIZE)
        m.load(0)
        m.store(PAGESIZE, 1)
        pin = m.pin(8 * PAGESIZE, 3 * PAGESIZE)
        pin.__enter__()
        time.sleep(0.1)  # until the store is re-armed
        tell(asdict(m.counts()))
        wait()
        pin.__exit__(None, None, None)
        m.drop()
        tell(asdict(m.counts()))
        wait()
        m.close()
        tell()
        wait()
    """
    with observed(code, pattern.path, engine) as process:
        counts = process.hear()
        mapping = the_mapping(process.pid)
        assert (mapping.kind, mapping.engine, mapping.name) == ("map", engine, str(pattern.path))
        assert mapping.bytes == PAGES * PAGESIZE
        assert as_counts(mapping) == counts
        assert counts["pinned"] == 3
        process.go_on()
        counts = process.hear()
        assert as_counts(the_mapping(process.pid)) == counts
        assert not counts["resident"]
        before = the_process(process.pid).totals
        process.go_on()
        process.hear()
        closed = the_process(process.pid)
        assert not closed.mappings
        assert closed.totals == before  # what is closed counts on


def test_an_array_whose_fixups_take_time(lazyfree: str, pattern: PatternFile) -> None:
    code = """
        import mapscratch
        a = mapscratch.array(sys.argv[1], "f8", source=">i4", shape=(10_000,))
        for _ in range(2):
            a.sum()
            a.scratch.drop()
        a.sum()
        tell(asdict(a.scratch.counts()))
        wait()
        with a.scratch.pin():
            tell(asdict(a.scratch.counts()))
            wait()
    """
    with observed(code, pattern.path) as process:
        counts = process.hear()
        mapping = the_mapping(process.pid)
        assert (mapping.kind, mapping.engine) == ("array", "lazyfree")
        assert as_counts(mapping) == counts
        process.go_on()
        pinned = process.hear()
        assert pinned["droppable"] == 0
        assert as_counts(the_mapping(process.pid)) == pinned
        assert mapping.rebuilt_pages
        assert mapping.fixup_seconds
        totals = the_process(process.pid).totals
        assert totals
        assert totals.fixup_seconds == mapping.fixup_seconds


CACHE_IN_NEED = """
    import mapscratch, numpy as np
    cache = mapscratch.Cache(max_bytes=24 << 20)
    for round in range(2):
        for key in range(10):
            with cache.get(key, lambda: np.full(250_000, key)): pass
    cache.put("small", b"something")
    with cache.get("small"): pass
    cache._table.release_recent()
    for region in cache._runs.regions:
        region.memory.madvise(21, 0, 4 << 20)  # MADV_PAGEOUT
    cache.put("large", np.zeros(2_000_000))
    cache.put("too large", np.zeros(4_000_000))
    stats = cache.stats()
    tell(asdict(stats))
    wait()
"""


def test_a_cache_that_the_kernel_takes_from() -> None:
    with observed(CACHE_IN_NEED) as process:
        stats = process.hear()
        if not stats["lost"]:
            pytest.skip("the kernel takes no lazily freed pages here")
        mapping = the_mapping(process.pid)
        names = ("hits", "made", "lost", "evicted", "uncached", "entries", "bytes_held")
        assert mapping.cache == CacheFigures(**{name: stats[name] for name in names})
        assert mapping.cache.uncached == 1
        assert mapping.resident_bytes
        assert mapping.droppable_bytes is not None
        # The kernel marks freed pages in batches of some pages a processor.
        assert abs(mapping.droppable_bytes - stats["bytes_droppable"]) <= 64 * PAGESIZE
        assert mapping.bytes >= mapping.resident_bytes


def test_fork_and_a_fork_of_that(engine: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        import mapscratch
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        m.store(0, 1)
        check_all = lambda: (m[:], m.drop())
        check_all()

        def grandchild():
            m.load(0)
            return asdict(m.counts())

        def child():
            m.store(0, 1)
            m.drop()
            m.store(PAGESIZE, 1)
            cache.put("b", b"something")
            time.sleep(0.1)
            counts = asdict(m.counts())
            fork(grandchild)
            return counts

        before = asdict(m.counts())
        fork(child)
        tell([before, asdict(m.counts())])
        wait()
    """
    with observed(code, pattern.path, engine) as parent:
        told = [parent.hear() for _ in range(3)]
        (states,) = (each for each in told if isinstance(each[0], dict))
        children = [each for each in told if each is not states]
        pids = [parent.pid, *(pid for pid, _ in children)]
        try:
            before, after = states
            assert after == before
            assert as_counts(maps(parent.pid)) == before
            for pid, counts in children:
                assert as_counts(maps(pid)) == counts
            assert len({board_file(pid) for pid in pids}) == 3
            # A cache goes on with what was in it; what the child puts there is the child's.
            assert [caches(pid).entries for pid in pids] == [1, 2, 2]
        finally:
            for pid, _ in children:
                os.kill(pid, signal.SIGKILL)


def maps(pid: int) -> ScratchMapping:
    (mapping,) = (each for each in the_process(pid).mappings if each.kind == "map")
    return mapping


def caches(pid: int) -> CacheFigures:
    (figures,) = (each.cache for each in the_process(pid).mappings if each.cache)
    return figures


def board_file(pid: int) -> int:
    (found,) = (each for each in mapped_files(pid) if board.is_board(each))
    return found.inode


def test_a_child_starts_counting_at_zero(engine: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        m.store(0, 1)
        m.drop()
        m.store(0, 1)
        m.drop()
        fork(lambda: asdict(m.counts()))
        wait()
    """
    with observed(code, pattern.path, engine) as parent:
        child, counts = parent.hear()
        try:
            assert not counts["filled"]
            assert not counts["dropped"]
            totals = the_process(child).totals
            assert totals is not None
            assert totals.filled_pages == totals.fixup_seconds == 0
            assert the_process(parent.pid).mappings[0].dropped_pages
        finally:
            os.kill(child, signal.SIGKILL)


def test_fork_of_a_process_that_has_only_a_cache() -> None:
    code = """
        import mapscratch
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        fork(lambda: cache.put("b", b"something"))
        wait()
    """
    with observed(code) as parent:
        child, _ = parent.hear()
        try:
            assert [caches(pid).entries for pid in (parent.pid, child)] == [1, 2]
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not seccomp.is_supported(), reason="clone's number is not known here")
def test_a_raw_clone_neither_writes_to_its_parents_board_nor_has_one(pattern: PatternFile) -> None:
    code = """
        import ctypes, signal
        from support.prelude import *
        from support.seccomp import system_call_number
        m.store(0, 1)
        libc = ctypes.CDLL(None, use_errno=True)
        child = libc.syscall(system_call_number("clone"), signal.SIGCHLD, 0, 0, 0, 0)
        if not child:
            m.store(PAGESIZE, 1)
            tell([os.getpid(), m.drop()])
            while True:
                time.sleep(60)
        wait()
    """
    with observed(code, pattern.path, "dontneed") as parent:
        child, dropped = parent.hear()
        try:
            assert dropped == 2
            assert the_mapping(parent.pid).dropped_pages == 0
            assert take_census([child]).processes == ()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_stopped_process_whose_pager_cant_run(lazyfree: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        check()
        tell()
        wait()
    """
    with observed(code, pattern.path, lazyfree) as process:
        process.hear()
        os.kill(process.pid, signal.SIGSTOP)
        assert the_mapping(process.pid).filled_pages == PAGES


WAYS = {"memory": "_by_memory", "mapping": "_by_mapping", "descriptor": "_by_descriptor"}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_each_way_in_after_everything_was_closed(
    way: str, lazyfree: str, pattern: PatternFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "_by_mapping" and os.geteuid():
        pytest.skip("only for root")
    code = """
        from support.prelude import *
        os.closerange(3, 65536)
        check()
        tell()
        wait()
        in_child(check)  # the pager starts again
        tell()
        wait()
    """
    others = set(WAYS.values()) - {way}
    for other in others:
        monkeypatch.setattr(board, other, lambda pid, mapped: None)
    with observed(code, pattern.path, lazyfree) as process:
        for _ in range(2):
            process.hear()
            assert the_mapping(process.pid).filled_pages == PAGES
            process.go_on()


def test_no_way_in_is_said_and_not_an_error(
    pattern: PatternFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in WAYS.values():
        monkeypatch.setattr(board, way, lambda pid, mapped: None)
    code = """
        from support.prelude import *
        tell()
        wait()
    """
    with observed(code, pattern.path, "dontneed") as process:
        process.hear()
        (found,) = take_census([process.pid]).processes
        assert found.problem
        assert "run as root" in found.problem


def test_in_a_container_it_has_another_number(pattern: PatternFile) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root, for a namespace of process numbers")
    code = """
        from support.prelude import *
        m.store(0, 1)
        tell(os.getpid())
        wait()
    """
    options = ("--pid", "--fork", "--kill-child", sys.executable)
    with observed(
        code, pattern.path, "dontneed", interpreter="unshare", options=options
    ) as unshare:
        assert unshare.hear() == 1
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
        assert the_mapping(int(children)).dirty_bytes == PAGESIZE


def test_nobody_can_cut_off_or_change_what_is_read(pattern: PatternFile) -> None:
    if os.geteuid():
        pytest.skip("needs root, to open the file of a mapping")
    code = """
        from support.prelude import *
        tell()
        wait()
    """
    with observed(code, pattern.path, "dontneed") as process:
        process.hear()
        (found,) = (each for each in mapped_files(process.pid) if board.is_board(each))
        name = f"/proc/{process.pid}/map_files/{found.start:x}-{found.end:x}"
        descriptor = os.open(name, os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.truncate(descriptor, 0)
            with pytest.raises(PermissionError):
                os.pwrite(descriptor, b"x", 0)
        finally:
            os.close(descriptor)
        the_mapping(process.pid)


def test_locked_memory_holds_no_more_of_it_than_is_used(pattern: PatternFile) -> None:
    code = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        assert not libc.mlockall(3)  # MCL_CURRENT | MCL_FUTURE
        from support.prelude import *
        in_child(lambda: None)  # the board moves
        tell()
        wait()
    """
    if os.geteuid():
        pytest.skip("needs root, to lock all memory")
    with observed(code, pattern.path, "dontneed") as process:
        process.hear()
        (found,) = (each for each in mapped_files(process.pid) if board.is_board(each))
        usage = range_memory(found.start, found.end - found.start, process.pid).usage
        assert usage.rss <= 4 * PAGESIZE


def test_a_thousand_mappings(lazyfree: str, pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        maps = [m, *(ScratchMap(path, engine=engine) for _ in range(999))]
        for each in maps:
            each.store(0, 1)
        maps[500].drop()
        time.sleep(0.2)
        counts = [each.counts() for each in maps[:5]]
        tell([[counted.resident for counted in counts], maps[500]._address])
        wait()
        del maps[::2]
        tell()
        wait()
    """
    with observed(code, pattern.path, lazyfree) as process:
        resident, _ = process.hear()
        process_ = the_process(process.pid)
        assert len(process_.mappings) == 1000
        assert [as_counts(each)["resident"] for each in process_.mappings[:5]] == resident
        empty = [each for each in process_.mappings if not each.resident_bytes]
        assert len(empty) == 1
        process.go_on()
        process.hear()
        assert len(the_process(process.pid).mappings) >= 500


def test_what_finds_no_slot_is_counted() -> None:
    code = """
        from mapscratch._native import BoardEntry
        entries = [BoardEntry(None, None) for _ in range(17_000)]
        tell()
        wait()
        del entries[:16_500]
        tell()
        wait()
    """
    with observed(code) as process:
        process.hear()
        (full,) = take_census([process.pid]).processes
        assert len(full.mappings) == 16_383
        assert full.unlisted == 17_000 - 16_383
        process.go_on()
        process.hear()
        (half,) = take_census([process.pid]).processes
        assert len(half.mappings) + half.unlisted == 500


def test_mappings_that_come_and_go_while_they_are_read(pattern: PatternFile) -> None:
    code = """
        from support.prelude import *
        def churn():
            while True:
                for name in (path, "/proc/self/exe"):
                    with ScratchMap(name, engine="dontneed") as each:
                        each.store(0, 1)
        for _ in range(2):
            threading.Thread(target=churn, daemon=True).start()
        tell([os.path.getsize("/proc/self/exe")])
        wait()
    """
    with observed(code, pattern.path, "dontneed") as process:
        (size,) = process.hear()
        lengths = {
            str(pattern.path): PAGES * PAGESIZE,
            "/proc/self/exe": -(-size // PAGESIZE) * PAGESIZE,
        }
        seen: set[str] = set()

        def look() -> bool:
            found = board.read_board(process.pid, mapped_files(process.pid))
            assert found
            for slot in found.slots:
                assert slot.length == lengths[slot.name]
                seen.add(slot.name)
            return seen == set(lengths)

        for _ in range(60):
            look()
        assert eventually(look), seen


@pytest.mark.skipif(not seccomp.is_supported(), reason="memfd_create's number is not known here")
def test_without_memfd_create_all_works_and_is_seen(engine: str, pattern: PatternFile) -> None:
    code = """
        from support import seccomp
        seccomp.forbid("memfd_create")
        from support.prelude import *
        import mapscratch
        check()
        m.store(0, 1)
        m.drop()
        check()
        cache = mapscratch.Cache()
        cache.put("a", b"something")
        with cache.get("a"): pass
        in_child(check)
        tell([asdict(m.counts()), cache.stats().hits])
        wait()
    """
    with observed(code, pattern.path, engine) as process:
        counts, hits = process.hear()
        assert counts["filled"] in (2 * PAGES, None)
        assert counts["dropped"] != 0
        assert hits == 1
        found, cache = the_process(process.pid).mappings
        assert as_counts(found)["dropped"] == counts["dropped"]
        assert cache.cache and cache.cache.hits == 1


def test_an_ordinary_user_sees_their_own(pattern: PatternFile) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    code = """
        from support.prelude import *
        tell()
        wait()
    """
    ordinary = """
        from support.ordinary_user import become_ordinary_user
        from support.prelude import *
        import mapscratch.ps.census as scratch
        import mapscratch.ps.terminal as reporting
        other = int(sys.argv[3])
        m.store(0, 1)
        become_ordinary_user()
        census = scratch.take_census()
        assert [process.pid for process in census.processes] == [os.getpid()], census
        (mapping,) = census.processes[0].mappings
        assert mapping.dirty_bytes == PAGESIZE, mapping
        assert census.unreadable > 1
        try:
            scratch.take_census([other])
        except PermissionError as error:
            assert "root" in str(error)
        else:
            raise AssertionError("it was read")
        *_, last = reporting.ps_lines(census)
        assert last == (
            f"{census.unreadable} processes of other users were not readable: run as root"
        )
    """
    with observed(code, pattern.path, "dontneed") as process:
        process.hear()
        run_python(ordinary, pattern.path, "dontneed", process.pid)


def test_processes_that_end_meanwhile_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        take_census([ended.pid])
    monkeypatch.setattr(scratch, "all_pids", lambda: [ended.pid, os.getpid()])
    assert take_census().unreadable == 0
    # While others come and go.
    with subprocess.Popen(
        ["sh", "-c", "while :; do true | true; done"], start_new_session=True
    ) as churn:
        monkeypatch.undo()
        for _ in range(3):
            take_census()
        os.killpg(churn.pid, signal.SIGKILL)


# --- whoever writes what they like


HOSTILE = """
    import ctypes, mmap
    name = sys.argv[1] if len(sys.argv) > 1 else "mapscratch-board"
    while True:
        line = wait()
        if not line:
            break
        content, size = json.loads(line)
        content = bytes.fromhex(content).replace(b"PID!", os.getpid().to_bytes(4, "little"))
        descriptor = os.memfd_create(name)
        os.ftruncate(descriptor, max(len(content), PAGESIZE))
        mapped = mmap.mmap(descriptor, 0)
        mapped[:len(content)] = content
        os.ftruncate(descriptor, size)
        tell()
        wait()
        mapped.close()
        os.close(descriptor)
"""


def header(used: int = 3, slots: int = 16384, slot_bytes: int = 256, version: int = 1) -> bytes:
    numbers = (version, slot_bytes, slots)
    begin = b"scratch\n" + b"".join(number.to_bytes(4, "little") for number in numbers)
    rest = b"PID!" + used.to_bytes(4, "little") + b"\xff" * 4
    return (begin + rest).ljust(256, b"\xff")


def slot(
    kind: int, engine: int = 0, address: int = 0, length: int = PAGESIZE, name: int = 4
) -> bytes:
    fields = board._SLOT.pack(2, kind, engine, address, length, 1, name, *[(1 << 64) - 1] * 8)
    return (fields + b"na\x1b\xff").ljust(256, b"\0")


GARBAGE = {
    "nothing": (b"", PAGESIZE, "damaged"),
    "noise": (bytes(range(256)) * 16, PAGESIZE, "damaged"),
    "another version": (header(version=7), PAGESIZE, "another version of mapscratch"),
    "cut off": (header(used=16), 0, "may not be read|cut off"),
    "cut off within": (header(used=64) + slot(1) * 63, PAGESIZE, "cut off"),
    "more than there is": (header(used=17), PAGESIZE, "damaged"),
    "more than can be": (header(used=1 << 31, slots=1 << 31), PAGESIZE, "damaged"),
    "none": (header(used=0), PAGESIZE, "damaged"),
    "slots of no size": (header(slot_bytes=0), PAGESIZE, "damaged"),
}


@pytest.mark.parametrize(("content", "size", "problem"), GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_told_as_such(content: bytes, size: int, problem: str) -> None:
    with observed(HOSTILE) as process:
        process.go_on(json.dumps([content.hex(), size]))
        process.hear()
        (found,) = take_census([process.pid]).processes
        assert not found.mappings
        assert found.problem
        assert any(each in found.problem for each in problem.split("|"))


def test_slots_that_make_no_sense_are_left_out() -> None:
    wrong = [
        slot(9),  # no such kind
        slot(1, engine=3),
        slot(1, length=0),
        slot(1, length=1 << 63),
        slot(1, address=(1 << 64) - PAGESIZE),
        slot(1, address=5),
        b"\1" + slot(1)[1:],  # for ever being written
        os.urandom(2).ljust(256, b"\xff"),
    ]
    odd = [
        slot(1, length=(1 << 57) - PAGESIZE),  # more than anybody has
        slot(1, address=1 << 56, name=(1 << 32) - 1),
        slot(3, address=7, length=7),
        slot(4, address=0, length=(1 << 57) - PAGESIZE),  # memory of slot 1, which is no cache
    ]
    content = header(used=1 + len(wrong) + len(odd)) + b"".join(wrong + odd)
    with observed(HOSTILE) as process:
        process.go_on(json.dumps([content.hex(), PAGESIZE]))
        process.hear()
        census = take_census([process.pid])
        (found,) = census.processes
        assert found.problem is None
        assert found.unlisted == len(wrong) + (1 << 32) - 1
        assert [each.kind for each in found.mappings] == ["map", "map", "cache"]
        whole, far, cache = found.mappings
        assert whole.name.startswith("na\x1b")
        assert far.name.startswith("…")
        assert far.resident_bytes == 0
        assert whole.filled_pages == (1 << 64) - 1
        assert cache.cache
        assert "\x1b" not in "\n".join(ps_lines(census, each=True))
        assert list(prometheus_lines(census, 1.0))
        json.dumps(ps_document(census, datetime.now(UTC), 1.0)).encode()


def test_random_boards_harm_nobody() -> None:
    with observed(HOSTILE) as process:
        for _ in range(30):
            noise = os.urandom(15 * 256)
            process.go_on(json.dumps([(header(used=16) + noise).hex(), PAGESIZE]))
            process.hear()
            (found,) = take_census([process.pid]).processes
            assert found.problem is None
            process.go_on()


def test_a_board_that_is_cut_off_while_it_is_read() -> None:
    code = """
        import mmap
        content = bytes.fromhex(sys.argv[1]).replace(b"PID!", os.getpid().to_bytes(4, "little"))
        descriptor = os.memfd_create("mapscratch-board")
        os.ftruncate(descriptor, len(content))
        mapped = mmap.mmap(descriptor, 0)
        tell()
        while True:
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, 0)
    """
    with observed(code, (header(used=64) + slot(1) * 63).hex()) as process:
        process.hear()
        for _ in range(60):
            for found in take_census([process.pid]).processes:
                assert found.problem is None or "cut off" in found.problem or not found.mappings


def test_a_file_of_that_name_is_no_board(tmp_path: Path) -> None:
    maps = board.MappedFile(0, PAGESIZE, "rw-s", 0, "08:01", 1, "/memfd:mapscratch-board (deleted)")
    assert not board.is_board(maps)


# --- converted code


CALLER = """
    #include <unistd.h>
    void call(void) { getpid(); getppid(); getuid(); getgid(); }
"""
PROGRAM = """
    #include <stdio.h>
    #include <unistd.h>
    void call(void);
    int main(void) { call(); puts("called"); fflush(stdout); pause(); }
"""


def compiled(output: Path, source: str, *arguments: str) -> Path:
    command = ["cc", "-o", os.fspath(output), "-x", "c", "-", "-x", "none", *arguments]
    subprocess.run([*command, "-Wl,-z,lazy"], input=source, text=True, check=True)
    return output


@pytest.mark.parametrize("reclaimer", ["off", None])
def test_a_program_with_converted_libraries(reclaimer: str | None, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64" or not shutil.which("cc"):
        pytest.skip("needs a compiler, and x86-64")
    library = compiled(tmp_path / "libcaller.so", CALLER, "-shared", "-fPIC")
    program = compiled(tmp_path / "program", PROGRAM, str(library), "-Wl,-rpath,$ORIGIN")
    with converted(tmp_path, library, reclaimer=reclaimer) as (variables, made, _):
        running = [
            subprocess.Popen([program], env=variables, stdout=subprocess.PIPE) for _ in range(2)
        ]
        try:
            for each in running:
                assert each.stdout
                each.stdout.readline()
            census = take_census([each.pid for each in running])
            (found,) = census.runs
            # The threads that drop text may still be starting.
            assert replace(found.counts, reclaimers=0) == replace(made.counts(), reclaimers=0)
            assert found.pids == tuple(sorted(each.pid for each in running))
            assert found.counts.resolved >= 4
            assert any("mapscratch run of 2 processes" in line for line in ps_lines(census))
            for process in census.processes:
                assert process.problem is process.totals is None
                (text,) = (each for each in process.mappings if each.name == str(library))
                assert text.kind == "code"
                assert text.filled_pages is text.dropped_pages is None
                assert (text.droppable_bytes or 0) + (text.dirty_bytes or 0) >= PAGESIZE
                assert (text.engine is None) == (text.droppable_bytes is None)
        finally:
            for each in running:
                each.kill()
                each.communicate()
