# SPDX-License-Identifier: Apache-2.0
"""A tenth trap: somebody else gives advice about our memory, moves its pages, or seals it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.interpreter import run_python

START = """
    import ctypes, os, sys
    from pathlib import Path
    import numpy as np, mapscratch.arrays
    path, kind = sys.argv[1:3]
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = np.fromfile(path, ">i2")
    if kind == "array":
        array = mapscratch.array(path, "i2", source=">i2")
        shown, memory = np.asarray(array), array.scratch
    else:
        memory = mapscratch.ScratchMap(path, engine="lazyfree")
        shown = np.frombuffer(memory, ">i2")
    assert np.array_equal(shown, wanted)
    place = ctypes.c_void_p(shown.__array_interface__["data"][0])
    pages = -(-shown.nbytes // 4096)
    length = ctypes.c_size_t(pages * 4096)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(3_000_000, dtype=">i2").tofile(tmp_path / "values")
    return tmp_path / "values"


@pytest.mark.parametrize("kind", ["array", "map"])
def test_right_and_droppable_whatever_others_advise(lazyfree: str, path: Path, kind: str) -> None:
    run_python(
        START
        + """
    def compact():
        try:
            Path("/proc/sys/vm/compact_memory").write_text("1")
        except OSError:
            pass  # not for this user

    ADVICE = {"FREE": 8, "HUGEPAGE": 14, "COLD": 20, "PAGEOUT": 21, "DONTNEED_LOCKED": 24}
    ways = {name: (lambda n=n: libc.madvise(place, length, n)) for name, n in ADVICE.items()}
    for name, use in (ways | {"compaction": compact}).items():
        use()
        assert np.array_equal(shown, wanted), name
        counts = memory.counts()
        assert counts.droppable > counts.resident - 64, (name, counts)
        memory.reclaim()
        counts = memory.counts()
        assert counts.resident < 64 and not counts.swapped, (name, counts)
    """,
        path,
        kind,
    )


def test_sealed_memory_is_not_closed_in_silence(lazyfree: str, path: Path) -> None:
    result = run_python(
        START
        + """
    MSEAL = 462
    if libc.syscall(MSEAL, place, length, 0):
        print("no mseal")  # before Linux 6.10, and where there is none
        raise SystemExit
    del shown
    try:
        memory.close()
    except PermissionError:
        pass
    else:
        raise SystemExit("closed")
    assert np.array_equal(np.frombuffer(memory, ">i2"), wanted)
    """,
        path,
        "map",
    )
    if result.stdout:
        pytest.skip("this kernel has no mseal")
