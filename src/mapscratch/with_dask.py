# SPDX-License-Identifier: Apache-2.0
"""What Dask is told of scratch arrays, once it is there.

Three things that Dask would otherwise ask NumPy, which would decode the whole array: by what name a
task on an array is known (its file and view say that), how large it is (a reference), and how it is
sent to another worker (pickled, as a reference).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

_BYTES_OF_A_REFERENCE = 1000


def _token(array: Any) -> Any:
    return array.__dask_tokenize__()


def _size(array: Any) -> int:
    return _BYTES_OF_A_REFERENCE


def _leave_it_to_pickle(array: Any) -> NoReturn:
    raise NotImplementedError


# Module, its registry, and what Dask asks there.
_registries: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("dask.tokenize", "normalize_token", _token),
    ("dask.sizeof", "sizeof", _size),
    ("distributed.protocol.serialize", "dask_serialize", _leave_it_to_pickle),
]


def introduce(array_type: type) -> None:
    """Registers a type of array with those parts of Dask that have been imported; once each.

    Args:
        array_type: it has a ``__dask_tokenize__``, which Dask doesn't look for in subclasses of
            NumPy's arrays.
    """
    for registry in [entry for entry in _registries if entry[0] in sys.modules]:
        module, name, answer = registry
        getattr(import_module(module), name).register(array_type)(answer)
        _registries.remove(registry)


def is_calling() -> bool:
    """Whether the function that called ours was called by ``dask.array.from_array``."""
    return sys._getframe(2).f_globals.get("__name__") == "dask.array.core"
