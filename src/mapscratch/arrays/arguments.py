# SPDX-License-Identifier: Apache-2.0
"""What the arguments of `array` mean, and whether the file has what they ask for."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index as as_index
from typing import TYPE_CHECKING, Literal, NoReturn, SupportsIndex

import numpy as np

from mapscratch.arrays.home import NAMELESS, Shape, identity_of
from mapscratch.fixups.arrays import ArrayFixup, Cast, Recipe, Scale
from mapscratch.fixups.numbers import FOREIGN, DType, SourceType
from mapscratch.opening import HasFileno, Path, is_path

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike


def refuse_mode(mode: str) -> NoReturn:
    """Says what to use for writing."""
    raise ValueError(
        f"mode={mode!r}: what is decoded can't be written back, so the mode is 'r'. To write to "
        "the file use numpy.memmap; for numbers that you can change, np.array(a) copies them"
    )


def checked_order(order: str) -> Literal["C", "F"]:
    """One of the two, or ValueError."""
    if order == "C":
        return "C"
    if order == "F":
        return "F"
    raise ValueError(f"order must be 'C' or 'F', not {order!r}")


def chosen_fixup(
    fixup: ArrayFixup | None,
    source: SourceType,
    output: DType,
    scale: ArrayLike | None,
    zero: ArrayLike | None,
    blank: float | None,
) -> ArrayFixup | None:
    """How items are made; None: the file's bytes are the items.

    Raises:
        TypeError: the fixup is none for arrays.
        ValueError: both a fixup and what stands for one were given.
    """
    is_scaled = scale is not None or zero is not None or blank is not None
    if fixup is not None:
        if not isinstance(fixup, ArrayFixup):
            raise TypeError(
                "fixup must be one of mapscratch.fixups for arrays (ByteSwap, Cast, Scale, "
                f"Compiled, Python), not {type(fixup).__name__}"
            )
        if is_scaled:
            raise ValueError("give either fixup, or scale, zero and blank")
        return fixup
    if is_scaled:
        return Scale(1 if scale is None else scale, 0 if zero is None else zero, blank=blank)
    if source.is_shown_by(output):
        return None
    return Cast()


def name_of(file: Path | HasFileno, status: os.stat_result) -> str:
    """The absolute path by which another process can open the file."""
    if is_path(file):
        return os.path.abspath(os.fsdecode(file))
    name = getattr(file, "name", None)
    if not isinstance(name, str | bytes):  # of a descriptor it is its number
        return NAMELESS
    path = os.path.abspath(os.fsdecode(name))
    try:
        is_the_same = identity_of(os.stat(path)) == identity_of(status)
    except (OSError, ValueError):
        return NAMELESS
    return path if is_the_same else NAMELESS


def output_type(dtype: DTypeLike) -> DType:
    """What a user wants to see.

    Raises:
        TypeError: NumPy doesn't know it, or it is of Python objects.
    """
    if isinstance(dtype, str) and dtype in FOREIGN:
        with suppress(ImportError):  # it teaches NumPy their names
            importlib.import_module("ml_dtypes")
    try:
        output = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{error}. dtype is what you see, as NumPy names it, and source what the file holds. "
            "For bfloat16 and floats of 8 bits give their types in the package ml_dtypes, or see "
            "them as 'f4'"
        ) from None
    if output.hasobject:
        raise TypeError(f"a file can't hold {output}: it has Python objects in it")
    return output


def source_type_of(source: DTypeLike | str | None, output: DType) -> SourceType:
    """What the file holds, as the user named it."""
    if source is None:
        return SourceType.of(output)
    if output.kind == "U":
        return SourceType.of(np.dtype(source))  # who sees text means NumPy's "U8"
    return SourceType.of(source)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file an array lies: bytes, and its shape."""

    offset: int
    source_length: int
    shape: Shape


def fitting_place(
    size: int,
    offset: SupportsIndex | None,
    shape: SupportsIndex | Sequence[SupportsIndex] | None,
    source: SourceType,
    recipe: Recipe,
    *,
    cut: bool,
) -> Place:
    """Where the array lies, if the file has what it takes.

    Args:
        size: of the file.
        offset: as the user gave it.
        shape: as the user gave it.
        source: what the file holds.
        recipe: what makes items.
        cut: what is not whole at the end of the file is left out.

    Raises:
        ValueError: the file hasn't what it takes.
        TypeError: offset or shape are no numbers.
    """
    itemsize = source.dtype.itemsize
    if not itemsize:
        raise ValueError(f"items of {source} have no bytes")
    lengths = _as_lengths(shape)
    start = _as_offset(offset, lengths)
    if not 0 <= start <= size:
        raise ValueError(f"offset={start}: the file has {size} bytes")
    left = size - start
    if -1 in lengths:
        lengths = _filled_in(lengths, left, start, source, recipe, cut=cut)
    wanted = -(-math.prod(lengths) // recipe.items) * itemsize
    if wanted > left:
        raise ValueError(
            f"an array of shape {lengths} takes {wanted} bytes of {source}, but the file has "
            f"{left} from offset {start} on ({size} in all): is it cut "
            "short, or the shape, offset or dtype another?"
        )
    return Place(start, wanted, lengths)


def _as_lengths(shape: SupportsIndex | Sequence[SupportsIndex] | None) -> Shape:
    if shape is None:
        return (-1,)
    try:
        lengths = (
            (as_index(shape),)
            if hasattr(shape, "__index__") and not np.ndim(shape)  # type: ignore[arg-type]
            else tuple(as_index(length) for length in shape)  # type: ignore[union-attr]
        )
    except TypeError as error:
        raise TypeError(f"shape={shape!r}: an integer, or several ({error})") from None
    if any(length < -1 for length in lengths):
        raise ValueError(f"shape={lengths}: a length can't be negative, but for one of -1")
    if lengths.count(-1) > 1:
        raise ValueError(f"shape={lengths}: only one length can be -1, for as many as there are")
    return lengths


def _as_offset(offset: SupportsIndex | None, lengths: Shape) -> int:
    if offset is not None:
        return as_index(offset)
    if 0 in lengths and -1 not in lengths:
        return 0  # a format that has no place for it, as HDF5
    raise TypeError(
        "offset=None: that is no place in the file. h5py's get_offset() gives it for a dataset "
        "that is not one piece of its file as it is (chunked, compressed, compact, external or "
        "not yet written): read such a dataset with h5py, where you want with "
        "mapscratch.Cache, or write it again without chunks"
    )


def _filled_in(
    lengths: Shape, left: int, offset: int, source: SourceType, recipe: Recipe, *, cut: bool
) -> Shape:
    """The shape with the length in place of -1 that `left` bytes have.

    Raises:
        ValueError: they are no whole number of rows.
    """
    itemsize = source.dtype.itemsize
    others = -math.prod(lengths)
    if not others:
        raise ValueError(f"shape={lengths}: any length would do in place of -1")
    items = left // itemsize * recipe.items
    is_whole = not left % itemsize and not items % others
    if not is_whole and not cut:
        rows = f"rows of shape {lengths}" if others > 1 else "items"
        raise ValueError(
            f"{left} bytes from offset {offset} on are not whole items of {source} ({itemsize} "
            f"bytes each) in whole {rows}; give a shape"
        )
    return tuple(items // others if length == -1 else length for length in lengths)
