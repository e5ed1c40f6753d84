# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md and the experiments that it rests on name each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.places import TESTS, TREE

_GUIDE = TREE / "docs" / "operating.md"


def guide() -> str:
    if not _GUIDE.exists():
        pytest.skip("the documentation is not there: this is an installed package")
    return _GUIDE.read_text()


def test_the_guide_names_each_test_and_each_test_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", guide()))
    files = TESTS.glob("**/test_operating_*.py")
    exist = {
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert named - exist == set()
    assert exist - named == set()


def test_the_unit_of_the_guide_is_understood(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    (unit,) = re.findall(r"```ini\n(.*?)```", guide(), re.S)
    file = tmp_path / "guide.service"
    file.write_text(unit)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True
    )
    assert "Unknown" not in found.stderr, found.stderr
    assert "Failed to parse" not in found.stderr, found.stderr
    file.write_text(unit + "\n[Service]\nMemoryHihg=1G\n")
    wrong = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True
    )
    assert "Unknown" in wrong.stderr, wrong.stderr
