# SPDX-License-Identifier: Apache-2.0
"""`ScratchMemory`: what every mapping can do whose pages may be thrown away."""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from operator import index
from typing import NoReturn, SupportsIndex

from mapscratch._native import WordMap
from mapscratch.engine import Engine, Guarantees, PageCounts

_HARMLESS_ADVICE = frozenset(
    getattr(mmap, name)
    for name in (
        "MADV_NORMAL",
        "MADV_RANDOM",
        "MADV_SEQUENTIAL",
        "MADV_WILLNEED",
        "MADV_DODUMP",
        "MADV_DONTDUMP",
    )
    if hasattr(mmap, name)
)


class ScratchMemory(WordMap):
    """Memory whose pages may be dropped, and are made again: the base of `ScratchMap`."""

    __slots__ = ("_engine", "_name", "_offset")
    _engine: Engine
    _name: str
    _offset: int

    @property
    def engine(self) -> str:
        """The engine that drops and brings back this mapping's pages."""
        return self._engine.name

    @property
    def guarantees(self) -> Guarantees:
        """What the engine promises for this mapping; never rounded up.

        Raises:
            ValueError: the mapping is closed.
        """
        len(self)  # raises ValueError if closed
        return self._engine.guarantees_of(self)

    def drop(self, offset: int = 0, length: int | None = None) -> int:
        """Drops pages now, pinned ones excepted: they show the file at the next touch.

        What of the file they were made of is unmapped, too, so that the process's resident memory
        falls by both (``RssAnon`` and ``RssFile``); it stays in the page cache.

        Args:
            offset: byte offset; every page that holds a byte of the range is meant.
            length: bytes; None means to the end.

        Returns:
            How many pages went. A page that only shows the file where it is shared with the page
            cache (`dontneed`) doesn't count.

        Raises:
            ValueError: the range is not in the mapping, or the mapping is closed.
        """
        return self._drop(*self._pages(offset, length))

    def reclaim(self, offset: int = 0, length: int | None = None) -> None:
        """Asks the kernel to reclaim pages now (MADV_PAGEOUT): what memory pressure would do.

        Pinned pages stay. Whether the others go is the kernel's decision; see `counts`.

        Raises:
            ReclaimNotApplicable: this engine drops pages itself; use `drop`.
            ValueError: the range is not in the mapping, or the mapping is closed.
            OSError: the kernel has no MADV_PAGEOUT (before Linux 5.4).
        """
        self._engine.reclaim(self, *self._pages(offset, length))

    @contextmanager
    def pin(self, offset: int = 0, length: int | None = None) -> Iterator[None]:
        """Keeps pages in memory, with the content that they have at entry, for a ``with`` block.

        Pins nest and are counted a page. Stores into a pinned page last until the last pin is
        released. A forked child holds no pins. Closing the mapping releases them.

        Raises:
            OSError: more than RLIMIT_MEMLOCK allows; nothing is pinned then.
            ValueError: the range is not in the mapping, or the mapping is closed.
        """
        first, bytes_pinned = self._pages(offset, length)
        try:
            generation = self._pin(first, bytes_pinned)
        except OSError as error:
            _explain_lock_failure(error, bytes_pinned)
        try:
            yield
        finally:
            self._unpin(first, bytes_pinned, generation)

    def counts(self) -> PageCounts:
        """The pages of this mapping: what they are now, and what happened so far.

        Raises:
            ValueError: the mapping is closed.
        """
        return self._engine.counts(self)

    def resize(self, newsize: int, /) -> NoReturn:
        """Never: the standard's, on a private mapping, would truncate the file.

        Raises:
            TypeError: always.
        """
        raise TypeError("a scratch mapping can't be resized; make a new one of another length")

    def flush(self, offset: int = 0, size: int | None = None, /) -> None:
        """Does nothing: there is nothing to write back.

        Raises:
            ValueError: the mapping is closed.
        """
        len(self)  # raises ValueError if closed

    def madvise(self, option: int, start: int = 0, length: int | None = None, /) -> None:
        """Gives advice that doesn't change whose decision it is to drop a page.

        Raises:
            ValueError: other advice, which would break the engine; `drop`, `reclaim` and `pin` do
                safely what it would do. Or the range is not in the mapping.
        """
        if option not in _HARMLESS_ADVICE:
            raise ValueError(
                f"advice {option} would break engine {self.engine!r}: use drop(), reclaim() or "
                "pin()"
            )
        super().madvise(option, *self._pages(start, length))

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Never: a mapping is of this process.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a scratch mapping can't be pickled or copied: give the file's name, and map it there"
        )

    def _pages(self, offset: int, length: int | None) -> tuple[int, int]:
        """The whole pages that hold [offset, offset + length): their offset and length."""
        size = len(self)  # raises ValueError if closed
        offset = index(offset)
        end = size if length is None else offset + index(length)
        if not 0 <= offset <= size or not offset <= end <= size:
            raise ValueError(
                f"bytes {offset} to {end} are not in the mapping, which has {size} bytes"
            )
        if end == offset:
            return 0, 0
        first = offset // PAGESIZE * PAGESIZE
        return first, -(-end // PAGESIZE) * PAGESIZE - first


def _explain_lock_failure(error: OSError, wanted: int) -> NoReturn:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    # The kernel gives EPERM for a limit of 0 only (mlock(2)).
    if error.errno in (errno.ENOSYS, errno.EACCES) or (error.errno == errno.EPERM and soft):
        raise OSError(
            error.errno,
            f"can't pin {wanted} bytes: mlock2 is not allowed here: {error.strerror}. Allow it in "
            "the seccomp profile, or in the security module's policy",
        ) from None
    if error.errno not in (errno.ENOMEM, errno.EAGAIN, errno.EPERM):
        raise error
    raise OSError(
        error.errno,
        f"can't pin {wanted} bytes: a process may lock {soft} bytes in memory (RLIMIT_MEMLOCK; "
        f"hard limit {hard}). Pin less at a time, or raise it: `ulimit -l`, or resource.setrlimit",
    ) from None
