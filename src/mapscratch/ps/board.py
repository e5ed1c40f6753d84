# SPDX-License-Identifier: Apache-2.0
"""Reading the board of another process: the figures of its scratch memory.

A board (``libscratch/board.h``) is shared memory of the process: of no file at first, and a memfd
once its pager has started. Reading it takes nothing from the process: no code of it runs, and what
would be faulted in is there already. It is read by system calls and never mapped, because a file
that is cut off under a mapping is a SIGBUS. A process may write anything into its memory, so
everything that is read is checked; what is wrong is left out and counted.

Others have shared memory of no file, too, also of a board's size: only one that begins as a board
does is one.
"""

from __future__ import annotations

import functools
import os
import stat
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Literal

from mapscratch.proc.maps import MappedFile
from mapscratch.proc.procfs import no_such_process, status_words, threads_named

Kind = Literal["map", "array", "cache", "region"]

_FILE_NAME = "/memfd:mapscratch-board (deleted)"
_MEMORY_NAME = "/dev/zero (deleted)"
"""What the kernel calls shared memory of no file (mm/shmem.c, shmem_zero_setup)."""
_EXTENSION = "/_native.abi3.so"

_MAGIC = b"scratch\n"
_VERSION = 1
_HEADER = struct.Struct("=8s6I8Q8Q")
_SLOT = struct.Struct("=IHHQQiI8Q")
_SLOT_BYTES = 256
_MEMORY_BYTES = 16384 * _SLOT_BYTES
_ENDED = 32
"""Where in the header the sums of what is gone begin."""
_NAME_BYTES = _SLOT_BYTES - _SLOT.size
_MOST_SLOTS = 1 << 16
_KINDS: dict[int, Kind] = {1: "map", 2: "array", 3: "cache", 4: "region"}
_ENGINES = ("lazyfree", "dontneed", "kernel")
_ADDRESS_BITS = 57  # of a process, with five levels of page tables
_ATTEMPTS = 16  # at what is just being written
_ATTEMPTS_AT_SUMS = 100  # on a busy machine we are interrupted between two readings
_SECONDS_BETWEEN_ATTEMPTS = 0.0005


class BoardError(RuntimeError):
    """A board can't be read; the message says why."""


class _NoWayIn(BoardError):
    """Memory may not be read."""


class _NotABoard(BoardError):
    """It doesn't begin as a board does."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a process says of one thing; a region is memory of a cache."""

    number: int
    kind: Kind
    engine: str | None
    address: int  # 0 for caches
    length: int  # whole pages
    owner: int  # of a region: the slot of its cache
    name: str  # of the file; the end of it if it is longer than fits
    figures: tuple[int, ...]  # eight: ``enum scratch_figure`` or ``enum scratch_cache_figure``


@dataclass(frozen=True, slots=True)
class Board:
    """What a process says of its scratch memory, and the summed figures of what is closed."""

    slots: tuple[Slot, ...]
    unlisted: int  # no slot was left; or it makes no sense, or was always just being written
    ended_ranges: tuple[int, ...]
    ended_caches: tuple[int, ...]


def is_board(mapped: MappedFile) -> bool:
    """Whether a mapping looks like a board, to be read without harm; one of no file may be none.

    A file of that name in a file system of the process's own (FUSE) could let us wait for ever; so
    it must be where memfds are.
    """
    return (
        (mapped.path == _FILE_NAME or _is_of_no_file(mapped))
        and not mapped.offset
        and mapped.permissions.endswith("s")
        and _device_of_memfds() in (None, mapped.device)
    )


def _is_of_no_file(mapped: MappedFile) -> bool:
    return mapped.path == _MEMORY_NAME and mapped.end - mapped.start == _MEMORY_BYTES


@functools.cache
def _device_of_memfds() -> str | None:
    try:
        descriptor = os.memfd_create("mapscratch-probe", os.MFD_CLOEXEC)
    except OSError:  # a sandbox may forbid it
        return None
    device = os.fstat(descriptor).st_dev
    os.close(descriptor)
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def read_board(pid: int, maps: list[MappedFile]) -> Board | None:
    """The board of a process; None if it has none of its own.

    A child between a fork and its exec may still have its parent's, which says nothing of it. A
    BoardError: it has one that can't be read. A ProcessLookupError: it ended.
    """
    problem: BoardError | None = None
    for mapped in maps:
        if not is_board(mapped):
            continue
        try:
            # A process in a container knows itself by another number. Older kernels have none.
            own = int((status_words(pid, "NSpid") or [str(pid)])[-1])
            board = _parse(_reader(pid, mapped), mapped.end - mapped.start, own)
        except BoardError as error:
            if not _is_of_no_file(mapped) or _is_surely_a_board(error, maps):
                problem = error
            continue
        if board:
            return board
    if problem:
        raise problem
    return None


def _is_surely_a_board(error: BoardError, maps: list[MappedFile]) -> bool:
    """Of memory of a board's size that can't be read."""
    if isinstance(error, _NoWayIn):
        return any(mapped.path.endswith(_EXTENSION) for mapped in maps)
    return not isinstance(error, _NotABoard)


def read_shared_page(pid: int, mapped: MappedFile, size: int) -> bytes:
    """The beginning of a file that a process has mapped; less, if that is shorter."""
    return _reader(pid, mapped)(0, size)


# --- ways in


class _Reader:
    """Reads so many bytes, less at the end, from an offset on; closes its file at its own end."""

    def __init__(self, descriptor: int, base: int = 0) -> None:
        self._descriptor = descriptor
        self._base = base

    def __call__(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, self._base + offset)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _reader(pid: int, mapped: MappedFile) -> _Reader:
    """The first way in that is open to us."""
    # Reading the memory makes the page where nobody has stored: nothing to do to who has no board.
    of_no_file = (_by_mapping, _by_memory)
    ways = (_by_memory, _by_mapping, _by_descriptor)
    for way in of_no_file if _is_of_no_file(mapped) else ways:
        with suppress(OSError):
            reader = way(pid, mapped)
            if reader:
                reader(0, 1)
                return reader
    if not os.path.exists(f"/proc/{pid}/maps"):
        raise no_such_process(pid)
    raise _NoWayIn(
        "its figures may not be read, as with kernel.yama.ptrace_scope=1 where it has no thread of "
        "ours: run as root"
    )


def _by_memory(pid: int, mapped: MappedFile) -> _Reader:
    """Its memory: for who may attach to it (ptrace(2), "Ptrace access mode checking")."""
    return _Reader(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC), mapped.start)


def _by_mapping(pid: int, mapped: MappedFile) -> _Reader | None:
    """The mapping's file: for root (proc(5))."""
    return _open_file(f"/proc/{pid}/map_files/{mapped.start:x}-{mapped.end:x}", mapped)


def _by_descriptor(pid: int, mapped: MappedFile) -> _Reader | None:
    """A descriptor of it in the table of the pager: for who may look at the process."""
    for folder in threads_named(pid, "mapscratch"):
        with suppress(OSError):
            for number in os.listdir(f"{folder}/fd"):
                name = f"{folder}/fd/{number}"
                with suppress(OSError):
                    if os.readlink(name) == mapped.path and (reader := _open_file(name, mapped)):
                        return reader
    return None


def _open_file(name: str, mapped: MappedFile) -> _Reader | None:
    # It may be anything that the process has put in the place of a file: a pipe would block.
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    status = os.fstat(descriptor)
    # The device is not compared: on btrfs and overlayfs maps and stat name different ones.
    if stat.S_ISREG(status.st_mode) and status.st_ino == mapped.inode:
        return _Reader(descriptor)
    os.close(descriptor)
    return None


# --- what is read


def _parse(read: _Reader, size: int, process: int) -> Board | None:
    header = _read_all(read, 0, _HEADER.size)
    magic, version, slot_bytes, slots, owner, used, beyond, *_ = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise _NotABoard("its figures are damaged")
    if version != _VERSION:
        raise BoardError(
            f"its figures are of another version of mapscratch ({version}, not {_VERSION})"
        )
    is_whole = slot_bytes == _SLOT_BYTES and used * slot_bytes <= size
    if not is_whole or not 1 <= used <= slots <= _MOST_SLOTS:
        raise BoardError("its figures are damaged")
    if owner != process:
        return None
    first, second = _read_twice(read, used)
    found = []
    wrong = 0
    for number in range(1, used):
        content = _settled(read, number, first[number], second[number])
        slot = None if content is None else _slot(number, content)
        if slot:
            found.append(slot)
        elif content is None or _SLOT.unpack_from(content)[1]:
            wrong += 1
    ended = _HEADER.unpack_from(first[0])[7:]
    return Board(tuple(found), beyond + wrong, ended[:8], ended[8:])


def _read_twice(read: _Reader, slots: int) -> tuple[list[bytes], list[bytes]]:
    """All of it, and once more while nothing was written or ended.

    The second reading tells what was written during the first. What ends meanwhile is in neither
    the sums nor the slots, or in both, and a total must not fall: a BoardError if something ends
    all the time. A slot that is being written all the time is left to `_settled`: its writer may
    have been stopped.
    """
    for attempt in range(_ATTEMPTS_AT_SUMS):
        if attempt:
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)  # the writer may wait for this processor
        first, second = (_slots(_read_all(read, 0, slots * _SLOT_BYTES)) for _ in range(2))
        is_summed = first[0][_ENDED : _HEADER.size] == second[0][_ENDED : _HEADER.size]
        if is_summed and all(map(_is_settled, first[1:], second[1:])):
            break
    if not is_summed:
        raise BoardError("its mappings come and go too quickly to be counted")
    return first, second


def _slots(content: bytes) -> list[bytes]:
    """The first of them is the header."""
    return [content[at : at + _SLOT_BYTES] for at in range(0, len(content), _SLOT_BYTES)]


def _is_settled(first: bytes, second: bytes) -> bool:
    """Nobody wrote a slot, whose number of writings was read twice."""
    return first[:4] == second[:4] and not first[0] & 1


def _read_all(read: _Reader, offset: int, size: int) -> bytes:
    try:
        content = read(offset, size)
    except OSError:
        content = b""
    if len(content) < size:
        raise BoardError("its figures are cut off, or it has just ended")
    return content


def _settled(read: _Reader, number: int, first: bytes, second: bytes) -> bytes | None:
    """What a slot holds while nobody writes it; None if it is written all the time."""
    for _ in range(_ATTEMPTS):
        if _is_settled(first, second):
            return first
        first, second = (_read_all(read, number * _SLOT_BYTES, _SLOT_BYTES) for _ in range(2))
    return None


def _slot(number: int, content: bytes) -> Slot | None:
    """None: it is free, or what it says can't be."""
    _, kind_number, way, address, length, owner, size, *figures = _SLOT.unpack_from(content)
    kind = _KINDS.get(kind_number)
    has_engine = kind in ("map", "array")
    if kind is None or (has_engine and way >= len(_ENGINES)):
        return None
    if kind == "cache":
        address = length = 0
    elif (
        not 0 < length < 1 << _ADDRESS_BITS
        or address >= 1 << _ADDRESS_BITS
        or not address % PAGESIZE == length % PAGESIZE == 0
    ):
        return None
    cut_off = "…" if size > _NAME_BYTES else ""
    name = cut_off + os.fsdecode(content[_SLOT.size :][:size]) if has_engine else ""
    engine = _ENGINES[way] if has_engine else None
    return Slot(number, kind, engine, address, length, owner, name, tuple(figures))
