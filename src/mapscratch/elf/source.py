# SPDX-License-Identifier: Apache-2.0
"""Byte ranges of one file, and the one exception for a file that is not what it should be.

Everything that `mapscratch.elf` learns about a file goes through `ByteSource.read`, so the rule
that keeps hostile input harmless stands in one place: a range is checked against the size of the
file *before* a byte is read or a buffer is made. The file is read, not mapped: a mapping of a file
that somebody truncates meanwhile ends in SIGBUS, a short `pread` in an error that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mapscratch import opening
from mapscratch.errors import UserError

MAX_TABLE_BYTES = 1 << 29
"""No single table is read beyond this, whatever a (sparse) file claims to hold."""


class ElfError(UserError, ValueError):
    """A file is not an ELF library that can be read; the message names the file and the reason."""


class ByteSource:
    """A regular file, open for reading, that refuses ranges it does not hold.

    Attributes:
        path: the file, as the caller named it.
        size: its length in bytes when it was opened.
        permissions: who may read, write and execute it, as for `os.chmod`.
    """

    __slots__ = ("_descriptor", "path", "permissions", "size")

    def __init__(self, path: Path, descriptor: int, status: os.stat_result) -> None:
        self.path = path
        self.size = status.st_size
        self.permissions = status.st_mode & 0o777
        self._descriptor = descriptor

    def error(self, problem: str) -> ElfError:
        """Make (not raise) the exception that says what is wrong with this file."""
        return ElfError(f"{self.path}: {problem}")

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Read exactly `size` bytes at `offset`.

        Args:
            offset: bytes from the start of the file.
            size: how many bytes.
            what: what is being read, for the message of the exception.

        Raises:
            ElfError: the range is not wholly inside the file, or is larger than MAX_TABLE_BYTES.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.error(
                f"truncated or damaged: the {what} would take bytes {offset:#x} to "
                f"{offset + size:#x} of a file of {self.size:#x} bytes"
            )
        if size > MAX_TABLE_BYTES:
            raise self.error(f"the {what} takes {size} bytes; no real library's does")
        pieces: list[bytes] = []
        while size:
            piece = os.pread(self._descriptor, size, offset)
            if not piece:
                raise self.error(f"the file became shorter while its {what} was read")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(pieces)


def open_regular(path: opening.Path) -> int:
    """A descriptor of a regular file; nothing else is opened: with a device that does something.

    Raises:
        ElfError: the path cannot be that of a file, or is a directory, pipe or device.
        OSError: the file does not exist or may not be read (as `open` raises).
    """
    try:
        return opening.open_regular(path)
    except IsADirectoryError as problem:
        raise ElfError(f"{os.fsdecode(path)}: {problem.strerror}") from None
    except ValueError as problem:
        name = os.fsdecode(path)
        raise ElfError(str(problem) if name in str(problem) else f"{name!r}: {problem}") from None


@contextmanager
def open_source(path: opening.Path) -> Iterator[ByteSource]:
    """Open a regular file as a `ByteSource`, closed at the end of the `with` block.

    Raises:
        ElfError: the path cannot be that of a file, or is a directory, pipe or device.
        OSError: the file does not exist or may not be read (as `open` raises).
    """
    descriptor = open_regular(path)
    try:
        yield ByteSource(Path(os.fsdecode(path)), descriptor, os.fstat(descriptor))
    finally:
        os.close(descriptor)
