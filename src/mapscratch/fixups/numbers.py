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

_SIZED = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 complex64 complex128"

_SPELLINGS = {
    # safetensors, and GGUF where it has no blocks
    "BOOL": "?",
    "I8": "i1",
    "U8": "u1",
    "I16": "i2",
    "U16": "u2",
    "I32": "i4",
    "U32": "u4",
    "I64": "i8",
    "U64": "u8",
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
    "C64": "c8",
    "C128": "c16",
    "BF16": "bfloat16",
    "bf16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    # PyTorch, whose float, int and cfloat are not NumPy's
    "torch.float": "f4",
    "torch.int": "i4",
    "torch.cfloat": "c8",
    # ONNX
    "FLOAT": "f4",
    "DOUBLE": "f8",
    **{name.upper(): name for name in _SIZED.split()},
    **{name.upper().replace("_", ""): name for name in FOREIGN},
}
"""What files and PyTorch call what NumPy or `FOREIGN` call otherwise."""

_OF_NO_NUMBER = (
    "{name!r} is no number that an array could be made of item by item. There are NumPy's dtypes, "
    "those of ml_dtypes, and the names that safetensors, GGUF, ONNX and PyTorch have for them. Of "
    "a format that packs numbers (F4, Q8_0) give a block of it as source ('V18'), and make items "
    "of that with fixups.Compiled or fixups.Python and their items="
)

_FIRST_FOREIGN_NUMBER = 256  # NPY_USERDEF: dtypes that other packages have added to NumPy


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
        """From what a user gives: a dtype, or a name of NumPy, ml_dtypes, files or PyTorch.

        ``"U8"`` is a file's unsigned integer of 8 bits; NumPy's text of 8 characters is ``"<U8"``.

        Raises:
            TypeError: it is no dtype, or one of Python objects.
        """
        if type(source).__module__ == "torch":
            source = str(source)
        if isinstance(source, str):
            order, name = _order_and_name(source)
            if name in FOREIGN:
                return cls._of_foreign(name, order if order in ("<", ">") else "=")
            source = order + name
        dtype = _dtype_of(source)
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

    def is_shown_by(self, dtype: DType) -> bool:
        """The file's bytes are items of this dtype as they are."""
        if self.foreign:
            return dtype.name == self.foreign and is_swapped(dtype) == is_swapped(self.dtype)
        return self.dtype == dtype

    def __str__(self) -> str:
        return f"{self.dtype.str[0]}{self.foreign}".lstrip("|") if self.foreign else str(self.dtype)


def _dtype_of(source: DTypeLike | str) -> DType:
    try:
        return np.dtype(source)
    except TypeError:
        if not isinstance(source, str):
            raise
        raise TypeError(_OF_NO_NUMBER.format(name=source)) from None


def _order_and_name(source: str) -> tuple[str, str]:
    """Byte order and name, of NumPy or `FOREIGN`."""
    order = source[0] if source[:1] in ("<", ">", "=", "|") else ""
    name = source.removeprefix(order)
    if order and name.startswith("U"):
        return order, name  # NumPy's text
    return order, _SPELLINGS.get(name, name.removeprefix("torch."))


def number_name(dtype: DType) -> str | None:
    """``f4`` and the like; None if conversions don't know it."""
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        return None
    if dtype.num >= _FIRST_FOREIGN_NUMBER:
        return None
    return f"{dtype.kind}{dtype.itemsize}"


def is_swapped(dtype: DType) -> bool:
    """Its bytes are in the order that is not this machine's."""
    return dtype.byteorder in "<>" and dtype.byteorder != _NATIVE_ORDER
