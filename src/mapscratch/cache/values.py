# SPDX-License-Identifier: Apache-2.0
"""What a `mapscratch.Cache` keeps: arrays and bytes, taken apart and seen again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Literal, NamedTuple

import numpy as np

from mapscratch.arrays import ScratchArray

Array = np.ndarray[Any, np.dtype[Any]]
Value = Array | memoryview
Makeable = Array | bytes | bytearray | memoryview


class Form(NamedTuple):
    """How an array's bytes are seen."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]


def bytes_of(value: Makeable) -> tuple[Array, Form | None]:
    """A value's bytes (uint8, one axis), and their form; None: they are just bytes.

    Not a copy, where that can be.

    Raises:
        TypeError: nothing that a cache keeps.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        view = memoryview(value)
        flat = view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
        return np.frombuffer(flat, np.uint8), None
    if type(value) not in (np.ndarray, np.memmap, ScratchArray):
        raise TypeError(
            f"a cache keeps NumPy arrays and bytes, and this is a {type(value).__name__}: "
            f"{_what_to_do(value)}"
        )
    refuse_objects(value.dtype)
    is_by_columns = value.flags.f_contiguous and not value.flags.c_contiguous
    form = Form(value.shape, value.dtype, "F" if is_by_columns else "C")
    items = np.asarray(value).ravel(form.order)
    return items.view(np.uint8) if items.nbytes else np.empty(0, np.uint8), form


def _what_to_do(value: object) -> str:
    if isinstance(value, Coroutine):
        value.close()  # else Python tells that nobody awaited it
        return "await it first, and put what comes of it"
    if isinstance(value, AsyncGenerator | Generator):
        return "it can be gone through once; np.fromiter(...) makes an array of what it yields"
    if callable(value):
        return "cache.get(key, make) is what calls a function, if there is no value"
    return "np.asarray(...) or pickle.dumps(...) makes one of most things"


def refuse_objects(dtype: np.dtype[Any]) -> None:
    """Raises a TypeError if items of that type are, or have, references to Python objects."""
    if dtype.hasobject:
        raise TypeError(
            f"a cache can't keep an array of Python objects ({dtype}): its memory is dropped "
            "without telling them"
        )


def seen(buffer: Any, form: tuple[Any, ...] | None) -> Value:
    """The value whose bytes a buffer holds, by its `Form`; it keeps the buffer alive."""
    if form is None:
        return memoryview(buffer)
    shape, dtype, order = form
    return np.ndarray(shape, dtype, buffer, order=order)


def another(value: Value) -> Value:
    """The same memory once more: whoever gets it may do with it what is theirs."""
    return memoryview(value) if isinstance(value, memoryview) else value.view()
