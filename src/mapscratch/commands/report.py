# SPDX-License-Identifier: Apache-2.0
"""Make one HTML page of it all: how expensive the fixups are on this machine.

Without a file it runs survey, cost and compare itself, which takes at most the time that --seconds
gives. With files it runs nothing: what isn't among them is said to be missing, with the command
that makes it. The page needs no network and no other file; it opens from disk, in light and dark,
on a phone and on paper.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import get_args

from mapscratch.commands import EXIT_WRONG
from mapscratch.commands.parts import Outcome, Part, run_part
from mapscratch.commands.terminal import Progress, check_output_files, progress_bar
from mapscratch.experiment.results import SwapChoice
from mapscratch.kernelstats import SwapKind, probe_temporary_swap
from mapscratch.reporting.page import page
from mapscratch.reporting.page_facts import Documents
from mapscratch.reporting.page_reading import Node, as_document, read_document

DEFAULT_SECONDS = 270.0
DEFAULT_OUTPUT = Path("report.html")
_SURVEY_SHARE = 0.5
"""Of the time, at most: a survey takes what it takes, on an idle machine a sixth of it."""
_WEIGHTS = {"cost": 2.0, "compare": 1.0}
"""How the time is divided that is left; what a part doesn't use goes to those after it."""
_SHARE_MEASURED = 0.8
"""Of a part's time, what it may measure for; it starts, makes swap and cleans up beside that."""
_SECONDS_TO_START = 3.0
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
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FILE",
        help=f"the page, - for standard output (default: {DEFAULT_OUTPUT})",
    )
    for name in ("survey", "cost", "ps"):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"what `mapscratch {name} --json` saved"
        )
    parser.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what `mapscratch compare --json` saved; may be given several times",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_SECONDS,
        help=f"time for what it runs itself (default: {DEFAULT_SECONDS:g})",
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
        "--keep", type=Path, metavar="FOLDER", help="save the JSON of what it runs itself, too"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a comparison found a wrong word."""
    check_output_files([arguments.output])
    created = datetime.now().astimezone()
    if any(getattr(arguments, name) for name in _FILES):
        documents = _from_files(arguments)
    else:
        documents = _from_nothing(arguments)
    text = page(documents, created).encode()
    _write(arguments.output, text)
    if str(arguments.output) != "-":
        print(f"{arguments.output}: {len(text) >> 10} KiB, open it in a browser")
    wrong = any(one.count("wrong_words") for one in documents.compares)
    return EXIT_WRONG if wrong else 0


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


def _from_nothing(arguments: argparse.Namespace) -> Documents:
    with tempfile.TemporaryDirectory(prefix="mapscratch-report-") as folder:
        outcomes = _run_all(arguments, Path(folder))
        if arguments.keep:
            _keep(outcomes, Path(folder), arguments.keep)
    found: dict[str, list[Node]] = {name: [] for name in _FILES}
    missing = []
    for outcome in outcomes:
        part = outcome.part
        if outcome.document is None:
            missing.append((part.name, outcome.reason))
            continue
        name = f"mapscratch.{part.name}"
        found[part.name].append(as_document(outcome.document, part.file, name))
    return Documents(
        survey=next(iter(found["survey"]), None),
        cost=next(iter(found["cost"]), None),
        compares=tuple(found["compare"]),
        missing=tuple(missing),
        commands=tuple(_again(outcomes, arguments)),
    )


def _run_all(arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    started = time.monotonic()
    swaps = _swaps(arguments.swap)
    names = ["survey", "cost", *["compare"] * len(swaps)]
    outcomes: list[Outcome] = []
    with _progress(arguments.seconds) as say:
        for index, name in enumerate(names):
            left = max(arguments.seconds - (time.monotonic() - started), _SECONDS_TO_START)
            seconds = max(left * _share(name, names[index:]), _SECONDS_TO_START)
            several = len(swaps) > 1
            # One run of costs measures all of them in turns.
            swap = swaps[index - 2] if name == "compare" else "all" if several else swaps[0]
            with_survey = bool(outcomes and outcomes[0].document)
            part = _part(name, seconds, swap, several=several, with_survey=with_survey)
            begun = time.monotonic() - started
            say(part.title, begun / arguments.seconds)

            def tick(
                ran: float, title: str = part.title, begun: float = begun, most: float = seconds
            ) -> None:
                say(title, (begun + min(ran, most)) / arguments.seconds)

            outcome = run_part(part, folder, tick)
            outcomes.append(outcome)
            say(_told(outcome), (time.monotonic() - started) / arguments.seconds)
    return outcomes


def _share(name: str, ahead: Sequence[str]) -> float:
    """Of the time that is left, what a part gets, and those ahead of it get the rest."""
    if name == "survey":
        return _SURVEY_SHARE
    return _WEIGHTS[name] / sum(_WEIGHTS[other] for other in ahead)


def _swaps(wanted: Sequence[str]) -> list[str]:
    """One sweep for each; the most telling one first, for the time may be short for the last."""
    if "all" not in wanted:
        return list(dict.fromkeys(wanted)) or ["none"]
    kinds: tuple[SwapKind, ...] = ("file", "zram", "zswap")
    return [kind for kind in kinds if probe_temporary_swap(kind)] or ["none"]


def _part(name: str, seconds: float, swap: str, *, several: bool, with_survey: bool) -> Part:
    """A command for one document, which keeps to its time; some beyond it, and we interrupt it."""
    whole = max(int(seconds * _SHARE_MEASURED - _SECONDS_TO_START), 1)
    if name == "survey":
        words = ["survey", "--installed", "--pid", "all", "--json", f"{{folder}}/{_SURVEY}"]
        return Part(name, "survey: libraries and processes", tuple(words), _SURVEY, seconds)
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
    return Part(name, title, tuple(words), file, seconds + _grace(seconds))


def _grace(seconds: float) -> float:
    return max(5.0, 0.15 * seconds)


def _told(outcome: Outcome) -> str:
    end = f"not done: {outcome.reason}" if outcome.reason else f"done in {outcome.seconds:.0f} s"
    return f"{outcome.part.name}: {end}"


@contextmanager
def _progress(seconds: float) -> Iterator[Progress]:
    """A bar if standard error is a terminal; else a line whenever something else is done."""
    if sys.stderr.isatty():
        with progress_bar() as progress:
            progress(f"at most {seconds:.0f} s", 0.0)
            yield progress
        return
    said: list[str] = []

    def say(what: str, share: float) -> None:
        if not said or said[-1] != what:
            said.append(what)
            print(f"[{min(share, 1):4.0%}] {what}", file=sys.stderr, flush=True)

    say(f"at most {seconds:.0f} s", 0.0)
    yield say


def _keep(outcomes: Sequence[Outcome], source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        if outcome.document is not None:
            shutil.copyfile(source / outcome.part.file, folder / outcome.part.file)


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
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _mode(path: Path) -> int:
    """That of the file that is replaced, or of any new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 20.0 <= value <= 86_400.0:
        raise argparse.ArgumentTypeError(f"expected 20 to 86400 seconds, not {text!r}")
    return value
