# SPDX-License-Identifier: Apache-2.0
"""`ScratchMap`: a private mapping of a file whose dirty pages may be thrown away."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from operator import index as as_index
from typing import Self, TypeAlias

from mapscratch.engine import Request, attach, explained
from mapscratch.fixups.words import Words
from mapscratch.memory import ScratchMemory
from mapscratch.opening import (
    HasFileno,
    Path,
    is_path,
    opened,
    refuse_irregular,
)

File: TypeAlias = int | Path | HasFileno
"""A descriptor, a path, or an open file."""

_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class ScratchMap(ScratchMemory):
    """A private mapping of a file. **Stores vanish**: any page may be dropped at any moment.

    When the kernel wants a page back it is dropped, not written to swap, and the next touch shows
    the file's current content again, with the mapping's page-in fixups if it has any. So store only
    what you can make again when it is gone, and publish only values that any thread would compute
    equal. Everything else is `mmap.mmap` with ``access=ACCESS_COPY``: slices, ``find``,
    ``memoryview``, ``numpy.frombuffer``, ``re.search`` and ``struct.unpack_from`` work, and nothing
    ever changes the file.

    Words. `load`, `store` and `compare_exchange` work on aligned unsigned 8-byte words, each
    indivisible with respect to a drop. They promise nothing *over* a drop, which makes three things
    wrong that look right:

    - *A lock.* ``if m.compare_exchange(o, 0, 1) == 0:`` enters the critical section; the page is
      dropped, the word is the file's 0 again, and another thread enters it too.
    - *A counter.* ``m.compare_exchange(o, n, n + 1)`` counts; after a drop it starts at the file's
      value again.
    - *A once-flag.* ``m.store(data, x); m.store(flag, 1)``: a drop takes both away, or comes
      between the two, so that the flag is seen set and the data is the file's. Put everything that
      belongs together into one word.

    What is right: a word whose value in the file means "not made yet", and which every thread, on
    finding that, computes and stores by itself.

    Args:
        fileno: what is mapped: a descriptor, a path, or an open file. A regular file; opened for
            reading is enough. The descriptor may be closed afterwards. What an open file has
            in its buffer is written out first.
        length: bytes to map; 0 means to the end of the file.
        flags: ``MAP_PRIVATE``; whatever is shared or anonymous is refused.
        prot: as for `mmap.mmap`; ``PROT_READ`` must be in it.
        access: ``ACCESS_COPY`` (default) or ``ACCESS_READ``. If `prot` is given it takes effect.
        offset: where in the file the mapping begins, a multiple of the page size.
        fixup: page-in fixups, see `mapscratch.fixups`.
        engine: how pages are dropped: ``"auto"`` or a name, see `mapscratch.engines`. The
            environment variable MAPSCRATCH_ENGINE takes the place of ``"auto"``.
        guarantee: what the engine must promise, of ``"no-swap"`` and ``"system-calls"``.

    Raises:
        ValueError: a shared or anonymous mapping, a file that is not a regular one, a length past
            the end of the file, an empty file, an unknown engine or guarantee.
        io.UnsupportedOperation: an open file that reads something else than its descriptor has,
            as that of `gzip.open`; the message says what to do.
        OSError: the file can't be opened or mapped.
        EngineUnavailable: no engine gives what is asked for; the message says what to do.

    Warns:
        SystemCallWarning: once a program (the processes of its pools count in), where system calls
            fail on pages not in memory.
    """

    __slots__ = ()

    def __new__(
        cls,
        fileno: File,
        length: int = 0,
        flags: int = mmap.MAP_PRIVATE,
        prot: int = _READ_WRITE,
        access: int = mmap.ACCESS_COPY,
        offset: int = 0,
        *,
        fixup: Words | None = None,
        engine: str = "auto",
        guarantee: Collection[str] | None = None,
    ) -> Self:
        """Maps the file; see the class."""
        protection = _checked_protection(flags, prot, access)
        if fixup is not None and not isinstance(fixup, Words):
            raise TypeError(
                f"fixup must be one of mapscratch.fixups (Words, Relocate), not "
                f"{type(fixup).__name__}"
            )
        if isinstance(guarantee, str):
            guarantee = {guarantee}
        with _descriptor_of(fileno) as descriptor:
            name = _name_of(fileno, descriptor)
            if isinstance(offset, int) and offset > 0 and offset % mmap.ALLOCATIONGRANULARITY:
                _refuse_offset(offset, name)
            request = partial(
                Request,
                name=name,
                fileno=descriptor,
                offset=offset,
                protection=protection,
                fixup=fixup,
            )
            self: Self
            with explained(name):  # the standard's refusals, too
                self, self._engine = attach(
                    lambda: cls._private(descriptor, length, flags, protection, offset),
                    lambda mapping: request(length=len(mapping)),
                    engine,
                    guarantee or (),
                )
            self._name = name
            self._offset = offset
        return self

    @classmethod
    def _private(cls, fileno: int, length: int, flags: int, protection: int, offset: int) -> Self:
        """The standard's own mapping: its errors and its size() are the standard's.

        As ACCESS_COPY it refuses to resize, which would truncate the file, even if somebody calls
        the base class's method; with another protection there is no such access.
        """
        make = super().__new__
        if protection == _READ_WRITE and flags == mmap.MAP_PRIVATE:
            return make(cls, fileno, length, access=mmap.ACCESS_COPY, offset=offset)
        return make(cls, fileno, length, flags=flags, prot=protection, offset=offset)

    def __repr__(self) -> str:
        """Says which engine runs and what it promises."""
        if not self._address:
            return f"<{type(self).__name__} of {self._name!r}, closed>"
        return (
            f"<{type(self).__name__} of {self._name!r}, {len(self)} bytes at {self._offset}, "
            f"engine {self.engine!r}, no swap: {self.guarantees.no_swap}>"
        )


def _checked_protection(flags: int, prot: int, access: int) -> int:
    """The protection that the arguments ask for together.

    Raises:
        ValueError: they ask for a shared or anonymous mapping, or contradict each other.
    """
    if flags & mmap.MAP_ANONYMOUS:
        raise ValueError("a scratch mapping is of a file: MAP_ANONYMOUS has nothing to show again")
    if flags & mmap.MAP_SHARED or not flags & mmap.MAP_PRIVATE:
        raise ValueError(
            "a scratch mapping is private: flags must have MAP_PRIVATE, not MAP_SHARED"
        )
    if access == mmap.ACCESS_WRITE:
        raise ValueError(
            "ACCESS_WRITE would change the file: use ACCESS_COPY (stores stay in memory) or "
            "ACCESS_READ"
        )
    if access not in (mmap.ACCESS_DEFAULT, mmap.ACCESS_READ, mmap.ACCESS_COPY):
        raise ValueError(f"access must be ACCESS_COPY or ACCESS_READ, not {access}")
    if access == mmap.ACCESS_READ:
        if prot not in (_READ_WRITE, mmap.PROT_READ):
            raise ValueError("give either access or prot")
        return mmap.PROT_READ
    if not prot & mmap.PROT_READ:
        raise ValueError("prot must have PROT_READ: a page that can't be read can't be made again")
    return prot


@contextmanager
def _descriptor_of(file: File) -> Iterator[int]:
    """A descriptor of a regular file while the block runs; the caller's isn't closed."""
    number = _as_number(file)
    if number is not None:
        if number < 0:
            raise ValueError("a scratch mapping is of a file: descriptor -1 would be anonymous")
        refuse_irregular(number)
        yield number
    else:
        expected = "a descriptor, a path or an open file"
        with opened(file, expected=expected) as descriptor:  # type: ignore[arg-type] # no integer
            yield descriptor


def _as_number(file: File) -> int | None:
    """A descriptor may be any integer, NumPy's too, as for `mmap.mmap`."""
    try:
        return as_index(file)  # type: ignore[arg-type]
    except TypeError:
        return None


def _refuse_offset(offset: int, name: str) -> None:
    raise OSError(
        errno.EINVAL,
        f"offset={offset}: a mapping begins at a multiple of {mmap.ALLOCATIONGRANULARITY} bytes; "
        "mapscratch.array begins anywhere",
        name,
    )


def _name_of(file: File, descriptor: int) -> str:
    """A name for messages."""
    if not isinstance(file, int) and is_path(file):
        name = os.fsencode(file)
    else:
        try:
            name = os.readlink(b"/proc/self/fd/%d" % descriptor)
        except OSError:
            return f"descriptor {descriptor}"
    # A file's name need not be UTF-8, but this must, to go into messages and through C.
    return name.decode(errors="backslashreplace")
