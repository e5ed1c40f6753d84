# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel may throw away, and that is filled again when it is touched.

`array` shows a file's numbers as a NumPy array whose pages are decoded when they are touched,
dropped under memory pressure, and decoded again.

`Cache` keeps what can be made again, such as decoded chunks, in memory that the kernel may take: it
has no size.

`ScratchMap` is an `mmap.mmap` whose dirty pages are dropped instead of written to swap. When a page
comes back it shows the file. **Your stores vanish**: see `ScratchMap` before you use it.
"""

import sys
from typing import TYPE_CHECKING

if sys.platform != "linux":
    raise ImportError(
        "mapscratch works with the Linux kernel's memory management (userfaultfd, madvise); "
        f"it can't run on {sys.platform}"
    )

from mapscratch.engine import (
    EngineStatus,
    EngineUnavailable,
    Guarantees,
    PageCounts,
    ReclaimNotApplicable,
    SystemCallWarning,
    engines,
)
from mapscratch.fixups.words import Relocate, Words
from mapscratch.mapping import ScratchMap

if TYPE_CHECKING:
    from mapscratch.arrays import ScratchArray, SourceChanged, ThrashingWarning, array, save
    from mapscratch.arrays.fixup_process import FixupError
    from mapscratch.cache import Cache, CacheFallbackWarning, CacheStats
    from mapscratch.cache.memoized import CacheInfo

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "CacheFallbackWarning",
    "CacheInfo",
    "CacheStats",
    "EngineStatus",
    "EngineUnavailable",
    "FixupError",
    "Guarantees",
    "PageCounts",
    "ReclaimNotApplicable",
    "Relocate",
    "ScratchArray",
    "ScratchMap",
    "SourceChanged",
    "SystemCallWarning",
    "ThrashingWarning",
    "Words",
    "array",
    "engines",
    "save",
]

# What needs NumPy is loaded when it is used: mapping code needs nothing but the standard library.
_NEEDS_NUMPY = {
    "Cache": "cache",
    "CacheFallbackWarning": "cache",
    "CacheInfo": "cache.memoized",
    "CacheStats": "cache",
    "FixupError": "arrays.fixup_process",
    "ScratchArray": "arrays",
    "SourceChanged": "arrays",
    "ThrashingWarning": "arrays",
    "array": "arrays",
    "save": "arrays",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _NEEDS_NUMPY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_NEEDS_NUMPY[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        special = (name for name in globals() if name.startswith("__") and name.endswith("__"))
        return sorted({*special, *__all__, "fixups"})
