# SPDX-License-Identifier: Apache-2.0
"""How pip builds mapscratch: meson-python, with an answer where it has none.

- Free-threaded Python knows no limited API: there the extension is built for just that Python.
- A Python that is too old gets metadata and no build, so that pip speaks of `requires-python`.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mesonpy
from mesonpy import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

Settings = Mapping[str, Any]
OLDEST = (3, 11)
"""As `requires-python` says."""


def for_this_python(settings: Settings | None) -> dict[str, Any]:
    """What pip was told by --config-settings, and what this Python needs; the user's go last."""
    told = dict(settings or {})
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        arguments = told.get("setup-args", [])
        arguments = [arguments] if isinstance(arguments, str) else list(arguments)
        told["setup-args"] = ["-Dpython.allow_limited_api=false", *arguments]
    return told


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """PEP 517."""
    name: str = mesonpy.build_wheel(wheel_directory, for_this_python(config_settings))
    return name


def build_editable(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """PEP 660."""
    name: str = mesonpy.build_editable(wheel_directory, for_this_python(config_settings))
    return name


def metadata_alone(metadata_directory: str, config_settings: Settings | None = None) -> str:
    """PEP 517's `prepare_metadata_for_build_wheel`, without configuring anything."""
    import tomli  # mesonpy brings it where tomllib isn't
    from pyproject_metadata import StandardMetadata

    with open("pyproject.toml", "rb") as file:
        metadata = StandardMetadata.from_pyproject(tomli.load(file))
    directory = Path(metadata_directory) / f"{metadata.name}-{metadata.version}.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_bytes(bytes(metadata.as_rfc822()))
    return directory.name


if sys.version_info < OLDEST:
    prepare_metadata_for_build_wheel: Callable[..., str] = metadata_alone
    prepare_metadata_for_build_editable: Callable[..., str] = metadata_alone
