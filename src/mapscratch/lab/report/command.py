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
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import get_args

from mapscratch.cli import EXIT_WRONG
from mapscratch.lab.report.page import page
from mapscratch.lab.report.page_facts import Documents
from mapscratch.lab.report.page_reading import Node, ReportError, as_document, read_document
from mapscratch.lab.report.parts import Outcome, Part, run_part
from mapscratch.lab.rig.machine import SwapKind
from mapscratch.lab.rig.results import SwapChoice
from mapscratch.lab.rig.surroundings import check_swap
from mapscratch.replacing import replacing
from mapscratch.terminal import (
    Progress,
    check_output_files,
    file_path,
    progress_bar,
    time_in_seconds,
)

DEFAULT_SECONDS = 270.0
DEFAULT_OUTPUT = Path("report.html")
_SURVEY_SHARE = 0.5
"""Of the time, at most: a survey takes what it takes, on an idle machine a sixth of it."""
_WEIGHTS = {"cost": 2.0, "compare": 1.0}
"""How the time is divided that is left; what a part doesn't use goes to those after it."""
_SHARE_MEASURED = 0.8
"""Of a part's time, what it may measure for; it starts, makes swap and cleans up beside that."""
_SECONDS_TO_START, _SECONDS_BEYOND = 3.0, 20.0
_SWAP_KINDS: tuple[SwapKind, ...] = ("file", "zram", "zswap")
"""The most telling one first, for the time may be short for the last."""
_LEAST_SWAP = 256 << 20
_SURVEY = "survey.json"
_FILES = ("survey", "cost", "compare", "ps")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "report",
        help="one HTML page: how expensive the fixups are here",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o",
        "--output",
        type=file_path,
        default=DEFAULT_OUTPUT,
        metavar="FILE",
        help=f"the page, - for standard output (default: {DEFAULT_OUTPUT})",
    )
    for name in ("survey", "cost", "ps"):
        parser.add_argument(
            f"--{name}",
            type=file_path,
            metavar="FILE",
            help=f"what `mapscratch {name} --json` saved",
        )
    parser.add_argument(
        "--compare",
        type=file_path,
        action="append",
        default=[],
        metavar="FILE",
        help="what `mapscratch compare --json` saved; may be given several times",
    )
    parser.add_argument(
        "--seconds",
        type=time_in_seconds(20),
        help="about how long it may take to run all of it; a busy machine takes longer, and so do "
        f"very few seconds (default: {DEFAULT_SECONDS:g})",
    )
    parser.add_argument(
        "--swap",
        action="append",
        choices=(*get_args(SwapChoice), "all"),
        default=[],
        help="what pages are swapped to, as in `mapscratch compare` (default: what is there); may "
        "be given several times. all: file, zram and zswap, as far as they can be made here (root)",
    )
    parser.add_argument(
        "--keep",
        type=file_path,
        metavar="FOLDER",
        help="save the JSON of what it runs itself, too, each when it is done",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; 1 if a comparison found a wrong word, 2 if there is nothing to show."""
    refused = _check(arguments)
    created = datetime.now().astimezone()
    if any(getattr(arguments, name) for name in _FILES):
        documents = _from_files(arguments)
    else:
        documents = _from_nothing(arguments, refused)
    text = page(documents, created).encode()
    _write(arguments.output, text)
    if str(arguments.output) != "-":
        print(f"{arguments.output}: {len(text) >> 10} KiB, open it in a browser")
    if not documents.all():
        reasons = "; ".join(
            dict.fromkeys(f"{name}: {reason}" for name, reason in documents.missing)
        )
        raise ReportError(f"nothing could be measured, the page says why: {reasons}")
    wrong = any(one.count("wrong_words") for one in documents.compares)
    return EXIT_WRONG if wrong else 0


def _check(arguments: argparse.Namespace) -> dict[SwapKind, str]:
    """Finds out before anything is run; which kinds of swap can't be made, and why.

    Raises:
        ReportError: options don't go together.
        OSError: a file or folder can't be written to.
        SwapError: swap can't be made that is asked for by name, or none of all.
    """
    check_output_files([arguments.output])
    given = [f"--{name}" for name in _FILES if getattr(arguments, name)]
    own = [f"--{name}" for name in ("swap", "seconds", "keep") if getattr(arguments, name)]
    if given and own:
        raise ReportError(
            f"with {', '.join(given)} nothing is run: leave {', '.join(own)} away, or the files"
        )
    refused = {
        kind: reason
        for wanted in arguments.swap
        for kind, reason in check_swap(wanted, _LEAST_SWAP).items()
    }
    folder = arguments.keep
    if folder is None:
        return refused
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    at = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not at.is_dir() or not os.access(at, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "can't be written to", str(at))
    return refused


def _from_files(arguments: argparse.Namespace) -> Documents:
    return Documents(
        survey=_read(arguments.survey, "survey"),
        cost=_read(arguments.cost, "cost"),
        compares=tuple(read_document(path, "mapscratch.compare") for path in arguments.compare),
        ps=_read(arguments.ps, "ps"),
    )


def _read(path: Path | None, name: str) -> Node | None:
    return read_document(path, f"mapscratch.{name}") if path else None


# --- from nothing -------------------------------------------------------------------------------


def _from_nothing(arguments: argparse.Namespace, refused: Mapping[SwapKind, str]) -> Documents:
    with tempfile.TemporaryDirectory(prefix="mapscratch-report-") as folder:
        outcomes = _run_all(arguments, refused, Path(folder))
    found: dict[str, list[Node]] = {name: [] for name in _FILES}
    missing = [(f"swap {kind}", reason) for kind, reason in refused.items()]
    for outcome in outcomes:
        part = outcome.part
        if outcome.document is None:
            missing.append((part.name, outcome.reason))
            continue
        name = f"mapscratch.{part.name}"
        _tell_of_swaps(outcome.document, refused)
        found[part.name].append(as_document(outcome.document, part.file, name))
    return Documents(
        survey=next(iter(found["survey"]), None),
        cost=next(iter(found["cost"]), None),
        compares=tuple(found["compare"]),
        missing=tuple(missing),
        commands=tuple(_again(outcomes, arguments)),
    )


def _run_all(
    arguments: argparse.Namespace, refused: Mapping[SwapKind, str], folder: Path
) -> list[Outcome]:
    started = time.monotonic()
    whole = arguments.seconds or DEFAULT_SECONDS
    swaps = _swaps(arguments.swap, refused)
    names = ["survey", "cost", *["compare"] * len(swaps)]
    outcomes: list[Outcome] = []
    with _progress(whole) as say:
        for kind, reason in refused.items():
            say(f"swap {kind}: not made: {reason}", 0.0)
        for index, name in enumerate(names):
            left = max(whole - (time.monotonic() - started), _SECONDS_TO_START)
            seconds = max(left * _share(name, names[index:]), _SECONDS_TO_START)
            several = len(swaps) > 1
            # One run of costs measures all of them in turns.
            swap = swaps[index - 2] if name == "compare" else "all" if several else swaps[0]
            with_survey = bool(outcomes and outcomes[0].document)
            part = _part(name, seconds, swap, several=several, with_survey=with_survey)
            begun = time.monotonic() - started
            say(part.title, begun / whole)

            def tick(
                ran: float, title: str = part.title, begun: float = begun, most: float = seconds
            ) -> None:
                say(title, (begun + min(ran, most)) / whole)

            outcome = run_part(part, folder, tick)
            outcomes.append(outcome)
            say(_told(outcome), (time.monotonic() - started) / whole)
            if arguments.keep and outcome.document is not None:
                _keep(part, folder, arguments.keep, say)
    return outcomes


def _share(name: str, ahead: Sequence[str]) -> float:
    """Of the time that is left, what a part gets, and those ahead of it get the rest."""
    if name == "survey":
        return _SURVEY_SHARE
    return _WEIGHTS[name] / sum(_WEIGHTS[other] for other in ahead)


def _swaps(wanted: Sequence[str], refused: Mapping[SwapKind, str]) -> list[str]:
    """One sweep for each."""
    if "all" not in wanted:
        return list(dict.fromkeys(wanted)) or ["none"]
    return [kind for kind in _SWAP_KINDS if kind not in refused]


def _tell_of_swaps(document: object, refused: Mapping[SwapKind, str]) -> None:
    """Why a swap wasn't measured: not because nobody asked for it, but because it can't be made."""
    left_out = document.get("left_out") if isinstance(document, dict) else None
    if not isinstance(left_out, dict):
        return
    for name in left_out:
        for kind, reason in refused.items():
            if f"swap.{kind}" in name:
                left_out[name] = reason


def _part(name: str, seconds: float, swap: str, *, several: bool, with_survey: bool) -> Part:
    """A command for one document, which keeps to its time; far beyond it, and we interrupt it."""
    # All of its figures would be lost: rather a busy machine takes longer than was said.
    limit = seconds + max(_SECONDS_BEYOND, seconds / 4)
    whole = max(int(seconds * _SHARE_MEASURED - _SECONDS_TO_START), 1)
    if name == "survey":
        words = ["survey", "--installed", "--pid", "all", "--json", f"{{folder}}/{_SURVEY}"]
        return Part(name, "survey: libraries and processes", tuple(words), _SURVEY, limit)
    if name == "cost":
        title, file = "cost: fixups, faults, swap", "cost.json"
        words = ["cost", "--measure", "--seconds", str(whole), "--json", f"{{folder}}/{file}"]
        if with_survey:
            words += ["--survey", f"{{folder}}/{_SURVEY}"]
    else:
        title, file = "compare: N processes", f"compare{f'-{swap}' if several else ''}.json"
        words = ["compare", "--seconds", str(whole), "--json", f"{{folder}}/{file}"]
    if swap != "none":
        words += ["--swap", swap]
        title += f", swap {swap}"
    return Part(name, title, tuple(words), file, limit)


def _told(outcome: Outcome) -> str:
    end = f"not done: {outcome.reason}" if outcome.reason else f"done in {outcome.seconds:.0f} s"
    return f"{outcome.part.name}: {end}"


@contextmanager
def _progress(seconds: float) -> Iterator[Progress]:
    """A bar if standard error is a terminal; else a line whenever something else is done."""
    if sys.stderr.isatty():
        with progress_bar() as progress:
            progress(f"about {seconds:.0f} s", 0.0)
            yield progress
        return
    said: list[str] = []

    def say(what: str, share: float) -> None:
        if not said or said[-1] != what:
            said.append(what)
            print(f"[{min(share, 1):4.0%}] {what}", file=sys.stderr, flush=True)

    say(f"about {seconds:.0f} s", 0.0)
    yield say


def _keep(part: Part, source: Path, folder: Path, say: Progress) -> None:
    """What can't be kept is told, and the page is made all the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / part.file, folder / part.file)
    except OSError as error:
        say(f"{part.file}: not kept: {error.strerror or error}", 1.0)


def _again(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> Iterator[str]:
    root = "sudo " if os.geteuid() == 0 else ""
    for outcome in outcomes:
        yield f"{root}{outcome.part.command}"
    files = " ".join(
        f"--{outcome.part.name} {outcome.part.file}"
        for outcome in outcomes
        if outcome.document is not None
    )
    yield f"mapscratch report {files} -o report.html".replace("  ", " ")
    swaps = "".join(f" --swap {swap}" for swap in dict.fromkeys(arguments.swap))
    yield f"# or all of it at once: {root}mapscratch report{swaps}"


# --- the file -----------------------------------------------------------------------------------


def _write(path: Path, text: bytes) -> None:
    """Writes the page; a page that was there stays whole until the new one is."""
    if str(path) == "-":
        sys.stdout.buffer.write(text)
        return
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe
        path.write_bytes(text)
        return
    target = path.resolve()
    with replacing(target, _mode(target)) as file:
        file.write(text)


def _mode(path: Path) -> int:
    """That of the file that is replaced, or of any new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
