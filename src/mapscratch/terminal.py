# SPDX-License-Identifier: Apache-2.0
"""What commands share: the console, the bar, what numbers and files their options take.

Names of files and of processes are other people's and may hold anything, sequences that steer a
terminal too. What goes through here can't.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapscratch.replacing import replacing

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is."""

_MOST_DIGITS = 18
_LARGEST_PID = 1 << 22  # PID_MAX_LIMIT of include/linux/threads.h


def printable(text: str) -> str:
    """Text in which "?" stands for all that may steer a terminal; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints no control characters but its own; of 80 columns in a file or pipe."""
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

    console = Console(highlight=False, markup=False, soft_wrap=False, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 80  # as wide as a terminal that nobody has changed
    return console


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal. No thread draws it: workers are forked."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = make_console(stderr=True)
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
    """What `argparse` makes a number of an option with; an error says what it is, and the range."""

    def number(text: str) -> int:
        # Thousands of digits aren't even read.
        value = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else least - 1
        if least <= value <= most:
            return value
        raise _unexpected(text, f"{what} {least:,} to {most:,}")

    return number


def time_in_seconds(least: float, most: float = 86_400.0) -> Callable[[str], float]:
    """The same, for a time."""

    def number(text: str) -> float:
        with suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise _unexpected(text, f"{least:g} to {most:g} seconds")

    return number


def _unexpected(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}, not {reprlib.repr(text)}")


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


def check_output_files(paths: Iterable[Path | None]) -> None:
    """Find out before the work, not after it, what can't be written to; OSError says why."""
    seen: set[Path] = set()
    for path in paths:
        if path is None or os.fspath(path) == "-":
            continue
        resolved = path.resolve()
        at = path if path.exists() else path.absolute().parent
        if resolved in seen and (resolved.is_file() or not resolved.exists()):
            # One would replace the other.
            problem = errno.EEXIST, "is named twice: save each to a file of its own"
        elif path.is_dir():
            problem = errno.EISDIR, os.strerror(errno.EISDIR)
        elif not at.exists():
            problem = errno.ENOENT, f"can't be written to: no folder {at}"
        elif not os.access(at, os.W_OK):
            problem = errno.EACCES, f"can't be written to: this user may not write to {at}"
        else:
            seen.add(resolved)
            continue
        raise OSError(*problem, str(path))


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a JSON document to a file, or, for "-", to standard output."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a document to a file, or, for "-", to standard output; a terminal gets it printable."""
    if os.fspath(path) == "-":
        is_screen = sys.stdout.isatty()
        sys.stdout.write(printable(text.replace("\r\n", "\n")) if is_screen else text)
    else:
        # The names of files need not be UTF-8: they are written as they are.
        write_file(path, text.encode("utf-8", "surrogateescape"))


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; for "-", to standard output."""
    target = path.resolve()
    if os.fspath(path) == "-":
        sys.stdout.buffer.write(content)
    elif target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
        target.write_bytes(content)  # /dev/stdout, a pipe; beside it no new one can be made
    else:
        with replacing(target) as file:
            file.write(content)
