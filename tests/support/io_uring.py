# SPDX-License-Identifier: Apache-2.0
"""A ring of io_uring(7) with one fixed buffer, by its system calls alone (linux/io_uring.h)."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on all architectures
_OFFSET_OF_SQES = 0x10000000
_OFFSET_OF_COMPLETIONS = 0x8000000
_SQE_BYTES, _CQE_BYTES = 64, 16
_READ_FIXED = 4
_REGISTER_BUFFERS, _UNREGISTER_BUFFERS = 0, 1
_GET_EVENTS = 1


def _call(*arguments: int | ctypes.c_char_p | bytes | bytearray) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = libc.syscall(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Ring:
    """A ring whose only buffer is `length` bytes of memory at `address`.

    Raises:
        OSError: the kernel refuses io_uring, or the buffer.
    """

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self._ring = _call(_SETUP, 4, ctypes.addressof(parameters))
        words = struct.unpack("30I", parameters.raw)
        sq_entries, cq_entries = words[0], words[1]
        self._sq_tail, self._sq_mask, self._sq_array = words[11], words[12], words[16]
        self._cq_head, self._cq_mask, self._cqes = words[20], words[22], words[25]
        self._submissions = mmap.mmap(self._ring, self._sq_array + 4 * sq_entries, offset=0)
        self._completions = mmap.mmap(
            self._ring, self._cqes + _CQE_BYTES * cq_entries, offset=_OFFSET_OF_COMPLETIONS
        )
        self._sqes = mmap.mmap(self._ring, _SQE_BYTES * sq_entries, offset=_OFFSET_OF_SQES)

    def register(self, address: int, length: int) -> None:
        buffer = ctypes.create_string_buffer(struct.pack("QQ", address, length))
        _call(_REGISTER, self._ring, _REGISTER_BUFFERS, ctypes.addressof(buffer), 1)

    def unregister(self) -> None:
        _call(_REGISTER, self._ring, _UNREGISTER_BUFFERS, 0, 0)

    def read_fixed(self, descriptor: int, address: int, length: int) -> None:
        """Reads a file's beginning into the fixed buffer."""
        entry = struct.pack(
            "BBHiQQIIQHHiQQ", _READ_FIXED, 0, 0, descriptor, 0, address, length, 0, 1, 0, 0, 0, 0, 0
        )
        tail = self._word(self._submissions, self._sq_tail)
        place = tail & self._word(self._submissions, self._sq_mask)
        self._sqes[place * _SQE_BYTES : (place + 1) * _SQE_BYTES] = entry
        self._set(self._submissions, self._sq_array + 4 * place, place)
        self._set(self._submissions, self._sq_tail, tail + 1)
        _call(_ENTER, self._ring, 1, 1, _GET_EVENTS, 0, 0)
        head = self._word(self._completions, self._cq_head)
        place = head & self._word(self._completions, self._cq_mask)
        _, result, _ = struct.unpack_from("QiI", self._completions, self._cqes + place * _CQE_BYTES)
        self._set(self._completions, self._cq_head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        assert result == length, (result, length)

    def close(self) -> None:
        for mapped in (self._submissions, self._completions, self._sqes):
            mapped.close()
        os.close(self._ring)

    @staticmethod
    def _word(memory: mmap.mmap, offset: int) -> int:
        word: int = struct.unpack_from("I", memory, offset)[0]
        return word

    @staticmethod
    def _set(memory: mmap.mmap, offset: int, value: int) -> None:
        struct.pack_into("I", memory, offset, value)


def why_not() -> str:
    """Why there is no io_uring here; empty if there is."""
    try:
        Ring().close()
    except OSError as error:
        return f"io_uring is refused: {error.strerror}"
    return ""
