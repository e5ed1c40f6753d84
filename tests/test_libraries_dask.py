# SPDX-License-Identifier: Apache-2.0
"""Dask: tokens without reading, and two worker processes that reopen the file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
from dask.base import tokenize
from dask.distributed import Client, LocalCluster

import mapscratch
from mapscratch import ScratchArray

ROWS, COLUMNS = 2000, 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stored = np.random.default_rng(0).integers(-30_000, 30_000, (ROWS, COLUMNS)).astype(">i2")
    stored.tofile(tmp_path / "values")
    return tmp_path / "values"


@pytest.fixture
def array(lazyfree: str, path: Path) -> ScratchArray:
    return mapscratch.array(path, "f4", shape=(ROWS, COLUMNS), source=">i2", scale=0.5)


def test_a_token_reads_nothing(array: ScratchArray, path: Path) -> None:
    token = tokenize(array)
    assert token == tokenize(array)
    again = mapscratch.array(path, "f4", shape=(ROWS, COLUMNS), source=">i2", scale=0.5)
    assert token == tokenize(again)
    others = [
        array[1:],
        array.T,
        array[:, ::2],
        mapscratch.array(path, "f4", shape=(ROWS, COLUMNS), source=">i2", scale=0.25),
        mapscratch.array(path, "f8", shape=(ROWS, COLUMNS), source=">i2", scale=0.5),
    ]
    assert len({token, *map(tokenize, others)}) == 1 + len(others)
    assert array.scratch.counts().filled == again.scratch.counts().filled == 0


def test_a_changed_file_has_another_token(array: ScratchArray, path: Path) -> None:
    token = tokenize(array)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    changed = mapscratch.array(path, "f4", shape=(ROWS, COLUMNS), source=">i2", scale=0.5)
    assert tokenize(changed) != token


def test_from_array_in_threads(array: ScratchArray) -> None:
    expected = np.array(array)
    array.scratch.drop()
    before = array.scratch.counts().filled
    lazy = dask.array.from_array(array, chunks=(500, 150))
    assert array.scratch.counts().filled == before
    assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype)
    result = lazy.sum(axis=0).compute()
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, expected.sum(axis=0), rtol=1e-5)
    whole = lazy.compute()
    np.testing.assert_array_equal(np.asarray(whole), expected)
    assert type((lazy + 1).compute()) is np.ndarray


def test_the_graph_holds_references(array: ScratchArray) -> None:
    lazy = dask.array.from_array(array, chunks=(500, 150))
    graph = pickle.dumps(dict(lazy.__dask_graph__()))
    assert len(graph) < 20_000 < array.nbytes


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def look(block: Any) -> np.ndarray[Any, Any]:
    """In a worker: its process, and whether it has the file mapped."""
    from mapscratch import arrays

    total = int(np.abs(np.asarray(block)).sum())
    homes = list(arrays._homes.values())
    mapped = sum(home.map.counts().filled or 0 for home in homes)
    return np.array([[os.getpid(), total, len(homes), mapped]])


def test_two_processes_reopen_the_file(array: ScratchArray, client: Client) -> None:
    lazy = dask.array.from_array(array, chunks=(100, COLUMNS))
    expected = np.asarray(array)
    result = (lazy * 2).sum(axis=1).compute()
    np.testing.assert_allclose(result, (expected * 2).sum(axis=1), rtol=1e-4)
    seen = lazy.map_blocks(look, chunks=(1, 4), dtype="i8", meta=np.empty((0, 0), "i8")).compute()
    workers = {int(pid) for pid in seen[:, 0]}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert (seen[:, 2] == 1).all()  # one mapping a worker, for all blocks
    assert (seen[:, 3] > 0).all()  # and pages decoded there
