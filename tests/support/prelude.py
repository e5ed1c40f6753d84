# SPDX-License-Identifier: Apache-2.0
"""What a script in a fresh interpreter starts with: ``from support.prelude import *``.

Its arguments are the file and the engine. `m` is the mapping, `data` the file's bytes.
"""

from __future__ import annotations

import os
import sys
from mmap import PAGESIZE
from pathlib import Path

from mapscratch import ScratchMap, _native

__all__ = [
    "PAGESIZE",
    "ScratchMap",
    "_native",
    "check",
    "data",
    "engine",
    "in_child",
    "m",
    "os",
    "path",
    "sys",
]

path, engine = sys.argv[1], sys.argv[2]
data = Path(path).read_bytes()
m = ScratchMap(path, engine=engine)


def check() -> None:
    """Everything shows the file, also after a drop."""
    seen = m[:]
    if seen != data:
        wrong = next(index for index in range(len(data)) if seen[index] != data[index])
        raise SystemExit(
            f"page {wrong // PAGESIZE} is wrong: {seen[wrong : wrong + 8].hex()}, not "
            f"{data[wrong : wrong + 8].hex()}"
        )


def in_child(use: object) -> None:
    """Runs a function in a forked child, and expects it to end well."""
    child = os.fork()
    if not child:
        status = 1
        try:
            use()  # type: ignore[operator]
            status = 0
        except SystemExit as error:
            print(error, file=sys.stderr, flush=True)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise SystemExit(f"the child ended with {code}")
