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

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from mmap import PAGESIZE
from typing import Literal, TypeAlias

from mapscratch.lab.rig.results import ENGINES, Comparison, Summary
from mapscratch.text import counted, microseconds, whole

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
_NEGLIGIBLE = 0.02  # of the pages still in memory: that doesn't change what a page-in costs
_TOO_MANY = 0.1  # of them: that does, and nothing can be said

_WEIGHED = (
    "{sent}, {by_scratch}: {made}, dropping it and bringing it back with them {scratch_us}, and "
    "swapping it out and in{background} {swap_us}{held}; so "
)
_SENTENCES: dict[Case, str] = {
    "wrong words": "{wrong} of {checked} words read were wrong, so nothing else in this run "
    "counts: please report it with the output of --json.",
    "nothing measured": "Nothing was measured in the time given, so there is no answer; give more "
    "--seconds.",
    "only private": "{sent}; no scratch engine was measured beside it, so there is nothing to "
    "weigh that against (`mapscratch doctor` says what runs here).",
    "no private": "With {dropped}, and {made}; MAP_PRIVATE was not measured beside it, so from how "
    "many fixups a page scratch would stop paying is not known.",
    "no swap": "Without swap {processes} gave back {private_back} of each MiB asked for with "
    "MAP_PRIVATE and {scratch_back} with {scratch}, where {made}; what swapping a page would cost "
    "can't be measured here, so neither can from how many fixups a page scratch would stop paying.",
    "nothing swapped": "There is swap, but the kernel put none of the MAP_PRIVATE pages there and "
    "kept them, while with {dropped}, and {made}; what swapping a page costs is not known from "
    "this run.",
    "nothing dropped": "{sent}, {by_scratch}; no page of {scratch} had to come back, so what its "
    "fixups cost is not known from this run.",
    "not read back": _WEIGHED + "what reading them back costs is not known from this run, and from "
    "how many fixups a page scratch would stop paying isn't either.",
    "never pays": _WEIGHED + "here swap is faster even for a page without fixups, and scratch "
    "saves the space in swap but no time.",
    "pays up to fewer fixups": _WEIGHED + "in time scratch stops paying at {limit} fixups a page, "
    "and these libraries have more.",
    "pays": _WEIGHED + "in time scratch would stop paying at {limit} fixups a page{fit} or when "
    "one fixup costs {limit_ns}.",
}
"""The first case that applies is the answer; `_words` says what stands for the names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the largest number of processes shows; costs in µs a page, None where not known."""

    case: Case  # which sentence it is
    sentence: str  # the answer
    processes: int  # how many; 0 if nothing was measured
    scratch: str | None  # the engine that is weighed against MAP_PRIVATE; None if none was measured
    fixups_per_page: float | None  # how many fixups a page has
    fixups_us: float | None  # making them again
    fixup_ns: float | None  # ns for one, its page in memory
    scratch_us: float | None  # dropping a page and bringing it back with its fixups
    swap_us: float | None  # swapping a page out and in
    break_even_fixups: float | None  # from so many fixups a page scratch costs more time than swap
    # or when one fixup costs so many ns, with as many as there are
    break_even_fixup_ns: float | None


def judge(comparison: Comparison) -> Verdict:
    """The verdict on a comparison."""
    processes = max(comparison.processes, default=0)
    private = comparison.summary(processes, "private")
    measured = [comparison.summary(processes, name) for name in ENGINES]
    scratch = next((summary for summary in measured if summary), None)
    figures = _figures(private, scratch)
    swapped_in = _median(private, "swapped_in_pages")
    held = min(_median(private, "swap_cache_pages"), swapped_in)
    limit = figures["break_even_fixups"]
    cases: dict[Case, bool] = {
        "wrong words": comparison.wrong_words > 0,
        "nothing measured": not comparison.rounds,
        "only private": scratch is None,
        "no private": private is None,
        "no swap": comparison.swap.kind == "none",
        "nothing swapped": isnan(figures["swap_us"]),
        "nothing dropped": isnan(limit),
        "not read back": held > _TOO_MANY * swapped_in,
        "never pays": limit <= 0,
        "pays up to fewer fixups": limit <= figures["fixups_per_page"],
        "pays": True,
    }
    case = next(case for case, applies in cases.items() if applies)
    words = _words(comparison, private, scratch, figures) | {"held": ""}
    if held > _NEGLIGIBLE * swapped_in:
        of = f"{whole(held)} of {whole(swapped_in)}"
        words["held"] = f", though {of} pages were still in memory and not read back"
    sentence = _SENTENCES[case].format_map(words)
    if case == "not read back":
        figures |= {"break_even_fixups": nan, "break_even_fixup_ns": nan}
    known = {name: None if isnan(value) else value for name, value in figures.items()}
    return Verdict(case, sentence, processes, scratch.strategy if scratch else None, **known)


def _median(summary: Summary | None, figure: str) -> float:
    """Not a number where it is not known: what is reckoned with it isn't one then, either."""
    median = summary.median(figure) if summary else None
    return nan if median is None else median


def _figures(private: Summary | None, scratch: Summary | None) -> dict[str, float]:
    """MAP_PRIVATE against one scratch engine, with the same number of processes."""
    per_page = _median(scratch or private, "fixups_per_page")
    fixup_ns = _median(scratch, "fixup_ns")
    # Page-in fixups are timed inside of page-in; others are a step of their own.
    is_step = _median(scratch, "fixups_after_page_in") > 0
    scratch_us = _median(scratch, "round_trip_us")
    is_swapped = _median(private, "swapped_out_pages") > 0
    swap_us = _median(private, "round_trip_us") if is_swapped else nan
    gain_ns = (swap_us - scratch_us) * 1000
    return {
        "fixups_per_page": per_page,
        "fixups_us": _median(scratch, "fixups_us") if is_step else fixup_ns * per_page / 1000,
        "fixup_ns": fixup_ns,
        "scratch_us": scratch_us,
        "swap_us": swap_us,
        "break_even_fixups": per_page + gain_ns / (fixup_ns or nan),
        "break_even_fixup_ns": fixup_ns + gain_ns / (per_page or nan),
    }


def _words(
    comparison: Comparison,
    private: Summary | None,
    scratch: Summary | None,
    figures: Mapping[str, float],
) -> dict[str, str]:
    """What stands for the names in the sentences; nonsense where it was not measured."""
    swap = comparison.swap
    processes = counted(max(comparison.processes, default=0), "process", "processes")
    back, pages = _given_back(private), whole(_median(private, "pages"))
    out = _median(private, "swapped_out_pages")
    swapped = whole(out)
    amount = f"all {pages}" if swapped == pages else f"{swapped} of {pages}"
    sent = f"With MAP_PRIVATE {processes} sent {amount} fixed-up pages to {swap.title}"
    if isnan(out) or out < 0.5:
        is_none = swap.kind == "none"
        where = "there is no swap" if is_none else "the kernel swapped none of them"
        sent = (
            f"Of the {pages} pages that {processes} fixed up with MAP_PRIVATE the kernel got "
            f"{back} back of each MiB asked for, for {where}"
        )
    engine = scratch.strategy if scratch else ""
    by_us = _median(scratch, "dropped_by_us_pages")
    by_kernel = _median(scratch, "dropped_by_kernel_pages")
    dropped = (
        f"{engine} {whole(by_us if isnan(by_kernel) else by_us + by_kernel)} of the "
        f"{whole(_median(scratch, 'pages'))} pages that {processes} fixed up were dropped"
    )
    beside = f"while {engine} dropped its pages itself"
    leaked = _median(scratch, "swapped_out_pages")
    if not isnan(leaked):
        some = whole(leaked) if leaked >= 0.5 else "none"
        dropped += f" and {some} went to swap"
        beside = f"with {engine} {some}"
    made = "no fixup had to be made again"
    if not isnan(figures["fixups_us"]):
        is_copied = _median(scratch, "fixups_after_page_in") > 0
        made = (
            f"making a page's {whole(figures['fixups_per_page'])} fixups again from known values"
            f"{', with copying the page,' if is_copied else ''} costs "
            f"{microseconds(figures['fixups_us'])}"
        )
    is_slow = swap.kind in ("file", "partition") and not swap.zswap
    background = " (the device's own writing not waited for)" if is_slow else ""
    fits = figures["break_even_fixups"] <= WORDS_A_PAGE
    fit = "" if fits else f", more than the {WORDS_A_PAGE} that fit in one,"
    words = {"processes": processes, "sent": sent, "by_scratch": beside, "scratch": engine}
    words |= {"private_back": back, "scratch_back": _given_back(scratch), "dropped": dropped}
    words |= {"made": made, "background": background, "fit": fit}
    words |= {"wrong": f"{comparison.wrong_words:,}", "checked": f"{comparison.words_checked:,}"}
    words |= {name: microseconds(figures[name]) for name in ("scratch_us", "swap_us")}
    words["limit"] = whole(max(1.0, figures["break_even_fixups"]))
    words["limit_ns"] = f"{whole(figures['break_even_fixup_ns'])} ns"
    return words


def _given_back(summary: Summary | None) -> str:
    share = _median(summary, "given_back_per_mib")
    return "an unknown part" if isnan(share) else f"{share:.2f} MiB"
