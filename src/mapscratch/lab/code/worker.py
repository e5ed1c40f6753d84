# SPDX-License-Identifier: Apache-2.0
"""The worker of `mapscratch code`: an ordinary program, with nothing of ours in it.

It is run by path, by a Python that need not be ours. It imports what a service imports, works until
entries are bound, and on each line of its input works again; each time it answers with its process
id and a digest of what it computed. With an argument it forks so many children, after it has worked
once, and they answer.
"""

import bz2
import hashlib
import json
import lzma
import math
import os
import signal
import socket
import sqlite3
import ssl
import sys
import threading
import zlib


def work() -> str:
    """The same digest every time; on the way through the entries of a dozen libraries."""
    digest = hashlib.sha256()
    text = json.dumps([[index, math.sin(index), str(index)] for index in range(400)]).encode()
    for packed in (zlib.compress(text), bz2.compress(text), lzma.compress(text, preset=1)):
        digest.update(packed)
    for name in ("md5", "sha1", "sha512", "sha3_256", "blake2b"):
        digest.update(hashlib.new(name, text).digest())
    database = sqlite3.connect(":memory:")
    database.execute("create table words (number integer primary key, word text)")
    rows = [(index, str(index * 7919)) for index in range(500)]
    database.executemany("insert into words values (?, ?)", rows)
    query = "select sum(number), max(word) from words where word like '%3%' group by number % 7"
    digest.update(repr(database.execute(query).fetchall()).encode())
    database.close()
    near, far = socket.socketpair()
    thread = threading.Thread(target=near.sendall, args=(text,))
    thread.start()
    received = b""
    while len(received) < len(text):
        received += far.recv(1 << 16)
    thread.join()
    near.close()
    far.close()
    digest.update(received)
    digest.update(repr(ssl.create_default_context().get_ciphers()[0]["name"]).encode())
    return digest.hexdigest()


def serve(commands: int) -> None:
    """Work, and again for each byte, until the input ends."""
    is_wanted = True
    while is_wanted:
        # One short write, so that the lines of several processes stay whole.
        os.write(1, f"{os.getpid()} {work()}\n".encode())
        is_wanted = bool(os.read(commands, 1))


def fork_children(count: int) -> None:
    """Work once, and then have children work, with all that is loaded and bound."""
    work()
    commands: list[int] = []
    for _ in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            for other in (*commands, writing):
                os.close(other)
            serve(reading)
            os._exit(0)
        os.close(reading)
        commands.append(writing)
    while os.read(0, 1):
        for command in commands:
            os.write(command, b"w")
    for command in commands:
        os.close(command)
    for _ in commands:
        os.wait()


signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) > 1:
    fork_children(int(sys.argv[1]))
else:
    serve(0)
