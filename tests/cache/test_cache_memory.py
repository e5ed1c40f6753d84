# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache` where memory is short, locked, or in a sandbox."""

from __future__ import annotations

import signal

import pytest
from support.interpreter import run_python, start_python
from support.patience import communicate
from support.places import TESTS
from support.seccomp import is_supported

from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import active_swaps

LIMIT = 96 << 20

START = """
import functools, sys
import numpy as np, mapscratch

def make(key):
    return np.full(1 << 18, key, "i4")  # a mebibyte

def use(get, entries, uses):
    random = np.random.default_rng(0)
    for _ in range(uses):
        key = int(random.zipf(1.2)) % entries
        assert (get(key) == key).all()
"""

ORDINARY = """
input()
use(functools.lru_cache(115)(make), 200, 3000)  # 20 % more than there is room for
"""

OURS = """
input()
cache = mapscratch.Cache()
use(cache.memoize(make), 200, 3000)
stats = cache.stats()
assert stats.lost, stats
assert stats.hits > stats.made, stats
assert stats.bytes_held < 96 << 20
print("right")
"""


pytestmark = pytest.mark.usefixtures("purgeable_pages")


def run_limited(code: str) -> tuple[int, str, str]:
    with temporary_memory_cgroup(LIMIT) as group:
        process = start_python(START + code)
        group.add(process.pid)
        output, errors = communicate(process, "go\n", seconds=100)
        return process.returncode, output, errors


@pytest.mark.slow
def test_more_than_memory_where_an_lru_is_killed() -> None:
    probe = probe_temporary_memory_cgroup()
    if not probe:
        pytest.skip(f"no memory cgroup: {probe.reason}")
    if active_swaps():
        pytest.skip("an ordinary cache would be swapped: there is swap")
    assert run_limited(ORDINARY)[0] == -signal.SIGKILL
    status, output, errors = run_limited(OURS)
    assert (status, output) == (0, "right\n"), errors


@pytest.mark.stress
def test_the_same_tests_in_a_sandbox_without_userfaultfd() -> None:
    if not is_supported():
        pytest.skip("the numbers of this machine's system calls are not known")
    result = run_python(
        """
        import sys, warnings
        import pytest
        import mapscratch
        from support.seccomp import forbid
        forbid("userfaultfd", "process_vm_readv", "memfd_create", "mlock2")
        warnings.simplefilter("error")
        assert mapscratch.Cache().is_purgeable
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
        """,
        *(TESTS / name for name in ("test_cache_api.py", "test_purgeable_pages.py")),
        timeout=110,
    )
    assert " passed" in result.stdout


@pytest.mark.parametrize("when", ["before", "after"])
def test_where_all_memory_is_locked(when: str) -> None:
    """The kernel refuses; the cache says so once, and keeps what was used last."""
    run_python(
        START
        + """
import ctypes, warnings
def lock():
    assert not ctypes.CDLL(None).mlockall(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if sys.argv[1] == "before":
        lock()
    cache = mapscratch.Cache(max_bytes=40 << 20)
    if sys.argv[1] == "after":
        use(cache.memoize(make), 30, 100)
        assert cache.is_purgeable
        lock()
    use(cache.memoize(make), 60, 300)
assert not cache.is_purgeable
assert [warning.category for warning in caught] == [mapscratch.CacheFallbackWarning], caught
assert "lock" in str(caught[0].message) or "refuses" in str(caught[0].message)
assert cache.stats().bytes_held <= 40 << 20
""",
        when,
    )


@pytest.mark.slow
def test_no_more_addresses() -> None:
    """Under RLIMIT_AS the oldest make room, and nothing is raised."""
    run_python(
        START
        + """
import resource
cache = mapscratch.Cache()
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), resource.RLIM_INFINITY))
get = cache.memoize(make)
kept = []
for key in range(700):
    kept.append(get(key)[:10].copy())
    assert (kept[-1] == key).all()
stats = cache.stats()
assert stats.entries < 600
assert stats.evicted > 100, stats
assert stats.uncached == 0
held = []
try:
    while not cache.stats().uncached:
        held.append(get(10_000 + len(held)))
except MemoryError:  # of make: there are no addresses for anybody
    pass
assert all((value == 10_000 + number).all() for number, value in enumerate(held))
"""
    )


def test_what_it_holds_is_in_no_core_dump() -> None:
    run_python(
        START
        + """
from mapscratch.proc import range_memory
cache = mapscratch.Cache()
value = cache.get("key", lambda: make(1)).value
(pages,) = cache._table.entry("key").pages
assert "dd" in range_memory(pages.address, pages.size).vm_flags
"""
    )
