# SPDX-License-Identifier: Apache-2.0
"""The contract as a model: what may be seen in a scratch mapping after what was done to it.

A page is its file's content and the stores since it last came back, in order. It may have been
dropped at any moment that it was not pinned, and a drop takes everything before it: so what a page
may hold is the file with some *last* stores of the list, never with one but without a later one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from mmap import PAGESIZE

from support.files import WORD


@dataclass(slots=True)
class ModelPage:
    """One page.

    Attributes:
        stores: word offset in the page and value, oldest first.
        begins: where the list may begin: the drops that can't be excluded.
        pins: how many.
    """

    stores: list[tuple[int, int]] = field(default_factory=list)
    begins: set[int] = field(default_factory=lambda: {0})
    pins: int = 0

    def may_have_been_dropped(self) -> None:
        if not self.pins:
            self.begins.add(len(self.stores))

    def was_dropped(self) -> None:
        if not self.pins:
            self.stores.clear()
            self.begins = {0}

    def value(self, begin: int, offset: int, in_file: int) -> int:
        for stored, value in reversed(self.stores[begin:]):
            if stored == offset:
                return value
        return in_file


class ModelMap:
    """A mapping of known bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pages = [ModelPage() for _ in range(-(-len(data) // PAGESIZE))]

    def in_file(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + WORD], "little")

    def _page(self, offset: int) -> tuple[ModelPage, int]:
        return self.pages[offset // PAGESIZE], offset % PAGESIZE

    def saw(self, offset: int, value: int) -> None:
        """Takes note of a load, which excludes what it contradicts.

        Raises:
            AssertionError: it can't be.
        """
        page, inside = self._page(offset)
        page.may_have_been_dropped()
        agreeing = {
            begin
            for begin in page.begins
            if page.value(begin, inside, self.in_file(offset)) == value
        }
        assert agreeing, (
            f"word at {offset} is {value:#x}; the file has {self.in_file(offset):#x}, stored were "
            f"{page.stores}, of which the first {sorted(page.begins)} may be gone; "
            f"{page.pins} pins"
        )
        page.begins = agreeing

    def stored(self, offset: int, value: int) -> None:
        page, inside = self._page(offset)
        page.may_have_been_dropped()
        page.stores.append((inside, value))

    def exchanged(self, offset: int, expected: int, desired: int, found: int) -> None:
        self.saw(offset, found)
        if found == expected:
            page, inside = self._page(offset)
            page.stores.append((inside, desired))

    def dropped(self, first: int, end: int) -> None:
        for page in self.pages[first:end]:
            page.was_dropped()

    def pinned(self, first: int, end: int) -> None:
        for page in self.pages[first:end]:
            page.may_have_been_dropped()
            page.pins += 1

    def unpinned(self, first: int, end: int) -> None:
        for page in self.pages[first:end]:
            page.pins -= 1

    def pinned_pages(self) -> int:
        return sum(page.pins > 0 for page in self.pages)

    def renew(self) -> None:
        """All of it shows the file, and nothing is pinned: after a new mapping."""
        self.pages = [ModelPage() for _ in self.pages]

    def child(self, keeps_memory: bool) -> ModelMap:
        """What a forked child has: the parent's memory or the file's, and no pins."""
        copy = ModelMap(self.data)
        if keeps_memory:
            for mine, theirs in zip(self.pages, copy.pages, strict=True):
                theirs.stores = list(mine.stores)
                theirs.begins = set(mine.begins)
        return copy
