# SPDX-License-Identifier: Apache-2.0
"""What the documents that commands write for programs have in common."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from mapscratch import __version__

Document = dict[str, Any]
"""Nothing but what JSON has."""


def document_head(name: str, version: int, created: datetime) -> Document:
    """What every document begins with: what it is, when it was made, by what, on which machine."""
    kernel = os.uname()
    return {
        "document": name,
        "version": version,
        "mapscratch": __version__,
        "created": created.isoformat(timespec="seconds"),
        "machine": {
            "kernel": kernel.release,
            "architecture": kernel.machine,
            "processors": len(os.sched_getaffinity(0)),
            "page_size": os.sysconf("SC_PAGESIZE"),
        },
    }
