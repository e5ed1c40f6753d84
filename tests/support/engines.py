# SPDX-License-Identifier: Apache-2.0
"""Which engines the tests can run on here."""

from __future__ import annotations

import mapscratch

STATUS = {status.name: status for status in mapscratch.engines()}
AVAILABLE = tuple(name for name, status in STATUS.items() if status.available)


def why_not(engine: str) -> str:
    """Why an engine's tests are skipped."""
    return f"engine {engine!r} is not available: {STATUS[engine].reason} {STATUS[engine].remedy}"
