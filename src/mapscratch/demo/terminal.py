# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch demo` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mapscratch.demo.trial import Demo, Ending

NAME = "mapscratch.demo"
VERSION = 1


def demo_lines(demo: Demo) -> Iterator[str]:
    """The outcome as text, line by line."""
    yield (
        f"A file of {_mebibytes(demo.file)} of big-endian integers, seen as "
        f"{_mebibytes(demo.array)} of scaled float32; {_mebibytes(demo.limit)} of memory."
    )
    yield _limit_line(demo)
    yield ""
    yield f"  np.memmap(...).astype(...)  {_ordinary(demo)}"
    yield f"  mapscratch.array(...)       {_ending(demo.ours)}"
    if demo.ours.how == "finished":
        facts = demo.ours.facts
        yield (
            f"    {facts['checked']:,} values checked against an independent decode: "
            f"{facts['wrong']:,} wrong"
        )
        yield (
            f"    {facts['decoded']:,} pages decoded, {facts['decoded_again']:,} of them again "
            "after the kernel had dropped them;"
        )
        yield f"    at most {_mebibytes(facts['most_resident'])} of them in memory at a time"


def _limit_line(demo: Demo) -> str:
    if demo.limited_by == "cgroup":
        return "The limit is a memory cgroup's; pages go when the kernel wants them."
    return (
        f"The limit is the process's own (RLIMIT_DATA), because {demo.why_not_cgroup.rstrip('.')}. "
        "It makes no memory pressure: the process asks the kernel to reclaim the array's pages "
        "(MADV_PAGEOUT) when half of the limit is in memory."
    )


def _ordinary(demo: Demo) -> str:
    ending = demo.ordinary
    if ending.how == "finished" and demo.swap:
        return (
            f"finished after {ending.seconds:.1f} s: this machine has {_mebibytes(demo.swap)} of "
            "swap, which took what didn't fit"
        )
    return _ending(ending)


def _ending(ending: Ending) -> str:
    seconds = f"after {ending.seconds:.1f} s"
    return {
        "killed": f"killed by the kernel, out of memory, {seconds}",
        "refused": f"refused: MemoryError ({ending.facts.get('memory_error', '')})",
        "finished": f"read all of it, twice and at random, {seconds}"
        if "wrong" in ending.facts
        else f"finished {seconds}",
    }[ending.how]


def demo_document(demo: Demo) -> dict[str, Any]:
    """The same for programs; sizes in bytes."""
    return {"document": NAME, "version": VERSION, **asdict(demo), "right": demo.is_right}


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
