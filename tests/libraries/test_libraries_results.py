# SPDX-License-Identifier: Apache-2.0
"""What others make of a scratch array: results are plain, views of the file stay its views."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import stride_tricks

import mapscratch
from mapscratch import ScratchArray

bottleneck = pytest.importorskip("bottleneck", reason="bottleneck is not installed")
numba = pytest.importorskip("numba", reason="numba is not installed")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")
scipy = pytest.importorskip("scipy", reason="scipy is not installed")
xarray = pytest.importorskip("xarray", reason="xarray is not installed")
ndimage = pytest.importorskip("scipy.ndimage")
signal = pytest.importorskip("scipy.signal")
stats = pytest.importorskip("scipy.stats")

Values = np.ndarray[Any, np.dtype[Any]]
Use = Callable[[Any], Any]

STORED = np.random.default_rng(0).integers(1, 3000, (40, 50)).astype(">i2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(STORED.tobytes())
    return path


@pytest.fixture
def array(lazyfree: str, path: Path) -> ScratchArray:
    return mapscratch.array(path, "f4", source=">i2", shape=STORED.shape)


def _successors(row: Any, out: Any) -> None:
    for i in range(len(row)):
        out[i] = row[i] + 1


PLAIN: dict[str, Use] = {
    # those that make a result of the type of what they are given
    "push": bottleneck.push,
    "partition": lambda a: np.sort(bottleneck.partition(a, 3), axis=1),
    "ndarray.copy": np.ndarray.copy,
    "copied with its class": lambda a: np.array(a, subok=True),
    "copy with its class": lambda a: np.copy(a, subok=True),
    "like it, with its class": lambda a: np.zeros_like(a, subok=True),
    "required for storing": lambda a: np.require(a, requirements=["O", "W"]),
    "behind a mask": lambda a: np.ma.masked_greater(a, 5).data,
    "filled behind a mask": lambda a: np.ma.masked_greater(a, 5).filled(0),
    # NumPy's methods, called past ours
    "ndarray.astype": lambda a: np.ndarray.astype(a, "f8"),
    "ndarray.take": lambda a: np.ndarray.take(a, [1, 2], axis=0),
    "ndarray.repeat": lambda a: np.ndarray.repeat(a, 2),
    "ndarray.flatten": np.ndarray.flatten,
    "ndarray.__getitem__": lambda a: np.ndarray.__getitem__(a, [1, 2]),
    "ndarray.__copy__": np.ndarray.__copy__,
    "ndarray.__deepcopy__": lambda a: np.ndarray.__deepcopy__(a, {}),
    "ndarray.byteswap": np.ndarray.byteswap,
    "ndarray.reshape": lambda a: np.ndarray.reshape(a.T, -1),
    # parts that have no method
    "imaginary part": lambda a: a.imag,
    "part of flat": lambda a: a.flat[3:9],
    "copy of flat": lambda a: a.flat.copy(),
    "another type": lambda a: a.__array__("f8"),
    "deep copy in a list": lambda a: copy.deepcopy([a])[0],
    # functions of NumPy that wrap their results
    "along an axis": lambda a: np.apply_along_axis(lambda row: row + 1, 1, a),
    "a vectorized function": np.vectorize(lambda x: x + 1),
    "inverse": lambda a: np.linalg.inv(a[:40, :40]),
    "factors": lambda a: np.linalg.qr(a)[0],
    "transform": np.fft.fft,
    "permutation": lambda a: np.random.default_rng(0).permutation(a),
    "quantile": lambda a: np.quantile(a, 0.5, axis=0),
    # libraries
    "scipy.ndimage": lambda a: ndimage.gaussian_filter(a, 1),
    "scipy.ndimage.zoom": lambda a: ndimage.zoom(a, 2),
    "scipy.signal": lambda a: signal.savgol_filter(a, 5, 2),
    "scipy.stats": stats.zscore,
    "pandas": lambda a: (pandas.DataFrame(a) + 1).to_numpy(),
    "pandas, filled": lambda a: pandas.Series(a[0]).ffill().to_numpy(copy=True),
    "xarray": lambda a: (xarray.DataArray(a) + 1).values,
    "xarray, filled": lambda a: xarray.DataArray(a, dims=["x", "y"]).ffill("x").values,
    "xarray, rolled": lambda a: xarray.DataArray(a, dims=["x", "y"]).rolling(x=3).mean().values,
    "guvectorize": numba.guvectorize(["(f4[:], f4[:])"], "(n)->(n)")(_successors),
    "vectorize": numba.vectorize(["f4(f4)"])(lambda x: x + 1),
    "njit": numba.njit(lambda x: x + 1),
}


@pytest.mark.parametrize("use", PLAIN.values(), ids=PLAIN.keys())
def test_results_are_plain_whoever_makes_them(array: ScratchArray, use: Use) -> None:
    result, expected = use(array), use(STORED.astype("f4"))
    assert type(result) is np.ndarray
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert not np.shares_memory(result, np.asarray(array))
    np.testing.assert_array_equal(result, expected)
    assert not hasattr(result, "scratch")


VIEWS: dict[str, Use] = {
    "as any array": np.asanyarray,
    "ndarray.__getitem__": lambda a: np.ndarray.__getitem__(a, slice(3, 9)),
    "ndarray.view": lambda a: a.view(),
    "other bits": lambda a: a.view("u4"),
    "real part": lambda a: a.real,
    "field": lambda a: a.getfield("u2", 2),
    "transposed": lambda a: a.T,
    "matrix transposed": lambda a: np.matrix_transpose(a) if hasattr(np, "matrix_transpose") else a,
    "strided": lambda a: stride_tricks.as_strided(a, (3, 3), (4, 4), subok=True),
    "windows": lambda a: stride_tricks.sliding_window_view(a, 3, axis=1),
    "windows of its class": lambda a: stride_tricks.sliding_window_view(a, 3, axis=1, subok=True),
    "broadcast": lambda a: np.broadcast_to(a, (2, 40, 50)),
    "broadcast with its class": lambda a: np.broadcast_to(a, (2, 40, 50), subok=True),
    "broadcast together": lambda a: np.broadcast_arrays(a, np.zeros((3, 1, 1)))[0],
    "diagonal": np.diagonal,
    "flipped": np.flip,
    "raveled": np.ravel,
    "einsum": lambda a: np.einsum("ij->ji", a),
    "split": lambda a: np.array_split(a, 3)[1],
    "pickled": lambda a: pickle.loads(pickle.dumps(a)),
}


@pytest.mark.parametrize("use", VIEWS.values(), ids=VIEWS.keys())
def test_views_stay_views_of_the_file(array: ScratchArray, use: Use) -> None:
    result, expected = use(array), use(STORED.astype("f4"))
    assert type(result) is ScratchArray
    assert result.scratch.map is array.scratch.map
    assert not result.flags.writeable
    assert np.shares_memory(np.asarray(result), np.asarray(array))
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_a_plain_result_may_be_changed(array: ScratchArray) -> None:
    result = bottleneck.push(array)
    result[:] = 7
    result.resize((10, 10), refcheck=False)
    np.testing.assert_array_equal(result, np.full((10, 10), 7))
    np.testing.assert_array_equal(np.asarray(array), STORED)


def test_what_a_user_derives_stays_what_it_is(array: ScratchArray) -> None:
    """Only `ScratchArray` itself is laid out as a plain array; a user's class has more in it."""

    class Labelled(ScratchArray):
        label = "nothing"

    labelled = array.view(Labelled)
    labelled.label = "flux"
    assert labelled.scratch.filename == array.scratch.filename
    copied = np.ndarray.copy(labelled)
    assert isinstance(copied, Labelled)
    with pytest.raises(ValueError, match="ordinary one"):
        _ = copied.scratch


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="this Python counts no references")
def test_nothing_is_lost_or_kept_where_a_result_becomes_plain(array: ScratchArray) -> None:
    """Each instance holds its class, and lets go of it when it becomes one of another."""
    before = sys.getrefcount(ScratchArray)
    kept = [np.ndarray.copy(array[i : i + 1]) for i in range(40) for _ in range(50)]
    assert abs(sys.getrefcount(ScratchArray) - before) < 100
    del kept
    gc.collect()
    assert abs(sys.getrefcount(ScratchArray) - before) < 100
