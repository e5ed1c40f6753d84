# SPDX-License-Identifier: Apache-2.0
"""Running a program with its libraries' PLT entries converted.

No file is replaced: ld.so loads what it always loads, and the loader hook (LD_AUDIT) lays converted
text over it. Where the kernel has no MAP_SCRATCH each process gets a thread that drops such text
under memory pressure.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType

from mapscratch.engines.dontneed import reclaimer_setting
from mapscratch.engines.kernel import KernelEngine
from mapscratch.errors import UserError

from .cache import ConversionCache
from .runtime import runtime_library

_LOADER_NAMES = ("ld-linux-x86-64.so.2",)
_MOST_INTERPRETERS = 4
"""BINPRM_MAX_RECURSION of Linux is 5: a script's interpreter may be a script."""
_LONGEST_FIRST_LINE = 256
"""BINPRM_BUF_SIZE of Linux."""
_LISTING_SECONDS = 10


class CannotRun(UserError, RuntimeError):
    """The command can't be run with converted libraries; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """What ld.so will load for a command.

    Attributes:
        command: the path that is executed.
        executable: the ELF file: the same, or the interpreter of a script.
        loader: the dynamic linker that it names; None if nobody looked, because the executable was
            run before.
    """

    command: Path
    executable: Path
    loader: Path | None


@dataclass(frozen=True, slots=True)
class ResolverCounts:
    """What the resolvers of all processes did; in the order of runtime/counts.h.

    Attributes:
        libraries: whose first entry was called, in each process.
        resolved: look-ups by ld.so.
        remembered: targets that were found before.
        patched: words stored into text, one by one.
        batched: words stored along with another of their page.
        far: of these, through a slot because the target is further than 2 GiB.
        busy: not patched, because another patch was under way.
        unwritable: not patched, because text can't be made writable.
        scratch: libraries whose text is mapped MAP_SCRATCH.
        overlaid: libraries that the loader hook converted.
        missed: libraries that were not in the cache.
        refused: in the cache, but the memory held something else.
        dropped: pages that the drop policy dropped.
        reclaimers: threads that ran it; none in a process that could watch nothing.
    """

    libraries: int
    resolved: int
    remembered: int
    patched: int
    batched: int
    far: int
    busy: int
    unwritable: int
    scratch: int
    overlaid: int
    missed: int
    refused: int
    dropped: int
    reclaimers: int


_COUNTS = struct.Struct(f"={len(fields(ResolverCounts))}Q")
_COUNTS_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Reports:
    """Where the processes of one run leave what they did.

    Attributes:
        counts_file: a page that all of them share.
        misses_file: a line for each library that was not in the cache.
    """

    counts_file: Path
    misses_file: Path

    def counts(self) -> ResolverCounts:
        """The sums until now."""
        return ResolverCounts(*_COUNTS.unpack(self.counts_file.read_bytes()[: _COUNTS.size]))

    def misses(self) -> list[Path]:
        """The libraries that were not in the cache, each once, in order of appearance."""
        lines = self.misses_file.read_bytes().split(b"\n")
        return [Path(os.fsdecode(line)) for line in dict.fromkeys(lines) if line]


@contextmanager
def reports() -> Iterator[Reports]:
    """Make the files of `Reports`, removed at the end of the `with` block."""
    with tempfile.TemporaryDirectory(prefix="mapscratch-run-") as name:
        folder = Path(name)
        made = Reports(folder / "counts", folder / "misses")
        made.counts_file.write_bytes(bytes(_COUNTS_FILE_BYTES))
        made.misses_file.touch()
        yield made


def find_program(
    command: str, *, is_known: Callable[[Path], bool] = lambda executable: False
) -> Program:
    """Find what a command would load, through `#!` lines.

    Args:
        command: a path, or a name to be found in PATH.
        is_known: whether an executable was run before, so that its loader need not be looked at.

    Raises:
        CannotRun: it isn't found, or ld.so would ignore the loader hook: a static program, one that
            gains privileges (setuid, setgid, file capabilities), one for another machine or C
            library.
    """
    found = shutil.which(command)
    if found is None:
        raise CannotRun(f"{command}: not found, or not executable")
    executable = Path(found)
    for _ in range(_MOST_INTERPRETERS):
        _check_privileges(executable)
        interpreter = _script_interpreter(executable)
        if interpreter is None:
            loader = None if is_known(executable) else _loader(executable)
            return Program(Path(found), executable, loader)
        executable = interpreter
    raise CannotRun(f"{command}: an interpreter of an interpreter of an interpreter")


def environment(
    cache: ConversionCache,
    made: Reports,
    *,
    reclaimer: str | None = None,
    drop_every: int | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Make the environment in which a program, and what it starts, runs with converted libraries.

    Args:
        cache: where the conversions are.
        made: where the processes report.
        reclaimer: what wakes the thread that drops text, a kind and a path, as
            `mapscratch.engines.dontneed.reclaimer_setting` has it, or "off"; None for what that
            says here, and no thread where the kernel drops text itself.
        drop_every: for trials: drop all of it every so many milliseconds.
        base: the environment to start from; None for this process's.

    Raises:
        CannotRun: a path can't be written into LD_AUDIT.
        RuntimeMissing: this build has no runtime.
    """
    result = dict(os.environ if base is None else base)
    result["LD_AUDIT"] = _prepend(runtime_library(), result.get("LD_AUDIT", ""))
    result["MAPSCRATCH_CACHE"] = os.fspath(cache.files)
    result["MAPSCRATCH_COUNTS"] = os.fspath(made.counts_file)
    result["MAPSCRATCH_MISSES"] = os.fspath(made.misses_file)
    if drop_every is not None:
        reclaimer = f"timer {drop_every}"
    elif reclaimer is None:
        reclaimer = "off" if KernelEngine().status().available else reclaimer_setting()
    result["MAPSCRATCH_RECLAIMER"] = reclaimer
    return result


def libraries_at_start(program: Program) -> list[Path]:
    """The executable and the libraries that ld.so loads before it runs, in its order.

    ld.so is asked (`ld.so --list`), and runs nothing of the program. If it can't say, only the
    executable.
    """
    loader = program.loader or _loader(program.executable)
    try:
        listing = subprocess.run(
            [loader, "--list", program.executable],
            capture_output=True,
            timeout=_LISTING_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return [program.executable]
    paths = [program.executable]
    for line in os.fsdecode(listing).splitlines():
        # "libm.so.6 => /lib/libm.so.6 (0x…)", or without an arrow what is named by its path.
        target = line.rpartition(" => ")[2].strip().rpartition(" (0x")[0]
        if target.startswith("/") and Path(target).name not in _LOADER_NAMES:
            paths.append(Path(target))
    return paths


def _prepend(library: Path, others: str) -> str:
    path = os.fspath(library)
    # The list has no way to quote it (ld.so(8)).
    if ":" in path:
        raise CannotRun(
            f"{path}: ld.so can't be told to load a path with a colon in it; install "
            "mapscratch at another place"
        )
    return f"{path}:{others}" if others else path


def _check_privileges(path: Path) -> None:
    mode = os.stat(path).st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID):
        kind = "setuid" if mode & stat.S_ISUID else "setgid"
    elif "security.capability" in os.listxattr(path):
        kind = "has file capabilities"
    else:
        return
    raise CannotRun(
        f"{path}: {kind}, so that ld.so takes no hook for it (ld.so(8), secure-execution mode); "
        "run it without `mapscratch run`"
    )


def _script_interpreter(path: Path) -> Path | None:
    with path.open("rb") as file:
        first_line = file.read(_LONGEST_FIRST_LINE).split(b"\n")[0]
    if not first_line.startswith(b"#!"):
        return None
    words = first_line[2:].split()
    if not words:
        raise CannotRun(f"{path}: its first line names no interpreter")
    interpreter = Path(os.fsdecode(words[0]))
    if not interpreter.exists():
        raise CannotRun(f"{path}: its interpreter {interpreter} does not exist")
    return interpreter


def _loader(path: Path) -> Path:
    # Imported here because a program that ran before was looked at before.
    from mapscratch.elf import ElfError
    from mapscratch.elf.headers import read_interpreter
    from mapscratch.elf.source import open_source

    try:
        with open_source(path) as source:
            name = read_interpreter(source)
    except ElfError as problem:
        raise CannotRun(f"{problem}; it can't be run with converted libraries") from None
    if name is None:
        raise CannotRun(
            f"{path}: a static program; it has no libraries whose entries could be converted"
        )
    loader = Path(name)
    if loader.name not in _LOADER_NAMES:
        raise CannotRun(f"{path}: made for the loader {loader}; only glibc's for x86-64 is known")
    return loader


def run_program(program: Program, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it with our standard streams and wait for its end.

    Ctrl-C reaches it as it reaches us, and is its business; SIGTERM and SIGHUP are passed on.

    Returns:
        its exit status; 128 + n if signal n ended it.
    """
    pending: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if started:
            started[0].send_signal(number)
        else:
            pending.append(number)

    def leave_to_it(_: int, __: FrameType | None) -> None:
        """Unlike SIG_IGN this is not inherited by the program."""

    # Before it starts, so that no signal ends us without it.
    handlers = {signal.SIGTERM: pass_on, signal.SIGHUP: pass_on, signal.SIGINT: leave_to_it}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with subprocess.Popen([program.command, *arguments], env=environment) as process:
            started.append(process)
            for number in pending:
                process.send_signal(number)
            status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
