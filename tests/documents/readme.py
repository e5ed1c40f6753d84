# SPDX-License-Identifier: Apache-2.0
"""What README.md takes for granted: a file of an image, and chunks to decode."""

import numpy as np

ROWS = slice(70_000, 70_100)
STORED = np.arange(100 * 4096).reshape(100, 4096) % 1000

with open("image.raw", "wb") as file:
    file.seek(ROWS.start * 4096 * 2)
    file.write(STORED.astype(">i2").tobytes())
    file.truncate(100_000 * 4096 * 2)

key = "a"
decoded = []


def decode(key):
    decoded.append(key)
    return np.arange(1000)


def check():
    assert a.shape == (100_000, 4096) and a.dtype == "f4" and not a.flags.writeable
    np.testing.assert_array_equal(a[ROWS], (STORED * 0.5 + 1000).astype("f4"))
    assert a.scratch.counts().filled * 4096 < a.nbytes / 10
    assert decoded == ["a"] and chunk.sum() == 499_500 and not chunk.flags.writeable
