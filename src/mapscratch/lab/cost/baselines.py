# SPDX-License-Identifier: Apache-2.0
"""What else keeps relocated pages out of swap, or makes them cheap: when each of it beats us.

`docs/cost.md` compares them; here are a sentence and the figures of this machine for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Any

from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.costs import Costs, Measurement
from mapscratch.lab.cost.fleet import TABLE_ENTRY
from mapscratch.lab.cost.model import RoundTrip
from mapscratch.text import microseconds, nanoseconds

_DISAGREE = 0.1
"""Where the least of the rounds is less than so much of the median, the median says little."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another way: when it beats us, if with figures measured here, and where it is described."""

    name: str
    title: str
    sentence: str
    measured: bool
    source: str


_WAYS = (
    (
        "prefork",
        "pre-fork, zygote",
        "Beats us wherever workers are forked from one process that has loaded everything: they "
        "share one copy, and nothing is fixed up again",
        "{child:.0f} of the {alone:.0f} dirty pages of {tried.name} each (Pss, {tried.children} "
        "children); {fork} a fork; {fork_page} a page at fork",
        "B. Lee et al., From Zygote to Morula, IEEE Symposium on Security and Privacy 2014",
    ),
    (
        "ksm",
        "KSM at equal bases",
        "Beats us in memory where pages are wanted all the time and bases are equal: one copy, "
        "after ksmd has read and compared them",
        "{tried.equal_random:.0%} of relocated pages are equal in two processes; "
        "{tried.equal_fixed:.0%} at equal bases; {ksm_merge} a page to merge; {ksm_unmerge} a page "
        "to part again at a store",
        "https://docs.kernel.org/admin-guide/mm/ksm.html",
    ),
    (
        "relr",
        "RELR (-z pack-relative-relocs)",
        "No rival: it packs the table of relative relocations, and the same pages are dirtied",
        "{relocation_relr} a word, {relocation_relative} without",
        "F. Song, https://maskray.me/blog/2021-10-31-relative-relocations-and-relr",
    ),
    (
        "fixed_base",
        "prelink, a fixed base, no ASLR",
        "Beats us in everything but security: pages are clean, shared, and never fixed up",
        "at fixed addresses {tried.equal_fixed:.0%} of the {tried.pages} relocated pages of "
        "{tried.name} are equal in two processes",
        "J. Jelínek, Prelink, 2004, https://people.redhat.com/jakub/prelink.pdf",
    ),
    (
        "binding",
        "-z now, -fno-plt",
        "No rival: they decide when a function is looked up, not how many pages that dirties",
        "{binding_now_short} a function at load, {binding_lazy_short} at its first call (short "
        "scope); {binding_now_long} a function at load, {binding_lazy_long} at its first call "
        "(long scope)",
        "https://gcc.gnu.org/onlinedocs/gcc/Code-Gen-Options.html, -fno-plt; ld(1), -z now",
    ),
    (
        "zswap",
        "zswap and zram",
        "The closest rival: pages stay in memory compressed and need no fixing up. It beats us "
        "where fixups are many or symbolic, or where the file would have to be read again",
        "a page without fixups takes {swap_zswap} by zswap and {dropped}; a page without fixups "
        "takes {swap_zram} by zram and {dropped}; relocated pages compress to "
        "{tried.compressed:.0%} (zlib -1, one library), as much as {values:.0f} known values a "
        "page take",
        "https://docs.kernel.org/admin-guide/mm/zswap.html",
    ),
)
"""Name, title, when it beats us, what was found here, and source.

Of what was found, parts between semicolons are left out where a figure is not known."""


def baselines(
    costs: Costs,
    tried: Alternatives | None = None,
    swaps: Sequence[RoundTrip] = (),
    scratches: Sequence[RoundTrip] = (),
) -> list[Baseline]:
    """All of them, as a mailing list would name them; the first engine would be taken here."""
    known: dict[str, Any] = {one.name.replace(".", "_"): _time(one) for one in costs.measurements}
    known |= {one.what.replace(".", "_"): microseconds(one.bare_us) for one in swaps}
    if scratches:
        known["dropped"] = f"{microseconds(scratches[0].bare_us)} by {scratches[0].what}"
    if tried:
        known |= {"tried": tried, "fork": microseconds(tried.fork_us)}
        known |= {"alone": tried.alone_bytes / PAGESIZE, "child": tried.child_bytes / PAGESIZE}
        known["values"] = tried.compressed * PAGESIZE / TABLE_ENTRY
    found = []
    for name, title, claim, parts, source in _WAYS:
        here = "; ".join(_told(parts.split("; "), known))
        if name == "zswap" and not known.keys() & {"swap_zswap", "swap_zram"}:
            claim += ". Not measured in this run (--swap zswap or zram, as root)"
        sentence = f"{claim}. Here: {here}." if here else f"{claim}."
        found.append(Baseline(name, title, sentence, bool(here), source))
    return found


def _told(parts: Sequence[str], known: dict[str, Any]) -> Iterator[str]:
    """Those of which every figure is known."""
    for part in parts:
        with suppress(KeyError, TypeError):  # It is not there, or None, which is no number.
            yield part.format_map(known)


def _time(one: Measurement) -> str:
    """The median; where the rounds hardly agree on its size, only what it is less than."""
    unsure = one.minimum < _DISAGREE * one.median
    ns = one.maximum if unsure else one.median
    return "< " * unsure + (nanoseconds(ns) if ns < 1e3 else microseconds(ns / 1e3))
