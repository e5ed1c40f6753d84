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

from mapscratch.lab.cost.page_costs import page_ns
from mapscratch.lab.cost.timers import CannotMeasure, Figures, Heading, Timer, real_words
from mapscratch.lab.rig.machine.guardian import Guardian
from mapscratch.lab.rig.workers import Workers

_SETTINGS = "/sys/kernel/mm/ksm"
_PAGES = 512
_SECONDS = 5.0
_PAUSE_SECONDS = 0.002
_WORDS_PER_PAGE = PAGESIZE // 8
_ENOUGH = 0.9

_NAMES = ("ksm.merge", "ksm.unmerge")


class KsmTimer(Timer):
    """Times KSM."""

    def headings(self) -> list[Heading]:
        """Merging, and what a store to a merged page costs."""
        return [
            Heading(
                _NAMES[0],
                "KSM: merging a page with its equal",
                "page",
                "Processor time of ksmd for each page that was saved: it looks at both, and "
                "reads them in two passes at least. It goes on looking at those that don't change. "
                "Meanwhile it merges other processes' mergeable memory as well, which counts here; "
                "all of it is unmerged afterwards.",
            ),
            Heading(
                _NAMES[1],
                "KSM: first store to a merged page",
                "page",
                "A copy-on-write fault.",
            ),
        ]

    def once(self, number: int) -> Figures:
        """Starts a process with equal pages, and KSM for as long as it takes to merge them."""
        thread = _ksmd()
        content = real_words(_PAGES * _WORDS_PER_PAGE)
        with Guardian() as guardian:
            for name, value in _settings():
                path = f"{_SETTINGS}/{name}"
                try:
                    if name == "run":
                        guardian.act("start_merging", path)
                    else:
                        guardian.act("change_setting", path, value)
                except OSError as error:
                    raise CannotMeasure(
                        f"KSM's settings can't be changed: {error.strerror}"
                    ) from None
                # The first one is locked now: who runs another measurement has to wait.
                if name != "run" and _is_at_work():
                    raise CannotMeasure("KSM is at work here already: it isn't disturbed")
                if name != "run" and _has_merged():
                    raise CannotMeasure(
                        "KSM has merged pages here, which would be unmerged: "
                        f"echo 2 >{_SETTINGS}/run, if they may"
                    )
            with Workers([_KsmSession(thread, content)]) as workers:
                (answer,) = workers.all("measure")
        if isinstance(answer, str):
            raise CannotMeasure(answer)
        figures: Figures = answer
        return figures


def _settings() -> list[tuple[str, str]]:
    """What makes ksmd quick, in the order in which it is set; the first to be put back is `run`."""
    settings = [("sleep_millisecs", "0"), ("pages_to_scan", "1000"), ("run", "1")]
    # It came later; with it ksmd skips pages that it has seen in vain.
    if os.path.exists(f"{_SETTINGS}/smart_scan"):
        settings.insert(0, ("smart_scan", "0"))
    return settings


def _is_at_work() -> bool:
    return Path(f"{_SETTINGS}/run").read_text(encoding="ascii").strip() == "1"


def _has_merged() -> bool:
    """Whether a process has merged pages. Who sees ksmd sees all processes.

    The kernel's own count (pages_shared) isn't asked: while KSM is off it keeps those of processes
    that have ended.
    """
    for name in Path("/proc").glob("[0-9]*/ksm_merging_pages"):
        with contextlib.suppress(OSError):
            if int(name.read_text(encoding="ascii") or 0):  # empty: it has no memory any more
                return True
    return False


def _ksmd() -> int:
    """The process id of the kernel's thread.

    Raises:
        CannotMeasure: KSM isn't there, or is closed to this process.
    """
    if not os.path.isdir(_SETTINGS):
        raise CannotMeasure("this kernel has no KSM (CONFIG_KSM)")
    if not os.access(f"{_SETTINGS}/run", os.W_OK):
        raise CannotMeasure("turning KSM on needs root")
    advisor = Path(f"{_SETTINGS}/advisor_mode")
    if advisor.exists() and "[none]" not in advisor.read_text(encoding="ascii"):
        raise CannotMeasure("KSM's advisor is on, which decides how much is scanned")
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if name.read_text(encoding="utf-8").strip() == "ksmd":
                return int(name.parent.name)
    raise CannotMeasure("the kernel's thread ksmd is not to be seen (a container?)")


@dataclass(frozen=True, slots=True)
class _KsmSession:
    """The process with the pages.

    Attributes:
        thread: the process id of ksmd.
        content: what the pages are full of.
    """

    thread: int
    content: NDArray[np.uint64]

    def ready(self) -> None:
        """Nothing to prepare."""

    def measure(self) -> Figures | str:
        """Has each page merged with its equal, and stores to all of them."""
        content = self.content.reshape(_PAGES, _WORDS_PER_PAGE)
        # Equal in pairs, and otherwise all different.
        content[:, 0] = np.arange(_PAGES, dtype=np.uint64) + np.uint64(os.getpid() << 32)
        memory = mmap.mmap(-1, 2 * _PAGES * PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages: NDArray[np.uint64] = np.frombuffer(memory, dtype=np.uint64).reshape(
            2 * _PAGES, _WORDS_PER_PAGE
        )
        pages[:_PAGES] = content
        pages[_PAGES:] = content
        before = _processor_ns(self.thread)
        try:
            memory.madvise(mmap.MADV_MERGEABLE)
        except OSError as error:
            return f"MADV_MERGEABLE: {error.strerror}"
        merged = self._wait()
        spent = _processor_ns(self.thread) - before
        if merged < _ENOUGH * 2 * _PAGES:
            return f"ksmd merged {merged} of {2 * _PAGES} equal pages within {_SECONDS:g} s"
        stores = pages[:, 1]
        first = page_ns(len(stores), lambda part: stores[part].fill(1))
        again = page_ns(len(stores), lambda part: stores[part].fill(2))
        # Of two that are merged, one is saved.
        return {_NAMES[0]: spent * 2 / merged, _NAMES[1]: first - again}

    def _wait(self) -> int:
        """Waits until all are merged; returns how many are."""
        end = time.monotonic() + _SECONDS
        merged = 0
        while merged < 2 * _PAGES and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
            merged = _merged_pages()
        return merged


def _merged_pages() -> int:
    """Pages of this process that are merged (proc(5), ksm_merging_pages, Linux 5.19)."""
    return int(Path("/proc/self/ksm_merging_pages").read_text(encoding="ascii"))


def _processor_ns(pid: int) -> int:
    """The processor time of a process (Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])
