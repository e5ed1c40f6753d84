# SPDX-License-Identifier: Apache-2.0
"""Huge slots: every interleaving of what a program does with one and what the kernel does.

A model of `libscratch/huge_slot.c` on a huge page of three pages, each of two words. Between any
two steps of the program the kernel may drop the huge page, if it was freed and not stored to since;
split it; and drop any page of a split one. It may not make a huge page of small ones: where it may
(`is_rebuilt`) the protocol is caught, as is each that leaves something out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.purgeable_pages import CANARY, DATA, PAGES, ROUNDS, ZERO, Page


@dataclass(frozen=True)
class Slot:
    """The pages, how they are mapped, and what the program takes them for.

    Attributes:
        believed_huge: what the program thinks: it has put one canary, or a canary a page.
        seen_huge: what a look has told.
    """

    pages: tuple[Page, ...] = (Page(),) * PAGES
    is_huge: bool = True
    believed_huge: bool = True
    seen_huge: bool | None = None


Step = Callable[[Slot], Slot | None]  # None: the program has found the slot lost, and stops


def changed(slot: Slot, number: int, **changes: Any) -> Slot:
    """One page is stored to: the dirty bit of a huge page is that of all."""
    pages = [
        replace(page, is_droppable=page.is_droppable and not (slot.is_huge or index == number))
        for index, page in enumerate(slot.pages)
    ]
    pages[number] = replace(pages[number], **changes)
    return replace(slot, pages=tuple(pages))


def of_pages(step: Callable[[Slot, int], Slot | None], first: int = 0) -> Iterator[Step]:
    """A step for each page, where the program takes the slot for small ones."""
    for number in range(first, PAGES):
        yield lambda slot, number=number: slot if slot.believed_huge else step(slot, number)


def of_huge(step: Step) -> Step:
    return lambda slot: step(slot) if slot.believed_huge else slot


def put_canary(slot: Slot, number: int = 0) -> Slot:
    return changed(slot, number, word=CANARY)


def free(slot: Slot) -> Slot:
    pages = tuple(replace(page, is_droppable=True) for page in slot.pages)
    return replace(slot, pages=pages)


def free_one(number: int) -> Step:
    def step(slot: Slot) -> Slot:
        if slot.is_huge:
            return slot if number else free(slot)
        pages = list(slot.pages)
        pages[number] = replace(pages[number], is_droppable=True)
        return replace(slot, pages=tuple(pages))

    return step


def release() -> Iterator[Step]:
    yield of_huge(put_canary)
    yield from of_pages(put_canary)
    for number in range(PAGES):  # MADV_FREE goes from page to page
        yield free_one(number)


def expect(slot: Slot, number: int = 0) -> Slot | None:
    return slot if slot.pages[number].word == CANARY else None


def exchange(slot: Slot, number: int = 0) -> Slot | None:
    if slot.pages[number].word != CANARY:
        return None
    return changed(slot, number, word=DATA)


def look(slot: Slot) -> Slot:
    return replace(slot, seen_huge=slot.is_huge)


def see_another_mapping(slot: Slot) -> Slot:
    """Through the descriptor of the parent, whose page is huge."""
    return replace(slot, seen_huge=True)


def add_nothing(number: int) -> Step:
    return lambda slot: slot if slot.seen_huge else changed(slot, number)


def find_something(number: int) -> Step:
    def step(slot: Slot) -> Slot | None:
        page = slot.pages[number]
        return slot if slot.seen_huge or DATA in (page.word, page.others) else None

    return step


def slowly() -> Iterator[Step]:
    """The first page held the canary; of the others each must hold something."""
    for number in range(1, PAGES):
        yield of_huge(add_nothing(number))
        yield of_huge(find_something(number))


def conclude(slot: Slot) -> Slot:
    if not slot.believed_huge:
        return slot
    return replace(slot, believed_huge=bool(slot.seen_huge), seen_huge=None)


def pin_pages() -> Iterator[Step]:
    def one(slot: Slot, number: int) -> Slot | None:
        return exchange(slot, number)

    yield from of_pages(one)


def pin() -> Iterator[Step]:
    yield from pin_pages()
    yield of_huge(expect)
    yield of_huge(exchange)
    yield of_huge(look)
    yield from slowly()
    yield conclude


def pin_without_a_look() -> Iterator[Step]:
    yield of_huge(exchange)


def pin_after_a_look() -> Iterator[Step]:
    yield look
    yield of_huge(exchange)
    yield from slowly()
    yield conclude


def pin_by_a_load() -> Iterator[Step]:
    yield of_huge(expect)
    yield of_huge(lambda slot: changed(slot, 0, word=DATA))
    yield of_huge(look)
    yield from slowly()
    yield conclude


def pin_through_the_parents_descriptor() -> Iterator[Step]:
    yield of_huge(exchange)
    yield of_huge(see_another_mapping)
    yield from slowly()
    yield conclude


def pin_without_the_slow_way() -> Iterator[Step]:
    yield of_huge(exchange)
    yield of_huge(look)
    yield conclude


def pin_without_adding() -> Iterator[Step]:
    yield of_huge(exchange)
    yield of_huge(look)
    for number in range(1, PAGES):
        yield of_huge(find_something(number))
    yield conclude


def pin_that_adds_too_late() -> Iterator[Step]:
    yield of_huge(exchange)
    yield of_huge(look)
    for number in range(1, PAGES):
        yield of_huge(find_something(number))
        yield of_huge(add_nothing(number))
    yield conclude


def _next(slot: Slot, is_rebuilt: bool) -> Iterator[Slot]:
    """What one thing that the kernel does makes of it."""
    gone = Page(ZERO, ZERO)
    if slot.is_huge:
        yield replace(slot, is_huge=False)
        if all(page.is_droppable for page in slot.pages):
            yield replace(slot, pages=(gone,) * PAGES, is_huge=False)
        return
    for number, page in enumerate(slot.pages):
        if page.is_droppable:
            pages = (*slot.pages[:number], gone, *slot.pages[number + 1 :])
            yield replace(slot, pages=pages)
    if is_rebuilt:
        for is_droppable in (False, all(page.is_droppable for page in slot.pages)):
            pages = tuple(replace(page, is_droppable=is_droppable) for page in slot.pages)
            yield replace(slot, pages=pages, is_huge=True)


def whatever_the_kernel_does(slots: set[Slot], is_rebuilt: bool) -> set[Slot]:
    reached, new = set(slots), list(slots)
    while new:
        for slot in _next(new.pop(), is_rebuilt):
            if slot not in reached:
                reached.add(slot)
                new.append(slot)
    return reached


def ends(program: list[Step], is_rebuilt: bool = False) -> set[Slot]:
    """All states in which the program thinks that it has the slot."""
    slots = {Slot()}
    for step in program:
        slots = whatever_the_kernel_does(slots, is_rebuilt)
        slots = {after for slot in slots if (after := step(slot)) is not None}
    return whatever_the_kernel_does(slots, is_rebuilt)


def is_whole_and_kept(slot: Slot) -> bool:
    return slot.pages == (Page(),) * PAGES


def protocol(pin: Callable[[], Iterator[Step]] = pin, rounds: int = ROUNDS) -> list[Step]:
    return [step for _ in range(rounds) for step in (*release(), *pin())]


def test_a_slot_that_was_taken_back_is_whole() -> None:
    assert all(is_whole_and_kept(slot) for slot in ends(protocol()))


def test_it_is_taken_back_in_one_piece_and_split_and_is_lost() -> None:
    """The model has all ends: it proves nothing if no program came through."""
    found = ends(protocol())
    assert any(slot.believed_huge and slot.is_huge for slot in found)
    assert any(not slot.believed_huge for slot in found)
    released = ends(list(release()))
    assert Slot((Page(ZERO, ZERO),) * PAGES, is_huge=False) in released
    parts = {tuple(page.others for page in slot.pages) for slot in released}
    assert (DATA, ZERO, DATA) in parts


@pytest.mark.parametrize(
    "faulty",
    [
        pin_without_a_look,
        pin_after_a_look,
        pin_by_a_load,
        pin_through_the_parents_descriptor,
        pin_without_the_slow_way,
        pin_without_adding,
        pin_that_adds_too_late,
    ],
)
def test_a_faulty_pin_is_caught(faulty: Callable[[], Iterator[Step]]) -> None:
    wrong = [slot for slot in ends(protocol(faulty, 1)) if not is_whole_and_kept(slot)]
    assert any(slot.pages != (Page(),) * PAGES for slot in wrong)


def test_huge_pages_that_are_made_of_small_ones_are_caught() -> None:
    """So MADV_NOHUGEPAGE follows the populating."""
    assert not all(is_whole_and_kept(slot) for slot in ends(protocol(), is_rebuilt=True))


def test_a_canary_a_page_needs_none_of_that() -> None:
    """A slot that isn't huge any more is right though huge pages may be made of it."""
    split = Slot(is_huge=False, believed_huge=False)
    slots = {split}
    for step in protocol():
        slots = whatever_the_kernel_does(slots, is_rebuilt=True)
        slots = {after for slot in slots if (after := step(slot)) is not None}
    slots = whatever_the_kernel_does(slots, is_rebuilt=True)
    assert slots
    assert all(is_whole_and_kept(slot) for slot in slots)
