# SPDX-License-Identifier: Apache-2.0
"""`mapscratch code`: whole programs whose PLT entries bind themselves."""
