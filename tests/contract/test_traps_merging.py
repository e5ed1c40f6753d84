# SPDX-License-Identifier: Apache-2.0
"""A ninth trap: the kernel merges pages (KSM, khugepaged), which are no longer lazily freed then.

The machine's own settings are changed for a moment, by whoever may, and put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.interpreter import run_python

_KSM = Path("/sys/kernel/mm/ksm")
_HUGE = Path("/sys/kernel/mm/transparent_hugepage")


def _set(settings: dict[Path, str]) -> Iterator[None]:
    before: dict[Path, str] = {}
    try:
        for file, value in settings.items():
            try:
                text = file.read_text().strip()
                file.write_text(value)
            except OSError as trouble:
                pytest.skip(f"{file} can't be set: {trouble}")
            chosen = text.partition("[")[2].partition("]")[0]
            before[file] = chosen or text
        yield
    finally:
        for file, value in before.items():
            file.write_text(value)


@pytest.fixture
def ksm() -> Iterator[None]:
    """It scans everything that may be merged, without pause."""
    yield from _set(
        {_KSM / "sleep_millisecs": "2", _KSM / "pages_to_scan": "20000", _KSM / "run": "1"}
    )


@pytest.fixture
def khugepaged() -> Iterator[None]:
    """It looks at all memory, without pause."""
    yield from _set(
        {
            _HUGE / "enabled": "always",
            _HUGE / "khugepaged/scan_sleep_millisecs": "0",
            _HUGE / "khugepaged/alloc_sleep_millisecs": "0",
            _HUGE / "khugepaged/pages_to_scan": "100000",
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.full(2_000_000, 7, ">i2").tofile(tmp_path / "equal")
    return tmp_path / "equal"


START = """
    import ctypes, sys, time
    from pathlib import Path
    import numpy as np, mapscratch.arrays
    from mapscratch.proc import count_pages, range_memory
    from support.patience import Limit
    from support.purgeable import drain, reclaim

    path, kind, when = sys.argv[1:4]
    libc = ctypes.CDLL(None, use_errno=True)

    def wait_for_scans(file, scans):
        first, limit = int(file.read_text()), Limit(50)
        while int(file.read_text()) < first + scans:
            time.sleep(0.05)
            if not limit.left():
                print("no scan")
                raise SystemExit

    def merge_everything():
        PR_SET_MEMORY_MERGE = 67
        if libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
            print("no merging")
            raise SystemExit

    def make():
        if kind == "array":
            array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
            shown, memory = np.asarray(array), array.scratch
            wanted = np.full(2_000_000, 3.5, "f4")
        else:
            memory = mapscratch.ScratchMap(path, engine="lazyfree")
            shown, wanted = np.frombuffer(memory, ">i2"), np.full(2_000_000, 7, ">i2")
        assert np.array_equal(shown, wanted)
        return memory, shown, wanted

    FEW = 64  # smaps lags behind by some pages
"""


def _run(code: str, path: Path, *arguments: object) -> None:
    result = run_python(START + code, path, *arguments, timeout=120)
    if result.stdout:
        pytest.skip(result.stdout.strip())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["array", "map"])
def test_ksm_leaves_pages_droppable(
    lazyfree: str, ksm: None, path: Path, kind: str, when: str
) -> None:
    """Merging may be switched on before the mapping is made, or later: then reclaim repairs it."""
    _run(
        """
    if when == "before":
        merge_everything()
    memory, shown, wanted = make()
    if when == "after":
        merge_everything()
    wait_for_scans(Path("/sys/kernel/mm/ksm/full_scans"), 3)
    if when == "before":
        counts = memory.counts()
        assert counts.droppable > counts.resident - FEW, counts
    assert np.array_equal(shown, wanted)
    memory.reclaim()
    counts = memory.counts()
    assert counts.resident < FEW and counts.swapped < FEW, counts
    assert np.array_equal(shown, wanted)
    counts = memory.counts()
    assert counts.droppable > counts.resident - FEW, counts
    """,
        path,
        kind,
        when,
    )


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_ksm_leaves_a_cache_droppable(ksm: None, path: Path, when: str) -> None:
    """No two released pages are equal, whatever is in them: in a forked child neither."""
    _run(
        """
    import os
    if when == "before":
        merge_everything()
    cache = mapscratch.Cache()
    if not cache.is_purgeable:
        print("not purgeable here")
        raise SystemExit
    if when == "after":
        merge_everything()
    child = os.fork()  # both make the same
    for key in range(16):
        cache.put(key, np.zeros(1 << 20, "u1"))
    cache._table.release_recent()
    wait_for_scans(Path("/sys/kernel/mm/ksm/full_scans"), 3)
    lazy = held = 0
    for region in (*cache._runs.regions, *cache._slots.regions):
        address = ctypes.addressof(ctypes.c_char.from_buffer(region.memory))
        lazy += range_memory(address, len(region.memory)).usage.lazy_free
        held += count_pages(address, len(region.memory)).present * 4096
    status = int(lazy < held - FEW * 4096 or held < 15 << 20)
    if not child:
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert not status, (lazy, held)
    """,
        path,
        "cache",
        when,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "map"])
def test_khugepaged_leaves_pages_droppable(
    lazyfree: str, khugepaged: None, path: Path, kind: str
) -> None:
    """Also where another library asks for huge pages over ours."""
    _run(
        """
    MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
    memory, shown, wanted = make()
    base = shown.__array_interface__["data"][0]
    place, length = ctypes.c_void_p(base), ctypes.c_size_t(-(-shown.nbytes // 4096) * 4096)
    for advice in (None, MADV_HUGEPAGE, MADV_COLLAPSE):
        if advice:
            libc.madvise(place, length, advice)
        wait_for_scans(Path("/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans"), 3)
        assert np.array_equal(shown, wanted)
        counts = memory.counts()
        assert counts.droppable > counts.resident - FEW, (advice, counts)
    memory.reclaim()
    counts = memory.counts()
    assert counts.resident < FEW and counts.swapped < FEW, counts
    assert np.array_equal(shown, wanted)
    """,
        path,
        kind,
        "",
    )


@pytest.fixture
def underused() -> Iterator[None]:
    """Under pressure huge pages are split of which a page is zeros."""
    yield from _set({_HUGE / "shrink_underused": "1", _HUGE / "khugepaged/max_ptes_none": "0"})


SLOTS = """
    MADV_COLD, MADV_DONTNEED = 20, 4
    cache = mapscratch.Cache()
    random = np.random.default_rng(0)
    values = {}
    for key in range(32):  # some of them are zeros, in part or all over
        values[key] = np.zeros(1 << 20, "u1")
        for first in random.integers(0, 1 << 20, key % 5):
            values[key][first : first + int(random.integers(1, 100_000))] = key + 1
        cache.put(key, values[key])
    if not cache.stats().bytes_huge:
        print("no huge pages")
        raise SystemExit
    cache._table.release_recent()

    def advise(slot, page, advice):
        slot.region.memory.madvise(advice, slot.offset + page * 4096, 4096)

    def check():
        found = 0
        for key, wanted in values.items():
            value = cache.get(key, None)
            if value:
                with value as array:
                    assert np.array_equal(array, wanted), key
                found += 1
        return found
"""


@pytest.mark.slow
def test_khugepaged_makes_no_huge_page_of_a_slot_that_was_split(
    purgeable_pages: None, khugepaged: None, path: Path
) -> None:
    """Also where a page of it has gone: what is found is right."""
    _run(
        SLOTS
        + """
    for number, slot in enumerate(cache._slots.slots):
        advise(slot, 7, MADV_COLD)
        if number % 2:
            advise(slot, int(random.integers(1, 512)), MADV_DONTNEED)
    wait_for_scans(Path("/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans"), 3)
    found = check()
    assert found >= 16, found
    assert not cache.stats().bytes_huge
    """,
        path,
        "cache",
        "",
    )


@pytest.mark.slow
def test_huge_pages_that_are_hardly_used_are_split(
    purgeable_pages: None, underused: None, path: Path
) -> None:
    """The kernel maps their pages of zeros to one page for all, and goes on to do so."""
    _run(
        SLOTS
        + """
    for _ in range(3):
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2")  # all shrinkers
        except OSError:
            print("nothing shrinks")
            raise SystemExit
        assert check() == 32
        cache._table.release_recent()
    """,
        path,
        "cache",
        "",
    )


@pytest.mark.slow
def test_ksm_takes_no_slot_apart(purgeable_pages: None, ksm: None, path: Path) -> None:
    """Merging is refused for slots; and where it is switched on later what is found is right."""
    _run(
        SLOTS
        + """
    merge_everything()
    wait_for_scans(Path("/sys/kernel/mm/ksm/full_scans"), 3)
    assert check() == 32
    cache._table.release_recent()
    for slot in cache._slots.slots:
        slot.region.memory.madvise(21, slot.offset, slot.size)
    check()
    """,
        path,
        "cache",
        "",
    )
