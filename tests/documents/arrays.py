# SPDX-License-Identifier: Apache-2.0
"""What docs/arrays.md takes for granted: files of several formats, and what is in them."""

import json

import numpy as np

random = np.random.default_rng(0)

STORED = random.integers(-30_000, 30_000, (4096, 4096)).astype(">i2")
with open("image.raw", "wb") as file:
    file.write(bytes(2880) + STORED.tobytes())

NUMBERS = random.integers(0, 100, (300, 200)).astype("<i4")
np.save("numbers.npy", NUMBERS)

TWELVE_BITS = random.integers(0, 4096, 20_000)
low, high = TWELVE_BITS[::2], TWELVE_BITS[1::2]
packed = np.stack([low & 255, low >> 8 | (high & 15) << 4, high >> 4], axis=1)
packed.astype("u1").tofile("camera.raw")

SCALED = random.integers(-30_000, 30_000, (700, 900)).astype("i2")
SCALED[5:9, 100:300] = -32768

WEIGHTS = random.normal(size=(400, 300)).astype("f4")
WEIGHTS = (WEIGHTS.view("u4") & 0xFFFF0000).view("f4")  # what bfloat16 can hold


def write_fits(path):
    from astropy.io import fits

    fits.PrimaryHDU(SCALED).writeto(path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        header = hdus[0].header
        header["BSCALE"], header["BZERO"], header["BLANK"] = 0.25, 1000.0, -32768


def write_safetensors(path):
    first = bytes(40)
    second = (WEIGHTS.view("u4") >> 16).astype("<u2").tobytes()
    header = {
        "first": {"dtype": "I64", "shape": [5], "data_offsets": [0, 40]},
        "layer.weight": {
            "dtype": "BF16",
            "shape": [400, 300],
            "data_offsets": [40, 40 + len(second)],
        },
    }
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + first + second)


write_fits("image.fits")
write_safetensors("model.safetensors")


def check():
    import pytest
    from astropy.io import fits
    from safetensors import numpy as safetensors

    np.testing.assert_array_equal(raw, STORED * np.float32(0.5) + np.float32(1000))
    np.testing.assert_array_equal(numbers, NUMBERS.astype("f4"))
    np.testing.assert_array_equal(camera, TWELVE_BITS)
    refused = pytest.raises(ValueError, match="Cannot load a memory-mapped image")
    with fits.open("image.fits", memmap=True) as hdus, refused:
        _ = hdus[0].data
    with fits.open("image.fits", memmap=False) as hdus:
        expected = hdus[0].data
    assert np.isnan(expected).sum() == 800
    np.testing.assert_array_equal(image, expected)
    image.scratch.reclaim()
    np.testing.assert_array_equal(image[3:20, 90:310], expected[3:20, 90:310])
    np.testing.assert_array_equal(weight, WEIGHTS)
    rows = [3, 5, 7] * 10
    np.testing.assert_array_equal(weight[rows] @ weight[0], WEIGHTS[rows] @ WEIGHTS[0])
    try:
        loaded = safetensors.load_file("model.safetensors")["layer.weight"]
    except (TypeError, KeyError, AttributeError) as error:
        assert "bfloat16" in str(error).lower()
    else:  # with ml_dtypes: two bytes each, and no float32
        assert loaded.dtype.name == "bfloat16"
