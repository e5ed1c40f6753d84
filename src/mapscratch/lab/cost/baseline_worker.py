# SPDX-License-Identifier: Apache-2.0
"""A process that loads one library as ever, and tells what ld.so's relocation made of its pages.

Its arguments: the library, how many children to fork, and ``fixed`` for addresses that are not
drawn at random, else ``random``. It prints one JSON object: a digest of each relocated page as it
is in memory, what all of them are compressed to, Pss of the library's dirty pages alone and in each
child, and seconds for a fork.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import zlib
from mmap import PAGESIZE

import numpy as np

from mapscratch.elf import relocations
from mapscratch.proc import range_memory

_ADDR_NO_RANDOMIZE = 0x0040000  # include/uapi/linux/personality.h
_ASK = 0xFFFFFFFF
_ALL_ADDRESSES = 1 << 56


def _without_random_addresses() -> None:
    """Starts this program again at the same addresses each time; OSError where that is forbidden.

    Docker's default filter of system calls forbids it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    personality = libc.personality(_ASK)
    if personality == -1 or libc.personality(personality | _ADDR_NO_RANDOMIZE) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if not personality & _ADDR_NO_RANDOMIZE:
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


def _relocated_pages(path: str) -> list[bytes]:
    """Loads a library; each page that relocation stores to, as it is in memory."""
    # The handle is a link_map (link.h), which begins with the load base.
    base = ctypes.c_uint64.from_address(ctypes.CDLL(path)._handle).value
    pages = np.unique((relocations(path).addresses + np.uint64(base)) // np.uint64(PAGESIZE))
    return [ctypes.string_at(page * PAGESIZE, PAGESIZE) for page in pages.tolist()]


def _dirty_share(path: str, pid: int) -> int:
    """Pss in bytes of the library's pages that were stored to."""
    areas = range_memory(0, _ALL_ADDRESSES, pid).areas
    usages = [area.usage for area in areas if area.path == path and area.usage.anonymous]
    return sum(usage.pss if usage.pss_dirty is None else usage.pss_dirty for usage in usages)


def _with_children(path: str, count: int) -> tuple[list[int], float]:
    """Pss of each child's dirty pages while all of them live, and seconds for one fork."""
    reader, writer = os.pipe()
    children: list[int] = []
    started = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os.close(writer)
            os.read(reader, 1)  # Until the parent ends.
            os._exit(0)
        children.append(pid)
    seconds = (time.perf_counter() - started) / max(count, 1)
    try:
        return [_dirty_share(path, pid) for pid in children], seconds
    finally:
        os.close(writer)
        for pid in children:
            os.waitpid(pid, 0)


def main() -> None:
    """Does what the arguments say."""
    path, children, addresses = sys.argv[1:]
    if addresses == "fixed":
        _without_random_addresses()
    pages = _relocated_pages(path)
    alone = _dirty_share(path, os.getpid())
    shares, seconds = _with_children(path, int(children))
    found = {
        "digests": [zlib.crc32(page) for page in pages],
        "compressed": sum(len(zlib.compress(page, 1)) for page in pages),
        "alone": alone,
        "shares": shares,
        "seconds": seconds,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
