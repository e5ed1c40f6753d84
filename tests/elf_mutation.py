# SPDX-License-Identifier: Apache-2.0
"""Libraries with small damages."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

# Numbers at which arithmetic and checks turn over.
EDGES = [0, 1, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63]
EDGES += [2**64 - 1, 2**64 - 8, 0x1000, 0x10000, 10**9]


def interesting_ranges(data: bytes) -> list[tuple[int, int]]:
    """Where headers and tables are: the head of the file, and the dynamic section."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    ranges = [(0, 64 + 56 * count), (64 + 56 * count, 0x1000)]
    for at in range(offset, offset + 56 * count, 56):
        kind, _, start, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 2:
            ranges.append((start, start + size))
    return ranges


def mutate(
    randomness: random.Random, data: bytes, ranges: Sequence[tuple[int, int]] | None = None
) -> bytes:
    """Flip bits, put edge cases and random numbers into `ranges`, and sometimes cut the end off."""
    ranges = ranges or interesting_ranges(data)
    changed = bytearray(data)
    for _ in range(randomness.choice([1, 1, 1, 2, 3, 8])):
        start, end = randomness.choice(ranges)
        style = randomness.randrange(3)
        if style == 0:
            changed[randomness.randrange(start, end)] ^= 1 << randomness.randrange(8)
        else:
            layout = randomness.choice(["<H", "<I", "<Q", "<Q"])
            size = struct.calcsize(layout)
            at = randomness.randrange(start, end - size) // size * size
            value = randomness.choice(EDGES) if style == 1 else randomness.getrandbits(64)
            struct.pack_into(layout, changed, at, value % (1 << 8 * size))
    if randomness.random() < 0.05:
        del changed[randomness.randrange(len(changed)) :]
    return bytes(changed)
