# SPDX-License-Identifier: Apache-2.0
"""Packages that some commands need and arrays don't, and what to install where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from mapscratch.errors import UserError

EXTRAS = {
    "lab": ("elftools", "jinja2", "msgspec", "rich"),
    "chart": ("matplotlib",),
    "check": ("capstone",),
}
"""The extras of mapscratch, and the top-level modules that each brings."""

_PACKAGES = {"elftools": "pyelftools"}
"""As pip calls what has another name as a module."""


def how_to_install(extra: str) -> str:
    """The command of pip; by packages, because pip finds those wherever mapscratch came from."""
    packages = sorted(_PACKAGES.get(module, module) for module in EXTRAS[extra])
    return f"pip install {' '.join(packages)}"


class ExtraMissing(UserError, ImportError):
    """A command needs a package that is not installed; the message has the command of pip."""

    def __init__(self, module: str, extra: str) -> None:
        self.remedy = how_to_install(extra)
        super().__init__(f"this needs {module}, which is not installed: {self.remedy}")


def missing_extra(error: ModuleNotFoundError) -> ExtraMissing:
    """What to say of an import that failed; raises it if no extra has it: a mistake of ours."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return ExtraMissing(module, extra)
    raise error


def require(extra: str) -> None:
    """Finds out before anything is measured whether an extra is there."""
    for module in EXTRAS[extra]:
        if not find_spec(module):
            raise ExtraMissing(module, extra)
