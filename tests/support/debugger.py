# SPDX-License-Identifier: Apache-2.0
"""gdb, as far as it works here: what it can do is tried on a process without mapscratch first.

It may be missing, or not be allowed to trace. And some of what it does depends on the processor:
gdb 13.1 can't store registers that include AMX's, so that there it calls no function in any
process, and leaves the one where it tried broken.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from support.operated import Operated, operated
from support.patience import patient

_SECONDS = 60
_SETTINGS = ("set auto-load off", "set debuginfod enabled off", "set auto-solib-add off")

Complaint: TypeAlias = subprocess.CompletedProcess[str] | None
"""What gdb said when it didn't work; None when it did."""


def gdb_command(process: Operated, *commands: str) -> list[str]:
    """A debugger that attaches for some commands."""
    arguments = [word for line in _SETTINGS for word in ("-iex", line)]
    arguments += ["-p", str(process.pid)]
    arguments += [word for command in commands for word in ("-ex", command)]
    return ["gdb", "-nx", "-batch", *arguments]


def gdb(process: Operated, *commands: str) -> str:
    """What it says, its complaints last."""
    found = _run(process, *commands)
    return found.stdout + found.stderr


def gdb_must(do: Callable[[Operated], Complaint]) -> None:
    """Skips the test, with gdb's own words, where it can't do something to a plain process.

    Args:
        do: `read`, `call` or `dump`.
    """
    if why := _why_not(do, shutil.which("gdb")):
        pytest.skip(why)


def read(process: Operated) -> Complaint:
    """Lists threads, and looks into memory."""
    found = _run(process, "info threads", "x/2xw $sp")
    return None if str(process.pid) in found.stdout and ":\t0x" in found.stdout else found


def call(process: Operated) -> Complaint:
    """Calls a function of libc."""
    found = _run(process, "sharedlibrary libc", "print ((int (*)(void)) getppid)()", "detach")
    return None if f"$1 = {os.getpid()}\n" in found.stdout else found


def dump(process: Operated) -> Complaint:
    """Writes a core file."""
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder, "core")
        found = _run(process, f"generate-core-file {core}")
        return None if core.exists() else found


@functools.cache
def _why_not(do: Callable[[Operated], Complaint], program: str | None) -> str:
    if program is None:
        return "gdb is not installed"
    with operated("") as process:
        complaint = do(process)
        if complaint is None and process.is_well():
            return ""
    words = complaint and (complaint.stderr or complaint.stdout).split("\n")
    said = "; ".join(filter(None, words or ["nothing, but the process is broken"]))
    return f"{program} can't {do.__name__} in any process here, and says: {said}"


def _run(process: Operated, *commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        gdb_command(process, *commands),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patient(_SECONDS),
    )
