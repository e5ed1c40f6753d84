# SPDX-License-Identifier: Apache-2.0
"""What is alike of a process's scratch memory, summed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mapscratch.ps.census import ScratchCensus, ScratchMapping, ScratchProcess


@dataclass(frozen=True, slots=True)
class Group:
    """Mappings of one kind and engine of a process."""

    process: ScratchProcess
    kind: str
    engine: str | None
    mappings: tuple[ScratchMapping, ...]

    def sum(self, name: str) -> Any:
        """Of a figure of `ScratchMapping`; None where it is not known of one of them."""
        values = [getattr(mapping, name) for mapping in self.mappings]
        return None if None in values else sum(values)


def groups(census: ScratchCensus) -> Iterator[Group]:
    """All of them, process by process."""
    for process in census.processes:
        alike: dict[tuple[str, str | None], list[ScratchMapping]] = {}
        for mapping in process.mappings:
            alike.setdefault((mapping.kind, mapping.engine), []).append(mapping)
        for (kind, engine), mappings in alike.items():
            yield Group(process, kind, engine, tuple(mappings))
