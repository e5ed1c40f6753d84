# SPDX-License-Identifier: Apache-2.0
"""Dask: tokens without reading, and two worker processes that reopen the file."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import dask
import dask.array
import numba
import numpy as np
import pytest
from dask.base import tokenize
from dask.distributed import Client, LocalCluster
from support.interpreter import run_python
from support.patience import patient

import mapscratch
from mapscratch import ScratchArray
from mapscratch.arrays import dask_workers
from mapscratch.fixups import Compiled, Python

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


def test_every_process_makes_the_same_token(array: ScratchArray, path: Path) -> None:
    result = run_python(
        """
        import pickle, sys, mapscratch
        from dask.base import tokenize
        path, rows, columns, pickled = sys.argv[1:]
        shape = int(rows), int(columns)
        array = mapscratch.array(path, "f4", shape=shape, source=">i2", scale=0.5)
        print(tokenize(array), tokenize(array[5:]), tokenize(pickle.loads(bytes.fromhex(pickled))))
        assert array.scratch.counts().filled == 0
        """,
        path,
        ROWS,
        COLUMNS,
        pickle.dumps(array[:, 7]).hex(),
    )
    assert result.stdout.split() == [tokenize(array), tokenize(array[5:]), tokenize(array[:, 7])]


def test_files_of_one_name_and_time_have_other_tokens(lazyfree: str, tmp_path: Path) -> None:
    arrays = []
    for value in (1, 2):
        np.full(5000, value, ">i2").tofile(tmp_path / "new")
        os.utime(tmp_path / "new", ns=(10**18, 10**18))
        os.replace(tmp_path / "new", tmp_path / "values")
        arrays.append(mapscratch.array(tmp_path / "values", "f4", source=">i2"))
    both = dask.array.stack([dask.array.from_array(array) for array in arrays])
    assert both[:, 0].compute().tolist() == [1, 2]


def test_an_array_that_no_other_process_can_open(lazyfree: str, path: Path) -> None:
    """Threads compute on it all the same, and no token is shared."""
    with open(path, "rb") as file:
        nameless = os.fdopen(os.dup(file.fileno()), "rb")
    with nameless:
        address = Compiled(_address_of_a_decoder())
        arrays = [
            mapscratch.array(nameless, "i2", source=">i2"),
            mapscratch.array(nameless, "i2", source=">i2"),
            mapscratch.array(path, "i2", source=">i2", fixup=address),
        ]
    assert len({*map(tokenize, arrays)}) == 3
    for array in arrays:
        assert tokenize(array) == tokenize(array)
        lazy = dask.array.from_array(array, chunks=100_000)
        assert lazy.sum(dtype="i8").compute() == np.asarray(array).sum(dtype="i8")


def _address_of_a_decoder() -> int:
    @numba.cfunc(Compiled.SIGNATURE)
    def decode(output, source, items, first, user_data):  # type: ignore[no-untyped-def]
        made = numba.carray(output, (items,), np.int16)
        stored = numba.carray(source, (items,), np.int16)
        for item in range(items):
            made[item] = -stored[item]
        return 0

    _kept.append(decode)
    return int(decode.address)


_kept: list[Any] = []
"""What lives as long as its address is used."""


def test_parts_of_dask_that_are_imported_later(array: ScratchArray, path: Path) -> None:
    run_python(
        """
        import sys, mapscratch
        array = mapscratch.array(sys.argv[1], "f4", source=">i2", scale=0.5)
        from dask.base import tokenize
        array[:10]  # any use of the array will do
        assert array.scratch.counts().filled == 0
        tokenize(array)
        assert array.scratch.counts().filled == 0
        import distributed
        tokenize(array)
        header, frames = distributed.protocol.serialize(array)
        assert sum(memoryview(frame).nbytes for frame in frames) < 1000, header
        assert array.scratch.counts().filled == 0
        """,
        path,
    )


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"asarray": False},
    {"inline_array": True},
    {"lock": True},
    {"fancy": False},
    {"name": False},
    {"chunks": "auto"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_any_way_of_from_array(array: ScratchArray, arguments: dict[str, Any]) -> None:
    lazy = dask.array.from_array(array, **{"chunks": (500, 150), **arguments})
    assert array.scratch.counts().filled == 0
    assert type(lazy._meta) is np.ndarray
    some = (lazy[:10] + 1).compute()
    assert 0 < (array.scratch.counts().filled or 0) < 300  # of 586 pages
    assert type(some) is np.ndarray
    np.testing.assert_array_equal(some, np.asarray(array)[:10] + 1)


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
    from mapscratch.arrays.home import homes as known

    total = int(np.abs(np.asarray(block)).sum())
    homes = list(known.values())
    mapped = sum(home.map.counts().filled or 0 for home in homes)
    return np.array([[os.getpid(), total, len(homes), mapped, len(pickle.dumps(block))]])


def test_two_processes_reopen_the_file(array: ScratchArray, client: Client) -> None:
    lazy = dask.array.from_array(array, chunks=(100, COLUMNS))
    expected = np.asarray(array)
    result = (lazy * 2).sum(axis=1).compute()
    np.testing.assert_allclose(result, (expected * 2).sum(axis=1), rtol=1e-4)
    seen = lazy.map_blocks(look, chunks=(1, 5), dtype="i8", meta=np.empty((0, 0), "i8")).compute()
    workers = {int(pid) for pid in seen[:, 0]}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert (seen[:, 2] == 1).all()  # one mapping a worker, for all blocks
    assert (seen[:, 3] > 0).all()  # and pages decoded there
    assert (seen[:, 4] < 1000).all()  # what a worker would send to another
    np.testing.assert_array_equal(
        seen[:, 1], [int(np.abs(expected[row : row + 100]).sum()) for row in range(0, ROWS, 100)]
    )


def double(part: Any) -> Any:
    return part * 2


def test_submitted_and_scattered(array: ScratchArray, client: Client) -> None:
    expected = np.asarray(array)[:50]
    scattered = client.scatter(array[:50])
    for argument in (array[:50], scattered):
        result = client.submit(double, argument).result()
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, expected * 2)
    by_lambda = mapscratch.array(
        array.scratch.filename, "f8", source=">i2", fixup=Python(lambda stored: stored * 3.0)
    )
    result = client.submit(double, by_lambda[:300]).result()
    np.testing.assert_array_equal(result, expected[0].astype("f8") * 12)


# --- more than a worker's memory limit

LIMIT = 320 << 20
"""Of a worker that takes 140 MiB for itself."""
WIDE = 4096


@pytest.fixture
def large(lazyfree: str, tmp_path: Path) -> ScratchArray:
    """384 MiB of float32, each row the same."""
    row = np.arange(WIDE, dtype=">i2")
    with open(tmp_path / "large", "wb") as file:
        for _ in range(24):
            file.write(row.tobytes() * 1024)
    return mapscratch.array(tmp_path / "large", "f4", shape=(24 * 1024, WIDE), source=">i2")


@contextmanager
def one_worker(folder: Path, **settings: Any) -> Iterator[Client]:
    with (
        dask.config.set({"temporary-directory": str(folder), **settings}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            memory_limit=LIMIT,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def was_paused(client: Client) -> bool:
    logs = client.get_worker_logs().values()
    return any("Pausing" in text for lines in logs for _, text in lines)


@pytest.mark.parametrize("rows", [512, 24 * 1024], ids=["small chunks", "one task"])
def test_a_worker_with_dask_s_own_settings_reads_more_than_its_limit(
    large: ScratchArray, tmp_path: Path, rows: int
) -> None:
    """It was paused for ever, and in one task it was killed."""
    with one_worker(tmp_path) as client:
        before = client.run(os.getpid)
        lazy = dask.array.from_array(large, chunks=(rows, WIDE))
        means = client.compute(lazy.mean(axis=1)).result(timeout=patient(240))
        assert client.run(os.getpid) == before  # not restarted
        assert not was_paused(client)
    np.testing.assert_allclose(means, np.arange(WIDE).mean())


def test_a_worker_s_cache_gives_back_what_is_too_much(tmp_path: Path) -> None:
    def cached(number: int) -> float:
        import mapscratch

        # One cache a worker, wherever its function has been unpickled.
        cache = vars(mapscratch).setdefault("_cache_of_a_test", mapscratch.Cache())
        with cache.get(number, lambda: np.full(4 << 20, number, "f4")) as values:
            return float(values[number])

    with one_worker(tmp_path) as client:
        before = client.run(os.getpid)
        made = [client.submit(cached, number) for number in range(40)]
        assert [one.result(timeout=patient(240)) for one in made] == list(range(40))
        assert client.run(os.getpid) == before
        assert not was_paused(client)


def test_a_worker_that_is_a_thread_of_the_client_s_process(
    large: ScratchArray, tmp_path: Path
) -> None:
    run_python(
        """
        import sys
        import dask, dask.array, mapscratch, numpy as np
        from dask.distributed import Client
        folder, limit, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        a = mapscratch.array(f"{folder}/large", "f4", shape=(-1, wide), source=">i2")
        dask.config.set({"temporary-directory": folder})
        with Client(
            processes=False, n_workers=1, threads_per_worker=2, memory_limit=limit,
            dashboard_address=None,
        ) as client:
            lazy = dask.array.from_array(a, chunks=(512, wide))
            means = client.compute(lazy.mean(axis=1)).result()
            logs = client.get_worker_logs().values()
            assert not any("Pausing" in text for lines in logs for _, text in lines)
        np.testing.assert_allclose(means, np.arange(wide).mean())
        """.replace("shape=(-1, wide)", f"shape={large.shape}"),
        tmp_path,
        LIMIT,
        WIDE,
        timeout=300,
    )


def test_who_lets_the_kernel_judge_is_left_alone(large: ScratchArray, tmp_path: Path) -> None:
    """With the settings of docs/dask.md."""
    names = ("spill", "pause", "terminate")
    settings = {f"distributed.worker.memory.{name}": False for name in names}

    def guarded(dask_worker: Any) -> tuple[list[str], bool]:
        names = [
            thread.name for thread in threading.enumerate() if "mapscratch-dask" in thread.name
        ]
        return names, "get_process_memory" in vars(dask_worker.monitor)

    with one_worker(tmp_path, **settings) as client:
        before = client.run(os.getpid)
        lazy = dask.array.from_array(large, chunks=(1024, WIDE))
        means = client.compute(lazy.mean(axis=1)).result(timeout=patient(240))
        assert client.run(os.getpid) == before  # not restarted
        assert list(client.run(guarded).values()) == [([], False)]
    np.testing.assert_allclose(means, np.arange(WIDE).mean())


def test_an_unknown_kind_of_worker_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        _instances: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    worker = Worker()  # without a memory_manager
    Worker._instances.add(worker)
    monkeypatch.setitem(sys.modules, "distributed.worker", SimpleNamespace(Worker=Worker))
    monkeypatch.setattr(dask_workers, "_seen", weakref.WeakSet())
    with pytest.warns(RuntimeWarning, match=r"memory_manager.*\.pause and \.terminate to False"):
        dask_workers.guard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dask_workers.guard()  # once
