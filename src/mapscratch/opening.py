# SPDX-License-Identifier: Apache-2.0
"""What users name a file by, a path or an open file, and the descriptor that is mapped.

Two rules keep what is mapped from being something else than what the user meant. A path is looked
at before it is opened: opening a pipe may wait for ever, and opening a device may do something. And
of an open file only those are taken whose `read` gives the bytes of their descriptor: that of a
`gzip.open` is of the compressed file.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY

_ACCESS = (
    *("fileno", "peek", "read", "read1", "readall", "readinto", "readinto1", "write"),
    *("seek", "tell"),  # a window in a file reads as it does, elsewhere
)
"""Who has one of these of its own may read and write anything."""

_WRAPPERS = (
    ("io", "TextIOWrapper", "buffer"),
    ("io", "BufferedReader", "raw"),
    ("io", "BufferedWriter", "raw"),
    ("io", "BufferedRandom", "raw"),
    ("tempfile", "_TemporaryFileWrapper", "file"),
    ("fsspec.implementations.local", "LocalFileOpener", "f"),
)
"""Classes that read what another file reads: module, name, and the attribute that has that file."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, for reading. Nothing else is opened.

    Raises:
        IsADirectoryError: it is a directory.
        ValueError: it is a pipe, a socket or a device.
        OSError: it can't be opened.
    """
    # O_PATH finds it and doesn't open it (open(2)); what it has found nobody can exchange.
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        refuse_irregular(found, path)
        return _open_found(found, path)
    finally:
        os.close(found)


def _open_found(found: int, path: Path) -> int:
    try:
        return os.open(f"/proc/self/fd/{found}", _READ_ONLY)
    except FileNotFoundError:  # there is no /proc
        return _open_without_waiting(path)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, path) from None


def _open_without_waiting(path: Path) -> int:
    """For want of a better way: a device that takes the place of the file now is opened."""
    descriptor = os.open(path, _READ_ONLY | os.O_NONBLOCK)
    try:
        refuse_irregular(descriptor, path)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_irregular(descriptor: int, path: Path | None = None) -> os.stat_result:
    """The file's status, if it is one that can be mapped.

    Raises:
        IsADirectoryError: it is a directory.
        ValueError: it is a pipe, a socket or a device.
    """
    status = os.fstat(descriptor)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        reason = f"{os.strerror(errno.EISDIR)}, and not a regular file: give a file in it"
        raise IsADirectoryError(errno.EISDIR, reason, path)
    if kind != stat.S_IFREG:
        name = "it" if path is None else os.fsdecode(path)
        raise ValueError(
            f"{name} is {_KINDS.get(kind, 'something else')} and not a regular file, and only a "
            "regular file can be mapped: copy what you want of it into a file, and give that"
        )
    return status


@contextmanager
def opened(file: Path | HasFileno, *, expected: str = "a path or an open file") -> Iterator[int]:
    """A descriptor of a regular file, for as long as a ``with`` block runs.

    What was written through an open file and is still in its buffer is written out first.

    Args:
        file: a path, or an open file. Its position means nothing, as for `numpy.memmap`.
        expected: what the message says of a file that is neither.

    Raises:
        TypeError: it is neither.
        io.UnsupportedOperation: what the open file reads is not what its descriptor has.
        IsADirectoryError, ValueError, OSError: see `open_regular`.
    """
    if is_path(file):
        descriptor = open_regular(file)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        descriptor = _descriptor_of(file, expected)
        refuse_irregular(descriptor)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            raise io.UnsupportedOperation(
                "the file is open for writing only, and its bytes are read: open it with 'rb', "
                "'r+b' or 'w+b'"
            )
        yield descriptor


def has_a_size(descriptor: int) -> bool:
    """Whether its status says how much can be read of it; that of files in /proc says 0."""
    if os.fstat(descriptor).st_size:
        return True
    try:  # another open file, so that reading doesn't wait, and changes nobody's position
        again = os.open(f"/proc/self/fd/{descriptor}", _READ_ONLY | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return not os.pread(again, 1, 0)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(again)


def is_path(file: object) -> TypeIs[Path]:
    """A name, and not an open file."""
    return isinstance(file, str | bytes | os.PathLike)


def writes_as_it_is(file: object) -> bool:
    """Whether what is written to an open file goes unchanged to its descriptor."""
    return _raw_of(file) is not None


def _descriptor_of(file: object, expected: str) -> int:
    if getattr(file, "closed", False) is True:
        raise ValueError("the file is closed: open it again, or give its path")
    raw = _raw_of(file)
    if raw is not None:
        file.flush()  # type: ignore[attr-defined] # all that are read as they are have it
        return raw.fileno()
    if any(hasattr(file, name) for name in ("read", "readinto", "readline")):
        _refuse_reader(file)
    if not hasattr(file, "fileno"):
        raise TypeError(f"expected {expected}, not {_class_name(file)}{_way_out(file)}")
    return int(file.fileno())  # nothing else could be meant by it


def _raw_of(file: object) -> HasFileno | None:
    """The one among nested files that has the descriptor; None if its bytes are not what is read.

    Also None where nobody knows.
    """
    spooled = _class_if_loaded("tempfile", "SpooledTemporaryFile")
    if spooled and isinstance(file, spooled) and not _reads_otherwise(file, spooled):
        file.rollover()  # into a file on disk, which it reads from then on
        descriptor: HasFileno = file
        return descriptor
    for module, name, attribute in _WRAPPERS:
        wrapper = _class_if_loaded(module, name)
        if wrapper and isinstance(file, wrapper) and not _reads_otherwise(file, wrapper):
            return _raw_of(getattr(file, attribute))
    if isinstance(file, io.FileIO) and not _reads_otherwise(file, io.FileIO):
        return file
    return None


def _class_if_loaded(module: str, name: str) -> Any:
    """A class of a module that need not be there: without it there are no such objects."""
    return getattr(sys.modules.get(module), name, None)


def _reads_otherwise(file: object, known: type) -> bool:
    """Its class is derived from one that we know, and reads in a way of its own."""
    return any(
        getattr(type(file), name, None) is not getattr(known, name, None) for name in _ACCESS
    )


def _class_name(file: object) -> str:
    return f"{type(file).__module__}.{type(file).__qualname__}".removeprefix("builtins.")


def _way_out(file: object) -> str:
    """What to do with something else, where that can be guessed."""
    if isinstance(file, bytearray | memoryview) or hasattr(file, "__array_interface__"):
        return (
            ": its bytes are in memory already, and numpy.frombuffer(it, dtype) is an array of them"
        )
    if hasattr(file, "open"):  # zipfile.Path, fsspec.OpenFile
        return ": unpack it into a file, and give that"
    if isinstance(file, int):
        return ": of a descriptor give open(descriptor, 'rb', closefd=False)"
    return ""


def _refuse_reader(file: object) -> NoReturn:
    name = _class_name(file)
    if isinstance(file, io.BytesIO | io.StringIO):
        raise io.UnsupportedOperation(
            f"an {name} has no fileno: its bytes are in memory already, and numpy.frombuffer("
            "f.getbuffer(), dtype) is an array of them. Or write them to a file, and give that"
        )
    raise io.UnsupportedOperation(
        f"what a {name} reads need not be what its file holds, and only what a file holds can be "
        "mapped: unpack it into a file (shutil.copyfileobj), and give that. Where the bytes are "
        "the same, give the path, or open(f.fileno(), 'rb', closefd=False)"
    )
