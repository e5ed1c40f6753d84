# SPDX-License-Identifier: Apache-2.0
"""Purgeable memory: every interleaving of what a program does with a run and what the kernel drops.

A model of `libscratch/purgeable.c` on pages of two words: the displaced one and all others. Between
any two steps of the program the kernel may drop any page that was freed and not stored to since.
Whatever it does, a run that was taken back is whole and stays; and a program that leaves out
a part of the protocol is caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.purgeable_pages import CANARY, DATA, PAGES, ROUNDS, ZERO, Page

Pages = tuple[Page, ...]
Step = Callable[[Pages], Pages | None]  # None: the program has found the run lost, and stops


def changed(pages: Pages, number: int, **changes: object) -> Pages:
    return (*pages[:number], replace(pages[number], **changes), *pages[number + 1 :])  # type: ignore[arg-type]


def store(number: int, word: str) -> Step:
    return lambda pages: changed(pages, number, word=word, is_droppable=False)


def free(number: int) -> Step:
    return lambda pages: changed(pages, number, is_droppable=True)


def expect(number: int) -> Step:
    return lambda pages: pages if pages[number].word == CANARY else None


def compare_exchange(number: int) -> Step:
    def step(pages: Pages) -> Pages | None:
        if pages[number].word != CANARY:
            return None
        return changed(pages, number, word=DATA, is_droppable=False)

    return step


def release() -> Iterator[Step]:
    for number in range(PAGES):
        yield store(number, CANARY)
    for number in range(PAGES):
        yield free(number)


def pin() -> Iterator[Step]:
    for number in range(PAGES):
        yield expect(number)
        yield compare_exchange(number)


def pin_by_load_and_store() -> Iterator[Step]:
    for number in range(PAGES):
        yield expect(number)
        yield store(number, DATA)


def pin_by_one_canary() -> Iterator[Step]:
    yield expect(0)
    yield compare_exchange(0)
    for number in range(1, PAGES):
        yield store(number, DATA)


def pin_by_loads() -> Iterator[Step]:
    for number in range(PAGES):
        yield expect(number)


def dropped(pages: Pages) -> Iterator[Pages]:
    """What the kernel may make of the pages: none or any number of them dropped."""
    if not pages:
        yield ()
        return
    for rest in dropped(pages[1:]):
        yield (pages[0], *rest)
        if pages[0].is_droppable:
            yield (Page(ZERO, ZERO), *rest)


def wrong_ends(program: list[Step], is_right: Callable[[Pages], bool]) -> list[Pages]:
    """All states in which the program thinks that it has the run, and is wrong."""
    states = {(Page(),) * PAGES}
    for step in program:
        states = {after for pages in states for after in dropped(pages)}
        states = {after for pages in states if (after := step(pages)) is not None}
    return [pages for state in states for pages in dropped(state) if not is_right(pages)]


def is_whole_and_kept(pages: Pages) -> bool:
    return pages == (Page(),) * PAGES


def test_a_run_that_was_taken_back_is_whole() -> None:
    program = [step for _ in range(ROUNDS) for step in (*release(), *pin())]
    assert wrong_ends(program, is_whole_and_kept) == []


def test_a_run_is_taken_back_and_is_lost() -> None:
    """The model has both ends: it proves nothing if no program came through."""
    whole = (Page(),) * PAGES
    assert wrong_ends([*release(), *pin()], lambda pages: pages != whole)
    released = (Page(CANARY, DATA, True),) * PAGES
    assert wrong_ends(list(release()), lambda pages: pages != released)
    assert wrong_ends(list(release()), lambda pages: pages != (Page(ZERO, ZERO),) * PAGES)


@pytest.mark.parametrize("faulty", [pin_by_load_and_store, pin_by_one_canary, pin_by_loads])
def test_a_faulty_pin_is_caught(faulty: Callable[[], Iterator[Step]]) -> None:
    assert wrong_ends([*release(), *faulty()], is_whole_and_kept)


def test_canaries_that_come_after_the_freeing_are_caught() -> None:
    """The stores take back what was freed: nothing could be dropped."""
    late = [free(number) for number in range(PAGES)]
    late += [store(number, CANARY) for number in range(PAGES)]
    assert not wrong_ends(late, lambda pages: not any(page.is_droppable for page in pages))
    right = list(release())
    assert wrong_ends(right, lambda pages: not any(page.is_droppable for page in pages))
