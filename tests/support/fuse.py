# SPDX-License-Identifier: Apache-2.0
"""A real FUSE file system of one file, by the kernel's protocol alone (linux/fuse.h).

It is served by a process of its own: a reader that faults on a page of it waits for that process.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "values"

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE = 1, 2, 3, 14, 15, 18
_FLUSH, _INIT, _INTERRUPT, _BATCH_FORGET = 25, 26, 36, 42
_HEADER = struct.Struct("=IIQQIIII")
_ANSWER = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ROOT, _FILE = 1, 2
_DIRECT_IO = 1
_ENOENT, _ENOSYS = 2, 38
_MAJOR, _MINOR = 7, 26


def why_not() -> str:
    """Why no such file system can be mounted here; empty if one can."""
    if os.geteuid():
        return "only root may mount"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error}"
    return ""


@contextmanager
def mounted(directory: Path, data: Path, *, direct_io: bool) -> Iterator[Path]:
    """The path of a file with the bytes of another, on a file system mounted on a directory.

    Raises:
        OSError: mount was refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"tests", os.fsencode(directory), b"fuse", ctypes.c_ulong(0), options):
            number = ctypes.get_errno()
            raise OSError(number, f"mount: {os.strerror(number)}")
        command = [sys.executable, __file__, str(device), str(data), str(int(direct_io))]
        with subprocess.Popen(command, pass_fds=[device]) as server:
            try:
                yield directory / NAME
            finally:
                libc.umount2(os.fsencode(directory), 2)  # MNT_DETACH
                server.kill()
    finally:
        os.close(device)


def _attributes(node: int, size: int) -> bytes:
    mode, links = (0o100644, 1) if node == _FILE else (0o040755, 2)
    size = size if node == _FILE else 0
    return _ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def _serve(device: int, data: Path, open_flags: int) -> None:
    file = os.open(data, os.O_RDONLY)
    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError:
            return  # unmounted
        _, operation, unique, node, *_ = _HEADER.unpack_from(request)
        body = request[_HEADER.size :]
        if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue
        size = os.fstat(file).st_size
        error, answer = 0, b""
        if operation == _INIT:
            answer = struct.pack(
                "=IIIIHHIIHHI28x", _MAJOR, _MINOR, 1 << 17, 0, 0, 0, 1 << 17, 1, 0, 0, 0
            )
        elif operation == _LOOKUP and body.rstrip(b"\0") == NAME.encode():
            answer = struct.pack("=QQQQII", _FILE, 0, 0, 0, 0, 0) + _attributes(_FILE, size)
        elif operation == _LOOKUP:
            error = -_ENOENT
        elif operation == _GETATTR:
            answer = struct.pack("=QII", 0, 0, 0) + _attributes(node, size)
        elif operation == _OPEN:
            answer = struct.pack("=QII", 0, open_flags, 0)
        elif operation == _READ:
            _, offset, length = struct.unpack_from("=QQI", body)
            answer = os.pread(file, length, offset)
        elif operation not in (_RELEASE, _FLUSH):
            error = -_ENOSYS
        os.write(device, _ANSWER.pack(_ANSWER.size + len(answer), error, unique) + answer)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), _DIRECT_IO if int(sys.argv[3]) else 0)
