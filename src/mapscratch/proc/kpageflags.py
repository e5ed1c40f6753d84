# SPDX-License-Identifier: Apache-2.0
"""What the kernel's lists of pages say of a page in memory (``/proc/kpageflags``).

The kernel's ``Documentation/admin-guide/mm/pagemap.rst`` defines the file: one 64-bit word of flags
a page frame, whose number is in the low 55 bits of a page's entry in pagemap. Who may read neither
(it takes root and CAP_SYS_ADMIN) is told so by None, not by an error: then it can't be known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from mapscratch.proc.pagemap import PRESENT

ANONYMOUS = 1 << 12
"""KPF_ANON: the page is of no file; a private copy of a file's page is one such."""
SWAP_BACKED = 1 << 14
"""KPF_SWAPBACKED: reclaim would write the page to swap. Anonymous and without it: it is dropped."""
UNEVICTABLE = 1 << 18
"""KPF_UNEVICTABLE: the page is on the list that reclaim never looks at."""
MLOCKED = 1 << 33
"""KPF_MLOCKED: somebody has locked the page; set at once, where `UNEVICTABLE` may come a moment
later. One of the flags of ``include/linux/kernel-page-flags.h``, which pagemap.rst doesn't list; it
has not changed since Linux 2.6.32."""

_FILE = "/proc/kpageflags"
_FRAME_NUMBER = (1 << 55) - 1
_WORD = 8


def frame_flags(entries: Iterable[int]) -> list[int] | None:
    """The flags of the page frames that pagemap entries name; 0 for a page not in memory.

    It is no snapshot: a frame may have become another page's since its entry was read. Each costs
    a system call, some 0.6 µs, because the frames of neighbouring pages lie anywhere.

    Args:
        entries: as `mapscratch.proc.page_entries` gives them.

    Returns:
        one word of flags an entry, or None where frame numbers or their flags may not be read.
    """
    try:
        descriptor = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    flags = []
    try:
        for entry in entries:
            if not entry & PRESENT:
                flags.append(0)
                continue
            frame = entry & _FRAME_NUMBER
            if not frame:  # hidden from who has no CAP_SYS_ADMIN
                return None
            word = os.pread(descriptor, _WORD, frame * _WORD)
            flags.append(int.from_bytes(word, sys.byteorder))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return flags
