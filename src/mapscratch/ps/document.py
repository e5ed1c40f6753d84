# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, for programs: ``mapscratch ps --json``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from mapscratch.documents import Document, document_head
from mapscratch.ps.census import ScratchCensus

NAME = "mapscratch.ps"
VERSION = 1


def ps_document(census: ScratchCensus, created: datetime, seconds: float) -> Document:
    """The document of a census, when it was taken (with a time zone) and how long that took.

    It has nothing but what JSON has; what can't be known is null.
    """
    found = asdict(census, dict_factory=_members)
    return {**document_head(NAME, VERSION, created), "seconds": seconds, **found}


def _members(pairs: list[tuple[str, Any]]) -> Document:
    members = {name: any_text(each) if isinstance(each, str) else each for name, each in pairs}
    if "problem" in members:
        members["readable"] = members["problem"] is None
    return members


def any_text(name: str) -> str:
    """A name of the file system, or of a process, which may be of any bytes, as text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
