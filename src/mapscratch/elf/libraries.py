# SPDX-License-Identifier: Apache-2.0
"""Which real libraries on this machine make a good experiment.

The loader knows best where libraries are: a fresh interpreter loads them, and /proc/self/maps says
which files it took. What nobody has loaded is looked for where Python and NumPy say they are.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Printed are the mapped files after loading what an ordinary Python worker has: ssl brings
# libcrypto, NumPy its BLAS and often libstdc++, which is asked for by name in case it doesn't.
_LIST_MAPPED_FILES = """
import ctypes, importlib
for module in ("ssl", "numpy"):
    try:
        importlib.import_module(module)
    except ImportError:
        pass
try:
    ctypes.CDLL("libstdc++.so.6")
except OSError:
    pass
with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape", newline="\\n") as maps:
    files = {line.split(None, 5)[5].rstrip("\\n") for line in maps if line.count("/")}
import sys
sys.stdout.buffer.write("\\0".join(sorted(files)).encode("utf-8", "surrogateescape"))
"""
_SECONDS_TO_LOAD = 60

# In the order of the result.
_WANTED_NAMES = (
    re.compile(r"libc(\.so\.6|-2\.\d+\.so)|ld-musl-.*|libc\.musl-.*"),
    re.compile(r"libcrypto[.-].*"),
    re.compile(r"libpython3.*"),
    re.compile(r"libstdc\+\+\.so.*"),
    re.compile(r".*(blas|lapack|mkl_).*\.so.*"),
)


def default_libraries() -> list[Path]:
    """Find real shared libraries that make a good default for the experiment.

    These are libc, libcrypto, libpython, libstdc++ and the large ones that NumPy brings, as far as
    they exist. No privilege is needed; a Python process is started and ends.

    Returns:
        resolved paths of existing files without duplicates, in that order, by name within a group.
    """
    mapped = _mapped_files()
    # Not Path.is_file, which raises where a folder on the way is closed to this user.
    candidates = [*mapped, *_python_libraries(), *_numpy_libraries()]
    files = {path.resolve() for path in candidates if os.path.isfile(path)}
    chosen: list[Path] = []
    for pattern in _WANTED_NAMES:
        matching = (path for path in files if pattern.fullmatch(path.name))
        chosen += sorted(matching, key=lambda path: (path.name, path))
    chosen += [path.resolve() for path in _numpy_libraries() if os.path.isfile(path)]
    return list(dict.fromkeys(path for path in chosen if _is_elf(path)))


def _mapped_files() -> list[Path]:
    """The files that a fresh interpreter with ssl and NumPy maps; none if it can't be started."""
    command = [sys.executable or "python3", "-P", "-c", _LIST_MAPPED_FILES]
    try:
        answer = subprocess.run(
            command, capture_output=True, check=True, timeout=_SECONDS_TO_LOAD
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = answer.decode("utf-8", "surrogateescape").split("\0")
    return [Path(name) for name in names if name.startswith("/")]


def _python_libraries() -> Iterator[Path]:
    directory = sysconfig.get_config_var("LIBDIR")
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY")
    if directory and name:
        yield Path(directory, name)
        multiarch = sysconfig.get_config_var("MULTIARCH")
        if multiarch:
            yield Path(directory, multiarch, name)


def _numpy_libraries() -> list[Path]:
    """The libraries beside NumPy and its central extension module, sorted by name."""
    specification = importlib.util.find_spec("numpy")
    if specification is None or specification.origin is None:
        return []
    package = Path(specification.origin).parent
    bundled = sorted(package.parent.joinpath("numpy.libs").glob("*.so*"))
    core = sorted(package.glob("_core/_multiarray_umath*.so"))
    core += sorted(package.glob("core/_multiarray_umath*.so"))
    return [*bundled, *core]


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False
