# SPDX-License-Identifier: Apache-2.0
"""The examples of the README: what a library refuses or doubles, in a few lines."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from astropy.io import fits
from safetensors import numpy as safetensors

import mapscratch
from mapscratch.fixups.numbers import FOREIGN

EXAMPLES = Path(__file__).with_name("examples")

Values = np.ndarray[Any, np.dtype[Any]]


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> dict[str, Any]:
    """What it has defined when it has ended."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    stored = np.random.default_rng(0).integers(-30_000, 30_000, (700, 900)).astype("i2")
    stored[5:9, 100:300] = -32768
    fits.PrimaryHDU(stored).writeto(path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        header = hdus[0].header
        header["BSCALE"], header["BZERO"], header["BLANK"] = 0.25, 1000.0, -32768
    return path


def test_a_scaled_fits_image(
    lazyfree: str, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with (
        fits.open(image, memmap=True) as hdus,
        pytest.raises(ValueError),
    ):
        _ = hdus[0].data
    with fits.open(image, memmap=False) as hdus:
        expected = hdus[0].data
    assert np.isnan(expected).sum() == 800
    assert expected[0, 0] != fits.getdata(image, do_not_scale_image_data=True)[0, 0]
    ours = run_example(monkeypatch, "fits_image.py", image)["image"]
    assert ours.dtype == expected.dtype == np.dtype("f4")
    np.testing.assert_array_equal(np.asarray(ours), expected)
    ours.scratch.reclaim()
    np.testing.assert_array_equal(ours[3:20, 90:310], expected[3:20, 90:310])
    assert "(700, 900)" in capsys.readouterr().out


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Values]:
    """Two tensors, the second of bfloat16: the upper halves of these floats."""
    values = np.random.default_rng(1).normal(size=(400, 300)).astype("f4")
    values = (values.view("u4") & 0xFFFF0000).view("f4")
    first = np.arange(5, dtype="<i8").tobytes()
    second = (values.view("u4") >> 16).astype("<u2").tobytes()
    header = {
        "first": {"dtype": "I64", "shape": [5], "data_offsets": [0, len(first)]},
        "layer.weight": {
            "dtype": "BF16",
            "shape": [400, 300],
            "data_offsets": [len(first), len(first) + len(second)],
        },
    }
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + first + second)
    return path, values


def test_a_bfloat16_weight(
    lazyfree: str, weights: tuple[Path, Values], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, expected = weights
    try:
        loaded = safetensors.load_file(path)["layer.weight"]
    except (TypeError, KeyError, AttributeError) as error:
        assert "bfloat16" in str(error).lower()
    else:  # with ml_dtypes: two bytes each, and no float32
        assert loaded.dtype.name == "bfloat16"
    ours = run_example(monkeypatch, "bfloat16_weight.py", path, "layer.weight")["weight"]
    np.testing.assert_array_equal(np.asarray(ours), expected)
    np.testing.assert_array_equal(
        ours[[3, 5, 7] * 10] @ ours[0], expected[[3, 5, 7] * 10] @ expected[0]
    )
    assert "(400, 300)" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["f2", "f4", "f8", "g", "c8", "i1", "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_floats_that_numpy_has_not_are_those_of_ml_dtypes(
    lazyfree: str, tmp_path: Path, name: str, output: str
) -> None:
    """Every value, NaN and its sign too; of integers those that the output can hold."""
    foreign, dtype = np.dtype(getattr(ml_dtypes, name)), np.dtype(output)
    bits = np.arange(256 ** min(foreign.itemsize, 2), dtype=f"u{foreign.itemsize}")
    stored = np.tile(bits, 20).view(foreign)
    if dtype.kind in "iu":
        real = stored.astype("f8")
        limits = np.iinfo(dtype)
        stored = stored[np.isfinite(real) & (real >= limits.min) & (real < limits.max)]
    stored.tofile(tmp_path / "floats")
    with np.errstate(all="ignore"):
        expected = stored.astype(dtype)
    for source in (name, foreign):
        array = np.asarray(mapscratch.array(tmp_path / "floats", dtype, source=source))
        np.testing.assert_array_equal(array, expected)
        if dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(array), np.signbit(expected))
