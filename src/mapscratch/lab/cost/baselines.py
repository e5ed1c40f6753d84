# SPDX-License-Identifier: Apache-2.0
"""What else keeps relocated pages out of swap, or makes them cheap: when each of it beats us.

Each is measured where this machine can do so in a second or two, by `try_alternatives` or among
the costs, and reasoned from its documentation where it can't. Nothing on the machine is changed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from mapscratch.errors import UserError, last_words
from mapscratch.lab.compare.rounds import Progress
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.fleet import TABLE_ENTRY
from mapscratch.lab.cost.model import (
    ALONE,
    BreakEven,
    Layout,
    break_evens,
    scratch_lines,
    swap_lines,
)
from mapscratch.lab.rig.results import ENGINES, Spread

CHILDREN = 8
_SECONDS = 30.0
_EQUAL = 0.9
"""So large a share of pages that are equal is nearly all."""


_DISAGREE = 0.1
"""Where the least of the rounds is less than so much of the median, the median says little."""


class BaselineError(UserError, RuntimeError):
    """A small experiment failed; the message says at what."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What small experiments with one library showed.

    Attributes:
        library: that an ordinary process loads.
        pages: of it that relocation stores to.
        children: forked from a process that has loaded it.
        alone_bytes: Pss of its dirty pages in a process of its own.
        child_bytes: Pss of the same in one of the forked children.
        fork_us: µs for one fork of that process, an interpreter.
        equal_random: of the pages, the share that is equal in two processes as they are.
        equal_fixed: the same where addresses aren't drawn at random; None if that is forbidden
            here.
        compressed: what ``zlib -1`` makes of these pages, each alone: a share of their size.
    """

    library: str
    pages: int
    children: int
    alone_bytes: int
    child_bytes: int
    fork_us: float
    equal_random: float
    equal_fixed: float | None
    compressed: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another way.

    Attributes:
        name: for programs.
        title: for people.
        sentence: when it beats us, and when not.
        measured: the figures in the sentence are of this machine.
        source: where it is described; None if all that is said was measured.
        figures: what the sentence rests on.
    """

    name: str
    title: str
    sentence: str
    measured: bool
    source: str | None
    figures: dict[str, float]


def try_alternatives(library: str | os.PathLike[str], progress: Progress) -> Alternatives:
    """Loads a library in a few processes, as ever: forked, at random and at fixed addresses.

    Args:
        library: with relocations.
        progress: is told what is done.

    Raises:
        BaselineError: a process failed, or did not end in time.
    """
    path = str(Path(library).resolve())
    progress("pre-fork: a process that has loaded everything, and its children", 0.0)
    forked = _load(path, CHILDREN, "random")
    progress("the same library at other addresses", 0.3)
    again = _load(path, 0, "random")
    progress("two processes at fixed addresses", 0.6)
    try:
        fixed: list[_Loaded] = [_load(path, 0, "fixed") for _ in range(2)]
    except BaselineError:
        fixed = []
    shares = sorted(forked.shares)
    return Alternatives(
        library=path,
        pages=len(forked.digests),
        children=CHILDREN,
        alone_bytes=forked.alone,
        child_bytes=shares[len(shares) // 2],
        fork_us=forked.seconds * 1e6,
        equal_random=_equal(forked, again),
        equal_fixed=_equal(*fixed) if fixed else None,
        compressed=forked.compressed / (PAGESIZE * max(1, len(forked.digests))),
    )


def baselines(
    costs: Costs, tried: Alternatives | None = None, layout: Layout = ALONE
) -> tuple[Baseline, ...]:
    """All of them, in the order in which a mailing list would name them.

    Args:
        costs: what was measured.
        tried: what small experiments showed; None if they were not made.
        layout: what is mapped beside a page.
    """
    return (
        _prefork(costs, tried),
        _same_page_merging(costs, tried),
        _relr(costs),
        _fixed_base(tried),
        _binding(costs),
        _zswap(costs, tried, layout),
    )


# --- the experiments ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loaded:
    digests: list[int]
    compressed: int
    alone: int
    shares: list[int]
    seconds: float


def _load(path: str, children: int, addresses: str) -> _Loaded:
    command = [sys.executable, "-m", "mapscratch.lab.cost.baseline_worker"]
    # Where things are mapped depends on the order in which that happens, and so on hashes.
    environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, path, str(children), addresses],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BaselineError(f"a process that loads {path} did not end in {_SECONDS:g} s") from None
    if done.returncode:
        raise BaselineError(f"a process that loads {path} failed: {last_words(done.stderr)}")
    return _Loaded(**json.loads(done.stdout))


def _equal(one: _Loaded, other: _Loaded) -> float:
    same = sum(a == b for a, b in zip(one.digests, other.digests, strict=True))
    return same / len(one.digests) if one.digests else 0.0


# --- what is said of each -----------------------------------------------------------------------


def _prefork(costs: Costs, tried: Alternatives | None) -> Baseline:
    figures: dict[str, float] = {}
    what = "one copy of relocated pages between them"
    page = costs.measurement("fork.page")
    if page:
        figures["fork_page_ns"] = page.median
    if tried:
        figures |= {
            "children": tried.children,
            "alone_pages": tried.alone_bytes / PAGESIZE,
            "child_pages": tried.child_bytes / PAGESIZE,
            "fork_us": tried.fork_us,
        }
        what = (
            f"{tried.child_bytes / PAGESIZE:.0f} of the {tried.alone_bytes / PAGESIZE:.0f} dirty "
            f"pages of {Path(tried.library).name} each (Pss, {tried.children} children)"
        )
    copied = f", copied at fork for {_nanoseconds(page.spread)} a page," if page else ""
    sentence = (
        f"Beats us wherever workers can be forked from one process that has loaded everything: "
        f"they hold {what}{copied} and share one place in swap; nothing is fixed up again. It has "
        "no answer for processes that exec, for libraries loaded after the fork, and all workers "
        "have the same addresses."
    )
    return Baseline(
        "prefork",
        "pre-fork, zygote",
        sentence,
        bool(tried or page),
        "B. Lee et al., From Zygote to Morula: Fortifying Weakened ASLR on Android, IEEE "
        "Symposium on Security and Privacy 2014 (what equal addresses cost)",
        figures,
    )


def _nanoseconds(spread: Spread) -> str:
    """The median; where the rounds hardly agree on its size, only what it is less than."""
    if spread.minimum < _DISAGREE * spread.median:
        return f"< {spread.maximum:,.0f} ns"
    return f"{spread.median:,.0f} ns"


def _same_page_merging(costs: Costs, tried: Alternatives | None) -> Baseline:
    figures: dict[str, float] = {}
    merge, unmerge = costs.measurement("ksm.merge"), costs.measurement("ksm.unmerge")
    price = "after ksmd has read and compared them"
    if merge:
        figures["merge_ns"] = merge.median
        price = f"for {merge.median / 1e3:.1f} µs a page of scanning and merging"
        if unmerge:
            figures["unmerge_ns"] = unmerge.median
            price += f", {unmerge.median / 1e3:.1f} µs to part again at a store"
    equal = "Relocated pages are equal only at equal bases"
    if tried:
        figures["equal_random"] = tried.equal_random
        equal = (
            f"{tried.equal_random:.0%} of relocated pages are equal in two processes as they are"
        )
        if tried.equal_fixed is not None:
            figures["equal_fixed"] = tried.equal_fixed
            equal += f", {tried.equal_fixed:.0%} at equal bases"
    return Baseline(
        "ksm",
        "KSM at equal bases",
        f"{equal}; there it beats us in memory where pages are wanted all the time: one copy, "
        f"{price}. It merges only what a process marks (MADV_MERGEABLE, or prctl for all of it), "
        "breaks the merging when pages come back from swap, and needs ASLR off.",
        bool(merge or tried),
        "Linux, Documentation/admin-guide/mm/ksm.rst, https://docs.kernel.org/admin-guide/mm/ksm.html",
        figures,
    )


def _relr(costs: Costs) -> Baseline:
    relative, relr = costs.measurement("relocation.relative"), costs.measurement("relocation.relr")
    figures: dict[str, float] = {}
    price = "stores the same words"
    if relative and relr:
        figures = {"relative_ns": relative.median, "relr_ns": relr.median}
        price = f"stores the same words in {relr.median:.1f} ns each against {relative.median:.1f}"
    return Baseline(
        "relr",
        "RELR (-z pack-relative-relocs)",
        f"No rival: it packs the table of relative relocations and {price}; the same pages are "
        "dirtied. Where the fixups are made again from that table it moves break-even in favour of "
        "dropping, and it makes the file smaller, which we don't.",
        bool(figures),
        "F. Song, Relative relocations and RELR, "
        "https://maskray.me/blog/2021-10-31-relative-relocations-and-relr",
        figures,
    )


def _fixed_base(tried: Alternatives | None) -> Baseline:
    figures: dict[str, float] = {}
    equal = "relocated pages would then be equal in all processes"
    if tried and tried.equal_fixed is not None:
        figures = {"equal_fixed": tried.equal_fixed, "pages": float(tried.pages)}
        how = "all" if tried.equal_fixed == 1 else f"{tried.equal_fixed:.0%}"
        equal = (
            f"without random addresses {how} of the {tried.pages} relocated pages of "
            f"{Path(tried.library).name} are equal in two processes"
        )
    return Baseline(
        "fixed_base",
        "prelink, a fixed base, no ASLR",
        f"Beats us in everything but security: {equal}, so their content can be in the file, and "
        "they are clean, shared, and fixed up never. prelink did so; glibc 2.36 no longer "
        "has the part of it that was in ld.so. It has to be done again when a library is "
        "updated, gives up random addresses, and changes files that are signed or checked.",
        bool(figures),
        "J. Jelínek, Prelink, 2004, https://people.redhat.com/jakub/prelink.pdf; prelink(8)",
        figures,
    )


def _binding(costs: Costs) -> Baseline:
    names = ("binding.now.short", "binding.now.long", "binding.lazy.short", "binding.lazy.long")
    found = {name: one for name in names if (one := costs.measurement(name))}
    figures = {name.replace(".", "_") + "_ns": one.median for name, one in found.items()}
    parts = []
    for scope in ("short", "long"):
        now, lazy = found.get(f"binding.now.{scope}"), found.get(f"binding.lazy.{scope}")
        if now and lazy:
            parts.append(
                f"{now.median:.0f} ns a function at load against {lazy.median:.0f} at its first "
                f"call ({scope} scope)"
            )
    price = f": {' and '.join(parts)}" if parts else ""
    return Baseline(
        "binding",
        "-z now, -fno-plt",
        f"No rival: they decide when a function is looked up{price}, not how many pages that "
        "dirties. With -z now slots become read-only after relocation, and all of them are bound, "
        "called or not. They beat `mapscratch convert`, and leave it nothing to do with -fno-plt, "
        "where a library's slots lie on pages that other relocations dirty anyway.",
        bool(parts),
        "ld, Options, -z now; GCC, Options for Code Generation Conventions, -fno-plt, "
        "https://gcc.gnu.org/onlinedocs/gcc/Code-Gen-Options.html",
        figures,
    )


def _zswap(costs: Costs, tried: Alternatives | None, layout: Layout) -> Baseline:
    found = _preferred(costs, layout)
    measured = [one for one in found if one.swap in ("swap.zswap", "swap.zram")]
    parts = []
    figures: dict[str, float] = {}
    for one in measured:
        name = one.swap.removeprefix("swap.")
        figures[f"{name}_page_us"] = one.page_swap_us.median
        figures[f"{one.engine}_page_us"] = one.page_scratch_us.median
        limit = one.fixups.median
        if abs(limit) != float("inf"):
            kind = re.sub(r"\W+", "_", one.fixup.title)
            figures[f"{name}_break_even_{kind}"] = limit
    for name in dict.fromkeys(one.swap for one in measured):
        limits = [one for one in measured if one.swap == name]
        parts.append(
            f"{name.removeprefix('swap.')} ({limits[0].page_swap_us.median:.1f} µs a page, "
            f"{limits[0].engine} {limits[0].page_scratch_us.median:.1f}) is ahead {_ahead(limits)}"
        )
    result = (
        f"On this machine: {'; '.join(parts)}."
        if parts
        else "Neither was measured in this run (--swap zswap or zram, as root)."
    )
    size = more = ""
    if tried:
        figures["compressed"] = tried.compressed
        size = f" (relocated pages compress to {tried.compressed:.0%} by zlib -1, one library)"
        figures["compressed_as_known_values"] = tried.compressed * PAGESIZE / TABLE_ENTRY
        more = (
            f", which is more than that from {figures['compressed_as_known_values']:.0f} a page on"
        )
    return Baseline(
        "zswap",
        "zswap and zram",
        "The closest rival: pages stay in memory compressed, come back without a device, and need "
        "not be fixed up. It beats us where fixups are many or symbolic, or where the file itself "
        f"would have to be read again. {result} It takes memory for each process's copy{size}. "
        f"Dropping keeps {TABLE_ENTRY} bytes a fixup whose value is known{more}, and none for one "
        "that works its value out.",
        bool(parts),
        "Linux, Documentation/admin-guide/mm/zswap.rst, "
        "https://docs.kernel.org/admin-guide/mm/zswap.html",
        figures,
    )


def _preferred(costs: Costs, layout: Layout) -> Sequence[BreakEven]:
    """The break-evens of the engine that would be taken here."""
    lines = scratch_lines(costs, layout)
    engine = next((name for name in ENGINES if costs.line(name)), "")
    return break_evens(
        swap_lines(costs, None, layout), [line for line in lines if line.what == engine]
    )


def _ahead(limits: Sequence[BreakEven]) -> str:
    """From how many fixups of which kind swap is ahead."""
    kinds: dict[str, list[str]] = {}
    for one in limits:
        limit = {"never": "even with no", "always": "never with"}.get(
            one.pays, f"from {one.fixups.median:,.0f} on with"
        )
        kinds.setdefault(limit, []).append(one.fixup.title)
    ahead = sorted(kinds.items(), key=lambda item: item[0] == "never with")
    return ", ".join(f"{limit} {' or '.join(titles)} ones" for limit, titles in ahead)
