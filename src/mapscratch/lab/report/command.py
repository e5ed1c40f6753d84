# SPDX-License-Identifier: Apache-2.0
"""Make one HTML page of it all: how expensive the fixups are on this machine.

Without a file it runs survey, cost and compare itself, which takes about the time that
--seconds gives. With files it runs nothing: what isn't among them is said to be missing, with the
command that makes it. The page needs no network and no other file; it opens from disk, in light and
dark, on a phone and on paper.

Without --swap nothing on the machine is changed.

Examples:
  mapscratch report                          everything, into report.html
  sudo mapscratch report --swap auto         the same, with a temporary swapfile if there is no swap
  sudo mapscratch report --swap all          with a swapfile, zram and zswap, one after the other
  sudo mapscratch report --swap file --swap zram --keep figures      two of them; keeps the JSON
  mapscratch report --survey survey.json --cost cost.json --compare file.json --compare zram.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from mapscratch import terminal
from mapscratch.cli import EXIT_WRONG
from mapscratch.errors import UserError
from mapscratch.lab.report.bench import files_of_the_source
from mapscratch.lab.report.documents import (
    KINDS,
    AnyDocument,
    Documents,
    as_document,
    read_bench,
    read_document,
)
from mapscratch.lab.report.page import page
from mapscratch.lab.report.parts import Outcome, Part, run_part
from mapscratch.lab.rig.machine.swap import SwapKind
from mapscratch.lab.rig.results import SwapChoice
from mapscratch.lab.rig.surroundings import check_swap
from mapscratch.replacing import filling


class ReportError(UserError, ValueError):
    """A report can't be made; the message says what to do."""


DEFAULT_SECONDS = 270.0
DEFAULT_OUTPUT = Path("report.html")
_PARTS = {
    "survey": ("survey: libraries and processes", "--installed --pid all"),
    "cost": ("cost: fixups, faults, swap", "--measure --seconds {seconds}"),
    "compare": ("compare: N processes", "--seconds {seconds}"),
}
"""A title, and options."""
_SHARES = {"survey": 0.5, "cost": 2.0, "compare": 1.0}
"""How the time is divided: a survey gets half of it at most and takes a sixth of it on an idle
machine; what a part doesn't use goes to those after it, by these weights."""
_SHARE_MEASURED = 0.8
"""Of a part's time, what it may measure for; it starts, makes swap and cleans up beside that."""
_SECONDS_TO_START, _SECONDS_BEYOND = 3.0, 20.0
_LEAST_SWAP = 256 << 20

HELP = "one HTML page: how expensive the fixups are here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add = parser.add_argument
    file: dict[str, Any] = {"type": terminal.file_path, "metavar": "FILE"}
    output = f"the page, - for standard output (default: {DEFAULT_OUTPUT})"
    add("-o", "--output", **file, default=DEFAULT_OUTPUT, help=output)
    for name in KINDS:
        saved = f"what `mapscratch {name} --json` saved"
        saved += "; may be given several times" if name == "compare" else ""
        add(f"--{name}", **file, action="append", default=[], help=saved)
    bench = (
        "files of bench/results/, which say what arrays and Cache gain (default: those of the "
        "source, if this is it)"
    )
    add("--bench", **file, nargs="+", help=bench)
    seconds = (
        "about how long it may take to run all of it; a busy machine takes longer, and so do very "
        f"few seconds (default: {DEFAULT_SECONDS:g})"
    )
    add("--seconds", type=terminal.time_in_seconds(20), help=seconds)
    swap = (
        "what pages are swapped to, as in `mapscratch compare` (default: what is there); may be "
        "given several times. all: file, zram and zswap, as far as they can be made here (root)"
    )
    choices = (*get_args(SwapChoice), "all")
    add("--swap", action="append", choices=choices, default=[], help=swap)
    keep = "save the JSON of what it runs itself, too, each when it is done"
    add("--keep", type=terminal.file_path, metavar="FOLDER", help=keep)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; 1 if a comparison found a wrong word, 2 if there is nothing to show."""
    with filling(arguments.keep) if arguments.keep else nullcontext():
        return _report(arguments)


def _report(arguments: argparse.Namespace) -> int:
    refused = _check(arguments)
    created = datetime.now().astimezone()
    bench = tuple(map(read_bench, arguments.bench or files_of_the_source()))
    given = [(path, name) for name in KINDS for path in getattr(arguments, name)]
    if given:
        documents = Documents(tuple(read_document(*one) for one in given), bench)
    else:
        with tempfile.TemporaryDirectory(prefix="mapscratch-report-") as folder:
            outcomes = _run_all(arguments, refused, Path(folder))
        documents = Documents(
            tuple(_document(one, refused) for one in outcomes if one.document),
            bench,
            missing=(
                *((f"swap {kind}", reason) for kind, reason in refused.items()),
                *((one.part.name, one.reason) for one in outcomes if not one.document),
            ),
            commands=tuple(_again(outcomes, arguments.swap)),
        )
    text = page(documents, created).encode()
    terminal.write_file(arguments.output, text)
    if str(arguments.output) != "-":
        print(f"{arguments.output}: {len(text) >> 10} KiB, open it in a browser")
    if not documents.all:
        reasons = dict.fromkeys(f"{name}: {reason}" for name, reason in documents.missing)
        raise ReportError(f"nothing could be measured, the page says why: {'; '.join(reasons)}")
    return EXIT_WRONG if any(one.wrong_words for one in documents.compares) else 0


def _check(arguments: argparse.Namespace) -> dict[SwapKind, str]:
    """Finds out before anything is run; which kinds of swap can't be made, and why."""
    given = [f"--{name}" for name in KINDS if getattr(arguments, name)]
    own = [f"--{name}" for name in ("swap", "seconds", "keep") if getattr(arguments, name)]
    if given and own:
        raise ReportError(
            f"with {', '.join(given)} nothing is run: leave {', '.join(own)} away, or the files"
        )
    for name in KINDS:
        if name != "compare" and len(getattr(arguments, name)) > 1:
            raise ReportError(f"--{name} is given twice: a page shows one {name}")
    refused: dict[SwapKind, str] = {}
    for wanted in arguments.swap:
        probes = check_swap(wanted, _LEAST_SWAP)
        refused |= {kind: probe.reason for kind, probe in probes.items() if not probe}
    terminal.check_output_files(
        [arguments.output, arguments.keep and arguments.keep / "survey.json"]
    )
    return refused


# --- from nothing -------------------------------------------------------------------------------


def _run_all(
    arguments: argparse.Namespace, refused: Mapping[SwapKind, str], folder: Path
) -> list[Outcome]:
    started, whole = time.monotonic(), arguments.seconds or DEFAULT_SECONDS
    swaps = list(dict.fromkeys(arguments.swap)) or ["none"]
    if "all" in swaps:  # The most telling one first, for the time may be short for the last.
        swaps = [kind for kind in ("file", "zram", "zswap") if kind not in refused]
    # One run of costs measures all of them in turns.
    every = "all" if len(swaps) > 1 else swaps[0]
    ahead = [("survey", "none"), ("cost", every), *(("compare", swap) for swap in swaps)]
    outcomes: list[Outcome] = []
    with _progress(whole) as say:
        for kind, reason in refused.items():
            say(f"swap {kind}: not made: {reason}", 0.0)
        for at, (name, swap) in enumerate(ahead):
            begun = time.monotonic() - started
            share = _share(name, [other for other, _ in ahead[at:]])
            seconds = max((whole - begun) * share, _SECONDS_TO_START)
            with_survey = bool(outcomes and outcomes[0].document)
            part = _part(name, seconds, swap, several=len(swaps) > 1, with_survey=with_survey)

            def tick(ran: float, part: Part = part, begun: float = begun) -> None:
                say(part.title, (begun + min(ran, part.limit)) / whole)

            tick(0.0)
            outcome = run_part(part, folder, tick)
            done = f"done in {outcome.seconds:.0f} s"
            end = f"not done: {outcome.reason}" if outcome.reason else done
            say(f"{name}: {end}", (time.monotonic() - started) / whole)
            if arguments.keep and outcome.document:
                _keep(folder / part.file, arguments.keep, say)
            outcomes.append(outcome)
    return outcomes


def _share(name: str, ahead: Sequence[str]) -> float:
    """Of the time that is left, what a part gets, and those ahead of it get the rest."""
    return _SHARES[name] / (1 if name == "survey" else sum(_SHARES[other] for other in ahead))


def _part(name: str, seconds: float, swap: str, *, several: bool, with_survey: bool) -> Part:
    """A command for one document, which keeps to its time; far beyond it, and we interrupt it."""
    # All of its figures would be lost: rather a busy machine takes longer than was said.
    limit = seconds + max(_SECONDS_BEYOND, seconds / 4)
    measured = max(int(seconds * _SHARE_MEASURED - _SECONDS_TO_START), 1)
    title, options = _PARTS[name]
    file = f"compare-{swap}.json" if name == "compare" and several else f"{name}.json"
    words = [name, *options.format(seconds=measured).split(), "--json", f"{{folder}}/{file}"]
    if name == "cost" and with_survey:
        words += ["--survey", "{folder}/survey.json"]
    if swap != "none":
        words += ["--swap", swap]
        title += f", swap {swap}"
    return Part(name, title, tuple(words), file, limit)


@contextmanager
def _progress(seconds: float) -> Iterator[terminal.Progress]:
    """A bar if standard error is a terminal; else a line whenever something else is done."""
    said = ""

    def say(what: str, share: float) -> None:
        nonlocal said
        if what != said:
            print(f"[{min(share, 1):4.0%}] {what}", file=sys.stderr, flush=True)
        said = what

    with terminal.progress_bar() if sys.stderr.isatty() else nullcontext(say) as progress:
        progress(f"about {seconds:.0f} s", 0.0)
        yield progress


def _keep(file: Path, folder: Path, say: terminal.Progress) -> None:
    """What can't be kept is told, and the page is made all the same."""
    try:
        shutil.copyfile(file, folder / file.name)
    except OSError as error:
        say(f"{file.name}: not kept: {error.strerror or error}", 1.0)


def _document(outcome: Outcome, refused: Mapping[SwapKind, str]) -> AnyDocument:
    """With the reason why a swap wasn't measured: it can't be made, and not that nobody asked."""
    document = outcome.document
    left_out = document.get("left_out") if isinstance(document, dict) else None
    if isinstance(left_out, dict):
        for kind, reason in refused.items():
            left_out |= {name: reason for name in left_out if f"swap.{kind}" in name}
    return as_document(document, outcome.part.file, outcome.part.name)


def _again(outcomes: Sequence[Outcome], wanted: Sequence[str]) -> Iterator[str]:
    root = "sudo " if os.geteuid() == 0 else ""
    yield from (f"{root}{one.part.command}" for one in outcomes)
    files = [f"--{one.part.name} {one.part.file}" for one in outcomes if one.document]
    yield " ".join(["mapscratch report", *files, "-o report.html"])
    swaps = "".join(f" --swap {swap}" for swap in dict.fromkeys(wanted))
    yield f"# or all of it at once: {root}mapscratch report{swaps}"


# --- the file -----------------------------------------------------------------------------------
