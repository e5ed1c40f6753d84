# SPDX-License-Identifier: GPL-2.0-only
"""A process that uses many libraries, prints what it computed, and does it again when told to.

It runs under the system's own Python, with nothing of ours imported: what is converted are its
libraries.
"""

import bz2
import hashlib
import json
import lzma
import math
import sqlite3
import ssl
import sys
import zlib


def work() -> str:
    """The same text every time; on its way through the PLT entries of a dozen libraries."""
    digest = hashlib.sha256()
    text = json.dumps([[index, math.sin(index), str(index)] for index in range(2000)]).encode()
    for packed in (zlib.compress(text), bz2.compress(text), lzma.compress(text)):
        digest.update(packed)
    for name in ("md5", "sha1", "sha512", "sha3_256", "blake2b"):
        digest.update(hashlib.new(name, text).digest())
    with sqlite3.connect(":memory:") as database:
        database.execute("create table words (number integer primary key, word text)")
        rows = [(index, str(index * 7919)) for index in range(5000)]
        database.executemany("insert into words values (?, ?)", rows)
        query = "select sum(number), max(word) from words where word like '%3%' group by number % 7"
        digest.update(repr(database.execute(query).fetchall()).encode())
    digest.update(repr(sorted(ssl.create_default_context().get_ciphers()[0])).encode())
    return digest.hexdigest()


for _ in sys.stdin:
    print(work(), flush=True)
