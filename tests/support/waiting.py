# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable

from support.patience import Limit


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition comes true in time."""
    limit = Limit(seconds)
    while not condition():
        if not limit.left():
            return False
        time.sleep(0.01)
    return True
