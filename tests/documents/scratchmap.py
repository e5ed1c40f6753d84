# SPDX-License-Identifier: Apache-2.0
"""What docs/scratchmap.md takes for granted: weights to send, and a table of relocations."""

import socket as sockets

import numpy as np

UNRESOLVED = 0
weights = np.arange(65536 // 8, dtype="<u8")
weights[512] = UNRESOLVED
weights.tofile("weights.bin")

receiver, socket = sockets.socketpair()
socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 1 << 20)

path, relro, load_bias, offsets = "weights.bin", 4096, 0x7F00_0000_0000, [8, 16]


def resolve(offset):
    return offset + 1


def check():
    expected = weights[512:].copy()
    expected[1:3] += load_bias
    np.testing.assert_array_equal(np.frombuffer(m, "<u8"), expected)
    received = receiver.recv(65536, sockets.MSG_WAITALL)
    sent = weights.copy()
    assert len(received) == 65536
    seen = np.frombuffer(received, "<u8")
    assert seen[512] in (UNRESOLVED, 4097)  # as ever: dropped or not
    np.testing.assert_array_equal(np.delete(seen, 512), np.delete(sent, 512))
