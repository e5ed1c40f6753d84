# SPDX-License-Identifier: Apache-2.0
"""Where a test runs, so that reclaim by the kernel finds what the test has just made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_one_processor() -> Iterator[None]:
    """For this thread, and those that it starts.

    A new page waits in a batch of the processor that made it before reclaim by another one can see
    it (mm/swap.c). What is asked to be reclaimed a moment after a store would often stay.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
