# SPDX-License-Identifier: Apache-2.0
"""A process that loads one library as ever, and tells what ld.so's relocation made of its pages.

Its arguments: the library, how many children to fork, and ``fixed`` for addresses that are not
drawn at random, else ``random``. It prints one JSON object: a digest of each relocated page as it
is in memory, and Pss of the library's dirty pages alone and with the children.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import zlib
from mmap import PAGESIZE

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


def _load_base(path: str) -> int:
    from mapscratch.proc.maps import mapped_files

    real = os.path.realpath(path)
    return next(one.start for one in mapped_files("self") if one.path == real and not one.offset)


def _relocated_pages(path: str) -> list[bytes]:
    """Each page that relocation stores to, as it is in memory."""
    import numpy as np

    from mapscratch.elf import relocations

    library = relocations(path)
    first = library.segments[0]
    base = _load_base(path) - (first.virtual_address - first.file_offset)
    pages = np.unique(library.addresses // np.uint64(PAGESIZE))
    return [ctypes.string_at(base + int(page) * PAGESIZE, PAGESIZE) for page in pages]


def _dirty_share(path: str, pid: int) -> int:
    """Pss in bytes of the library's pages that were stored to."""
    from mapscratch.proc import range_memory

    real = os.path.realpath(path)
    areas = range_memory(0, _ALL_ADDRESSES, pid).areas
    usages = [area.usage for area in areas if area.path == real]
    return sum(
        usage.pss if usage.pss_dirty is None else usage.pss_dirty
        for usage in usages
        if usage.anonymous
    )


def _with_children(path: str, count: int) -> tuple[list[int], float]:
    """Pss of each child's dirty pages while all of them live, and seconds for one fork."""
    if not count:
        return [], 0.0
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
    seconds = (time.perf_counter() - started) / count
    try:
        return [_dirty_share(path, pid) for pid in children], seconds
    finally:
        os.close(reader)
        os.close(writer)
        for pid in children:
            os.waitpid(pid, 0)


def main() -> None:
    """Does what the arguments say."""
    path, children, addresses = sys.argv[1:]
    if addresses == "fixed":
        _without_random_addresses()
    ctypes.CDLL(path)
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
