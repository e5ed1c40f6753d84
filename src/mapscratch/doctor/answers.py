# SPDX-License-Identifier: Apache-2.0
"""What a user asks first: does an array work here, do system calls with it, does `Cache`?

Each is found out by doing it, with a file that is there anyway: this one.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import numpy as np

import mapscratch
from mapscratch.cache import purgeable

ARRAY = "mapscratch.array"
SYSTEM_CALLS = "system calls with it"
CACHE = "mapscratch.Cache"

_FILE = Path(__file__)
_TO_SERVE_THEM = (
    "Run as root, or give this user access to /dev/userfaultfd (Linux 6.1; in a container "
    "`--device /dev/userfaultfd`). Or without: np.save, mapscratch.save and a.tofile copy; "
    "`with a.scratch.pin():` brings pages in and keeps them"
)
_WITHOUT_THE_KERNEL = (
    "It works as an ordinary cache of what was used last, up to a quarter of the memory or "
    "Cache(max_bytes)"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether something was tried and did what it should; how it works, or why it doesn't."""

    subject: str
    works: bool
    why: str
    remedy: str = ""  # what to do; empty where it works or nothing would help


def ask() -> tuple[Answer, ...]:
    """Tries everything; nothing is left behind."""
    with warnings.catch_warnings():
        # What they warn of is what the answers say.
        warnings.simplefilter("ignore", mapscratch.SystemCallWarning)
        warnings.simplefilter("ignore", mapscratch.CacheFallbackWarning)
        (engine,) = (one for one in mapscratch.engines() if one.name == "lazyfree")
        array = Answer(ARRAY, False, engine.reason, engine.remedy)
        if engine.available:
            array = _tried(ARRAY, _read_an_array, "pages are decoded when they are touched")
        calls = Answer(SYSTEM_CALLS, False, "no array works here")
        if array.works:
            how = "write(2) of pages that nobody had touched, and read(2) into them, are served"
            calls = _tried(SYSTEM_CALLS, _use_system_calls, how)
        if reason := purgeable.why_not():
            why = f"the kernel can't take what it holds: {reason}"
            return array, calls, Answer(CACHE, False, why, _WITHOUT_THE_KERNEL)
        how = "the kernel takes what it holds when memory is short; it needs no size"
        return array, calls, _tried(CACHE, _use_the_cache, how)


def _tried(subject: str, what: Callable[[], bool], how: str) -> Answer:
    try:
        if what():
            return Answer(subject, True, how)
    except OSError as error:
        if error.errno == errno.EFAULT:
            why = "as this user system calls get only pages that are in memory, or EFAULT"
            return Answer(subject, False, why, _TO_SERVE_THEM)
        return Answer(subject, False, str(error))
    except mapscratch.EngineUnavailable as error:
        return Answer(subject, False, " ".join(str(error).split()))
    return Answer(subject, False, "what was read is WRONG: please report it")


def _read_an_array() -> bool:
    array = mapscratch.array(_FILE, "f4", source="u1", scale=0.5)
    return np.array_equal(array, np.fromfile(_FILE, "u1") * np.float32(0.5))


def _use_system_calls() -> bool:
    """What a pipe gets of an array, and memory of a file, where nobody has touched the page."""
    expected = _FILE.read_bytes()[:PAGESIZE]
    size = len(expected)
    array = np.asarray(mapscratch.array(_FILE, "u1"))
    reader, writer = os.pipe()
    with (
        open(reader, "rb", buffering=0) as out,
        open(writer, "wb", buffering=0) as into,
        open(_FILE, "rb", buffering=0) as file,
        mapscratch.ScratchMap(_FILE, engine="lazyfree") as memory,
        memoryview(memory) as view,
    ):
        into.write(array.data[:size])
        file.readinto(view[:size])
        return out.read(size) == expected == bytes(view[:size])


def _use_the_cache() -> bool:
    cache = mapscratch.Cache()
    with cache.get("key", lambda: np.arange(1000)) as value:
        return cache.is_purgeable and bool((value == np.arange(1000)).all())
