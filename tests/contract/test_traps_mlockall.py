# SPDX-License-Identifier: Apache-2.0
"""A seventh trap: a program that locks all its future memory (mlockall), as real-time ones do."""

from __future__ import annotations

import pytest
from support.files import PatternFile
from support.interpreter import run_python

MCL_FUTURE, MCL_ONFAULT = 2, 4


@pytest.mark.parametrize("flags", [MCL_FUTURE, MCL_FUTURE | MCL_ONFAULT])
def test_right_bytes_and_drops_under_mlockall(engine: str, file: PatternFile, flags: int) -> None:
    run_python(
        f"""
        import ctypes
        if ctypes.CDLL(None, use_errno=True).mlockall({flags}):
            raise SystemExit(0)  # not allowed here
        from support.prelude import *
        check()
        m.store(0, 1)
        m.drop()
        check()
        with m.pin():
            check()
        """,
        file.path,
        engine,
    )
