# SPDX-License-Identifier: Apache-2.0
"""Opening the files of a process under ``/proc``, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import pwd
import re
from contextlib import suppress
from typing import Literal

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
    number = _user_number(pid)
    with suppress(KeyError, OverflowError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _user_number(pid: int) -> int:
    # The owner of /proc/PID is root where a process isn't dumpable. Lines of bytes: the name of the
    # process, which stands there too, may hold what str.splitlines takes for the end of a line.
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        return next((int(line.split()[2]) for line in file if line.startswith(b"Uid:")), -1)
    raise no_such_process(pid)


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
