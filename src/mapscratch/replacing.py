# SPDX-License-Identifier: Apache-2.0
"""Files that are written as a whole: what was there stays until the new one is complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(target: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file that takes the target's place when the `with` block ends well.

    Args:
        target: the file, which need not be there yet.
        mode: its permissions.

    Raises:
        OSError: it can't be made; names the target.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    except OSError as error:  # of a file that nobody has named
        raise type(error)(error.errno, error.strerror, str(target)) from None
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            os.fchmod(file.fileno(), mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
