# SPDX-License-Identifier: Apache-2.0
"""The processes that use scratch memory, for programs: ``mapscratch ps --json``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from mapscratch.documents import Document, document_head
from mapscratch.ps.census import ScratchCensus, ScratchProcess

NAME = "mapscratch.ps"
VERSION = 1


def ps_document(census: ScratchCensus, created: datetime, seconds: float) -> Document:
    """The document of a census: nothing but what JSON has; what can't be known is null.

    Args:
        census: what was found.
        created: when, with a time zone.
        seconds: that it took.
    """
    return {
        **document_head(NAME, VERSION, created),
        "seconds": seconds,
        "processes": [_process_document(process) for process in census.processes],
        "runs": [
            {
                "counts_file": any_text(run.counts_file),
                "pids": list(run.pids),
                "counts": asdict(run.counts),
            }
            for run in census.runs
        ],
        "unreadable": census.unreadable,
    }


def _process_document(process: ScratchProcess) -> Document:
    mappings = [asdict(mapping) for mapping in process.mappings]
    for mapping in mappings:
        mapping["name"] = any_text(mapping["name"])
    return {
        "pid": process.pid,
        "command": any_text(process.command),
        "user": process.user,
        "readable": process.problem is None,
        "problem": process.problem,
        "mappings": mappings,
        "unlisted": process.unlisted,
        "totals": asdict(process.totals) if process.totals else None,
    }


def any_text(name: str) -> str:
    """A name of the file system, or of a process, which may be of any bytes, as text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
