# SPDX-License-Identifier: Apache-2.0
"""Scaled numbers: nothing is lost before the last step. The oracle reckons with fractions."""

from __future__ import annotations

import ctypes
import math
import pickle
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mapscratch
from mapscratch import _native
from mapscratch.fixups import ArrayFixup, Cast, Scale
from mapscratch.fixups.numbers import SourceType

INTEGERS = [f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (1, 2, 4, 8)]
FLOATS = ["f2", "f4", "f8", "g"]
UNHARMED = [HealthCheck.function_scoped_fixture]  # it is a name, the same for every example

Values = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "numbers"


def decoded(path: Path, stored: Values, dtype: Any, **how: Any) -> Values:
    """What an array of these numbers in a file shows."""
    path.write_bytes(stored.tobytes())
    return np.array(mapscratch.array(path, dtype, source=stored.dtype, **how))


def nearest(exact: Fraction, dtype: np.dtype[Any]) -> Any:
    """The number of a type that is nearest to a fraction, the even one of two."""
    if not exact:
        return dtype.type(0)
    info = np.finfo(dtype)
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    last_place = max(exponent, int(info.minexp)) - int(info.nmant)
    units = round(magnitude / Fraction(2) ** last_place)  # to even
    if units * Fraction(2) ** last_place >= Fraction(2) ** int(info.maxexp):
        return dtype.type(math.copysign(math.inf, exact))
    high, low = divmod(units, 2**32)  # a long double is not made of a large int at once
    wide = np.ldexp(np.longdouble(high), 32 + last_place) + np.ldexp(np.longdouble(low), last_place)
    return np.copysign(wide, float(np.sign(exact.numerator))).astype(dtype)


def ends_of(dtype: np.dtype[Any]) -> list[int]:
    info = np.iinfo(dtype)
    near = [info.min, info.min + 1, info.min + 77, -1, 0, 1, 200, info.max - 1, info.max]
    return [value for value in near if info.min <= value <= info.max]


@pytest.mark.parametrize("output", FLOATS)
@pytest.mark.parametrize("source", INTEGERS)
def test_counts_as_fits_stores_them(lazyfree: str, path: Path, source: str, output: str) -> None:
    """Stored with the sign bit turned: 1, 2, 5, 77 and 200 are themselves, as any float."""
    stored_type, dtype = np.dtype(source), np.dtype(output)
    bits = 8 * stored_type.itemsize
    zero = 2 ** (bits - 1) if stored_type.kind == "i" else -(2 ** (bits - 1))
    stored = np.array(ends_of(stored_type), dtype=stored_type)
    expected = [nearest(Fraction(int(value) + zero), dtype) for value in stored]
    for given_zero in (zero, float(zero), np.longdouble(zero)):
        np.testing.assert_array_equal(decoded(path, stored, dtype, zero=given_zero), expected)
    counted = np.array([count - zero for count in (1, 2, 5, 77, 100)], dtype=stored_type)
    np.testing.assert_array_equal(decoded(path, counted, dtype, zero=zero), [1, 2, 5, 77, 100])


@settings(max_examples=300, deadline=None, suppress_health_check=UNHARMED)
@given(data=st.data())
def test_integers_are_exact_until_they_are_rounded(lazyfree: str, data: st.DataObject) -> None:
    source = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    output = np.dtype(data.draw(st.sampled_from(FLOATS)))
    limits = np.iinfo(source)
    scale = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300))
    zero = data.draw(st.integers(-(2**63), 2**64 - 1) | st.sampled_from([2**15, 2**31, 2**63]))
    is_point = data.draw(st.booleans())
    values = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1, max_size=20))
    stored = np.array(values, dtype=source)
    if is_point:
        fixup = Scale.from_zero_point(scale, zero)
        exact = [Fraction((value - zero) * scale) for value in values]
    else:
        fixup = Scale(scale, zero)
        exact = [Fraction(value * scale + zero) for value in values]
    with tempfile.TemporaryDirectory() as folder:
        ours = decoded(Path(folder, "numbers"), stored, output, fixup=fixup)
    np.testing.assert_array_equal(ours, [nearest(number, output) for number in exact])


@settings(max_examples=300, deadline=None, suppress_health_check=UNHARMED)
@given(data=st.data())
def test_floats_are_rounded_once(lazyfree: str, data: st.DataObject) -> None:
    """Where double holds the product and the sum: scales of 16 bits, zeros of a near exponent."""
    source = np.dtype(data.draw(st.sampled_from(["<i1", ">i2", "u2", ">i4", "<u4", "f2"])))
    is_small = source.kind in "iu" and source.itemsize <= 2
    floats = [name for name in FLOATS if name != "f4" or not is_small]
    output = np.dtype(data.draw(st.sampled_from(floats)))
    scale = data.draw(st.integers(-(2**16), 2**16)) * 2.0 ** data.draw(st.integers(-12, 0))
    zero = data.draw(st.integers(-(2**24), 2**24)) * 2.0 ** data.draw(st.integers(-12, 0))
    raw = data.draw(st.binary(min_size=source.itemsize, max_size=40 * source.itemsize))
    stored = np.frombuffer(raw[: len(raw) // source.itemsize * source.itemsize], source)
    if source.kind == "f":
        stored = stored[np.isfinite(stored)].round().astype(source)
    if not stored.size:
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = decoded(Path(folder, "numbers"), stored, output, scale=scale, zero=zero)
    exact = [Fraction(float(v)) * Fraction(scale) + Fraction(zero) for v in stored]
    np.testing.assert_array_equal(ours, [nearest(number, output) for number in exact])


@pytest.mark.parametrize("output", ["f2", "f4", "f8"])
@pytest.mark.parametrize("source", ["i1", ">i2", "u2", "<i4", ">u4", "f4", "f8"])
def test_a_sum_near_zero_keeps_its_digits(
    lazyfree: str, path: Path, source: str, output: str
) -> None:
    """What is packed with a scale and an offset is often near zero where the offset isn't.

    Small integers as float32 alone are computed in float32, as they always were.
    """
    stored = np.array([100, 101, 102, 126], dtype=source)
    ours = decoded(path, stored, output, scale=0.1, zero=-10)
    is_narrow = output == "f4" and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
    wide = np.dtype("f4" if is_narrow else "f8").type
    expected = (stored.astype(wide) * wide(0.1) - wide(10)).astype(output)
    np.testing.assert_array_equal(ours, expected)
    assert is_narrow or abs(ours[1] - 0.1) < max(np.finfo(output).eps, 1e-14)


@pytest.mark.parametrize("source", ["f2", "f4", "f8", "g"])
@pytest.mark.parametrize("output", ["i1", "u2", "i4", "i8", "u8"])
def test_floats_become_integers_after_the_sum(
    lazyfree: str, path: Path, source: str, output: str
) -> None:
    stored = np.array([0.5, 1.25, 2.75, 3.0], dtype=source)
    np.testing.assert_array_equal(decoded(path, stored, output, scale=4, zero=1), [3, 6, 12, 13])


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("output", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_wrap_around(lazyfree: str, path: Path, source: str, output: str) -> None:
    """As NumPy's do; a zero that the output hasn't is no obstacle where the sums fit."""
    stored = np.array(ends_of(np.dtype(source)), dtype=source)
    modulus = 2 ** (8 * np.dtype(output).itemsize)
    exact = [int(value) * 3 - 1 for value in stored]
    expected = np.array([value % modulus for value in exact], "u8").astype(output)
    np.testing.assert_array_equal(decoded(path, stored, output, scale=3, zero=-1), expected)


def test_integers_that_can_hold_no_sum(lazyfree: str, path: Path) -> None:
    with pytest.raises(ValueError, match="none of them"):
        decoded(path, np.zeros(9, "i1"), "u1", zero=1000)


def test_scales_of_a_type_that_numpy_has_not(lazyfree: str, path: Path) -> None:
    """Scales of blocks are powers of two, in files with eight-bit floats."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    scales = np.array([0.5, 4], ml_dtypes.float8_e8m0fnu)
    stored = np.array([1, 2, 3, 4], "u1")
    ours = decoded(path, stored, "f4", fixup=Scale(scales, block=2))
    np.testing.assert_array_equal(ours, [0.5, 1, 12, 16])
    with pytest.raises(TypeError, match="real numbers"):
        Scale("0.5")


def test_a_scale_pickled_before_there_were_zero_points(lazyfree: str, path: Path) -> None:
    old = Scale.__new__(Scale)
    old.__dict__ = {"scales": np.array([2]), "zeros": np.array([3]), "block": None, "blank": None}
    revived = pickle.loads(pickle.dumps(old))
    ours = decoded(path, np.arange(5, dtype="i2"), "f4", fixup=revived)
    np.testing.assert_array_equal(ours, np.arange(5) * 2 + 3)


def test_a_zero_point_is_taken_off_before_the_product(lazyfree: str, path: Path) -> None:
    """As torch and ONNX have it."""
    stored = np.arange(256, dtype="u1")
    for scale, point in [(0.1, 128), (1 / 3, 7), (0.0039, 255), (np.float32(0.02), np.uint8(200))]:
        ours = decoded(path, stored, "f4", fixup=Scale.from_zero_point(scale, point))
        expected = (stored.astype("f4") - np.float32(point)) * np.float32(scale)
        np.testing.assert_array_equal(ours, expected)
        assert ours[int(point)] == 0


@pytest.mark.parametrize("output", FLOATS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("source", "blank"),
    [
        ("i1", -128),
        ("u1", 255.0),
        ("i2", -9999),
        ("i2", np.float32(-9999)),
        ("u2", np.uint16(65535)),
        ("i4", -(2**31)),
        ("u4", 2**32 - 1),
        ("i8", -(2**63)),
        ("i8", 2**53 + 1),
        ("u8", 2**64 - 1),
        ("f2", -999),
        ("f4", -9999),
        ("f4", -9999.1),
        ("f4", -3.4028234663852886e38),
        ("f8", -9999.1),
        ("g", -9999),
        ("f4", math.inf),
    ],
)
def test_what_is_blank_becomes_nan(
    lazyfree: str, path: Path, source: str, order: str, blank: Any, output: str
) -> None:
    dtype = np.dtype(source).newbyteorder(order)
    stored = (np.arange(3000) % 100).astype(dtype)
    stored[::7] = np.array(blank).astype(dtype)
    ours = decoded(path, stored, output, blank=blank, scale=0.5)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(ours)), np.arange(0, 3000, 7))
    kept = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[kept], (stored[kept].astype("f8") * 0.5).astype(output))


@pytest.mark.parametrize(
    ("source", "blank"),
    [("i2", 40_000), ("u1", -1), ("i2", 0.5), ("i4", math.nan), ("u8", 2**64), ("f4", 1e300)],
)
def test_a_blank_that_the_file_can_not_hold_never_occurs(
    lazyfree: str, path: Path, source: str, blank: Any
) -> None:
    stored = np.arange(100, dtype=source)
    stored[3] = np.array(np.inf if source == "f4" else np.iinfo(source).max).astype(source)
    ours = decoded(path, stored, "f8", blank=blank)
    np.testing.assert_array_equal(ours, stored.astype("f8"))


def test_a_blank_of_nan_leaves_nan(lazyfree: str, path: Path) -> None:
    stored = np.array([1, np.nan, 2], "f4")
    np.testing.assert_array_equal(decoded(path, stored, "f8", blank=math.nan), stored)


def test_zeros_are_blank_whatever_their_sign(lazyfree: str, path: Path) -> None:
    ours = decoded(path, np.array([0.0, -0.0, 1], "f4"), "f4", blank=0)
    np.testing.assert_array_equal(ours, [np.nan, np.nan, 1])


@pytest.mark.parametrize("source", ["bfloat16", "float8_e5m2"])
def test_blanks_of_floats_that_numpy_has_not(lazyfree: str, path: Path, source: str) -> None:
    bits = (
        np.array([0x4780, 0x3F80], "u2") if source == "bfloat16" else np.array([0x7B, 0x3C], "u1")
    )
    path.write_bytes(bits.tobytes())
    blank = 65536 if source == "bfloat16" else 57344
    ours = np.array(mapscratch.array(path, "f4", source=source, blank=blank))
    np.testing.assert_array_equal(ours, [np.nan, 1])


@pytest.mark.parametrize("output", ["u1", "u2", "u4", "u8", "i8"])
@pytest.mark.parametrize("bits", [16, 32])
def test_no_count_is_blank_by_the_unsigned_convention(
    lazyfree: str, path: Path, bits: int, output: str
) -> None:
    stored = np.array([-(2 ** (bits - 1)), 0, 1, 99], f">i{bits // 8}")
    zero = 2 ** (bits - 1)
    ours = decoded(path, stored, output, zero=zero, blank=1)
    np.testing.assert_array_equal(ours, (stored.astype("i8") + zero).astype(output))
    as_floats = decoded(path, stored, "f8", zero=zero, blank=1)
    np.testing.assert_array_equal(as_floats, [0, zero, np.nan, 99 + zero])


CONVERT = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
)


def aligned(count: int) -> Values:
    """So many bytes that begin at a multiple of 32."""
    room = np.zeros(count + 32, "u1")
    begin = -room.ctypes.data % 32
    return room[begin : begin + count]


@pytest.mark.parametrize("output", ["?", "i4", "f2", "f4", "f8", "g", "c8"])
@pytest.mark.parametrize(
    "source", ["i1", ">i2", "<i4", ">u8", "f2", ">f2", "f4", "f8", "g", "bfloat16", "float8_e4m3fn"]
)
@pytest.mark.filterwarnings("ignore")
def test_every_processor_makes_the_same_bits(source: str, output: str) -> None:
    """With and without instructions for halves: NaN and its payload, subnormals, halfway cases."""
    stored_type, dtype, items = SourceType.of(source), np.dtype(output), 65536
    random = np.random.default_rng(9)
    stored = aligned(items * stored_type.dtype.itemsize)
    if stored_type.dtype.itemsize == 2:
        stored[:] = np.arange(items, dtype="u2").view("u1")
    elif stored_type.dtype.kind == "f":
        values = random.normal(size=items) * 2.0 ** random.integers(-30, 18, items)
        values[:6] = [np.nan, -np.nan, np.inf, -np.inf, 65519.99, 65520]
        stored[:] = values.astype(stored_type.dtype).view("u1")
    else:
        stored[:] = random.integers(0, 256, len(stored), dtype="u1")
    is_scaled = dtype.kind == "f"
    fixups: list[ArrayFixup] = [Cast(), *([Scale(0.37, -1.1), Scale(3, 7)] if is_scaled else [])]
    for fixup in fixups:
        recipe = fixup.recipe(stored_type, dtype)
        user_data = aligned(len(recipe.user_data))
        user_data[:] = np.frombuffer(recipe.user_data, "u1")
        made = []
        for address in (_native.convert_function(), _native.plain_convert_function()):
            room = aligned(items * dtype.itemsize)
            places = (room.ctypes.data, stored.ctypes.data, items, 0, user_data.ctypes.data)
            assert CONVERT(address)(*places) == 0
            made.append(room)
        if dtype.kind in "iu" and stored_type.dtype.kind != "i":
            continue  # what C leaves undefined is among them
        np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize("source", ["f4", "f8"])
def test_a_half_next_to_every_limit(lazyfree: str, path: Path, source: str) -> None:
    """Halfway between two halves, and the least more and less: NumPy rounds once."""
    halves = np.arange(0x7C00, dtype="u2").view("f2").astype(source)
    middles = (halves[:-1] + halves[1:]) / 2
    near = [middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), [65520, 1e300]]
    with np.errstate(over="ignore"):
        values = np.concatenate([np.asarray(part).astype(source) for part in near])
        values = np.concatenate([values, -values])
        expected = values.astype("f2")
    ours = decoded(path, values, "f2")
    np.testing.assert_array_equal(ours.view("u2"), expected.view("u2"))


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("NaN"), math.nan),
        (Decimal("Infinity"), math.inf),
        (Fraction(2**63 + 2**12), float(2**63 + 2**12)),
        (np.array(3, "O"), 3.0),
    ],
)
def test_numbers_that_numpy_has_no_type_for(
    lazyfree: str, path: Path, scale: Any, wanted: float
) -> None:
    ours = decoded(path, np.array([1, 2], ">i2"), "f8", scale=scale)
    np.testing.assert_array_equal(ours, np.array([1, 2]) * wanted)


def test_integers_of_other_types_are_exact(lazyfree: str, path: Path) -> None:
    stored = np.array([0, 1, -(2**63)], ">i8")
    for zero in (Decimal(2**63), Fraction(2**63), np.array(2**63, "O")):
        ours = decoded(path, stored, "u8", zero=zero)
        np.testing.assert_array_equal(ours, np.array([2**63, 2**63 + 1, 0], "u8"))


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        ([], ValueError, "0 scales need block="),
        (Scale([], block=2), ValueError, "are 2 blocks, but there are 0 scales"),
        (np.ma.masked, TypeError, "scale is masked"),
        ([None], TypeError, "must be real numbers, not None"),
        (np.array(["a"], "O"), TypeError, "must be real numbers, not 'a'"),
        (10**400, ValueError, "larger than any double"),
    ],
)
def test_what_is_no_scale_is_refused(
    lazyfree: str, path: Path, scale: Any, error: type[Exception], words: str
) -> None:
    """And not taken for a scale of one, or of zero."""
    how = {"fixup": scale} if isinstance(scale, Scale) else {"scale": scale}
    with pytest.raises(error, match=words):
        decoded(path, np.arange(4, dtype=">i2"), "f4", **how)


@pytest.mark.parametrize("source", [">i2", ">f4", ">f8"])
def test_a_blank_beyond_all_numbers_never_occurs(lazyfree: str, path: Path, source: str) -> None:
    stored = np.array([1, 2], source)
    np.testing.assert_array_equal(decoded(path, stored, "f8", blank=10**400), [1, 2])


def test_scaled_times_say_what_to_do(lazyfree: str, path: Path) -> None:
    with pytest.raises(TypeError, match="source='>i8'"):
        decoded(path, np.array([1, 2], ">m8[s]"), "f8", scale=2)
