# SPDX-License-Identifier: Apache-2.0
"""The process in which ld.so is timed; `mapscratch.lab.cost.loader_costs` starts it.

It runs as a script, with nothing but the standard library, so that little else is loaded. It takes
one JSON object from standard input::

    {"warm": PATH, "tasks": [[KEY, PATH, "now"|"lazy"]...]}

loads what is to be warm, and then times each task. One JSON object goes to standard output: for
``now`` the ns of dlopen(3), for ``lazy`` the ns of the first call of every PLT entry without that
of a later one, of tasks with one key the least; ``cycles_per_ns``; and how many objects the program
itself consists of.
"""

from __future__ import annotations

import json
import sys
import time

_RTLD_LAZY, _RTLD_NOW = 1, 2
_CALLS = 3


def _objects() -> int:
    """Files that hold code of this process: the program and the libraries that it needs."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace", newline="\n") as file:
        rows = [line.split(maxsplit=5) for line in file]
    return len({row[5] for row in rows if len(row) == 6 and "x" in row[1] and row[5][0] == "/"})


def main() -> None:
    """Does what standard input says."""
    objects = _objects()
    import _ctypes
    import ctypes

    def function(handle: int, name: str, result: type | None) -> ctypes._CFunctionType:
        return ctypes.CFUNCTYPE(result)(_ctypes.dlsym(handle, name))

    request = json.load(sys.stdin)
    warm: int = _ctypes.dlopen(request["warm"], _RTLD_NOW)
    function(warm, "mapscratch_call_all", None)()
    cycles = function(warm, "mapscratch_cycles", ctypes.c_uint64)
    clock = time.perf_counter_ns
    began = (cycles(), clock())
    times: dict[str, int] = {}
    for key, path, mode in request["tasks"]:
        start = clock()
        handle: int = _ctypes.dlopen(path, _RTLD_NOW if mode == "now" else _RTLD_LAZY)
        taken = clock() - start
        if mode == "lazy":
            call_all = function(handle, "mapscratch_call_all", None)
            spent = []
            for _ in range(_CALLS):
                start = clock()
                call_all()
                spent.append(clock() - start)
            taken = spent[0] - min(spent[1:])
        times[key] = min(taken, times.get(key, taken))
    cycles_per_ns = (cycles() - began[0]) / (clock() - began[1])
    json.dump({"times": times, "cycles_per_ns": cycles_per_ns, "objects": objects}, sys.stdout)


if __name__ == "__main__":
    main()
