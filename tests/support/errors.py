# SPDX-License-Identifier: Apache-2.0
"""Errors of the operating system, by their number: their words are the C library's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises_errno(number: int) -> Iterator[None]:
    """The block raises OSError with that number."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value
