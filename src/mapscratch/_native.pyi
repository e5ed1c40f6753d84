# SPDX-License-Identifier: Apache-2.0
"""The bridge to libscratch: word operations on `mmap.mmap`, and what the engines call.

Nothing here is for users but the three word operations, which `mapscratch.ScratchMap` inherits.
"""

import mmap
from collections.abc import Callable
from typing import Final, ParamSpec, Self, SupportsIndex, TypedDict, TypeVar

from typing_extensions import Buffer

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ENGINE_LAZYFREE: Final[int]
ENGINE_DONTNEED: Final[int]
ENGINE_KERNEL: Final[int]
STAGING_BYTES: Final[int]
HELPER_KEY_BYTES: Final[int]
RULE_SET: Final[int]
RULE_ADD: Final[int]
PRESSURE_CGROUP1: Final[int]
PRESSURE_CGROUP2: Final[int]
PRESSURE_STALL: Final[int]
REARM_WINDOW_NS: Final[int]
STALL_TRIGGERS: Final[str]

def become_base(instance: object, base: type, /) -> bool:
    """An instance of a class by `subclass_alike` becomes one of its base; False: it is another."""

def subclass_alike(name: str, base: type, /) -> type:
    """A class whose instances are laid out as those of its base, which is made in C."""

class RangeCounts(TypedDict):
    """Pages made, made again and dropped so far; pages pinned now; nanoseconds; bytes."""

    filled: int
    rebuilt: int
    dropped: int
    pinned: int
    fixup_ns: int
    locked_bytes: int

class UserfaultStatus(TypedDict):
    """What userfaultfd this process gets; the errors are errno values, 0 for none."""

    error: int
    system_calls: bool
    write_protect: bool
    poison: bool
    remote_read_error: int
    descriptor_table_error: int

class WordMap(mmap.mmap):
    """An mmap.mmap with indivisible word operations and the engines' hooks."""

    def load(self, offset: SupportsIndex, /) -> int:
        """The aligned unsigned 8-byte word at `offset`, read indivisibly (acquire)."""

    def store(self, offset: SupportsIndex, value: SupportsIndex, /) -> None:
        """Stores an aligned unsigned 8-byte word indivisibly (release)."""

    def compare_exchange(
        self, offset: SupportsIndex, expected: SupportsIndex, desired: SupportsIndex, /
    ) -> int:
        """Stores `desired` if the word is `expected`; returns the word that was found."""

    @property
    def _address(self) -> int: ...
    def _attach(
        self,
        engine: int,
        protection: int,
        source_fd: int,
        source_offset: int,
        name: str,
        rule: int,
        offsets: Buffer | None,
        operands: Buffer | None,
        lock_length: int,
        /,
    ) -> None: ...
    def _attach_decoded(
        self,
        *,
        protection: int,
        source_fd: int,
        source_offset: int,
        source_length: int,
        name: str,
        function: int,
        user_data: Buffer,
        helper: str | None,
        unit_pages: int,
        unit_items: int,
        unit_source_length: int,
        items: int,
        block_pages: int,
        block_is_fixed: bool,
        huge_pages: bool,
        helper_key: Buffer,
        helper_owner: int,
    ) -> None: ...
    def _drop(self, offset: int, length: int, /) -> int: ...
    def _reclaim(self, offset: int, length: int, /) -> int: ...
    def _rearm(self, offset: int, length: int, /) -> int: ...
    def _pin(self, offset: int, length: int, /) -> int: ...
    def _unpin(self, offset: int, length: int, generation: int, /) -> None: ...
    def _residence(self, pages: Buffer, /) -> bytes: ...
    def _fetch(self, pages: Buffer, /) -> None: ...
    def _range_counts(self) -> RangeCounts: ...
    def _page_counts(self) -> tuple[int, int, int]:
        """Pages that are present, in swap, and private; for what is there, whatever the length."""

    def __enter__(self) -> Self: ...

class BoardEntry:
    """A cache, or memory of one, where other processes can read its figures."""

    def __new__(cls, owner: BoardEntry | None, memory: Buffer | None, /) -> Self: ...
    def show(self, *figures: int) -> None:
        """The first figures, in the order of ``enum scratch_cache_figure`` in board.h."""

class PurgeablePages:
    """Pages of an anonymous mapping that the kernel may take while no view of them lives."""

    was_used: bool
    """Somebody came back to them; reclaim had better take others first."""

    def __new__(cls, region: mmap.mmap, offset: int, pages: int, /) -> Self: ...
    @property
    def address(self) -> int: ...
    @property
    def pins(self) -> int:
        """How many views live."""

    @property
    def is_released(self) -> bool:
        """Whether the kernel may take them."""

    @property
    def is_retired(self) -> bool:
        """Whether there is no taking them back, because the memory is others'."""

    def release(self) -> int:
        """Lets the kernel have pages of which there never was a view; 0, or an errno value."""

    def pin(self, first: int = 0, end: int = ..., /) -> bool:
        """Takes them back, for tests in parts; False if one was dropped: then all are lost."""

    def retire(self) -> None:
        """From now on nobody takes them back, and the end of a view doesn't release them."""

    def is_whole(self) -> bool:
        """Whether all of them are in memory at this moment."""

class PurgeableView:
    """A buffer of pages, which are in use while it lives.

    Raises:
        LookupError: the kernel has taken some of them.
    """

    def __new__(
        cls, pages: PurgeablePages, offset: int, length: int, is_writable: bool, /
    ) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def purgeable_refused() -> int:
    """The errno value of the last release that the kernel refused, once; 0: none."""

class Exclusive:
    """Calls functions, one thread at a time; no exception in any thread can leave it locked.

    No thread is in such a call while another forks, and in the child none counts as being in one.

    Raises:
        RuntimeError: a signal handler or a finalizer calls it amid such a call of the same thread.
    """

    def __new__(cls) -> Self: ...
    def __call__(
        self,
        function: Callable[Parameters, Result],
        /,
        *arguments: Parameters.args,
        **keywords: Parameters.kwargs,
    ) -> Result: ...

def forks() -> int:
    """How many forks lie between the first process that loaded this module and this one."""

def turn_off_board() -> None:
    """Before anything is made: others will not see the figures of what is."""

def userfault_status() -> UserfaultStatus: ...
def kernel_probe(descriptor: int, /) -> int: ...
def watch_pressure(kind: int, path: str, trigger: str, /) -> None: ...
def pressure_counts() -> tuple[int, int]: ...
def announce_pressure(level: int, /) -> None: ...
def release_all() -> int: ...
def count_pages(pagemap: int, address: int, pages: int, /) -> tuple[int, int, int]:
    """As `_page_counts`, of any memory of the process whose pagemap it is."""

def pager_thread() -> int: ...
def fork_expect() -> None: ...
def fork_finish() -> None: ...
def heal_words(memory: Buffer, offsets: Buffer, file_words: Buffer, values: Buffer, /) -> int: ...
def conversion(
    *,
    source: str,
    output: str,
    through: str,
    source_is_swapped: bool,
    output_is_swapped: bool,
    zero_is_point: bool,
    blank: Buffer,
    block_items: int,
    scales: Buffer,
    zeros: Buffer,
) -> bytes: ...
def convert_function() -> int: ...
def plain_convert_function() -> int: ...
def page_states() -> dict[str, str]: ...
def page_transitions() -> list[tuple[str, str, str, str]]: ...
