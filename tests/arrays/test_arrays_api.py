# SPDX-License-Identifier: Apache-2.0
"""What a user of `mapscratch.array` sees: arguments, views, results, pickles, errors."""

from __future__ import annotations

import copy
import io
import mmap
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.interpreter import run_python

import mapscratch
from mapscratch import ScratchArray
from mapscratch.arrays import home
from mapscratch.arrays.decoded import Geometry
from mapscratch.fixups import Cast, Scale, Words

Values = np.ndarray[Any, np.dtype[Any]]

ROWS, COLUMNS = 300, 211


@pytest.fixture
def stored() -> Values:
    return np.random.default_rng(0).integers(-30_000, 30_000, (ROWS, COLUMNS)).astype(">i2")


@pytest.fixture
def path(tmp_path: Path, stored: Values) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"headr" + stored.tobytes())  # an offset that is no multiple of anything
    return path


@pytest.fixture
def expected(stored: Values) -> Values:
    return stored.astype("f4") * np.float32(0.5) + np.float32(3)


@pytest.fixture
def array(lazyfree: str, path: Path) -> ScratchArray:
    return mapscratch.array(path, "f4", "r", 5, (ROWS, COLUMNS), source=">i2", scale=0.5, zero=3)


def test_it_is_an_array_of_the_decoded_numbers(array: ScratchArray, expected: Values) -> None:
    assert isinstance(array, np.ndarray)
    assert (array.shape, array.dtype) == (expected.shape, np.dtype("f4"))
    assert not array.flags.writeable
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert type(np.asarray(array)) is np.ndarray


def test_arguments_are_those_of_memmap(lazyfree: str, path: Path, stored: Values) -> None:
    memmap = np.memmap(path, ">i2", "r", 5, (ROWS, COLUMNS), "C")
    ours = mapscratch.array(path, ">i2", "r", 5, (ROWS, COLUMNS), "C")
    np.testing.assert_array_equal(np.asarray(ours), memmap)
    assert ours.dtype == memmap.dtype


def test_columns_first(lazyfree: str, path: Path, expected: Values) -> None:
    ours = mapscratch.array(
        path, "f4", offset=5, shape=(COLUMNS, ROWS), order="F", source=">i2", scale=0.5, zero=3
    )
    assert ours.flags.f_contiguous
    np.testing.assert_array_equal(np.asarray(ours), expected.T)


@pytest.mark.parametrize("shape", [None, ROWS * COLUMNS, (ROWS * COLUMNS,)])
def test_one_dimension(lazyfree: str, path: Path, expected: Values, shape: Any) -> None:
    ours = mapscratch.array(path, "f4", offset=5, shape=shape, source=">i2", scale=0.5, zero=3)
    np.testing.assert_array_equal(np.asarray(ours), expected.ravel())


def test_an_open_file(lazyfree: str, path: Path, expected: Values) -> None:
    with open(path, "rb") as file:
        ours = mapscratch.array(file, "f4", offset=5, source=">i2", scale=0.5, zero=3)
    np.testing.assert_array_equal(np.asarray(ours), expected.ravel())
    assert pickle.loads(pickle.dumps(ours))[5] == expected.ravel()[5]


def test_what_stands_behind_it(array: ScratchArray, path: Path) -> None:
    scratch = array.scratch
    assert scratch.engine == "lazyfree"
    assert scratch.filename == str(path)
    assert str(scratch.source) == ">i2"
    assert isinstance(scratch.fixup, Scale)
    assert scratch.guarantees.page_in_fixups
    assert scratch.map.engine == "lazyfree"
    assert repr(scratch).startswith(
        f"<{array.nbytes} bytes decoded from {str(path)!r} by Scale(0.5"
    )
    assert scratch.counts().filled == 0
    array.sum()
    pages = -(-array.nbytes // os.sysconf("SC_PAGESIZE"))
    counts = scratch.counts()
    assert (counts.filled, counts.resident, counts.rebuilt, counts.rebuilt_rate) == (
        pages,
        pages,
        0,
        0.0,
    )
    assert counts.droppable == pages
    assert counts.fixup_seconds is not None
    assert counts.fixup_seconds > 0
    assert scratch.drop() == pages
    array.sum()
    counts = scratch.counts()
    assert (counts.filled, counts.rebuilt, counts.rebuilt_rate) == (2 * pages, pages, 0.5)


VIEWS = {
    "slice": lambda a: a[10:20],
    "strided": lambda a: a[::3, ::-2],
    "row": lambda a: a[7],
    "transposed": lambda a: a.T,
    "method transposed": lambda a: a.transpose(),
    "reshaped": lambda a: a.reshape(-1),
    "ravelled": lambda a: a.ravel(),
    "as bytes": lambda a: a.view("u1"),
    "swapped axes": lambda a: np.swapaxes(a, 0, 1),
    "split": lambda a: np.split(a, 3)[1],
    "new axis": lambda a: a[:, None],
    "diagonal": lambda a: a.diagonal(),
    "moved axis": lambda a: np.moveaxis(a, 0, 1),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_are_scratch_arrays_and_pickle_by_reference(
    array: ScratchArray, expected: Values, view: Any
) -> None:
    ours = view(array)
    assert type(ours) is ScratchArray
    assert ours.scratch.map is array.scratch.map
    np.testing.assert_array_equal(np.asarray(ours), view(expected))
    pickled = pickle.dumps(ours)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert type(again) is ScratchArray
    assert again.scratch.map is array.scratch.map  # this process has it
    np.testing.assert_array_equal(np.asarray(again), view(expected))


RESULTS = {
    "sum": lambda a: a + 1,
    "sum from the right": lambda a: 1 + a,
    "function": np.sqrt,
    "reduction along an axis": lambda a: a.sum(axis=0),
    "mean along an axis": lambda a: np.mean(a, axis=1),
    "maximum": lambda a: a.max(axis=1),
    "standard deviation": lambda a: a.std(axis=0),
    "cumulative": lambda a: a.cumsum(axis=0),
    "index": lambda a: a[[1, 5, 3]],
    "mask": lambda a: a[a > 0],
    "copy": lambda a: a.copy(),
    "copied": np.copy,
    "module copy": copy.copy,
    "deep copy": copy.deepcopy,
    "cast": lambda a: a.astype("f8"),
    "concatenated": lambda a: np.concatenate([a, a[:5]]),
    "stacked": lambda a: np.stack([a, a]),
    "where": lambda a: np.where(a > 0, a, 0),
    "sorted": lambda a: np.sort(a, axis=1),
    "product": lambda a: a[:10] @ a[:10].T,
    "outer": lambda a: np.multiply.outer(a[0, :5], a[1, :5]),
    "accumulated": lambda a: np.add.accumulate(a, axis=1),
    "reshaped copy": lambda a: a.T.reshape(-1),
    "taken": lambda a: a.take([3, 4], axis=0),
    "like": np.zeros_like,
    "index of the largest": lambda a: a.argmax(axis=0),
    "flat": lambda a: a.flatten(),
    "unique": np.unique,
    "clip": lambda a: a.clip(0, 1),
    "a copy of an array": np.array,
    "einsum": lambda a: np.einsum("ij->i", a),
    "argument": lambda a: np.add(a, a, where=a > 0, out=np.zeros(a.shape, "f4")),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("compute", RESULTS.values(), ids=RESULTS.keys())
def test_results_are_plain_arrays(array: ScratchArray, expected: Values, compute: Any) -> None:
    result = compute(array)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, compute(expected))


def test_scalars_are_scalars(array: ScratchArray, expected: Values) -> None:
    assert type(array[1, 2]) is np.float32
    assert array[1, 2] == expected[1, 2]
    assert type(array.sum()) is np.float32
    assert array.tolist() == expected.tolist()
    assert array.tobytes() == expected.tobytes()
    assert array.item(5) == expected.item(5)


def test_a_result_may_go_into_an_ordinary_array(array: ScratchArray, expected: Values) -> None:
    out = np.empty_like(expected)
    assert np.add(array, 1, out=out) is out
    np.testing.assert_array_equal(out, expected + 1)
    out += array
    np.testing.assert_array_equal(out, 2 * expected + 1)


def test_nothing_can_be_stored(array: ScratchArray) -> None:
    with pytest.raises(ValueError):
        array[0, 0] = 1
    with pytest.raises(ValueError):
        array += 1
    with pytest.raises(ValueError):
        np.add(array, 1, out=array)
    with pytest.raises(ValueError):
        array.sort()
    with pytest.raises(ValueError):
        array.flags.writeable = True
    with pytest.raises(TypeError):
        array.scratch.map[0] = 1
    with pytest.raises(TypeError, match="read-only"):
        array.scratch.map.store(0, 1)


def test_the_buffer_protocol(array: ScratchArray, expected: Values) -> None:
    with memoryview(array) as view:
        assert view.readonly
        assert view.shape == array.shape
        assert view.tobytes() == expected.tobytes()
    assert bytes(array[3]) == expected[3].tobytes()


def test_dlpack(array: ScratchArray, expected: Values) -> None:
    try:
        other = np.from_dlpack(array)
    except BufferError as error:  # NumPy before 2.1 exports nothing that is read-only
        assert "readonly" in str(error)
        return
    np.testing.assert_array_equal(other, expected)
    assert np.shares_memory(other, np.asarray(array))


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a.T, lambda a: a[::2, ::3]])
def test_saved(array: ScratchArray, expected: Values, tmp_path: Path, view: Any) -> None:
    ours, theirs = view(array), view(expected)
    for save in (np.save, mapscratch.save):
        save(tmp_path / "saved.npy", ours)
        loaded = np.load(tmp_path / "saved.npy")
        np.testing.assert_array_equal(loaded, theirs)
        buffer = io.BytesIO()
        save(buffer, ours)
        assert buffer.getvalue() == (tmp_path / "saved.npy").read_bytes()
    np.savez(tmp_path / "saved.npz", ours=ours)
    np.testing.assert_array_equal(np.load(tmp_path / "saved.npz")["ours"], theirs)
    ours.tofile(tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == theirs.tobytes()
    with open(tmp_path / "raw", "wb") as file:
        file.write(b"before")
        ours.tofile(file)
        file.write(b"after")
    assert (tmp_path / "raw").read_bytes() == b"before" + theirs.tobytes() + b"after"
    ours[:2].tofile(tmp_path / "text", sep=" ")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "text", "f4", sep=" "), theirs[:2].ravel())


def test_plain_views_are_saved_too(array: ScratchArray, expected: Values, tmp_path: Path) -> None:
    mapscratch.save(tmp_path / "saved.npy", np.asarray(array))
    np.testing.assert_array_equal(np.load(tmp_path / "saved.npy"), expected)


def test_a_slice_pins_and_drops_its_own_pages(array: ScratchArray, expected: Values) -> None:
    part = array[:10]  # 8,440 bytes: three pages
    with part.scratch.pin():
        assert array.scratch.counts().pinned == 3
        array.scratch.drop()
        assert array.scratch.counts().resident == 3
    assert array.scratch.counts().pinned == 0
    array.sum()
    before = array.scratch.counts().resident
    assert array[100:110].scratch.drop() == before - array.scratch.counts().resident <= 4
    np.testing.assert_array_equal(np.asarray(array), expected)
    array[::-1].scratch.reclaim()
    assert array.scratch.counts().resident == 0


def test_closing_waits_for_views(array: ScratchArray) -> None:
    with pytest.raises(BufferError):
        array.scratch.map.close()
    assert array.scratch.map.closed is False


def test_a_copy_has_no_scratch(array: ScratchArray) -> None:
    assert not hasattr(np.asarray(array), "scratch")
    ordinary = np.zeros(3).view(ScratchArray)
    assert type(ordinary) is np.ndarray
    ordinary[:] = 1


@pytest.mark.parametrize("mode", ["r+", "w+", "c", "readonly"])
def test_other_modes(path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match=r"numpy\.memmap.*np\.array\(a\)"):
        mapscratch.array(path, "f4", mode)


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an offset behind the end": ({"offset": 10**9}, ValueError, "the file has 126605 bytes"),
    "a negative offset": ({"offset": -1}, ValueError, "offset=-1"),
    "not whole items": ({"offset": 4}, ValueError, "126601 bytes .* are not whole items of >i2"),
    "a shape that is too large": (
        {"offset": 5, "shape": (ROWS + 1, COLUMNS)},
        ValueError,
        "takes 127022 bytes of >i2, but the file has 126600",
    ),
    "a negative shape": ({"offset": 5, "shape": (-2, 3)}, ValueError, "can't be negative"),
    "two lengths left open": ({"offset": 5, "shape": (-1, -1)}, ValueError, "only one length"),
    "a length of anything": ({"offset": 5, "shape": (-1, 0)}, ValueError, "any length would do"),
    "not whole rows": ({"offset": 5, "shape": (-1, 7, 11)}, ValueError, "in whole rows of shape"),
    "no offset": ({"offset": None}, TypeError, "h5py.*chunked"),
    "half an offset": ({"offset": 5.0}, TypeError, "float"),
    "a shape in words": ({"shape": "10"}, TypeError, "shape='10': an integer"),
    "a shape that is a float": ({"shape": 10.0}, TypeError, r"shape=10\.0: an integer"),
    "half a length": ({"offset": 5, "shape": (1.0,)}, TypeError, "float"),
    "changes": ({"offset": 5, "changes": "ignore"}, ValueError, "'refuse' or 'unnoticed'"),
    "a type that NumPy hasn't": ({"offset": 5, "dtype": "BF16"}, TypeError, "ml_dtypes"),
    "an order": ({"offset": 5, "order": "A"}, ValueError, "'C' or 'F'"),
    "a block of half a page": ({"offset": 5, "block": 2048}, ValueError, "multiple of 4096"),
    "a block of nothing": ({"offset": 5, "block": 0}, ValueError, "multiple of 4096"),
    "an engine": ({"offset": 5, "engine": "best"}, ValueError, "no such engine"),
    "an engine that can't": ({"offset": 5, "engine": "dontneed"}, RuntimeError, "page-in fixups"),
    "two ways": ({"offset": 5, "fixup": Cast(), "scale": 2}, ValueError, "give either fixup"),
    "a fixup of words": ({"offset": 5, "fixup": Words({0: 1})}, TypeError, "ByteSwap, Cast"),
    "objects": ({"dtype": "O"}, TypeError, "Python objects"),
    "objects in the file": ({"source": "O"}, TypeError, "Python objects"),
    "no type": ({"source": "f5"}, TypeError, "f5"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys()
)
def test_bad_arguments(
    lazyfree: str, path: Path, arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mapscratch.array(path, **{"dtype": "f4", "source": ">i2", **arguments})


def test_files_that_are_none(lazyfree: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mapscratch.array(tmp_path / "nothing", "f4")
    with pytest.raises(IsADirectoryError):
        mapscratch.array(tmp_path, "f4")
    with pytest.raises(TypeError, match="path or an open file"):
        mapscratch.array(5, "f4")  # type: ignore[arg-type]
    with pytest.raises((ValueError, OSError)):
        mapscratch.array(io.BytesIO(b"1234"), "f4")
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    with open(descriptor, "rb") as pipe, pytest.raises((ValueError, OSError)):
        mapscratch.array(pipe, "f4", shape=1)


def test_one_group_makes_many_items(lazyfree: str, tmp_path: Path) -> None:
    """A unit that is larger than the pager's buffers is refused, not cut."""
    with pytest.raises(ValueError, match="at most 262144 can be made at once"):
        Geometry.of(10**6, 4, 1, 10**5)


def test_a_changed_file_is_an_exception(array: ScratchArray, path: Path, expected: Values) -> None:
    pickled = pickle.dumps(array[3:5])
    view = array[3]
    plain = np.asarray(array)
    assert array[0, 0] == expected[0, 0]
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"HEADR")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    message = re.escape(f"{path} was changed while an array of it is in use")
    uses: list[Callable[[ScratchArray], Any]] = [
        lambda a: a[0],
        lambda a: a + 1,
        lambda a: a.sum(),
        np.mean,
        pickle.dumps,
        lambda a: a.tofile(path.with_name("copy")),
        lambda a: a.tolist(),
        lambda a: a.tobytes(),
        lambda a: a.item(0),
        lambda a: a.take([0], axis=-1, mode="clip"),
        lambda a: a.compress(
            [True], axis=-1, out=None if a.ndim == 1 else np.empty((len(a), 1), a.dtype)
        ),
        lambda a: a.scratch.pin().__enter__(),
    ]
    for use in uses:
        for changed in (array, view):
            with pytest.raises(mapscratch.SourceChanged, match=message):
                use(changed)
    np.testing.assert_array_equal(plain, expected)  # whoever has gone around it sees memory
    run_python(
        """
        import mapscratch, pickle, sys
        try:
            pickle.loads(bytes.fromhex(sys.argv[1]))
        except mapscratch.SourceChanged as error:
            assert "is not the file any more" in str(error)
        else:
            raise SystemExit("it was opened")
        """,
        pickled.hex(),
    )


def test_a_replaced_file_is_another_one(array: ScratchArray, path: Path, expected: Values) -> None:
    """As with any mapping: the array is of the file that was opened."""
    other = path.with_name("other")
    other.write_bytes(bytes(10))
    os.replace(other, path)
    np.testing.assert_array_equal(np.asarray(array + 0), expected)


def test_closed_descriptors_hurt_nobody(array: ScratchArray) -> None:
    run_python(
        """
        import os, sys
        import numpy as np, mapscratch
        array = mapscratch.array(sys.argv[1], "f4", offset=5, source=">i2", scale=0.5, zero=3)
        before = array.copy()
        os.closerange(3, 1000)
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        array.scratch.drop()
        assert np.array_equal(array, before)
        del array
        for descriptor in others:
            os.fstat(descriptor)  # none of them was closed for us
        """,
        array.scratch.filename,
    )


def test_thrashing_warns_once(
    lazyfree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "_LOOK_FOR_THRASHING_SECONDS", 0)
    values = np.arange(1 << 20, dtype="i2")
    values.tofile(tmp_path / "values")
    array = mapscratch.array(tmp_path / "values", "f4", source="i2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array.sum()
        array.scratch.drop()
        array.sum()  # what the user drops is no thrashing
    array.scratch.reclaim()
    with pytest.warns(mapscratch.ThrashingWarning, match="again and again") as caught:
        array.sum()
        array.scratch.reclaim()
        array.sum()
        array.scratch.reclaim()
        array.sum()
    assert len(caught) == 1
    assert issubclass(mapscratch.ThrashingWarning, ResourceWarning)
    message = str(caught[0].message)
    assert "working set is 4 MiB" in message
    assert "room for" in message
    assert "chunks" in message
    assert caught[0].filename == __file__


def test_who_may_not_see_its_own_pages_reads_all_the_same(lazyfree: str, tmp_path: Path) -> None:
    """After setuid /proc/self belongs to root; an ordinary user says so by prctl."""
    np.arange(1 << 20, dtype="i2").tofile(tmp_path / "values")
    run_python(
        """
        import ctypes, os, sys, warnings
        import numpy as np, mapscratch
        from mapscratch.arrays import home

        home._LOOK_FOR_THRASHING_SECONDS = 0
        array = mapscratch.array(sys.argv[1], "f4", source="i2")
        if not os.geteuid():
            os.setresuid(65534, 65534, 65534)
        assert not ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
        expected = np.arange(1 << 20, dtype="i2").astype("f4").sum()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(4):
                assert array.sum() == expected
                array.scratch.reclaim()
        (message,) = (str(w.message) for w in caught if w.category is mapscratch.ThrashingWarning)
        assert "less room than that" in message, message
        assert "can't be counted" in repr(array.scratch)
        try:
            array.scratch.counts()
        except PermissionError as error:
            assert "PR_SET_DUMPABLE" in error.strerror
        else:
            raise AssertionError("it could count them")
        """,
        tmp_path / "values",
    )


def test_what_is_pinned_is_not_droppable(lazyfree: str, tmp_path: Path) -> None:
    np.arange(1 << 20, dtype="i2").tofile(tmp_path / "values")
    array = mapscratch.array(tmp_path / "values", "f4", source="i2")
    array.sum()
    pages = array.nbytes // mmap.PAGESIZE
    assert array.scratch.counts().droppable == pages
    with array.scratch.pin():
        counts = array.scratch.counts()
        assert (counts.pinned, counts.droppable, counts.dirty) == (pages, 0, pages)
    with array[: array.size // 4].scratch.pin():
        counts = array.scratch.counts()
        assert (counts.pinned, counts.droppable) == (pages // 4, pages - pages // 4)
    assert array.scratch.counts().droppable == pages


def test_many_arrays_of_a_file(lazyfree: str, path: Path, expected: Values) -> None:
    many = [
        mapscratch.array(path, "f4", offset=5, source=">i2", scale=0.5, zero=3) for _ in range(40)
    ]
    for array in many:
        np.testing.assert_array_equal(np.asarray(array), expected.ravel())
        array.scratch.drop()
    del many[::2]
    for array in many:
        np.testing.assert_array_equal(np.asarray(array), expected.ravel())
