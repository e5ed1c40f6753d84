# SPDX-License-Identifier: Apache-2.0
"""The bridge to libscratch: word operations on `mmap.mmap`, and what the engines call.

Nothing here is for users but the three word operations, which `mapscratch.ScratchMap` inherits.
"""

import mmap
from collections.abc import Callable, Hashable
from typing import Any, Final, ParamSpec, Self, SupportsIndex, TypedDict, TypeVar

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

class PurgeableRegion:
    """An anonymous mapping that pages are cut from; it stays where it is.

    When an entry ends that was the last one somewhere, 24 bytes are appended to `ended`: the
    region's number, where in it that is, and how many bytes.
    """

    def __new__(cls, memory: mmap.mmap, number: int, ended: list[bytes], /) -> Self: ...
    @property
    def address(self) -> int: ...

class PurgeablePages:
    """Pages of a region that the kernel may take while no view of an entry in them lives.

    A slot is 2 MiB from a multiple of that on, to be populated with a huge page.
    """

    was_used: bool
    """Somebody came back to them; reclaim had better take others first."""

    def __new__(
        cls, region: PurgeableRegion, offset: int, pages: int, is_slot: bool = False, /
    ) -> Self: ...
    @property
    def region(self) -> PurgeableRegion: ...
    @property
    def address(self) -> int: ...
    @property
    def offset(self) -> int:
        """Where in the region."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def pins(self) -> int:
        """How many views live, and one if they were used lately."""

    @property
    def entries(self) -> int:
        """How many live."""

    @property
    def tenants(self) -> list[PurgeableEntry]:
        """The entries of a table that are in them, at least in part."""

    @property
    def is_slot(self) -> bool: ...
    @property
    def is_huge(self) -> bool:
        """Whether it is a slot that was one huge page when somebody last looked."""

    @property
    def is_only_recent(self) -> bool:
        """Whether they are in use because they were used lately, and for nothing else."""

    @property
    def is_released(self) -> bool:
        """Whether the kernel may take them."""

    @property
    def is_retired(self) -> bool:
        """Whether there is no taking them back: the kernel has taken them, or they are others'."""

    def populate(self) -> bool:
        """Has them all at once; of a slot whether it is one huge page. It may fail silently."""

    def release(self) -> int:
        """Lets the kernel have pages of which there never was a view; 0, or an errno value."""

    def pin(self, first: int = 0, end: int = ..., /) -> bool:
        """Takes them back, for tests in parts; False if one was dropped: then all are lost."""

    def retire(self) -> None:
        """From now on nobody takes them back, and the end of a view doesn't release them."""

    def is_whole(self) -> bool:
        """Whether all of them are in memory at this moment."""

class PurgeableEntry:
    """A place in pages that lie one after another, and how it is seen.

    It lives while a table has it, or a view; so what is there is nobody else's before that.

    Raises:
        LookupError: the kernel has taken the pages.
    """

    def __new__(
        cls,
        pages: tuple[PurgeablePages, ...],
        offset: int,
        length: int,
        form: tuple[Any, ...] | None = None,
        /,
    ) -> Self: ...
    @property
    def key(self) -> Any:
        """In its table; None while it is in none."""

    @property
    def form(self) -> tuple[Any, ...] | None:
        """Shape, type and order of the array; None: it is bytes."""

    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int:
        """In bytes."""

    @property
    def pages(self) -> tuple[PurgeablePages, ...]: ...
    @property
    def is_kept(self) -> bool:
        """Whether it is in a table."""

    @property
    def was_kept(self) -> bool:
        """Whether it is, or was, in a table."""

    @property
    def is_unused(self) -> bool:
        """Whether no view of anything in its pages lives."""

    def again(self, length: int, form: tuple[Any, ...] | None, /) -> PurgeableEntry:
        """Another one in the same place, no longer than this."""

    def lease(self, is_draft: bool = False, /) -> PurgeableView:
        """A buffer of it, which pins it while it lives; writable if it is a draft.

        Raises:
            LookupError: the kernel has taken some of it.
        """

    def seal(self) -> None:
        """From now on nobody stores to it: while it is in use."""

class PurgeableView:
    """A buffer of an entry, which is in use while it lives."""

    @property
    def entry(self) -> PurgeableEntry: ...
    @property
    def is_draft(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class PurgeableTable:
    """Entries by their keys, in the order of their use and in that of their making.

    To look one up takes no lock. Whoever changes it sees to one thread at a time.

    Args:
        array_type: what makes an array: numpy.ndarray.
        pinned_type: a subclass of PinnedValue, of what `get` returns.
        board: its first figure is how many hits there were.
        most_recent: bytes of the pages that were used last, which stay in use.
    """

    def __new__(
        cls,
        array_type: type,
        pinned_type: type[PinnedValue],
        board: BoardEntry,
        most_recent: int,
        /,
    ) -> Self: ...
    @property
    def hits(self) -> int: ...
    def count_hit(self) -> None: ...
    def get(self, key: Hashable, make: object, /) -> Any:
        """The value of a key, as `pinned_type`; None: it isn't there any more.

        None, too, if `make` is neither None nor callable: whoever asks says what is wrong then.
        """

    def find(self, key: Hashable, /) -> Any:
        """The value itself, pinned while it lives; None: it isn't there any more."""

    def entry(self, key: Hashable, /) -> PurgeableEntry | None: ...
    def insert(self, key: Hashable, entry: PurgeableEntry, /) -> None:
        """In place of what the key had."""

    def remove(self, entry: PurgeableEntry, /) -> bool:
        """Whether it was there."""

    def replace(self, old: PurgeableEntry, entry: PurgeableEntry, /) -> bool:
        """The other, with the same bytes, takes its part; False: it is not there any more."""

    def use(self, entry: PurgeableEntry, /) -> None:
        """It is in use, and its pages were used just now."""

    def release_recent(self, bytes_kept: int = 0, /) -> None: ...
    def keys_by_use(self) -> list[Hashable]:
        """From the one that was used least lately on."""

    def all(self) -> list[PurgeableEntry]:
        """In that order."""

    def oldest_key(self) -> Hashable: ...
    def oldest_unused(self) -> PurgeableEntry | None: ...
    def victim(self, in_slots: bool, pages: int = 0, /) -> PurgeableEntry | None:
        """By SIEVE, of those in slots, or of those in runs of so many pages."""

    def __len__(self) -> int: ...

class PinnedValue:
    """A value, for one ``with``.

    Raises:
        RuntimeError: it was used.
    """

    def __new__(cls, value: Any, /) -> Self: ...
    @property
    def value(self) -> Any: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> None: ...

def why_not_huge() -> str | None:
    """Why nobody can tell here whether a huge page is one; None: the kernel tells."""

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
