# SPDX-License-Identifier: Apache-2.0
"""`mapscratch compare --code`: whole programs whose PLT entries bind themselves."""
