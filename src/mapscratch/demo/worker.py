# SPDX-License-Identifier: Apache-2.0
"""One half of `mapscratch demo`: a process that reads all of an array under a limit on memory.

Its arguments: ``ordinary`` or ``ours``, the file's descriptor, items, and bytes of a limit that it
is to keep itself (0: somebody else does). When it is ready it says so and waits for a line; it
prints a JSON object a line.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from mmap import PAGESIZE
from typing import Any, BinaryIO

import numpy as np

import mapscratch
from mapscratch.errors import UserError
from mapscratch.proc import count_pages

_SCALE, _ZERO = np.float32(0.5), np.float32(7)
_SCANS, _RANDOM_READS = 2, 5000
_CHUNK = 1 << 17  # items; what they take beside the array must fit into the least limit
_LOOK_SECONDS = 0.01


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _expected(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return raw.astype("f4") * _SCALE + _ZERO


def _ours(file: BinaryIO, raw: np.ndarray[Any, Any], own_limit: int) -> None:
    items = len(raw)
    array = mapscratch.array(file, "f4", shape=items, source=">i2", scale=_SCALE, zero=_ZERO)
    most = _Watch(array, own_limit)
    wrong = 0
    for scan in range(_SCANS):
        for start in range(0, items, _CHUNK):
            part = slice(start, start + _CHUNK)
            wrong += int(np.count_nonzero(array[part] != _expected(raw[part])))
            _tell(done=(scan + start / items) / (_SCANS + 1))
            most.look()
    picked = np.random.default_rng(0).integers(0, items, _RANDOM_READS)
    for index in picked:
        wrong += int(array[index] != _expected(raw[index : index + 1])[0])
    most.stop()
    counts = array.scratch.counts()
    _tell(
        sum=float(np.asarray(array).sum(dtype="f8")),
        wrong=wrong,
        checked=_SCANS * items + _RANDOM_READS,
        at_random=_RANDOM_READS,
        decoded=counts.filled,
        decoded_again=counts.rebuilt,
        most_resident=most.pages * PAGESIZE,
    )


class _Watch:
    """The most pages that were in memory; with a limit of its own, asks the kernel to reclaim."""

    def __init__(self, array: mapscratch.ScratchArray, limit: int) -> None:
        self.pages = 0
        self._map = array.scratch.map
        self._limit = limit // PAGESIZE
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if limit:
            self._thread.start()

    def look(self) -> int:
        resident = count_pages(self._map._address, len(self._map)).present
        self.pages = max(self.pages, resident)
        return resident

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            if self.look() > self._limit // 2:
                self._map.reclaim()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident:
            self._thread.join()
        self.look()


def _limit_own_data(limit: int) -> None:
    """No more private writable memory than there is now, and `limit` bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        used = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))


def main() -> None:
    """Runs in the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's; it ends us
    kind, descriptor, items, own_limit = sys.argv[1], *map(int, sys.argv[2:5])
    _tell(ready=True)
    sys.stdin.readline()
    if own_limit:
        _limit_own_data(own_limit)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            raw = np.memmap(file, ">i2", "r", shape=items)
            if kind == "ordinary":
                _tell(sum=float(_expected(raw).sum(dtype="f8")))
            else:
                _ours(file, raw, own_limit)
    except MemoryError as error:
        _tell(memory_error=str(error))
    except (UserError, OSError) as error:  # all of the message, which has several lines
        _tell(error=getattr(error, "strerror", None) or str(error))


if __name__ == "__main__":
    main()
