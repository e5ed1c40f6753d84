# SPDX-License-Identifier: Apache-2.0
"""Where the tree is, and the tests in it."""

from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
TESTS = TREE / "tests"
