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

_NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"

FOREIGN = {
    "bfloat16": "bf16",
    "float8_e3m4": "f8e3m4",
    "float8_e4m3": "f8e4m3",
    "float8_e4m3fn": "f8e4m3fn",
    "float8_e4m3fnuz": "f8e4m3fnuz",
    "float8_e4m3b11fnuz": "f8e4m3b11fnuz",
    "float8_e5m2": "f8e5m2",
    "float8_e5m2fnuz": "f8e5m2fnuz",
    "float8_e8m0fnu": "f8e8m0fnu",
}
"""Floats that NumPy hasn't, by ml_dtypes' names: their names in `mapscratch._native.conversion`."""


@dataclass(frozen=True, slots=True)
class SourceType:
    """What the file holds.

    Attributes:
        dtype: as NumPy can read it; of a float that NumPy hasn't, its bits as an unsigned integer.
        foreign: the name of such a float, one of `FOREIGN`; None: it is `dtype`.
    """

    dtype: DType
    foreign: str | None = None

    @classmethod
    def of(cls, source: DTypeLike | str) -> SourceType:
        """From what a user gives: a dtype, or a name of `FOREIGN` with or without a byte order.

        Raises:
            TypeError: it is no dtype, or one of Python objects.
        """
        if isinstance(source, str):
            name = source.lstrip("<>=|")
            name = "bfloat16" if name == "bf16" else name
            if name in FOREIGN:
                return cls._of_foreign(name, source[0] if source[0] in "<>" else "=")
        dtype = np.dtype(source)
        if dtype.name in FOREIGN:  # ml_dtypes', if somebody has it
            return cls._of_foreign(dtype.name, dtype.byteorder.replace("|", "="))
        if dtype.hasobject:
            raise TypeError(f"a file can't hold {dtype}: it has Python objects in it")
        return cls(dtype)

    @classmethod
    def _of_foreign(cls, name: str, order: str) -> SourceType:
        return cls(np.dtype(f"{order}u2" if name == "bfloat16" else "u1"), name)

    @property
    def number(self) -> str | None:
        """Its name in `mapscratch._native.conversion`; None if it is not a number."""
        return FOREIGN[self.foreign] if self.foreign else number_name(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype.str[0]}{self.foreign}".lstrip("|") if self.foreign else str(self.dtype)


def number_name(dtype: DType) -> str | None:
    """``f4`` and the like; None if conversions don't know it."""
    if dtype.kind not in "biufc" or dtype.subdtype is not None or dtype.name in FOREIGN:
        return None
    return f"{dtype.kind}{dtype.itemsize}"


def is_swapped(dtype: DType) -> bool:
    """Its bytes are in the order that is not this machine's."""
    return dtype.byteorder in "<>" and dtype.byteorder != _NATIVE_ORDER
