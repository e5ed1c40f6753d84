# SPDX-License-Identifier: Apache-2.0
"""How a page is dropped and comes back: the engines, and the choice between them.

One engine is one module behind the small interface of `mapscratch.engines.interface`; nothing
outside of this package knows how pages move. Whether an engine runs is found out by trying, never
by comparing kernel versions.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from mapscratch import _native
from mapscratch._native import WordMap, turn_off_board
from mapscratch.engines.dontneed import DontneedEngine
from mapscratch.engines.interface import (
    Decoding,
    Engine,
    EngineStatus,
    EngineUnavailable,
    Guarantees,
    PageCounts,
    ReclaimNotApplicable,
    Request,
    SystemCallWarning,
)
from mapscratch.engines.kernel import KernelEngine
from mapscratch.engines.lazyfree import LazyfreeEngine

__all__ = [
    "REQUIREMENTS",
    "Decoding",
    "Engine",
    "EngineStatus",
    "EngineUnavailable",
    "Guarantees",
    "PageCounts",
    "ReclaimNotApplicable",
    "Request",
    "SystemCallWarning",
    "choose",
    "confirm",
    "engines",
    "release_all",
]

ENVIRONMENT_VARIABLE = "MAPSCRATCH_ENGINE"

REQUIREMENTS = {
    "no-swap": "no page of the mapping ever reaches swap",
    "system-calls": "system calls may be given any part of the mapping",
}
"""What ``guarantee=`` may ask for, and what each means."""

_ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (KernelEngine(), LazyfreeEngine(), DontneedEngine())
}


if os.environ.get("MAPSCRATCH_BOARD") == "off":
    turn_off_board()


def engines() -> list[EngineStatus]:
    """Which engines run in this process now, and why the others don't."""
    return [engine.status() for engine in _ENGINES.values()]


def release_all() -> int:
    """Gives back, now, what this process can make again of its mappings and arrays.

    Drops every page that isn't pinned, and unmaps the pages of the files that these are made of
    (they stay in the page cache). Any thread may call it at any time, whatever others do with the
    arrays meanwhile: they read the same afterwards, stores into a `ScratchMap` vanish. It takes no
    lock of the interpreter, and costs what is there.

    Returns:
        bytes that went from what is counted as resident of this process.
    """
    return _native.release_all()


def choose(name: str, request: Request, requirements: Collection[str]) -> Engine:
    """The engine that a mapping gets.

    Args:
        name: an engine's name, or ``"auto"``: the first that gives what is asked for. The
            environment variable MAPSCRATCH_ENGINE takes the place of ``"auto"``.
        request: what is to be mapped.
        requirements: of `REQUIREMENTS`.

    Raises:
        ValueError: no such engine, or no such requirement.
        EngineUnavailable: no engine gives all of it; the message says what each lacks.
    """
    unknown = sorted(set(requirements) - set(REQUIREMENTS))
    if unknown:
        known = ", ".join(map(repr, REQUIREMENTS))
        raise ValueError(f"no such guarantee: {', '.join(map(repr, unknown))}; there are {known}")
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return _choose_automatically(request, requirements)
    if name not in _ENGINES:
        raise ValueError(f"no such engine: {name!r}; there are {', '.join(_ENGINES)} and auto")
    engine = _ENGINES[name]
    problem = _problem(engine, request, requirements)
    if problem:
        raise EngineUnavailable(f"engine {name!r}: {problem}")
    return engine


def confirm(engine: Engine, mapping: WordMap, requirements: Collection[str]) -> None:
    """Sees to it that a mapping got what its engine had promised before it was made.

    Raises:
        EngineUnavailable: it didn't (something else has used up RLIMIT_MEMLOCK meanwhile, say).
    """
    if requirements:
        problem = _lacking(engine.guarantees_of(mapping), requirements)
        if problem:
            raise EngineUnavailable(f"engine {engine.name!r}: {problem}")


def _choose_automatically(request: Request, requirements: Collection[str]) -> Engine:
    problems = []
    for engine in _ENGINES.values():
        problem = _problem(engine, request, requirements)
        # Without privilege its page faults fail in system calls: an ordinary program must not
        # get that without having asked for it, unless nothing else does what it asks for.
        if not problem and engine.name == "lazyfree" and not request.has_page_in_fixups:
            problem = None if engine.status().system_calls else "it can't serve system calls"
        if not problem:
            return engine
        problems.append(f"{engine.name}: {problem}")
    raise EngineUnavailable(
        "no engine gives what this mapping asks for.\n  " + "\n  ".join(problems)
    )


def _problem(engine: Engine, request: Request, requirements: Collection[str]) -> str | None:
    status = engine.status()
    if not status.available:
        return f"{status.reason} {status.remedy}".strip()
    if request.has_page_in_fixups and not status.page_in_fixups:
        return "it has no page-in fixups; without them, store fixups again when they are gone"
    return _lacking(engine.guarantees(request), requirements)


def _lacking(guarantees: Guarantees, requirements: Collection[str]) -> str | None:
    if "system-calls" in requirements and not guarantees.system_calls:
        return "system calls fail on pages that are not in memory (see ScratchMap.pin)"
    if "no-swap" in requirements and guarantees.no_swap != "firm":
        return f"pages may reach swap: {guarantees.no_swap_detail}"
    return None
