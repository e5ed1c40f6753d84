# SPDX-License-Identifier: GPL-2.0-only
"""The package under test, installed for the guest: whole, and not as an editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from kernel.vm.machine import TREE
from kernel.vm.source import cache_directory


def install() -> Path:
    """Builds and installs the tree's package into the cache; the directory for PYTHONPATH.

    An editable install looks for changed sources at each import, which takes its time when the tree
    is mounted by 9p.
    """
    directory = cache_directory() / "package"
    shutil.rmtree(directory, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(directory), str(TREE)]
    # meson and ninja are beside the interpreter.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})
    return directory


def environment() -> dict[str, str]:
    """Variables with which the guest's Python finds that package and not the editable one."""
    builds = ":".join(str(path) for path in (TREE / "build").glob("cp*"))
    return {
        "PYTHONPATH": str(cache_directory() / "package"),
        "MESONPY_EDITABLE_SKIP": builds,
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": "/tmp/matplotlib",
    }
