# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md, "Limits": which of them counts what, and what is said when one is reached."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import seccomp
from support.interpreter import run_python
from support.operated import (
    ARRAY,
    MIB,
    Operated,
    make_source,
    operated,
    require_lazyfree,
    temporary_group,
)

SOURCE = MIB
DECODED = 8 * SOURCE


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """Where every user may read it; pytest's own directory is closed to others."""
    require_lazyfree()
    with tempfile.TemporaryDirectory(prefix="mapscratch-") as directory:
        os.chmod(directory, 0o755)
        yield make_source(Path(directory) / "bytes", SOURCE)


PRELUDE = """
import os, resource, sys
import mapscratch, numpy as np
from mapscratch import ScratchMap

def limit(which, value):
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))

def pages_of(field):
    return int(open("/proc/self/statm").read().split()[field]) * 4096

def array():
    return mapscratch.array(sys.argv[1], "f8", source="i1")

expected = np.fromfile(sys.argv[1], "i1").astype("f8")
first = mapscratch.array(sys.argv[1], "i1")  # the pager runs, and all modules are there
first.max()

def fails(make, error_number):
    try:
        make()
    except OSError as error:
        assert error.errno == error_number, error
        return str(error)
    raise AssertionError("it didn't fail")
"""


def run(code: str, source: Path) -> None:
    run_python("import errno\n" + PRELUDE + code, source)


def test_address_space_counts_the_whole_array_and_its_file(source: Path) -> None:
    run(
        """
before = pages_of(0)
ours = array()
grown = pages_of(0) - before
assert ours.nbytes + len(first) <= grown < ours.nbytes + len(first) + (4 << 20), grown
del ours
limit(resource.RLIMIT_AS, pages_of(0) + expected.nbytes // 2)
fails(array, errno.ENOMEM)
limit(resource.RLIMIT_AS, pages_of(0) + 4 * expected.nbytes)
assert np.array_equal(array(), expected)
""",
        source,
    )


def test_the_limit_of_data_counts_writable_mappings_and_no_array(source: Path) -> None:
    run(
        """
limit(resource.RLIMIT_DATA, pages_of(5) + (512 << 10))
for engine in ("lazyfree", "dontneed"):
    fails(lambda: ScratchMap(sys.argv[1], engine=engine), errno.ENOMEM)
ours = array()
assert float(ours[-1]) == expected[-1]
""",
        source,
    )


def test_the_limit_of_locked_memory_is_for_pins_and_dontneed(source: Path) -> None:
    run(
        """
import mmap
from support.ordinary_user import become_ordinary_user
ours, m = array(), ScratchMap(sys.argv[1], engine="lazyfree")
descriptor = os.open(sys.argv[1], os.O_RDONLY)
become_ordinary_user()
limit(resource.RLIMIT_MEMLOCK, 64 << 10)
assert np.array_equal(ours, expected)  # page-in needs none
with m.pin(0, 32 << 10):
    pass
assert "RLIMIT_MEMLOCK" in fails(lambda: m.pin().__enter__(), errno.ENOMEM)
half = ScratchMap(descriptor, engine="dontneed").guarantees
assert half.no_swap == "best effort" and "RLIMIT_MEMLOCK" in half.no_swap_detail, half
limit(resource.RLIMIT_MEMLOCK, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1])
""",
        source,
    )


def test_page_faults_need_no_descriptor_of_the_application(source: Path) -> None:
    run(
        """
ours = array()
count = lambda: len(os.listdir("/proc/self/fd"))
before = count()
maps = [ScratchMap(sys.argv[1], engine="lazyfree") for _ in range(10)]
assert count() - before == 10  # Python's mmap keeps one each
limit(resource.RLIMIT_NOFILE, 64)
held = []
while True:
    try:
        held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE
        break
assert np.array_equal(ours, expected)
assert bytes(maps[0][:100]) == np.int8(expected[:100]).tobytes()
failed = fails(lambda: ScratchMap(sys.argv[1], engine="lazyfree"), errno.EMFILE)
for one in held:
    os.close(one)
assert np.array_equal(array(), expected)
""",
        source,
    )


def test_mappings_that_a_mapping_takes(source: Path) -> None:
    run(
        """
count = lambda: len(open("/proc/self/maps").readlines())
def taken(make):
    before = count()
    kept.append(make())
    return count() - before
kept = []
import mmap
for make in (array, lambda: ScratchMap(sys.argv[1], engine="lazyfree")):
    assert taken(make) <= 3
assert taken(lambda: ScratchMap(sys.argv[1], engine="dontneed")) <= 2
m = kept[1]
before = count()
from contextlib import ExitStack
with ExitStack() as pins:
    for page in range(1, 101, 2):
        pins.enter_context(m.pin(page * 4096, 4096))
    split = count() - before
    assert 100 <= split <= 110, split  # each pinned page stands alone
    for page in range(0, 200):
        m.store(page * 4096, 1)
    m.drop()
    assert count() - before - split < 10
assert count() - before < 10  # together again
""",
        source,
    )


def test_at_the_limit_of_mappings_the_next_fails_and_the_others_work(source: Path) -> None:
    run(
        """
import ctypes, mmap
most = int(open("/proc/sys/vm/max_map_count").read())
m = ScratchMap(sys.argv[1], engine="lazyfree")
data = open(sys.argv[1], "rb").read()
area = mmap.mmap(-1, 4096 * (most + 2), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
protect = ctypes.CDLL(None, use_errno=True).mprotect
more = []
# Neighbours that differ in protection are mappings of their own.
for page in range(0, most, 2):
    if protect(ctypes.c_void_p(address + page * 4096), 4096, 0):
        break
else:
    raise AssertionError("the limit is not reached")
assert ctypes.get_errno() == errno.ENOMEM
# The kernel's last one or two.
for _ in range(3):
    try:
        more.append(ScratchMap(sys.argv[1], engine="lazyfree"))
    except OSError as error:
        assert error.errno == errno.ENOMEM, error
        break
else:
    raise AssertionError("it didn't fail")
first.scratch.drop()
assert first.max() == expected.max()
m.store(0, 7)
m.drop()
assert m[:64] == data[:64]
fails(lambda: m.pin(40960, 4096).__enter__(), errno.ENOMEM)
""",
        source,
    )


@contextmanager
def limited_to_its_threads(process: Operated) -> Iterator[Path]:
    """A process that may start no further thread; it is killed in the end."""
    with temporary_group("pids") as group:
        (group / "cgroup.procs").write_text(str(process.pid))
        try:
            (group / "pids.max").write_text((group / "pids.current").read_text())
            yield group
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def test_the_limit_of_threads_counts_the_pager(source: Path) -> None:
    with (
        operated(
            """
            import mapscratch, numpy as np
            def make():
                try:
                    return float(mapscratch.array(sys.argv[1], "f8", source="i1")[0])
                except OSError as error:
                    return str(error)
            """,
            source,
        ) as process,
        limited_to_its_threads(process) as group,
    ):
        message = process.ask("make()")
        assert "TasksMax" in message
        assert "RLIMIT_NPROC" in message
        (group / "pids.max").write_text("max")
        assert isinstance(process.ask("make()"), float)


def test_dontneed_without_a_thread_says_that_nothing_wakes_it(source: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 64 << 10:
        pytest.skip("RLIMIT_MEMLOCK is very low")
    with (
        operated(
            """
            import resource, mapscratch
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10,) * 2)
            def make():
                m = mapscratch.ScratchMap(sys.argv[1], engine="dontneed")
                return m.guarantees.no_swap_detail
            """,
            source,
        ) as process,
        limited_to_its_threads(process) as group,
    ):
        assert "woken by: nothing" in process.ask("make()")
        (group / "pids.max").write_text("max")
        assert "woken by: nothing" not in process.ask("make()")


@pytest.mark.skipif(not seccomp.is_supported(), reason="system call numbers are not known here")
def test_a_sandbox_without_userfaultfd_is_told_what_to_allow(source: Path) -> None:
    run(
        """
from support.ordinary_user import become_ordinary_user
from support.seccomp import forbid
become_ordinary_user()  # root has /dev/userfaultfd as well
forbid("userfaultfd")
try:
    array()
except mapscratch.EngineUnavailable as error:
    message = str(error)
for words in ("userfaultfd is not allowed here: Operation not permitted",
              "seccomp profile", "vm.unprivileged_userfaultfd", "/dev/userfaultfd",
              "mapscratch.Cache"):
    assert words in message, message
assert ScratchMap(sys.argv[1]).engine == "dontneed"
assert mapscratch.Cache().is_purgeable
""",
        source,
    )


@pytest.mark.skipif(not seccomp.is_supported(), reason="system call numbers are not known here")
def test_the_device_is_enough_where_the_system_call_is_forbidden(source: Path) -> None:
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        pytest.skip("no access to /dev/userfaultfd (Linux 6.1)")
    run(
        """
from support.seccomp import forbid
del first
forbid("userfaultfd")
status = next(one for one in mapscratch.engines() if one.name == "lazyfree")
assert status.available and status.system_calls, status
assert np.array_equal(array(), expected)
""",
        source,
    )


def test_an_ordinary_user_gets_page_faults_but_not_those_of_system_calls(source: Path) -> None:
    if os.geteuid():
        pytest.skip("this test gives up root to see the difference")
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip()
    if setting != "0" or (os.access("/dev/userfaultfd", os.R_OK) and _open_to_all()):
        pytest.skip("userfaultfd is open to all here")
    run(
        """
from support.ordinary_user import become_ordinary_user
del first
descriptor = os.open(sys.argv[1], os.O_RDONLY)
import gc, warnings
gc.collect()
become_ordinary_user()
warnings.simplefilter("ignore")
status = next(one for one in mapscratch.engines() if one.name == "lazyfree")
assert status.available and not status.system_calls, status
m = ScratchMap(descriptor, engine="lazyfree")
assert m.guarantees.system_calls is False
assert m[:100] == np.int8(expected[:100]).tobytes()
read, write = os.pipe()
fails(lambda: os.write(write, memoryview(m)[4096 * 100 : 4096 * 101]), errno.EFAULT)
with m.pin(4096 * 100, 4096):
    assert os.write(write, memoryview(m)[4096 * 100 : 4096 * 101]) == 4096
""",
        source,
    )


def _open_to_all() -> bool:
    return bool(os.stat("/dev/userfaultfd").st_mode & 0o006)


def test_huge_pages_and_swap_settings_are_the_mappings_own(source: Path) -> None:
    from mapscratch.proc import range_memory

    with operated(ARRAY, source) as process:
        address = process.ask("array.__array_interface__['data'][0]")
        flags = range_memory(address, DECODED, process.pid).vm_flags
        # NOHUGEPAGE: khugepaged leaves it alone. NORESERVE, and not accounted as committed memory.
        assert {"nh", "nr"} <= flags
        assert "ac" not in flags
