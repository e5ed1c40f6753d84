# SPDX-License-Identifier: Apache-2.0
"""What else keeps relocated pages out of swap, or makes them cheap: when each of it beats us.

`docs/cost.md` compares them; here are a sentence and the figures of this machine for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE

from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.fleet import TABLE_ENTRY
from mapscratch.lab.cost.model import BreakEven
from mapscratch.lab.rig.results import Spread
from mapscratch.text import microseconds, nanoseconds, swap_name

_DISAGREE = 0.1
"""Where the least of the rounds is less than so much of the median, the median says little."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another way.

    Attributes:
        name: for programs.
        title: for people.
        sentence: when it beats us, with what was measured of it.
        measured: there are figures of this machine in the sentence.
        source: where it is described.
    """

    name: str
    title: str
    sentence: str
    measured: bool
    source: str


def baselines(
    costs: Costs, tried: Alternatives | None = None, weighed: Sequence[BreakEven] = ()
) -> tuple[Baseline, ...]:
    """All of them, in the order in which a mailing list would name them.

    Args:
        costs: what was measured.
        tried: what small experiments showed; None if they were not made.
        weighed: break-even of each swap and the engine that would be taken here.
    """
    compressed = list(_compressed_swap(weighed))
    missing = "" if compressed else ". Not measured in this run (--swap zswap or zram, as root)"
    return (
        _baseline(
            "prefork",
            "pre-fork, zygote",
            "Beats us wherever workers are forked from one process that has loaded everything: "
            "they share one copy, and nothing is fixed up again",
            _prefork(costs, tried),
            "B. Lee et al., From Zygote to Morula, IEEE Symposium on Security and Privacy 2014",
        ),
        _baseline(
            "ksm",
            "KSM at equal bases",
            "Beats us in memory where pages are wanted all the time and bases are equal: one copy, "
            "after ksmd has read and compared them",
            _same_page_merging(costs, tried),
            "https://docs.kernel.org/admin-guide/mm/ksm.html",
        ),
        _baseline(
            "relr",
            "RELR (-z pack-relative-relocs)",
            "No rival: it packs the table of relative relocations, and the same pages are dirtied",
            _relr(costs),
            "F. Song, https://maskray.me/blog/2021-10-31-relative-relocations-and-relr",
        ),
        _baseline(
            "fixed_base",
            "prelink, a fixed base, no ASLR",
            "Beats us in everything but security: pages are clean, shared, and never fixed up",
            _fixed_base(tried),
            "J. Jelínek, Prelink, 2004, https://people.redhat.com/jakub/prelink.pdf",
        ),
        _baseline(
            "binding",
            "-z now, -fno-plt",
            "No rival: they decide when a function is looked up, not how many pages that dirties",
            _binding(costs),
            "https://gcc.gnu.org/onlinedocs/gcc/Code-Gen-Options.html, -fno-plt; ld(1), -z now",
        ),
        _baseline(
            "zswap",
            "zswap and zram",
            "The closest rival: pages stay in memory compressed and need no fixing up. It beats us "
            "where fixups are many or symbolic, or where the file would have to be read again"
            + missing,
            [*compressed, *_compression(tried)],
            "https://docs.kernel.org/admin-guide/mm/zswap.html",
        ),
    )


def _baseline(
    name: str, title: str, claim: str, found: Iterator[str] | Sequence[str], source: str
) -> Baseline:
    """The claim holds anyway; what was found here follows it."""
    here = "; ".join(found)
    sentence = f"{claim}. Here: {here}." if here else f"{claim}."
    return Baseline(name, title, sentence, bool(here), source)


# --- what was found -----------------------------------------------------------------------------


def _prefork(costs: Costs, tried: Alternatives | None) -> Iterator[str]:
    if tried:
        yield (
            f"{tried.child_bytes / PAGESIZE:.0f} of the {tried.alone_bytes / PAGESIZE:.0f} dirty "
            f"pages of {tried.name} each (Pss, {tried.children} children)"
        )
        yield f"{microseconds(tried.fork_us)} a fork"
    if page := costs.measurement("fork.page"):
        yield f"{_at_most(page)} a page at fork"


def _at_most(spread: Spread) -> str:
    """The median; where the rounds hardly agree on its size, only what it is less than."""
    if spread.minimum < _DISAGREE * spread.median:
        return f"< {nanoseconds(spread.maximum)}"
    return nanoseconds(spread.median)


def _same_page_merging(costs: Costs, tried: Alternatives | None) -> Iterator[str]:
    if tried:
        yield f"{tried.equal_random:.0%} of relocated pages are equal in two processes"
        if tried.equal_fixed is not None:
            yield f"{tried.equal_fixed:.0%} at equal bases"
    for name, what in (("ksm.merge", "merge"), ("ksm.unmerge", "part again at a store")):
        if one := costs.measurement(name):
            yield f"{microseconds(one.median / 1e3)} a page to {what}"


def _relr(costs: Costs) -> Iterator[str]:
    packed, plain = (costs.measurement(f"relocation.{kind}") for kind in ("relr", "relative"))
    if packed and plain:
        yield f"{nanoseconds(packed.median)} a word, {plain.median:.1f} without"


def _fixed_base(tried: Alternatives | None) -> Iterator[str]:
    if tried and tried.equal_fixed is not None:
        yield (
            f"at fixed addresses {tried.equal_fixed:.0%} of the {tried.pages} relocated pages of "
            f"{tried.name} are equal in two processes"
        )


def _binding(costs: Costs) -> Iterator[str]:
    for scope in ("short", "long"):
        now, lazy = (costs.measurement(f"binding.{when}.{scope}") for when in ("now", "lazy"))
        if now and lazy:
            yield (
                f"{nanoseconds(now.median)} a function at load, {nanoseconds(lazy.median)} at its "
                f"first call ({scope} scope)"
            )


def _compressed_swap(weighed: Sequence[BreakEven]) -> Iterator[str]:
    for swap in ("swap.zswap", "swap.zram"):
        limits = [one for one in weighed if one.swap == swap]
        if limits:
            yield (
                f"{swap_name(swap)} ({microseconds(limits[0].page_swap_us.median)} a page, "
                f"{limits[0].engine} {microseconds(limits[0].page_scratch_us.median)}) is ahead "
                f"{_ahead(limits)}"
            )


def _compression(tried: Alternatives | None) -> Iterator[str]:
    if tried:
        values = tried.compressed * PAGESIZE / TABLE_ENTRY
        yield (
            f"relocated pages compress to {tried.compressed:.0%} (zlib -1, one library), as much "
            f"as {values:.0f} known values a page take"
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
