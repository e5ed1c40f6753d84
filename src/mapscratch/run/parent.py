# SPDX-License-Identifier: Apache-2.0
"""Processes of ours that end with the one that started them, whatever ends that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a command, and may reach all processes of its group at once."""
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def end_with(parent: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Has the kernel send this process a signal when its parent ends (prctl(2)).

    Args:
        parent: whose child this process is, if that still lives.
        number: the signal.

    Returns:
        whether it does; else there is nobody to work for.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent


@contextmanager
def endings_wait() -> Iterator[None]:
    """Within it `ENDINGS` wait, for this thread and the processes that it starts.

    A process that is forked has our handlers, and should get none before it can
    `leave_endings_to_parent`.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def leave_endings_to_parent() -> None:
    """In a process that was started within `endings_wait`: the parent ends it when that is due."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
