# SPDX-License-Identifier: Apache-2.0
"""What errors have in common that are meant for whoever typed a command; whom warnings are for."""

from __future__ import annotations

import sys
from typing import ClassVar


class UserError(Exception):
    """The message says in one line what is wrong and what to do; a command shows nothing else.

    Attributes:
        exit_status: that the command then ends with.
    """

    exit_status: ClassVar[int] = 2


def caller_level() -> int:
    """The ``stacklevel`` by which a warning points at the line that called this package.

    For whoever calls this and `warnings.warn` in the same function.
    """
    level = 1
    frame = sys._getframe(1)
    while frame.f_back and _is_ours(str(frame.f_globals.get("__name__", ""))):
        frame = frame.f_back
        level += 1
    return level


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]
