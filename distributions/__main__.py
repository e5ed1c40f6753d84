# SPDX-License-Identifier: Apache-2.0
"""Tries the tree from nothing on Debian's releases, in minimal roots, and prints a table.

In each root: what the README says to install, make compare, make test, the abi3 wheel of the oldest
release, CPython and sqlite under mapscratch run. A root is made once by debootstrap and used again;
of this machine nothing is changed, and no mount stays. From the top of the tree, with the
environment that make has made: make distro-test, or python -m distributions.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from distributions import steps
from distributions.roots import (
    RELEASES,
    TREE,
    Root,
    RootError,
    cache_directory,
    check_host,
    mirror_of_this_machine,
)

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """What came of one step in one root; `good` is None if it wasn't taken."""

    good: bool | None
    said: str
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.good is None:
            return f"not run: {self.said}"
        return f"{'' if self.good else 'FAILED: '}{self.said}, {self.seconds:.0f} s"


@dataclass
class Tried:
    """What came of one root: a column of the table."""

    release: str
    parts: str = "not known"
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether all that was asked for was done, and well."""
        return all(outcome.good for outcome in self.outcomes.values())


class Trial:
    """All steps in all roots, one after the other: they share swap and processors."""

    def __init__(
        self, releases: Sequence[str], taken: Sequence[steps.Step], mirror: str, console: Console
    ) -> None:
        self._releases = releases
        self._steps = taken
        self._mirror = mirror
        self._console = console
        self.logs = cache_directory() / "logs" / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
        self.logs.mkdir(parents=True)
        self._wheel: Path | None = None

    def all(self, *, fresh: bool) -> list[Tried]:
        """A column a release."""
        return [self._one(Root.of(release), fresh=fresh) for release in self._releases]

    def _one(self, root: Root, *, fresh: bool) -> Tried:
        tried = Tried(root.release)
        with root.locked(self._console.print):
            if fresh:
                root.remove()
            try:
                with self._progress(f"{root.release}: root") as tick:
                    root.make(self._mirror, self.logs / f"{root.release}-root.log", tick)
                root.put_tree(HERE)
            except RootError as error:
                self._console.print(f"{root.release}: {error}")
                tried.outcomes = {step.name: Outcome(False, "no root") for step in self._steps}
                return tried
            for step in self._steps:
                lacking = not tried.outcomes.get("prerequisites", Outcome(True, "")).good
                tried.outcomes[step.name] = (
                    Outcome(None, "no prerequisites") if lacking else self._take(step, root)
                )
            tried.parts = self._parts(root)
        return tried

    def _take(self, step: steps.Step, root: Root) -> Outcome:
        is_oldest = root.release == self._releases[0]
        if step.at_oldest and not is_oldest:
            if self._wheel is None:
                return Outcome(None, f"{self._releases[0]} made none")
            (root.path / TREE.lstrip("/") / steps.WHEELS).mkdir(exist_ok=True)
            shutil.copy(self._wheel, root.path / TREE.lstrip("/") / steps.WHEELS)
        log = self.logs / f"{root.release}-{step.name}.log"
        began = time.monotonic()
        with self._progress(f"{root.release}: {step.title}", log) as tick:
            script = f"{step.at_oldest if is_oldest else ''}\n{step.script}"
            status = root.run(script, log, tick)
        good, said = step.judge(status, log.read_text(errors="replace"))
        outcome = Outcome(good, said, time.monotonic() - began)
        self._console.print(f"{root.release}: {step.title}: {outcome}")
        if not good:
            self._console.print(_tail(log), style="dim")
            self._console.print(f"  all of it: {log}", soft_wrap=True)
        if step.at_oldest and is_oldest:
            self._keep_wheel(root)
        return outcome

    def _keep_wheel(self, root: Root) -> None:
        made = steps.wheel_in(root.path / TREE.lstrip("/"))
        if made:
            self._wheel = Path(shutil.copy(made, self.logs))

    def _parts(self, root: Root) -> str:
        log = self.logs / f"{root.release}-parts.log"
        return steps.parts("" if root.run(steps.VERSIONS, log) else log.read_text())

    @contextmanager
    def _progress(self, title: str, log: Path | None = None) -> Iterator[Callable[[], None]]:
        """A line that moves, where somebody sees it: the seconds, and what was printed last."""
        if not self._console.is_terminal:
            yield lambda: None
            return
        began = time.monotonic()
        with self._console.status(title) as status:

            def tick() -> None:
                last = _tail(log, 1).strip() if log else ""
                status.update(f"{title}, {time.monotonic() - began:.0f} s  {last[:60]}")

            yield tick


def _tail(log: Path, lines: int = 12) -> str:
    """The last lines of a file that may be long, and may not be there yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def table(columns: Sequence[Tried], taken: Sequence[steps.Step]) -> Table:
    """A row a step, a column a root."""
    made = Table(title=f"Linux {platform.release()}, {datetime.now(UTC):%Y-%m-%d}")
    made.add_column("")
    for tried in columns:
        made.add_column(tried.release)
    made.add_row("", *(tried.parts for tried in columns), end_section=True)
    for step in taken:
        made.add_row(step.title, *(str(tried.outcomes[step.name]) for tried in columns))
    return made


def markdown(columns: Sequence[Tried], taken: Sequence[steps.Step]) -> str:
    """The same for docs/distributions.md."""
    rows = [["", *(tried.release for tried in columns)], ["---"] * (1 + len(columns))]
    rows.append(["", *(tried.parts for tried in columns)])
    rows += [[step.title, *(str(one.outcomes[step.name]) for one in columns)] for step in taken]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distributions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Roots and logs: {cache_directory()} (a root takes some 2 GB in the end).\n"
        "Exit status: 0 if all is green, 1 if something is red, 2 if it can't be tried here.",
    )
    parser.add_argument(
        "releases", nargs="*", metavar="RELEASE", help=f"default: {' '.join(RELEASES)}"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=names, metavar="STEP", help=f"of: {' '.join(names)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"the same as --steps {' '.join(steps.QUICK)}"
    )
    parser.add_argument("--mirror", metavar="URL", help="default: the one that apt uses here")
    parser.add_argument("--fresh", action="store_true", help="make the roots anew")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Runs the trial; the exit status."""
    known = {step.name: step for step in steps.all_steps((HERE / "README.md").read_text())}
    parser = _parser(tuple(known))
    arguments = parser.parse_args(words)
    unknown = set(arguments.releases) - set(RELEASES)
    if unknown:
        parser.error(
            f"no such release: {' '.join(sorted(unknown))}; there are {', '.join(RELEASES)}"
        )
    releases = [name for name in RELEASES if name in (arguments.releases or RELEASES)]
    chosen = arguments.steps or (steps.QUICK if arguments.quick else steps.FULL)
    taken = [step for step in known.values() if step.name in chosen]
    console = Console(highlight=False, markup=False)
    try:
        check_host()
        trial = Trial(releases, taken, arguments.mirror or mirror_of_this_machine(), console)
        columns = trial.all(fresh=arguments.fresh)
    except RootError as error:
        print(f"distributions: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; no mount is left, and the roots can be used again", file=sys.stderr)
        return 130
    console.print(table(columns, taken))
    (trial.logs / "table.md").write_text(markdown(columns, taken))
    console.print(f"Logs, the wheel and the table as Markdown: {trial.logs}", soft_wrap=True)
    return 0 if all(tried.good for tried in columns) else 1


def _ended(number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does."""
    raise KeyboardInterrupt(f"signal {number}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGINT, _ended)  # also where the shell had it ignored
    sys.exit(main())
