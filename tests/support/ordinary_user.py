# SPDX-License-Identifier: Apache-2.0
"""Giving up privilege, in a process of its own, to see what an ordinary user gets."""

from __future__ import annotations

import ctypes
import importlib
import os
from contextlib import suppress

_NOBODY = 65534
_PR_SET_DUMPABLE = 4

# The interpreter may lie in a directory that is closed to others: load first what is needed later.
_NEEDED_LATER = (
    "ctypes",
    "encodings.ascii",
    "mapscratch.cache",
    "mapscratch.proc.cgroups",
    "mapscratch.proc.kpageflags",
    "mapscratch.proc.meminfo",
    "mapscratch.proc.pagemap",
    "mapscratch.proc.smaps",
    "mapscratch.proc.vmstat",
    "numpy",
    "numpy.ma",
    "linecache",
    "rich._emoji_codes",
    "socket",
    "tempfile",
    "tokenize",
    "traceback",
    "warnings",
)


def become_ordinary_user() -> None:
    """Gives up root and every capability; nothing to do for who is an ordinary user already."""
    if os.geteuid():
        return
    for name in _NEEDED_LATER:
        with suppress(ModuleNotFoundError):  # of an extra, without which nobody needs it later
            importlib.import_module(name)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # After a change of user /proc/self belongs to root, until exec, or until this (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
