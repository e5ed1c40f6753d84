# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md, "What the tools show": droppable pages in the figures of a process."""

from __future__ import annotations

import mmap
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.files import make_file
from support.interpreter import run_python
from support.operated import ARRAY, MIB, Operated, lasting, make_source, operated, require_lazyfree
from support.waiting import eventually

import mapscratch
from mapscratch import ScratchMap
from mapscratch.proc import MemoryUsage, process_memory, range_memory, read_meminfo

SOURCE = 8 * MIB
DECODED = 8 * SOURCE
SLACK = 4 * MIB
"""What an interpreter may allocate of its own meanwhile."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("figures") / "bytes", SOURCE)


@pytest.fixture(scope="module")
def reader(source: Path) -> Iterator[Callable[[], Operated]]:
    require_lazyfree()
    with lasting(lambda: operated(ARRAY, source)) as whole:
        yield whole


@pytest.fixture
def process(reader: Callable[[], Operated]) -> Operated:
    """With an array of which no page is in memory."""
    process = reader()
    process.ask("array.scratch.drop()")
    return process


def address_of(process: Operated) -> int:
    address: int = process.ask("array.__array_interface__['data'][0]")
    return address


def area_of(process: Operated) -> MemoryUsage:
    memory = range_memory(address_of(process), DECODED, process.pid)
    assert memory.exact
    return memory.usage


def read_all(process: Operated) -> None:
    process.ask("float(array.max())")


def close_to(size: int, expected: int) -> bool:
    return abs(size - expected) <= SLACK


def test_rss_and_pss_count_droppable_pages_until_they_are_taken(
    lazyfree: str, source: Path
) -> None:
    with operated(ARRAY, source) as process:
        before = process_memory(process.pid)
        rss_before = process.status("RssAnon")
        read_all(process)
        full = process_memory(process.pid)
        assert close_to(full.anonymous - before.anonymous, DECODED)
        assert close_to(process.status("RssAnon") - rss_before, DECODED)
        # The source's pages, which the pager has mapped, are resident too.
        assert close_to(full.rss - before.rss, DECODED + SOURCE)
        assert close_to(full.pss - before.pss, DECODED + SOURCE)
        process.ask("array.scratch.reclaim()")
        taken = process_memory(process.pid)
        assert close_to(taken.anonymous, before.anonymous)
        assert close_to(full.pss - taken.pss, DECODED)


def test_smaps_shows_them_as_lazyfree_and_private_clean(process: Operated) -> None:
    read_all(process)
    usage = area_of(process)
    assert usage.rss == usage.pss == usage.anonymous == usage.lazy_free == DECODED
    assert (usage.private_clean, usage.private_dirty) == (DECODED, 0)
    rollup = process_memory(process.pid)
    assert rollup.lazy_free >= DECODED
    assert rollup.private_clean >= DECODED
    process.ask("array.scratch.reclaim()")
    assert area_of(process).lazy_free == 0


def test_ps_and_top_show_them_as_resident(process: Operated) -> None:
    if not shutil.which("ps") or not shutil.which("top"):
        pytest.skip("ps and top are not installed")
    read_all(process)

    def resident() -> tuple[int, int]:
        pid = str(process.pid)
        ps = subprocess.check_output(["ps", "-o", "rss=", "-p", pid], text=True)
        top = subprocess.check_output(["top", "-b", "-n1", "-e", "k", "-p", pid], text=True)
        row = dict(zip(*(line.split() for line in top.splitlines()[-2:]), strict=True))
        return int(ps) * 1024, int(row["RES"]) * 1024

    assert min(resident()) > DECODED
    process.ask("array.scratch.reclaim()")
    assert max(resident()) < DECODED


def test_two_readers_share_no_decoded_page(process: Operated, source: Path) -> None:
    with operated(ARRAY, source) as other:
        for reader in (process, other):
            read_all(reader)
        assert area_of(process).pss == area_of(other).pss == DECODED


def test_a_store_makes_a_page_dirty_until_the_window_ends(lazyfree: str, tmp_path: Path) -> None:
    pages = 160
    file = make_file(tmp_path / "pattern", pages)
    with ScratchMap(file.path, engine=lazyfree) as m:

        def usage() -> MemoryUsage:
            return range_memory(m._address, len(m)).usage

        m[:]
        assert usage().lazy_free == len(m)
        for page in range(pages):
            m.store(page * mmap.PAGESIZE, 1)
        # The first may be droppable again by now, but a pinned page stays dirty.
        with m.pin():
            assert usage().private_dirty == len(m)
        assert eventually(lambda: usage().lazy_free == len(m))
        assert usage().private_dirty == 0


def test_dontneed_is_a_private_mapping_of_a_file(undisturbed: None, tmp_path: Path) -> None:
    file = make_file(tmp_path / "pattern", 160)
    with ScratchMap(file.path, engine="dontneed") as m:
        m[:]
        clean = range_memory(m._address, len(m)).usage
        assert (clean.rss, clean.anonymous, clean.lazy_free) == (len(m), 0, 0)
        for page in range(40):
            m.store(page * mmap.PAGESIZE, 1)
        stored = range_memory(m._address, len(m)).usage
        assert stored.anonymous == 40 * mmap.PAGESIZE
        assert stored.private_dirty >= stored.anonymous  # more while the file isn't written back
        assert stored.lazy_free == 0
        m.drop()
        assert range_memory(m._address, len(m)).usage.anonymous == 0


def test_a_cache_keeps_what_was_used_last_dirty(lazyfree: str) -> None:
    with operated(
        """
        import mapscratch, numpy as np
        cache = mapscratch.Cache()
        if not cache.is_purgeable:
            raise SystemExit("no MADV_FREE here")
        """
    ) as process:
        process.ask("[cache.put(key, np.full(131072, 1.0 + key)) for key in range(48)]")
        usage = process_memory(process.pid)
        droppable = process.ask("cache.stats().bytes_droppable")
        assert droppable >= 24 * MIB
        assert close_to(usage.lazy_free, droppable)


def test_the_oom_score_counts_them(lazyfree: str, tmp_path: Path) -> None:
    source = 24 * MIB

    def score(process: Operated) -> int:
        return int(Path(f"/proc/{process.pid}/oom_score").read_text())

    with operated(ARRAY, make_source(tmp_path / "large", source)) as process:
        before = score(process)
        read_all(process)
        full = score(process)
        # mm/oom_kill.c: resident and swapped pages and page tables, of the memory and swap that
        # there are, in thousandths; /proc shows two thirds of it.
        memory = read_meminfo()
        grown = 9 * source / (memory.total + memory.swap_total)
        if grown * 667 < 3:
            pytest.skip("this machine has so much memory that the score hardly moves")
        assert abs((full - before) - grown * 667) <= 2
        process.ask("array.scratch.reclaim()")
        # What is left are the file's own pages, which the pager has mapped.
        left = source / (memory.total + memory.swap_total)
        assert abs((score(process) - before) - left * 667) <= 2


def test_available_memory_counts_them_as_available(lazyfree: str, tmp_path: Path) -> None:
    source = 32 * MIB
    with operated(ARRAY, make_source(tmp_path / "large", source)) as process:

        def is_so() -> bool:
            process.ask("array.scratch.drop()")
            before = read_meminfo()
            read_all(process)
            after = read_meminfo()
            taken = before.free - after.free
            return taken > 7 * source and before.available - after.available < taken / 2

        # Others on this machine take and give back memory, too.
        assert any(is_so() for _ in range(40))


def test_dask_pauses_a_worker_for_droppable_pages(
    lazyfree: str, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    run_python(
        """
        import sys, types
        import dask, distributed, psutil, mapscratch
        from distributed.system_monitor import SystemMonitor
        from distributed.worker_memory import WorkerMemoryManager

        array = mapscratch.array(sys.argv[1], "f8", source="i1")
        decoded, monitor = array.nbytes, SystemMonitor()

        def worker():
            return types.SimpleNamespace(
                local_directory=sys.argv[2], periodic_callbacks={}, monitor=monitor,
                status=distributed.Status.running)

        def manager(of):
            return WorkerMemoryManager(of, nthreads=1, memory_limit=limit, data={})

        def looks(of, manager):  # the two lines of WorkerMemoryManager.memory_monitor
            manager._maybe_pause_or_unpause(of, monitor.get_process_memory())
            return of.status

        # With all of the array it is over the 80 %, and without at some 70.
        empty = monitor.get_process_memory()
        limit = int((empty + decoded / 2) / 0.8)
        ordinary, ours = worker(), worker()
        default = manager(ordinary)
        assert looks(ordinary, default) is distributed.Status.running
        array.max()
        full = monitor.get_process_memory()
        assert abs(full - psutil.Process().memory_info().rss) < 1 << 20
        assert full - empty > decoded * 0.9, (full, empty)
        assert looks(ordinary, default) is distributed.Status.paused
        array.scratch.reclaim()
        assert looks(ordinary, default) is distributed.Status.running

        with dask.config.set({
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.terminate": False,
        }):
            advised = manager(ours)
        array.max()
        assert looks(ours, advised) is distributed.Status.running
        assert not ours.periodic_callbacks  # nobody looks at all
        assert "memory_monitor" in ordinary.periodic_callbacks
        """,
        source,
        tmp_path,
    )


def test_counts_say_what_is_droppable_and_rebuilt(lazyfree: str, tmp_path: Path) -> None:
    array = mapscratch.array(make_source(tmp_path / "bytes", MIB), "f8", source="i1")
    array.max()
    counts = array.scratch.counts()
    assert counts.droppable == counts.resident == counts.filled == array.nbytes // mmap.PAGESIZE
    assert (counts.rebuilt, counts.rebuilt_rate) == (0, 0)
    array.scratch.reclaim()
    array.max()
    counts = array.scratch.counts()
    assert counts.rebuilt == array.nbytes // mmap.PAGESIZE
    assert counts.rebuilt_rate == 0.5
    assert counts.fixup_seconds is not None
    assert counts.fixup_seconds > 0
