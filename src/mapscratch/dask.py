# SPDX-License-Identifier: Apache-2.0
"""A Dask worker's results, those that can be made again in memory that the kernel may take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping
from functools import partial
from typing import Any

import numpy as np

from mapscratch.cache import Cache


class WorkerData(MutableMapping[Any, Any]):
    """The ``data`` of a worker: ``LocalCluster(data=(WorkerData, {"names": ["load_tile"]}))``.

    The results of the tasks that you name are kept in a `mapscratch.Cache`, and when the kernel has
    taken one, its task runs once more where the result is needed. So name only functions that
    return the same for the same arguments whenever they run (no random numbers, no file that
    changes), quickly, and without asking Dask for anything: they run in the worker's event loop
    then. All else is kept as ever: what they return if it isn't an array, what depends on another
    task, and coroutines. It takes a Dask whose tasks can be called (2025.1 and newer); with an
    older one everything is kept as ever.

    Such results are read-only arrays. The memory that the kernel may take counts as the worker's,
    and is given back before the worker is paused for it.

    Attributes:
        cache: where results are that can be made again.
    """

    def __init__(self, names: Collection[str] = (), max_bytes: int | None = None) -> None:
        """Empty.

        Args:
            names: of the tasks, as the dashboard shows them: their keys without the hash
                (`dask.utils.key_split`).
            max_bytes: of the cache.

        Raises:
            TypeError: one name instead of several, which would be taken for its letters.
        """
        if isinstance(names, str | bytes):
            raise TypeError(f"names are several: WorkerData([{names!r}])")
        self.cache = Cache(max_bytes=max_bytes)
        self._names = frozenset(names)
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
        from dask.utils import key_split
        from distributed import Worker

        if key_split(key) not in self._names:
            return None

        for worker in list(Worker._instances):
            if worker.data is self:
                state = worker.state.tasks.get(key)
                task = state.run_spec if state and not state.dependencies else None
                if callable(task) and not getattr(task, "is_coro", True):
                    return partial(task, {})
        return None
