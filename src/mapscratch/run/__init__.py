# SPDX-License-Identifier: Apache-2.0
"""Programs that run with converted libraries: the cache of conversions, environment, runtime.

It is kept light: with a warm cache `mapscratch run` imports neither NumPy nor the reader of ELF
files.
"""
