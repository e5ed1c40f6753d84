# SPDX-License-Identifier: Apache-2.0
"""What the processes of a pool do in tests of a warning that only an ordinary user gets.

The engine is told that page faults of system calls aren't served, whoever runs it: an interpreter
that is started anew may be closed to another user.
"""

from __future__ import annotations

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor


def unprivileged() -> None:
    from mapscratch import _native

    status = _native.userfault_status()
    _native.userfault_status = lambda: {**status, "system_calls": False}  # type: ignore[assignment]


def warnings_of_an_array(path: str) -> int:
    """So many of them while an array is made."""
    import mapscratch

    unprivileged()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mapscratch.array(path, "u1")
    return sum(issubclass(one.category, mapscratch.SystemCallWarning) for one in caught)


def in_a_pool(path: str, method: str, processes: int = 3) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(warnings_of_an_array, [path] * 4 * processes))


def in_one_process(path: str, method: str) -> int:
    """Of a pool of its own, in a process that may be one of a pool."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(warnings_of_an_array, path).result()


def here_and_in_one_process(path: str, method: str) -> int:
    return warnings_of_an_array(path) + in_one_process(path, method)


def in_pools_of_pools(path: str, method: str) -> int:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        futures = [pool.submit(here_and_in_one_process, path, method) for _ in range(2)]
        return sum(future.result() for future in futures)
