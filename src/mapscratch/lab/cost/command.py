# SPDX-License-Identifier: Apache-2.0
"""Answer "how expensive are the fixups?" for this machine, and for others.

Measured are ld.so's relocations and symbol look-ups, page faults, swap-out and swap-in, and pages
that a scratch engine drops and brings back with their fixups, all in one run. From them: from how
many fixups a page dropping it takes more time than swapping it, for fixups whose values are known,
relative ones, and ones that look a symbol up; what other ways cost (pre-fork, KSM, prelink, ...);
and what a fleet of hosts would write, hold and compute.

As root, KSM runs for a moment, and --swap makes swap that is removed again. The figures that --json
saves can be reckoned with again by --from, for other devices, libraries and fleets.

Examples:
  mapscratch cost                              what can be measured without changing anything
  sudo mapscratch cost --swap all --json cost.json
  mapscratch cost --from cost.json --device-latency nvme       a device that isn't here
  mapscratch cost --from cost.json --processes 200 --hosts 1000
  mapscratch cost --from cost.json /usr/lib/x86_64-linux-gnu/libLLVM*.so.1
  mapscratch cost --from cost.json --survey survey.json        pages of `mapscratch survey --json`
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from mapscratch import terminal
from mapscratch.elf import default_libraries
from mapscratch.errors import UserError
from mapscratch.lab.compare.charts import check_chart_file, save_chart
from mapscratch.lab.cost.alternatives import Alternatives, try_alternatives
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.chart import cost_chart
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.document import cost_document, read_figures, read_survey
from mapscratch.lab.cost.fleet import plan_fleet
from mapscratch.lab.cost.measure import DEFAULT_SECONDS, measure
from mapscratch.lab.cost.model import DEVICES, Device, ModelError, device, swap_lines
from mapscratch.lab.cost.pages import distribution_of_libraries
from mapscratch.lab.cost.terminal import print_costs
from mapscratch.lab.cost.termination import interrupted_by_termination
from mapscratch.lab.cost.timers import CannotMeasure
from mapscratch.lab.rig.machine.swap import SwapKind
from mapscratch.lab.rig.surroundings import check_swap
from mapscratch.proc import active_swaps
from mapscratch.text import counted

SwapChoice = Literal["none", "auto", "file", "zram", "zswap", "all"]

_KSM = "/sys/kernel/mm/ksm/run"
_LEAST_SWAP = 256 << 20
_MOST = 1_000_000

HELP = "how expensive fixups are: what a page costs by swap and by fixups, and break-even"
_HELP = {
    "libraries": "whose pages are reckoned with; else some of this machine's libraries",
    "--measure": "measure now; what happens anyway unless there is --from",
    "--from": "take the figures of an earlier run (its --json), and measure nothing",
    "--swap": "none: measure what is there, if there is any (default). file, zram, zswap: make a "
    "temporary one, removed at the end (root). all: each of the three that can be made here. auto: "
    "a temporary file, if there is no swap and this is root",
    "--seconds": f"time for measuring (default: {DEFAULT_SECONDS:g})",
    "--device-latency": "reckon with another device to swap to as well, which reads or writes a "
    "page in so many µs; assumed are "
    + ", ".join(f"{name} {us:,.0f}" for name, us in DEVICES.items()),
    "--processes": "what P processes on each host would write, hold and compute",
    "--hosts": "on how many hosts (with --processes; default: 1)",
    "--survey": "pages, and the processes of a fleet, from `mapscratch survey --json`",
    "--json": "save all figures; - prints them, and what is for people goes to standard error",
    "--chart": "save the picture as .svg or .png (matplotlib)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    file, number = {"type": terminal.file_path, "metavar": "FILE"}, terminal.whole_number(1, _MOST)
    settings: dict[str, dict[str, Any]] = {
        "libraries": {"nargs": "*", "type": terminal.file_name, "metavar": "LIB"},
        "--measure": {"action": "store_true"},
        "--from": {**file, "dest": "source"},
        "--swap": {"choices": get_args(SwapChoice)},
        "--seconds": {"type": terminal.time_in_seconds(1)},
        "--device-latency": {"type": _device, "metavar": "|".join(["US", *DEVICES])},
        "--processes": {"type": number, "metavar": "P"},
        "--hosts": {"type": number, "metavar": "H"},
    }
    for name, text in _HELP.items():
        parser.add_argument(name, help=text, **settings.get(name, file))


class CostError(UserError, ValueError):
    """Options that don't go together, or a file that is no use; the message says what to do."""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    _check(arguments)
    console = terminal.make_console(stderr=str(arguments.json) == "-")
    swaps = _swaps(arguments.swap or "none", console)
    source = read_figures(arguments.source) if arguments.source else None
    survey = read_survey(arguments.survey) if arguments.survey else None
    known = survey or (None if arguments.libraries else source)
    pages = known.distribution() if known else distribution_of_libraries(arguments.libraries)
    pages_each = survey.pages_each() if survey and arguments.processes else None
    first: list[str] = []
    if source is None:
        costs, alternatives = _measure(arguments, swaps, console)
        created = datetime.now().astimezone()
    else:
        costs, alternatives, created = source.costs(), source.alternatives, source.created
        first.append(
            f"Figures of {created:%d %B %Y, %H:%M}, {arguments.source}, Linux "
            f"{source.machine.get('kernel', '?')}; nothing is measured."
        )
    other: Device | None = arguments.device_latency
    if other is None and not swap_lines(costs):
        other = device("nvme")
        first.append(f"Swap was not measured; {other.title} is assumed (see --device-latency).")
    hosts = (arguments.processes, arguments.hosts or 1)
    share = alternatives.compressed if alternatives else None
    fleet = arguments.processes and plan_fleet(
        costs, pages, *hosts, pages_each=pages_each, other=other, compression=share
    )
    report = CostReport(costs, pages, device=other, alternatives=alternatives, fleet=fleet)
    # Files first: who reads what is printed may stop reading.
    if arguments.json:
        document = cost_document(report, created, source.machine if source else None)
        terminal.write_json(arguments.json, document)
    if arguments.chart:
        rounds = f"medians over {counted(costs.rounds, 'round')}; pages in turn, one process"
        save_chart(cost_chart(report), rounds, arguments.chart)
    for sentence in first:
        console.print(sentence)
    print_costs(console, report)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Finds out before anything is measured."""
    given = [f"--{one}" for one in ("measure", "swap", "seconds") if getattr(arguments, one)]
    if arguments.source and given:
        raise CostError(
            f"--from takes the figures of an earlier run: leave {', '.join(given)} away, or "
            "--from, to measure again"
        )
    if arguments.hosts and not arguments.processes:
        raise CostError("--hosts needs --processes: how many processes each host has")
    if arguments.survey and arguments.libraries:
        raise CostError("--survey says whose pages are reckoned with: name no libraries as well")
    if arguments.chart:
        check_chart_file(arguments.chart)
    terminal.check_output_files([arguments.chart, arguments.json])


def _device(text: str) -> Device:
    try:
        return device(text)
    except ModelError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _swaps(choice: SwapChoice, console: Console) -> tuple[SwapKind, ...]:
    """The kinds of swap to be made; raises `SwapError`, which says what to do, if none can be."""
    probes = check_swap(choice, _LEAST_SWAP)
    for kind, probe in probes.items():
        if not probe:
            console.print(f"Swap: {kind} is left out: {probe.reason}")
    return tuple(kind for kind, probe in probes.items() if probe)


def _measure(
    arguments: argparse.Namespace, swaps: tuple[SwapKind, ...], console: Console
) -> tuple[Costs, Alternatives | None]:
    seconds = arguments.seconds or DEFAULT_SECONDS
    console.print(f"At most {seconds:g} s: ld.so, page faults, swap, engines, in turns.")
    if not swaps:
        console.print(_what_is_changed())
    with interrupted_by_termination(), terminal.progress_bar() as progress:
        costs = measure(swaps, seconds=seconds, announce=console.print, progress=progress)
        return costs, _alternatives(arguments.libraries, console, progress)


def _what_is_changed() -> str:
    # Merging pages can be measured by whoever may start it.
    ksm = ", but for KSM, which runs for a moment (its settings are put back)"
    no_swap = (
        ". There is no swap, so it is not measured: as root, --swap all makes some for the run; "
        "--device-latency reckons with an assumed device."
    )
    swap = "; swap is what is there." if active_swaps() else no_swap
    return f"Nothing on the machine is changed{ksm if os.access(_KSM, os.W_OK) else ''}{swap}"


def _alternatives(
    libraries: Sequence[str], console: Console, progress: terminal.Progress
) -> Alternatives | None:
    """What other ways cost, with the library that has most pages to relocate of the usual ones."""
    sizes: dict[Path, int] = {}
    for path in [Path(name) for name in libraries] or default_libraries():
        # The interpreter that loads libpython stores to its pages all the time.
        if not path.name.startswith("libpython"):
            with suppress(ModelError):
                sizes[path] = distribution_of_libraries([path]).total_pages
    try:
        return try_alternatives(max(sizes, key=sizes.__getitem__), progress) if sizes else None
    except CannotMeasure as error:
        console.print(f"Left out: pre-fork and fixed base; {error}", style="dim")
        return None
