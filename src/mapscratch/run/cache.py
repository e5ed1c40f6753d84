# SPDX-License-Identifier: Apache-2.0
"""Conversions of libraries that are kept for `mapscratch run`.

A conversion is stored once for each content, named by build-id and hash. What the loader hook looks
up is the identity of a file (`file_key`), because it has to decide within microseconds::

    $XDG_CACHE_HOME/mapscratch/code/1/
        conversions/<build-id>-<sha256>     text pages, relocations, record
        files/<key>                         a link to it; an empty file: can't be converted
        declined/<key>                      why not

Every file appears whole or not at all, so any number of processes may add to one cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mapscratch.errors import UserError
from mapscratch.replacing import replacing

_FORMAT = "1"
"""Part of the path: another version of the record is another cache."""


def file_key(status: os.stat_result) -> str:
    """Name a file's identity: device, inode, size, and the times of its last changes.

    The loader hook makes the same from statx (runtime/audit.c).
    """
    device = os.major(status.st_dev) << 32 | os.minor(status.st_dev)
    parts = (device, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return "-".join(f"{part:x}" for part in parts)


class CacheUnusable(UserError, RuntimeError):
    """There is no place for conversions; the message says where it was looked for."""

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(
            f"{place}: {reason}. Conversions are kept there: set XDG_CACHE_HOME to the absolute "
            "path of a folder that can be written to"
        )


def default_cache_directory() -> Path:
    """$XDG_CACHE_HOME/mapscratch/code, or the same under ~/.cache.

    Raises:
        CacheUnusable: this user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else _home() / ".cache"
    return root / "mapscratch" / "code"


def _home() -> Path:
    try:
        return Path.home().absolute()
    except RuntimeError:  # no HOME, and a user whom /etc/passwd doesn't know
        raise CacheUnusable("~/.cache", "this user has no home") from None


@dataclass(frozen=True, slots=True)
class Kept:
    """What the cache knows of a file.

    Attributes:
        path: the library.
        converted: how many PLT entries are converted; 0 if it can't be.
        reason: why it can't be converted; empty if it is.
        is_new: whether this call found it out.
    """

    path: Path
    converted: int
    reason: str
    is_new: bool


class ConversionCache:
    """A folder of conversions.

    Attributes:
        root: the folder.
        files: what the loader hook reads: one name for each file that was looked at.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """A folder that is there, or is made.

        Raises:
            CacheUnusable: it can't be made.
        """
        self.root = (directory or default_cache_directory()) / _FORMAT
        self.files = self.root / "files"
        self._conversions = self.root / "conversions"
        self._declined = self.root / "declined"
        for folder in (self.files, self._conversions, self._declined):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as problem:
                raise CacheUnusable(folder, problem.strerror or str(problem)) from None

    def knows(self, path: Path) -> bool:
        """Whether the file, as it is now, was looked at before."""
        return os.path.exists(self.files / file_key(os.stat(path)))

    def keep(self, path: Path) -> Kept:
        """Convert a library, unless that was done before.

        Raises:
            OSError: the library can't be read, or the cache not be written.
        """
        # Imported here because a warm run doesn't need them, and they take longer than it.
        from mapscratch.elf import ElfError, overlay

        status = os.stat(path)
        key = file_key(status)
        if os.path.exists(self.files / key):
            return self._kept(path, key)
        try:
            data, conversion = overlay(path)
            name = f"{conversion.build_id or 'no-build-id'}-{_content_hash(path)}"
        except ElfError as problem:
            reason = str(problem).removeprefix(f"{path}: ")
            _write(self._declined / key, os.fsencode(reason))
            _write(self.files / key, b"")
            return Kept(path, 0, reason, is_new=True)
        if file_key(os.stat(path)) != key:
            return Kept(path, 0, "it changed while it was read", is_new=True)
        _write(self._conversions / name, data)
        _link(Path("..") / self._conversions.name / name, self.files / key)
        return Kept(path, conversion.converted, "", is_new=True)

    def clear(self) -> None:
        """Remove everything, of other formats too. Programs that run keep what they have."""
        shutil.rmtree(self.root.parent, ignore_errors=True)

    def _kept(self, path: Path, key: str) -> Kept:
        entry = self.files / key
        if entry.is_symlink():
            return Kept(path, _converted_count(entry), "", is_new=False)
        try:
            reason = os.fsdecode((self._declined / key).read_bytes())
        except OSError:
            reason = "declined before"
        return Kept(path, 0, reason, is_new=False)


def _converted_count(conversion: Path) -> int:
    from mapscratch.elf.record import RECORD, unpack_record

    with conversion.open("rb") as file:
        file.seek(-RECORD.itemsize, os.SEEK_END)
        return unpack_record(file.read()).converted_count


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _write(path: Path, data: bytes) -> None:
    with replacing(path, 0o600) as file:
        file.write(data)


def _link(target: Path, path: Path) -> None:
    temporary = path.with_name(f".new-{os.getpid()}-{path.name}")
    try:
        os.symlink(target, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
