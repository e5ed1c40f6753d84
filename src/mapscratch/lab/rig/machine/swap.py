# SPDX-License-Identifier: Apache-2.0
"""A swap area of one's own for a while.

The kernel's ``Documentation/admin-guide/blockdev/zram.rst`` and ``mm/zswap.rst`` define the
settings used here; swapon(2) the priorities; ``union swap_header`` in ``include/linux/swap.h``
the first page of an area.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from typing import Literal, get_args

from mapscratch.lab.rig.machine.guardian import Guardian
from mapscratch.lab.rig.machine.guardian_process import call_libc, remove_swap_file, write
from mapscratch.proc.availability import Availability, has_system_administration

SwapKind = Literal["file", "zram", "zswap"]

_SPACE_MARGIN = 512 << 20  # bytes that a swapfile leaves free on its disk
_ZRAM_CONTROL = "/sys/class/zram-control"
_ZSWAP_ENABLED = "/sys/module/zswap/parameters/enabled"
_DIRECTORIES = ("/var/tmp", "/var/lib", "/")
_ADVICE = "Have one of these on an ext4 or xfs disk with room, take kind 'zram'"
_HIGHEST_PRIORITY = 0x7FFF
_SWAP_FLAG_PREFER = 0x8000  # include/linux/swap.h

# include/uapi/linux/magic.h; what each lacks for a swapfile.
_UNSUITABLE = {
    0x01021994: "tmpfs is memory itself",
    0x858458F6: "ramfs is memory itself",
    0x794C7630: "overlayfs takes no swapfiles",
    0x9123683E: "btrfs takes only swapfiles without copy-on-write and compression",
    0x6969: "NFS is no place for a temporary swapfile",
    0x65735546: "FUSE takes no swapfiles",
    0x01021997: "9p takes no swapfiles",
    0x2FC12FC1: "ZFS takes no swapfiles",
    0x73717368: "squashfs is read-only",
}


class SwapError(OSError):
    """A temporary swap could not be made or removed; the message says what to do."""


def probe_temporary_swap(kind: SwapKind, size: int = 0) -> Availability:
    """Whether `temporary_swap` is expected to work with these arguments; changes nothing."""
    try:
        return Availability(True, _check(kind, size))
    except SwapError as error:
        return Availability(False, str(error.strerror))


@contextmanager
def temporary_swap(kind: SwapKind, size: int) -> Iterator[str]:
    """Swap to an area of its own, of the highest priority, until the end of the ``with`` block.

    ``"file"`` is a swapfile on a disk; ``"zram"`` a new compressed device in memory, never one
    that was there before; ``"zswap"`` the compressed cache in memory, enabled if it was not, before
    a swapfile. The path of the file or device is yielded. The area is there for the whole machine:
    other processes swap to it too.

    In the end the area is switched off, which reads back what is in it, and removed, whatever ends
    this process: see `guardian`. zswap gets its former setting; only one process at a time can have
    it, and the next one waits for half a minute.

    The size is in bytes, at least ten pages, and rounded up to pages. A SwapError says what is in
    the way, or that the area could not be removed.
    """
    if size < 10 * PAGESIZE:
        raise ValueError(f"a swap area has at least {10 * PAGESIZE} bytes, not {size}")
    pages = -(-size // PAGESIZE)
    _check(kind, size)
    with Guardian(SwapError) as guardian:
        if kind == "zram":
            path = _make_zram(guardian, pages)
        else:
            if kind == "zswap":
                with _advice(f"zswap could not be enabled by {_ZSWAP_ENABLED}"):
                    guardian.act("change_setting", _ZSWAP_ENABLED, "Y")
            path = _make_swap_file(guardian, pages)
        yield path


def _check(kind: SwapKind, size: int) -> str:
    """How it will be done; ValueError or SwapError if it can't be."""
    if kind not in get_args(SwapKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(SwapKind))}, not {kind!r}")
    if not os.path.exists("/proc/swaps"):
        raise SwapError(errno.ENOSYS, "this kernel was built without swap (CONFIG_SWAP)")
    if not has_system_administration():
        how = "run it with sudo" if os.geteuid() else "this root lacks it: `--cap-add SYS_ADMIN`"
        advice = f"{how}, or have the administrator add swap, or do without"
        needed = "making a temporary swap needs root (CAP_SYS_ADMIN)"
        raise SwapError(errno.EPERM, f"{needed}: {advice}")
    if kind == "zram":
        advice = "run `modprobe zram num_devices=0`, or take kind 'file'"
        _require(f"{_ZRAM_CONTROL}/hot_add", os.R_OK, advice)
        return f"a new zram device by {_ZRAM_CONTROL}"
    if kind == "zswap":
        advice = "a kernel with CONFIG_ZSWAP is needed; or take kind 'file'"
        _require(_ZSWAP_ENABLED, os.W_OK, advice)
    where = _suitable_directories(size)[0]
    return f"a swapfile in {where}{', behind zswap' if kind == 'zswap' else ''}"


def _require(path: str, access: int, advice: str) -> None:
    if not os.path.exists(path):
        raise SwapError(errno.ENODEV, f"{path} is not there: {advice}")
    if not os.access(path, access):
        raise SwapError(errno.EACCES, f"{path} is closed to this process (a container?): {advice}")


def _suitable_directories(size: int) -> list[str]:
    """The directories that can take a swapfile of ``size`` bytes; SwapError if there is none."""
    problems = {directory: _problem(directory, size) for directory in _DIRECTORIES}
    suitable = [directory for directory, problem in problems.items() if not problem]
    if not suitable:
        full = any(problem.startswith("only") for problem in problems.values())
        reasons = "; ".join(f"{directory}: {problem}" for directory, problem in problems.items())
        raise SwapError(
            errno.ENOSPC if full else errno.EINVAL,
            f"no place for a swapfile: {reasons}. {_ADVICE}, or ask for less",
        )
    return suitable


def _problem(directory: str, size: int) -> str:
    """Why a directory can't take a swapfile of ``size`` bytes; empty if it can."""
    if not os.path.isdir(directory):
        return "there is no such directory"
    if not os.access(directory, os.W_OK):
        return "it is not writable"
    if reason := _UNSUITABLE.get(_file_system(directory)):
        return reason
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free < size + _SPACE_MARGIN:
        return (
            f"only {free >> 20} MiB are free, and {size >> 20} MiB are needed "
            f"with {_SPACE_MARGIN >> 20} MiB to spare"
        )
    return ""


def _file_system(directory: str) -> int:
    """The magic number of a directory's file system: the first word that statfs(2) gives."""
    import ctypes

    result = ctypes.create_string_buffer(1024)
    call_libc("statfs", os.fsencode(directory), result)
    return ctypes.c_ulong.from_buffer(result).value & 0xFFFFFFFF


def _make_swap_file(guardian: Guardian, pages: int) -> str:
    problems: list[str] = []
    is_forbidden = False
    for directory in _suitable_directories(pages * PAGESIZE):
        path = f"{directory.rstrip('/')}/.mapscratch-swap-{os.getpid()}-{os.urandom(4).hex()}"
        guardian.remember("remove_swap_file", path)
        try:
            _swap_on(path, pages, os.O_CREAT | os.O_EXCL)
        except OSError as error:
            remove_swap_file(path)
            problems.append(f"{directory}: {error.strerror}")
            is_forbidden = error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS)
        else:
            return path
    forbidden = "A security module or seccomp forbids swapon(2), as in an unprivileged container"
    raise SwapError(
        errno.EPERM if is_forbidden else errno.EINVAL,
        f"the kernel refuses a swapfile: {'; '.join(problems)}. "
        f"{forbidden if is_forbidden else _ADVICE}",
    )


def _make_zram(guardian: Guardian, pages: int) -> str:
    with _advice("the kernel gives no zram device: take kind 'file'"):
        number = guardian.act("add_zram")
    path = f"/dev/zram{number}"
    with _advice(f"{path} could not be made a swap area: ask for less, or take kind 'file'"):
        write(f"/sys/block/zram{number}/disksize", str((pages + 1) * PAGESIZE))
        # Without O_CREAT: where no /dev/zramN appears, no ordinary file shall.
        _swap_on(path, pages)
    return path


def _swap_on(path: str, pages: int, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        if flags & os.O_CREAT:
            os.posix_fallocate(descriptor, 0, (pages + 1) * PAGESIZE)
        os.pwrite(descriptor, _swap_header(pages), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    call_libc("swapon", os.fsencode(path), _SWAP_FLAG_PREFER | _HIGHEST_PRIORITY)


def _swap_header(pages: int) -> bytes:
    """The first page of an area: version 1, the number of its last page, no bad pages, a UUID."""
    header = struct.pack("=1024xIII16s16s", 1, pages, 0, os.urandom(16), b"mapscratch")
    return header.ljust(PAGESIZE - 10, b"\0") + b"SWAPSPACE2"


@contextmanager
def _advice(advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SwapError(error.errno or errno.EIO, f"{advice} ({error.strerror})") from error
