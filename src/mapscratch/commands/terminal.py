# SPDX-License-Identifier: Apache-2.0
"""What commands share: the console, the bar, and whether what they will write can be written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is."""


def make_console() -> Console:
    """Standard output; 80 columns wide where it is no terminal."""
    from rich import console as rich_console

    class Console(rich_console.Console):
        def on_broken_pipe(self) -> None:
            """Left to `mapscratch.commands.main`, like every other error."""
            raise BrokenPipeError

    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Into a file or a pipe: as wide as a terminal that nobody has changed.
        console.width = 80
    return console


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal. No thread draws it: workers are forked."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, share: None
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)
            bar.refresh()
            sys.stderr.flush()

        yield show


def check_output_files(paths: Iterable[Path | None]) -> None:
    """Find out before the work, not after it, what can't be written to.

    Raises:
        OSError: a path is that of a folder, or may not be written to.
    """
    for path in paths:
        if path is None or os.fspath(path) == "-":
            continue
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise PermissionError(errno.EACCES, "can't be written to", str(path))


def write_text(path: Path, text: str) -> None:
    """Write a document to a file, or, for "-", to standard output."""
    if os.fspath(path) == "-":
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")
