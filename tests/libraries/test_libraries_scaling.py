# SPDX-License-Identifier: Apache-2.0
"""Scaled numbers beside those of the formats' own libraries: what docs/arrays.md says of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mapscratch

ITEMS = 5000
SCALES = [(0.5, 1000.0), (0.1, -3.25), (2.0, 32768.0)]
INTEGERS = ["u1", "i2", "i4", "i8"]
SMALL = ("u1", "i1", "i2", "u2")


def stored_of(source: str) -> Any:
    dtype = np.dtype(source)
    limits = np.iinfo(dtype)
    random = np.random.default_rng(0)
    values = random.integers(limits.min, limits.max, ITEMS, dtype=dtype, endpoint=True)
    values[:3] = limits.min, limits.max, 1
    return values


def bits(values: Any) -> bytes:
    native = np.ascontiguousarray(values)
    return native.astype(native.dtype.newbyteorder("=")).tobytes()


def in_fits(path: Path, source: str, scale: float, zero: float) -> tuple[int, Any]:
    """Writes the file; where its data begin, and what astropy makes of them."""
    fits = pytest.importorskip("astropy.io.fits")
    hdu = fits.PrimaryHDU(stored_of(source))
    hdu.writeto(path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header["BSCALE"], hdus[0].header["BZERO"] = scale, zero
    with fits.open(path) as hdus:
        return hdus[0].fileinfo()["datLoc"], np.array(hdus[0].data)


# By the last scale 64-bit integers have integer sums, which astropy makes doubles first.
@pytest.mark.parametrize(
    ("source", "by"), [case for case in product(INTEGERS, SCALES) if case != ("i8", SCALES[-1])]
)
def test_astropy(tmp_path: Path, source: str, by: tuple[float, float]) -> None:
    """Of 16 bits and less float32 in place, of the others float64."""
    path = tmp_path / "image.fits"
    offset, theirs = in_fits(path, source, *by)
    theirs = theirs.astype(theirs.dtype.newbyteorder("="))
    assert theirs.dtype == ("f4" if source in SMALL else "f8")
    ours = mapscratch.array(
        path, theirs.dtype, offset=offset, shape=ITEMS, source=f">{source}", scale=by[0], zero=by[1]
    )
    if source == "i8":  # they begin with a double of it, we end with one
        np.testing.assert_allclose(ours, theirs, rtol=4 * np.finfo("f8").eps)
    else:
        assert bits(ours) == bits(theirs)


@pytest.mark.parametrize(
    ("source", "zero", "unsigned"),
    [("u1", -128, "i1"), ("i2", 2**15, "u2"), ("i4", 2**31, "u4"), ("i8", 2**63, "u8")],
)
def test_astropy_by_the_unsigned_conventions(
    tmp_path: Path, source: str, zero: int, unsigned: str
) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    path = tmp_path / "image.fits"
    stored = stored_of(source)
    wanted = (stored.astype("O") + zero).astype(unsigned)
    fits.PrimaryHDU(wanted).writeto(path)
    with fits.open(path) as hdus:
        offset, theirs = hdus[0].fileinfo()["datLoc"], np.array(hdus[0].data)
    assert theirs.tolist() == wanted.tolist()
    ours = mapscratch.array(
        path, unsigned, offset=offset, shape=ITEMS, source=f">{source}", scale=1, zero=zero
    )
    assert bits(ours) == bits(theirs)
    for output in ("f4", "f8"):
        array = mapscratch.array(
            path, output, offset=offset, shape=ITEMS, source=f">{source}", scale=1, zero=zero
        )
        assert bits(array) == bits(wanted.astype(output)), "rounded once"


@pytest.mark.parametrize(("source", "by"), list(product(["u1", "i2", "i4", "f4"], SCALES)))
def test_nibabel(tmp_path: Path, source: str, by: tuple[float, float]) -> None:
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "image.nii"
    data = np.arange(ITEMS, dtype="f4") / 7 if source == "f4" else stored_of(source)
    image = nibabel.Nifti1Image(data.reshape(-1, 1, 1), np.eye(4))
    image.header.set_slope_inter(*by)
    image.to_filename(path)
    loaded = nibabel.load(path)
    slope, intercept = float(loaded.dataobj.slope), float(loaded.dataobj.inter)
    stored = mapscratch.array(
        path,
        "f8",
        offset=loaded.dataobj.offset,
        shape=ITEMS,
        source=np.dtype(source),
        scale=slope,
        zero=intercept,
    )
    assert bits(stored) == bits(np.asarray(loaded.dataobj, dtype="f8").ravel())


@pytest.mark.parametrize(("source", "by"), list(product(["u1", "i2", "i4"], SCALES)))
@pytest.mark.parametrize("attributes", ["f4", "f8"])
def test_netcdf4(tmp_path: Path, source: str, by: tuple[float, float], attributes: str) -> None:
    netcdf = pytest.importorskip("netCDF4")
    path = tmp_path / "data.nc"
    scale, zero = (np.dtype(attributes).type(value) for value in by)
    stored = stored_of(source)
    with netcdf.Dataset(path, "w") as file:
        file.createDimension("x", ITEMS)
        variable = file.createVariable("v", source, ("x",), fill_value=False)
        variable.set_auto_maskandscale(False)
        variable.scale_factor, variable.add_offset = scale, zero
        variable[:] = stored
    with netcdf.Dataset(path) as file:
        file["v"].set_auto_mask(False)
        theirs = file["v"][:]
    raw = tmp_path / "raw"
    stored.tofile(raw)
    ours = mapscratch.array(raw, theirs.dtype, source=source, scale=scale, zero=zero)
    assert bits(ours) == bits(theirs)
