# SPDX-License-Identifier: Apache-2.0
"""Arrays given to other processes: by reference, and each process maps the file itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import mapscratch
from mapscratch import ScratchArray

ITEMS = 400_000

Values = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(ITEMS, dtype="i4").astype(">i4").tofile(tmp_path / "values")
    return tmp_path / "values"


@pytest.fixture
def array(lazyfree: str, path: Path) -> ScratchArray:
    return mapscratch.array(path, "f8", source=">i4", scale=0.5)


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


def test_joblib(array: ScratchArray) -> None:
    """joblib writes large ordinary arrays into files; ours it sends as they are: references."""
    parts = parts_of(array)
    results = joblib.Parallel(n_jobs=2, max_nbytes=1000)(
        joblib.delayed(read)(part) for part in parts
    )
    check(results, parts)


def test_slices_share_a_mapping_in_the_process_that_gets_them(array: ScratchArray) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        same, filled = executor.submit(_compare, array[:1000], array[::2]).result()
    assert same
    assert filled > 0


def _compare(one: ScratchArray, other: ScratchArray) -> tuple[bool, int]:
    other.sum()
    return one.scratch.map is other.scratch.map, one.scratch.counts().filled or 0


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(array: ScratchArray, protocol: int) -> None:
    part = array[1000:2000][::-1]
    pickled = pickle.dumps(part, protocol)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled), np.asarray(part))
