# SPDX-License-Identifier: Apache-2.0
"""`mapscratch compare`: MAP_PRIVATE against scratch mappings, in rounds."""
