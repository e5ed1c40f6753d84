# SPDX-License-Identifier: Apache-2.0
"""Private memory that the kernel may throw away: a file, plus fixups that are made again.

`ScratchMap` is an `mmap.mmap` whose dirty pages are dropped instead of written to swap. When a page
comes back it shows the file. **Your stores vanish**: see `ScratchMap` before you use it.
"""

import sys

if sys.platform != "linux":
    raise ImportError(
        "mapscratch works with the Linux kernel's memory management (userfaultfd, madvise); "
        f"it can't run on {sys.platform}"
    )

from mapscratch.engines import (
    EngineStatus,
    EngineUnavailable,
    Guarantees,
    PageCounts,
    ReclaimNotApplicable,
    SystemCallWarning,
    engines,
)
from mapscratch.fixups import Relocate, Words
from mapscratch.mapping import ScratchMap

__version__ = "0.1.0"

__all__ = [
    "EngineStatus",
    "EngineUnavailable",
    "Guarantees",
    "PageCounts",
    "ReclaimNotApplicable",
    "Relocate",
    "ScratchMap",
    "SystemCallWarning",
    "Words",
    "engines",
]
