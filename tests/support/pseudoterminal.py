# SPDX-License-Identifier: Apache-2.0
"""A command whose output is a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import pytest


def open_pseudoterminal() -> tuple[int, int]:
    """Descriptors of our side and of the program's; skips the test where there are none."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be made here, /dev/pts may not be mounted: {error}")


def in_a_terminal(command: Sequence[str | os.PathLike[str]]) -> bytes:
    """What a command, which must succeed, shows on a terminal: output and errors.

    Raises:
        AssertionError: it failed.
    """
    ours, theirs = open_pseudoterminal()
    shown = b""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        # Reading fails when nobody has the other end any more.
        with suppress(OSError):
            while piece := os.read(ours, 1 << 16):
                shown += piece
        os.close(ours)
    assert process.returncode == 0, shown
    return shown
