# SPDX-License-Identifier: Apache-2.0
"""The answer to the author of 2004, made from what was measured.

"The downside is the additional computation on page-in. It is a function of how many fixups there
are per page, and of how much work ld.so does to satisfy a fixup. I don't have a good feel for how
expensive ld.so's fixup mechanism is... any comments?" (Andy Isaacson, 3 February 2004)

Let a page have *k* fixups of *f* ns each. Swapping it out and in costs *S*, dropping it and
bringing it back with its fixups costs *T*. Then scratch stops paying, in time, at
*k + (S - T) / f* fixups a page, or, with the *k* fixups that there are, when one costs
*f + (S - T) / k*. What a fixup costs here is storing a value that is known; looking a symbol up
again costs more, which is what the second figure is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Literal, TypeAlias

from mapscratch.lab.rig.results import ENGINES, Comparison, Summary, SwapDescription
from mapscratch.text import counted, microseconds

Case: TypeAlias = Literal[
    "wrong words",
    "nothing measured",
    "only private",
    "no private",
    "no swap",
    "nothing swapped",
    "nothing dropped",
    "not read back",
    "pays",
    "pays up to fewer fixups",
    "never pays",
]

WORDS_A_PAGE = PAGESIZE // 8
_NEGLIGIBLE = 0.02
"""So small a share of pages that were still in memory doesn't change what a page-in costs."""
_TOO_MANY = 0.1
"""So large a share of them does, and nothing can be said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the largest number of processes shows; costs in µs a page, None where not known.

    Attributes:
        case: which sentence it is.
        sentence: the answer.
        processes: how many; 0 if nothing was measured.
        scratch: the engine that is weighed against MAP_PRIVATE; None if none was measured.
        fixups_per_page: how many fixups a page has.
        fixups_us: making them again.
        fixup_ns: ns for one, its page in memory.
        scratch_us: dropping a page and bringing it back with its fixups.
        swap_us: swapping a page out and in.
        break_even_fixups: from so many fixups a page scratch costs more time than swap.
        break_even_fixup_ns: or when one fixup costs so many ns, with as many as there are.
    """

    case: Case
    sentence: str
    processes: int
    scratch: str | None
    fixups_per_page: float | None
    fixups_us: float | None
    fixup_ns: float | None
    scratch_us: float | None
    swap_us: float | None
    break_even_fixups: float | None
    break_even_fixup_ns: float | None


def judge(comparison: Comparison) -> Verdict:
    """The verdict on a comparison."""
    processes = max(comparison.processes, default=0)
    private = comparison.summary(processes, "private")
    measured = [comparison.summary(processes, name) for name in ENGINES]
    scratch = next((summary for summary in measured if summary), None)
    balance = _Balance(private, scratch)
    case = _case(comparison, balance)
    return Verdict(
        case=case,
        sentence=_sentence(case, comparison, balance),
        processes=processes,
        scratch=scratch.strategy if scratch else None,
        fixups_per_page=balance.fixups_per_page,
        fixups_us=balance.fixups_us,
        fixup_ns=balance.fixup_ns,
        scratch_us=balance.scratch_us,
        swap_us=balance.swap_us,
        break_even_fixups=None if case == "not read back" else balance.break_even_fixups,
        break_even_fixup_ns=None if case == "not read back" else balance.break_even_fixup_ns,
    )


@dataclass(frozen=True, slots=True)
class _Balance:
    """MAP_PRIVATE against one scratch engine, with the same number of processes."""

    private: Summary | None
    scratch: Summary | None

    @property
    def fixups_per_page(self) -> float | None:
        either = self.scratch or self.private
        return either.median("fixups_per_page") if either else None

    @property
    def fixup_ns(self) -> float | None:
        return self.scratch.median("fixup_ns") if self.scratch else None

    @property
    def fixups_us(self) -> float | None:
        """Page-in fixups are timed inside of page-in; others are a step of their own."""
        if self.scratch is None or self.fixups_per_page is None:
            return None
        if self.scratch.median("fixups_after_page_in"):
            return self.scratch.median("fixups_us")
        return None if self.fixup_ns is None else self.fixup_ns * self.fixups_per_page / 1000

    @property
    def scratch_us(self) -> float | None:
        return self.scratch.median("round_trip_us") if self.scratch else None

    @property
    def swapped_pages(self) -> float:
        return (self.private.median("swapped_out_pages") or 0) if self.private else 0

    @property
    def swap_us(self) -> float | None:
        if self.private is None or not self.swapped_pages:
            return None
        return self.private.median("round_trip_us")

    @property
    def share_held(self) -> float:
        """Of the pages that came back from swap, how many had never left memory: 0 to 1."""
        swapped_in = self.private.median("swapped_in_pages") if self.private else None
        return self.held / swapped_in if swapped_in else 0.0

    @property
    def held(self) -> float:
        if self.private is None:
            return 0.0
        swapped_in = self.private.median("swapped_in_pages") or 0.0
        return min(self.private.median("swap_cache_pages") or 0.0, swapped_in)

    @property
    def gain_ns(self) -> float | None:
        if self.swap_us is None or self.scratch_us is None:
            return None
        return (self.swap_us - self.scratch_us) * 1000

    @property
    def break_even_fixups(self) -> float | None:
        if self.gain_ns is None or not self.fixup_ns or self.fixups_per_page is None:
            return None
        return self.fixups_per_page + self.gain_ns / self.fixup_ns

    @property
    def break_even_fixup_ns(self) -> float | None:
        if self.gain_ns is None or self.fixup_ns is None or not self.fixups_per_page:
            return None
        return self.fixup_ns + self.gain_ns / self.fixups_per_page


def _case(comparison: Comparison, balance: _Balance) -> Case:
    if comparison.wrong_words:
        return "wrong words"
    if not comparison.rounds:
        return "nothing measured"
    if balance.scratch is None:
        return "only private"
    if balance.private is None:
        return "no private"
    if comparison.swap.kind == "none":
        return "no swap"
    if balance.swap_us is None:
        return "nothing swapped"
    if balance.break_even_fixups is None or balance.fixups_per_page is None:
        return "nothing dropped"
    if balance.share_held > _TOO_MANY:
        return "not read back"
    if balance.break_even_fixups <= 0:
        return "never pays"
    if balance.break_even_fixups <= balance.fixups_per_page:
        return "pays up to fewer fixups"
    return "pays"


def _sentence(case: Case, comparison: Comparison, balance: _Balance) -> str:
    if case == "wrong words":
        return (
            f"{comparison.wrong_words:,} of {comparison.words_checked:,} words read were wrong, so "
            "nothing else in this run counts: please report it with the output of --json."
        )
    if case == "nothing measured":
        return "Nothing was measured in the time given, so there is no answer; give more --seconds."
    private, scratch = balance.private, balance.scratch
    if scratch is None:
        assert private
        return (
            f"{_swapped(private, comparison.swap)}; no scratch engine was measured beside it, so "
            "there is nothing to weigh that against (`mapscratch doctor` says what runs here)."
        )
    made = _fixups_made(balance)
    if private is None:
        return (
            f"{_dropped(scratch)}, and {made}; MAP_PRIVATE was not measured beside it, so from how "
            "many fixups a page scratch would stop paying is not known."
        )
    if case == "no swap":
        return (
            f"Without swap {_processes(private)} gave back {_given_back(private)} of each MiB "
            f"asked for with MAP_PRIVATE and {_given_back(scratch)} with {scratch.strategy}, where "
            f"{made}; what swapping a page would cost can't be measured here, so neither can from "
            "how many fixups a page scratch would stop paying."
        )
    if case == "nothing swapped":
        return (
            "There is swap, but the kernel put none of the MAP_PRIVATE pages there and kept them, "
            f"while {_dropped(scratch, lower=True)}, and {made}; what swapping a page costs is not "
            "known from this run."
        )
    swapped = f"{_swapped(private, comparison.swap)}, {_by_scratch(scratch)}"
    if case == "nothing dropped":
        return (
            f"{swapped}; no page of {scratch.strategy} had to come back, so what its fixups cost "
            "is not known from this run."
        )
    return f"{swapped}: {made}, {_costs(balance, comparison.swap)}; {_break_even(case, balance)}."


def _processes(summary: Summary) -> str:
    return counted(summary.processes, "process", "processes")


def _swapped(private: Summary, swap: SwapDescription) -> str:
    pages = round(private.median("pages") or 0)
    swapped = round(private.median("swapped_out_pages") or 0)
    if not swapped:
        where = "there is no swap" if swap.kind == "none" else "the kernel swapped none of them"
        return (
            f"Of the {pages:,} pages that {_processes(private)} fixed up with MAP_PRIVATE the "
            f"kernel got {_given_back(private)} back of each MiB asked for, for {where}"
        )
    amount = f"all {pages:,}" if swapped == pages else f"{swapped:,} of {pages:,}"
    return f"With MAP_PRIVATE {_processes(private)} sent {amount} fixed-up pages to {swap.title}"


def _by_scratch(scratch: Summary) -> str:
    swapped = scratch.median("swapped_out_pages")
    if swapped is None:
        return f"while {scratch.strategy} dropped its pages itself"
    return f"with {scratch.strategy} {_count(swapped)}"


def _dropped(scratch: Summary, *, lower: bool = False) -> str:
    pages = round(scratch.median("pages") or 0)
    dropped = round(
        (scratch.median("dropped_by_kernel_pages") or 0)
        + (scratch.median("dropped_by_us_pages") or 0)
    )
    with_engine = f"{'with' if lower else 'With'} {scratch.strategy}"
    swapped = scratch.median("swapped_out_pages")
    to_swap = "" if swapped is None else f" and {_count(swapped)} went to swap"
    return (
        f"{with_engine} {dropped:,} of the {pages:,} pages that {_processes(scratch)} fixed up "
        f"were dropped{to_swap}"
    )


def _count(pages: float) -> str:
    return f"{round(pages):,}" if round(pages) else "none"


def _given_back(summary: Summary) -> str:
    share = summary.median("given_back_per_mib")
    return "an unknown part" if share is None else f"{share:.2f} MiB"


def _fixups_made(balance: _Balance) -> str:
    if balance.fixups_us is None or balance.fixups_per_page is None:
        return "no fixup had to be made again"
    if balance.scratch and balance.scratch.median("fixups_after_page_in"):
        how = "from known values, with copying the page,"
    else:
        how = "from known values"
    return (
        f"making a page's {balance.fixups_per_page:.0f} fixups again {how} costs "
        f"{microseconds(balance.fixups_us)}"
    )


def _costs(balance: _Balance, swap: SwapDescription) -> str:
    assert balance.scratch and balance.private
    assert balance.scratch_us is not None and balance.swap_us is not None
    background = ""
    if swap.kind in ("file", "partition") and not swap.zswap:
        background = " (the device's own writing not waited for)"
    return (
        f"dropping it and bringing it back with them {microseconds(balance.scratch_us)}, and "
        f"swapping it out and in{background} {microseconds(balance.swap_us)}"
        f"{_still_in_memory(balance)}"
    )


def _still_in_memory(balance: _Balance) -> str:
    """Says how many swapped pages were not read back, for they had not left memory; or nothing."""
    if balance.share_held <= _NEGLIGIBLE or balance.private is None:
        return ""
    swapped_in = balance.private.median("swapped_in_pages") or 0.0
    return (
        f", though {round(balance.held):,} of {round(swapped_in):,} pages were still in memory and "
        "not read back"
    )


def _break_even(case: Case, balance: _Balance) -> str:
    assert balance.break_even_fixups is not None and balance.break_even_fixup_ns is not None
    assert balance.fixups_per_page is not None
    if case == "not read back":
        return (
            "so what reading them back costs is not known from this run, and from how many fixups "
            "a page scratch would stop paying isn't either"
        )
    if case == "never pays":
        return (
            "so here swap is faster even for a page without fixups, and scratch saves the space in "
            "swap but no time"
        )
    limit = f"{max(1, round(balance.break_even_fixups)):,} fixups a page"
    if case == "pays up to fewer fixups":
        return f"so in time scratch stops paying at {limit}, and these libraries have more"
    fit = (
        f", more than the {WORDS_A_PAGE} that fit in one,"
        if balance.break_even_fixups > WORDS_A_PAGE
        else ""
    )
    return (
        f"so in time scratch would stop paying at {limit}{fit} or when one fixup costs "
        f"{balance.break_even_fixup_ns:,.0f} ns"
    )
