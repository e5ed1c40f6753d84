# SPDX-License-Identifier: Apache-2.0
"""What docs/cache.md takes for granted: tiles, a codec, chunked arrays, a cluster of Dask."""

import types

import h5py
import numpy as np
import zarr

z, x, y = 3, 1, 2
made = []
drawn = []
draw = drawn.append


def decode(z, x, y):
    made.append((z, x, y))
    return np.full((4, 4), z * 100 + x * 10 + y)


def read(key):
    return np.full((512, 512), key, "f4").tobytes()


codec = types.SimpleNamespace(decode=lambda raw: np.frombuffer(raw, "f4").reshape(512, 512))

array = zarr.create_array("image.zarr", shape=(3000, 3000), chunks=(500, 500), dtype="i4")
array[:] = np.arange(9_000_000).reshape(3000, 3000)
with h5py.File("image.h5", "w") as file:
    file.create_dataset(
        "data", data=array[:1000], chunks=(500, 500), compression="gzip", compression_opts=1
    )


def check():
    cluster.close()
    assert made == [(3, 1, 2)] and (drawn[0] == 312).all()
    assert tile(0, 4, 5)[0, 0] == 45
    with cache.get(9, lambda: decode_into_the_cache(9)) as chunk:
        assert chunk.shape == (512, 512) and (chunk == 9).all()
    assert (image[10:20] == 0).all() and image[20, 0] == 60_000
    np.testing.assert_array_equal(scans[20:99, 0:100], array[20:99, 0:100])
