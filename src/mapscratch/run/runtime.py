# SPDX-License-Identifier: Apache-2.0
"""Where the library is that is loaded into other people's programs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mapscratch.errors import UserError

RUNTIME_NAME = "libmapscratch.so.1"
"""The resolver, the drop policy and the loader hook: what a converted library needs (DT_NEEDED),
and what `mapscratch run` gives to LD_AUDIT."""


class RuntimeMissing(UserError, RuntimeError):
    """This build of mapscratch came without the libraries for converted code."""


def runtime_library() -> Path:
    """The path of `RUNTIME_NAME`.

    Raises:
        RuntimeMissing: it was not built.
    """
    library = files("mapscratch") / "_runtime" / RUNTIME_NAME
    if not library.is_file():
        raise RuntimeMissing(
            f"this installation of mapscratch has no {RUNTIME_NAME}: it is built on x86-64 only"
        )
    return Path(str(library))
