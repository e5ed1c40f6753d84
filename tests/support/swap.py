# SPDX-License-Identifier: Apache-2.0
"""Real swap for a test, where it may be made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mapscratch.lab.rig.machine.swap import SwapKind, probe_temporary_swap, temporary_swap
from mapscratch.proc import active_swaps


@contextmanager
def some_swap(size: int = 128 << 20) -> Iterator[None]:
    """A temporary swap, or what is there; skips the test where neither can be had."""
    kinds: tuple[SwapKind, ...] = ("zram", "file")
    for kind in kinds:
        probe = probe_temporary_swap(kind, size)
        if probe:
            with temporary_swap(kind, size):
                yield
            return
    if not active_swaps():
        pytest.skip(f"no swap: {probe.reason}")
    yield
