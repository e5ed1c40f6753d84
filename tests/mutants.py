# SPDX-License-Identifier: Apache-2.0
"""Takes each remedy out of the source, one at a time, and sees that the test of its trap fails.

A test of a safeguard is worth something only if it fails without the safeguard. For each mutant
this copies the tree, changes one place in the source, installs the result into the environment
that runs this script, and runs the named tests: at least one must fail. It first runs them all on
the unchanged tree. Run it by ``make mutants``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.patience import patient

TREE = Path(__file__).resolve().parent.parent
TEST_SECONDS = 180


@dataclass(frozen=True)
class Mutant:
    """One remedy taken out: in `file`, `remedy` becomes `instead`; `tests` must notice."""

    trap: str
    file: str
    remedy: str
    instead: str
    tests: str


MUTANTS = (
    Mutant(
        "closed descriptors: the pager's own descriptor table",
        "libscratch/pager.c",
        "    int error = own_descriptor_table();\n",
        "    int error = 0; (void)own_descriptor_table;\n",
        "tests/contract/test_traps_descriptors.py",
    ),
    Mutant(
        "fork: ranges mapped and registered anew in the child",
        "libscratch/fork.c",
        "error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);",
        "error = pthread_atfork(before_fork, after_fork_in_parent, 0); (void)after_fork_in_child;",
        "tests/contract/test_fork_scratch.py",
    ),
    Mutant(
        "raw clone: memory that isn't inherited",
        "libscratch/lazyfree.c",
        "madvise(range->address, range->length, MADV_DONTFORK) ||",
        "",
        "tests/contract/test_fork_scratch.py",
    ),
    Mutant(
        "fork: the userfaultfd outlives the parent's pager",
        "libscratch/pager.c",
        "        control.parked_descriptor = descriptor;\n",
        "        close(descriptor);\n",
        "tests/contract/test_fork_scratch.py",
    ),
    Mutant(
        "stores: write-protection before a page is freed again",
        "libscratch/rearm.c",
        "is_read_only || !write_protect(userfault, range, first, run)",
        "is_read_only || 1",
        "tests/contract/test_traps_processors.py",
    ),
    Mutant(
        "reclaim: pages are droppable by any processor before anybody sees them",
        "libscratch/free_lazily.c",
        "    if (!batch.is_open)\n        return;\n",
        "    return;\n",
        "tests/contract/test_traps_processors.py",
    ),
    Mutant(
        "signals: the pager blocks them all",
        "libscratch/signals.c",
        "    pthread_sigmask(SIG_BLOCK, &all, ret_previous);",
        "    sigemptyset(&all); pthread_sigmask(SIG_BLOCK, &all, ret_previous);",
        "tests/contract/test_traps_signals.py",
    ),
    Mutant(
        "system calls: a pinned page is open to them",
        "libscratch/pin.c",
        "    touch_pages(range, first, end);\n",
        "    (void)touch_pages;\n",
        "tests/contract/test_traps_system_calls.py",
    ),
    Mutant(
        "reused addresses: a range is forgotten when its memory goes",
        "libscratch/registry.c",
        "    scratch_registry_remove(range);\n    scratch_registry.closing++;\n",
        "    (void)scratch_registry_remove;\n",
        "tests/contract/test_traps_reuse.py",
    ),
    Mutant(
        "a file that shrinks: a message and a signal, never other bytes",
        "libscratch/page_in.c",
        "    if (error)\n        scratch_fill_fail(userfault, range, page, reason);\n",
        "",
        "tests/contract/test_traps_truncation.py",
    ),
    Mutant(
        "resident memory: a drop unmaps the file's pages too",
        "libscratch/drop.c",
        "    ret->bytes = unmap_source(range, pagemap, first, end) * page_size;\n",
        "    (void)unmap_source;\n",
        "tests/engine/test_engines_release.py",
    ),
    Mutant(
        "releasing: pinned pages stay",
        "libscratch/range.c",
        "    while (*first < end && scratch_page_is_pinned(range, *first))\n        ++*first;\n",
        "",
        "tests/engine/test_engines_release.py",
    ),
    Mutant(
        "fork: connections to a fixup's process whoever one has become",
        "libscratch/fork.c",
        "    connect_helpers();\n",
        "    (void)connect_helpers;\n",
        "tests/contract/test_fork_identity.py",
    ),
    Mutant(
        "fork: the child leaves the numbers of its parent's descriptors alone",
        "libscratch/pager.c",
        "    scratch_pressure_forget();\n",
        "",
        "tests/contract/test_fork_identity.py",
    ),
    Mutant(
        "fork: a pager that couldn't be started again isn't stopped",
        "libscratch/pager.c",
        "    if (!can_start_again())\n        return false;\n",
        "    (void)can_start_again;\n",
        "tests/contract/test_fork_identity.py",
    ),
    Mutant(
        "arrays: the process of a fixup serves nobody without the key",
        "src/mapscratch/arrays/fixup_process.py",
        "hmac.compare_digest(shown, key)",
        "True",
        "tests/arrays/test_arrays_python.py",
    ),
    Mutant(
        "memory pressure: the files of a group that was removed are forgotten",
        "libscratch/pressure.c",
        "        forget_source(source);\n",
        "        (void)source;\n",
        "tests/engine/test_engines_dontneed.py",
    ),
    Mutant(
        "arrays: a huge page is write-protected when it has been moved in",
        "libscratch/huge_pages.c",
        "    scratch_userfault_write_protect(userfault, address, SCRATCH_HUGE_BYTES, true);\n",
        "    (void)address;\n",
        "tests/arrays/test_arrays_traps.py",
    ),
    Mutant(
        "arrays: what is behind the last item is the same each time",
        "libscratch/stage.c",
        "    memset(to_bytes + used, 0, units * unit_bytes(range) - used);\n",
        "    (void)used;\n",
        "tests/arrays/test_arrays_traps.py",
    ),
    Mutant(
        "arrays: the pager rounds as every program does at first",
        "libscratch/pager.c",
        "    fesetenv(FE_DFL_ENV);\n",
        "",
        "tests/arrays/test_arrays_conversions.py",
    ),
    Mutant(
        "raw clone: the parent's board is left alone",
        "libscratch/board.c",
        "    if (madvise(page, scratch_page_size(), MADV_WIPEONFORK)) {\n",
        "    if (0) {\n",
        "tests/ps/test_ps_census.py",
    ),
    Mutant(
        "fork: the child has a board of its own",
        "libscratch/board.c",
        "    replace_by_memory(own.copy_for_child, own.copy_bytes);\n",
        "    atomic_store(scratch_board.is_ours, 1);\n",
        "tests/ps/test_ps_census.py",
    ),
    Mutant(
        "closed descriptors: a way to the board without the right to attach",
        "libscratch/pager.c",
        "    scratch_board_open(); "
        "/* its descriptor stays in our table, for whoever looks there */\n",
        "",
        "tests/ps/test_ps_census.py",
    ),
    Mutant(
        "board: nobody else can cut it off",
        "libscratch/board.c",
        "F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE))\n",
        "F_SEAL_SEAL))\n",
        "tests/ps/test_ps_census.py",
    ),
    Mutant(
        "board: locked memory isn't filled with it",
        "libscratch/board.c",
        "PROT_NONE, kind, file,",
        "PROT_READ | PROT_WRITE, kind, file,",
        "tests/ps/test_ps_census.py",
    ),
    Mutant(
        "arrays: locked memory isn't filled with zeros",
        "libscratch/lazyfree.c",
        "mmap(range->address, range->length, PROT_NONE,\n",
        "mmap(range->address, range->length, protection,\n",
        "tests/arrays/test_arrays_traps.py",
    ),
    Mutant(
        "arrays: who locks memory asks for pages, and stores nothing",
        "libscratch/fault.c",
        "    if (scratch_waits_outside_of_system_calls(thread)) {\n",
        "    (void)thread; (void)scratch_waits_outside_of_system_calls; {\n",
        "tests/contract/test_traps_populating.py",
    ),
    Mutant(
        "arrays: memory that was locked is read-only from then on",
        "libscratch/fault.c",
        "    mprotect(range->address, range->length, PROT_READ);\n",
        "",
        "tests/contract/test_traps_populating.py",
    ),
    Mutant(
        "a page that can't be made and not be poisoned: closed",
        "libscratch/fill.c",
        "    if (scratch_userfault_poison(userfault, address))\n        close_page(range, page);\n",
        "    (void)close_page; scratch_userfault_poison(userfault, address);\n",
        "tests/contract/test_traps_populating.py",
    ),
    Mutant(
        "arrays: whoever waits for a fixup whose process ended is told",
        "libscratch/helper_pages.c",
        "            give_up_questions(userfault, range, reason);\n",
        "            (void)give_up_questions;\n",
        "tests/arrays/test_arrays_python.py",
    ),
    Mutant(
        "purgeable: the canary stands before the page is freed",
        "libscratch/purgeable.c",
        "        scratch_word_store(page_at(run, page), canary_of(run, page));\n",
        "",
        "tests/cache/test_purgeable_pages.py",
    ),
    Mutant(
        "huge slots: nothing makes huge pages of small ones",
        "libscratch/huge_slot.c",
        "!madvise(address, SCRATCH_HUGE_BYTES, MADV_NOHUGEPAGE)",
        "true",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "huge slots: the look at the page table comes after the exchange",
        "libscratch/huge_slot.c",
        "    slot->is_huge = scratch_is_mapped_huge(pages->address);\n",
        "",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "huge slots: a page is made dirty before it is looked at",
        "libscratch/huge_slot.c",
        "    scratch_word_make_dirty(page);\n",
        "",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "huge slots: of what was split each page holds something",
        "libscratch/huge_slot.c",
        "        if (is_used(slot, page) && !is_kept(page_at(slot, page)))\n",
        "        if (is_used(slot, page) && !is_kept(page_at(slot, page)) && 0)\n",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "huge slots: a child looks at its own mapping",
        "libscratch/look.c",
        "    if (!look.here || !*look.here)\n",
        "    if (!look.here)\n",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "huge slots: a descriptor's number may be another file's by now",
        "libscratch/look.c",
        "    if (look.here && !is_ours())\n",
        "    if (0)\n",
        "tests/cache/test_huge_slots.py",
    ),
    Mutant(
        "cache: what somebody has isn't given back",
        "src/mapscratch/native/purgeable_entry.c",
        "    bool is_last = --pages->entries == 0;\n",
        "    bool is_last = --pages->entries <= 1;\n",
        "tests/cache/test_purgeable_pages.py",
    ),
    Mutant(
        "sealed memory: its range isn't forgotten",
        "src/mapscratch/native/word_map.c",
        "    if (range && scratch_range_is_sealed(range)) {\n",
        "    if (0) {\n",
        "tests/contract/test_traps_others_advice.py",
    ),
    Mutant(
        "KSM: ranges refuse to be merged",
        "libscratch/merging.h",
        "    madvise(address, length, MADV_UNMERGEABLE);\n",
        "    (void)address; (void)length;\n",
        "tests/contract/test_traps_merging.py",
    ),
    Mutant(
        "KSM: whoever merges everything later is looked for",
        "libscratch/rearm.c",
        "    if (is_merged)\n        refuse_merging(userfault, !merging.was_seen);\n",
        "    if (0)\n        refuse_merging(userfault, !merging.was_seen);\n",
        "tests/contract/test_traps_merging.py",
    ),
    Mutant(
        "KSM: no two released pages are equal",
        "libscratch/purgeable.c",
        "    return (run->canary + 2 * page) | 1;\n",
        "    (void)page; return run->canary;\n",
        "tests/contract/test_traps_merging.py",
    ),
    Mutant(
        "purgeable: a run is released when its last view ends, and not before",
        "src/mapscratch/native/purgeable.c",
        "    if (--pages->pins == 0 && !pages->is_retired)\n",
        "    if (--pages->pins != UINT32_MAX && !pages->is_retired)\n",
        "tests/cache/test_purgeable_pages.py",
    ),
    Mutant(
        "purgeable: memory that is another run's by now is left alone",
        "src/mapscratch/native/purgeable.c",
        "    if (--pages->pins == 0 && !pages->is_retired)\n",
        "    if (--pages->pins == 0)\n",
        "tests/cache/test_purgeable_pages.py",
    ),
    Mutant(
        "cache: what somebody came back to at the last moment isn't overwritten",
        "src/mapscratch/cache/__init__.py",
        "            if not entry.is_unused:\n                self._evicted += gone\n",
        "            if False:\n                self._evicted += gone\n",
        "tests/cache/test_cache_threads.py",
    ),
    Mutant(
        "cache: what was dropped while it was made isn't kept",
        "src/mapscratch/cache/__init__.py",
        "        if making and making.is_superseded:\n            return\n",
        "",
        "tests/cache/test_cache_threads.py",
    ),
    Mutant(
        "cache: the child of a fork waits for no thread of its parent",
        "src/mapscratch/cache/making.py",
        "self._maker() is not None and self._forks == forks()",
        "self._maker() is not None",
        "tests/cache/test_cache_threads.py",
    ),
    Mutant(
        "cache: the child of a fork has all locks",
        "src/mapscratch/native/exclusive.c",
        "            begin_anew(each);\n",
        "            if (!each)\n                begin_anew(each);\n",
        "tests/cache/test_cache_threads.py",
    ),
    Mutant(
        "cache: an error in what a lock was taken for gives it back",
        "src/mapscratch/native/exclusive.c",
        "    give_back(self);\n    Py_DECREF(others);\n",
        "    if (result)\n        give_back(self);\n    Py_DECREF(others);\n",
        "tests/cache/test_cache_threads.py",
    ),
    Mutant(
        "cached array: a backward slice is a write, too",
        "src/mapscratch/zarr.py",
        "_plain(_forward(selection), self.shape)",
        "_plain(selection, self.shape) or []",
        "tests/libraries/test_libraries_zarr.py",
    ),
)


def install(tree: Path) -> None:
    """Builds and installs a tree into this script's environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--force-reinstall", str(tree)]
    subprocess.run(command, check=True)


def tests_pass(tests: str) -> bool:
    """Whether all of the named tests pass; a test that hangs or crashes Python doesn't."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not vm"]
    command += ["--timeout", "60", *tests.split()]
    with subprocess.Popen(
        command,
        cwd=TREE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(patient(TEST_SECONDS)) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):  # what a test has left hanging, too
                os.killpg(process.pid, signal.SIGKILL)


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass although the remedy is out."""
    with tempfile.TemporaryDirectory(prefix="mapscratch-mutant-") as directory:
        copy = Path(directory) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv*", "build", "dist", ".hypothesis")
        shutil.copytree(TREE, copy, ignore=ignored)
        source = copy / mutant.file
        text = source.read_text()
        if text.count(mutant.remedy) != 1:
            raise SystemExit(f"{mutant.file} has no single place of: {mutant.remedy.strip()}")
        source.write_text(text.replace(mutant.remedy, mutant.instead))
        install(copy)
    return tests_pass(mutant.tests)


def main() -> int:
    """Runs all mutants, or those whose description contains an argument."""
    wanted = [m for m in MUTANTS if all(word in m.trap for word in sys.argv[1:])]
    install(TREE)
    for tests in sorted({mutant.tests for mutant in wanted}):
        if not tests_pass(tests):
            print(f"{tests} fails on the unchanged tree")
            return 1
    survivors = 0
    for mutant in wanted:
        noticed = not survives(mutant)
        survivors += not noticed
        print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutant.trap}", flush=True)
    print(f"{len(wanted) - survivors} of {len(wanted)} remedies are missed when taken out")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
