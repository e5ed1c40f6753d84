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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.files import make_file
from support.swap import some_swap

from mapscratch import ScratchMap

_MADV_PAGEOUT = 21
_ROUNDS = 150


@pytest.fixture(params=["busy", "idle"])
def processors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Idle but for us; or with one more runnable process than there are processors."""
    command = [sys.executable, "-c", "while True: pass"]
    count = len(os.sched_getaffinity(0)) + 1 if request.param == "busy" else 0
    processes = [subprocess.Popen(command) for _ in range(count)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def page_out(m: ScratchMap) -> None:
    """Not m.reclaim(), which would first give each page a second chance to be droppable."""
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(m._address), ctypes.c_size_t(len(m)), ctypes.c_int(_MADV_PAGEOUT)
    )


@pytest.mark.stress
def test_no_new_page_is_swapped(lazyfree: str, processors: None, tmp_path: Path) -> None:
    file = make_file(tmp_path / "pattern", 160)
    with some_swap(), ScratchMap(file.path, engine=lazyfree, access=mmap.ACCESS_READ) as m:
        swapped = 0
        for _ in range(_ROUNDS):
            m.drop()
            assert m[:] == file.data
            page_out(m)
            swapped += m.counts().swapped
        assert swapped == 0


def test_no_new_page_is_swapped_by_another_processor(lazyfree: str, tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is only one processor")
    here, there = sorted(allowed)[:2]
    file = make_file(tmp_path / "pattern", 160)
    with some_swap(), ScratchMap(file.path, engine=lazyfree, access=mmap.ACCESS_READ) as m:
        try:
            for _ in range(20):
                m.drop()
                os.sched_setaffinity(0, {here})  # the pager follows who can't go elsewhere
                assert m[:] == file.data
                os.sched_setaffinity(0, {there})
                page_out(m)
                assert m.counts().swapped == 0
        finally:
            os.sched_setaffinity(0, allowed)


def test_a_page_that_is_stored_to_again_is_droppable_again(lazyfree: str, tmp_path: Path) -> None:
    file = make_file(tmp_path / "pattern", 160)
    with some_swap(), ScratchMap(file.path, engine=lazyfree) as m:
        well_after_the_window = 10 * m.guarantees.window_seconds
        for value in range(5):
            for page in range(160):
                m.store(page * mmap.PAGESIZE, value)
            time.sleep(well_after_the_window)
        page_out(m)
        assert m.counts().swapped == 0
        assert m[:] == file.data
