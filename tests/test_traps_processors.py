# SPDX-License-Identifier: Apache-2.0
"""A page that was just made is droppable wherever the scheduler sends the pager meanwhile.

MADV_FREE passes over a page that still waits in another processor's batch of new pages. A pager
that moved between making a page and freeing it left three pages in a hundred thousand behind, to be
swapped later; but only while other programs kept the processors busy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.files import PatternFile, make_file
from support.swap import some_swap

from mapscratch import ScratchMap

_MADV_PAGEOUT = 21
_ROUNDS = 400


@pytest.fixture
def busy_processors() -> Iterator[None]:
    """One more runnable process than there are processors."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(len(os.sched_getaffinity(0)) + 1)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def test_no_new_page_is_swapped_while_processors_are_busy(
    lazyfree: str, busy_processors: None, tmp_path: os.PathLike[str]
) -> None:
    file: PatternFile = make_file(tmp_path / "pattern", 160)  # type: ignore[operator]
    libc = ctypes.CDLL(None)
    with some_swap(), ScratchMap(file.path, engine=lazyfree, access=mmap.ACCESS_READ) as m:
        swapped = 0
        for _ in range(_ROUNDS):
            m.drop()
            assert m[:] == file.data
            # Not m.reclaim(), which would first give such a page a second chance.
            libc.madvise(
                ctypes.c_void_p(m._address), ctypes.c_size_t(len(m)), ctypes.c_int(_MADV_PAGEOUT)
            )
            swapped += m.counts().swapped
        assert swapped == 0
