# SPDX-License-Identifier: Apache-2.0
"""Forbids system calls in the calling process, for good: what a container's profile does.

Documentation/userspace-api/seccomp_filter.rst; the filter is classic BPF (linux/filter.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_RET_ERRNO = 0x00050000
_SECCOMP_RET_ALLOW = 0x7FFF0000

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; little-endian.
_OFFSET_OF_NUMBER = 0
_OFFSET_OF_ARCHITECTURE = 4
_OFFSET_OF_SECOND_ARGUMENT = 24

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# linux/audit.h: AUDIT_ARCH_*
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NUMBERS = {
    "x86_64": {
        "close_range": 436,
        "clone": 56,
        "clone3": 435,
        "ioctl": 16,
        "listxattr": 194,
        "memfd_create": 319,
        "mlock2": 325,
        "process_vm_readv": 310,
        "socket": 41,
        "socketpair": 53,
        "userfaultfd": 323,
    },
    "aarch64": {
        "close_range": 436,
        "clone": 220,
        "clone3": 435,
        "ioctl": 29,
        "listxattr": 11,
        "memfd_create": 279,
        "mlock2": 284,
        "process_vm_readv": 270,
        "socket": 198,
        "socketpair": 199,
        "userfaultfd": 282,
    },
}


def system_call_number(name: str) -> int:
    return _NUMBERS[platform.machine()][name]


def is_supported() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return platform.machine() in _NUMBERS


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


def forbid(*names: str, error: int = errno.EPERM) -> None:
    """From now on these system calls fail with `error`, in this process and its children."""
    allow = _instruction(_RETURN, _SECCOMP_RET_ALLOW)
    instructions = [
        _instruction(_LOAD_WORD, _OFFSET_OF_ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURE[platform.machine()], if_true=1),
        allow,
        _instruction(_LOAD_WORD, _OFFSET_OF_NUMBER),
    ]
    for name in names:
        instructions += [
            _instruction(_JUMP_IF_EQUAL, system_call_number(name), if_false=1),
            _instruction(_RETURN, _SECCOMP_RET_ERRNO | error),
        ]
    instructions.append(allow)
    _install(instructions)


def forbid_request(request: int, error: int = errno.EINVAL) -> None:
    """From now on `ioctl` of this request fails with `error`, in this process and its children."""
    allow = _instruction(_RETURN, _SECCOMP_RET_ALLOW)
    _install(
        [
            _instruction(_LOAD_WORD, _OFFSET_OF_ARCHITECTURE),
            _instruction(_JUMP_IF_EQUAL, _ARCHITECTURE[platform.machine()], if_false=5),
            _instruction(_LOAD_WORD, _OFFSET_OF_NUMBER),
            _instruction(_JUMP_IF_EQUAL, system_call_number("ioctl"), if_false=3),
            _instruction(_LOAD_WORD, _OFFSET_OF_SECOND_ARGUMENT),
            _instruction(_JUMP_IF_EQUAL, request, if_false=1),
            _instruction(_RETURN, _SECCOMP_RET_ERRNO | error),
            allow,
        ]
    )


def _install(instructions: list[bytes]) -> None:
    program = ctypes.create_string_buffer(b"".join(instructions))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(program))
    )
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, second: int, third: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong
    if libc.prctl(option, word(second), word(third), word(0), word(0)):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
