# SPDX-License-Identifier: Apache-2.0
"""Number formats of other libraries that NumPy has no type for."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import mapscratch
from mapscratch.fixups.numbers import FOREIGN


@pytest.mark.parametrize("output", ["f2", "f4", "f8", "g", "c8", "i1", "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_floats_that_numpy_has_not_are_those_of_ml_dtypes(
    lazyfree: str, tmp_path: Path, name: str, output: str
) -> None:
    """Every value, NaN and its sign too; of integers those that the output can hold."""
    foreign, dtype = np.dtype(getattr(ml_dtypes, name)), np.dtype(output)
    bits = np.arange(256 ** min(foreign.itemsize, 2), dtype=f"u{foreign.itemsize}")
    stored = np.tile(bits, 20).view(foreign)
    if dtype.kind in "iu":
        real = stored.astype("f8")
        limits = np.iinfo(dtype)
        stored = stored[np.isfinite(real) & (real >= limits.min) & (real < limits.max)]
    stored.tofile(tmp_path / "floats")
    with np.errstate(all="ignore"):
        expected = stored.astype(dtype)
    for source in (name, foreign):
        array = np.asarray(mapscratch.array(tmp_path / "floats", dtype, source=source))
        np.testing.assert_array_equal(array, expected)
        if dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(array), np.signbit(expected))
