# SPDX-License-Identifier: Apache-2.0
"""A zarr array through a cache: what zarr answers, and each chunk decoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.purgeable import reclaim_all

from mapscratch import Cache
from mapscratch.zarr import CachedArray

VALUES = np.arange(70 * 45 * 3, dtype="i4").reshape(70, 45, 3)


class Counted:
    """An array that counts what is read of it."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.chunks, self.dtype = array.shape, array.chunks, array.dtype
        self.reads = 0

    def __getitem__(self, selection: Any) -> Any:
        self.reads += 1
        return self.array[selection]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("zarr") / "values.zarr"
    array = zarr.create_array(path, shape=VALUES.shape, chunks=(16, 20, 2), dtype=VALUES.dtype)
    array[...] = VALUES
    return array


SELECTIONS = [
    np.s_[...],
    np.s_[:],
    np.s_[5],
    np.s_[-1],
    np.s_[3:50, 7],
    np.s_[3:50, 7, 2],
    np.s_[69, 44, 2],
    np.s_[..., 1],
    np.s_[2, ..., 1],
    np.s_[::7, 1:40:3],
    np.s_[15:17, 19:21, 1:],
    np.s_[40:10],
    np.s_[1000:],
    np.s_[np.int64(3), : np.int16(5)],
    np.s_[17::31, ::44],
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_what_numpy_answers(stored: Any, selection: Any) -> None:
    array = CachedArray(stored, Cache())
    for _ in range(2):
        result = array[selection]
        wanted = VALUES[selection]
        assert np.shape(result) == np.shape(wanted)
        np.testing.assert_array_equal(result, wanted)
        reclaim_all(array.cache)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_slices(stored: Any, data: st.DataObject) -> None:
    def one(length: int) -> st.SearchStrategy[Any]:
        bound = st.none() | st.integers(-length - 2, length + 2)
        steps = st.none() | st.integers(1, length)
        return st.builds(slice, bound, bound, steps) | st.integers(-length, length - 1)

    selection = data.draw(st.tuples(*map(one, VALUES.shape)))
    result = CachedArray(stored, Cache())[selection]
    np.testing.assert_array_equal(result, VALUES[selection])
    assert np.shape(result) == np.shape(VALUES[selection])


def test_each_chunk_is_read_once(stored: Any) -> None:
    counted = Counted(stored)
    array = CachedArray(counted, Cache())
    for _ in range(3):
        np.testing.assert_array_equal(array[:], VALUES)
    assert counted.reads == 5 * 3 * 2
    np.testing.assert_array_equal(np.asarray(array), VALUES)
    other = CachedArray(counted, array.cache)  # keeps its own
    assert other[0, 0, 0] == 0
    assert counted.reads == 5 * 3 * 2 + 1
    array.drop()
    assert array[0, 0, 0] == 0
    assert other[0, 0, 0] == 0
    assert counted.reads == 5 * 3 * 2 + 2


def test_what_was_taken_is_read_again(stored: Any) -> None:
    counted = Counted(stored)
    array = CachedArray(counted, Cache())
    np.testing.assert_array_equal(array[:], VALUES)
    reclaim_all(array.cache)
    np.testing.assert_array_equal(array[:], VALUES)
    assert counted.reads > 5 * 3 * 2
    assert array.cache.stats().lost


def test_other_selections_are_passed_on(stored: Any) -> None:
    counted = Counted(stored)
    array = CachedArray(counted, Cache())
    mask = VALUES % 5 == 0
    np.testing.assert_array_equal(array[mask], VALUES[mask])
    assert counted.reads == 1
    assert len(array.cache) == 0
    for selection in ((0, 0, 0, 0), 70, -71, (0, 45)):
        with pytest.raises(IndexError):
            array[selection]


def test_it_is_like_an_array(stored: Any) -> None:
    array = CachedArray(stored, Cache())
    assert (array.shape, array.chunks, array.ndim) == (VALUES.shape, (16, 20, 2), 3)
    assert (array.dtype, len(array)) == (np.dtype("i4"), 70)
    assert "through <Cache" in repr(array)
    part = array[:5]
    part[...] = 0  # an ordinary array, and its own
    np.testing.assert_array_equal(array[:5], VALUES[:5])


def test_in_dask(stored: Any, tmp_path: Path) -> None:
    dask_array = pytest.importorskip("dask.array")
    array = CachedArray(stored, Cache())
    lazily = dask_array.from_array(array, chunks=array.chunks, name=False)
    assert int(lazily.sum().compute()) == int(VALUES.sum())
    assert array.cache.stats().made == 5 * 3 * 2


def test_an_array_that_has_grown() -> None:
    """Its last chunk is another one then."""
    stored = zarr.create_array({}, shape=(9,), chunks=(4,), dtype="i4")
    stored[:] = np.arange(9)
    array = CachedArray(stored, Cache())
    np.testing.assert_array_equal(array[:], np.arange(9))
    stored.append(np.arange(9, 12, dtype="i4"))
    np.testing.assert_array_equal(array[:], np.arange(12))
