# SPDX-License-Identifier: Apache-2.0
"""Programs that call through PLT entries, built from tests/runtime, and ways to run them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.patience import patient

from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import Reports, environment, reports

SOURCES = Path(__file__).with_name("runtime")
COMPILER = "cc"


def build(output: Path, source: str, *arguments: str, compiler: str = COMPILER) -> Path:
    """Compile and link one source of tests/runtime."""
    command = [compiler, "-O2", "-g0", str(SOURCES / source), "-o", str(output), *arguments]
    subprocess.run(command, check=True)
    return output


def build_library(output: Path, source: str, *arguments: str, compiler: str = COMPILER) -> Path:
    return build(
        output,
        source,
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{output.name}",
        *arguments,
        compiler=compiler,
    )


def build_calls(folder: Path, *link_arguments: str, program: str = "stress.c") -> Path:
    """libcallee.so, libcaller.so that calls it a thousand times over, and a program."""
    build_library(folder / "libcallee.so", "callee.c")
    near = (f"-L{folder}", "-Wl,-rpath,$ORIGIN")
    build_library(folder / "libcaller.so", "caller.c", *near, "-lcallee", *link_arguments)
    return build(folder / "program", program, *near, "-lcaller", "-lcallee", "-pthread")


@contextmanager
def converted(
    folder: Path, *libraries: Path, drop_every: int | None = None, reclaimer: str | None = "off"
) -> Iterator[tuple[dict[str, str], Reports, ConversionCache]]:
    """An environment in which libraries run converted, from a cache of its own."""
    cache = ConversionCache(folder / "cache")
    for library in libraries:
        cache.keep(library)
    with reports() as made:
        yield environment(cache, made, drop_every=drop_every, reclaimer=reclaimer), made, cache


def run(command: Sequence[str | Path], variables: Mapping[str, str]) -> str:
    """Standard output of a command that must succeed."""
    result = subprocess.run(
        [os.fspath(word) for word in command],
        env=dict(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(100),
    )
    assert result.returncode == 0, f"status {result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout
