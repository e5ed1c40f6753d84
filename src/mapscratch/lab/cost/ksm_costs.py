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
from dataclasses import dataclass
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
    real_words,
)
from mapscratch.lab.rig.machine.guardian import Guardian
from mapscratch.lab.rig.workers import Workers

_SETTINGS = Path("/sys/kernel/mm/ksm")
_QUICK = {"smart_scan": "0", "sleep_millisecs": "0", "pages_to_scan": "1000"}
"""What makes ksmd quick. smart_scan came later; with it ksmd skips pages that it has seen in
vain."""
_PAIRS = 512
_PAGES = 2 * _PAIRS
_SECONDS = 5.0
_PAUSE_SECONDS = 0.002
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
        session = _KsmSession(_ksmd(), self._content)
        with Guardian() as guardian:
            try:
                for name, value in _QUICK.items():
                    if (_SETTINGS / name).exists():
                        guardian.act("change_setting", str(_SETTINGS / name), value)
                        # It is locked now: who runs another measurement has to wait.
                        _check_that_nobody_is_disturbed()
                guardian.act("start_merging", str(_SETTINGS / "run"))
            except OSError as error:
                raise CannotMeasure(f"KSM's settings can't be changed: {error.strerror}") from None
            with Workers([session]) as workers:
                (answer,) = workers.all("measure")
        if isinstance(answer, str):
            raise CannotMeasure(answer)
        figures: Figures = answer
        return figures


def _check_that_nobody_is_disturbed() -> None:
    if (_SETTINGS / "run").read_text(encoding="ascii").strip() == "1":
        raise CannotMeasure("KSM is at work here already: it isn't disturbed")
    # Who sees ksmd sees all processes. The kernel's own count (pages_shared) isn't asked: while KSM
    # is off it keeps those of processes that have ended.
    for name in Path("/proc").glob("[0-9]*/ksm_merging_pages"):
        with contextlib.suppress(OSError):
            if int(name.read_text(encoding="ascii") or 0):  # empty: it has no memory any more
                raise CannotMeasure(
                    "KSM has merged pages here, which would be unmerged: "
                    f"echo 2 >{_SETTINGS}/run, if they may"
                )


def _ksmd() -> int:
    """The process id of the kernel's thread.

    Raises:
        CannotMeasure: KSM isn't there, or is closed to this process.
    """
    if not _SETTINGS.is_dir():
        raise CannotMeasure("this kernel has no KSM (CONFIG_KSM)")
    if not os.access(_SETTINGS / "run", os.W_OK):
        raise CannotMeasure("turning KSM on needs root")
    advisor = _SETTINGS / "advisor_mode"
    if advisor.exists() and "[none]" not in advisor.read_text(encoding="ascii"):
        raise CannotMeasure("KSM's advisor is on, which decides how much is scanned")
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if name.read_text(encoding="utf-8").strip() == "ksmd":
                return int(name.parent.name)
    raise CannotMeasure("the kernel's thread ksmd is not to be seen (a container?)")


@dataclass(frozen=True, slots=True)
class _KsmSession:
    """The process with the pages, which knows ksmd's process id and what pages are full of."""

    thread: int
    content: NDArray[np.uint64]

    def ready(self) -> None:
        """Nothing to prepare."""

    def measure(self) -> Figures | str:
        """Has each page merged with its equal, and stores to all of them."""
        content = self.content.reshape(_PAIRS, WORDS_PER_PAGE)
        # Equal in pairs, and otherwise all different.
        content[:, 0] = np.arange(_PAIRS, dtype=np.uint64) + np.uint64(os.getpid() << 32)
        memory = mmap.mmap(-1, _PAGES * PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages: NDArray[np.uint64] = np.frombuffer(memory, dtype=np.uint64)
        pages = pages.reshape(_PAGES, WORDS_PER_PAGE)
        pages[:_PAIRS] = pages[_PAIRS:] = content
        before = self._processor_ns()
        try:
            memory.madvise(mmap.MADV_MERGEABLE)
        except OSError as error:
            return f"MADV_MERGEABLE: {error.strerror}"
        merged = _merged_pages()
        spent = self._processor_ns() - before
        if merged < _ENOUGH * _PAGES:
            return f"ksmd merged {merged} of {_PAGES} equal pages within {_SECONDS:g} s"
        # Of two that are merged, one is saved.
        return {"ksm.merge": spent * 2 / merged, "ksm.unmerge": first_store_ns(pages[:, 1])}

    def _processor_ns(self) -> int:
        """The processor time of ksmd (Documentation/scheduler/sched-stats.rst)."""
        return int(Path(f"/proc/{self.thread}/schedstat").read_text(encoding="ascii").split()[0])


def _merged_pages() -> int:
    """Waits until all pages of this process are merged; returns how many are.

    See proc(5), ksm_merging_pages, Linux 5.19.
    """
    end = time.monotonic() + _SECONDS
    merged = 0
    while merged < _PAGES and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
        merged = int(Path("/proc/self/ksm_merging_pages").read_text(encoding="ascii"))
    return merged
