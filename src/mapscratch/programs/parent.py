# SPDX-License-Identifier: Apache-2.0
"""Processes of ours that end with the one that started them, whatever ends that."""

from __future__ import annotations

import os
import signal

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
