# SPDX-License-Identifier: Apache-2.0
"""The engine that drops by itself: its policy, what wakes it, and what it locks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support.files import PatternFile, make_file
from support.interpreter import run_python, start_python
from support.patience import communicate

from mapscratch import ScratchMap, _native
from mapscratch.engine import dontneed
from mapscratch.lab.rig.machine.cgroups import (
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import MemoryCgroup, memory_cgroup

CHUNK = 64 * PAGESIZE
LOW, MEDIUM, CRITICAL = 0, 1, 2


@pytest.fixture
def big(tmp_path: Path) -> PatternFile:
    """Eight chunks of the drop policy."""
    return make_file(tmp_path / "big", 8 * 64)


@pytest.fixture
def m(big: PatternFile, undisturbed: None) -> Iterator[ScratchMap]:
    with ScratchMap(big.path, engine="dontneed") as m:
        yield m


def dirty(m: ScratchMap, *chunks: int) -> None:
    for chunk in chunks:
        for page in range(64):
            m.store(chunk * CHUNK + page * PAGESIZE, 1)


def dirty_pages(m: ScratchMap, chunk: int) -> int:
    return sum(m.load(chunk * CHUNK + page * PAGESIZE) == 1 for page in range(64))


@pytest.mark.parametrize(
    ("level", "least", "most"), [(LOW, 256, 256 + 64), (MEDIUM, 512, 512), (CRITICAL, 512, 512)]
)
def test_the_share_rises_with_the_level(
    m: ScratchMap, big: PatternFile, level: int, least: int, most: int
) -> None:
    dirty(m, *range(8))
    events, pages = _native.pressure_counts()
    _native.announce_pressure(level)
    assert least <= m.counts().dropped <= most
    assert _native.pressure_counts()[0] == events + 1
    assert _native.pressure_counts()[1] - pages == m.counts().dropped
    m.drop()
    assert m[:] == big.data


def test_what_came_back_after_a_drop_stays_longest(m: ScratchMap) -> None:
    hot, cold = (1, 4), (0, 2, 3, 5, 6, 7)
    for _ in range(3):
        dirty(m, *hot)
        _native.announce_pressure(CRITICAL)
    dirty(m, *hot, *cold)
    _native.announce_pressure(LOW)  # half of all pages: there are cold ones enough
    assert [dirty_pages(m, chunk) for chunk in hot] == [64, 64]
    assert sum(dirty_pages(m, chunk) for chunk in cold) == 2 * 64
    _native.announce_pressure(CRITICAL)
    assert m.counts().dirty == 0


def test_heat_fades(m: ScratchMap) -> None:
    dirty(m, 0)
    _native.announce_pressure(CRITICAL)
    dirty(m, 0)  # came back once, long ago
    for _ in range(8):
        m.drop(CHUNK)
        _native.announce_pressure(LOW)
        dirty(m, 0)
    dirty(m, *range(8))
    for _ in range(4):
        _native.announce_pressure(LOW)
    assert m.counts().dirty == 0 or dirty_pages(m, 0) <= 64


def test_pinned_pages_stay(m: ScratchMap, big: PatternFile) -> None:
    dirty(m, *range(8))
    with m.pin(2 * CHUNK + 5 * PAGESIZE, 10 * PAGESIZE):
        _native.announce_pressure(CRITICAL)
        assert dirty_pages(m, 2) == 10
        assert m.counts().dirty == 10
    _native.announce_pressure(CRITICAL)
    assert m[:] == big.data


def test_pages_that_nobody_stored_to_are_left_alone(m: ScratchMap) -> None:
    m[:]
    _native.announce_pressure(CRITICAL)
    assert m.counts().dropped == 0
    assert m.counts().resident == 512


def test_nothing_of_lazyfree_is_dropped_by_it(lazyfree: str, big: PatternFile) -> None:
    with ScratchMap(big.path, engine=lazyfree) as m, m.pin():
        m.store(0, 1)
        _native.announce_pressure(CRITICAL)
        assert m.load(0) == 1
    with ScratchMap(big.path, engine=lazyfree) as m:
        m[:]
        resident = m.counts().resident
        _native.announce_pressure(CRITICAL)
        assert m.counts().dropped == 512 - resident == 0


def test_levels_beyond_the_scale_are_its_ends(m: ScratchMap) -> None:
    dirty(m, *range(8))
    _native.announce_pressure(-5)
    assert 256 <= m.counts().dropped < 512
    _native.announce_pressure(1000)
    assert m.counts().dirty == 0
    with pytest.raises(TypeError):
        _native.announce_pressure("low")  # type: ignore[arg-type]


LOCKED = """
    import resource, sys, warnings
    from mmap import PAGESIZE
    from support.ordinary_user import become_ordinary_user
    from mapscratch import EngineUnavailable, ScratchMap

    warnings.simplefilter("ignore")
    source = open(sys.argv[1], "rb")
    data = source.read()
    limit = int(sys.argv[2]) * PAGESIZE
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    become_ordinary_user()

    def locked_kib():
        for line in open("/proc/self/status"):
            if line.startswith("VmLck"):
                return int(line.split()[1])
"""


def test_what_fits_in_the_limit_is_locked_on_fault(big: PatternFile) -> None:
    run_python(
        LOCKED
        + """
    m = ScratchMap(source, engine="dontneed", length=40 * PAGESIZE)
    promised = m.guarantees
    assert promised.no_swap == "firm" and promised.locked_bytes == 40 * PAGESIZE, promised
    assert locked_kib() == 40 * PAGESIZE // 1024
    # A second one finds less left, and says so; a quarter is never taken, so that pins work.
    other = ScratchMap(source, engine="dontneed", length=40 * PAGESIZE)
    assert other.guarantees.no_swap == "best effort"
    assert other.guarantees.locked_bytes == 8 * PAGESIZE, other.guarantees
    assert f"{8 * PAGESIZE} of {40 * PAGESIZE} bytes" in other.guarantees.no_swap_detail
    with other.pin(8 * PAGESIZE, 10 * PAGESIZE):
        assert other.counts().pinned == 10
    other.drop()
    # Locked on fault: still dropped by us, and none of it in memory before it is touched.
    for mapping in (m, other):
        assert mapping.counts().resident == 0
        for page in range(40):
            mapping.store(page * PAGESIZE, 1)
        assert mapping.counts().resident == 40
        with mapping.pin(3 * PAGESIZE, 4 * PAGESIZE):
            assert mapping.drop() == 36
        assert mapping.drop() == 4
        assert mapping[:] == data[: 40 * PAGESIZE]
        mapping.store(0, 1)
        assert mapping.drop() == 1, "it is locked on fault still, and dropped still"
    m.close()
    other.close()
    assert locked_kib() == 0
    # And what was given back can be had again.
    with ScratchMap(source, engine="dontneed", length=40 * PAGESIZE, guarantee={"no-swap"}) as m:
        assert m.guarantees.no_swap == "firm"
    try:
        ScratchMap(source, engine="dontneed", length=100 * PAGESIZE, guarantee={"no-swap"})
    except EngineUnavailable as error:
        assert f"{48 * PAGESIZE} of {100 * PAGESIZE} bytes" in str(error), error
    else:
        raise SystemExit("more than the limit allows can't be firm")
""",
        big.path,
        64,
    )


def test_without_any_limit_left_it_still_works(big: PatternFile) -> None:
    run_python(
        LOCKED
        + """
    m = ScratchMap(source, engine="dontneed")
    assert m.guarantees.locked_bytes == 0 and m.guarantees.no_swap == "best effort"
    assert "woken by" in m.guarantees.no_swap_detail
    m.store(0, 1)
    assert m.drop() == 1
    assert m[:] == data
""",
        big.path,
        0,
    )


def test_a_locked_page_is_locked_in_the_child_too(big: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        from mapscratch.proc import process_memory

        def child():
            assert m.guarantees.no_swap == promised
            m.store(0, 1)
            with open("/proc/self/status") as status:
                locked = [line for line in status if line.startswith("VmLck")]
            assert int(locked[0].split()[1]) * 1024 == m.guarantees.locked_bytes
            assert m.drop() == 1

        promised = m.guarantees.no_swap
        in_child(child)
        """,
        big.path,
        "dontneed",
    )


HOG = """
    import mmap, os, resource, sys, time
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    print("ready", flush=True)
    sys.stdin.readline()  # in the group by now
    from mapscratch import ScratchMap, _native, engines
    from support.patience import Limit
    status = {status.name: status for status in engines()}["dontneed"]
    assert sys.argv[3] in status.reason, status.reason
    data = open(sys.argv[1], "rb").read()
    m = ScratchMap(sys.argv[1], engine="dontneed")
    assert sys.argv[3] in m.guarantees.no_swap_detail, m.guarantees
    for page in range(len(data) // mmap.PAGESIZE):
        m.store(page * mmap.PAGESIZE, 1)
    # Other memory grows until the kernel announces that it is short.
    hog = []

    def read_a_file():
        with open(sys.argv[2], "rb") as file:
            while file.read(1 << 20):
                pass
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def take_memory():
        if len(hog) < 400:
            hog.append(bytearray(b"x") * (1 << 18))
        time.sleep(0.005)

    grow = read_a_file if len(sys.argv[2]) > 1 else take_memory
    limit = Limit(20)
    while not _native.pressure_counts()[0] and limit.left():
        grow()
    events, pages = _native.pressure_counts()
    while not pages and limit.left():  # it may be at work
        time.sleep(0.01)
        events, pages = _native.pressure_counts()
    assert events and pages, (events, pages)
    assert m.counts().dropped == pages or m.counts().dropped > 0
    for page in range(len(data) // mmap.PAGESIZE):
        word = m.load(page * mmap.PAGESIZE)
        offset = page * mmap.PAGESIZE
        assert word in (1, int.from_bytes(data[offset : offset + 8], "little"))
    m.drop()
    assert m[:] == data
    print(events, "announcements", pages, "pages dropped")
"""


def needs_memory_in(group: TemporaryMemoryCgroup, process: subprocess.Popen[str]) -> None:
    """Puts a `HOG` that is ready into a group, where it notices that memory is short."""
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            group.add(process.pid)
            output, errors = communicate(process, "\n", seconds=40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    assert "announcements" in output


def test_a_short_memory_cgroup_wakes_it(big: PatternFile, on_disk: Path) -> None:
    probe = probe_temporary_memory_cgroup()
    group_now = memory_cgroup()
    if not probe or group_now is None or group_now.version != 1:
        pytest.skip(f"no memory cgroup of version 1: {probe.reason}")
    # Its pages are charged to who reads it; those of a tmpfs, to who wrote it.
    (on_disk / "cache").write_bytes(os.urandom(1 << 20) * 48)
    with temporary_memory_cgroup(32 << 20) as group:
        needs_memory_in(
            group, start_python(HOG, big.path, on_disk / "cache", "memory cgroup's pressure_level")
        )


def test_a_short_memory_cgroup_of_version_2_wakes_it(big: PatternFile) -> None:
    probe = probe_temporary_memory_cgroup()
    group_now = memory_cgroup()
    if not probe or group_now is None or group_now.version != 2:
        pytest.skip(f"no memory cgroup of version 2: {probe.reason}")
    with temporary_memory_cgroup(256 << 20) as group:
        if not (group.directory / "memory.high").exists():
            pytest.skip("this kernel's memory cgroups have no memory.high")
        (group.directory / "memory.high").write_text(str(16 << 20))
        needs_memory_in(group, start_python(HOG, big.path, "-", "memory.events"))


def second_version_mounts() -> list[Path]:
    with open("/proc/self/mounts") as mounts:
        fields = [line.split() for line in mounts]
    return [Path(mount) for _, mount, kind, *_ in fields if kind == "cgroup2"]


@pytest.fixture
def group_of_second_version() -> Iterator[Path]:
    """A group of version 2 without a process, with or without a memory controller."""
    for mount in second_version_mounts():
        group = mount / f"mapscratch-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        yield group
        if group.exists():
            group.rmdir()
        return
    pytest.skip("no control groups of version 2 are mounted that this process may make one in")


def test_files_of_a_group_wake_it_until_the_group_is_gone(
    big: PatternFile, group_of_second_version: Path, tmp_path: Path
) -> None:
    """With another file of the group that tells of its changes in place of memory.events."""
    (tmp_path / "memory.events").symlink_to(group_of_second_version / "cgroup.events")
    (tmp_path / "memory.pressure").symlink_to(group_of_second_version / "memory.pressure")
    run_python(
        """
        import subprocess, sys, time
        from pathlib import Path
        from support.waiting import eventually
        from mapscratch import ScratchMap, _native
        from mapscratch.engine import dontneed

        path, group, directory = sys.argv[1:]
        _native.watch_pressure(
            _native.PRESSURE_CGROUP2, directory, _native.STALL_TRIGGERS
        )
        dontneed._woken_by = "this test"

        def announced():
            return _native.pressure_counts()[0]

        with ScratchMap(path, engine="dontneed") as m:
            assert _native.pager_thread()
            time.sleep(0.1)
            assert announced() == 0, "nothing has changed"
            m.store(0, 1)
            inhabitant = subprocess.Popen(["sleep", "100"])
            (Path(group) / "cgroup.procs").write_text(str(inhabitant.pid))
            assert eventually(lambda: announced() == 1)
            assert m.counts().dirty == 0, "a change is as bad as can be: everything goes"
            inhabitant.kill()
            inhabitant.wait()
            assert eventually(lambda: announced() == 2)
            # Removed, its files are ready for ever; nobody may be kept busy by that.
            assert eventually(lambda: not Path(group).rmdir())
            m.store(0, 1)
            before = announced(), time.process_time()
            time.sleep(0.5)
            assert announced() - before[0] <= 1, "it may say for the last time that it is empty"
            assert time.process_time() - before[1] < 0.1
            _native.announce_pressure(2)
            assert m.counts().dirty == 0
        assert _native.pager_thread() == 0
        """,
        big.path,
        group_of_second_version,
        tmp_path,
    )


def test_of_several_triggers_the_first_that_is_allowed_is_taken(tmp_path: Path) -> None:
    if not os.access("/proc/pressure/memory", os.W_OK):
        pytest.skip("no pressure stall information (CONFIG_PSI)")
    run_python(
        """
        import errno, sys
        from mapscratch import _native
        stall = _native.PRESSURE_STALL, "/proc/pressure/memory"
        for refused in ("", "nonsense", "nonsense\\nsome 2 1", "\\n"):
            try:
                _native.watch_pressure(*stall, refused)
            except OSError as error:
                assert error.errno == errno.EINVAL, error
            else:
                raise SystemExit(f"watched by {refused!r}")
        _native.watch_pressure(*stall, "nonsense\\nsome 20000 2000000\\n")
        # A group that has none of its files: the machine's stalls are watched.
        _native.watch_pressure(
            _native.PRESSURE_CGROUP2, sys.argv[1], "nonsense\\nsome 20000 2000000"
        )
        assert _native.pager_thread() == 0, "there is no mapping"
        """,
        tmp_path,
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("memory.pressure", "memory.events"), "memory.pressure and memory.events"),
        (("memory.pressure",), "cgroup's memory.pressure"),
        (("memory.events",), "cgroup's memory.events"),
        ((), ""),
    ],
)
def test_what_of_a_group_would_wake_it_is_said(
    tmp_path: Path, files: tuple[str, ...], expected: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    said = dontneed._name_of_second_version(tmp_path)
    assert expected in said
    assert bool(said) == bool(files)


def test_where_the_cgroup_says_nothing_the_machines_pressure_is_watched(
    big: PatternFile,
) -> None:
    if not os.access("/proc/pressure/memory", os.W_OK):
        pytest.skip("no pressure stall information (CONFIG_PSI)")
    run_python(
        """
        import sys
        import mapscratch.proc
        from mapscratch.engine import dontneed
        # As where there is no memory cgroup of version 1.
        dontneed.memory_cgroup = lambda: None
        from mapscratch import ScratchMap, _native, engines
        from support.ordinary_user import become_ordinary_user
        source = open(sys.argv[1], "rb")
        data = source.read()
        become_ordinary_user()
        expected = "the machine's pressure stall information"
        assert expected in {status.name: status for status in engines()}["dontneed"].reason
        m = ScratchMap(source, engine="dontneed")
        assert dontneed._woken_by == expected
        assert _native.pager_thread()
        m.store(0, 1)
        _native.announce_pressure(2)
        assert m[:] == data
        m.close()
        assert _native.pager_thread() == 0
        """,
        big.path,
    )


def test_where_nothing_wakes_it_that_is_said(big: PatternFile) -> None:
    run_python(
        """
        import sys
        from mapscratch.engine import dontneed
        dontneed.memory_cgroup = lambda: None
        dontneed._PRESSURE_STALL_FILE = "/nowhere"
        from mapscratch import ScratchMap, _native, engines
        status = {status.name: status for status in engines()}["dontneed"]
        assert status.available and "only m.drop() drops" in status.reason
        with ScratchMap(sys.argv[1], engine="dontneed") as m:
            m.store(0, 1)
            assert m.drop() == 1
        """,
        big.path,
    )


def test_the_nearest_group_with_a_limit_is_watched(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "middle" / "inner"
    inner.mkdir(parents=True)
    for directory in (inner, inner.parent, inner.parent.parent):
        (directory / "memory.max").write_text("max\n")
        (directory / "memory.high").write_text("max\n")
    group = MemoryCgroup(2, "/outer/middle/inner", tmp_path, inner)
    assert dontneed._limited(group) == inner
    (tmp_path / "outer" / "memory.max").write_text("1048576\n")
    assert dontneed._limited(group) == tmp_path / "outer"
    (inner / "memory.high").write_text("0\n")
    assert dontneed._limited(group) == inner
