# SPDX-License-Identifier: Apache-2.0
"""What running processes hold of the pages that relocation dirtied, and what else they hold.

A private copy of a file's page (pagemap) is *relocated* if the file's relocations name that page.
Which page of the library it is follows from the load address: the one at which most of the file's
mappings in the process agree with its segments. Memory behind the file's part of a segment (.bss)
is anonymous and belongs to the rest.

Nobody can tell who stored to a page first: a page of `.data` that holds a relocated pointer and a
counter is relocated, whether or not the program changed the counter as well.

Copies that forked processes still share count in part. The kernel gives a share (Pss) for whole
mappings only, so pages that are not mapped exclusively (pagemap bit 56) get equal parts of what
`Pss_Dirty` of their mapping leaves for them. The segments of a library are separate mappings,
RELRO too, so that this hardly mixes what is shared with what is not; and it needs no privilege.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import LibrarySurvey
from mapscratch.elf.headers import PAGE
from mapscratch.elf.survey import KINDS
from mapscratch.errors import UserError
from mapscratch.lab.survey.files import Skipped, is_elf
from mapscratch.lab.survey.libraries import SECONDS_FOR_ONE, LibraryCensus, survey_files
from mapscratch.proc import MemoryArea, MemoryUsage, page_entries, range_memory, total
from mapscratch.proc.maps import mapped_files
from mapscratch.proc.pagemap import (
    EXCLUSIVE,
    FILE_OR_SHARED,
    GUARD_REGION,
    PRESENT,
    SWAPPED,
)
from mapscratch.proc.procfs import all_pids, command_name, user_name
from mapscratch.terminal import Progress

_WHOLE_ADDRESS_SPACE = 1 << 63
_DELETED = " (deleted)"

FileIdentity = tuple[str, int]
"""Device ("08:01") and inode, as /proc/PID/maps has them."""


class ProcessError(UserError, RuntimeError):
    """Processes can't be looked at here; the message says why."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """The private copies that a process has of one file's pages, in memory or in swap.

    Attributes:
        path: the file.
        relocated_pages: of pages with relocations.
        saved_pages: of these, what relocation would leave alone under `mapscratch run`.
        other_pages: of pages without.
    """

    path: Path
    relocated_pages: int
    saved_pages: int
    other_pages: int


@dataclass(frozen=True, slots=True)
class ProcessSurvey:
    """What a process holds.

    Attributes:
        pid: its number.
        command: its name (/proc/PID/comm).
        user: whose it is, by effective user.
        pss_bytes: its memory, each page divided by the number of processes that map it.
        private_dirty_bytes: memory that only it has, stored to.
        swap_bytes: in swap.
        relocated_pages: private copies of file pages with relocations, in memory or in swap.
        saved_pages: of these, what relocation would leave alone under `mapscratch run`.
        other_file_pages: private copies of file pages without relocations.
        relocated_pss_bytes: the relocated pages; one that n forked processes share is an n-th.
        anonymous_bytes: heap, stacks, .bss: memory and swap of no file.
        by_kind_pages: for each of `KINDS` the relocated pages with a fixup of that kind.
        files: file by file; those of which it has no private copy are left out.
    """

    pid: int
    command: str
    user: str
    pss_bytes: int
    private_dirty_bytes: int
    swap_bytes: int
    relocated_pages: int
    saved_pages: int
    other_file_pages: int
    relocated_pss_bytes: int
    anonymous_bytes: int
    by_kind_pages: dict[str, int]
    files: tuple[HeldFile, ...]


@dataclass(frozen=True, slots=True)
class ProcessCensus:
    """What many processes hold.

    Attributes:
        processes: those that could be read, by number.
        libraries: the libraries and programs that they have mapped.
        skipped: processes and files that could not be looked at, with the reason.
    """

    processes: tuple[ProcessSurvey, ...]
    libraries: tuple[LibrarySurvey, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A private mapping of a file."""

    area: MemoryArea
    file: FileIdentity

    @property
    def has_copies(self) -> bool:
        return bool(self.area.usage.anonymous or self.area.usage.swap)


@dataclass(frozen=True, slots=True)
class _Process:
    """A process as it was when its mappings were read."""

    pid: int
    command: str
    user: str
    usage: MemoryUsage
    anonymous_bytes: int
    mappings: tuple[_Mapping, ...]


def survey_processes(
    pids: Sequence[int] | None,
    *,
    workers: int | None = None,
    seconds_for_one: float = SECONDS_FOR_ONE,
    progress: Progress = lambda what, share: None,
) -> ProcessCensus:
    """Look at running processes. They go on running, so figures of one are not of one moment.

    Args:
        pids: which; None for all but the calling one. Of all, those that end meanwhile are left out
            and those that may not be read are skipped.
        workers: processes that read the files, as for `survey_files`.
        seconds_for_one: for one file, the same.
        progress: is told what is being done.

    Raises:
        ProcessError: the machine's pages are not of 4 KiB.
        ProcessLookupError: a process that was named does not exist, or has no memory.
        PermissionError: one that was named belongs to somebody else.
    """
    if PAGESIZE != PAGE:
        raise ProcessError(f"--pid knows pages of {PAGE} bytes; this kernel's have {PAGESIZE}")
    skipped: list[Skipped] = []
    found = list(_processes(pids, skipped, progress))
    files = _files(found, skipped)
    surveys, unread = _surveys(
        files,
        lambda paths: survey_files(
            paths,
            workers=workers,
            seconds_for_one=seconds_for_one,
            progress=lambda what, share: progress(what, 0.2 + 0.7 * share),
        ),
    )
    skipped += unread
    results = []
    for number, process in enumerate(found):
        progress(f"process {process.pid}", 0.9 + 0.1 * number / len(found))
        try:
            results.append(_survey_process(process, surveys))
        except (ProcessLookupError, PermissionError):
            if pids is not None:
                raise
    libraries = dict.fromkeys(surveys.values())
    return ProcessCensus(tuple(results), tuple(libraries), tuple(dict.fromkeys(skipped)))


def _processes(
    pids: Sequence[int] | None, skipped: list[Skipped], progress: Progress
) -> Iterator[_Process]:
    numbers = sorted(set(_other_pids() if pids is None else pids))
    for done, pid in enumerate(numbers):
        progress(f"process {pid}", 0.2 * done / len(numbers))
        try:
            yield _read_process(pid)
        except ProcessLookupError:
            # It ended, or is a thread of the kernel.
            if pids is not None:
                raise
        except PermissionError as problem:
            if pids is not None:
                raise
            skipped.append(Skipped(Path(f"/proc/{pid}"), problem.strerror or str(problem)))


def _other_pids() -> list[int]:
    return [pid for pid in all_pids() if pid != os.getpid()]


def _read_process(pid: int) -> _Process:
    # By first address and offset: a process may map other files while it is looked at.
    identities = {
        (one.start, one.offset): (one.device, one.inode) for one in mapped_files(pid) if one.inode
    }
    areas = range_memory(0, _WHOLE_ADDRESS_SPACE, pid).areas
    mappings = []
    anonymous = 0
    for area in areas:
        identity = identities.get((area.start, area.offset))
        if identity is None:
            anonymous += area.usage.anonymous + area.usage.swap
        elif area.permissions.endswith("p"):
            mappings.append(_Mapping(area, identity))
    return _Process(
        pid=pid,
        command=command_name(pid),
        user=user_name(pid),
        usage=total(area.usage for area in areas),
        anonymous_bytes=anonymous,
        mappings=tuple(mappings),
    )


def _files(
    processes: Sequence[_Process], skipped: list[Skipped]
) -> dict[FileIdentity, tuple[Path, str]]:
    """Where each mapped file can be opened, and what it is called; some can't any more."""
    result: dict[FileIdentity, tuple[Path, str]] = {}
    lost: dict[FileIdentity, Skipped] = {}
    for process in processes:
        for mapping in process.mappings:
            if mapping.file in result or (mapping.file in lost and not mapping.has_copies):
                continue
            path = _where(process.pid, mapping)
            name = mapping.area.path.removesuffix(_DELETED)
            if path is not None:
                result[mapping.file] = path, name
                lost.pop(mapping.file, None)
            elif mapping.has_copies or "x" in mapping.area.permissions:
                reason = "was deleted or replaced after it was mapped, and can't be opened any more"
                lost[mapping.file] = Skipped(Path(name), reason)
    skipped += lost.values()
    return result


def _where(pid: int, mapping: _Mapping) -> Path | None:
    """A path that leads to the very file that is mapped."""
    area = mapping.area
    candidates = [
        area.path,
        # As the process sees it: another root, another mount namespace.
        f"/proc/{pid}/root{area.path}",
        # The mapping's own file, also if it has no name any more; for who may (proc(5)).
        f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}",
    ]
    for name in candidates:
        with suppress(OSError, ValueError):
            # The device is not compared: on btrfs and overlayfs maps and stat name different ones.
            status = os.stat(name)
            # What has that name here may be a device, and opening one has effects.
            if stat.S_ISREG(status.st_mode) and status.st_ino == mapping.file[1]:
                return Path(name)
    return None


def _surveys(
    files: dict[FileIdentity, tuple[Path, str]], survey_all: Callable[[list[Path]], LibraryCensus]
) -> tuple[dict[FileIdentity, LibrarySurvey], list[Skipped]]:
    """The surveys of those files that are libraries or programs."""
    elf, unread = [], []
    for path, name in files.values():
        try:
            if is_elf(os.fspath(path)):
                elf.append(path)
        except OSError as problem:
            unread.append(Skipped(Path(name), problem.strerror or str(problem)))
    census = survey_all(elf)
    found = {library.path: library for library in census.libraries}
    names = {path: Path(name) for path, name in files.values()}
    unread += [Skipped(names[one.path], one.reason) for one in census.skipped]
    surveys = {
        file: replace(found[path], path=Path(name))
        for file, (path, name) in files.items()
        if path in found
    }
    return surveys, unread


@dataclass(slots=True)
class _Copies:
    """Sums over the private copies of one file, or of several."""

    relocated: int = 0
    saved: int = 0
    other: int = 0
    relocated_bytes: float = 0.0

    def add(self, more: _Copies) -> None:
        self.relocated += more.relocated
        self.saved += more.saved
        self.other += more.other
        self.relocated_bytes += more.relocated_bytes


def _survey_process(process: _Process, surveys: dict[FileIdentity, LibrarySurvey]) -> ProcessSurvey:
    of_file: dict[FileIdentity, list[_Mapping]] = defaultdict(list)
    for mapping in process.mappings:
        of_file[mapping.file].append(mapping)
    whole = _Copies()
    by_kind: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    files = []
    for file, mappings in of_file.items():
        held = _Copies()
        library = surveys.get(file)
        biases = _load_biases([one.area for one in mappings], library)
        for mapping, bias in zip(mappings, biases, strict=True):
            if mapping.has_copies:
                held.add(_copies(process.pid, mapping.area, library, bias, by_kind))
        if held.relocated or held.other:
            path = Path(mappings[0].area.path.removesuffix(_DELETED))
            files.append(HeldFile(path, held.relocated, held.saved, held.other))
            whole.add(held)
    return ProcessSurvey(
        pid=process.pid,
        command=process.command,
        user=process.user,
        pss_bytes=process.usage.pss,
        private_dirty_bytes=process.usage.private_dirty,
        swap_bytes=process.usage.swap,
        relocated_pages=whole.relocated,
        saved_pages=whole.saved,
        other_file_pages=whole.other,
        relocated_pss_bytes=round(whole.relocated_bytes),
        anonymous_bytes=process.anonymous_bytes,
        by_kind_pages=dict(by_kind),
        files=tuple(sorted(files, key=lambda one: (-one.relocated_pages, one.path))),
    )


def _load_biases(areas: Sequence[MemoryArea], library: LibrarySurvey | None) -> list[int | None]:
    """What each mapping of a file adds to the addresses in it; None for no segment of it.

    A page of a file may belong to two segments, so one mapping doesn't tell. A process may have
    loaded a library twice (dlmopen), so not all tell the same.
    """
    possible = [_possible_biases(area, library) for area in areas]
    votes = Counter(bias for biases in possible for bias in biases)
    return [max(biases, key=lambda bias: votes[bias]) if biases else None for biases in possible]


def _possible_biases(area: MemoryArea, library: LibrarySurvey | None) -> list[int]:
    result = []
    for address, _, offset, size in library.segments if library else ():
        first = offset // PAGE * PAGE
        if first <= area.offset < offset + size:
            result.append(area.start - (area.offset - first) - address // PAGE * PAGE)
    return list(dict.fromkeys(result))


def _copies(
    pid: int,
    area: MemoryArea,
    library: LibrarySurvey | None,
    bias: int | None,
    by_kind: Counter[str],
) -> _Copies:
    entries = np.frombuffer(page_entries(area.start, area.end - area.start, pid), dtype=np.uint64)
    is_in_swap = _flags(entries, SWAPPED | FILE_OR_SHARED | GUARD_REGION) == SWAPPED
    is_in_memory = _flags(entries, PRESENT | FILE_OR_SHARED) == PRESENT
    copies = np.flatnonzero(is_in_swap | is_in_memory)
    if library is None or bias is None:
        return _Copies(other=len(copies))
    numbers = copies + (area.start - bias) // PAGE
    pages = library.pages
    at = np.minimum(np.searchsorted(pages.numbers, numbers), max(len(pages) - 1, 0))
    is_relocated = (
        pages.numbers[at] == numbers if len(pages) else np.zeros(len(copies), dtype=np.bool_)
    )
    relocated = at[is_relocated]
    for bit, kind in enumerate(KINDS):
        by_kind[kind] += int(np.count_nonzero(pages.kinds[relocated] & np.uint16(1 << bit)))
    chosen = copies[is_relocated]
    is_shared = is_in_memory & (_flags(entries, EXCLUSIVE) == 0)
    parts = _parts(area.usage, is_in_memory, is_shared, is_in_swap)
    return _Copies(
        relocated=len(relocated),
        saved=int(np.count_nonzero(pages.saved[relocated])),
        other=len(copies) - len(relocated),
        relocated_bytes=float(parts[chosen].sum()),
    )


def _parts(
    usage: MemoryUsage,
    is_in_memory: NDArray[np.bool_],
    is_shared: NDArray[np.bool_],
    is_in_swap: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """This process's part of each private copy, in bytes; 0 for what is none."""
    parts = np.where(is_in_memory & ~is_shared, float(PAGE), 0.0)
    shared = int(np.count_nonzero(is_shared))
    if shared:
        if usage.pss_dirty is None:
            # Before Linux 6.0: of what is mapped elsewhere too, as much as of it is dirty.
            mapped = usage.shared_clean + usage.shared_dirty
            left = (usage.pss - usage.private_clean - usage.private_dirty) * (
                usage.shared_dirty / mapped if mapped else 0.0
            )
        else:
            left = usage.pss_dirty - float(parts.sum())
        # Two share it at least, or it would be exclusive.
        parts[is_shared] = min(max(left / shared, 0.0), PAGE / 2)
    parts[is_in_swap] = PAGE * (usage.swap_pss / usage.swap if usage.swap else 1.0)
    return parts


def _flags(entries: NDArray[np.uint64], mask: int) -> NDArray[np.uint64]:
    result: NDArray[np.uint64] = entries & np.uint64(mask)
    return result
