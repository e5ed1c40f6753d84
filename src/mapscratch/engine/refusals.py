# SPDX-License-Identifier: Apache-2.0
"""What mmap refuses a file for, in words that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_WHY_NOT_MAPPED = {
    errno.ENODEV: "its file system has no files that can be mapped (as those of /proc and /sys): "
    "copy it to an ordinary file, or read it: numpy.frombuffer(open(name, 'rb').read(), dtype)",
    errno.EACCES: "its descriptor must be open for reading, and the file system must allow to map "
    "it: open the file with 'rb'",
    errno.EBADF: "its descriptor is closed, or was opened with O_PATH, which opens nothing: give "
    "the path",
    errno.ENOMEM: "the process may have no more addresses (RLIMIT_AS: `ulimit -v`), or no more "
    "mappings (sysctl vm.max_map_count)",
    errno.EAGAIN: "it would be locked in memory, and the process may lock no more (mlockall, "
    "RLIMIT_MEMLOCK), or the file is locked by another",
}
"""By errno, what the mmap of a file may have been refused for, and what to do."""


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Errors of mmap get a message that names the file and what to do; others stay as they are."""
    try:
        yield
    except OSError as error:
        why = _WHY_NOT_MAPPED.get(error.errno or 0)
        if not why or error.strerror != os.strerror(error.errno or 0):
            raise
        raise OSError(error.errno, f"{error.strerror}: {name} can't be mapped: {why}") from None
