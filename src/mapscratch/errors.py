# SPDX-License-Identifier: Apache-2.0
"""What errors have in common that are meant for whoever typed a command; whom warnings are for."""

from __future__ import annotations

import sys
from itertools import dropwhile
from typing import ClassVar

_TRACEBACK = "Traceback (most recent call last):"


class UserError(Exception):
    """The message says in one line what is wrong and what to do; a command shows nothing else.

    Attributes:
        exit_status: that the command then ends with.
    """

    exit_status: ClassVar[int] = 2


def last_words(text: str) -> str:
    """What a process said last on its standard error, in one line.

    Of a traceback that is the exception with all of its message, whose last line may be no more
    than the last of several reasons.
    """
    lines = text.strip().splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if begins:
        inside = lines[begins[-1] + 1 :]
        lines = list(dropwhile(lambda line: line.startswith(" "), inside))
    else:
        lines = lines[-1:]
    return " ".join(" ".join(lines).split())


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
