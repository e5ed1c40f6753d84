# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md, "Control groups and containers": droppable pages in the figures of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path
from typing import TypeAlias

import pytest
from support.operated import (
    ARRAY,
    MIB,
    Operated,
    lasting,
    make_source,
    operated,
    require_lazyfree,
    temporary_group,
)
from support.squeezing import limit_hits, oom_kills
from support.swap import some_swap
from support.waiting import eventually

from mapscratch.lab.rig.machine.cgroups import (
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import process_memory

SOURCE = 4 * MIB
DECODED = 8 * SOURCE
SLACK = 4 * MIB
Shared: TypeAlias = tuple[TemporaryMemoryCgroup, Callable[[], Operated]]

needs_groups = pytest.mark.skipif(
    not probe_temporary_memory_cgroup(), reason=probe_temporary_memory_cgroup().reason
)
pytestmark = needs_groups


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A process in a group that has been charged for nothing of its start."""
    require_lazyfree()
    source = make_source(tmp_path_factory.mktemp("groups") / "bytes", SOURCE)
    with temporary_memory_cgroup() as group:

        @contextmanager
        def start() -> Iterator[Operated]:
            with operated(ARRAY, source) as process:
                group.add(process.pid)
                yield process

        with lasting(start) as whole:
            yield group, whole


@pytest.fixture
def group(shared: Shared) -> Iterator[TemporaryMemoryCgroup]:
    """Without a limit."""
    group, _ = shared
    yield group
    if group.version == 1:
        (group.directory / "memory.limit_in_bytes").write_text("-1")
        return
    for name in ("memory.max", "memory.high", "memory.swap.max"):
        (group.directory / name).write_text("max")


@pytest.fixture
def version_2(group: TemporaryMemoryCgroup) -> TemporaryMemoryCgroup:
    """The same; of the version that most machines have, which a virtual machine is booted with."""
    if group.version != 2:
        pytest.skip("the memory controller is one of version 1 here")
    return group


@pytest.fixture
def process(shared: Shared) -> Operated:
    """With an array of which no page is in memory."""
    _, whole = shared
    process = whole()
    process.ask("array.scratch.drop()")
    return process


def figure(group: TemporaryMemoryCgroup, name: str) -> int:
    """A figure of memory.stat; v1 has one for the group and one ("total") with its children."""
    return group.statistics()[f"total_{name}" if group.version == 1 else name]


def working_set(group: TemporaryMemoryCgroup) -> int:
    """As cAdvisor has it, and so the kubelet: container/libcontainer/handler.go, setMemoryStats."""
    return max(group.usage() - figure(group, "inactive_file"), 0)


def read_all(process: Operated) -> None:
    process.ask("float(array.max())")


def test_a_group_counts_droppable_pages_as_inactive_file(
    process: Operated, group: TemporaryMemoryCgroup
) -> None:
    before = figure(group, "inactive_file")
    read_all(process)
    assert group.usage() > DECODED
    assert figure(group, "inactive_file") - before > DECODED - SLACK
    # They are anonymous memory all the same, and no page cache: v1 says so as rss and cache.
    assert figure(group, "rss" if group.version == 1 else "anon") > DECODED - SLACK
    assert figure(group, "inactive_anon") + figure(group, "active_anon") < SLACK


def test_a_working_set_excludes_them(process: Operated, group: TemporaryMemoryCgroup) -> None:
    read_all(process)
    assert group.usage() > DECODED
    assert working_set(group) < SLACK


def test_a_working_set_counts_those_that_are_used_while_memory_is_short(
    process: Operated, group: TemporaryMemoryCgroup
) -> None:
    read_all(process)

    def moves_to_the_active_list() -> bool:
        process.ask("[float(array.max()) for _ in range(3)]")
        group.reclaim(SOURCE)
        return figure(group, "active_file") > DECODED // 4

    assert any(moves_to_the_active_list() for _ in range(20))
    assert working_set(group) > DECODED // 4
    # They go like the others, all the same.
    assert eventually(lambda: group.reclaim(2 * DECODED) >= 0 and group.usage() < SLACK)
    assert process.ask("array.scratch.counts().swapped") == 0


def test_reclaim_of_the_group_gives_them_back(
    process: Operated, group: TemporaryMemoryCgroup
) -> None:
    read_all(process)
    assert process_memory(process.pid).lazy_free >= DECODED
    group.reclaim(2 * DECODED)
    assert eventually(lambda: group.reclaim(2 * DECODED) >= 0 and group.usage() < SLACK)
    assert process.ask("array.scratch.counts().resident") == 0


def test_force_empty_gives_them_back(process: Operated, group: TemporaryMemoryCgroup) -> None:
    file = group.directory / "memory.force_empty"
    if not file.exists():
        pytest.skip("control groups of version 2 have memory.reclaim in its place")
    read_all(process)
    file.write_text("0")
    assert group.usage() < SLACK


def test_under_a_limit_nobody_is_killed_and_nothing_swapped(
    process: Operated, group: TemporaryMemoryCgroup
) -> None:
    before, rebuilt = limit_hits(group), process.ask("array.scratch.counts().rebuilt")
    with some_swap():
        group.set_limit(DECODED // 2)
        for _ in range(3):
            read_all(process)
        assert process.ask("array.scratch.counts().swapped") == 0
        assert process.ask("array.scratch.counts().rebuilt") > rebuilt
        assert limit_hits(group) > before
        assert oom_kills(group) == 0


@pytest.mark.parametrize("swappiness", [0, 100])
def test_swappiness_is_of_no_importance(
    process: Operated, group: TemporaryMemoryCgroup, swappiness: int
) -> None:
    file = group.directory / "memory.swappiness"
    if not file.exists():
        pytest.skip("a control group of version 2 has no swappiness of its own")
    with some_swap():
        usual = file.read_text()
        file.write_text(str(swappiness))
        group.set_limit(DECODED // 2)
        read_all(process)
        file.write_text(usual)
        assert process.ask("array.scratch.counts().swapped") == 0
        assert process.ask("array.scratch.counts().resident") * 4096 <= DECODED // 2
        assert oom_kills(group) == 0


@pytest.mark.vm
def test_version_2_counts_what_is_freed_lazily_and_what_of_it_is_taken(
    process: Operated, version_2: TemporaryMemoryCgroup
) -> None:
    pages = DECODED // PAGESIZE
    before = version_2.statistics()
    read_all(process)
    read = version_2.statistics()
    assert read["pglazyfree"] - before["pglazyfree"] >= pages
    assert read["pglazyfreed"] - before["pglazyfreed"] < pages // 8
    assert eventually(lambda: version_2.reclaim(2 * DECODED) >= 0 and version_2.usage() < SLACK)
    assert version_2.statistics()["pglazyfreed"] - read["pglazyfreed"] >= pages


@pytest.mark.vm
def test_under_memory_high_they_are_taken_and_nothing_else_happens(
    process: Operated, version_2: TemporaryMemoryCgroup
) -> None:
    before = _events(version_2)
    with some_swap():
        (version_2.directory / "memory.high").write_text(str(DECODED // 2))
        for _ in range(3):
            read_all(process)
            assert version_2.usage() < DECODED // 2 + SLACK
        assert process.ask("array.scratch.counts().swapped") == 0
    after = _events(version_2)
    assert after["high"] > before["high"]
    assert after["max"] == before["max"]
    assert after["oom_kill"] == 0


@pytest.mark.vm
def test_without_any_swap_allowed_nothing_is_lost(
    process: Operated, version_2: TemporaryMemoryCgroup
) -> None:
    with some_swap():
        (version_2.directory / "memory.swap.max").write_text("0")
        version_2.set_limit(DECODED // 2)
        sums = {process.ask("float(array.sum())") for _ in range(3)}
        assert len(sums) == 1
    assert oom_kills(version_2) == 0
    assert version_2.statistics()["pglazyfreed"] > 0


def _events(group: TemporaryMemoryCgroup) -> dict[str, int]:
    lines = (group.directory / "memory.events").read_text().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


_ORDINARY = """
    import numpy as np
    array = np.fromfile(sys.argv[1], "i1").astype("f8") * 0.37
"""


def stall_of(code: str, source: Path) -> tuple[int, int] | None:
    """Microseconds that a process waits for memory in two scans, and bytes of it in swap then.

    None: it was killed, because others of this machine have taken the swap, or its device away.
    """
    with (
        temporary_memory_cgroup() as group,
        pressure_group(group) as watched,
        operated(code, source) as process,
    ):
        file = watched / "memory.pressure"
        if not file.exists():
            pytest.skip("no pressure stall information")
        group.add(process.pid)
        if watched != group.directory:
            (watched / "cgroup.procs").write_text(str(process.pid))
        # Memory is charged to the group in which it is made.
        process.ask("array.scratch.drop()" if code == ARRAY else "exec('array = array.copy()')")
        process.ask("float(array.max())")
        group.set_limit(group.usage() - DECODED // 4)
        before = stalled(file)
        try:
            process.ask("[float(array.max()) for scan in range(2)]")
        except AssertionError:
            return None
        return stalled(file) - before, process.status("VmSwap")


@contextmanager
def pressure_group(group: TemporaryMemoryCgroup) -> Iterator[Path]:
    """Where its pressure is told: beside version 1, in a group of version 2 without controllers."""
    if group.version == 2:
        yield group.directory
        return
    with temporary_group("") as watched:
        yield watched


def stalled(pressure: Path) -> int:
    some = pressure.read_text().splitlines()[0]
    return int(some.rpartition("=")[2])


def test_memory_pressure_is_lower_than_with_swap(lazyfree: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "bytes", SOURCE)
    with some_swap():
        ordinary = next(filter(None, (stall_of(_ORDINARY, source) for _ in range(4))))
        scratch = next(filter(None, (stall_of(ARRAY, source) for _ in range(4))))
    swapping, swapped = ordinary
    ours, swapped_of_ours = scratch
    assert swapped > DECODED // 8
    assert swapped_of_ours < MIB  # of the interpreter's own
    assert swapping > 10_000
    assert ours < swapping / 2
