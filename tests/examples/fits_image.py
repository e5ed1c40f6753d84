# SPDX-License-Identifier: Apache-2.0
"""A scaled FITS image: astropy refuses to memory-map it, and reads all of it."""

import sys

from astropy.io import fits

import mapscratch

path = sys.argv[1]

with fits.open(path, do_not_scale_image_data=True) as hdus:
    header, where = hdus[0].header, hdus[0].fileinfo()["datLoc"]
shape = (header["NAXIS2"], header["NAXIS1"])
image = mapscratch.array(path, "f4", offset=where, shape=shape, source=">i2",
                         scale=header.get("BSCALE", 1), zero=header.get("BZERO", 0),
                         blank=header.get("BLANK"))  # fmt: skip

print(image[:100].mean(), image.shape)
