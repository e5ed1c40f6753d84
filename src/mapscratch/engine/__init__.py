# SPDX-License-Identifier: Apache-2.0
"""How a page is dropped and comes back: the engines, and the choice between them.

One engine is one module behind the small interface of `mapscratch.engine.interface`; nothing
outside of this package knows how pages move. Whether an engine runs is found out by trying, never
by comparing kernel versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import TypeVar

from mapscratch import _native
from mapscratch._native import WordMap, turn_off_board
from mapscratch.engine.dontneed import DontneedEngine
from mapscratch.engine.interface import (
    AttachFailed,
    Decoding,
    Engine,
    EngineStatus,
    EngineUnavailable,
    Guarantees,
    Helper,
    PageCounts,
    ReclaimNotApplicable,
    Request,
    SystemCallWarning,
)
from mapscratch.engine.kernel import KernelEngine
from mapscratch.engine.lazyfree import LazyfreeEngine
from mapscratch.engine.refusals import explained

__all__ = [
    "REQUIREMENTS",
    "AttachFailed",
    "Decoding",
    "Engine",
    "EngineStatus",
    "EngineUnavailable",
    "Guarantees",
    "Helper",
    "PageCounts",
    "ReclaimNotApplicable",
    "Request",
    "SystemCallWarning",
    "attach",
    "chosen_name",
    "engines",
    "explained",
    "release_all",
    "require",
]

M = TypeVar("M", bound=WordMap)

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


def require(name: str, request: Request, requirements: Collection[str] = ()) -> None:
    """Whether some engine seems to run here that gives all of it.

    Raises:
        ValueError, EngineUnavailable: as `attach`.
    """
    problems = _problems(name, request, requirements)
    if all(problems.values()):
        raise EngineUnavailable(_told(problems))


def attach(
    make: Callable[[], M],
    describe: Callable[[M], Request],
    name: str,
    requirements: Collection[str] = (),
) -> tuple[M, Engine]:
    """A new mapping with the engine that does what is asked for.

    Of those that ``"auto"`` may take the next gets its turn when one fails although it seemed to
    run here (at a limit on threads or memory, in a sandbox that was closed meanwhile, at a file of
    its own kind). Each begins with a fresh mapping, so that nothing of the other is left.

    Args:
        make: makes a mapping without an engine.
        describe: says what one wants.
        name: an engine's name, or ``"auto"``: the first that gives what is asked for. The
            environment variable MAPSCRATCH_ENGINE takes the place of ``"auto"``.
        requirements: of `REQUIREMENTS`.

    Raises:
        ValueError: no such engine, or no such requirement.
        EngineUnavailable: no engine gives all of it; the message says what each lacks.
        OSError: the engine that was named failed. `AttachFailed`, which is both, says what each did
            that ``"auto"`` may take.
    """
    mapping = make()
    fresh: M | None = mapping
    try:
        request = describe(mapping)
        problems = _problems(name, request, requirements)
        failure: OSError | None = None
        for engine in [_ENGINES[name] for name, problem in problems.items() if not problem]:
            mapping, fresh = make() if fresh is None else fresh, None
            try:
                _attach(engine, mapping, request, requirements)
            except (OSError, EngineUnavailable) as error:
                if len(problems) == 1:
                    raise
                failure = error if isinstance(error, OSError) else failure
                problems[engine.name] = getattr(error, "strerror", None) or str(error)
            else:
                return mapping, engine
    finally:
        if fresh is not None:
            fresh.close()
    if failure:
        raise AttachFailed(failure.errno, _told(problems)) from failure
    raise EngineUnavailable(_told(problems))


def _problems(name: str, request: Request, requirements: Collection[str]) -> dict[str, str | None]:
    """By engine, of those that may be taken, what is in the way of it; None if nothing seems to be.

    Raises:
        ValueError: no such engine, or no such requirement.
    """
    unknown = sorted(set(requirements) - set(REQUIREMENTS))
    if unknown:
        known = ", ".join(map(repr, REQUIREMENTS))
        raise ValueError(f"no such guarantee: {', '.join(map(repr, unknown))}; there are {known}")
    name = chosen_name(name)
    if name == "auto":
        return {
            engine.name: _problem(engine, request, requirements)
            or _problem_of_choice(engine, request)
            for engine in _ENGINES.values()
        }
    return {name: _problem(_ENGINES[name], request, requirements)}


def chosen_name(name: str) -> str:
    """The engine that is meant by what a user says, or ``"auto"``.

    Raises:
        ValueError: no such engine.
    """
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name != "auto" and name not in _ENGINES:
        raise ValueError(f"no such engine: {name!r}; there are {', '.join(_ENGINES)} and auto")
    return name


def _told(problems: dict[str, str | None]) -> str:
    if len(problems) == 1:
        return "".join(f"engine {name!r}: {problem}" for name, problem in problems.items())
    lines = (f"\n  {name}: {problem}" for name, problem in problems.items())
    return "no engine gives what this mapping asks for." + "".join(lines)


def _attach(
    engine: Engine, mapping: WordMap, request: Request, requirements: Collection[str]
) -> None:
    """Attaches an engine, and sees to it that what it had promised before is what came of it.

    After an error the mapping is closed.

    Raises:
        OSError: the kernel refused.
        EngineUnavailable: it promises less (something else has used up RLIMIT_MEMLOCK, say).
    """
    try:
        with explained(request.name):
            engine.attach(mapping, request)
        problem = _lacking(engine.guarantees_of(mapping), requirements) if requirements else None
        if problem:
            raise EngineUnavailable(f"engine {engine.name!r}: {problem}")
    except BaseException:
        mapping.close()
        raise


def _problem(engine: Engine, request: Request, requirements: Collection[str]) -> str | None:
    status = engine.status()
    if not status.available:
        return f"{status.reason} {status.remedy}".strip()
    if request.has_page_in_fixups and not status.page_in_fixups:
        return "it has no page-in fixups; without them, store fixups again when they are gone"
    return _lacking(engine.guarantees(request), requirements)


def _problem_of_choice(engine: Engine, request: Request) -> str | None:
    """Why it isn't taken by who hasn't named it.

    Without privilege page faults of `lazyfree` fail in system calls: an ordinary program must not
    get that without having asked for it, unless nothing else does what it asks for.
    """
    if engine.name != "lazyfree" or request.has_page_in_fixups or engine.status().system_calls:
        return None
    return "it can't serve system calls"


def _lacking(guarantees: Guarantees, requirements: Collection[str]) -> str | None:
    if "system-calls" in requirements and not guarantees.system_calls:
        return "system calls fail on pages that are not in memory (see ScratchMap.pin)"
    if "no-swap" in requirements and guarantees.no_swap != "firm":
        return f"pages may reach swap: {guarantees.no_swap_detail}"
    return None
