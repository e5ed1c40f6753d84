# SPDX-License-Identifier: Apache-2.0
"""Arrays written by copies: their own pages are in no system call."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from mapscratch.arrays.home import AnyArray
from mapscratch.opening import is_path, writes_as_it_is

_COPIED_AT_ONCE = 1 << 20  # bytes, on their way into a system call


class SupportsWrite(Protocol):
    """An open file that takes bytes."""

    def write(self, data: bytes, /) -> int | None:
        """Says how many it took; None: all."""


def _pieces(array: AnyArray) -> Iterator[AnyArray]:
    """Copies of the items, in C order, a mebibyte each."""
    plain = array.view(np.ndarray)
    if not plain.flags.c_contiguous:
        plain = np.ascontiguousarray(plain)
    flat = plain.reshape(-1)
    step = max(1, _COPIED_AT_ONCE // max(1, flat.itemsize))
    for start in range(0, len(flat), step):
        yield flat[start : start + step].copy()


def write_copies(array: AnyArray, file: Any) -> None:
    """Its bytes, in C order, to a path or an open file."""
    if is_path(file):
        with open(file, "wb") as opened_file:
            write_copies(array, opened_file)
    elif writes_as_it_is(file):
        for piece in _pieces(array):
            piece.tofile(file)
    else:  # its descriptor, which NumPy would write to, is not where these bytes belong
        for piece in _pieces(array):
            _write_all(file, piece.tobytes())


def _write_all(file: SupportsWrite, data: bytes) -> None:
    """All of it, also where a raw file takes less at a time."""
    while data:
        written = file.write(data)
        if not written and (written is not None or isinstance(file, io.RawIOBase)):
            raise OSError(f"{type(file).__name__} took none of {len(data)} bytes that are left")
        data = b"" if written is None else data[written:]
