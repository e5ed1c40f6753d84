# SPDX-License-Identifier: Apache-2.0
"""Engine ``kernel``: MAP_SCRATCH of the file, the flag that the message of 2004 asks for.

A page's life::

    file, dropped --page fault--> clean --store--> dirty
    dirty --reclaim by the kernel, or drop--> dropped
    clean --reclaim by the kernel--> file
    clean, dirty --pin--> pinned --release--> dirty

In all but reclaim it is MAP_PRIVATE: clean pages are shared with the page cache, a forked child
shares the copies until one of both stores, system calls and locks work as anywhere. But where the
kernel would write a private copy to swap it drops it, and the next touch shows the file. There is
no thread, no window after a store, and nothing of ours on any page's way out or back.

It needs a kernel with our patch (``kernel/``); whether it is there is found out by a real mmap,
which every other kernel answers with EINVAL.
"""

from __future__ import annotations

import errno
import mmap
import os
from mmap import PAGESIZE

from mapscratch import _native
from mapscratch.engine.interface import Engine, EngineStatus, Guarantees, PageCounts, Request
from mapscratch.proc import count_pages, frame_flags, is_present, is_private, page_entries
from mapscratch.proc.kpageflags import ANONYMOUS, MLOCKED, SWAP_BACKED, UNEVICTABLE

_GUARANTEES = Guarantees(
    no_swap="firm",
    no_swap_detail="the kernel drops private copies where it would swap them",
    window_seconds=0.0,
    system_calls=True,
    page_in_fixups=False,
    clean_pages_shared=True,
)


class KernelEngine(Engine):
    """MAP_SCRATCH of the file: the kernel drops its pages, and they come back as the file's."""

    name = "kernel"

    def status(self) -> EngineStatus:
        """Maps a page of a file without a name with MAP_SCRATCH, and unmaps it again."""
        error = _probe()
        if error == errno.EINVAL:
            reason = "this kernel has no MAP_SCRATCH (mmap: EINVAL)."
        elif error:
            reason = f"MAP_SCRATCH can't be tried: {os.strerror(error)}."
        else:
            reason = "MAP_SCRATCH: the kernel drops pages by itself."
        return EngineStatus(self.name, available=not error, reason=reason)

    def guarantees(self, request: Request) -> Guarantees:
        """The same for every mapping."""
        return _GUARANTEES

    def guarantees_of(self, mapping: _native.WordMap) -> Guarantees:
        """The same for every mapping."""
        return _GUARANTEES

    def attach(self, mapping: _native.WordMap, request: Request) -> None:
        """Maps the same part of the file again, with MAP_SCRATCH, in place of the private mapping.

        Raises:
            OSError: the kernel refused, as it may for a file system with pages of its own kind.
        """
        try:
            mapping._attach(
                _native.ENGINE_KERNEL,
                request.protection,
                request.fileno,
                request.offset,
                request.name,
                _native.RULE_SET,
                None,
                None,
                0,
            )
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP):
                raise
            raise OSError(
                error.errno,
                f"MAP_SCRATCH can't map {request.name!r}: {error.strerror}. Take another engine",
            ) from None
        # After one store a core file would have all of it, and it can be made again.
        mapping.madvise(mmap.MADV_DONTDUMP)

    def counts(self, mapping: _native.WordMap) -> PageCounts:
        """Page tables say what is there; what is droppable the kernel's lists, to who may ask.

        To who may not, droppable is every private copy that we haven't pinned. How many pages were
        made, made again or dropped can't be known: the kernel does it without telling, and a page
        that it has dropped looks like one that nobody has touched.
        """
        pinned = mapping._range_counts()["pinned"]
        address, length = mapping._address, len(mapping)
        pages = count_pages(address, length)
        private = pages.private - pages.swapped
        droppable = _count_droppable(address, length)
        if droppable is None:
            droppable = private - pinned
        droppable = min(max(droppable, 0), private)
        return PageCounts(
            resident=pages.present,
            dirty=private - droppable,
            droppable=droppable,
            swapped=pages.swapped,
            pinned=pinned,
            filled=None,
            dropped=None,
            rebuilt=None,
            fixup_seconds=None,
        )

    def reclaim(self, mapping: _native.WordMap, offset: int, length: int) -> None:
        """MADV_PAGEOUT."""
        mapping._reclaim(offset, length)


def _probe() -> int:
    """0 if MAP_SCRATCH is real here, else an errno value."""
    try:
        descriptor = os.memfd_create("mapscratch-probe", os.MFD_CLOEXEC)
    except OSError as error:  # a sandbox may forbid it
        return error.errno or errno.EPERM
    try:
        os.truncate(descriptor, PAGESIZE)
        return _native.kernel_probe(descriptor)
    finally:
        os.close(descriptor)


def _count_droppable(address: int, length: int) -> int | None:
    """Private copies that reclaim would drop now; None where that can't be read."""
    copies = [
        entry for entry in page_entries(address, length) if is_present(entry) and is_private(entry)
    ]
    flags = frame_flags(copies)
    if flags is None:
        return None
    return sum(
        page & (ANONYMOUS | SWAP_BACKED | UNEVICTABLE | MLOCKED) == ANONYMOUS for page in flags
    )
