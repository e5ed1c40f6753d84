# SPDX-License-Identifier: Apache-2.0
"""In which type a scaled number is computed: one in which nothing is lost before the last step.

A float has room for so many bits. Where an integer times a scale, plus a zero, needs more of them
than the output has, the sum is made in a wider type and rounded to the output's at the end.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mapscratch.fixups.numbers import DType, SourceType, number_name

Values: TypeAlias = np.ndarray[Any, DType]

_SUM = "i16"  # of 16 bytes: integers' exact sums
_WIDE = ("i8", "u8", "f16", "c32")  # need the 64 bits of a long double's significand


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How scaled numbers are computed.

    Attributes:
        through: the type of products and sums, as `mapscratch._native.conversion` names it.
        scales: of that type, in the machine's order.
        zeros: likewise, one for each scale.
        zero_is_point: it is ``(source - zero) * scale``.
    """

    through: str
    scales: bytes
    zeros: bytes
    zero_is_point: bool

    @classmethod
    def of(
        cls,
        source: SourceType,
        output: DType,
        scales: Values,
        zeros: Values,
        *,
        zero_is_point: bool = False,
    ) -> Arithmetic:
        """For ``source * scale + zero``, or ``(source - zero) * scale``.

        Raises:
            ValueError: an integer output, and a scale or zero that is no integer, or no sum fits.
        """
        if output.kind in "iu":
            through = _through_to_integer(source, output, scales, zeros)
        else:
            through = _through_to_float(source, output, scales, zeros, zero_is_point)
        return cls(through, _stored_as(through, scales), _stored_as(through, zeros), zero_is_point)


@dataclass(frozen=True, slots=True)
class _Extent:
    """Of numbers: significant bits, each a multiple of 2**lowest, none beyond 2**top."""

    bits: int
    lowest: int
    top: int

    @classmethod
    def of_integers(cls, low: int, high: int) -> _Extent:
        top = (max(-low, high, 1) - 1).bit_length()
        return cls(top, 0, top)

    @classmethod
    def of_values(cls, values: Values) -> _Extent | None:
        """None if it can't be known, or they aren't finite."""
        wide = _as_long_doubles(values)
        if wide is None or not np.isfinite(wide).all():
            return None
        fractions, exponents = np.frexp(wide[wide != 0])
        if not fractions.size:
            return cls(0, 0, 0)
        digits = np.abs(np.ldexp(fractions, 64)).astype("u8")
        behind = np.log2((digits & (~digits + np.uint64(1))).astype("f8")).astype(int)
        lowest = exponents - 64 + behind
        top = np.where(
            64 - behind == 1, exponents - 1, exponents
        )  # a power of two is its own limit
        return cls(int((64 - behind).max()), int(lowest.min()), int(top.max()))

    def times(self, other: _Extent) -> _Extent:
        is_power = self.bits <= 1 or other.bits <= 1
        bits = max(self.bits, other.bits) if is_power else self.bits + other.bits
        return _Extent(bits, self.lowest + other.lowest, self.top + other.top)

    def plus(self, other: _Extent) -> _Extent:
        if not other.bits:
            return self
        lowest, top = min(self.lowest, other.lowest), max(self.top, other.top) + 1
        return _Extent(top - lowest, lowest, top)


@dataclass(frozen=True, slots=True)
class _Float:
    """A type of floats: the bits of its significand, the exponents of its least and largest."""

    bits: int
    lowest: int
    top: int

    @classmethod
    def of(cls, dtype: DType) -> _Float:
        info = np.finfo(dtype)
        return cls(info.nmant + 1, int(info.minexp) - info.nmant, int(info.maxexp))

    def holds(self, numbers: _Extent) -> bool:
        top = self.top - (numbers.bits == 1)  # its greatest is just below a power of two
        return numbers.bits <= self.bits and numbers.lowest >= self.lowest and numbers.top <= top


def stored_number(number: float, source: SourceType) -> bytes:
    """A number as the file holds it, in the machine's order, floats that are widened as float32.

    It has no bytes if nothing that the file can hold equals it.
    """
    try:
        float(number)
    except OverflowError:
        return b""
    if _is_integer(source):
        limits = np.iinfo(source.dtype)
        if not float(number).is_integer() or not limits.min <= int(number) <= limits.max:
            return b""
        return np.array(int(number), source.dtype.newbyteorder("=")).tobytes()
    dtype = np.dtype("f4") if source.foreign else source.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        rounded = np.asarray(number).astype(dtype)
    is_held = np.isfinite(rounded) or np.isinf(float(number))
    return rounded.tobytes() if is_held else b""


def _through_to_integer(source: SourceType, output: DType, scales: Values, zeros: Values) -> str:
    """Integers wrap around; floats are summed before they are cut off."""
    for name, values in (("scale", scales), ("zero", zeros)):
        if not _are_integers(values):
            raise ValueError(
                f"{name}={values[0]} is not an integer, so that {output} could not hold the sum: "
                "take a float dtype"
            )
    if _is_integer(source):
        _refuse_beyond(source, output, scales, zeros)
        return str(number_name(output))
    return "f16" if output.itemsize == 8 or source.number in _WIDE else "f8"


def _refuse_beyond(source: SourceType, output: DType, scales: Values, zeros: Values) -> None:
    """Raises where whatever is stored gives a sum that the output hasn't."""
    if len(scales) > 1 or source.dtype.kind == "b":
        return
    held, limits = np.iinfo(source.dtype), np.iinfo(output)
    scale, zero = int(scales[0]), int(zeros[0])
    low, high = sorted(int(end) * scale + zero for end in (held.min, held.max))
    if high < limits.min or low > limits.max:
        raise ValueError(
            f"scale={scale} and zero={zero} make numbers from {low} to {high} of {source}: "
            f"{output} has none of them"
        )


def _through_to_float(
    source: SourceType, output: DType, scales: Values, zeros: Values, zero_is_point: bool
) -> str:
    """A type in which the result is rounded once, narrow if that does; else the widest."""
    widest = "f16" if output.itemsize == 16 or source.number in _WIDE else "f8"
    numbers = _extent_of(source)
    factors, terms = _Extent.of_values(scales), _Extent.of_values(zeros)
    if factors is None or terms is None:
        return widest
    are_integers = _is_integer(source) and _are_integers(scales) and _are_integers(zeros)
    if not are_integers and _is_small(source) and output.itemsize == 4:
        return "f4"
    for name in ("f4", "f8"):
        dtype = np.dtype(name)
        steps = _steps_that_round(_Float.of(dtype), numbers, factors, terms, zero_is_point)
        allowed = int(dtype.itemsize == output.itemsize)  # the last step may be the output's
        if dtype.itemsize >= output.itemsize and steps is not None and steps <= allowed:
            return name
    if are_integers:
        return _through_integers(source, scales, zeros, zero_is_point) or widest
    return widest


def _is_small(source: SourceType) -> bool:
    """Integers of most scaled files, which float32 holds: double would take half as long again.

    Each step is rounded then, as astropy and netCDF4 do it.
    """
    return _is_integer(source) and source.dtype.itemsize <= 2


def _through_integers(
    source: SourceType, scales: Values, zeros: Values, zero_is_point: bool
) -> str | None:
    """The narrowest in which all sums are exact; None if there is none."""
    held = (0, 1) if source.dtype.kind == "b" else _ends(np.iinfo(source.dtype))
    ends = [_ends(values) for values in (scales, zeros)]
    sums = [
        (number - zero) * scale if zero_is_point else number * scale + zero
        for number, scale, zero in itertools.product(held, *ends)
    ]
    for name, low, high in (("i8", -(2**63), 2**63), ("u8", 0, 2**64), (_SUM, -(2**127), 2**127)):
        if low <= min(sums) and max(sums) < high:
            return name
    return None


def _ends(values: Any) -> tuple[int, int]:
    if isinstance(values, np.iinfo):
        return int(values.min), int(values.max)
    return int(values.min()), int(values.max())


def _steps_that_round(
    real: _Float, numbers: _Extent, factors: _Extent, terms: _Extent, zero_is_point: bool
) -> int | None:
    """How many of the two; None if it begins with numbers that are rounded."""
    if not (real.holds(numbers) and real.holds(factors) and real.holds(terms)):
        return None
    if zero_is_point:
        first = numbers.plus(terms)
        second = first.times(factors)
        is_second_nothing = factors == _Extent(1, 0, 0)
    else:
        first = numbers.times(factors)
        second = first.plus(terms)
        is_second_nothing = not terms.bits
    if real.holds(first):
        return int(not real.holds(second))
    return 1 if is_second_nothing else 2


def _extent_of(source: SourceType) -> _Extent:
    dtype = source.dtype
    if source.foreign:
        return _Extent(8, -133, 128)  # of all: bfloat16's digits and exponents
    if dtype.kind == "b":
        return _Extent(1, 0, 0)
    if dtype.kind in "iu":
        return _Extent.of_integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    real = _Float.of(dtype)
    return _Extent(real.bits, real.lowest, real.top)


def _is_integer(source: SourceType) -> bool:
    return source.dtype.kind in "biu" and not source.foreign


def _are_integers(values: Values) -> bool:
    if values.dtype.kind in "biu":
        return True
    if values.dtype.kind == "O":
        return all(float(value).is_integer() for value in values)
    return bool(np.isfinite(values).all() and (np.trunc(values) == values).all())


def _as_long_doubles(values: Values) -> Values | None:
    """None if that rounds."""
    wide = values.astype("g")
    is_python = values.dtype.kind == "O"
    if is_python and any(int(a) != int(b) for a, b in zip(wide, values, strict=True)):
        return None
    return wide


def _stored_as(through: str, values: Values) -> bytes:
    """Integers modulo the power of two at which that type wraps around."""
    if through[0] == "f":
        return values.astype(through).tobytes()
    if values.dtype.kind in "biu" and through != _SUM:
        return values.astype(through).tobytes()
    size = int(through[1:])
    wrapped = [int(value) % 2 ** (8 * size) for value in values.tolist()]
    return b"".join(value.to_bytes(size, sys.byteorder) for value in wrapped)
