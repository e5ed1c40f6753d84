# SPDX-License-Identifier: Apache-2.0
"""Rows picked by an index array: the same as NumPy's, with missing pages made together."""

from __future__ import annotations

import errno
import os
import threading
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mapscratch
from mapscratch import _native

# The tests reclaim what is read again and again, in place of a kernel that wants memory.
pytestmark = pytest.mark.filterwarnings("ignore::mapscratch.ThrashingWarning")

ITEMS = 2_000_000

Values = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gathering") / "values"
    np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(">i2").tofile(path)
    return path


@pytest.fixture(scope="module")
def expected(path: Path) -> Values:
    return np.fromfile(path, ">i2").astype("f4")


@pytest.fixture
def array(lazyfree: str, path: Path) -> mapscratch.ScratchArray:
    return mapscratch.array(path, "f4", source=">i2")


def same(result: Any, expected: Values) -> None:
    assert type(result) is np.ndarray
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)


def test_pages_are_made_together_and_once(array: mapscratch.ScratchArray, expected: Values) -> None:
    rows = np.random.default_rng(1).integers(0, ITEMS, 3000)
    same(array[rows], expected[rows])
    pages = len(np.unique(rows * 4 // PAGESIZE))
    assert array.scratch.counts().filled == pages  # a fault each would have made 16 a fault
    same(array[rows], expected[rows])
    assert array.scratch.counts().filled == pages
    array.scratch.reclaim()
    same(array[rows], expected[rows])


@pytest.mark.parametrize("rows", [1, 3, 700, 1024, 1500, 16_000, 20_000])
def test_rows_of_any_length(array: mapscratch.ScratchArray, expected: Values, rows: int) -> None:
    part = slice(5, 5 + (ITEMS - 5) // rows * rows)
    ours, theirs = array[part].reshape(-1, rows), expected[part].reshape(-1, rows)
    index = np.random.default_rng(rows).integers(-len(ours), len(ours), (9, 7))
    same(ours[index], theirs[index])
    same(ours[index.tolist()], theirs[index])
    same(ours.take(index, axis=0), theirs.take(index, axis=0))
    same(np.take(ours, index, axis=0), theirs.take(index, axis=0))


def test_the_same_row_many_times_and_sorted_rows(
    array: mapscratch.ScratchArray, expected: Values
) -> None:
    for rows in (np.full(1000, 77_777), np.arange(0, ITEMS, 999), np.arange(ITEMS)[::-77]):
        same(array[rows], expected[rows])
        same(array[rows.astype("u2") if rows.max() < 65536 else rows], expected[rows])
        array.scratch.drop()


INDICES: dict[str, Any] = {
    "a mask": lambda a: a > 0,
    "none": lambda a: np.zeros(0, int),
    "a pair": lambda a: (np.arange(5), np.arange(5)),
    "rows of columns": lambda a: np.s_[:, [1, 2, 3]],
    "a list in a tuple": lambda a: ([1] * 20,),
    "a few": lambda a: [1, 2],
    "of unsigned": lambda a: np.arange(0, 900, 9, "u8"),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_other_indices(array: mapscratch.ScratchArray, expected: Values, index: Any) -> None:
    ours, theirs = array.reshape(1000, -1), expected.reshape(1000, -1)
    same(ours[index(theirs)], theirs[index(theirs)])


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[::-1], np.s_[3:]])
def test_of_views(array: mapscratch.ScratchArray, expected: Values, view: Any) -> None:
    rows = np.random.default_rng(2).integers(0, 500_000, 400)
    same(array[view][rows], expected[view][rows])
    columns = array[: ITEMS // 1000 * 1000].reshape(1000, -1).T
    same(columns[rows % 2000], expected.reshape(1000, -1).T[rows % 2000])


@pytest.mark.parametrize("row", [ITEMS, -ITEMS - 1])
def test_rows_that_are_not_there(array: mapscratch.ScratchArray, row: int) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        array[[0] * 20 + [row]]
    with pytest.raises(IndexError, match="out of bounds"):
        array.take([0] * 20 + [row])


def test_floats_are_no_index(array: mapscratch.ScratchArray) -> None:
    with pytest.raises(IndexError):
        array[np.zeros(20)]


def test_pages_that_the_mapping_has_not(array: mapscratch.ScratchArray) -> None:
    mapping = array.scratch.map
    beyond = np.array([len(mapping) // PAGESIZE + 1], "u8")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        mapping.fetch(beyond)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        mapping.residence(beyond)
    assert mapping.residence(np.arange(10, dtype="u8")) == bytes(10)


def test_only_decoded_memory_is_fetched(lazyfree: str, path: Path) -> None:
    with mapscratch.ScratchMap(path, engine=lazyfree) as mapping:
        assert isinstance(mapping, _native.WordMap)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            mapping._fetch(np.zeros(1, "u8"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    width=st.sampled_from([1, 10, 1000, 3000]),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 3000),
    spread=st.integers(1, ITEMS),
    reclaimed=st.booleans(),
)
def test_any_rows(
    array: mapscratch.ScratchArray,
    expected: Values,
    width: int,
    seed: int,
    count: int,
    spread: int,
    reclaimed: bool,
) -> None:
    whole = ITEMS // width * width
    ours, theirs = array[:whole].reshape(-1, width), expected[:whole].reshape(-1, width)
    rows = np.random.default_rng(seed).integers(0, min(spread, len(ours)), count)
    if reclaimed:
        array.scratch.reclaim()
    same(ours[rows], theirs[rows])


@pytest.mark.slow
def test_while_pages_are_dropped(array: mapscratch.ScratchArray, expected: Values) -> None:
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set():
            array.scratch.drop()
            array.scratch.reclaim()

    dropper = threading.Thread(target=drop)
    dropper.start()
    try:
        for seed in range(30):
            rows = np.random.default_rng(seed).integers(0, ITEMS, 2000)
            same(array[rows], expected[rows])
    finally:
        stop.set()
        dropper.join()
