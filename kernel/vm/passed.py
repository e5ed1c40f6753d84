# SPDX-License-Identifier: GPL-2.0-only
"""Which sources the kernel's tests have passed with on this machine, so that CI runs them once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kernel.vm.machine import TREE
from kernel.vm.source import cache_directory, installed_version
from kernel.vm.suites import CONTRACT_TESTS, GROUP_TESTS

_SOURCES = ("kernel", "libscratch", "runtime", "src", "tests")
_SUFFIXES = (".c", ".h", ".S", ".cc", ".py", ".sh", ".patch", ".config", ".build")


def _is_run(path: Path) -> bool:
    """Whether the virtual machine runs it, or what it runs may depend on it.

    Of the package's own tests it runs those of the contract, and of control groups.
    """
    is_a_test = path.parent == TREE / "tests" and path.name.startswith("test_")
    names = (*(f"test_{kind}" for kind in CONTRACT_TESTS), GROUP_TESTS)
    return not is_a_test or path.name.startswith(names)


def _digest() -> str:
    digest = hashlib.sha256(installed_version().encode())
    for name in _SOURCES:
        top = TREE / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.suffix in _SUFFIXES and _is_run(path):
                digest.update(str(path.relative_to(TREE)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def already() -> bool:
    """Whether the series, the runner and the engine are those of a run that was all good."""
    stamp = cache_directory() / "passed"
    return stamp.exists() and _digest() in stamp.read_text().split()


def remember() -> None:
    """Takes note of a run that was all good."""
    with (cache_directory() / "passed").open("a") as stamp:
        stamp.write(f"{_digest()}\n")
