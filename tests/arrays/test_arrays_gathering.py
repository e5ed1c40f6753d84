# SPDX-License-Identifier: Apache-2.0
"""Rows picked by an index array: the same as NumPy's, with missing pages made together."""

from __future__ import annotations

import errno
import re
import threading
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.errors import raises_errno
from support.interpreter import run_python

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
    with pytest.raises(IndexError):
        array[[0] * 20 + [row]]
    with pytest.raises(IndexError):
        array.take([0] * 20 + [row])


def test_floats_are_no_index(array: mapscratch.ScratchArray) -> None:
    with pytest.raises(IndexError):
        array[np.zeros(20)]


def test_pages_that_the_mapping_has_not(array: mapscratch.ScratchArray) -> None:
    mapping = array.scratch.map
    beyond = np.array([len(mapping) // PAGESIZE + 1], "u8")
    with raises_errno(errno.EINVAL):
        mapping.fetch(beyond)
    with raises_errno(errno.EINVAL):
        mapping.residence(beyond)
    assert mapping.residence(np.arange(10, dtype="u8")) == bytes(10)


def test_only_decoded_memory_is_fetched(lazyfree: str, path: Path) -> None:
    with mapscratch.ScratchMap(path, engine=lazyfree) as mapping:
        assert isinstance(mapping, _native.WordMap)
        with raises_errno(errno.EINVAL):
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


# Masks


def sparse(shape: Any, share: float, seed: int = 3) -> Values:
    return np.asarray(np.random.default_rng(seed).random(shape) < share)


def test_pages_under_a_mask_are_made_together_and_once(
    array: mapscratch.ScratchArray, expected: Values
) -> None:
    """As by the numbers of its rows: a page fault each would have made 16 pages a fault."""
    mask = sparse(ITEMS, 4e-5)
    pages = len(np.unique(np.flatnonzero(mask) * 4 // PAGESIZE))
    assert 50 < pages < ITEMS * 4 // PAGESIZE // 8
    for ours, theirs in (
        (array, mask),
        (array.reshape(1000, -1), mask.reshape(1000, -1)),
        (array.reshape(2, 1000, -1), mask.reshape(2, 1000, -1)),
        (array.reshape(1000, -1).T, mask.reshape(1000, -1).T),
        (array, (mask,)),
        (array, (mask, ...)),
        (array, mask.tolist()),
    ):
        array.scratch.drop()
        before = array.scratch.counts().filled
        same(ours[theirs], expected[mask] if ours.flags.c_contiguous else by_rows(expected, mask))
        assert array.scratch.counts().filled == before + pages


def by_rows(expected: Values, mask: Values) -> Values:
    values: Values = expected.reshape(1000, -1).T[mask.reshape(1000, -1).T]
    return values


def test_functions_that_pick_make_pages_together_too(
    array: mapscratch.ScratchArray, expected: Values
) -> None:
    mask = sparse(ITEMS, 4e-5)
    pages = len(np.unique(np.flatnonzero(mask) * 4 // PAGESIZE))
    for pick in (
        lambda a: a.compress(mask),
        lambda a: a.compress(mask, axis=0),
        lambda a: np.compress(mask, a),
        lambda a: np.extract(mask, a),
        lambda a: np.take(a, np.flatnonzero(mask)),
    ):
        array.scratch.drop()
        before = array.scratch.counts().filled
        same(pick(array), expected[mask])
        assert array.scratch.counts().filled == before + pages


@pytest.mark.parametrize("share", [0.002, 0.5, 1])
def test_under_a_dense_mask_readers_go_in_sequence(
    array: mapscratch.ScratchArray, expected: Values, share: float
) -> None:
    """Where most pages are wanted they are made in large blocks, whatever picks them."""
    mask = sparse(ITEMS, share)
    for index in (mask, np.flatnonzero(mask)):
        array.scratch.drop()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(array.scratch.map), "fetch", _must_not_be_called)
            same(array[index], expected[mask])


def _must_not_be_called(*_: Any) -> None:
    raise AssertionError("pages were made one by one")


MASKS: dict[str, Any] = {
    "of rows": lambda a: sparse(len(a), 0.05),
    "of items": lambda a: sparse(a.shape, 0.001),
    "of rows, in a tuple": lambda a: (sparse(len(a), 0.05),),
    "of rows, all columns": lambda a: (sparse(len(a), 0.05), slice(None)),
    "of rows, and what is left": lambda a: (sparse(len(a), 0.05), ...),
    "of items, and what is left": lambda a: (sparse(a.shape, 0.001), ...),
    "of rows, one column": lambda a: (sparse(len(a), 0.05), 3),
    "of rows, some columns": lambda a: (sparse(len(a), 0.05), slice(2, 9)),
    "of rows, and an axis more": lambda a: (sparse(len(a), 0.05), None),
    "of columns": lambda a: (slice(None), sparse(a.shape[1], 0.05)),
    "of both": lambda a: (sparse(len(a), 0.05), np.arange(3)[:, None]),
    "a list": lambda a: sparse(len(a), 0.05).tolist(),
    "nested lists in a tuple": lambda a: (sparse(a.shape, 0.001).tolist(),),
    "by columns": lambda a: np.asfortranarray(sparse(a.shape, 0.001)),
    "every second of a mask": lambda a: sparse(2 * len(a), 0.05)[::2],
    "nothing": lambda a: np.zeros(a.shape, bool),
    "everything": lambda a: np.ones(a.shape, bool),
    "rows, all columns": lambda a: ([1, 5, 7] * 9, slice(None)),
    "rows, and what is left": lambda a: (np.arange(40), ...),
    # that NumPy has errors for
    "too short": lambda a: sparse(len(a) - 1, 0.05),
    "too long": lambda a: sparse(len(a) + 1, 0.05),
    "of other rows": lambda a: sparse(a.shape[::-1], 0.001),
    "of more dimensions": lambda a: sparse((*a.shape, 1), 0.001),
    "of items, and all columns": lambda a: (sparse(a.shape, 0.001), slice(None)),
    "of items in lists, and all columns": lambda a: (sparse(a.shape, 0.01).tolist(), slice(None)),
    "of rows, and two ellipses": lambda a: (sparse(len(a), 0.05), ..., ...),
    "lists of many lengths": lambda a: [[1], [1, 2]],
}

VIEWED: dict[str, Any] = {
    "whole": lambda a: a,
    "by columns": lambda a: a.T,
    "every second row": lambda a: a[::2],
    "backwards": lambda a: a[::-1],
    "some columns": lambda a: a[:, 3:50],
    "many times": lambda a: np.broadcast_to(a[0], (30, a.shape[1])),
    "other bits": lambda a: a.view("u2"),
}


@pytest.mark.parametrize("view", VIEWED.values(), ids=VIEWED.keys())
@pytest.mark.parametrize("index", MASKS.values(), ids=MASKS.keys())
def test_masks_mean_what_they_mean_to_numpy(
    array: mapscratch.ScratchArray, expected: Values, index: Any, view: Any
) -> None:
    ours, theirs = view(array[:600_000].reshape(300, -1)), view(expected[:600_000].reshape(300, -1))
    picks = index(theirs)
    try:
        right = theirs[picks]
    except (IndexError, ValueError) as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            ours[picks]
    else:
        np.testing.assert_array_equal(np.asarray(ours[picks]), right)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple),
    order=st.sampled_from("CF"),
    dimensions=st.integers(1, 4),
    share=st.sampled_from([0, 1e-4, 0.01, 0.3, 1]),
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.sampled_from([1, 1, 1, 2, -1]), min_size=4, max_size=4),
    reclaimed=st.booleans(),
)
def test_any_mask(
    array: mapscratch.ScratchArray,
    expected: Values,
    shape: tuple[int, ...],
    order: Any,
    dimensions: int,
    share: float,
    seed: int,
    steps: list[int],
    reclaimed: bool,
) -> None:
    """Of so many of the first dimensions, over a view of any order."""
    items = min(ITEMS, int(np.prod(shape)) * 9)
    shape = (items // int(np.prod(shape[1:])), *shape[1:])
    part = slice(0, int(np.prod(shape)))
    view = tuple(slice(None, None, step) for step in steps[: len(shape)])
    ours = array[part].reshape(shape, order=order)[view]
    theirs = expected[part].reshape(shape, order=order)[view]
    mask = sparse(theirs.shape[:dimensions], share, seed)
    if reclaimed:
        array.scratch.reclaim()
    same(ours[mask], theirs[mask])
    same(ours[mask, ...], theirs[mask, ...])
    if dimensions == 1:
        same(np.compress(mask, ours, axis=0), theirs[mask])


@pytest.mark.parametrize(
    "pick",
    [
        lambda a, chosen: np.compress(chosen, a),
        lambda a, chosen: np.compress(chosen, a, axis=1),
        lambda a, chosen: np.compress(chosen, a, axis=-2),
        lambda a, chosen: a.compress(chosen, 0),
        lambda a, chosen: np.extract(np.resize(chosen, a.shape), a),
        lambda a, chosen: np.take(a, chosen, axis=0),
        lambda a, chosen: a.take(chosen),
        lambda a, chosen: np.take(a, chosen, 0, np.empty((len(chosen), a.shape[1]), "f4"), "clip"),
        lambda a, chosen: np.compress(condition=chosen, a=a, axis=0),
    ],
)
@pytest.mark.parametrize("chosen", [[True, False] * 9, [2, 0, 5], [0.0, 1.5], [], [1] * 5000])
def test_functions_that_pick_are_numpys(
    array: mapscratch.ScratchArray, expected: Values, pick: Any, chosen: Any
) -> None:
    """Also where truth values are taken for numbers, and with NumPy's errors."""
    ours, theirs = array[:600_000].reshape(300, -1), expected[:600_000].reshape(300, -1)
    try:
        right = pick(theirs, chosen)
    except (IndexError, TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            pick(ours, chosen)
    else:
        same(pick(ours, chosen), right)


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


def test_picking_imports_nothing(lazyfree: str, path: Path) -> None:
    """A child that another thread forks meanwhile would wait for that import for ever."""
    run_python(
        """
    import sys
    import numpy as np, mapscratch
    array = mapscratch.array(sys.argv[1], "f4", source=">i2")
    imported = set(sys.modules)
    array[np.arange(0, len(array), 100_000)]
    array[np.arange(0, len(array), 3_000)]
    array[np.arange(len(array)) % 50_000 == 7]
    assert array.scratch.counts().filled
    assert set(sys.modules) == imported, set(sys.modules) - imported
    """,
        path,
    )
