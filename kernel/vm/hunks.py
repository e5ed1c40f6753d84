# SPDX-License-Identifier: GPL-2.0-only
"""Takes each hunk out of the series, one at a time, and sees that a named test fails.

A line of a kernel patch that no test misses is either untested or not needed. Where a hunk does
several things, each of them is taken out by itself too; and where it can't be seen on this machine,
the table says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernel.vm.build import Builder, BuildError
from kernel.vm.machine import run_job
from kernel.vm.source import series
from kernel.vm.suites import self_test

THE_BUILD = "the build"


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of the series that is taken out.

    Attributes:
        what: for people.
        file: in the kernel's tree.
        remedy: text of the file with the whole series, or None: the hunk as it stands in a patch.
        instead: what replaces the text.
        test: of the self-test, or `THE_BUILD`.
        unseen: why no test here can miss it.
    """

    what: str
    file: str
    remedy: str | None
    instead: str
    test: str
    unseen: str = ""


PARTS = (
    Cut(
        "mlock() is honoured on a file mapping",
        "mm/internal.h",
        "if ((vma->vm_flags & VM_SPECIAL) || vma_is_droppable_anon(vma))",
        "if (vma->vm_flags & (VM_SPECIAL | VM_DROPPABLE))",
        "mlock_keeps_stores",
    ),
    Cut(
        "the mapping is droppable",
        "mm/mmap.c",
        "vm_flags |= VM_DROPPABLE | VM_NORESERVE;",
        "vm_flags |= VM_NORESERVE;",
        "is_dropped_not_swapped",
    ),
    Cut(
        "nothing is reserved",
        "mm/mmap.c",
        "vm_flags |= VM_DROPPABLE | VM_NORESERVE;",
        "vm_flags |= VM_DROPPABLE;",
        "needs_no_reservation",
    ),
    Cut(
        "no block devices",
        "mm/mmap.c",
        "if (!S_ISREG(inode->i_mode) || is_file_hugepages(file))",
        "if (is_file_hugepages(file))",
        "devices_are_refused",
    ),
    Cut(
        "no hugetlbfs",
        "mm/mmap.c",
        "if (!S_ISREG(inode->i_mode) || is_file_hugepages(file))",
        "if (!S_ISREG(inode->i_mode))",
        "wrong_uses",
        unseen="hugetlbfs's mappings are refused later too; this spares it to reserve huge pages",
    ),
    Cut(
        "no DAX",
        "mm/mmap.c",
        " || vma_is_dax(vma) ||",
        " ||",
        "devices_are_refused",
        unseen="there is no persistent memory in the guest",
    ),
    Cut(
        "nothing without a page fault",
        "mm/mmap.c",
        "vma_is_dax(vma) ||\n\t\t     !vma->vm_ops || !vma->vm_ops->fault)) {",
        "vma_is_dax(vma))) {",
        "devices_are_refused",
        unseen="the guest has no regular file that maps without page faults and is no device",
    ),
    Cut(
        "EOPNOTSUPP on 32 bits",
        "mm/mmap.c",
        "if (VM_DROPPABLE == VM_NONE)\n\t\t\t\treturn -EOPNOTSUPP;\n\t\t\t/*\n\t\t\t * The pages",
        "/*\n\t\t\t * The pages",
        "wrong_uses",
        unseen="on 64 bits the compiler leaves it out: VM_DROPPABLE is a constant there",
    ),
)

# By file, in the order of the hunks, which test misses each.
_TESTS = {
    "mm/vmscan.c": ("reclaim_counts_what_it_drops",),
    "mm/rmap.c": ("no_cpu_uses_a_dropped_page",),
    "include/linux/userfaultfd_k.h": ("droppable_refuses_userfaultfd",),
    "include/uapi/linux/mman.h": (THE_BUILD,),
    "mm/internal.h": (THE_BUILD,),
    "mm/madvise.c": ("madvise_keeponfork", "madvise_dodump"),
    "mm/memory.c": ("lack_of_memory_is_reported",),
    "mm/mmap.c": ("is_private", "is_dropped_not_swapped", "devices_are_refused"),
    "kernel/events/uprobes.c": ("uprobes_stay_out", "uprobes_stay_out"),
}


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk of one patch: where it is, and the whole patch without it."""

    patch: Path
    file: str
    number: int
    rest: bytes


def _only_comments(hunk: str) -> bool:
    changed = re.findall(r"^[+-][ \t]*(.*)$", hunk, flags=re.MULTILINE)
    return all(line.startswith(("*", "/*")) for line in changed)


def hunks() -> Iterator[Hunk]:
    """Every hunk of the series that changes the kernel and not its tests."""
    for patch in series():
        text = patch.read_text()
        head, *parts = re.split(r"^(?=diff --git )", text, flags=re.MULTILINE)
        for index, part in enumerate(parts):
            name = re.search(r"^\+\+\+ b/(.*)$", part, flags=re.MULTILINE)
            assert name
            if name[1].startswith("tools/testing/"):
                continue
            before, *pieces = re.split(r"^(?=@@ )", part, flags=re.MULTILINE)
            for number, piece in enumerate(pieces):
                if _only_comments(piece):
                    continue
                left = pieces[:number] + pieces[number + 1 :]
                changed = before + "".join(left) if left else ""
                whole = head + "".join([*parts[:index], changed, *parts[index + 1 :]])
                yield Hunk(patch, name[1], number, whole.encode())


def _changes_without(hunk: Hunk) -> tuple[bytes, ...]:
    return tuple(hunk.rest if patch == hunk.patch else patch.read_bytes() for patch in series())


def cuts(builder: Builder) -> Iterator[tuple[Cut, tuple[bytes, ...] | dict[str, bytes]]]:
    """Each part of the series and what is built without it: changes, or whole files."""
    counted: dict[str, int] = {}
    for hunk in hunks():
        number = counted.setdefault(hunk.file, 0)
        counted[hunk.file] += 1
        test = _TESTS[hunk.file][number]
        what = f"{hunk.patch.name[:4]} {hunk.file}, hunk {number + 1}"
        yield Cut(what, hunk.file, None, "", test), _changes_without(hunk)
    assert counted == {file: len(tests) for file, tests in _TESTS.items()}, "a hunk has no test"
    whole = builder.source.changed_texts(patch.read_bytes() for patch in series())
    for cut in PARTS:
        assert cut.remedy
        text = whole[cut.file].decode()
        assert text.count(cut.remedy) == 1, f"{cut.file} has no single place of: {cut.remedy}"
        yield cut, whole | {cut.file: text.replace(cut.remedy, cut.instead).encode()}


def notices(builder: Builder, cut: Cut, source: tuple[bytes, ...] | dict[str, bytes]) -> str:
    """What noticed that the part is missing; empty if nothing did."""
    try:
        image = builder.image("cut", source)
    except BuildError:
        return THE_BUILD if cut.test == THE_BUILD else ""
    program = builder.self_test()
    # It takes a race to see some things: long enough that it is seldom lost.
    step = self_test(program, "ext4", "-t", cut.test, order_seconds=25)
    result = run_job(image, (step,), quietly=True)
    output = "".join(step.output for step in result.steps)
    failed = re.findall(r"^not ok \d+ (\S+)", output, flags=re.MULTILINE)
    return ", ".join(name for name in failed if name.endswith(f".{cut.test}"))


def run(wanted: str = "") -> int:
    """Takes out every part whose description contains `wanted`; 0 if each is missed."""
    builder = Builder()
    missed = survivors = 0
    for cut, source in cuts(builder):
        if wanted not in cut.what:
            continue
        if cut.unseen:
            print(f"unseen    {cut.what}: {cut.unseen}", flush=True)
            continue
        by = notices(builder, cut, source)
        missed += bool(by)
        survivors += not by
        print(f"{'missed' if by else 'SURVIVED':9} {cut.what}: {by or cut.test}", flush=True)
    print(f"{missed} of {missed + survivors} parts of the series are missed when taken out")
    return 1 if survivors or not missed else 0
