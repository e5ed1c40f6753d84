# SPDX-License-Identifier: Apache-2.0
"""Which files there are to look at: what a user names, and what is installed.

A file is taken for a library by its first four bytes, whatever its name is. Links are followed, and
no file is listed twice, by whichever of its names it is met.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mapscratch.elf.source import ElfError, open_regular

_MAGIC = b"\x7fELF"
_LOADER_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
"""Where ld.so looks if its cache has no answer (ld.so(8)); Debian's are in the cache anyway."""
_LDCONFIG_PLACES = os.pathsep.join(("/sbin", "/usr/sbin"))
_LDCONFIG_SECONDS = 30
_NO_LIBRARIES = (".py", ".pyc", ".pyi", "site-packages", "dist-packages")
"""Not looked at below sys.path: source text by the ten thousand, and packages of another
environment. (This one's folder of packages is in sys.path itself.)"""
_VIRTUAL = ("/proc", "/sys", "/dev")
"""File systems of no files: their folders are not gone into from elsewhere."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, folder or process that could not be looked at.

    Attributes:
        path: which; of a process ``/proc/PID``.
        reason: why.
    """

    path: Path
    reason: str


@dataclass(slots=True)
class FoundFiles:
    """ELF files, each once, and what could not be looked at.

    Attributes:
        paths: resolved, in the order in which they were found.
        skipped: the others, with the reason.
    """

    paths: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _files: set[tuple[int, int]] = field(default_factory=set)
    _folders: set[tuple[int, int]] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """Take a file that was named, or all ELF files below a folder.

        Raises:
            OSError: there is no such file.
        """
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            self.add_folder(path)
        else:
            self._add_file(path.resolve(), status)

    def add_folder(
        self, path: Path, *, recursive: bool = True, passed_over: tuple[str, ...] = ()
    ) -> None:
        """Take the ELF files of a folder, in the order of their names; a missing one has none.

        Args:
            path: the folder.
            recursive: whether those of the folders in it are meant too.
            passed_over: endings of names, of files and folders, that are not looked at.
        """
        try:
            status = path.stat()
        except OSError:
            return
        if not stat.S_ISDIR(status.st_mode):
            return
        avoided = _virtual_devices() - {status.st_dev}
        # A list of folders to do, and no recursion: they may be nested as deep as paths are long.
        waiting = [path]
        while waiting:
            inner = self._one_folder(waiting.pop(), avoided, passed_over)
            if recursive:
                waiting += inner

    def _one_folder(
        self, folder: Path, avoided: set[int], passed_over: tuple[str, ...]
    ) -> list[Path]:
        """Take the files of one folder; returns the folders in it, the first one last."""
        try:
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in self._folders or status.st_dev in avoided:
                return []
            self._folders.add(identity)
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as problem:
            self.skipped.append(Skipped(folder, _reason(problem)))
            return []
        folders = []
        for entry in found:
            if passed_over and entry.name.endswith(passed_over):
                continue
            try:
                # A link that leads nowhere is neither; one in a circle raises.
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif entry.is_file():
                    self._add_entry(entry)
            except OSError:
                continue
        return folders[::-1]

    def _add_entry(self, entry: os.DirEntry[str]) -> None:
        try:
            if not is_elf(entry.path):
                return
        except OSError as problem:
            self.skipped.append(Skipped(Path(entry.path), _reason(problem)))
            return
        path = Path(entry.path)
        self._add_file(path.resolve() if entry.is_symlink() else path, entry.stat())

    def _add_file(self, path: Path, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if identity not in self._files:
            self._files.add(identity)
            self.paths.append(path)


def find_files(names: Iterable[str | os.PathLike[str]]) -> FoundFiles:
    """Find what is named: files as they are, and in folders, at any depth, all ELF files.

    Raises:
        OSError: one of the names does not exist.
    """
    found = FoundFiles()
    for name in names:
        found.add(Path(name))
    return found


def installed_files() -> FoundFiles:
    """Find what the loader finds by itself, and what this Python can import.

    The loader's are those of its cache (`ldconfig -p`), of LD_LIBRARY_PATH and of its default
    folders. Python's are the interpreter, its library, and all ELF files below sys.path: extension
    modules, and the libraries that packages bring along.
    """
    found = FoundFiles()
    for path in _loader_cache():
        if path.is_file():
            found.add(path)
    named = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
    for name in (*named, *_LOADER_DIRECTORIES):
        if name:
            found.add_folder(Path(name).resolve(), recursive=False)
    for path in _interpreter():
        if path.is_file():
            found.add(path)
    for folder in _python_folders():
        found.add_folder(folder, passed_over=_NO_LIBRARIES)
    return found


def _loader_cache() -> list[Path]:
    """The libraries in ld.so's cache; none without ldconfig or where a C library has no cache."""
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path=_LDCONFIG_PLACES)
    if program is None:
        return []
    try:
        listing = subprocess.run(
            [program, "-p"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LDCONFIG_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    targets = (line.partition(" => ")[2] for line in os.fsdecode(listing).split("\n"))
    return [Path(target) for target in targets if target.startswith("/")]


def _interpreter() -> Iterator[Path]:
    if sys.executable:
        yield Path(sys.executable)
    folder, name = (sysconfig.get_config_var(one) for one in ("LIBDIR", "INSTSONAME"))
    if folder and name:
        yield Path(folder, name)


def _python_folders() -> Iterator[Path]:
    for name in sys.path:
        # The empty name is where a user happens to be; the first may be that of a script.
        if os.path.isabs(name) and name != os.path.dirname(sys.argv[0]):
            yield Path(name)


def _virtual_devices() -> set[int]:
    devices = set()
    for name in _VIRTUAL:
        try:
            devices.add(os.stat(name).st_dev)
        except OSError:
            continue
    return devices


def is_elf(path: str) -> bool:
    """Whether a file starts like an ELF file.

    Raises:
        OSError: it can't be read.
    """
    try:
        descriptor = open_regular(path)
    except ElfError:  # a pipe or a device, which may have taken a file's place
        return False
    try:
        return os.read(descriptor, len(_MAGIC)) == _MAGIC
    finally:
        os.close(descriptor)


def _reason(problem: OSError) -> str:
    return problem.strerror or str(problem)
