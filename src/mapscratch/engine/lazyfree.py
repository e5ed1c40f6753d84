# SPDX-License-Identifier: Apache-2.0
"""Engine ``lazyfree``: anonymous memory that userfaultfd fills and MADV_FREE lets the kernel drop.

A page's life (`mapscratch._native.page_transitions` has it as data)::

    file, dropped --page fault--> filling --page-in--> clean --store--> dirty --re-arm--> armed
    clean, armed --reclaim by the kernel, or drop--> dropped
    clean, dirty, armed --pin--> pinned --release--> dirty

A page that was just made is write-protected by userfaultfd and lazily freed: the kernel may drop
it. The first store to it is a page fault that opens it (and its neighbours) to stores and marks
it; within the window it is re-armed, that is, write-protected and lazily freed again. So every
store is seen, whichever way it is made, and nothing runs while nobody stores.

All of that is done by one native thread a process (``libscratch/pager.c``). It holds the only
descriptor of the userfaultfd, in a descriptor table of its own, and needs no interpreter's lock.
"""

from __future__ import annotations

import errno
import gc
import os
import warnings
from mmap import PAGESIZE

from mapscratch import _native
from mapscratch.engine.forbidden import reason, remedy
from mapscratch.engine.interface import (
    Decoding,
    Engine,
    EngineStatus,
    Guarantees,
    PageCounts,
    Request,
    SystemCallWarning,
    page_flags,
)
from mapscratch.engine.program import first_in_program, remove_at_exit
from mapscratch.errors import caller_level
from mapscratch.proc import range_memory

REARM_WINDOW_SECONDS = _native.REARM_WINDOW_NS / 1e9
"""At the latest so long after a store its page is droppable again."""

_NO_THREAD = (
    "lazyfree can't start its thread: this user or control group may have no more of them. Raise "
    "RLIMIT_NPROC (`ulimit -u`), or the group's pids.max (TasksMax= of a systemd unit)"
)

# A caller of os.fork that counts threads right after it (Python 3.12 does, and warns) must not
# find the pager: it is stopped before the fork, and restarted after the count.
os.register_at_fork(before=_native.fork_expect, after_in_parent=_native.fork_finish)


def _run_our_hook_first() -> None:
    """Moves `fork_finish` to the front of the interpreter's list of hooks for the parent.

    Until it has run nobody serves page faults. A hook of another module that ran before it could
    touch a missing page, or let in a thread that does and holds the interpreter's lock meanwhile:
    either would wait for ever. There is no call that registers a hook at the front, but the list
    is an ordinary one that refers to our function. Where it isn't found, the order stays.
    """
    for hooks in gc.get_referrers(_native.fork_finish):
        if type(hooks) is list and hooks and hooks[-1] is _native.fork_finish:
            hooks.insert(0, hooks.pop())


_run_our_hook_first()

_warned_of_system_calls = False
_SYSTEM_CALLS = "system-calls"
remove_at_exit(_SYSTEM_CALLS)


class LazyfreeEngine(Engine):
    """Anonymous memory, MADV_FREE, filled through userfaultfd in event mode."""

    name = "lazyfree"

    def status(self) -> EngineStatus:
        """Opens a userfaultfd and closes it again."""
        userfault = _native.userfault_status()
        refused = _first_refusal(userfault)
        if refused:
            return EngineStatus(
                self.name,
                available=False,
                reason=reason(*refused),
                remedy=remedy(*refused),
                system_calls=False,
            )
        if not userfault["write_protect"]:
            return EngineStatus(
                self.name,
                available=False,
                reason="userfaultfd can't write-protect pages on this kernel or processor.",
                system_calls=False,
            )
        served = userfault["system_calls"]
        how = "userfaultfd" + (
            " (system calls are served too)."
            if served
            else " in user mode only: system calls fail on pages that are not in memory."
        )
        return EngineStatus(
            self.name, available=True, reason=how, page_in_fixups=True, system_calls=served
        )

    def guarantees(self, request: Request) -> Guarantees:
        """The same for every mapping."""
        return _guarantees()

    def guarantees_of(self, mapping: _native.WordMap) -> Guarantees:
        """The same for every mapping."""
        return _guarantees()

    def attach(self, mapping: _native.WordMap, request: Request) -> None:
        """Maps anonymous memory over the mapping's and registers it."""
        try:
            if request.decoding:
                _attach_decoded(mapping, request, request.decoding)
            else:
                _attach_copy(mapping, request)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise OSError(error.errno, _NO_THREAD) from None
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                raise
            raise OSError(
                error.errno, f"lazyfree can't start: {error.strerror}. {self._why_not()}"
            ) from None
        _warn_of_system_calls(is_array=request.decoding is not None)

    def _why_not(self) -> str:
        """What a sandbox forbids at the last moment."""
        refused = _first_refusal(_native.userfault_status())  # now, whatever it was before
        if refused:
            return f"{reason(*refused)} {remedy(*refused)}"
        return (
            "All that it was tried with is allowed, so that a sandbox forbids its thread, or what "
            "that opens: allow clone in its seccomp profile."
        )

    def counts(self, mapping: _native.WordMap) -> PageCounts:
        """Page tables say what is there, smaps what is lazily freed, the pager what it made."""
        native = mapping._range_counts()
        address, length = mapping._address, -(-len(mapping) // PAGESIZE) * PAGESIZE
        pages = page_flags(mapping)
        memory = range_memory(address, length)
        droppable = memory.usage.lazy_free // PAGESIZE if memory.exact else None
        if droppable is not None:
            # A pin locks what is lazily freed of an array, and smaps counts it all the same.
            droppable = min(droppable, max(0, pages.present - native["pinned"]))
        return PageCounts(
            resident=pages.present,
            dirty=None if droppable is None else pages.present - droppable,
            droppable=droppable,
            swapped=pages.swapped,
            pinned=native["pinned"],
            filled=native["filled"],
            dropped=max(0, native["filled"] - pages.present - pages.swapped),
            rebuilt=native["rebuilt"],
            fixup_seconds=native["fixup_ns"] / 1e9,
        )

    def reclaim(self, mapping: _native.WordMap, offset: int, length: int) -> None:
        """Re-arms what is marked, then MADV_PAGEOUT."""
        mapping._reclaim(offset, length)


def _attach_copy(mapping: _native.WordMap, request: Request) -> None:
    fixup = request.fixup
    mapping._attach(
        _native.ENGINE_LAZYFREE,
        request.protection,
        request.fileno,
        request.offset,
        request.name,
        fixup.rule if fixup else _native.RULE_SET,
        fixup.offsets if fixup else None,
        fixup.operands if fixup else None,
        0,
    )


def _attach_decoded(mapping: _native.WordMap, request: Request, decoding: Decoding) -> None:
    mapping._attach_decoded(
        protection=request.protection,
        source_fd=request.fileno,
        source_offset=request.offset,
        source_length=decoding.source_length,
        name=request.name,
        function=decoding.function,
        user_data=decoding.user_data,
        helper=decoding.helper.address if decoding.helper else None,
        helper_key=decoding.helper.key if decoding.helper else b"",
        helper_owner=decoding.helper.owner if decoding.helper else -1,
        unit_pages=decoding.unit_pages,
        unit_items=decoding.unit_items,
        unit_source_length=decoding.unit_source_length,
        items=decoding.items,
        block_pages=decoding.block_pages,
        block_is_fixed=decoding.block_is_fixed,
        huge_pages=decoding.huge_pages,
    )


def _first_refusal(userfault: _native.UserfaultStatus) -> tuple[str, int] | None:
    """The first of the system calls that are needed and fail, and its errno value."""
    calls = (
        ("userfaultfd", userfault["error"]),
        ("process_vm_readv", userfault["remote_read_error"]),
        ("close_range", userfault["descriptor_table_error"]),
    )
    return next((call for call in calls if call[1]), None)


def _guarantees() -> Guarantees:
    milliseconds = REARM_WINDOW_SECONDS * 1000
    return Guarantees(
        no_swap="outside window",
        no_swap_detail=f"a page can be swapped within {milliseconds:g} ms of a store to it, "
        "and between being made and being lazily freed (microseconds)",
        window_seconds=REARM_WINDOW_SECONDS,
        system_calls=_native.userfault_status()["system_calls"],
        page_in_fixups=True,
        clean_pages_shared=False,
    )


def _warn_of_system_calls(*, is_array: bool) -> None:
    global _warned_of_system_calls  # noqa: PLW0603 - one warning a program, as documented
    if _warned_of_system_calls or _native.userfault_status()["system_calls"]:
        return
    _warned_of_system_calls = True
    if not first_in_program(_SYSTEM_CALLS):
        return
    way_out = (
        "Give them np.array(a), or put them into `with a.scratch.pin():`"
        if is_array
        else "Put them into `with m.pin():`"
    )
    warnings.warn(
        "without privilege userfaultfd serves no page faults of system calls: write(), send(), "
        "readinto() and the like fail with EFAULT, or do less than asked for, on pages of this "
        f"mapping that are not in memory. {way_out}.",
        SystemCallWarning,
        stacklevel=caller_level(),
    )
