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
from collections.abc import Iterable
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
        """Take a file that was named, or all ELF files below a folder; OSError if there is none."""
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            self.add_folder(path)
        elif self._is_new(status):
            self.paths.append(path.resolve())

    def add_folder(
        self, path: Path, *, recursive: bool = True, passed_over: tuple[str, ...] = ()
    ) -> None:
        """Take the ELF files of a folder, by name, but not those with some endings of names."""
        if not os.path.isdir(path):
            return
        avoided = _devices(_VIRTUAL) - _devices([path])
        # A list of folders to do, and no recursion: they may be nested as deep as paths are long.
        waiting = [path]
        while waiting:
            folders = []
            for entry in self._entries(waiting.pop(), avoided):
                if entry.name.endswith(passed_over):
                    continue
                # A link that leads nowhere is neither file nor folder; one in a circle raises.
                with suppress(OSError):
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    elif (
                        entry.is_file() and self._is_elf(entry.path) and self._is_new(entry.stat())
                    ):
                        self.paths.append(Path(entry.path).resolve())
            if recursive:
                waiting += reversed(folders)

    def _entries(self, folder: Path, avoided: set[int]) -> list[os.DirEntry[str]]:
        """Of a folder that is new and on none of some devices, by name."""
        try:
            status = folder.stat()
            if status.st_dev in avoided or not self._is_new(status):
                return []
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as problem:
            self.skipped.append(Skipped.because(folder, problem))
            return []

    def _is_new(self, status: os.stat_result) -> bool:
        """Whether a file or folder wasn't met before."""
        before = len(self._seen)
        self._seen.add((status.st_dev, status.st_ino))
        return len(self._seen) > before

    def _is_elf(self, path: str) -> bool:
        try:
            return is_elf(path)
        except OSError as problem:
            self.skipped.append(Skipped.because(path, problem))
            return False


def find_files(
    names: Iterable[str | os.PathLike[str]] = (), *, installed: bool = False
) -> FoundFiles:
    """Find what is named: files as they are, and in folders, at any depth, all ELF files.

    A name that is not there is an OSError. Installed is what the loader finds by itself (its cache,
    LD_LIBRARY_PATH, its default folders), and what this Python can import: the interpreter, its
    library, and all ELF files below sys.path: extension modules, and libraries of packages.
    """
    found = FoundFiles()
    # Named folders first, for nothing in them is passed over.
    for name in names:
        found.add(Path(name))
    if installed:
        _add_installed(found)
    return found


def _add_installed(found: FoundFiles) -> None:
    library = [sysconfig.get_config_var(name) or os.sep for name in ("LIBDIR", "INSTSONAME")]
    for path in (*_loader_cache(), Path(sys.executable or ""), Path(*library)):
        if path.is_file():
            found.add(path)
    named = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
    for name in filter(None, (*named, *_LOADER_DIRECTORIES)):
        found.add_folder(Path(name).resolve(), recursive=False)
    for name in sys.path:
        # The empty name is where a user happens to be; the first may be that of a script.
        if os.path.isabs(name) and name != os.path.dirname(sys.argv[0]):
            found.add_folder(Path(name), passed_over=_NO_LIBRARIES)


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


def _devices(paths: Iterable[str | Path]) -> set[int]:
    """Of the file systems that there are at paths."""
    return {os.stat(path).st_dev for path in paths if os.path.exists(path)}


def is_elf(path: str) -> bool:
    """Whether a file starts like an ELF file; OSError if it can't be read."""
    try:
        descriptor = open_regular(path)
    except ElfError:  # a pipe or a device, which may have taken a file's place
        return False
    try:
        return os.read(descriptor, len(_MAGIC)) == _MAGIC
    finally:
        os.close(descriptor)
