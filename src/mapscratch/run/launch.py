# SPDX-License-Identifier: Apache-2.0
"""Running a program with its libraries' PLT entries converted.

No file is replaced: ld.so loads what it always loads, and the loader hook (LD_AUDIT) lays converted
text over it. Where the kernel has no MAP_SCRATCH each process gets a thread that drops such text
under memory pressure.
"""

from __future__ import annotations

import errno
import os
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

from mapscratch.engine.dontneed import reclaimer_setting
from mapscratch.engine.kernel import KernelEngine
from mapscratch.errors import UserError
from mapscratch.run.cache import ConversionCache
from mapscratch.run.runtime import runtime_library
from mapscratch.run.segments import read_facts
from mapscratch.run.static_tls import TUNABLES, tunables

_LOADER_NAMES = ("ld-linux-x86-64.so.2",)
_MOST_INTERPRETERS = 4
"""BINPRM_MAX_RECURSION of Linux is 5: a script's interpreter may be a script."""
_LONGEST_FIRST_LINE = 256
"""BINPRM_BUF_SIZE of Linux."""
_LISTING_SECONDS = 10
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""The terminal sends these to the program as well as to us."""


class CannotRun(UserError, RuntimeError):
    """The command can't be run with converted libraries; the message says why and what to do."""


class NotFound(CannotRun):
    """There is no such command; the status is a shell's."""

    exit_status = 127


class NotExecutable(CannotRun):
    """The command is there, and the kernel would not execute it; the status is a shell's."""

    exit_status = 126


@dataclass(frozen=True, slots=True)
class Program:
    """What ld.so will load for a command.

    Attributes:
        name: the command as the user wrote it, which the program finds in ``argv[0]``.
        command: the path that is executed, with a slash in it, as `execvp` would make it.
        executable: the ELF file: the same, or the interpreter of a script. Absolute.
        loader: the dynamic linker that it names; None if nobody looked, because the executable was
            run before.
    """

    name: str
    command: str
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
    name: str, *, is_known: Callable[[Path], bool] = lambda executable: False
) -> Program:
    """Find what a command would load, through `#!` lines.

    Args:
        name: a path if there is a slash in it, else what is to be found in PATH (execvp(3)).
        is_known: whether an executable was run before, so that its loader need not be looked at.

    Raises:
        NotFound: there is no such file.
        NotExecutable: it, or its interpreter, is nothing that the kernel executes.
        CannotRun: ld.so would ignore the loader hook: a static program, one that gains privileges
            (setuid, setgid, file capabilities), one for another machine or C library.
    """
    command = _find_command(name)
    executable = Path(command)
    for _ in range(_MOST_INTERPRETERS):
        interpreter = _script_interpreter(executable)
        if interpreter is None:
            _check_privileges(executable)  # not of a script: there the kernel ignores them
            loader = None if is_known(executable) else _loader(executable)
            return Program(name, command, executable.absolute(), loader)
        executable = interpreter
    raise NotExecutable(f"{name}: an interpreter of an interpreter of an interpreter")


def _find_command(name: str) -> str:
    """What execvp(3) would execute: a path with a slash, or the first such file of PATH."""
    if "/" in name:
        _check_executable(name, name)
        return name
    found: NotExecutable | None = None
    for folder in _search_path() if name else ():
        path = f"{folder or '.'}/{name}"
        try:
            _check_executable(path, path)
        except NotFound:
            continue
        except NotExecutable as problem:
            found = found or problem
            continue
        return path
    if found:
        raise found
    here = f"; the one of this folder is ./{name}" if name and os.path.isfile(name) else ""
    raise NotFound(f"{name or repr(name)}: not found in PATH{here}")


def _search_path() -> list[str]:
    """The folders of PATH; an empty name, and an empty PATH, is the current folder (execvp(3))."""
    return os.environ.get("PATH", os.confstr("CS_PATH") or "").split(":")


def _check_executable(path: str | Path, what: str) -> None:
    """Sees whether the kernel would execute a file.

    Raises:
        NotFound: nothing is there.
        NotExecutable: it is no file, or may not be executed.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as problem:
        kind = NotFound if problem.errno == errno.ENOENT else NotExecutable
        reason = "not found" if problem.errno == errno.ENOENT else problem.strerror
        raise kind(f"{what}: {reason}") from None
    if not stat.S_ISREG(mode):
        kind_of_file = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise NotExecutable(f"{what}: {kind_of_file}, not a program")
    if not os.access(path, os.X_OK):
        raise NotExecutable(
            f"{what}: not executable: `chmod +x` it, or see whether its file system is mounted "
            "noexec"
        )


def environment(
    cache: ConversionCache,
    made: Reports,
    *,
    reclaimer: str | None = None,
    drop_every: int | None = None,
    base: Mapping[str, str] | None = None,
    static_tls: int = 0,
) -> dict[str, str]:
    """Make the environment in which a program, and what it starts, runs with converted libraries.

    Args:
        cache: where the conversions are.
        made: where the processes report.
        reclaimer: what wakes the thread that drops text, a kind and a path, as
            `mapscratch.engine.dontneed.reclaimer_setting` has it, or "off"; None for what that
            says here, and no thread where the kernel drops text itself.
        drop_every: for trials: drop all of it every so many milliseconds.
        base: the environment to start from; None for this process's.
        static_tls: bytes of it that the program's libraries need, as
            `mapscratch.run.static_tls.needed_bytes` has it.

    Raises:
        CannotRun: a path can't be written into LD_AUDIT.
        RuntimeMissing: this build has no runtime.
    """
    result = dict(os.environ if base is None else base)
    result["LD_AUDIT"] = _prepend(runtime_library(), result.get("LD_AUDIT", ""))
    hooks = len([one for one in result["LD_AUDIT"].split(":") if one])
    result[TUNABLES] = tunables(result.get(TUNABLES, ""), static_tls, hooks)
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
    loader = program.loader or read_facts(program.executable).interpreter
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
    elif _has_capabilities(path):
        kind = "has file capabilities"
    else:
        return
    raise CannotRun(
        f"{path}: {kind}, so that ld.so takes no hook for it (ld.so(8), secure-execution mode); "
        "run it without `mapscratch run`"
    )


def _has_capabilities(path: Path) -> bool:
    try:
        return "security.capability" in os.listxattr(path)
    except OSError:
        return False  # The file system keeps none, or a sandbox doesn't let us ask.


def _script_interpreter(path: Path) -> Path | None:
    try:
        with path.open("rb") as file:
            first_line = file.read(_LONGEST_FIRST_LINE).split(b"\n")[0]
    except PermissionError:
        _check_privileges(path)
        raise NotExecutable(
            f"{path}: may be executed but not read, and its loader must be known; run it without "
            "`mapscratch run`"
        ) from None
    if not first_line.startswith(b"#!"):
        return None
    # As the kernel does (fs/binfmt_script.c): a carriage return is part of a name.
    words = first_line[2:].replace(b"\t", b" ").split(b" ")
    name = next((word for word in words if word), b"")
    if not name:
        raise NotExecutable(f"{path}: its first line names no interpreter")
    interpreter = Path(os.fsdecode(name))
    try:
        _check_executable(interpreter, f"{path}: its interpreter {os.fsdecode(name)!r}")
    except NotFound as problem:
        raise NotExecutable(str(problem).replace("not found", "does not exist")) from None
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
        raise NotExecutable(
            f"{problem}; it can't be run with converted libraries (a script needs a first line "
            "such as #!/bin/sh)"
        ) from None
    if name is None:
        raise CannotRun(
            f"{path}: a static program; it has no libraries whose entries could be converted"
        )
    loader = Path(name)
    if loader.name not in _LOADER_NAMES:
        raise CannotRun(f"{path}: made for the loader {loader}; only glibc's for x86-64 is known")
    return loader


def run_program(program: Program, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it with our standard streams and other open files, and wait for its end.

    What the terminal sends (Ctrl-C) reaches it as it reaches us, and is its business;
    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on. What was ignored when we were started
    (nohup) it ignores too.

    Returns:
        its exit status; 128 + n if signal n ended it.

    Raises:
        NotFound, NotExecutable: the kernel doesn't execute it.
    """
    pending: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if started:
            started[0].send_signal(number)
        else:
            pending.append(number)

    # Before it starts, so that no signal ends us without it.
    with _handlers(pass_on), _start(program, arguments, environment) as process:
        started.append(process)
        for number in pending:
            process.send_signal(number)
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _handlers(pass_on: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within it signals don't end us."""

    def leave_to_it(_: int, __: FrameType | None) -> None:
        """Unlike SIG_IGN this is not inherited by the program."""

    handlers = dict.fromkeys(_PASSED_ON, pass_on)
    handlers |= dict.fromkeys(_FROM_THE_TERMINAL, leave_to_it)
    previous = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(
    program: Program, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [program.name, *arguments],
            executable=program.command,
            env=environment,
            # What a shell opened for it (`3>log`, `<(command)`) is its own.
            close_fds=False,
        )
    except OSError as problem:
        kind = NotFound if problem.errno == errno.ENOENT else NotExecutable
        raise kind(f"{program.command}: {problem.strerror}") from None
