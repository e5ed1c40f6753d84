# SPDX-License-Identifier: Apache-2.0
"""Engine ``kernel``: MAP_SCRATCH, the flag that the message of 2004 asks for.

It needs a kernel with our patch. Here is only the probe: a real mmap of a temporary file with the
flag, which every other kernel answers with EINVAL.
"""

from __future__ import annotations

import errno
import os

from mapscratch import _native
from mapscratch.engines.interface import (
    Engine,
    EngineStatus,
    EngineUnavailable,
    Guarantees,
    PageCounts,
    Request,
)


class KernelEngine(Engine):
    """MAP_SCRATCH of the file: the kernel drops its pages, and they come back as the file's."""

    name = "kernel"

    def status(self) -> EngineStatus:
        """Whether this kernel has MAP_SCRATCH; even then this version doesn't use it yet."""
        descriptor = os.memfd_create("mapscratch-probe", os.MFD_CLOEXEC)
        try:
            os.truncate(descriptor, os.sysconf("SC_PAGESIZE"))
            error = _native.kernel_probe(descriptor)
        finally:
            os.close(descriptor)
        if error == errno.EINVAL:
            reason = "this kernel has no MAP_SCRATCH (mmap: EINVAL)."
        elif error:
            reason = f"mmap with MAP_SCRATCH failed: {os.strerror(error)}."
        else:
            reason = "this kernel has MAP_SCRATCH, but this version of mapscratch doesn't use it."
        return EngineStatus(self.name, available=False, reason=reason)

    def guarantees(self, request: Request) -> Guarantees:
        """Not available."""
        raise EngineUnavailable(self.status().reason)

    def guarantees_of(self, mapping: _native.WordMap) -> Guarantees:
        """Not available."""
        raise EngineUnavailable(self.status().reason)

    def attach(self, mapping: _native.WordMap, request: Request) -> None:
        """Not available."""
        raise EngineUnavailable(self.status().reason)

    def counts(self, mapping: _native.WordMap) -> PageCounts:
        """Not available."""
        raise EngineUnavailable(self.status().reason)

    def reclaim(self, mapping: _native.WordMap, offset: int, length: int) -> None:
        """Not available."""
        raise EngineUnavailable(self.status().reason)
