# SPDX-License-Identifier: Apache-2.0
"""A Dask worker's results, those that can be made again in memory that the kernel may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any

import numpy as np

from mapscratch.cache import Cache


class WorkerData(MutableMapping[Any, Any]):
    """The ``data`` of a worker: ``LocalCluster(data=mapscratch.dask.WorkerData)``.

    The result of a task that depends on no other (it loads and decodes a chunk, say) is an array
    that the task can make again: it is kept in a `mapscratch.Cache`, and when the kernel has taken
    it, the task runs once more where the result is needed. All else is kept as ever. It takes a
    Dask whose tasks can be called (2025.1 and newer); with an older one everything is kept as ever.

    The memory that the kernel may take counts as the worker's: see the guide on worker settings.

    Attributes:
        cache: where results are that can be made again.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Empty.

        Args:
            max_bytes: of the cache.
        """
        self.cache = Cache(max_bytes=max_bytes)
        self._tasks: dict[Any, Callable[[], Any]] = {}  # of what is in the cache
        self._others: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:
        task = self._tasks.get(key)
        if task is None:
            return self._others[key]
        return self.cache.get(key, task).value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pop(key, None)
        task = self._task_of(key)
        if task is not None and type(value) is np.ndarray and not value.dtype.hasobject:
            self.cache.put(key, value)
            self._tasks[key] = task
        else:
            self._others[key] = value

    def __delitem__(self, key: Any) -> None:
        if self._tasks.pop(key, None) is None:
            del self._others[key]
        else:
            self.cache.drop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks or key in self._others

    def __iter__(self) -> Iterator[Any]:
        yield from [*self._tasks, *self._others]

    def __len__(self) -> int:
        return len(self._tasks) + len(self._others)

    def __repr__(self) -> str:
        ordinary = f"{len(self._others)} results as ever"
        return f"<WorkerData: {ordinary}, {len(self._tasks)} in {self.cache!r}>"

    def _task_of(self, key: Any) -> Callable[[], Any] | None:
        """What makes a result again, if that takes nothing else."""
        from distributed import Worker

        for worker in list(Worker._instances):
            if worker.data is self:
                state = worker.state.tasks.get(key)
                if state is not None and not state.dependencies and callable(state.run_spec):
                    return partial(state.run_spec, {})
        return None
