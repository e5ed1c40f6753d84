# SPDX-License-Identifier: Apache-2.0
"""Python fixups that other processes can import."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[Any]]


def square(source: Values) -> Values:
    return source.astype("f8") ** 2


def half(source: Values) -> Values:
    return source.astype("f4") * np.float32(0.5)


def nibbles(source: Values) -> Values:
    """Two items of four bits out of each byte."""
    return np.stack([source & 15, source >> 4], axis=1)


def add_index(source: Values, first: int) -> Values:
    return source + np.arange(first, first + len(source))


def fails_on_a_seven(source: Values) -> Values:
    if np.any(source == 7):
        raise KeyError("there is a seven")
    return source


def dies_on_a_seven(source: Values) -> Values:
    if np.any(source == 7):
        os.kill(os.getpid(), signal.SIGKILL)
    return source


def makes_too_few(source: Values) -> Values:
    return source[:-1]


def makes_strings(source: Values) -> Values:
    return source.astype("S4")


def is_slow(source: Values) -> Values:
    time.sleep(0.05)
    return source


def talks(source: Values) -> Values:
    print("decoding")
    return source


def numbered_chunk(block_info: Any = None, items: int = 0) -> Any:
    """A chunk of a Dask array that is full of its number."""
    return np.full(items, block_info[None]["chunk-location"][0], "f8")
