# SPDX-License-Identifier: Apache-2.0
"""What an engine is, and the words in which it speaks of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mapscratch.errors import UserError
from mapscratch.proc.pagemap import PageFlags

if TYPE_CHECKING:
    from mapscratch._native import WordMap
    from mapscratch.fixups.words import Words


class EngineUnavailable(UserError, RuntimeError):
    """No engine can do what was asked for here; the message says why and what to do."""


class AttachFailed(OSError, EngineUnavailable):
    """Engines that run here failed to take over a mapping; the message has what each one said.

    Attributes:
        errno: of the last of them.
    """


class ReclaimNotApplicable(RuntimeError):
    """In this engine we decide what is dropped, not the kernel: use `ScratchMap.drop`."""


class SystemCallWarning(UserWarning):
    """System calls fail with EFAULT on pages of a mapping that are not in memory."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine runs in this process, found out by trying.

    Attributes:
        name: the engine.
        available: it runs here.
        reason: what it is, or why it doesn't run.
        remedy: what would allow it; empty where it runs or nothing would.
        page_in_fixups: it can make fixups at page-in.
        system_calls: page faults of system calls are served.
    """

    name: str
    available: bool
    reason: str
    remedy: str = ""
    page_in_fixups: bool = False
    system_calls: bool = True


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What an engine promises for one mapping; never rounded up.

    Attributes:
        no_swap: ``"firm"``: no page reaches swap. ``"outside window"``: none does, except within
            `window_seconds` of a store to it. ``"best effort"``: pages may reach swap.
        no_swap_detail: the same in a sentence.
        window_seconds: see `no_swap`; 0 where there is no window.
        system_calls: system calls may be given any part of the mapping.
        page_in_fixups: fixups are made at page-in.
        clean_pages_shared: pages that nobody stored to are shared with the page cache.
        locked_bytes: so much from the start is locked on fault and never reaches swap.
    """

    no_swap: Literal["firm", "outside window", "best effort"]
    no_swap_detail: str
    window_seconds: float
    system_calls: bool
    page_in_fixups: bool
    clean_pages_shared: bool
    locked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages of a mapping. What an engine can't know is None, not 0.

    Attributes:
        resident: in memory now.
        dirty: stored to, in memory, and not droppable by the kernel at this moment.
        droppable: in memory and ours, and will be dropped, not swapped, when memory is wanted.
        swapped: in swap now.
        pinned: pinned now.
        filled: made at page-in so far.
        dropped: gone so far, by the kernel or by us.
        rebuilt: of `filled`, those that had been made before.
        fixup_seconds: time spent in page-in fixups so far.
    """

    resident: int
    dirty: int | None
    droppable: int | None
    swapped: int
    pinned: int
    filled: int | None
    dropped: int | None
    rebuilt: int | None
    fixup_seconds: float | None

    @property
    def rebuilt_rate(self) -> float | None:
        """The share of `filled` that is `rebuilt`, 0 to 1: what the memory was too small for."""
        if self.filled is None or self.rebuilt is None:
            return None
        return self.rebuilt / self.filled if self.filled else 0.0


@dataclass(frozen=True, slots=True)
class Helper:
    """A process that decodes (`mapscratch.arrays.fixup_process`).

    Attributes:
        address: its abstract socket.
        key: what it asks of who connects.
        owner: the descriptor of the socket of who has started it; -1: there is none.
    """

    address: str
    key: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """How memory is decoded from a file: a unit is the least that is made at a time.

    Attributes:
        function: the address of a C function; 0: `helper` does it.
        user_data: its last argument.
        helper: a process that does it.
        unit_pages: pages of a unit.
        unit_items: items in it.
        unit_source_length: bytes of the file that it is made of.
        items: of the whole mapping.
        source_length: bytes of the file that it is made of.
        block_pages: made at a page fault; whole units.
        block_is_fixed: it doesn't adapt to how the memory is read.
        huge_pages: the memory may be mapped writable (nobody can store to it all the same), so that
            a sequential reader gets huge pages.
    """

    function: int
    user_data: bytes
    helper: Helper | None
    unit_pages: int
    unit_items: int
    unit_source_length: int
    items: int
    source_length: int
    block_pages: int
    block_is_fixed: bool
    huge_pages: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A mapping that wants an engine: sizes in bytes.

    With a `decoding` its memory is no copy of the file's, and `offset` may be any byte of the file.
    """

    name: str
    fileno: int
    offset: int
    length: int
    protection: int
    fixup: Words | None = None
    decoding: Decoding | None = None

    @property
    def has_page_in_fixups(self) -> bool:
        """Pages are more than the file's."""
        return self.fixup is not None or self.decoding is not None

    def with_helper(self, helper: Helper) -> Request:
        """The same, decoded by a process."""
        assert self.decoding
        return replace(self, decoding=replace(self.decoding, helper=helper))


def page_flags(mapping: WordMap) -> PageFlags:
    """What is there of a mapping's pages, in memory and in swap.

    Raises:
        OSError: the process may not see its own pages.
    """
    try:
        return PageFlags(*mapping._page_counts())
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            "pages can't be counted: /proc/self/pagemap is not this process's own any more. It has "
            "become another user, or not dumpable; prctl(PR_SET_DUMPABLE, 1) gives it back",
        ) from None


class Engine(ABC):
    """How pages of a mapping are dropped and come back.

    Ranges that are passed in are whole pages inside the mapping.
    """

    name: str

    @abstractmethod
    def status(self) -> EngineStatus:
        """Whether it runs here, by trying."""

    @abstractmethod
    def guarantees(self, request: Request) -> Guarantees:
        """What it would promise for a mapping that doesn't exist yet."""

    @abstractmethod
    def guarantees_of(self, mapping: WordMap) -> Guarantees:
        """What it promises for a mapping that it has."""

    @abstractmethod
    def attach(self, mapping: WordMap, request: Request) -> None:
        """Takes over the memory of a fresh private mapping of the file.

        Raises:
            OSError: the kernel refused.
        """

    @abstractmethod
    def counts(self, mapping: WordMap) -> PageCounts:
        """The pages of a mapping."""

    @abstractmethod
    def reclaim(self, mapping: WordMap, offset: int, length: int) -> None:
        """Asks the kernel to reclaim a range."""
