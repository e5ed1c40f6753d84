# SPDX-License-Identifier: GPL-2.0-only
"""What is run on which kernel, and how long each part may take."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from kernel.vm.machine import TREE, Step
from kernel.vm.package import environment

EXT4, TMPFS, OVERLAY = "/run/ext4", "/run/tmpfs", "/var/tmp"
FILE_SYSTEMS = {"ext4": EXT4, "tmpfs": TMPFS, "overlay": OVERLAY}

NATIVE = TREE / "build" / "native" / "tests" / "native"
CONTRACT_TESTS = ("contract", "engines", "fork", "mapping", "traps")
GROUP_TESTS = "test_operating_groups.py"

FAIL_UNPATCHED = (
    "pressure.droppable.reclaim_counts_what_it_drops",
    "global.droppable_refuses_userfaultfd",
)
"""Tests of the self-test that show a defect of every kernel with MAP_DROPPABLE, each time."""
MAY_FAIL_UNPATCHED = ("order.droppable.no_cpu_uses_a_dropped_page",)
"""The same, where it takes a race to show it."""


EXPECTED_SKIPS = (
    "MAP_DROPPABLE can't be locked",
    "it has no native thread: test_engines_kernel.py",
    "the kernel is not asked: the next test",
    "no memory cgroup of version 1",
    "control groups of version 2 have memory.reclaim in its place",
    "a control group of version 2 has no swappiness of its own",
)
"""Reasons for which a test may skip in a guest that has all that there is to be tested."""

_SKIP = re.compile(r"^(?:ok \d+ .*# SKIP (.*)|SKIPPED \[\d+\] \S+ (.*))$", flags=re.MULTILINE)
_PASSED = re.compile(r"^(?:# Totals: pass:(\d+)|=+ .*?(\d+) passed)", flags=re.MULTILINE)


def unexpected_skips(output: str) -> list[str]:
    """Reasons of skipped tests that no healthy guest gives."""
    reasons = [first or second for first, second in _SKIP.findall(output)]
    return [one for one in reasons if not any(known in one for known in EXPECTED_SKIPS)]


def count_passed(output: str) -> int | None:
    """How many tests a self-test or pytest says have passed; None for what is neither."""
    found = _PASSED.findall(output)
    return sum(int(first or second) for first, second in found) if found else None


def swapped_by_kernel(document: bytes) -> int | None:
    """Pages that `mapscratch compare` saw go to swap with the kernel strategy; None if not run."""
    rows = [row for row in json.loads(document)["rounds"] if row["strategy"] == "kernel"]
    return sum(row["swapped_out_pages"] for row in rows) if rows else None


def _pytest(
    name: str, files: tuple[str, ...], limit: int, *, select: str = "", at: str = EXT4
) -> Step:
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=5"]
    command += ["-m", "not stress", "-s"]
    command += ["--basetemp", f"{at}/pytest-{name.replace(' ', '-')}"]
    if select:
        # Of the package's own tests those of one engine, and few examples of each property.
        command += ["-k", select, "--hypothesis-profile", "guest"]
    return Step(name, (*command, *files), limit, environment() | {"TMPDIR": at}, str(TREE))


def _contract_files() -> tuple[str, ...]:
    return tuple(
        str(path)
        for kind in CONTRACT_TESTS
        for path in sorted(TREE.glob(f"tests/*/test_{kind}*.py"))
    )


def self_test(program: Path, file_system: str, *arguments: str, order_seconds: int = 5) -> Step:
    """The series' own test with its file on a file system."""
    return Step(
        f"self-test on {file_system}",
        (str(program), *arguments),
        180,
        {"TMPDIR": FILE_SYSTEMS[file_system], "ORDER_SECONDS": str(order_seconds)},
    )


def pressure() -> Step:
    """MAP_PRIVATE beside MAP_SCRATCH under each kind of memory pressure."""
    return _pytest("memory pressure", (str(TREE / "kernel/tests/test_pressure.py"),), 240)


def reproducers(*arguments: str) -> Step:
    """The programs that show the defects of today's MAP_DROPPABLE."""
    program = str(TREE / "kernel/reproducers/check.py")
    return Step("reproducers", (sys.executable, program, *arguments), 180)


def contract() -> tuple[Step, ...]:
    """The contract of scratch mappings with the kernel engine; the other engines in passing."""
    quick = tuple(
        str(TREE / "tests" / name)
        for name in (
            "test_mapping_words.py",
            "test_mapping_pages.py",
            "test_contract_page_states.py",
        )
        if (TREE / "tests" / name).exists()
    )
    return (
        _pytest("contract on ext4", _contract_files(), 900, select="kernel"),
        _pytest("contract on tmpfs", quick, 120, select="kernel", at=TMPFS),
        _pytest("contract on overlay", quick, 120, select="kernel", at=OVERLAY),
        Step(
            "word stress", (str(NATIVE / "word_stress"), "kernel", "--operations", "1000000"), 120
        ),
        Step("page order", (str(NATIVE / "page_order"), "kernel", "--seconds", "10"), 60),
        _pytest("dontneed", (str(TREE / "tests/engine/test_engines_dontneed.py"),), 240),
        _pytest("lazyfree", quick, 180, select="lazyfree"),
    )


def groups() -> Step:
    """What operators see of droppable pages in control groups of version 2.

    But for how long a process waits: there a device would race with an emulated processor.
    """
    file = str(TREE / "tests" / GROUP_TESTS)
    return _pytest("control groups", (file,), 300, select="not memory_pressure")


def code() -> Step:
    """CPython with text mapped MAP_SCRATCH: dropped, not swapped, bound again."""
    return _pytest("code fixups", (str(TREE / "kernel/tests/test_code.py"),), 240)


def compare() -> Step:
    """The main job, with a picture and its figures for the documentation."""
    command = (
        sys.executable, "-m", "mapscratch", "compare", "--processes", "1,2,4", "--rounds", "3",
        "--seconds", "90", "--json", "/run/share/compare.json", "--chart", "/run/share/compare.svg",
    )  # fmt: skip
    return Step("mapscratch compare", command, 240, environment(), EXT4)
