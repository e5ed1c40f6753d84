# SPDX-License-Identifier: Apache-2.0
"""Memory control groups: made, squeezed and removed by the real kernel; parsing by examples."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.squeezing import limit_hits, oom_kills
from support.waiting import eventually

from mapscratch.lab.rig.machine import cgroups as temporary
from mapscratch.lab.rig.machine.cgroups import (
    CgroupError,
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.lab.rig.machine.swap import probe_temporary_swap, temporary_swap
from mapscratch.proc import MemoryCgroup, cgroups, memory_cgroup, process_memory

MIB = 1 << 20

needs_groups = pytest.mark.skipif(
    not probe_temporary_memory_cgroup(), reason=probe_temporary_memory_cgroup().reason
)


@contextmanager
def worker(dirty: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that makes ``dirty`` MiB of private memory at a word on its standard input."""
    script = (
        "import sys\n"
        "print(flush=True); sys.stdin.readline()\n"
        f"data = bytearray(b'x') * ({dirty} << 20)\n"
        "print(flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def limit_of(group: TemporaryMemoryCgroup) -> int:
    return int((group.directory / cgroups.LIMIT_FILES[group.version]).read_text())


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


@needs_groups
def test_processes_go_in_and_back() -> None:
    before = memory_cgroup()
    assert before
    with worker() as process:
        with temporary_memory_cgroup(64 * MIB) as group:
            assert (limit_of(group), group.version) == (64 * MIB, before.version)
            group.add(process.pid)
            group.add(process.pid)
            group.add(os.getpid())
            inside = memory_cgroup(process.pid)
            assert inside
            assert inside.directory == group.directory
            assert memory_cgroup() == inside
            # A child that the group's processes start is not known to anyone.
            child = subprocess.Popen(["sleep", "60"])
        try:
            assert memory_cgroup() == before
            assert memory_cgroup(process.pid) == before
            assert memory_cgroup(child.pid) == before
        finally:
            child.kill()
            child.wait()
    assert not group.directory.exists()


@needs_groups
def test_a_process_goes_back_to_its_own_group_not_to_ours() -> None:
    with worker() as process, temporary_memory_cgroup() as outer:
        outer.add(process.pid)
        with temporary_memory_cgroup() as inner:
            inner.add(process.pid)
        back = memory_cgroup(process.pid)
        assert back
        assert back.directory == outer.directory


@needs_groups
def test_usage_and_reclaim_into_swap() -> None:
    if not (probe := probe_temporary_swap("zram", 128 * MIB)):
        pytest.skip(probe.reason)
    with (
        temporary_swap("zram", 128 * MIB),
        worker(dirty=32) as process,
        temporary_memory_cgroup(256 * MIB) as group,
    ):
        group.add(process.pid)
        assert group.usage() < 8 * MIB
        go_on(process)
        assert group.usage() > 32 * MIB
        assert group.statistics()["rss" if group.version == 1 else "anon"] > 30 * MIB
        assert limit_hits(group) == 0
        assert group.reclaim(16 * MIB) >= 15 * MIB
        assert limit_of(group) == 256 * MIB
        assert process_memory(process.pid).swap >= 12 * MIB
        group.set_limit(8 * MIB)
        assert limit_of(group) == 8 * MIB
        assert group.usage() <= 8 * MIB
        assert oom_kills(group) == 0


@needs_groups
def test_over_the_limit_the_kernel_kills_and_it_is_counted() -> None:
    with worker(dirty=400) as process, temporary_memory_cgroup(16 * MIB) as group:
        group.add(process.pid)
        # Were there swap meanwhile (another test's), it would be filled first: 384 MiB are more.
        go_on(process)
        killed = process.poll() is not None or eventually(
            lambda: process.poll() is not None, seconds=1
        )
        assert limit_hits(group) > 0
        assert (oom_kills(group) > 0) == killed
        if killed:
            assert process.returncode == -signal.SIGKILL


@needs_groups
def test_a_limit_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_memory_cgroup(64 * MIB) as group:
        if group.version == 1:
            # What the kernel answers to a limit below memory that it can't reclaim.
            def busy(file: Path, text: str) -> None:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

            with monkeypatch.context() as patch, pytest.raises(CgroupError, match="or add swap"):
                patch.setattr(temporary, "write", busy)
                group.set_limit(32 * MIB)
        with pytest.raises(ValueError, match="at least one page"):
            group.set_limit(1)
        with pytest.raises(ValueError, match="not negative"):
            group.reclaim(-1)
        with worker() as process:
            pass
        with pytest.raises(ProcessLookupError, match=str(process.pid)):
            group.add(process.pid)
        assert group.reclaim(MIB) >= 0
        group.set_limit(1 << 62)
    with pytest.raises(CgroupError, match="Is the group still there"):
        group.usage()
    with pytest.raises(ValueError, match="at least one page"):
        temporary_memory_cgroup(0).__enter__()


@needs_groups
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_owner_removes_it(number: signal.Signals) -> None:
    script = """
        import os, sys, time
        from mapscratch.lab.rig.machine.cgroups import temporary_memory_cgroup
        with temporary_memory_cgroup(64 << 20) as group:
            group.add(int(sys.argv[1]))
            group.add(os.getpid())
            print(group.directory, flush=True)
            time.sleep(60)
    """
    before = memory_cgroup()
    with (
        worker() as bystander,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(bystander.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout
        directory = Path(process.stdout.readline().strip())
        inside = memory_cgroup(bystander.pid)
        assert inside
        assert inside.directory == directory
        process.send_signal(number)
        process.wait()
        assert eventually(lambda: not directory.exists())
        assert memory_cgroup(bystander.pid) == before


MOUNTS_V1 = (
    "29 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "30 23 0:27 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu\n"
    "31 23 0:28 {root} /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory\n"
)


def test_version_1_is_read() -> None:
    group = cgroups._memory_cgroup("4:memory:/a/b\n1:cpu:/\n0::/\n", MOUNTS_V1.format(root="/"))
    mount = Path("/sys/fs/cgroup/me mory")
    assert group == MemoryCgroup(1, "/a/b", mount, mount / "a/b")
    # Without a namespace of its own, a container sees its group mounted as the root.
    group = cgroups._memory_cgroup("4:memory:/docker/x\n", MOUNTS_V1.format(root="/docker/x"))
    assert group == MemoryCgroup(1, "/docker/x", mount, mount)
    assert cgroups._memory_cgroup("4:memory:/b\n", MOUNTS_V1.format(root="/docker/x")) is None
    assert cgroups._memory_cgroup("4:memory:/b\n", "") is None
    assert cgroups._memory_cgroup("4:cpu:/b\n", MOUNTS_V1.format(root="/")) is None


@pytest.fixture
def version_2(tmp_path: Path) -> tuple[Path, str]:
    """A tree like that of version 2: root -> slice (delegates memory) -> scope (has processes)."""
    scope = tmp_path / "slice" / "scope"
    scope.mkdir(parents=True)
    for directory, delegated in ((tmp_path, "cpu"), (scope.parent, "cpu memory"), (scope, "")):
        (directory / "cgroup.controllers").write_text("cpu memory\n")
        (directory / "cgroup.subtree_control").write_text(f"{delegated}\n")
        (directory / "cgroup.procs").write_text("")
    return tmp_path, f"29 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"


def test_version_2_is_read_and_a_new_group_goes_beside(version_2: tuple[Path, str]) -> None:
    root, mounts = version_2
    group = cgroups._memory_cgroup("0::/slice/scope\n", mounts)
    assert group == MemoryCgroup(2, "/slice/scope", root, root / "slice/scope")
    assert temporary._possible_parents(group) == [root / "slice"]
    (root / "cgroup.subtree_control").write_text("memory\n")
    assert temporary._possible_parents(group) == [root, root / "slice"]


def test_version_2_without_the_controller_is_none(version_2: tuple[Path, str]) -> None:
    root, mounts = version_2
    (root / "cgroup.controllers").write_text("cpu\n")
    assert cgroups._memory_cgroup("0::/slice/scope\n", mounts) is None


def test_no_controller_or_no_right_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(temporary, "memory_cgroup", lambda: None)
    assert "CONFIG_MEMCG" in probe_temporary_memory_cgroup().reason
    own = MemoryCgroup(1, "/a", tmp_path / "missing", tmp_path / "missing/a")
    monkeypatch.setattr(temporary, "memory_cgroup", lambda: own)
    assert "run as root" in probe_temporary_memory_cgroup().reason
    with pytest.raises(CgroupError, match="run as root"):
        temporary_memory_cgroup(64 * MIB).__enter__()


def test_the_group_of_no_process() -> None:
    with worker() as process:
        pass
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        memory_cgroup(process.pid)


def test_without_proc_no_control_group_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a chroot: this process is there all the same, and `mapscratch run` goes on."""
    monkeypatch.setattr(cgroups, "process_file", lambda pid, name: str(tmp_path / str(pid) / name))
    assert cgroups.memory_cgroup() is None
    assert cgroups.memory_limit() is None
    with pytest.raises(ProcessLookupError):
        cgroups.memory_cgroup(1 << 22)
