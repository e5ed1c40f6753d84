# SPDX-License-Identifier: Apache-2.0
"""What else keeps relocated pages out of swap, or makes them cheap: when each of it beats us.

`docs/cost.md` compares them; here are a sentence and the figures of this machine for each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from mapscratch.errors import UserError, last_words
from mapscratch.lab.compare.rounds import Progress
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.fleet import TABLE_ENTRY
from mapscratch.lab.cost.model import BreakEven
from mapscratch.lab.rig.results import Spread
from mapscratch.text import microseconds, nanoseconds

CHILDREN = 8
_SECONDS = 30.0
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

    @property
    def name(self) -> str:
        """The library's, without its folder."""
        return Path(self.library).name


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another way.

    Attributes:
        name: for programs.
        title: for people.
        sentence: when it beats us, with what was measured of it.
        measured: there are figures of this machine in the sentence.
        source: where it is described.
        figures: what the sentence rests on.
    """

    name: str
    title: str
    sentence: str
    measured: bool
    source: str
    figures: dict[str, float]


# --- the experiments ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one process of `mapscratch.lab.cost.baseline_worker` says."""

    digests: list[int]
    compressed: int
    alone: int
    shares: list[int]
    seconds: float


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
        fixed = [_load(path, 0, "fixed") for _ in range(2)]
    except BaselineError:
        fixed = []
    pages = len(forked.digests)
    return Alternatives(
        library=path,
        pages=pages,
        children=CHILDREN,
        alone_bytes=forked.alone,
        child_bytes=sorted(forked.shares)[len(forked.shares) // 2],
        fork_us=forked.seconds * 1e6,
        equal_random=_equal(forked, again),
        equal_fixed=_equal(*fixed) if fixed else None,
        compressed=forked.compressed / (PAGESIZE * max(1, pages)),
    )


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


def baselines(
    costs: Costs, tried: Alternatives | None = None, weighed: Sequence[BreakEven] = ()
) -> tuple[Baseline, ...]:
    """All of them, in the order in which a mailing list would name them.

    Args:
        costs: what was measured.
        tried: what small experiments showed; None if they were not made.
        weighed: break-even of each swap and the engine that would be taken here.
    """
    return (
        _prefork(costs, tried),
        _same_page_merging(costs, tried),
        _relr(costs),
        _fixed_base(tried),
        _binding(costs),
        _zswap(tried, weighed),
    )


def _baseline(
    name: str,
    title: str,
    claim: str,
    found: Iterable[str],
    figures: dict[str, float],
    source: str,
) -> Baseline:
    """The claim holds anyway; what was found here follows it."""
    here = "; ".join(found)
    sentence = f"{claim}. Here: {here}." if here else f"{claim}."
    return Baseline(name, title, sentence, bool(here), source, figures)


def _medians(costs: Costs, **names: str) -> dict[str, float]:
    """Of the measurements that there are."""
    found = {figure: costs.measurement(name) for figure, name in names.items()}
    return {figure: one.median for figure, one in found.items() if one}


def _prefork(costs: Costs, tried: Alternatives | None) -> Baseline:
    figures = _medians(costs, fork_page_ns="fork.page")
    page = costs.measurement("fork.page")
    found = []
    if tried:
        figures |= {
            "children": tried.children,
            "alone_pages": tried.alone_bytes / PAGESIZE,
            "child_pages": tried.child_bytes / PAGESIZE,
            "fork_us": tried.fork_us,
        }
        found.append(
            f"{figures['child_pages']:.0f} of the {figures['alone_pages']:.0f} dirty pages of "
            f"{tried.name} each (Pss, {tried.children} children)"
        )
    if page:
        found.append(f"{_at_most(page.spread)} a page at fork")
    return _baseline(
        "prefork",
        "pre-fork, zygote",
        "Beats us wherever workers are forked from one process that has loaded everything: they "
        "share one copy, and nothing is fixed up again",
        found,
        figures,
        "B. Lee et al., From Zygote to Morula, IEEE Symposium on Security and Privacy 2014",
    )


def _at_most(spread: Spread) -> str:
    """The median; where the rounds hardly agree on its size, only what it is less than."""
    if spread.minimum < _DISAGREE * spread.median:
        return f"< {nanoseconds(spread.maximum)}"
    return nanoseconds(spread.median)


def _same_page_merging(costs: Costs, tried: Alternatives | None) -> Baseline:
    figures = _medians(costs, merge_ns="ksm.merge", unmerge_ns="ksm.unmerge")
    found = []
    if tried:
        figures["equal_random"] = tried.equal_random
        equal = f"{tried.equal_random:.0%} of relocated pages are equal in two processes"
        if tried.equal_fixed is not None:
            figures["equal_fixed"] = tried.equal_fixed
            equal += f", {tried.equal_fixed:.0%} at equal bases"
        found.append(equal)
    for figure, what in (("merge_ns", "to merge"), ("unmerge_ns", "to part again at a store")):
        if figure in figures:
            found.append(f"{microseconds(figures[figure] / 1e3)} a page {what}")
    return _baseline(
        "ksm",
        "KSM at equal bases",
        "Beats us in memory where pages are wanted all the time and bases are equal: one copy, "
        "after ksmd has read and compared them",
        found,
        figures,
        "https://docs.kernel.org/admin-guide/mm/ksm.html",
    )


def _relr(costs: Costs) -> Baseline:
    figures = _medians(costs, relative_ns="relocation.relative", relr_ns="relocation.relr")
    found = []
    if len(figures) == 2:
        found = [f"{nanoseconds(figures['relr_ns'])} a word, {figures['relative_ns']:.1f} without"]
    return _baseline(
        "relr",
        "RELR (-z pack-relative-relocs)",
        "No rival: it packs the table of relative relocations, and the same pages are dirtied",
        found,
        figures if found else {},
        "F. Song, https://maskray.me/blog/2021-10-31-relative-relocations-and-relr",
    )


def _fixed_base(tried: Alternatives | None) -> Baseline:
    figures: dict[str, float] = {}
    found = []
    if tried and tried.equal_fixed is not None:
        figures = {"equal_fixed": tried.equal_fixed, "pages": float(tried.pages)}
        found.append(
            f"at fixed addresses {tried.equal_fixed:.0%} of the {tried.pages} relocated pages of "
            f"{tried.name} are equal in two processes"
        )
    return _baseline(
        "fixed_base",
        "prelink, a fixed base, no ASLR",
        "Beats us in everything but security: pages are clean, shared, and never fixed up",
        found,
        figures,
        "J. Jelínek, Prelink, 2004, https://people.redhat.com/jakub/prelink.pdf",
    )


def _binding(costs: Costs) -> Baseline:
    figures: dict[str, float] = {}
    found = []
    for scope in ("short", "long"):
        now, lazy = (costs.measurement(f"binding.{when}.{scope}") for when in ("now", "lazy"))
        figures |= {f"binding_now_{scope}_ns": now.median} if now else {}
        figures |= {f"binding_lazy_{scope}_ns": lazy.median} if lazy else {}
        if now and lazy:
            found.append(
                f"{nanoseconds(now.median)} a function at load, {nanoseconds(lazy.median)} at its "
                f"first call ({scope} scope)"
            )
    return _baseline(
        "binding",
        "-z now, -fno-plt",
        "No rival: they decide when a function is looked up, not how many pages that dirties",
        found,
        figures,
        "https://gcc.gnu.org/onlinedocs/gcc/Code-Gen-Options.html, -fno-plt; ld(1), -z now",
    )


def _zswap(tried: Alternatives | None, weighed: Sequence[BreakEven]) -> Baseline:
    figures: dict[str, float] = {}
    found = []
    for swap in ("zswap", "zram"):
        limits = [one for one in weighed if one.swap == f"swap.{swap}"]
        if not limits:
            continue
        first = limits[0]
        figures[f"{swap}_page_us"] = first.page_swap_us.median
        figures[f"{first.engine}_page_us"] = first.page_scratch_us.median
        for one in limits:
            if abs(one.fixups.median) != float("inf"):
                kind = re.sub(r"\W+", "_", one.fixup.title)
                figures[f"{swap}_break_even_{kind}"] = one.fixups.median
        found.append(
            f"{swap} ({microseconds(first.page_swap_us.median)} a page, {first.engine} "
            f"{microseconds(first.page_scratch_us.median)}) is ahead {_ahead(limits)}"
        )
    measured = bool(found)
    if tried:
        figures["compressed"] = tried.compressed
        figures["compressed_as_known_values"] = tried.compressed * PAGESIZE / TABLE_ENTRY
        found.append(
            f"relocated pages compress to {tried.compressed:.0%} (zlib -1, one library), as much "
            f"as {figures['compressed_as_known_values']:.0f} known values a page take"
        )
    return _baseline(
        "zswap",
        "zswap and zram",
        "The closest rival: pages stay in memory compressed and need no fixing up. It beats us "
        "where fixups are many or symbolic, or where the file would have to be read again"
        + ("" if measured else ". Not measured in this run (--swap zswap or zram, as root)"),
        found,
        figures,
        "https://docs.kernel.org/admin-guide/mm/zswap.html",
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
