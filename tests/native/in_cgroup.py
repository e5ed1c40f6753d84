# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a temporary memory cgroup: ``in_cgroup.py MEBIBYTES COMMAND…``.

Exits with 77, which meson counts as skipped, where no such group can be made, and prints why.
"""

import os
import subprocess
import sys

from mapscratch.lab.rig.machine.cgroups import (
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)
from mapscratch.proc.procfs import read_numbers


def main() -> int:
    mebibytes, command = int(sys.argv[1]), sys.argv[2:]
    probe = probe_temporary_memory_cgroup()
    if not probe.available:
        print(f"skipped: {probe.reason}")
        return 77
    with temporary_memory_cgroup() as group:
        group.add(os.getpid())
        group.set_limit(mebibytes << 20)
        status = subprocess.run(command, check=False).returncode
        if group.version == 1:
            hits = int((group.directory / "memory.failcnt").read_text())
        else:
            hits = read_numbers((group.directory / "memory.events").read_text())["max"]
        print(f"in {mebibytes} MiB: the limit was hit {hits} times")
    return status if status or hits else 3


if __name__ == "__main__":
    sys.exit(main())
