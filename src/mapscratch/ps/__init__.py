# SPDX-License-Identifier: Apache-2.0
"""Who uses scratch memory on this machine: the board, the census, the tables of `mapscratch ps`."""
