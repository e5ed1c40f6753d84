# SPDX-License-Identifier: Apache-2.0
"""What commands share: the console, the bar, what numbers and files their options take.

Names of files and of processes are other people's and may hold anything, sequences that steer a
terminal too. What goes through here can't.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is."""

_MOST_DIGITS = 18
_LARGEST_PID = 1 << 22
"""PID_MAX_LIMIT of include/linux/threads.h."""
_LONGEST_QUOTED = 24


def printable(text: str) -> str:
    """Text in which "?" stands for all that may steer a terminal; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def make_console() -> Console:
    """Standard output; 80 columns wide where it is no terminal."""
    console = _safe_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Into a file or a pipe: as wide as a terminal that nobody has changed.
        console.width = 80
    return console


def _safe_console(*, stderr: bool = False) -> Console:
    """A console that prints no control characters but its own."""
    from rich import console as rich_console
    from rich.segment import Segment
    from rich.text import Text

    class Console(rich_console.Console):
        def on_broken_pipe(self) -> None:
            """Left to `mapscratch.cli.main`, like every other error."""
            raise BrokenPipeError

        def render_str(self, text: str, **options: Any) -> Text:
            """Strings, before their width is taken: columns stay in line."""
            return super().render_str(printable(text), **options)

        def render(
            self,
            renderable: rich_console.RenderableType,
            options: rich_console.ConsoleOptions | None = None,
        ) -> Iterator[Segment]:
            """Whatever has been rendered otherwise."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return Console(highlight=False, markup=False, soft_wrap=False, stderr=stderr)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal. No thread draws it: workers are forked."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = _safe_console(stderr=True)
    if not console.is_terminal:
        yield lambda what, share: None
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=printable(what), completed=share)
            bar.refresh()
            sys.stderr.flush()

        yield show


def whole_number(least: int, most: int, what: str = "a number from") -> Callable[[str], int]:
    """What `argparse` makes a number of an option with; what isn't in the range is an error.

    Args:
        least: the smallest.
        most: the largest.
        what: it is, in the error; the range follows.
    """

    def number(text: str) -> int:
        # Thousands of digits aren't even read.
        is_number = text.isdecimal() and len(text) <= _MOST_DIGITS
        if not is_number or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected {what} {least:,} to {most:,}, not {_quoted(text)}"
            )
        return int(text)

    return number


def time_in_seconds(least: float, most: float = 86_400.0) -> Callable[[str], float]:
    """The same, for a time."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected {least:g} to {most:g} seconds, not {_quoted(text)}"
            )
        return value

    return number


def process_number(text: str, what: str = "the number of a process,") -> int:
    """The same, for the number of a process."""
    return whole_number(1, _LARGEST_PID, what)(text)


def file_name(text: str) -> str:
    """What `argparse` takes a file or folder with: an empty name would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is empty")
    return text


def file_path(text: str) -> Path:
    """The same, as a path."""
    return Path(file_name(text))


def _quoted(text: str) -> str:
    shown = text if len(text) <= _LONGEST_QUOTED else f"{text[:_LONGEST_QUOTED]}..."
    return repr(shown)


def check_output_files(paths: Iterable[Path | None]) -> None:
    """Find out before the work, not after it, what can't be written to.

    Raises:
        OSError: a path is that of a folder, may not be written to, or is there twice.
    """
    seen: set[Path] = set()
    for path in paths:
        if path is None or os.fspath(path) == "-":
            continue
        resolved = path.resolve()
        if resolved in seen and (resolved.is_file() or not resolved.exists()):
            # One would replace the other.
            raise FileExistsError(
                errno.EEXIST, "is named twice: save each to a file of its own", str(path)
            )
        seen.add(resolved)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        at = path if path.exists() else path.absolute().parent
        if not at.exists():
            raise FileNotFoundError(errno.ENOENT, f"can't be written to: no folder {at}", str(path))
        if not os.access(at, os.W_OK):
            raise PermissionError(
                errno.EACCES, f"can't be written to: this user may not write to {at}", str(path)
            )


def write_text(path: Path, text: str) -> None:
    """Write a document to a file, or, for "-", to standard output; a terminal gets it printable."""
    if os.fspath(path) == "-":
        is_screen = sys.stdout.isatty()
        sys.stdout.write(printable(text.replace("\r\n", "\n")) if is_screen else text)
    else:
        # The names of files need not be UTF-8: they are written as they are.
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
