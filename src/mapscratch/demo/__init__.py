# SPDX-License-Identifier: Apache-2.0
"""More decoded data than memory, beside the way that is killed: `mapscratch demo`."""
