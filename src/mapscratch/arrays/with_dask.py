# SPDX-License-Identifier: Apache-2.0
"""What Dask is told of scratch arrays, once it is there.

Three things that Dask would otherwise ask NumPy, which would decode the whole array: by what name a
task on an array is known (its file and view say that), how large it is (a reference), and how it is
sent to another worker (pickled, as a reference).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from mapscratch.arrays.dask_workers import guard

_BYTES_OF_A_REFERENCE = 1000


def _token(array: Any) -> Any:
    introduce(type(array))  # parts of Dask may have been imported since
    return array.__dask_tokenize__()


def _size(array: Any) -> int:
    return _BYTES_OF_A_REFERENCE


def _leave_it_to_pickle(array: Any) -> NoReturn:
    raise NotImplementedError  # so Dask is told to go on to the next way


# Module, its registry, and what Dask asks there. Of `dask.base`, which every Dask has it in: newer
# ones keep it in `dask.tokenize`.
_registries: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("dask.base", "normalize_token", _token),
    ("dask.sizeof", "sizeof", _size),
    ("distributed.protocol.serialize", "dask_serialize", _leave_it_to_pickle),
]


def introduce(array_type: type) -> None:
    """Registers a type of array with those parts of Dask that have been imported; once each.

    Workers of this process are guarded (`mapscratch.arrays.dask_workers`). It is called before each
    operation on an array, and costs next to nothing without Dask.

    Args:
        array_type: it has a ``__dask_tokenize__``, which Dask doesn't look for in subclasses of
            NumPy's arrays.
    """
    if "dask" not in sys.modules:
        return
    guard()
    for registry in [entry for entry in _registries if entry[0] in sys.modules]:
        module, name, answer = registry
        registered = getattr(import_module(module), name, None)
        if registered is not None:  # else another thread is just importing it
            registered.register(array_type)(answer)
            with suppress(ValueError):  # another thread was here, too
                _registries.remove(registry)


def token_of_plain(array: Any) -> Any:
    """What Dask names an ordinary array by."""
    return import_module("dask.base").normalize_token(array)


def is_calling() -> bool:
    """Whether the function that called ours was called by ``dask.array.from_array``."""
    return sys._getframe(2).f_globals.get("__name__") == "dask.array.core"
