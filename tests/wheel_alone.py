# SPDX-License-Identifier: Apache-2.0
"""Installs a wheel as users do, where there is no compiler and nothing else, and uses it.

Usage: wheel_alone.py WHEEL
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

NEWEST_GLIBC = 34
"""Of version 2: who has an older one can't use the wheel."""

USE = """
import numpy as np, mapscratch

values = np.arange(100_000, dtype=">i2")
values.tofile("values")
array = mapscratch.array("values", "f4", source=">i2", scale=0.5)
assert np.array_equal(array, values.astype("f4") * np.float32(0.5))
cache = mapscratch.Cache()
with cache.get("key", lambda: np.arange(9)) as kept:
    assert kept.sum() == 36
with mapscratch.ScratchMap("values") as m:
    assert m[:] == values.tobytes()
    m.drop()
    assert m[:] == values.tobytes()
print("array, Cache and ScratchMap work")
"""


def oldest_glibc(wheel: Path) -> int:
    """The minor version of the oldest glibc 2 that the wheel says it runs with."""
    tags = re.findall(r"manylinux_2_(\d+)_", wheel.name)
    if not tags:
        raise SystemExit(f"{wheel.name} says nothing of manylinux")
    return min(map(int, tags))


def main(wheel: Path) -> None:
    """Exits with a message if anything is not as it should be."""
    if oldest_glibc(wheel) > NEWEST_GLIBC:
        raise SystemExit(f"{wheel.name} needs a glibc newer than 2.{NEWEST_GLIBC}")
    if sources := [
        name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".c", ".h"))
    ]:
        raise SystemExit(f"{wheel.name} has sources that nobody can use: {sources}")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        venv.create(folder / "alone", with_pip=False)
        programs = folder / "alone" / "bin"
        path = str(programs)
        assert not any(shutil.which(name, path=path) for name in ("cc", "gcc", "meson", "ninja"))
        environment = {"PATH": path, "HOME": directory, "XDG_CACHE_HOME": directory}
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        pip += ["--python", str(programs / "python")]
        # pip itself with all variables, for where packages come from is said there, too.
        install = [*pip, "install", "--quiet", "--only-binary", ":all:", str(wheel.resolve())]
        subprocess.run(install, env=os.environ | {"PATH": path}, check=True)
        listed = json.loads(subprocess.check_output([*pip, "list", "--format", "json"]))
        brought = {package["name"] for package in listed}
        if brought != {"mapscratch", "numpy"}:
            raise SystemExit(f"the wheel brings {sorted(brought)}")
        for command in (
            ["python", "-c", USE],
            ["mapscratch", "doctor"],
            ["mapscratch", "demo", "--limit", "16"],
            ["mapscratch", "ps"],
            ["mapscratch", "run", "--", "/bin/echo", "run works"],
        ):
            subprocess.run(
                [programs / command[0], *command[1:]], cwd=folder, env=environment, check=True
            )
    print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB, works without a compiler")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
