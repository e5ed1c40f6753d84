# SPDX-License-Identifier: Apache-2.0
"""Arrays given to other processes: by reference, and each process maps the file itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from support import array_fixups
from support.interpreter import run_python

import mapscratch
from mapscratch import ScratchArray
from mapscratch.fixups import Python

ITEMS = 400_000

Values = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(ITEMS, dtype="i4").astype(">i4").tofile(tmp_path / "values")
    return tmp_path / "values"


@pytest.fixture
def array(lazyfree: str, path: Path) -> ScratchArray:
    return mapscratch.array(path, "f8", source=">i4", scale=0.5)


@pytest.fixture
def no_loky_left() -> Iterator[None]:
    """loky keeps its processes for the next call."""
    yield
    get_reusable_executor().shutdown(wait=True)


def read(part: ScratchArray) -> tuple[int, str, float, int]:
    """In another process: which, what it got, its sum, and how much it has decoded."""
    total = float(part.sum())
    return os.getpid(), type(part).__name__, total, part.scratch.counts().filled or 0


def double(part: ScratchArray) -> Values:
    return part * 2


def check(results: list[tuple[int, str, float, int]], parts: list[ScratchArray]) -> None:
    for (pid, kind, total, filled), part in zip(results, parts, strict=True):
        assert pid != os.getpid()
        assert kind == "ScratchArray"
        assert total == float(np.asarray(part).sum())
        assert filled > 0


def parts_of(array: ScratchArray) -> list[ScratchArray]:
    return [array[start : start + 50_000] for start in range(0, ITEMS, 50_000)]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(array: ScratchArray, method: str) -> None:
    parts = parts_of(array)
    with multiprocessing.get_context(method).Pool(2) as pool:
        check(pool.map(read, parts), parts)
        doubled = pool.map(double, parts[:2])
    assert [type(result) for result in doubled] == [np.ndarray, np.ndarray]
    np.testing.assert_array_equal(doubled[1], np.asarray(parts[1]) * 2)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_argument_of_a_process(array: ScratchArray, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_put, args=(queue, array[7:5000:3]))
    process.start()
    total, filled = queue.get()
    process.join()
    assert process.exitcode == 0
    assert total == float(np.asarray(array)[7:5000:3].sum())
    assert filled < 100  # only what it has read


def _put(queue: Any, part: ScratchArray) -> None:
    queue.put((float(part.sum()), part.scratch.counts().filled))


@pytest.fixture(params=["fork", "spawn"])
def executor(request: pytest.FixtureRequest) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context(request.param)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


def test_concurrent_futures(array: ScratchArray, executor: ProcessPoolExecutor) -> None:
    parts = parts_of(array)
    check(list(executor.map(read, parts)), parts)


def test_joblib(array: ScratchArray, no_loky_left: None) -> None:
    """joblib writes large ordinary arrays into files; ours it sends as they are: references."""
    parts = parts_of(array)
    in_parallel = joblib.Parallel(n_jobs=2, max_nbytes=1000)
    check(in_parallel(joblib.delayed(read)(part) for part in parts), parts)
    doubled = in_parallel(joblib.delayed(double)(part) for part in parts[:2])
    assert not any(isinstance(result, ScratchArray) for result in doubled)
    np.testing.assert_array_equal(doubled[1], np.asarray(parts[1]) * 2)


def test_python_fixups_in_joblib(lazyfree: str, path: Path, no_loky_left: None) -> None:
    """Each worker starts the fixup's process itself; a lambda goes there by value."""
    expected = np.arange(ITEMS, dtype="f8") ** 2
    for function in (array_fixups.square, lambda source: source.astype("f8") ** 2):
        array = mapscratch.array(path, "f8", source=">i4", fixup=Python(function))
        parts = [array[:1000], array[1000:5000]]
        results = joblib.Parallel(n_jobs=2)(joblib.delayed(read)(part) for part in parts)
        check(results, parts)
        assert results[1][2] == float(expected[1000:5000].sum())


def test_slices_share_a_mapping_in_the_process_that_gets_them(array: ScratchArray) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        same, filled = executor.submit(_compare, array[:1000], array[::2]).result()
    assert same
    assert filled > 0


def _compare(one: ScratchArray, other: ScratchArray) -> tuple[bool, int]:
    other.sum()
    return one.scratch.map is other.scratch.map, one.scratch.counts().filled or 0


def test_a_process_without_standard_input(lazyfree: str, path: Path) -> None:
    """As workers of joblib were: the file is then number 0, like a child's pipe."""
    run_python(
        """
        import os, sys
        import numpy as np, mapscratch
        from support import array_fixups
        os.close(0)
        fixup = mapscratch.fixups.Python(array_fixups.square)
        array = mapscratch.array(sys.argv[1], "f8", source=">i4", fixup=fixup)
        assert array[1000] == 1_000_000
        """,
        path,
    )


def test_a_function_goes_by_value_where_no_import_finds_it(lazyfree: str, path: Path) -> None:
    added = 3
    array = mapscratch.array(path, "i8", source=">i4", fixup=Python(lambda stored: stored + added))
    for dumps in (pickle.dumps, cloudpickle.dumps):
        run_python(
            """
            import pickle, sys
            part = pickle.loads(bytes.fromhex(sys.argv[1]))
            assert part.tolist() == [13, 14, 15, 16], part
            """,
            dumps(array[10:14]).hex(),
        )


def test_a_file_that_replaced_another_is_not_taken_for_it(lazyfree: str, tmp_path: Path) -> None:
    """Both of one size and time, as files are that are made within one tick of the clock."""
    arrays = []
    for value in (1, 2):
        np.full(5000, value, ">i2").tofile(tmp_path / "new")
        os.utime(tmp_path / "new", ns=(10**18, 10**18))
        os.replace(tmp_path / "new", tmp_path / "values")
        arrays.append(mapscratch.array(tmp_path / "values", "f4", source=">i2"))
    again = [pickle.loads(pickle.dumps(array)) for array in arrays]
    assert [array[0] for array in again] == [1, 2]


def test_a_file_without_a_name_stays_here(lazyfree: str, tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(np.arange(5000, dtype=">i2").tobytes())
        file.flush()
        array = mapscratch.array(file, "f4", source=">i2")
    with pytest.raises(TypeError, match=r"without a name.*np\.array\(a\)"):
        pickle.dumps(array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(np.array(array))), np.arange(5000))


def test_ten_items_take_less_than_a_kilobyte(array: ScratchArray) -> None:
    assert len(pickle.dumps(array[10:20])) < 1000
    assert len(cloudpickle.dumps(array[10:20])) < 1000
    assert array.scratch.counts().filled == 0


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(array: ScratchArray, protocol: int) -> None:
    part = array[1000:2000][::-1]
    pickled = pickle.dumps(part, protocol)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled), np.asarray(part))
