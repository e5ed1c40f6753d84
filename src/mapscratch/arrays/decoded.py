# SPDX-License-Identifier: Apache-2.0
"""`DecodedMap`: memory that shows what a file's blocks decode to, and the plan of its blocks."""

from __future__ import annotations

import math
import mmap
import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mapscratch._native import STAGING_BYTES
from mapscratch.arrays.fixup_process import FixupProcess, Job
from mapscratch.engine import (
    AttachFailed,
    Decoding,
    EngineUnavailable,
    Guarantees,
    PageCounts,
    Request,
    attach,
    explained,
    require,
)
from mapscratch.fixups.arrays import Recipe
from mapscratch.fixups.numbers import DType, SourceType
from mapscratch.memory import ScratchMemory

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCK = 64 * 1024
"""What is made at a page fault at first: where page-in comes near to its best throughput."""

_WITHOUT_USERFAULTFD = (
    "\nWhat needs none of this: decoding chunk by chunk where the data is used, and "
    "mapscratch.Cache to keep the chunks."
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which bytes of the file make which pages of memory.

    Attributes:
        items: of output.
        itemsize: bytes of one of them.
        unit: bytes of output of which the least is made at a time: whole pages, whole items.
        unit_items: items in it.
        unit_source_length: bytes of the file that it is made of.
        source_length: bytes of the file that all is made of.
    """

    items: int
    itemsize: int
    unit: int
    unit_items: int
    unit_source_length: int
    source_length: int

    @classmethod
    def of(cls, items: int, itemsize: int, source_itemsize: int, made_of_one: int) -> Geometry:
        """For `items` of output, of which `made_of_one` are made of one source item.

        Raises:
            ValueError: what has to be made at once is more than fits the pager's buffers.
        """
        unit = math.lcm(PAGESIZE, itemsize * made_of_one)
        unit_items = unit // itemsize
        unit_source_length = unit_items // made_of_one * source_itemsize
        if max(unit, unit_source_length) > STAGING_BYTES:
            raise ValueError(
                f"whole pages that hold whole groups of {made_of_one} items of {itemsize} bytes "
                f"have {unit} bytes, from {unit_source_length} of the file; at most "
                f"{STAGING_BYTES} can be made at once"
            )
        source_length = -(-items // made_of_one) * source_itemsize
        return cls(items, itemsize, unit, unit_items, unit_source_length, source_length)

    def block_pages(self, block: int | None) -> int:
        """Pages that are made at a page fault; `block` in bytes.

        Raises:
            ValueError: they are no whole units.
        """
        if block is None:
            return max(_BLOCK // self.unit, 1) * self.unit // PAGESIZE
        if block < 1 or block % self.unit:
            raise ValueError(
                f"block={block}: it must be a multiple of {self.unit} bytes, which is what whole "
                "pages with whole items take here"
            )
        return block // PAGESIZE


class DecodedMap(ScratchMemory):
    """Read-only memory whose pages are decoded from a file when they are touched.

    Args:
        name: for messages.
        fileno: the file; not kept.
        offset: where in it the source begins, any byte.
        source: what the file holds.
        output: what memory shows.
        geometry: which is made of which.
        recipe: how.
        block: bytes made at a page fault; None: adapts to how the memory is read.
        engine: its name, or ``"auto"``.

    Raises:
        EngineUnavailable: no engine can do it here; the message says why and what to do.
        FixupError: a Python fixup can't be used.
        OSError: the file can't be mapped.
    """

    __slots__ = ("process",)
    process: FixupProcess | None

    def __new__(
        cls,
        *,
        name: str,
        fileno: int,
        offset: int,
        source: SourceType,
        output: DType,
        geometry: Geometry,
        recipe: Recipe,
        block: int | None,
        engine: str,
    ) -> Self:
        """Maps it; see the class."""
        length = geometry.items * geometry.itemsize
        decoding = Decoding(
            function=recipe.function,
            user_data=recipe.user_data,
            helper=None,
            unit_pages=geometry.unit // PAGESIZE,
            unit_items=geometry.unit_items,
            unit_source_length=geometry.unit_source_length,
            items=geometry.items,
            source_length=geometry.source_length,
            block_pages=geometry.block_pages(block),
            block_is_fixed=block is not None,
            huge_pages=_has_huge_pages() and _writable_memory_is_free(),
        )
        request = Request(name, fileno, offset, length, mmap.PROT_READ, decoding=decoding)
        process = None
        if recipe.python:
            with _with_another_way():
                require(engine, request)
            process = FixupProcess(
                Job(
                    function=recipe.python.function,
                    index=recipe.python.index,
                    items=recipe.items,
                    descriptor=fileno,
                    offset=offset,
                    source=source.dtype,
                    source_length=geometry.source_length,
                    output=output,
                    output_items=geometry.items,
                    unit_items=geometry.unit_items,
                    unit_source_length=geometry.unit_source_length,
                )
            )
            request = request.with_helper(process.helper)
        self: Self
        try:
            with _with_another_way(), explained(name):
                self, self._engine = attach(
                    lambda: cls._anonymous(length), lambda _: request, engine
                )
        except BaseException:
            if process:
                process.close()
            raise
        self._name = name
        self._offset = offset
        self.process = process
        if process:
            weakref.finalize(self, process.close)
        return self

    @classmethod
    def _anonymous(cls, length: int) -> Self:
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return super().__new__(cls, -1, length, flags=anonymous, prot=mmap.PROT_READ)

    @property
    def can_fetch(self) -> bool:
        """`fetch` does something here."""
        return self.process is None

    def residence(self, pages: Buffer) -> bytes:
        """Which of some pages are in memory: the lowest bit of a byte each.

        Args:
            pages: their numbers, ascending, as 8-byte integers.

        Raises:
            OSError: a page is not in the mapping.
        """
        return self._residence(pages)

    def fetch(self, pages: Buffer) -> None:
        """Decodes pages that are about to be read, for less than the page faults would cost.

        Args:
            pages: their numbers, ascending, as 8-byte integers.

        Raises:
            OSError: a page is not in the mapping, or `can_fetch` is false.
        """
        self._fetch(pages)

    def __repr__(self) -> str:
        """Says which engine runs."""
        if not self._address:
            return f"<{type(self).__name__} of {self._name!r}, closed>"
        return (
            f"<{type(self).__name__} of {self._name!r}, {len(self)} bytes decoded from byte "
            f"{self._offset} on, engine {self.engine!r}>"
        )


class NoMemory:
    """What stands behind an array without items, as `DecodedMap` behind others: nothing."""

    engine = "none"
    can_fetch = False
    process = None
    guarantees = Guarantees(
        no_swap="firm",
        no_swap_detail="there are no pages",
        window_seconds=0,
        system_calls=True,
        page_in_fixups=True,
        clean_pages_shared=False,
    )

    _address = 0

    def __len__(self) -> int:
        """Bytes."""
        return 0

    def __bool__(self) -> bool:
        """It is there, though it has no bytes."""
        return True

    def counts(self) -> PageCounts:
        """No pages."""
        return PageCounts(0, 0, 0, 0, 0, 0, 0, 0, 0.0)

    def drop(self, offset: int = 0, length: int | None = None) -> int:
        """Drops nothing."""
        return 0

    def reclaim(self, offset: int = 0, length: int | None = None) -> None:
        """Nothing is there to reclaim."""

    @contextmanager
    def pin(self, offset: int = 0, length: int | None = None) -> Iterator[None]:
        """Nothing is there to pin."""
        yield


def _has_huge_pages() -> bool:
    """Transparent huge pages, at least for who asks for them (admin-guide/mm/transhuge.rst)."""
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:
        return False
    return "[never]" not in setting


def _writable_memory_is_free() -> bool:
    """Whether mapping writable memory, which nobody stores to, counts against nothing."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        return False
    try:
        overcommit = Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii")
    except OSError:
        return True
    return overcommit.strip() != "2"  # Documentation/mm/overcommit-accounting.rst: never


@contextmanager
def _with_another_way() -> Iterator[None]:
    try:
        yield
    except AttachFailed as error:
        raise AttachFailed(error.errno, f"{error.strerror}{_WITHOUT_USERFAULTFD}") from error
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{error}{_WITHOUT_USERFAULTFD}") from None
