# SPDX-License-Identifier: Apache-2.0
"""What merging equal pages costs (KSM): the kernel's ksmd is made to do it, and watched.

Equal pages are how processes at equal load addresses could share relocated pages. The settings
(Documentation/admin-guide/mm/ksm.rst) are those of the whole machine: they are changed for a
moment, one process at a time, and put back whatever becomes of this process. While KSM is on it
merges what other processes have offered it, too; in the end everything is unmerged, so nothing is
done where pages are merged already.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from functools import partial
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.lab.cost.page_costs import first_store_ns
from mapscratch.lab.cost.timers import (
    WORDS_PER_PAGE,
    CannotMeasure,
    Figures,
    Heading,
    Timer,
    in_a_process,
    real_words,
)
from mapscratch.lab.rig.machine.guardian import Guardian
from mapscratch.proc.cgroups import words
from mapscratch.proc.procfs import all_pids, command_name

_SETTINGS = Path("/sys/kernel/mm/ksm")
_RUN = _SETTINGS / "run"
_QUICK = {"smart_scan": "0", "sleep_millisecs": "0", "pages_to_scan": "1000"}
"""What makes ksmd quick. smart_scan came later; with it ksmd skips pages that it has seen in
vain."""
_PAIRS = 512
_PAGES = 2 * _PAIRS
_SECONDS, _PAUSE_SECONDS = 5.0, 0.002
_ENOUGH = 0.9


class KsmTimer(Timer):
    """Times KSM."""

    def headings(self) -> list[Heading]:
        """Merging, and what a store to a merged page costs."""
        merge = (
            "Processor time of ksmd for each page that was saved: it looks at both, and reads them "
            "in two passes at least. It goes on looking at those that don't change. Meanwhile it "
            "merges other processes' mergeable memory as well, which counts here; all of it is "
            "unmerged afterwards."
        )
        return [
            Heading("ksm.merge", "KSM: merging a page with its equal", merge),
            Heading("ksm.unmerge", "KSM: first store to a merged page", "A copy-on-write fault."),
        ]

    def _prepare(self) -> None:
        self._content = real_words(_PAIRS * WORDS_PER_PAGE)

    def _measure(self, number: int) -> Figures:
        """Starts a process with equal pages, and KSM for as long as it takes to merge them."""
        step = partial(_merge, _ksmd(), self._content)
        with Guardian() as guardian:
            try:
                for name, value in _QUICK.items():
                    if (_SETTINGS / name).exists():
                        guardian.act("change_setting", str(_SETTINGS / name), value)
                        # It is locked now: who runs another measurement has to wait.
                        _check_that_nobody_is_disturbed()
                guardian.act("start_merging", str(_RUN))
            except OSError as error:
                raise CannotMeasure(f"KSM's settings can't be changed: {error.strerror}") from None
            return in_a_process(step)


def _check_that_nobody_is_disturbed() -> None:
    if words(_RUN) == ["1"]:
        raise CannotMeasure("KSM is at work here already: it isn't disturbed")
    # Who sees ksmd sees all processes. The kernel's own count (pages_shared) isn't asked: while KSM
    # is off it keeps those of processes that have ended. Of one that ends the file is empty.
    merging = Path("/proc").glob("[0-9]*/ksm_merging_pages")
    if any(words(pages) not in ([], ["0"]) for pages in merging):
        raise CannotMeasure(
            f"KSM has merged pages here, which would be unmerged: echo 2 >{_RUN}, if they may"
        )


def _ksmd() -> int:
    """The process id of the kernel's thread; CannotMeasure if KSM is closed to this process."""
    if not _SETTINGS.is_dir():
        raise CannotMeasure("this kernel has no KSM (CONFIG_KSM)")
    if not os.access(_RUN, os.W_OK):
        raise CannotMeasure("turning KSM on needs root")
    advisor = words(_SETTINGS / "advisor_mode")
    if advisor and "[none]" not in advisor:
        raise CannotMeasure("KSM's advisor is on, which decides how much is scanned")
    for pid in all_pids():
        with contextlib.suppress(ProcessLookupError):
            if command_name(pid) == "ksmd":
                return pid
    raise CannotMeasure("the kernel's thread ksmd is not to be seen (a container?)")


def _merge(ksmd: int, content: NDArray[np.uint64]) -> Figures | str:
    """Has each page of a process with that content merged with its equal, and stores to all."""
    content = content.reshape(_PAIRS, WORDS_PER_PAGE)
    # Equal in pairs, and otherwise all different.
    content[:, 0] = np.arange(_PAIRS, dtype=np.uint64) + np.uint64(os.getpid() << 32)
    memory = mmap.mmap(-1, _PAGES * PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    pages: NDArray[np.uint64] = np.frombuffer(memory, dtype=np.uint64)
    pages = pages.reshape(_PAGES, WORDS_PER_PAGE)
    pages[:_PAIRS] = pages[_PAIRS:] = content
    before = _processor_ns(ksmd)
    try:
        memory.madvise(mmap.MADV_MERGEABLE)
    except OSError as error:
        return f"MADV_MERGEABLE: {error.strerror}"
    merged = _wait_for_merging()
    spent = _processor_ns(ksmd) - before
    if merged < _ENOUGH * _PAGES:
        return f"ksmd merged {merged} of {_PAGES} equal pages within {_SECONDS:g} s"
    # Of two that are merged, one is saved.
    return {"ksm.merge": spent * 2 / merged, "ksm.unmerge": first_store_ns(pages[:, 1])}


def _wait_for_merging() -> int:
    """How many pages of this process are merged (proc(5), ksm_merging_pages, Linux 5.19)."""
    end = time.monotonic() + _SECONDS
    merged = 0
    while merged < _PAGES and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
        merged = int(Path("/proc/self/ksm_merging_pages").read_text(encoding="ascii"))
    return merged


def _processor_ns(pid: int) -> int:
    """The processor time of a process (Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])
