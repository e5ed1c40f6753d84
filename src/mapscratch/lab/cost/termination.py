# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGHUP end a command as Ctrl-C does: everything that it made is removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP raise KeyboardInterrupt; what is ignored stays so (nohup)."""
    endings = (signal.SIGTERM, signal.SIGHUP)
    changed = [number for number in endings if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
