# SPDX-License-Identifier: Apache-2.0
"""What docs/contract.md takes for granted: a mapping, and offsets of words in it."""

import mapscratch

with open("words", "wb") as file:
    file.truncate(65536)
m = mapscratch.ScratchMap("words")

UNRESOLVED = 0
lock, counter, data, flag, offset = range(0, 40, 8)
value = 7
used = []


def resolve(offset):
    return offset + 100


use = used.append


def check():
    assert used == [132]
