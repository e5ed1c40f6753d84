# SPDX-License-Identifier: Apache-2.0
"""Compiled fixups that other processes can import."""

from __future__ import annotations

import numba
import numpy as np

from mapscratch.fixups import Compiled


@numba.cfunc(Compiled.SIGNATURE)
def half_of_big_endian(output, source, items, first, user_data):  # type: ignore[no-untyped-def]
    """Half of each big-endian 16-bit integer, as a float."""
    made = numba.carray(output, (items,), dtype=np.float32)
    stored = numba.carray(source, (items,), dtype=np.uint16)
    for item in range(items):
        native = np.uint16((stored[item] << 8) | (stored[item] >> 8))
        made[item] = np.float32(np.int16(native)) * np.float32(0.5)
    return 0
