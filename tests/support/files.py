# SPDX-License-Identifier: Apache-2.0
"""Files whose every word is known."""

from __future__ import annotations

import random
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

WORD = 8
WORDS_A_PAGE = PAGESIZE // WORD


@dataclass(frozen=True, slots=True)
class PatternFile:
    """A file of pseudo-random bytes, none of whose words is zero: zeros are always wrong."""

    path: Path
    data: bytes

    @property
    def pages(self) -> int:
        return -(-len(self.data) // PAGESIZE)

    def word(self, offset: int) -> int:
        """The aligned word at a byte offset."""
        return int.from_bytes(self.data[offset : offset + WORD], "little")

    def is_intact(self) -> bool:
        return self.path.read_bytes() == self.data


def pattern(length: int, seed: int = 0) -> bytes:
    """`length` bytes, the same ones for the same seed, none of them zero."""
    return random.Random(seed).randbytes(length).replace(b"\0", b"\1")


def make_file(path: Path, pages: float, seed: int = 0) -> PatternFile:
    """Writes a file of so many pages, the last one maybe incomplete."""
    data = pattern(int(pages * PAGESIZE), seed)
    path.write_bytes(data)
    return PatternFile(path, data)
