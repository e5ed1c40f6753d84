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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mapscratch.elf.source import ElfError, open_regular
from mapscratch.lab.survey.census import Skipped

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


@dataclass(slots=True)
class FoundFiles:
    """ELF files, resolved, each once, in the order in which they were found; and the others."""

    paths: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """Take a file that was named, or all ELF files below a folder.

        Raises:
            OSError: there is no such file.
        """
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            self.add_folder(path)
        elif self._is_new(status):
            self.paths.append(path.resolve())

    def add_folder(
        self, path: Path, *, recursive: bool = True, passed_over: tuple[str, ...] = ()
    ) -> None:
        """Take the ELF files of a folder, in the order of their names; a missing one has none.

        Args:
            path: the folder.
            recursive: whether those of the folders in it are meant too.
            passed_over: endings of names, of files and folders, that are not looked at.
        """
        if not os.path.isdir(path):
            return
        avoided = _devices(_VIRTUAL) - _devices([path])
        # A list of folders to do, and no recursion: they may be nested as deep as paths are long.
        waiting = [path]
        while waiting:
            inner = self._one_folder(waiting.pop(), avoided, passed_over)
            if recursive:
                waiting += inner

    def _is_new(self, status: os.stat_result) -> bool:
        """Whether a file or folder wasn't met before."""
        before = len(self._seen)
        self._seen.add((status.st_dev, status.st_ino))
        return len(self._seen) > before

    def _one_folder(
        self, folder: Path, avoided: set[int], passed_over: tuple[str, ...]
    ) -> list[Path]:
        """Take the files of one folder; returns the folders in it, the first one last."""
        try:
            status = folder.stat()
            if status.st_dev in avoided or not self._is_new(status):
                return []
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as problem:
            self.skipped.append(Skipped.because(folder, problem))
            return []
        folders = []
        for entry in found:
            if passed_over and entry.name.endswith(passed_over):
                continue
            # A link that leads nowhere is neither; one in a circle raises.
            with suppress(OSError):
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif entry.is_file() and self._is_elf(entry.path) and self._is_new(entry.stat()):
                    path = Path(entry.path)
                    self.paths.append(path.resolve() if entry.is_symlink() else path)
        return folders[::-1]

    def _is_elf(self, path: str) -> bool:
        try:
            return is_elf(path)
        except OSError as problem:
            self.skipped.append(Skipped.because(path, problem))
            return False


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
    for path in filter(Path.is_file, _loader_cache()):
        found.add(path)
    named = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
    for name in filter(None, (*named, *_LOADER_DIRECTORIES)):
        found.add_folder(Path(name).resolve(), recursive=False)
    for path in filter(Path.is_file, _interpreter()):
        found.add(path)
    for name in sys.path:
        # The empty name is where a user happens to be; the first may be that of a script.
        if os.path.isabs(name) and name != os.path.dirname(sys.argv[0]):
            found.add_folder(Path(name), passed_over=_NO_LIBRARIES)
    return found


def _loader_cache() -> list[Path]:
    """The libraries in ld.so's cache; none without ldconfig or where a C library has no cache."""
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path=_LDCONFIG_PLACES)
    if program is None:
        return []
    command, nothing = [program, "-p"], subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=nothing, capture_output=True, timeout=_LDCONFIG_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    targets = (line.partition(" => ")[2] for line in os.fsdecode(done.stdout).split("\n"))
    return [Path(target) for target in targets if target.startswith("/")]


def _interpreter() -> Iterator[Path]:
    if sys.executable:
        yield Path(sys.executable)
    folder, name = (sysconfig.get_config_var(one) for one in ("LIBDIR", "INSTSONAME"))
    if folder and name:
        yield Path(folder, name)


def _devices(paths: Iterable[str | Path]) -> set[int]:
    """Of the file systems that there are at paths."""
    return {os.stat(path).st_dev for path in paths if os.path.exists(path)}


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
