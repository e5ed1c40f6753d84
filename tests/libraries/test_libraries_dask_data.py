# SPDX-License-Identifier: Apache-2.0
"""A Dask worker's results in purgeable memory: what was taken is made where it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from dask.distributed import Client, LocalCluster
from support.array_fixups import numbered_chunk

from mapscratch.cache import purgeable
from mapscratch.dask import WorkerData

CHUNKS, ITEMS = 24, 40_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if reason := purgeable.why_not():
        pytest.skip(reason)
    with (
        dask.config.set({"temporary-directory": str(tmp_path_factory.mktemp("dask"))}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=True,
            dashboard_address=None,
            data=(WorkerData, {"names": ["numbered_chunk"]}),
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def chunks_of_numbers() -> Any:
    return dask.array.map_blocks(
        numbered_chunk, chunks=((ITEMS,) * CHUNKS,), dtype="f8", items=ITEMS
    )


def reclaim_and_count(dask_worker: Any) -> tuple[int, int, int]:
    from support.purgeable import reclaim_all

    reclaim_all(dask_worker.data.cache)
    stats = dask_worker.data.cache.stats()
    return len(dask_worker.data._tasks), len(dask_worker.data._others), stats.lost


def only(answers: dict[str, Any]) -> Any:
    return next(iter(answers.values()))


def test_results_are_made_again(client: Client) -> None:
    array = chunks_of_numbers().persist()
    wanted = np.repeat(np.arange(CHUNKS), ITEMS)
    np.testing.assert_array_equal(array.compute(), wanted)
    in_cache, _, lost = only(client.run(reclaim_and_count))
    assert in_cache == CHUNKS
    assert lost >= CHUNKS - 1  # the last one may wait in a batch of the kernel's
    assert int(array.sum().compute()) == wanted.sum()
    np.testing.assert_array_equal(array[ITEMS * 3 - 5 : ITEMS * 3 + 5].compute(), [2] * 5 + [3] * 5)
    del array
    assert int((chunks_of_numbers() + 1).sum().compute()) == wanted.sum() + len(wanted)


def test_what_depends_on_others_is_kept_as_ever(client: Client) -> None:
    array = chunks_of_numbers().persist()
    totals = array.rechunk((ITEMS * CHUNKS // 2,)).persist()
    assert int(totals.sum().compute()) == ITEMS * sum(range(CHUNKS))
    _, others, _ = only(client.run(reclaim_and_count))
    assert others
    assert int(totals.sum().compute()) == ITEMS * sum(range(CHUNKS))


def test_outside_of_a_worker_it_is_a_dict(tmp_path: Path) -> None:
    data = WorkerData(["a"])
    data["a"] = np.arange(5)
    data["a"] = np.arange(6)
    data["b"] = "text"
    assert sorted(data) == ["a", "b"]
    assert len(data) == 2
    assert "a" in data
    assert (data["a"] == np.arange(6)).all()
    del data["a"]
    assert "a" not in data
    with pytest.raises(KeyError):
        data["a"]
    with pytest.raises(KeyError):
        del data["a"]
    assert "1 results as ever" in repr(data)


@pytest.mark.parametrize("name", ["load_tile", b"load_tile"])
def test_one_name_is_not_taken_for_its_letters(name: Any) -> None:
    with pytest.raises(TypeError, match=r"WorkerData\(\[b?'load_tile'\]\)"):
        WorkerData(name)
