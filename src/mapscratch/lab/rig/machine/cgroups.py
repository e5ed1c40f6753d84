# SPDX-License-Identifier: Apache-2.0
"""A memory control group of one's own for a while; `mapscratch.proc.cgroups` says by what files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import Literal

from mapscratch.lab.rig.machine.guardian import Guardian
from mapscratch.lab.rig.machine.guardian_process import write
from mapscratch.proc.availability import Availability
from mapscratch.proc.cgroups import LIMIT_FILES, MemoryCgroup, memory_cgroup, no_such_process, words
from mapscratch.proc.procfs import read_numbers


class CgroupError(OSError):
    """A control group could not be made, used or removed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TemporaryMemoryCgroup:
    """A group made by `temporary_memory_cgroup`; it is not there after its ``with`` block."""

    version: Literal[1, 2]  # of control groups
    directory: Path  # of the group's files
    _origin: Path  # the group that it was made from
    _guardian: Guardian

    def add(self, pid: int) -> None:
        """Move a process into the group, until the end. What it uses already is not moved along.

        Its children of later are in the group too; in the end they go where the group was
        made from. That there is no such process is a ProcessLookupError.
        """
        before = memory_cgroup(pid)
        home = before.directory if before else self._origin
        if home == self.directory:
            return
        self._guardian.remember("return_process", str(self.directory), pid, str(home))
        try:
            write(self.directory / "cgroup.procs", str(pid))
        except ProcessLookupError:
            raise no_such_process(pid) from None
        except OSError as error:
            raise _refused(error, f"process {pid} can't be moved into {self.directory}") from error

    def set_limit(self, limit: int) -> None:
        """Set the limit, in bytes, rounded down to pages; the kernel reclaims what is above it."""
        if limit < PAGESIZE:
            raise ValueError(f"a limit is at least one page of {PAGESIZE} bytes, not {limit}")
        try:
            write(self._limit_file, str(limit))
        except OSError as error:
            if error.errno == errno.EBUSY:
                used = f"{self.usage()} bytes are in use and can't be reclaimed below {limit}"
                advice = "take a higher limit, or add swap"
                raise CgroupError(errno.EBUSY, f"{used}: {advice}") from error
            raise _refused(error, f"the limit of {self.directory} can't be set") from error

    def usage(self) -> int:
        """Bytes that are charged to the group: memory of its processes, page cache, slab."""
        return int(self._read("memory.usage_in_bytes" if self.version == 1 else "memory.current"))

    def statistics(self) -> dict[str, int]:
        """The figures of memory.stat, by the kernel's name; most are bytes."""
        return read_numbers(self._read("memory.stat"))

    def reclaim(self, amount: int) -> int:
        """Have the kernel reclaim ``amount`` bytes of the group; as much of it as can be had.

        With v2 this is memory.reclaim (Linux 5.19). v1 has no such request: the limit is squeezed
        to what shall remain and then set back, so the group's processes are short for that time.

        By how many bytes the usage fell is returned: more or less than asked for, for the processes
        go on meanwhile.
        """
        if amount < 0:
            raise ValueError(f"an amount to reclaim is not negative: {amount}")
        before = self.usage()
        try:
            if self.version == 1:
                self._squeeze(max(before - amount, PAGESIZE))
            else:
                write(self.directory / "memory.reclaim", str(amount))
        except OSError as error:
            if error.errno == errno.ENOENT:
                needed = "memory.reclaim needs Linux 5.19: lower the limit instead"
                raise CgroupError(errno.ENOSYS, needed) from error
            # "That was all there is": a result, not an error.
            if error.errno not in (errno.EAGAIN, errno.EBUSY):
                raise _refused(error, f"{self.directory} can't be reclaimed") from error
        return max(before - self.usage(), 0)

    def _squeeze(self, remaining: int) -> None:
        former = self._limit_file.read_text()
        try:
            write(self._limit_file, str(remaining))
        finally:
            write(self._limit_file, former)

    @property
    def _limit_file(self) -> Path:
        return self.directory / LIMIT_FILES[self.version]

    def _read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text()
        except OSError as error:
            raise _refused(error, f"{self.directory / name} can't be read") from error


def probe_temporary_memory_cgroup() -> Availability:
    """Whether `temporary_memory_cgroup` is expected to work here; changes nothing."""
    try:
        group, parents = _parents()
    except CgroupError as error:
        return Availability(False, str(error.strerror))
    return Availability(True, f"a group of version {group.version} in {parents[0]}")


@contextmanager
def temporary_memory_cgroup(limit: int | None = None) -> Iterator[TemporaryMemoryCgroup]:
    """Make a memory control group with a limit of bytes, until the end of the ``with`` block.

    It is made at the root of the hierarchy if that can be written to, so that only its own limit
    counts; else under this process's own group (v1), or beside it (v2, where a group with
    processes has no children with controllers). Swap is not limited by it.

    In the end the processes in it are moved back to where they were, and it is removed, whatever
    ends this process: see `guardian`. A CgroupError says what is in the way.
    """
    own, parents = _parents()
    with Guardian(CgroupError) as guardian:
        directory = _make_group(guardian, own, parents)
        group = TemporaryMemoryCgroup(own.version, directory, own.directory, guardian)
        if limit is not None:
            group.set_limit(limit)
        yield group


def _make_group(guardian: Guardian, own: MemoryCgroup, parents: list[Path]) -> Path:
    name = f"mapscratch-{os.getpid()}-{os.urandom(4).hex()}"
    problems = []
    for directory in (parent / name for parent in parents):
        guardian.remember("remove_group", str(directory), str(own.directory))
        try:
            directory.mkdir()
            return directory
        except OSError as error:
            problems.append(f"{directory}: {error.strerror}")
    refusal = f"the kernel refuses a control group: {'; '.join(problems)}. For it, {_who_may()}"
    raise CgroupError(errno.EACCES, refusal)


def _who_may() -> str:
    """What to do where the control groups can't be written to."""
    if os.geteuid():
        return "run as root, or under `systemd-run --user --scope -p Delegate=memory`"
    return "mount the control groups writable; in a container, run as root outside of it"


def _parents() -> tuple[MemoryCgroup, list[Path]]:
    """This process's group, and where a new one may be made, the best first."""
    own = memory_cgroup()
    if own is None:
        unseen = "no memory controller can be seen from here"
        advice = "mount the control groups, or enable CONFIG_MEMCG in the kernel"
        raise CgroupError(errno.ENODEV, f"{unseen}: {advice}")
    parents = [
        parent
        for parent in _possible_parents(own)
        if os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)
    ]
    if not parents:
        closed = f"{own.mount} can't be written to by this process: {_who_may()}"
        raise CgroupError(errno.EACCES, closed)
    return own, parents


def _possible_parents(own: MemoryCgroup) -> list[Path]:
    if own.version == 1:
        return list(dict.fromkeys([own.mount, own.directory]))
    above = [path for path in own.directory.parents if path.is_relative_to(own.mount)]
    candidates = dict.fromkeys([own.mount, *above])
    return [path for path in candidates if "memory" in words(path / "cgroup.subtree_control")]


def _refused(error: OSError, what: str) -> CgroupError:
    advice = {
        errno.ENOENT: "Is the group still there?",
        errno.ENODEV: "Is the group still there?",
        errno.ESRCH: "The process has ended.",
        errno.EACCES: f"To be allowed it, {_who_may()}.",
        errno.EPERM: f"To be allowed it, {_who_may()}.",
        errno.EROFS: "Mount the control groups writable.",
    }.get(error.errno or 0, "")
    return CgroupError(error.errno or errno.EIO, f"{what}: {error.strerror}. {advice}".rstrip())
