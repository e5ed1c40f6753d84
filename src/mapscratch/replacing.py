# SPDX-License-Identifier: Apache-2.0
"""Files that are written as a whole, and folders that are only there with something in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(target: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A new file that takes the target's place when the `with` block ends well; else it is removed.

    Args:
        target: the file, which need not be there yet, and stays as it is until then.
        mode: its permissions; by default those that it has, or those of any new file.

    Raises:
        OSError: it can't be made; names the target.
    """
    if mode is None and target.exists():
        mode = target.stat().st_mode & 0o777
    new = target.with_name(f".new-{os.urandom(8).hex()}")
    try:
        with _created(new, target, is_private=mode is not None) as file:
            yield file
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        os.replace(new, target)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _created(path: Path, target: Path, *, is_private: bool) -> BinaryIO:
    """A private one is nobody else's to read while it is written."""

    def opened(path: str, flags: int) -> int:
        # The kernel takes the umask off, which to ask for is to change it for all threads.
        return os.open(path, flags, 0o600 if is_private else 0o666)

    try:
        return open(path, "x+b", opener=opened)
    except OSError as error:  # of a file that nobody has named
        raise type(error)(error.errno, error.strerror, str(target)) from None


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Makes a folder, and those above it; those of them that end up empty are removed again.

    Raises:
        OSError: it can't be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in missing:
            with suppress(OSError):  # It has something in it.
                one.rmdir()
