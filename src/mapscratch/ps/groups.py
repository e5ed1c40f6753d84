# SPDX-License-Identifier: Apache-2.0
"""What is alike of a process's scratch memory, summed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from mapscratch.ps.census import ScratchMapping, ScratchProcess


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

    def cache_sum(self, name: str) -> Any:
        """Of a figure of `CacheFigures`; None where these are no caches."""
        values = [getattr(mapping.cache, name, None) for mapping in self.mappings]
        return None if None in values else sum(values)


def groups(process: ScratchProcess) -> list[Group]:
    """All of them."""
    alike = defaultdict(list)
    for mapping in process.mappings:
        alike[mapping.kind, mapping.engine].append(mapping)
    return [Group(process, *what, tuple(mappings)) for what, mappings in alike.items()]
