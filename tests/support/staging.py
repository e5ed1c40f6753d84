# SPDX-License-Identifier: Apache-2.0
"""The package by itself in a directory, as a wheel would unpack it."""

from __future__ import annotations

import shutil
from pathlib import Path

import mapscratch
from mapscratch import _native


def stage(directory: Path) -> Path:
    """Copies the package into a directory, which can then stand in PYTHONPATH."""
    package = directory / "mapscratch"
    shutil.copytree(
        Path(mapscratch.__file__).parent,
        package,
        ignore=shutil.ignore_patterns("__pycache__", "native", "*.so"),
    )
    shutil.copy(str(_native.__file__), package)
    return directory
