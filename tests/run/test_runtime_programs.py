# SPDX-License-Identifier: Apache-2.0
"""Programs of every day under `mapscratch run`, their text dropped every few milliseconds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.places import TESTS

from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import (
    Reports,
    ResolverCounts,
    environment,
    find_program,
    libraries_at_start,
    reports,
)

SOURCES = TESTS / "runtime"
CPYTHON_TESTS = (
    "test_zlib", "test_sqlite3", "test_hashlib", "test_ctypes", "test_pickle", "test_socket",
    "test_ssl", "test_threading", "test_subprocess", "test_multiprocessing_main_handling",
    "test_faulthandler", "test_signal", "test_exceptions", "test_decimal", "test_struct",
)  # fmt: skip
# A socket of a virtual machine's, which waits for ever where there is no such machine.
IGNORED = ("*VSOCK*",)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ConversionCache:
    return ConversionCache(tmp_path_factory.mktemp("programs"))


@contextmanager
def warm(
    cache: ConversionCache, command: Sequence[str], drop_every: int
) -> Iterator[tuple[dict[str, str], Reports]]:
    """An environment for a command of whose libraries all are in the cache that can be."""
    for path in libraries_at_start(find_program(command[0])):
        cache.keep(path)
    with reports() as made:
        yield environment(cache, made, drop_every=drop_every), made


def same_output(cache: ConversionCache, command: Sequence[str], drop_every: int) -> ResolverCounts:
    """Run a command as it is, and twice converted: first some of its libraries are not known."""
    expected = subprocess.run(command, capture_output=True, check=True)
    for _ in range(2):
        with warm(cache, command, drop_every) as (variables, made):
            done = subprocess.run(command, capture_output=True, env=variables, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (
                expected.returncode,
                expected.stdout,
                expected.stderr,
            )
            counts = made.counts()
            for path in made.misses():
                cache.keep(path)
    return counts


SCRIPTS = {
    "bash": [
        "bash",
        "-c",
        "for i in {1..3000}; do x=$((x + i)); y=${y}a; done; echo $x ${#y}; "
        "for i in {1..30}; do echo $i | cat; done; [[ abc =~ b(.) ]]; echo ${BASH_REMATCH[1]}",
    ],
    "digests": ["sh", "-c", "for d in md5 sha1 sha256 sha512; do openssl dgst -$d $0; done"],
    "sqlite": [
        "python3",
        "-c",
        "import sqlite3\n"
        "c = sqlite3.connect(':memory:')\n"
        "c.execute('create table t (a integer primary key, b text)')\n"
        "c.executemany('insert into t values (?, ?)', ((i, str(i * i)) for i in range(60000)))\n"
        "print(c.execute('select count(*), sum(length(b)), max(b) from t where b like "
        '"%7%"\').fetchall())\n',
    ],
    "numpy": [
        sys.executable,
        "-c",
        "import numpy as np\n"
        "a = np.arange(360000.0).reshape(600, 600) % 13 + np.eye(600) * 50\n"
        "print(np.linalg.inv(a).sum(), np.fft.fft(a[0]).real[:3], np.sort(a, axis=0)[5, 5])\n",
    ],
    "sort": ["sh", "-c", "seq 1 60000 | sort -R --random-source=$0 | sort -n | sha256sum"],
}


@pytest.mark.parametrize("drop_every", [1, 5])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_output(name: str, drop_every: int, cache: ConversionCache) -> None:
    command = [*SCRIPTS[name], os.path.realpath(sys.executable)]
    if name == "digests" and not shutil.which("openssl"):
        pytest.skip("no openssl here")
    counts = same_output(cache, command, drop_every)
    assert counts.overlaid > 0
    assert counts.resolved > 50
    assert counts.refused == 0


@pytest.fixture(scope="module")
def cpython() -> str:
    """A Python that brings its tests along."""
    for candidate in (sys.executable, "python3"):
        probe = [candidate, "-I", "-c", "import test.test_zlib, test._test_multiprocessing"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return os.path.realpath(shutil.which(candidate) or candidate)
    pytest.skip("no Python here has its own tests (on Debian: libpython3-testsuite)")


def results(output: str) -> tuple[str, str]:
    """How many of CPython's tests ran, and which files of them failed."""
    ran = re.search(r"Total tests: run=([\d,]+)", output)
    failed = re.search(r"tests? failed:\n((?:    .*\n)+)", output)
    return (ran[1] if ran else "?"), " ".join(failed[1].split()) if failed else ""


@pytest.mark.stress
@pytest.mark.timeout(1500)
def test_cpython_passes_its_own_tests(cpython: str, cache: ConversionCache, tmp_path: Path) -> None:
    """Those that fail are those that fail without us too."""
    command = [cpython, "-m", "test", "--timeout", "300", "--tempdir", str(tmp_path)]
    for pattern in IGNORED:
        command += ["-i", pattern]
    command += CPYTHON_TESTS
    outcomes = []
    for is_converted in (False, True):
        with warm(cache, command, 3) as (variables, made):
            if is_converted:
                subprocess.run([*command[:3], "test_zlib"], env=variables, check=True)
                for path in made.misses():
                    cache.keep(path)
            told = subprocess.run(
                command,
                env=variables if is_converted else None,
                capture_output=True,
                text=True,
                check=False,
            )
            counts = made.counts()
        outcomes.append(results(told.stdout))
    assert counts.dropped > 10_000
    assert counts.refused == 0
    print(f"{outcomes[1][0]} tests, the same result; {counts}")
    assert outcomes[0][1] == outcomes[1][1]


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_cpython_passes_its_tests_of_multiprocessing(cpython: str, cache: ConversionCache) -> None:
    command = [cpython, str(SOURCES / "multiprocessing_tests.py")]
    with warm(cache, command, 3) as (variables, made):
        told = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        counts = made.counts()
    assert told.returncode == 0, told.stderr[-2000:]
    ran = re.search(r"Ran (\d+) tests", told.stderr)
    assert ran
    assert int(ran[1]) > 300
    print(f"{ran[1]} tests; {counts}")
    assert counts.dropped > 1000
