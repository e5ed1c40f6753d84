# SPDX-License-Identifier: Apache-2.0
"""What a file's numbers are called, and which of them there are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

DType: TypeAlias = np.dtype[Any]

_BFLOAT16 = ("bfloat16", "bf16")
_NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True, slots=True)
class SourceType:
    """What the file holds.

    Attributes:
        dtype: as NumPy can read it; of bfloat16, which NumPy hasn't, its bits as uint16.
        is_bfloat16: these bits are a bfloat16.
    """

    dtype: DType
    is_bfloat16: bool = False

    @classmethod
    def of(cls, source: DTypeLike | str) -> SourceType:
        """From what a user gives: a dtype, or ``"bfloat16"`` with or without a byte order.

        Raises:
            TypeError: it is no dtype, or one of Python objects.
        """
        if isinstance(source, str) and source.lstrip("<>=|") in _BFLOAT16:
            order = source[0] if source[0] in "<>" else "="
            return cls(np.dtype(f"{order}u2"), is_bfloat16=True)
        dtype = np.dtype(source)
        if dtype.name == "bfloat16":  # ml_dtypes', if somebody has it
            return cls(np.dtype(f"{dtype.byteorder.replace('|', '=')}u2"), is_bfloat16=True)
        if dtype.hasobject:
            raise TypeError(f"a file can't hold {dtype}: it has Python objects in it")
        return cls(dtype)

    @property
    def number(self) -> str | None:
        """Its name in `mapscratch._native.conversion`; None if it is not a number."""
        return "bf16" if self.is_bfloat16 else number_name(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype.str[0]}bfloat16" if self.is_bfloat16 else str(self.dtype)


def number_name(dtype: DType) -> str | None:
    """``f4`` and the like; None if conversions don't know it."""
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        return None
    return f"{dtype.kind}{dtype.itemsize}"


def is_swapped(dtype: DType) -> bool:
    """Its bytes are in the order that is not this machine's."""
    return dtype.byteorder in "<>" and dtype.byteorder != _NATIVE_ORDER
