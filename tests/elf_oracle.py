# SPDX-License-Identifier: Apache-2.0
"""What the tests of mapscratch.elf share: small compiled libraries, comparison with readelf."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mapscratch.elf import FixupPlan, LibraryRelocations, link, relocations
from mapscratch.lab.oracle import second_opinion

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc is missing: apt install build-essential"
)
needs_readelf = pytest.mark.skipif(
    shutil.which("readelf") is None, reason="readelf is missing: apt install binutils"
)


def compile_library(directory: Path, name: str, source: str, *options: str) -> Path:
    """Compile C source to `directory/lib<name>.so`, without libc unless an option adds it."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt install build-essential")
    code = directory / f"{name}.c"
    code.write_text(source)
    library = directory / f"lib{name}.so"
    flags = ["-O1", "-fPIC", "-fno-plt", "-w", "-shared", "-nostdlib", "-nostartfiles"]
    command = ["gcc", *flags, f"-Wl,-soname,{library.name}", "-o", library, code, *options]
    subprocess.run(command, check=True, capture_output=True)
    return library


def supports(directory: Path, option: str) -> bool:
    """Whether the compiler and its linker understand an option and make a library of it."""
    try:
        compile_library(directory, "probe", "int probe;", option, "-Wl,--fatal-warnings")
    except subprocess.CalledProcessError:
        return False
    return True


def planned_words(plan: FixupPlan) -> dict[int, tuple[int, int]]:
    """A plan in the form that the oracle gives: file offset to constant and definer."""
    offsets = (plan.offsets + plan.window_offset).tolist()
    pairs = zip(plan.constants.tolist(), plan.definers.tolist(), strict=True)
    return dict(zip(offsets, pairs, strict=True))


def link_and_check(paths: Sequence[Path]) -> tuple[list[LibraryRelocations], list[FixupPlan]]:
    """Read and link libraries; every word must be the one that readelf's output gives."""
    libraries = [relocations(path) for path in paths]
    plans = link(libraries)
    for plan, expected in zip(plans, second_opinion(paths).words, strict=True):
        planned = planned_words(plan)
        wrong = [
            (hex(at), planned.get(at), expected.get(at))
            for at in sorted(planned.keys() | expected.keys())
            if planned.get(at) != expected.get(at)
        ]
        assert not wrong, f"{plan.path}: {len(wrong)} words differ, first {wrong[:3]}"
    for library, plan in zip(libraries, plans, strict=True):
        counted = sum(plan.kinds.values()) + sum(plan.skipped.values())
        assert counted == len(library)
        assert sum(plan.kinds.values()) == len(plan)
    return libraries, plans
