# SPDX-License-Identifier: Apache-2.0
"""`mapscratch survey`: fixups a page, of the libraries and processes of this machine."""
