# SPDX-License-Identifier: Apache-2.0
"""Libraries written by hand that claim an absurd number of things."""

from __future__ import annotations

import struct

DYNAMIC_AT = 0x200
TABLES_AT = 0x1000


def handmade(path, dynamic: dict[int, int], tables: bytes, size: int):
    """Write a library of one segment, addresses being file offsets, as large as is wished."""
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, size, size, 0x1000)
    entries = b"".join(struct.pack("<qQ", *entry) for entry in dynamic.items()) + bytes(16)
    place = struct.pack("<IIQQQQQQ", 2, 6, DYNAMIC_AT, DYNAMIC_AT, 0, *[len(entries)] * 2, 8)
    head = (identification + header + load + place).ljust(DYNAMIC_AT, b"\0") + entries
    with path.open("wb") as file:
        file.write(head.ljust(TABLES_AT, b"\0") + tables)
        file.truncate(size)


GIANT = 1 << 41
HOSTILE = {
    "relocations": ({7: TABLES_AT, 8: 24 << 35}, b"", GIANT, "34359738368 relocations"),
    "plt relocations": ({23: TABLES_AT, 2: 24 << 25}, b"", GIANT, "33554432 relocations"),
    "packed relocations": ({36: TABLES_AT, 35: 8 << 37}, b"", GIANT, "takes"),
    "packed bitmaps": (
        {36: TABLES_AT, 35: 1 << 16},
        bytes(8) + b"\xff" * ((1 << 16) - 8),
        1 << 17,
        "more words than the file holds",
    ),
    "symbols": (
        {4: TABLES_AT, 6: TABLES_AT},
        struct.pack("<II", 1, 0xFFFFFFFF),
        GIANT,
        "4294967295 symbols",
    ),
    "a string table": ({5: TABLES_AT, 10: GIANT >> 1}, b"", GIANT, "takes"),
    "names of one string": (
        {4: TABLES_AT, 6: TABLES_AT + 8, 5: TABLES_AT + 8 + (24 << 12), 10: 1 << 17},
        struct.pack("<II", 1, 1 << 12) + bytes(24 << 12) + b"x" * ((1 << 17) - 1) + b"\0",
        1 << 20,
        "add up to",
    ),
    "an endless hash chain": (
        {0x6FFFFEF5: TABLES_AT, 6: TABLES_AT},
        struct.pack("<IIIII", 1, 1, 0, 0, 5),
        GIANT,
        "has no end",
    ),
    "dynamic entries": (dict.fromkeys(range(100, 5000), 1), b"", 1 << 20, "entries"),
    "versions": (
        {4: 0x20000, 6: 0x21000, 5: 0x20800, 10: 8, 0x6FFFFFF0: 0x22000}
        | {0x6FFFFFFE: TABLES_AT, 0x6FFFFFFF: 0x7000},
        struct.pack("<HHIII", 1, 0x7000, 0, 32, 16) * 2 + bytes(64),
        GIANT,
        "version references",
    ),
    "a looping version list": (
        {0x6FFFFFFE: TABLES_AT, 0x6FFFFFFF: 1 << 40, 0x6FFFFFF0: TABLES_AT},
        b"",
        GIANT,
        "claims 1099511627776 versions",
    ),
}
