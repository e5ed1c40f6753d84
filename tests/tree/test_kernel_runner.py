# SPDX-License-Identifier: Apache-2.0
"""What the runner of the kernel's tests makes of what it reads: no kernel is built or booted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from kernel.vm import hunks, machine, source, suites
from kernel.vm.guest import kernel_complaints

SELF_TEST = """\
TAP version 13
1..3
ok 1 scratch.is_private
ok 2 pressure.droppable.lack_of_memory # SKIP MAP_DROPPABLE can't be locked, and never lacks it
ok 3 scratch.uprobes_stay_out{skip}
# Totals: pass:{passed} fail:0 xfail:0 xpass:0 skip:1 error:0
"""


def test_a_skip_that_the_guest_should_not_need_is_told() -> None:
    healthy = SELF_TEST.format(skip="", passed=2)
    assert suites.unexpected_skips(healthy) == []
    assert suites.count_passed(healthy) == 2
    lacking = SELF_TEST.format(skip=" # SKIP no uprobes here (root and tracefs)", passed=1)
    assert suites.unexpected_skips(lacking) == ["no uprobes here (root and tracefs)"]


def test_pytests_skips_are_told_too() -> None:
    output = (
        "SKIPPED [2] tests/test_x.py:7: this kernel has no MAP_SCRATCH\n== 4 passed, 2 skipped =="
    )
    assert suites.unexpected_skips(output) == ["this kernel has no MAP_SCRATCH"]
    assert suites.count_passed(output) == 4
    assert suites.count_passed("== 8 skipped in 1 s ==") is None
    assert suites.count_passed("no test at all") is None


def test_a_kernels_complaints_are_found_and_its_ordinary_lines_are_not() -> None:
    log = "\n".join(
        (
            "[    0.0] Kernel command line: oops=panic root=/dev/root",
            "[    1.0] Memory cgroup out of memory: Killed process 85 (python)",
            "[    1.0] Call Trace:",
            "[    2.0] WARNING: CPU: 0 PID: 7 at mm/rmap.c:1440",
            "[    3.0] BUG: Bad rss-counter state mm:0 type:MM_ANONPAGES val:1",
        )
    )
    assert [line.split()[2] for line in kernel_complaints(log)] == ["WARNING:", "BUG:"]


def test_pages_that_the_kernel_strategy_swapped_are_added_up() -> None:
    rounds = [
        {"strategy": "private", "swapped_out_pages": 9},
        {"strategy": "kernel", "swapped_out_pages": 0},
        {"strategy": "kernel", "swapped_out_pages": 2},
    ]
    assert suites.swapped_by_kernel(json.dumps({"rounds": rounds}).encode()) == 2
    assert suites.swapped_by_kernel(json.dumps({"rounds": rounds[:1]}).encode()) is None


def test_every_hunk_of_the_series_has_a_test_that_must_miss_it() -> None:
    counted = Counter(hunk.file for hunk in hunks.hunks())
    assert counted == {file: len(tests) for file, tests in hunks._TESTS.items()}
    self_test = next(patch for patch in source.series() if "selftests" in patch.name).read_text()
    named = {test for tests in hunks._TESTS.values() for test in tests}
    named |= {cut.test for cut in hunks.PARTS if not cut.unseen}
    for test in named - {hunks.THE_BUILD}:
        assert f", {test}" in self_test or f"TEST({test})" in self_test


def test_a_patch_without_its_hunk_is_the_patch_but_for_that() -> None:
    for hunk in hunks.hunks():
        whole = hunk.patch.read_bytes()
        assert len(hunk.rest) < len(whole)
        assert whole.startswith(hunk.rest[:200])


@pytest.mark.parametrize("place", ["/run/user/1/clone", "/dev/shm/clone", "/home/a b/clone"])
def test_a_tree_that_the_guest_could_not_see_is_refused(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(machine, "TREE", Path(place))
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    with pytest.raises(machine.MachineError, match=place):
        machine.check_host()


def test_without_qemu_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(machine.MachineError, match="apt install qemu-system-x86"):
        machine.check_host()
