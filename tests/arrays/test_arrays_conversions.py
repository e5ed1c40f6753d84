# SPDX-License-Identifier: Apache-2.0
"""Every pair of numbers, in both byte orders, is what NumPy makes of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mapscratch
from mapscratch.fixups import ByteSwap, Cast, Scale

NUMBERS = list("?bhiqBHIQefdgFDG")
ITEMS = 5000  # some tiles, and a part of one

Values = np.ndarray[Any, np.dtype[Any]]


def values_for(source: np.dtype[Any], output: np.dtype[Any]) -> Values:
    """Values of `source` that `output` can hold, where C would leave others undefined."""
    random = np.random.default_rng(7)
    if source.kind in "iub":
        raw = random.integers(0, 256, ITEMS * source.itemsize, dtype=np.uint8)
        return (raw & 1).astype("?")[:ITEMS] if source.kind == "b" else raw.view(source)
    real = random.normal(size=ITEMS) * 50
    if output.kind in "iu":
        low, high = np.iinfo(output).min, np.iinfo(output).max
        return np.clip(real, max(low, -100), min(high, 100)).astype(source)
    real[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-8, 6e-8, 1e5]
    with np.errstate(over="ignore"):
        made = real.astype(source)
    if source.kind == "c":
        made += (random.normal(size=ITEMS) * 1j).astype(source)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "numbers"


def plain(array: Values) -> Values:
    return np.asarray(array)


@pytest.mark.parametrize("source_order", "<>")
@pytest.mark.parametrize("source_code", NUMBERS)
def test_any_pair_as_numpy_casts_it(
    lazyfree: str, path: Path, source_code: str, source_order: str
) -> None:
    source = np.dtype(source_code).newbyteorder(source_order)
    for output_code in NUMBERS:
        output = np.dtype(output_code)
        values = values_for(source, output).astype(source)
        path.write_bytes(values.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = values.astype(output)
            array = mapscratch.array(path, output, source=source)
        assert array.dtype == output
        np.testing.assert_array_equal(plain(array), expected, err_msg=f"{source} to {output}")
        if output.kind in "iub":
            assert plain(array).tobytes() == expected.tobytes()


@pytest.mark.parametrize("output_code", ["i2", "f4", "c8", "f16"])
def test_an_output_in_the_other_order(lazyfree: str, path: Path, output_code: str) -> None:
    values = np.arange(ITEMS, dtype="i2")
    path.write_bytes(values.tobytes())
    output = np.dtype(output_code).newbyteorder(">")
    array = mapscratch.array(path, output, source="i2")
    np.testing.assert_array_equal(plain(array), values)


@pytest.mark.parametrize("order", "<>")
def test_bfloat16_is_the_upper_half_of_a_float(lazyfree: str, path: Path, order: str) -> None:
    every = np.arange(65536, dtype="u2")
    path.write_bytes(every.astype(f"{order}u2").tobytes())
    expected = (every.astype("u4") << 16).view("f4")
    array = mapscratch.array(path, "f4", source=f"{order}bfloat16")
    np.testing.assert_array_equal(plain(array), expected)
    assert np.array_equal(plain(array).view("u4"), expected.view("u4"))
    doubled = mapscratch.array(path, "f8", source=f"{order}bf16")
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(plain(doubled), expected.astype("f8"))


def test_every_half_becomes_the_float_that_numpy_makes(lazyfree: str, path: Path) -> None:
    every = np.arange(65536, dtype="u2").view("f2")
    path.write_bytes(every.tobytes())
    np.testing.assert_array_equal(
        plain(mapscratch.array(path, "f4", source="f2")), every.astype("f4")
    )


@pytest.mark.parametrize("source", ["f4", "f8"])
def test_a_half_is_rounded_once(lazyfree: str, path: Path, source: str) -> None:
    bits = np.random.default_rng(1).integers(0x33000000, 0x47800000, 100_000).astype("u4")
    values = bits.view("f4").astype(source)
    if source == "f8":
        values += np.random.default_rng(2).normal(size=len(values)) * 1e-12
    path.write_bytes(values.tobytes())
    with np.errstate(over="ignore"):
        expected = values.astype("f2")
    np.testing.assert_array_equal(plain(mapscratch.array(path, "f2", source=source)), expected)


@pytest.mark.parametrize("output", ["f2", "f4", "f8", "g", "i2", "i4", "u2", "i8"])
@pytest.mark.parametrize("source", [">i2", "<i2", "u1"])
def test_scaled_as_numpy_does_each_step(
    lazyfree: str, path: Path, source: str, output: str
) -> None:
    values = np.random.default_rng(3).integers(0, 100, ITEMS).astype(source)
    path.write_bytes(values.tobytes())
    dtype = np.dtype(output)
    scale, zero = (0.37, -1.1) if dtype.kind == "f" else (3, 5)
    wide = np.dtype("f8") if output == "f2" else dtype  # which is rounded once
    expected = (values.astype(wide) * wide.type(scale) + wide.type(zero)).astype(dtype)
    array = mapscratch.array(path, dtype, source=source, scale=scale, zero=zero)
    np.testing.assert_array_equal(plain(array), expected)


def test_unsigned_numbers_stored_as_signed_ones(lazyfree: str, path: Path) -> None:
    """FITS has no unsigned integers: they are stored with BZERO = 32768."""
    values = np.arange(65536, dtype="u2")
    path.write_bytes((values.astype("i4") - 32768).astype(">i2").tobytes())
    array = mapscratch.array(path, "u2", source=">i2", zero=32768)
    np.testing.assert_array_equal(plain(array), values)


def test_a_blank_becomes_nan(lazyfree: str, path: Path) -> None:
    values = np.arange(-600, 4400).astype(">i2")
    values[::7] = -32768
    path.write_bytes(values.tobytes())
    expected = values.astype("f4") * np.float32(0.5) + np.float32(3)
    expected[::7] = np.nan
    array = mapscratch.array(path, "f4", source=">i2", scale=0.5, zero=3, blank=-32768)
    np.testing.assert_array_equal(plain(array), expected)
    assert np.count_nonzero(np.isnan(array)) == len(values[::7])


@pytest.mark.parametrize("block", [1, 32, 100, 4097])
def test_a_scale_for_every_block(lazyfree: str, path: Path, block: int) -> None:
    values = np.random.default_rng(4).integers(-128, 128, 20_000).astype("i1")
    path.write_bytes(values.tobytes())
    blocks = -(-len(values) // block)
    scales = np.random.default_rng(5).random(blocks)
    zeros = np.random.default_rng(6).random(blocks)
    of_item = np.arange(len(values)) // block
    scale, zero = scales.astype("f4")[of_item], zeros.astype("f4")[of_item]
    fixup = Scale(scales, zeros, block=block)
    array = mapscratch.array(path, "f4", source="i1", fixup=fixup)
    expected = values.astype("f4") * scale + zero
    np.testing.assert_array_equal(plain(array), expected)
    np.testing.assert_array_equal(array[12_345:12_350], expected[12_345:12_350])


def test_a_zero_point_of_a_quantised_tensor(lazyfree: str, path: Path) -> None:
    values = np.arange(256, dtype="u1").repeat(30)
    path.write_bytes(values.tobytes())
    fixup = Scale.from_zero_point(0.25, 128)
    array = mapscratch.array(path, "f4", source="u1", fixup=fixup)
    np.testing.assert_array_equal(plain(array), (values.astype("f4") - 128) * np.float32(0.25))


@pytest.mark.parametrize("dtype", ["i2", "u4", "f8", "c16", "M8[us]", "m8[s]"])
def test_bytes_swapped(lazyfree: str, path: Path, dtype: str) -> None:
    native = np.dtype(dtype)
    values = np.random.default_rng(8).integers(0, 10**4, ITEMS).astype("i8").astype(native)
    path.write_bytes(values.astype(native.newbyteorder(">")).tobytes())
    array = mapscratch.array(path, native, source=native.newbyteorder(">"), fixup=ByteSwap())
    assert plain(array).tobytes() == values.tobytes()


def test_a_structure_as_it_is(lazyfree: str, path: Path) -> None:
    """Items of 13 bytes don't divide a page: the file's bytes are shown as they are."""
    structure = np.dtype([("a", "<i4"), ("b", "u1"), ("c", "<f8")])
    values = np.zeros(3000, structure)
    values["a"], values["b"], values["c"] = np.arange(3000), 7, np.linspace(0, 1, 3000)
    path.write_bytes(b"head" + values.tobytes())
    array = mapscratch.array(path, structure, offset=4)
    assert array.scratch.fixup is None
    np.testing.assert_array_equal(plain(array), values)
    np.testing.assert_array_equal(array["c"], values["c"])


@pytest.mark.parametrize(
    ("source", "output", "fixup", "message"),
    [
        ("<i4", "<f4", ByteSwap(), "ByteSwap changes the order of bytes and nothing else"),
        ("i2", "c8", Scale(2), "integers or real floats"),
        ("i2", "?", Scale(2), "integers or real floats"),
        ("c8", "f4", Scale(2, blank=-1), "blank"),
        ("?", "f4", Scale(2, blank=1), "blank"),
        (">i2", "i4", Scale(1, 32767, blank=-1), "blank"),
        ("i4", "i4", Scale(2, blank=-1), "blank"),
        ("S3", "f4", Cast(), "numbers can be cast"),
        ("i4", "S4", Cast(), "numbers can be cast"),
        ("i8", "M8[s]", Cast(), "numbers can be cast"),
        ([("a", "i4")], [("a", "<f4")], Cast(), "numbers can be cast"),
    ],
)
def test_types_that_do_not_fit(
    lazyfree: str, path: Path, source: Any, output: Any, fixup: Any, message: str
) -> None:
    path.write_bytes(bytes(4800))
    with pytest.raises(TypeError, match=message):
        mapscratch.array(path, output, source=source, fixup=fixup)


def test_scales_that_do_not_fit(lazyfree: str, path: Path) -> None:
    path.write_bytes(bytes(4800))
    with pytest.raises(ValueError, match="3 scales need block="):
        Scale([1, 2, 3])
    with pytest.raises(ValueError, match="at least 1"):
        Scale([1, 2, 3], block=0)
    with pytest.raises(ValueError, match="48 blocks, but there are 3 scales"):
        mapscratch.array(path, "f4", source="i1", fixup=Scale([1, 2, 3], block=100))
    with pytest.raises(ValueError, match=r"scale=0\.5 is not an integer"):
        mapscratch.array(path, "i4", source="i1", scale=0.5)


def test_imaginary_parts_are_thrown_away_aloud(lazyfree: str, path: Path) -> None:
    path.write_bytes(np.full(100, 3 + 4j, "c8").tobytes())
    with pytest.warns(np.exceptions.ComplexWarning, match="imaginary parts"):
        array = mapscratch.array(path, "f4", source="c8")
    assert np.all(array == 3)


def test_rounding_is_not_the_starters(lazyfree: str, path: Path) -> None:
    """A process that flushes denormals to zero (fast-math libraries do) gets the same array."""
    from support.interpreter import run_python

    values = np.full(3000, 1, "i2")
    path.write_bytes(values.tobytes())
    run_python(
        """
        import ctypes, sys
        # MXCSR with flush-to-zero, denormals-are-zero, and rounding upwards, by fesetenv(3).
        libm = ctypes.CDLL("libm.so.6")
        environment = (ctypes.c_uint32 * 8)()
        libm.fegetenv(environment)
        environment[7] |= 0x8040 | 0x4000
        libm.fesetenv(environment)
        import mapscratch
        first = mapscratch.array(sys.argv[1], "f4", source="i2")  # starts the pager
        libm.fesetenv(ctypes.c_long(-1))
        import numpy as np
        array = mapscratch.array(sys.argv[1], "f4", source="i2", scale=1e-40)
        assert np.all(np.asarray(array).view("u4") == np.float32(1e-40).view("u4"))
        """,
        path,
    )
