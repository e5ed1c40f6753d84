# SPDX-License-Identifier: Apache-2.0
"""Opening the files of a process under ``/proc``, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal, TypeVar

T = TypeVar("T")
Pid = int | Literal["self"]
"""A process id, or ``"self"`` for the calling process."""

_NUMBER = re.compile(r"^([^\s:]+):?[ \t]+(\d+)(?:[ \t]+\w+)?[ \t]*$", re.MULTILINE | re.ASCII)


def process_file(pid: Pid, name: str) -> str:
    """Path of the file ``name`` of a process, such as ``/proc/self/smaps``.

    Raises:
        ValueError: ``pid`` is neither a positive integer nor ``"self"``.
    """
    if pid != "self" and (not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0):
        raise ValueError(f'pid must be a positive integer or "self", not {pid!r}')
    return f"/proc/{pid}/{name}"


def open_process_file(pid: Pid, name: str) -> int:
    """Open ``/proc/PID/name`` for reading; returns a descriptor that the caller closes.

    Raises:
        ValueError: ``pid`` is neither a positive integer nor ``"self"``.
        ProcessLookupError: there is no such process.
        PermissionError: the process belongs to someone else, or has more rights than this one.
    """
    path = process_file(pid, name)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists(f"/proc/{pid}"):
            raise
        raise no_such_process(pid) from None
    except PermissionError:
        raise PermissionError(errno.EACCES, _not_allowed(path)) from None


def _not_allowed(path: str) -> str:
    if os.geteuid():
        return f"reading {path} needs the rights to trace that process: run as its user or as root"
    # ptrace(2), "Ptrace access mode checking"; as in a container, for a process outside of it.
    return f"even root may not read {path} here: that process has rights that this root hasn't"


def all_pids() -> list[int]:
    """The numbers of the processes that /proc shows, threads of the kernel among them.

    Raises:
        FileNotFoundError: it shows none, not even this one.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    if not pids:
        raise FileNotFoundError(
            errno.ENOENT, "no process can be seen there; `mount -t proc proc /proc`", "/proc"
        )
    return pids


def look_at_each(
    pids: Iterable[int], look: Callable[[int], T], *, named: bool
) -> tuple[dict[int, T], dict[int, PermissionError]]:
    """What is seen of processes that go on meanwhile, and of which of them nothing may be seen.

    Args:
        pids: which.
        look: looks at one.
        named: somebody has asked for these very ones, so the first that can't be seen is an error.
            Otherwise those that end are left out, as are threads of the kernel.

    Raises:
        ProcessLookupError: one that was named does not exist, or has no memory.
        PermissionError: one that was named belongs to somebody else.
    """
    seen, refused = {}, {}
    for pid in sorted(set(pids)):
        try:
            seen[pid] = look(pid)
        except (ProcessLookupError, PermissionError) as problem:
            if named:
                raise
            if isinstance(problem, PermissionError):
                refused[pid] = problem
    return seen, refused


def command_name(pid: int) -> str:
    """The name of a process (/proc/PID/comm).

    Raises:
        ProcessLookupError: there is no such process.
    """
    with suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
        return os.fsdecode(file.read().rstrip(b"\n"))
    raise no_such_process(pid)


def user_name(pid: int) -> str:
    """The effective user of a process; a number where it has no name.

    Raises:
        ProcessLookupError: there is no such process.
    """
    # The owner of /proc/PID is root where a process isn't dumpable.
    number = int(status_words(pid, "Uid")[1])
    with suppress(KeyError, OverflowError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def status_words(pid: int, name: str) -> list[str]:
    """What stands behind a name in /proc/PID/status; nothing where this kernel has no such line.

    Raises:
        ProcessLookupError: there is no such process.
    """
    # Lines of bytes: the name of the process, which stands there too, may hold what str.splitlines
    # takes for the end of a line.
    start = f"{name}:".encode()
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        return next((line.decode().split()[1:] for line in file if line.startswith(start)), [])
    raise no_such_process(pid)


def threads_named(pid: int, name: str) -> Iterator[str]:
    """The folders in /proc of the threads of a process that have a name, none if it has ended."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            folder = f"/proc/{pid}/task/{thread}"
            with suppress(OSError), open(f"{folder}/comm", "rb") as file:
                if file.read() == f"{name}\n".encode():
                    yield folder


def read_text(path: str | os.PathLike[str]) -> str:
    """A file of the kernel's, as names of files are decoded; a carriage return stays one.

    Raises:
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        return os.fsdecode(file.read())


def read_numbers(text: str) -> dict[str, int]:
    """The figures of a list such as meminfo, vmstat or memory.stat: name, number, perhaps a unit.

    Lines of another form, which a newer kernel may have, are left out.
    """
    return {name: int(number) for name, number in _NUMBER.findall(text)}


def unescaped(field: str) -> str:
    """A name in which the kernel has written blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def no_such_process(pid: Pid) -> ProcessLookupError:
    """The error for a process that does not exist, or has ended; kernel threads have no memory."""
    return ProcessLookupError(errno.ESRCH, f"there is no process {pid} (any more) with memory")


def check_range(address: int, length: int) -> None:
    """Refuse a range that no process can have.

    Raises:
        ValueError: ``address`` or ``length`` is negative, or the range leaves 64 bits.
    """
    if address < 0 or length < 0 or address + length > 1 << 64:
        raise ValueError(f"not a range of addresses: address {address:#x}, length {length:#x}")
