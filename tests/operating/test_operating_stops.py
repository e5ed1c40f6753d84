# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md, "When the pager thread can't run": who waits, who sees it, what ends it."""

from __future__ import annotations

import ctypes
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.operated import (
    ARRAY,
    MIB,
    Operated,
    lasting,
    make_source,
    operated,
    require_lazyfree,
    temporary_group,
)
from support.waiting import eventually

SOURCE = MIB // 2
PAGES = 8 * SOURCE // 4096

_PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000  # linux/wait.h: __WALL, also for threads

_HELPERS = """
    import time, zlib
    view = memoryview(array).cast("B")
    found = []
    def read(page):
        # Two pages, for which crc32 lets go of the interpreter's lock.
        found.append(zlib.crc32(view[page * 4096 : page * 4096 + 8192]))
    def tick(path):
        with open(path, "w", buffering=1) as file:
            while True:
                print(file=file)
                time.sleep(0.001)
    def start(function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread.native_id
"""
READER = ARRAY.replace("scale=0.37", "scale=0.37, block=4096") + _HELPERS
SLOW_READER = (
    """
    import mapscratch, numpy as np
    from support.array_fixups import square
    array = mapscratch.array(
        sys.argv[1], "f8", source="i1", fixup=mapscratch.fixups.Python(square), block=4096
    )
"""
    + _HELPERS
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("stops") / "bytes", SOURCE)


@pytest.fixture
def process(lazyfree: str, source: Path) -> Iterator[Operated]:
    """Each page of the array is made by itself."""
    with operated(READER, source) as process:
        process.ask("float(array[0])")
        yield process


@pytest.fixture(scope="module")
def survivor(source: Path) -> Iterator[Callable[[], Operated]]:
    require_lazyfree()
    with lasting(lambda: operated(READER, source)) as whole:
        yield whole


@pytest.fixture
def kept(survivor: Callable[[], Operated]) -> Operated:
    """The same, for tests that leave it alive: it serves them all, without pages at first."""
    process = survivor()
    process.ask("array.scratch.drop() or found.clear()")
    process.ask("float(array[0])")
    return process


@contextmanager
def stopped_thread(thread: int) -> Iterator[None]:
    """One thread of another process doesn't run: the debuggers' system call can do that."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if ptrace(_PTRACE_SEIZE, thread, None, None):
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    ptrace(_PTRACE_INTERRUPT, thread, None, None)
    os.waitpid(thread, _WALL)
    try:
        yield
    finally:
        if ptrace(_PTRACE_DETACH, thread, None, None):
            os.waitpid(thread, _WALL)  # it has ended, and its process waits until this is known


class Word(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_from_outside(pid: int, address: int) -> float | None:
    """By process_vm_readv(2), as py-spy and strace read; None: it failed."""
    value = ctypes.c_double()
    here = Word(ctypes.addressof(value), 8)
    there = Word(address, 8)
    read = ctypes.CDLL(None, use_errno=True).process_vm_readv
    count = read(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return value.value if count == 8 else None


def address_of(process: Operated, page: int) -> int:
    return int(process.ask("array.__array_interface__['data'][0]")) + page * 4096


def test_who_touches_a_missing_page_waits_and_nobody_else(kept: Operated) -> None:
    pager = kept.thread("mapscratch")
    with stopped_thread(pager):
        reader = kept.ask("start(read, 100)")
        assert eventually(lambda: kept.waits_in(reader) == "handle_userfault")
        assert kept.state(reader) in "SD"
        stack = Path(f"/proc/{kept.pid}/task/{reader}/stack")
        if not os.geteuid():  # CAP_SYS_ADMIN is needed for that
            assert "handle_userfault" in stack.read_text()
        assert kept.state(pager) == "t"
        assert kept.ask("found") == []
    assert eventually(lambda: kept.ask("len(found)") == 1)
    assert kept.ask("found[0] == zlib.crc32(view[409600 : 409600 + 8192])")


def test_who_waits_with_the_lock_of_the_interpreter_stops_it(
    process: Operated, tmp_path: Path
) -> None:
    ticks = tmp_path / "ticks"
    process.ask(f"start(tick, {str(ticks)!r})")
    assert eventually(lambda: ticks.exists() and ticks.stat().st_size > 0)
    with stopped_thread(process.thread("mapscratch")):
        process.begin("float(array[512 * 100])")
        assert eventually(lambda: process.waits_in(process.pid) == "handle_userfault")
        time.sleep(0.05)
        seen = ticks.stat().st_size
        time.sleep(0.1)
        assert ticks.stat().st_size == seen
    assert eventually(lambda: ticks.stat().st_size > seen)
    process.answer()


def test_pages_in_memory_need_no_pager(kept: Operated) -> None:
    kept.ask("float(array.max())")
    with stopped_thread(kept.thread("mapscratch")):
        assert kept.ask("float(array[512 * 100])") is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ends_the_process_ends_it(process: Operated, number: signal.Signals) -> None:
    with stopped_thread(process.thread("mapscratch")):
        reader = process.ask("start(read, 100)")
        assert eventually(lambda: process.waits_in(reader) == "handle_userfault")
        os.kill(process.pid, number)
        if number == signal.SIGKILL:
            assert eventually(lambda: not os.path.exists(f"/proc/{process.pid}/task/{reader}"))
    assert process.wait() == -number


def test_a_stopped_process_goes_on_where_it_was(kept: Operated) -> None:
    kept.begin("sum(float(array[512 * page]) for page in range(1, 1000))")
    os.kill(kept.pid, signal.SIGSTOP)
    assert eventually(lambda: kept.state() == "T")
    assert eventually(lambda: kept.state(kept.thread("mapscratch")) == "T")
    os.kill(kept.pid, signal.SIGCONT)
    total = kept.answer()
    assert total == kept.ask("float(sum(array[512:512000:512].tolist()))")


def test_who_reads_a_stopped_process_from_outside_waits_too(kept: Operated) -> None:
    if not served_in_system_calls():
        pytest.skip("without privilege such a read fails at once (EFAULT)")
    expected = kept.ask("float(np.float64(np.fromfile(sys.argv[1], 'i1')[512 * 100]) * 0.37)")
    address = address_of(kept, 100)
    found: list[float | None] = []
    pager = kept.thread("mapscratch")
    os.kill(kept.pid, signal.SIGSTOP)
    assert eventually(lambda: kept.state(pager) == "T")
    reader = threading.Thread(target=lambda: found.append(read_from_outside(kept.pid, address)))
    try:
        reader.start()
        wchan = Path(f"/proc/self/task/{reader.native_id}/wchan")
        assert eventually(lambda: wchan.read_text() == "handle_userfault")
        assert not found
    finally:
        os.kill(kept.pid, signal.SIGCONT)
        reader.join()
    assert found == [expected]


def served_in_system_calls() -> bool:
    from support.engines import STATUS

    return STATUS["lazyfree"].system_calls


def freeze(group: Path, frozen: bool) -> None:
    (group / "cgroup.freeze").write_text("1" if frozen else "0")


def is_frozen(group: Path) -> bool:
    return "frozen 1" in (group / "cgroup.events").read_text()


@contextmanager
def freezable(process: Operated) -> Iterator[Path]:
    """The process in a group of version 2 of its own, which is thawed and left in the end."""
    with temporary_group("") as group:
        if not (group / "cgroup.freeze").exists():
            pytest.skip("no cgroup.freeze: before Linux 5.2")
        (group / "cgroup.procs").write_text(str(process.pid))
        try:
            yield group
        finally:
            freeze(group, False)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def test_a_frozen_group_goes_on_where_it_was(process: Operated) -> None:
    with freezable(process) as group:
        process.begin("sum(float(array[512 * page]) for page in range(1, 1000))")
        freeze(group, True)
        assert eventually(lambda: is_frozen(group))
        freeze(group, False)
        assert process.answer() == process.ask("float(sum(array[512:512000:512].tolist()))")


def test_a_system_call_that_waits_for_a_page_is_not_frozen(process: Operated) -> None:
    if not served_in_system_calls():
        pytest.skip("without privilege it fails at once (EFAULT)")
    process.ask(
        "globals().update(null=os.open(sys.argv[1] + '.copy', os.O_CREAT | os.O_WRONLY), "
        "view=memoryview(array)[512 * 100 : 512 * 300]).__class__ and 1"
    )
    with freezable(process) as group:
        with stopped_thread(process.thread("mapscratch")):
            writer = process.ask("start(lambda: found.append(os.write(null, view)))")
            assert eventually(lambda: process.waits_in(writer) == "handle_userfault")
            freeze(group, True)
            used = processor_time(process.pid, writer)
            # It tries again and again, and uses a processor for that.
            assert eventually(lambda: processor_time(process.pid, writer) > used + 0.1)
            assert not is_frozen(group)
            freeze(group, False)
        assert eventually(lambda: process.ask("found") == [512 * 200 * 8])


def processor_time(pid: int, thread: int) -> float:
    stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_with_little_processor_time_it_is_slow_and_right(process: Operated) -> None:
    with temporary_group("cpu") as group:
        quota = group / "cpu.cfs_quota_us"
        if not quota.exists():
            pytest.skip("the kernel has no processor quotas (CONFIG_CFS_BANDWIDTH)")
        quota.write_text("5000")  # of each 100 ms
        (group / "cgroup.procs").write_text(str(process.pid))
        try:
            process.ask("float(sum(array.tolist()))")
            throttled = dict(line.split() for line in (group / "cpu.stat").open())
            assert int(throttled["nr_throttled"]) > 0
            assert process.ask("array.scratch.counts().filled") >= PAGES
            quota.write_text("-1")
            right = "np.array_equal(array, np.fromfile(sys.argv[1], 'i1').astype('f8') * 0.37)"
            assert process.ask(right)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def test_a_fixup_process_that_is_stopped_holds_up_its_readers(
    lazyfree: str, tmp_path: Path
) -> None:
    source = make_source(tmp_path / "bytes", MIB // 4)
    with operated(SLOW_READER, source) as process:
        child = process.ask("array.scratch.map.process.pid")
        os.kill(child, signal.SIGSTOP)
        reader = process.ask("start(read, 40)")
        assert eventually(lambda: process.waits_in(reader) == "handle_userfault")
        time.sleep(0.1)
        assert process.waits_in(reader) == "handle_userfault"
        os.kill(child, signal.SIGCONT)
        assert eventually(lambda: process.ask("len(found)") == 1)
        expected = "np.fromfile(sys.argv[1], 'i1')[512 * 40 : 512 * 42].astype('f8') ** 2"
        assert process.ask(f"found[0] == zlib.crc32({expected})")


def test_the_pager_has_the_priority_of_who_made_the_first_mapping(
    lazyfree: str, tmp_path: Path
) -> None:
    source = make_source(tmp_path / "bytes", SOURCE)
    with operated("os.nice(5)\n" + textwrap.dedent(ARRAY), source) as process:
        pager = process.thread("mapscratch")
        expected = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
        assert os.getpriority(os.PRIO_PROCESS, pager) == expected
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # renice -p
        assert os.getpriority(os.PRIO_PROCESS, pager) == expected
