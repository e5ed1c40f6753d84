# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch demo` says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mapscratch.demo.trial import Demo, Ending, Setting
from mapscratch.text import mebibytes

NAME = "mapscratch.demo"
VERSION = 1

_COLUMNS = 80


def setting_lines(setting: Setting) -> Iterator[str]:
    """What will be shown, before anything is done."""
    yield from textwrap.wrap(
        f"A file of {mebibytes(setting.file)} of big-endian integers is read as "
        f"{mebibytes(setting.array)} of scaled float32, by processes that may have "
        f"{mebibytes(setting.limit)} of memory. {_limit(setting)}",
        _COLUMNS,
        break_on_hyphens=False,
    )


def _limit(setting: Setting) -> str:
    if setting.limited_by == "cgroup":
        return "A memory cgroup sees to that."
    return (
        f"Each sees to that itself (RLIMIT_DATA), because {setting.why_not_cgroup.rstrip('.')}. "
        "That makes no memory pressure, so ours asks the kernel to take pages (MADV_PAGEOUT) when "
        "half of the limit is in use."
    )


def ordinary_lines(setting: Setting, ending: Ending) -> Iterator[str]:
    """How the ordinary way ended."""
    yield ""
    yield "np.memmap(...).astype(...), which has to hold all of the decoded array at once:"
    if ending.how == "finished" and setting.swap:
        yield (
            f"  finished after {ending.seconds:.1f} s: this machine has "
            f"{mebibytes(setting.swap)} of swap, which took what didn't fit"
        )
    else:
        yield f"  {_ending(ending)}"


def our_lines(ending: Ending) -> Iterator[str]:
    """How ours ended."""
    yield ""
    yield "mapscratch.array(...), whose pages are decoded when they are touched:"
    if ending.how != "finished":
        yield f"  {_ending(ending)}"
        return
    facts = ending.facts
    yield (
        f"  read twice from end to end, and {facts['at_random']:,} numbers at random, in "
        f"{ending.seconds:.1f} s"
    )
    yield (
        f"  {facts['checked']:,} numbers compared with NumPy's own decoding of the file: "
        f"{facts['wrong']:,} wrong"
    )
    yield (
        f"  {facts['decoded']:,} pages decoded, {facts['decoded_again']:,} of them again, because "
        "the kernel had dropped them"
    )
    yield f"  at most {mebibytes(facts['most_resident'])} of the array in memory at a time"


def _ending(ending: Ending) -> str:
    return {
        "killed": f"killed by the kernel, out of memory, after {ending.seconds:.1f} s",
        "refused": f"refused: MemoryError ({ending.facts.get('memory_error', '')})",
        "finished": f"finished after {ending.seconds:.1f} s",
    }[ending.how]


def demo_document(demo: Demo) -> dict[str, Any]:
    """The same for programs; sizes in bytes."""
    return {
        "document": NAME,
        "version": VERSION,
        **asdict(demo.setting),
        "ordinary": asdict(demo.ordinary),
        "ours": asdict(demo.ours),
        "right": demo.is_right,
    }
