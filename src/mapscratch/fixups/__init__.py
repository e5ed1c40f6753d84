# SPDX-License-Identifier: Apache-2.0
"""Page-in fixups: what is made again when a page comes back, before anybody sees it.

For `mapscratch.ScratchMap`: `Words` and `Relocate`, tables of 8-byte words. For `mapscratch.array`:
`ByteSwap`, `Cast`, `Scale`, `Compiled` and `Python`, which decode blocks of a file into items of an
array. These need NumPy and are loaded when one of their names is used.

Self-healing fixups (a word whose value in the file leads to making it again) need none of this:
store them, and store them again when they are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mapscratch.fixups.words import Relocate, Words

if TYPE_CHECKING:
    from mapscratch.fixups.arrays import ArrayFixup, ByteSwap, Cast, Compiled, Python, Scale

__all__ = [
    "ArrayFixup",
    "ByteSwap",
    "Cast",
    "Compiled",
    "Python",
    "Relocate",
    "Scale",
    "Words",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from mapscratch.fixups import arrays

        return getattr(arrays, name)
