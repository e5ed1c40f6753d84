# SPDX-License-Identifier: Apache-2.0
"""Which part of a file an array is of: lengths left open, arrays without items, files that grow."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.array_fixups import nibbles
from support.interpreter import run_python

import mapscratch
from mapscratch.fixups import Python, Scale

Values = np.ndarray[Any, np.dtype[Any]]

ITEMS = 7 * 5 * 1000
STORED = np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(">i2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(STORED.tobytes())
    return path


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    path = tmp_path / "nothing"
    path.touch()
    return path


def decoded(path: Path, **arguments: Any) -> mapscratch.ScratchArray:
    return mapscratch.array(path, "f4", source=">i2", **arguments)


# Lengths left open


@pytest.mark.parametrize(
    "shape",
    [
        -1,
        (-1,),
        [-1],
        (-1, 5),
        (7, -1),
        (7, -1, 1000),
        (-1, 7, 5, 1000),
        np.array([7, -1]),
        (1, -1),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_length_left_open(lazyfree: str, path: Path, shape: Any, order: Any) -> None:
    ours = decoded(path, shape=shape, order=order)
    np.testing.assert_array_equal(np.asarray(ours), STORED.astype("f4").reshape(shape, order=order))


def test_open_lengths_count_from_the_offset(lazyfree: str, path: Path) -> None:
    ours = decoded(path, offset=2 * 5000, shape=(-1, 1000))
    np.testing.assert_array_equal(np.asarray(ours), STORED.astype("f4")[5000:].reshape(-1, 1000))
    at_the_end = decoded(path, offset=2 * ITEMS, shape=(-1, 1000))
    assert at_the_end.shape == (0, 1000)


def test_open_lengths_of_what_makes_many_items(lazyfree: str, path: Path) -> None:
    fixup = Python(nibbles, items=2)
    ours = mapscratch.array(path, "u1", source="u1", shape=(-1, 4), fixup=fixup)
    np.testing.assert_array_equal(np.asarray(ours), nibbles(STORED.view("u1")).reshape(-1, 4))


@pytest.mark.parametrize("shape", [(-1, 3), (-1, 11, 7), (ITEMS + 1, -1)])
def test_a_part_of_a_row_is_left(lazyfree: str, path: Path, shape: Any) -> None:
    with pytest.raises(ValueError, match=r"are not whole items of >i2 .* in whole rows"):
        decoded(path, shape=shape)


@given(
    lengths=st.lists(st.integers(-1, 6), max_size=4).map(tuple),
    items=st.integers(0, 400),
    extra=st.integers(0, 1),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shape_is_what_reshape_makes_of_it(
    lazyfree: str, tmp_path: Path, lengths: tuple[int, ...], items: int, extra: int
) -> None:
    """Or an error, where NumPy has one, or the file has something left over."""
    path = tmp_path / "any"
    path.write_bytes(STORED[:items].tobytes() + bytes(extra))
    wanted = int(np.prod(lengths, dtype=int))
    try:
        expected = STORED[: items if -1 in lengths else min(items, wanted)].astype("f4")
        expected = expected.reshape(lengths)
        is_right = not (extra and -1 in lengths)
    except ValueError:
        is_right = False
    if is_right:
        np.testing.assert_array_equal(np.asarray(decoded(path, shape=lengths)), expected)
    else:
        with pytest.raises(ValueError, match=r"shape|whole"):
            decoded(path, shape=lengths)


# Arrays without items

EMPTY_SHAPES = [0, (0,), (3, 0, 5), (0, 0), [0, 7], np.int64(0)]


@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0, 11, 2 * ITEMS])
def test_no_items_of_a_file(lazyfree: str, path: Path, shape: Any, offset: int) -> None:
    ours = decoded(path, shape=shape, offset=offset, scale=0.5)
    expected = np.zeros(shape, "f4")
    assert isinstance(ours, mapscratch.ScratchArray)
    assert not ours.flags.writeable
    same_and_empty(ours, expected)


@pytest.mark.parametrize("shape", [None, -1, 0, (0, 5), (-1, 20_000)], ids=str)
def test_no_items_of_an_empty_file(lazyfree: str, nothing: Path, shape: Any) -> None:
    expected = np.zeros(0, "f4").reshape(-1 if shape is None else shape)
    same_and_empty(decoded(nothing, shape=shape), expected)
    same_and_empty(mapscratch.array(nothing, "f4", shape=shape), expected)


def test_items_of_an_empty_file(lazyfree: str, nothing: Path) -> None:
    for shape in (1, (), (2, 3)):
        with pytest.raises(ValueError, match="the file has 0 from offset 0"):
            decoded(nothing, shape=shape)


def same_and_empty(ours: Any, expected: Values) -> None:
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(np.asarray(ours), expected)


USES: dict[str, Callable[[Any], Any]] = {
    "sum": lambda a: a.sum(axis=0),
    "sum of all": np.sum,
    "plus": lambda a: a + 1,
    "copy": lambda a: a.copy(),
    "transposed": lambda a: a.T,
    "slice": lambda a: a[1:],
    "reshaped": lambda a: a.reshape(0, 3),
    "mask": lambda a: a[np.ones(a.shape, bool)],
    "rows": lambda a: a[[1, 2, 0] * 10],
    "taken": lambda a: a.take([1, 2], axis=0),
    "joined": lambda a: np.concatenate([a, np.ones((3, 1, 5), "f4")], axis=1),
    "other bits": lambda a: a.view("i4"),
    "broadcast": lambda a: np.broadcast_to(a, (2, 3, 0, 5)),
    "pickled": lambda a: pickle.loads(pickle.dumps(a)),
    "a pickled slice": lambda a: pickle.loads(pickle.dumps(a[2:])),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_no_items_are_used_as_others(lazyfree: str, path: Path, use: Any) -> None:
    same(use(decoded(path, shape=(3, 0, 5))), use(np.zeros((3, 0, 5), "f4")))


def same(ours: Any, expected: Any) -> None:
    assert np.shape(ours) == np.shape(expected)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def test_no_items_by_dask(lazyfree: str, path: Path) -> None:
    dask_array = pytest.importorskip("dask.array", reason="dask is not installed")
    ours = dask_array.from_array(decoded(path, shape=(3, 0, 5)))
    same((ours + 1).compute(), np.zeros((3, 0, 5), "f4"))


def test_what_stands_behind_no_items(lazyfree: str, path: Path, tmp_path: Path) -> None:
    ours = decoded(path, shape=(3, 0, 5), scale=0.5)
    scratch = ours.scratch
    assert (scratch.filename, scratch.engine, len(scratch.map)) == (str(path), "none", 0)
    assert repr(scratch.fixup) == "Scale(0.5, 0)"
    assert scratch.counts().resident == scratch.counts().filled == scratch.drop() == 0
    assert scratch.guarantees.no_swap == "firm"
    assert "0 bytes decoded" in repr(scratch)
    scratch.reclaim()
    with scratch.pin():
        assert bytes(ours) == b""
    mapscratch.save(tmp_path / "saved.npy", ours)
    assert np.load(tmp_path / "saved.npy").shape == (3, 0, 5)


def test_an_empty_slice_has_nothing_of_the_file(lazyfree: str, path: Path) -> None:
    empty = decoded(path)[5:5]
    assert type(empty) is np.ndarray
    assert pickle.loads(pickle.dumps(empty)).shape == (0,)
    assert np.ndarray.__getitem__(decoded(path), slice(5, 5)).scratch.drop() == 0


def test_no_items_in_another_process(lazyfree: str, path: Path) -> None:
    pickled = pickle.dumps(decoded(path, shape=(3, 0, 5)))
    run_python(
        "import pickle, sys; assert pickle.loads(bytes.fromhex(sys.argv[1])).shape == (3, 0, 5)",
        pickled.hex(),
    )


NEVER: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "an engine": ({"engine": "best"}, ValueError),
    "a block": ({"block": 5}, ValueError),
    "an order": ({"order": "A"}, ValueError),
    "behind the end": ({"offset": 2 * ITEMS + 1}, ValueError),
    "too many scales": ({"fixup": Scale([1, 2, 3], block=32)}, ValueError),
    "two open lengths": ({"shape": (-1, -1, 0)}, ValueError),
}


@pytest.mark.parametrize(("arguments", "error"), NEVER.values(), ids=NEVER.keys())
def test_what_is_wrong_stays_wrong_without_items(
    lazyfree: str, path: Path, arguments: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        decoded(path, **{"shape": (0,), **arguments})


def test_no_scales_for_no_items(lazyfree: str, path: Path) -> None:
    ours = decoded(path, shape=(0, 64), fixup=Scale(np.empty(0), block=64))
    same_and_empty(ours, np.empty((0, 64), "f4"))


def test_a_file_that_hides_its_size(lazyfree: str) -> None:
    """Of those in /proc the size is 0; they are not without items."""
    for shape in (None, 10):
        with pytest.raises(ValueError, match=r"says that it has no bytes.*Copy"):
            mapscratch.array("/proc/self/status", "u1", shape=shape)


# What h5py says of where a dataset is


@pytest.fixture
def datasets(tmp_path: Path) -> Any:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        values = np.arange(1000, dtype=">i2")
        file["contiguous"] = values
        file.create_dataset("chunked", data=values, chunks=(100,))
        file.create_dataset("compressed", data=values, compression="gzip")
        file.create_dataset("not yet written", (1000,), ">i2")
        file.create_dataset("empty", (0, 7), ">i2")
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple((1000,)), h5py.h5t.STD_I16BE
        h5py.h5d.create(file.id, b"compact", kind, space, dcpl=compact)
    return h5py.File(tmp_path / "data.h5", "r")


def _as_a_user(dataset: Any) -> mapscratch.ScratchArray:
    return mapscratch.array(
        dataset.file.filename,
        "f4",
        offset=dataset.id.get_offset(),
        shape=dataset.shape,
        source=dataset.dtype,
    )


def test_datasets_that_are_one_piece(lazyfree: str, datasets: Any) -> None:
    for name in ("contiguous", "empty"):
        ours = _as_a_user(datasets[name])
        np.testing.assert_array_equal(np.asarray(ours), datasets[name][:].astype("f4"))


@pytest.mark.parametrize("name", ["chunked", "compressed", "not yet written", "compact"])
def test_datasets_that_are_not(lazyfree: str, datasets: Any, name: str) -> None:
    assert datasets[name].id.get_offset() is None
    with pytest.raises(TypeError, match=r"offset=None.*chunked.*mapscratch\.Cache"):
        _as_a_user(datasets[name])


# A file that grows while it is read


def append(path: Path, values: Values) -> None:
    with open(path, "ab") as file:
        file.write(values.tobytes())


def test_a_recording_goes_on(lazyfree: str, path: Path) -> None:
    ours = decoded(path, shape=(-1, 7), changes="unnoticed")
    expected = STORED.astype("f4").reshape(-1, 7)
    np.testing.assert_array_equal(ours[:100] + 0, expected[:100])
    append(path, STORED)
    ours.scratch.drop()
    np.testing.assert_array_equal(ours + 0, expected)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(ours[5:]))), expected[5:])
    again = decoded(path, shape=(-1, 7), changes="unnoticed")
    np.testing.assert_array_equal(again + 0, np.concatenate([expected, expected]))


def test_what_is_not_whole_yet_is_left_out(lazyfree: str, path: Path) -> None:
    append(path, STORED[:6])
    append(path, np.zeros(1, "u1"))
    for shape, expected in ((None, np.append(STORED, STORED[:6])), ((-1, 7), STORED)):
        ours = decoded(path, shape=shape, changes="unnoticed")
        np.testing.assert_array_equal(np.asarray(ours).ravel(), expected.astype("f4"))
        with pytest.raises(ValueError, match="are not whole items"):
            decoded(path, shape=shape)


def test_a_recording_that_has_not_begun(lazyfree: str, nothing: Path) -> None:
    ours = decoded(nothing, shape=(-1, 7), changes="unnoticed")
    append(nothing, STORED)
    assert ours.shape == (0, 7)
    assert (ours + 1).size == 0
    assert decoded(nothing, shape=(-1, 7), changes="unnoticed").shape == (ITEMS // 7, 7)


def test_it_is_given_to_another_process(lazyfree: str, path: Path) -> None:
    pickled = pickle.dumps(decoded(path, changes="unnoticed"))
    append(path, STORED)
    run_python(
        f"import pickle, sys; assert len(pickle.loads(bytes.fromhex(sys.argv[1]))) == {ITEMS}",
        pickled.hex(),
    )


def test_a_recording_that_is_cut_short_is_noticed(lazyfree: str, path: Path) -> None:
    ours = decoded(path, shape=100, changes="unnoticed")
    pickled = pickle.dumps(ours)
    with open(path, "r+b") as file:
        file.truncate(200)
        np.testing.assert_array_equal(ours + 0, STORED[:100].astype("f4"))  # it has what it shows
        file.truncate(199)
    with pytest.raises(mapscratch.SourceChanged):
        ours + 0
    run_python(
        """
        import mapscratch, pickle, sys
        try:
            pickle.loads(bytes.fromhex(sys.argv[1]))
        except mapscratch.SourceChanged:
            sys.exit(0)
        sys.exit("it was opened")
        """,
        pickled.hex(),
    )


def test_growth_is_refused_unless_it_was_asked_for(lazyfree: str, path: Path) -> None:
    ours = decoded(path)
    append(path, STORED)
    with pytest.raises(mapscratch.SourceChanged, match=r"It has grown.*changes='unnoticed'"):
        ours + 0
