# SPDX-License-Identifier: Apache-2.0
"""`array`: a file's numbers as a NumPy array whose pages are decoded when they are touched.

An array here is a `DecodedMap` and a NumPy view of it. How pages come and go is the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np

from mapscratch.arrays.arguments import (
    checked_order,
    chosen_fixup,
    fitting_place,
    name_of,
    output_type,
    refuse_mode,
    source_type_of,
)
from mapscratch.arrays.copies import SupportsWrite, write_copies
from mapscratch.arrays.home import (
    AnyArray,
    ArraySpec,
    Changes,
    SourceChanged,
    ThrashingWarning,
    open_home,
)
from mapscratch.arrays.scratch_array import ScratchArray, _reopen, whole_array
from mapscratch.fixups.arrays import ArrayFixup, identity
from mapscratch.fixups.numbers import DType
from mapscratch.opening import HasFileno, Path, has_a_size, is_path, opened

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

# Pickled arrays name `_reopen` and `ArraySpec` here.
__all__ = [
    "ArraySpec",
    "ScratchArray",
    "SourceChanged",
    "ThrashingWarning",
    "_reopen",
    "array",
    "save",
]


def array(
    filename: Path | HasFileno,
    dtype: DTypeLike,
    mode: str = "r",
    offset: SupportsIndex | None = 0,
    shape: SupportsIndex | Sequence[SupportsIndex] | None = None,
    order: Literal["C", "F"] = "C",
    *,
    source: DTypeLike | str | None = None,
    scale: ArrayLike | None = None,
    zero: ArrayLike | None = None,
    blank: float | None = None,
    fixup: ArrayFixup | None = None,
    block: int | None = None,
    engine: str = "auto",
    changes: Changes = "refuse",
) -> ScratchArray:
    """A file's numbers as an array whose pages are decoded when they are touched.

    As `numpy.memmap`, but what you see need not be what the file holds::

        a = mapscratch.array("image.raw", "f4", offset=2880, shape=(4096, 4096),
                             source=">i2", scale=0.5, zero=1000)

    Pages are made when they are touched, dropped by the kernel without any I/O when memory is
    wanted, and made again: there may be more array than memory. **The file must stay as it is**
    while the array is used; a change raises SourceChanged at the next operation on it, and whoever
    touches a page that the file has no bytes for any more gets a message and SIGBUS.

    **The array is read-only.** NumPy refuses to store into it. Some compiled code stores all the
    same, and ends in SIGBUS after a message that names the array: `scipy.linalg` with
    ``overwrite_a`` or ``overwrite_b``, `scipy.linalg.blas`, `bottleneck.replace`, inputs of
    `numba.guvectorize`, and decoders of numcodecs, blosc2 and imagecodecs that are given it as
    their output. Give them a copy, ``np.array(a)``. In the source tree docs/arrays.md has all that
    were tried.

    Args:
        filename: a path, or an open file. What it has in its buffer is written out first; its
            position means nothing.
        dtype: what you see.
        mode: ``"r"``; there is no other.
        offset: bytes before the first number, any number of them.
        shape: of what you see; None: one dimension, to the end of the file. One length may be -1:
            as many as the file has. An array without items is one like others, without a page.
        order: ``"C"`` or ``"F"``, how the numbers lie in the file.
        source: what the file holds: a dtype, a name of ml_dtypes' (``"bfloat16"``,
            ``"float8_e5m2"``), or as the headers of files have it (``"BF16"``, ``"U8"``); None: the
            same as `dtype`.
        scale: see `mapscratch.fixups.Scale`; None: not scaled.
        zero: see `mapscratch.fixups.Scale`.
        blank: a number of the file that becomes NaN; see `mapscratch.fixups.Scale`.
        fixup: how items are made, of `mapscratch.fixups`; None: a `Cast`, or with `scale`, `zero`
            or `blank` a `Scale`.
        block: bytes that are made at a page fault. None adapts: 64 KiB, less for a random reader
            when memory is short, up to 2 MiB on the way for a sequential one.
        engine: ``"auto"`` or ``"lazyfree"``, see `mapscratch.engines`.
        changes: ``"refuse"``, or ``"unnoticed"`` for a file that grows while it is read, as a
            recording does. Then nothing tells you that other bytes of it were changed, and
            blocks may be decoded from old bytes and from new ones; only a file that is cut
            short is noticed. A shape of None or with -1 takes the whole items or rows
            that are there when the array is made.

    Raises:
        ValueError: another mode; an offset, shape or block that doesn't fit the file.
        TypeError: the types don't fit the fixup.
        EngineUnavailable: userfaultfd is not allowed here; the message has the line that allows it.
        FixupError: a Python fixup fails on the first block, or can't be run.
        io.UnsupportedOperation: an open file that reads something else than its descriptor has,
            as that of `gzip.open`; the message says what to do.
        OSError: the file can't be opened or mapped.

    Warns:
        SystemCallWarning: once a process, where system calls fail on pages not in memory.
        ThrashingWarning: once an array, when its pages are made again and again.
    """
    if mode != "r":
        refuse_mode(mode)
    if changes not in ("refuse", "unnoticed"):
        raise ValueError(f"changes must be 'refuse' or 'unnoticed', not {changes!r}")
    output = output_type(dtype)
    source_type = source_type_of(source, output)
    fixup = chosen_fixup(fixup, source_type, output, scale, zero, blank)
    with opened(filename) as descriptor:
        status = os.fstat(descriptor)
        if not has_a_size(descriptor):
            raise ValueError(
                "the file says that it has no bytes, and yet can be read, as those of /proc: it "
                "can't be mapped. Copy what you want of it into a file, and give that"
            )
        recipe = fixup.recipe(source_type, output) if fixup else identity(output)
        place = fitting_place(
            status.st_size, offset, shape, source_type, recipe, cut=changes == "unnoticed"
        )
        spec = ArraySpec(
            path=name_of(filename, status),
            inode=status.st_ino,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            dtype=output,
            offset=place.offset,
            shape=place.shape,
            order=checked_order(order),
            source=source_type,
            fixup=fixup,
            block=block,
            engine=engine,
            source_length=place.source_length,
            changes=changes,
        )
        return whole_array(open_home(spec, recipe, descriptor))


def save(file: Path | SupportsWrite, array: AnyArray) -> None:
    """As `numpy.save`, by copies: it never writes less than the array.

    For any array that may lie in scratch memory, `np.asarray(a)` of a scratch array too.

    Args:
        file: a path, or an open file; what it does with the bytes, say pack them, it does here too.
        array: what is saved.

    Raises:
        OSError: the file can't be written.
    """
    target: Any = os.fsdecode(file) if is_path(file) else file  # numpy.save takes no bytes
    np.save(target, array if isinstance(array, ScratchArray) else array.view(_WrittenByCopies))


class _WrittenByCopies(np.ndarray[Any, DType]):
    """Any array, for `numpy.save`: it may lie in scratch memory though it is no scratch array."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        write_copies(self, fid)
