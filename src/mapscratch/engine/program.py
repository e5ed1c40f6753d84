# SPDX-License-Identifier: Apache-2.0
"""The program that this process belongs to, and what has been said in it.

A pool's processes (of multiprocessing, however they start; of joblib; of Dask) are one program with
who has made the pool: `multiprocessing.parent_process` tells them. Who starts another interpreter
by itself starts another program.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path

_VARIABLE = "MAPSCRATCH_PROGRAM"
"""For the processes that a pool's process makes pools of: its identity, and its program."""

_known: tuple[str, str] | None = None
"""Who has found out, and the program; a forked child sees its parent's."""

_has_asked = False


def program() -> str:
    """Names the program that this process belongs to: the identity of its first process."""
    global _known  # noqa: PLW0603 - it is known once a process
    own = _identity(os.getpid())
    if _known is None or _known[0] != own:
        found = _find(own)
        if found != own:
            os.environ[_VARIABLE] = f"{own} {found}"
        _known = own, found
    return _known[1]


def first_in_program(what: str) -> bool:
    """Whether nobody in this program has asked the same before.

    What was asked is a file in the temporary folder, until the program ends. Where there can be
    none, it is once a process.

    Args:
        what: letters that name it.
    """
    global _has_asked  # noqa: PLW0603 - it is one a process
    _has_asked = True
    with suppress(OSError):
        _remove_what_is_over()
        marker = _marker(what)
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return marker.lstat().st_uid != os.geteuid()  # else it is a stranger's
    return True


def _find(own: str) -> str:
    processes = sys.modules.get("multiprocessing.process")
    parent = processes.parent_process() if processes else None
    if parent is None:  # a plain fork, or a program
        return _known[1] if _known else own
    name = _identity(parent.pid)
    told_by, _, told = os.environ.get(_VARIABLE, "").partition(" ")
    if _known and _known[0] == name:
        return _known[1]
    return told if told_by == name else name


def _identity(pid: int) -> str:
    """A process's number is used again; when it began tells it from the next."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            began = status.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        began = "0"
    return f"{pid}-{began}"


def _prefix() -> str:
    """Numbers of processes are of a namespace."""
    return f"mapscratch-{os.geteuid()}-{os.stat('/proc/self/ns/pid').st_ino}-"


def _folder() -> Path:
    """Nothing is imported for it: a process may have gone where its interpreter isn't."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def _marker(what: str) -> Path:
    return _folder() / f"{_prefix()}{program()}-{what}"


def _remove_what_is_over() -> None:
    """The markers of programs whose first process has ended, and knew of none."""
    prefix = _prefix()
    for marker in _folder().glob(f"{prefix}*"):
        with suppress(OSError, ValueError):
            pid, began, _ = marker.name.removeprefix(prefix).split("-", 2)
            if _identity(int(pid)) != f"{pid}-{began}":
                marker.unlink()


def remove_at_exit(what: str) -> None:
    """The first process of a program removes what anybody in it has left by `first_in_program`."""
    atexit.register(_remove, what)


def _remove(what: str) -> None:
    is_first = program() == _identity(os.getpid())
    if is_first and (_has_asked or "multiprocessing.process" in sys.modules):
        with suppress(OSError):
            _marker(what).unlink()


os.register_at_fork(before=program)
