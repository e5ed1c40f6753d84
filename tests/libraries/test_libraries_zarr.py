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


class Numbers:
    """Chunks of an ordinary array."""

    def __init__(self, values: Any, chunks: tuple[int, ...] = (16, 20, 2)) -> None:
        self.values = values
        self.shape, self.chunks, self.dtype = values.shape, chunks, values.dtype

    def __getitem__(self, selection: Any) -> Any:
        return self.values[selection]

    def __setitem__(self, selection: Any, value: Any) -> None:
        self.values[selection] = value


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


def test_figures_of_an_array(stored: Any) -> None:
    array = CachedArray(stored, Cache())
    assert (array.size, array.nbytes) == (VALUES.size, VALUES.nbytes)
    assert (array.nbytes, array.size, array.ndim) == (stored.nbytes, stored.size, stored.ndim)
    stored.attrs["unit"] = "m"
    assert dict(array.attrs) == {"unit": "m"}
    with pytest.raises(AttributeError, match=r"'oindex': \.array\.oindex has it"):
        array.oindex  # noqa: B018
    with pytest.raises(AttributeError, match="'nothing'"):
        array.nothing  # noqa: B018
    assert not hasattr(CachedArray(Counted(stored), Cache()), "attrs")
    assert CachedArray(Counted(stored), Cache()).nbytes == VALUES.nbytes


def test_it_becomes_an_array(stored: Any) -> None:
    array = CachedArray(stored, Cache())
    np.testing.assert_array_equal(np.array(array), VALUES)
    np.testing.assert_array_equal(np.asarray(array, "f8"), VALUES.astype("f8"))
    assert np.asarray(array, "f8").dtype == np.dtype("f8")
    mine = array.__array__(copy=True)
    mine[...] = 0
    np.testing.assert_array_equal(array[...], VALUES)
    with pytest.raises(ValueError, match="without a copy"):
        array.__array__(copy=False)
    assert np.sum(array) == VALUES.sum()


def test_going_through_it(stored: Any) -> None:
    counted = Counted(stored)
    rows = list(CachedArray(counted, Cache()))
    np.testing.assert_array_equal(rows, VALUES)
    assert counted.reads == 5 * 3 * 2  # each chunk once


def test_an_array_without_axes() -> None:
    stored = zarr.create_array({}, shape=(), dtype="f4")
    stored[...] = 7
    array = CachedArray(stored, Cache())
    assert (array.shape, array.ndim, array.size, array.nbytes) == ((), 0, 1, 4)
    assert array[()] == array[...] == np.asarray(array) == 7
    for use in (len, iter):
        with pytest.raises(TypeError, match="without axes"):
            use(array)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shards", [None, (8, 8)])
def test_formats_of_zarr(version: Any, shards: Any) -> None:
    if version == 2 and shards:
        return  # there are none
    stored = zarr.create_array(
        {}, shape=(9, 9), chunks=(4, 4), shards=shards, dtype="i4", zarr_format=version
    )
    stored[...] = values = np.arange(81).reshape(9, 9)
    array = CachedArray(stored, Cache())
    for _ in range(2):
        np.testing.assert_array_equal(array[1:, ::3], values[1:, ::3])


def test_datasets_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "values.h5", "w") as file:
        chunked = file.create_dataset("chunked", data=VALUES, chunks=(16, 20, 2), compression=1)
        chunked.attrs["unit"] = "m"
        array = CachedArray(chunked, Cache())
        for _ in range(2):
            np.testing.assert_array_equal(array[3:50, 7], VALUES[3:50, 7])
        assert array.attrs["unit"] == "m"
        chunked[:] = 0
        array.invalidate()
        assert not array[:].any()
        for name, data in (("contiguous", VALUES), ("scalar", 7)):
            with pytest.raises(ValueError, match="not stored in chunks"):
                CachedArray(file.create_dataset(name, data=data), Cache())
        with pytest.raises(TypeError, match=r"is a group \(File\)"):
            CachedArray(file, Cache())


def test_what_is_no_chunked_array(stored: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "values.zarr")
    group = zarr.create_group({})
    group.create_array("values", shape=3, dtype="i4")
    for wrong, advice in (
        (path, r"is a path.*zarr\.open_array"),
        (Path(path), r"is a path.*zarr\.open_array"),
        (path.encode(), "is a path"),
        (group, r"is a group \(Group\).*group\[name\]"),
        ({"values": stored}, r"is a group \(dict\)"),
        (CachedArray(stored, Cache()), r"CachedArray already: .*\(cached\.array, cache\)"),
        (VALUES, "decoded already"),
        (np.ma.asarray(VALUES), "decoded already"),
        ([1, 2], "a list has no shape"),
        (None, "a NoneType has no shape"),
        (memoryview(b""), "a memoryview has no chunks"),
        (stored.async_array, "has no __getitem__"),
    ):
        with pytest.raises(TypeError, match=advice):
            CachedArray(wrong, Cache())  # type: ignore[arg-type]
    for cache in (stored, None, {}):
        with pytest.raises(TypeError, match=r"mapscratch\.Cache\(\)"):
            CachedArray(stored, cache)  # type: ignore[arg-type]


def test_chunks_of_unequal_lengths(stored: Any) -> None:
    for chunks in (((16, 54), (45,), (3,)), (16, 20), 16, "auto"):
        wrong = Counted(stored)
        wrong.chunks = chunks
        with pytest.raises(TypeError, match="one length an axis"):
            CachedArray(wrong, Cache())


WRITTEN = [
    *SELECTIONS,
    np.s_[::-3, 2],
    np.s_[[1, 5]],
    np.s_[..., [0, 2]],
    VALUES % 7 == 0,
]


@pytest.mark.parametrize("selection", WRITTEN, ids=lambda selection: str(selection)[:30])
@pytest.mark.parametrize("by", ["others", "the cached array"])
def test_what_was_written_is_seen(selection: Any, by: str) -> None:
    values = VALUES.copy()
    array = CachedArray(Numbers(values), Cache())
    np.testing.assert_array_equal(array[...], VALUES)
    if by == "others":
        values[selection] = -1
        np.testing.assert_array_equal(array[...], VALUES)  # as long as nobody told it
        array.invalidate(selection)
    else:
        array[selection] = -1
    np.testing.assert_array_equal(array[...], values)


def test_only_what_was_written_is_read_again(stored: Any) -> None:
    counted = Counted(stored)
    array = CachedArray(counted, Cache())
    array[...]
    for selection, chunks in (
        (np.s_[0, 0, 0], 1),
        (np.s_[15:17, :20, 2], 2),
        (np.s_[16:32], 6),
        (np.s_[5:5], 0),
        (np.s_[::-1, 0, 0], 5),
        (np.s_[[0]], 30),
        (np.s_[...], 30),
        (VALUES == 0, 30),
    ):
        counted.reads = 0
        array.invalidate(selection)
        array[...]
        assert counted.reads == chunks, selection
    counted.reads = 0
    array.invalidate()
    array[...]
    assert counted.reads == 30
    with pytest.raises(IndexError):
        array.invalidate(70)


def test_invalidating_leaves_other_arrays_alone(stored: Any) -> None:
    counted = Counted(stored)
    cache = Cache()
    cache["mine"] = b"value"
    array, other = CachedArray(stored, cache), CachedArray(counted, cache)
    array[...], other[...]
    array.invalidate()
    array.invalidate(0)
    other[...]
    assert counted.reads == 30
    assert cache["mine"] == b"value"


def test_zarr_writes_between_two_looks() -> None:
    """As in the documentation."""
    stored = zarr.create_array({}, shape=100, chunks=10, dtype="i4")
    array = CachedArray(stored, Cache())
    assert not array[:].any()
    stored[10:20] = 7
    array.invalidate(np.s_[10:20])
    assert array[:].sum() == 70
    array[35] = 5
    assert (stored[35], array[:].sum()) == (5, 75)
    stored.resize(30)
    stored.resize(100)
    array.invalidate()
    assert array[:].sum() == 70


def test_what_is_read_while_it_is_written_is_not_kept() -> None:
    values = np.zeros(10, "i4")

    class Slow(Numbers):
        def __getitem__(self, selection: Any) -> Any:
            before = super().__getitem__(selection).copy()
            if not values[0]:
                values[:] = 7  # as another thread does, which says so then
                array.invalidate(np.s_[:3])
            return before

    array = CachedArray(Slow(values, (10,)), Cache())
    assert (array[:] == 0).all()  # who asked before
    assert (array[:] == 7).all()
