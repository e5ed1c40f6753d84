# SPDX-License-Identifier: Apache-2.0
"""Anything that may be done to a mapping, in any order, on each engine, against the model."""

from __future__ import annotations

import os
import random
import tempfile
import traceback
from contextlib import ExitStack
from mmap import PAGESIZE
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.files import WORD, PatternFile, make_file
from support.model import ModelMap

from mapscratch import ScratchMap

PAGES = 35  # three fault-arounds of 16, the last one and its last page incomplete
TAIL = 3 * WORD
WORDS_IN_PAGE = (0, 1, 7, 511)

pages = st.integers(0, PAGES - 1)
# Few words and few values, so that they meet each other.
offsets = st.builds(
    lambda page, word: min(page * PAGESIZE + word * WORD, (PAGES - 1) * PAGESIZE + TAIL - WORD),
    pages,
    st.sampled_from(WORDS_IN_PAGE),
)
values = st.sampled_from([0, 1, 2, 2**64 - 1])
ranges = st.tuples(pages, pages).map(lambda pair: (min(pair), max(pair) + 1))


class ScratchMachine(RuleBasedStateMachine):
    """One mapping of one file, and the model of it."""

    engine: str
    file: PatternFile

    def __init__(self) -> None:
        super().__init__()
        self.mapping = ScratchMap(self.file.path, engine=self.engine)
        self.model = ModelMap(self.file.data)
        self.pins: list[tuple[ExitStack, int, int]] = []

    @initialize(seed=st.integers(0, 2**32))
    def store_somewhere(self, seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(20):
            offset = generator.randrange(PAGES - 1) * PAGESIZE + WORD * generator.choice((0, 7))
            self.store(offset, 5)

    def store(self, offset: int, value: int) -> None:
        self.mapping.store(offset, value)
        self.model.stored(offset, value)

    def check_word(self, offset: int) -> None:
        self.model.saw(offset, self.mapping.load(offset))

    def check_page(self, page: int) -> None:
        """Every word of a page: what was stored to by the model, the rest by the file."""
        start = page * PAGESIZE
        seen = bytearray(self.mapping[start : start + PAGESIZE])
        in_file = self.file.data[start : start + PAGESIZE]
        for inside in {inside for inside, _ in self.model.pages[page].stores}:
            word = slice(inside, inside + WORD)
            self.model.saw(start + inside, int.from_bytes(seen[word], "little"))
            seen[word] = in_file[word]
        assert seen == in_file

    @rule(offset=offsets, value=values)
    def store_word(self, offset: int, value: int) -> None:
        self.store(offset, value)

    @rule(offset=offsets)
    def load_word(self, offset: int) -> None:
        self.check_word(offset)

    @rule(page=pages)
    def load_page(self, page: int) -> None:
        self.check_page(page)

    @rule(offset=offsets, expected=values, desired=values, expects_file=st.booleans())
    def compare_exchange(
        self, offset: int, expected: int, desired: int, expects_file: bool
    ) -> None:
        if expects_file:
            expected = self.model.in_file(offset)
        found = self.mapping.compare_exchange(offset, expected, desired)
        self.model.exchanged(offset, expected, desired, found)

    @rule(offset=offsets, value=values, words=st.integers(1, 40))
    def write_slice(self, offset: int, value: int, words: int) -> None:
        words = min(words, (len(self.mapping) - offset) // WORD)
        self.mapping[offset : offset + words * WORD] = value.to_bytes(WORD, "little") * words
        for word in range(words):
            self.model.stored(offset + word * WORD, value)

    @rule(pair=ranges)
    def drop(self, pair: tuple[int, int]) -> None:
        first, end = pair
        unpinned = sum(not page.pins for page in self.model.pages[first:end])
        length = min(end * PAGESIZE, len(self.mapping)) - first * PAGESIZE
        assert 0 <= self.mapping.drop(first * PAGESIZE, length) <= unpinned
        self.model.dropped(first, end)

    @precondition(lambda self: self.engine != "dontneed")
    @rule(pair=ranges)
    def kernel_reclaims(self, pair: tuple[int, int]) -> None:
        first, end = pair
        length = min(end * PAGESIZE, len(self.mapping)) - first * PAGESIZE
        self.mapping.reclaim(first * PAGESIZE, length)

    @precondition(lambda self: len(self.pins) < 4)
    @rule(pair=ranges)
    def pin(self, pair: tuple[int, int]) -> None:
        first, end = pair
        length = min(end * PAGESIZE, len(self.mapping)) - first * PAGESIZE
        stack = ExitStack()
        stack.enter_context(self.mapping.pin(first * PAGESIZE, length))
        self.model.pinned(first, end)
        self.pins.append((stack, first, end))

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 3))
    def unpin(self, which: int) -> None:
        stack, first, end = self.pins.pop(which % len(self.pins))
        stack.close()
        self.model.unpinned(first, end)

    @rule(offset=offsets, value=values)
    def fork(self, offset: int, value: int) -> None:
        child = os.fork()
        if not child:
            os._exit(self.check_as_child(offset, value))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    def check_as_child(self, offset: int, value: int) -> int:
        try:
            self.model = self.model.child(keeps_memory=self.engine != "lazyfree")
            assert self.mapping.counts().pinned == 0
            for page in range(0, PAGES, 5):
                self.check_page(page)
            self.store(offset, value)
            self.check_word(offset)
            self.mapping.drop()
            self.model.dropped(0, PAGES)
            for page in (0, offset // PAGESIZE, PAGES - 1):
                self.check_page(page)
            while self.pins:
                self.pins.pop()[0].close()  # the parent's: nothing to release here
            assert self.mapping.counts().pinned == 0
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    @rule()
    def close_and_reopen(self) -> None:
        self.mapping.close()
        self.mapping = ScratchMap(self.file.path, engine=self.engine)
        self.model.renew()
        while self.pins:
            self.pins.pop()[0].close()  # gone with the mapping that they pinned

    @invariant()
    def counts_agree(self) -> None:
        counts = self.mapping.counts()
        pinned = self.model.pinned_pages()
        assert counts.pinned == pinned <= counts.resident
        assert counts.resident + counts.swapped <= PAGES
        assert (counts.dropped is None) == (self.engine == "kernel")
        assert counts.dropped is None or counts.dropped >= 0
        if counts.dirty is not None:
            assert pinned * (self.engine == "lazyfree") <= counts.dirty <= counts.resident
        if counts.filled is not None and counts.rebuilt is not None:
            assert counts.resident <= counts.filled
            assert counts.rebuilt <= counts.filled
            assert counts.filled - counts.rebuilt <= PAGES

    def teardown(self) -> None:
        for page in range(PAGES):
            self.check_page(page)
        while self.pins:
            self.pins.pop()[0].close()
        self.mapping.drop()
        assert self.mapping[:] == self.file.data
        self.mapping.close()
        assert self.file.is_intact()


def run(engine: str, examples: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = make_file(Path(directory) / "pattern", PAGES - 1)
        data = file.data + bytes(range(1, TAIL + 1))
        file.path.write_bytes(data)
        machine = type(
            "Machine",
            (ScratchMachine,),
            {"engine": engine, "file": PatternFile(file.path, data)},
        )
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, database=None
            ),
        )


def test_whatever_is_done_the_model_holds(engine: str) -> None:
    run(engine, examples=min(25, settings().max_examples), steps=30)


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_whatever_is_done_for_long_the_model_holds(engine: str) -> None:
    run(engine, examples=1500, steps=60)
