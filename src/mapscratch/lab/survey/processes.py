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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import LibrarySurvey
from mapscratch.elf.headers import PAGE
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.census import Census, CensusError, HeldFile, ProcessSurvey, Skipped
from mapscratch.lab.survey.files import is_elf
from mapscratch.lab.survey.libraries import survey_files
from mapscratch.proc import MemoryArea, MemoryUsage, page_entries, range_memory, total
from mapscratch.proc.pagemap import EXCLUSIVE, FILE_OR_SHARED, GUARD_REGION, PRESENT, SWAPPED
from mapscratch.proc.procfs import all_pids, command_name, look_at_each, user_name
from mapscratch.terminal import Progress

_WHOLE_ADDRESS_SPACE = 1 << 63
_DELETED = " (deleted)"

FileIdentity = tuple[str, int]
"""Device ("08:01") and inode, as /proc/PID/maps has them."""
Flags = NDArray[np.bool_]


def survey_processes(
    pids: Sequence[int] | None, progress: Progress = lambda what, share: None
) -> Census:
    """Look at running processes, None for all but this one; they go on, so not at one moment.

    Of all, those that end meanwhile are left out, and those that may not be read are skipped; of
    one that was named that is an OSError. A CensusError: the machine's pages are not of 4 KiB.
    """
    if PAGESIZE != PAGE:
        raise CensusError(f"--pid knows pages of {PAGE} bytes; this kernel's have {PAGESIZE}")
    numbers = sorted(set(all_pids()) - {os.getpid()} if pids is None else pids)
    named = pids is not None

    def areas(pid: int) -> tuple[MemoryArea, ...]:
        progress(f"process {pid}", 0.2 * numbers.index(pid) / len(numbers))
        return range_memory(0, _WHOLE_ADDRESS_SPACE, pid).areas

    def pages(pid: int) -> ProcessSurvey:
        progress(f"process {pid}", 0.9 + 0.1 * numbers.index(pid) / len(numbers))
        return _survey_process(pid, mapped[pid], surveys)

    mapped, refused = look_at_each(numbers, areas, named=named)
    skipped = [Skipped.because(f"/proc/{pid}", problem) for pid, problem in refused.items()]
    surveys = _surveys(
        _files(mapped, skipped), skipped, lambda what, share: progress(what, 0.2 + 0.7 * share)
    )
    processes, _ = look_at_each(mapped, pages, named=named)
    return Census(
        libraries=tuple(dict.fromkeys(surveys.values())),
        processes=tuple(processes.values()),
        skipped=tuple(dict.fromkeys(skipped)),
    )


# --- the files that they have mapped


def _of_files(areas: Sequence[MemoryArea]) -> dict[FileIdentity, list[MemoryArea]]:
    """The private mappings of each file."""
    result = defaultdict(list)
    for area in areas:
        if area.inode and area.permissions.endswith("p"):
            result[area.device, area.inode].append(area)
    return result


def _has_copies(area: MemoryArea) -> bool:
    return bool(area.usage.anonymous or area.usage.swap)


def _name(area: MemoryArea) -> Path:
    return Path(area.path.removesuffix(_DELETED))


def _files(
    mapped: dict[int, tuple[MemoryArea, ...]], skipped: list[Skipped]
) -> dict[FileIdentity, tuple[Path, Path]]:
    """Where each mapped file can be opened, and what it is called; some can't any more."""
    result: dict[FileIdentity, tuple[Path, Path]] = {}
    lost: dict[FileIdentity, Skipped] = {}
    for pid, areas in mapped.items():
        private = [(file, area) for file, of_it in _of_files(areas).items() for area in of_it]
        for file, area in private:
            if file in result or (file in lost and not _has_copies(area)):
                continue
            if path := _where(pid, area):
                result[file] = path, _name(area)
                lost.pop(file, None)
            elif _has_copies(area) or "x" in area.permissions:
                reason = "was deleted or replaced after it was mapped, and can't be opened any more"
                lost[file] = Skipped(_name(area), reason)
    skipped += lost.values()
    return result


def _where(pid: int, area: MemoryArea) -> Path | None:
    """A path that leads to the very file that is mapped."""
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
            if stat.S_ISREG(status.st_mode) and status.st_ino == area.inode:
                return Path(name)
    return None


def _surveys(
    files: dict[FileIdentity, tuple[Path, Path]], skipped: list[Skipped], progress: Progress
) -> dict[FileIdentity, LibrarySurvey]:
    """The surveys of those files that are libraries or programs."""
    elf = []
    for path, name in files.values():
        try:
            if is_elf(os.fspath(path)):
                elf.append(path)
        except OSError as problem:
            skipped.append(Skipped.because(name, problem))
    census = survey_files(elf, progress)
    names = dict(files.values())
    skipped += [replace(one, path=names[one.path]) for one in census.skipped]
    found = {library.path: library for library in census.libraries}
    return {
        file: replace(found[path], path=name)
        for file, (path, name) in files.items()
        if path in found
    }


# --- the pages of one process


def _survey_process(
    pid: int, areas: Sequence[MemoryArea], surveys: dict[FileIdentity, LibrarySurvey]
) -> ProcessSurvey:
    held = []
    by_kind = dict.fromkeys(KINDS, 0)
    pss = 0.0
    for file, mapped in _of_files(areas).items():
        library = surveys.get(file)
        biases = _load_biases(mapped, library)
        copies = [
            _copies(pid, area, library, bias)
            for area, bias in zip(mapped, biases, strict=True)
            if _has_copies(area)
        ]
        relocated = np.concatenate([np.empty(0, dtype=np.intp), *(one for one, _, _ in copies)])
        other = sum(count for _, count, _ in copies)
        pss += sum(part for _, _, part in copies)
        saved = 0
        if library:
            saved = int(np.count_nonzero(library.pages.saved[relocated]))
            for kind in KINDS:
                by_kind[kind] += int(np.count_nonzero(library.pages.of_kind(kind)[relocated]))
        if len(relocated) or other:
            held.append(HeldFile(_name(mapped[0]), len(relocated), saved, other))
    usage = total(area.usage for area in areas)
    of_no_file = total(area.usage for area in areas if not area.inode)
    return ProcessSurvey(
        pid=pid,
        command=command_name(pid),
        user=user_name(pid),
        pss_bytes=usage.pss,
        private_dirty_bytes=usage.private_dirty,
        swap_bytes=usage.swap,
        relocated_pages=sum(one.relocated_pages for one in held),
        saved_pages=sum(one.saved_pages for one in held),
        other_file_pages=sum(one.other_pages for one in held),
        relocated_pss_bytes=round(pss),
        anonymous_bytes=of_no_file.anonymous + of_no_file.swap,
        by_kind_pages=by_kind,
        libraries=tuple(sorted(held, key=lambda one: (-one.relocated_pages, one.path))),
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
    pid: int, area: MemoryArea, library: LibrarySurvey | None, bias: int | None
) -> tuple[NDArray[np.intp], int, float]:
    """The private copies in a mapping.

    These are: which of the library's pages with relocations, shape (n,); how many other pages; and
    this process's part of the former in bytes.
    """
    entries = np.frombuffer(page_entries(area.start, area.end - area.start, pid), dtype=np.uint64)
    is_in_swap = _has(entries, SWAPPED, but=FILE_OR_SHARED | GUARD_REGION)
    is_in_memory = _has(entries, PRESENT, but=FILE_OR_SHARED)
    copies = np.flatnonzero(is_in_swap | is_in_memory)
    if library is None or bias is None:
        return np.empty(0, dtype=np.intp), len(copies), 0.0
    numbers = copies + (area.start - bias) // PAGE
    is_relocated = np.isin(numbers, library.pages.numbers)
    relocated = np.searchsorted(library.pages.numbers, numbers[is_relocated])
    is_shared = is_in_memory & _has(entries, 0, but=EXCLUSIVE)
    parts = _parts(area.usage, is_in_memory, is_shared, is_in_swap)
    other = len(copies) - len(relocated)
    return relocated, other, float(parts[copies[is_relocated]].sum())


def _has(entries: NDArray[np.uint64], flags: int, *, but: int) -> Flags:
    """Which entries have all of the flags, and none of the others."""
    result: Flags = entries & np.uint64(flags | but) == flags
    return result


def _parts(
    usage: MemoryUsage, is_in_memory: Flags, is_shared: Flags, is_in_swap: Flags
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
