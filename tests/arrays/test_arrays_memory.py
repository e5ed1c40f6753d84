# SPDX-License-Identifier: Apache-2.0
"""More array than memory: it lives where an ordinary one is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.patience import communicate

from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc import active_swaps

LIMIT = 48 << 20
ITEMS = 4 * LIMIT // 4

ORDINARY = """
import sys, numpy as np
array = np.memmap(sys.argv[1], ">i2", "r").astype("f4") * np.float32(0.5)
print("right" if array[::4096].sum() else "wrong")
"""

OURS = """
import sys, numpy as np, mapscratch
path = sys.argv[1]
array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
raw = np.memmap(path, ">i2", "r")
step = 1 << 19
for scan in range(2):
    for start in range(0, len(raw), step):
        expected = raw[start : start + step].astype("f4") * np.float32(0.5)
        assert np.array_equal(array[start : start + step], expected), start
for index in np.random.default_rng(0).integers(0, len(raw), 3000):
    assert array[index] == np.float32(raw[index]) * np.float32(0.5), index
counts = array.scratch.counts()
assert counts.swapped == 0
assert counts.rebuilt > 10_000, counts
assert counts.resident * 4096 < 48 << 20
print("right")
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "values"
    np.random.default_rng(0).integers(1, 30_000, ITEMS).astype(">i2").tofile(path)
    return path


def run_limited(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a memory cgroup of `LIMIT`."""
    with temporary_memory_cgroup(LIMIT) as cgroup:
        process = subprocess.Popen(
            [sys.executable, "-c", f"input()\n{code}", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        cgroup.add(process.pid)
        output, errors = communicate(process, "go\n", seconds=100)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_four_times_the_limit(lazyfree: str, path: Path) -> None:
    probe = probe_temporary_memory_cgroup()
    if not probe:
        pytest.skip(f"no memory cgroup: {probe.reason}")
    if active_swaps():
        pytest.skip("an ordinary array would be swapped: there is swap")
    ordinary = run_limited(ORDINARY, path)
    assert ordinary.returncode == -signal.SIGKILL, ordinary
    ours = run_limited(OURS, path)
    assert (ours.returncode, ours.stdout) == (0, "right\n"), ours.stderr
