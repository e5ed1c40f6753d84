# SPDX-License-Identifier: Apache-2.0
"""What docs/dask.md takes for granted: a file of an image."""

import numpy as np

with open("image.raw", "wb") as file:
    file.write(np.full((1000, 4096), 8, ">i2").tobytes())
    file.truncate(20_000 * 4096 * 2)


def check():
    assert x.shape == (20_000, 4096) and x.chunks[0][:2] == (1000, 1000)
    np.testing.assert_array_equal(x[:2000].mean(axis=1).compute(), [4.0] * 1000 + [0.0] * 1000)
    assert dask.config.get("distributed.worker.memory.pause") is False
