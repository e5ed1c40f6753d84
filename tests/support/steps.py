# SPDX-License-Identifier: Apache-2.0
"""Small step programs of two threads, run in every order: on a model, and on a real mapping.

A step is one word operation of one thread; a thread's later steps may depend on its registers. An
order says whose step comes next, and where the pages are dropped.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol, Self

from mapscratch import ScratchMap

Registers = dict[str, int]
Results = tuple[tuple[tuple[str, int], ...], ...]
Order = tuple[str, ...]
"""Of "0" and "1", the threads, and "drop"."""


class Words(Protocol):
    """What a step works on."""

    def load(self, offset: int, /) -> int: ...
    def store(self, offset: int, value: int, /) -> None: ...
    def compare_exchange(self, offset: int, expected: int, desired: int, /) -> int: ...


Step = Callable[[Words, Registers], None]
Program = Sequence[Step]


def load(offset: int, register: str) -> Step:
    def step(words: Words, registers: Registers) -> None:
        registers[register] = words.load(offset)

    return step


def store(offset: int, value: int) -> Step:
    def step(words: Words, _: Registers) -> None:
        words.store(offset, value)

    return step


def compare_exchange(offset: int, expected: int, desired: int, register: str) -> Step:
    def step(words: Words, registers: Registers) -> None:
        registers[register] = words.compare_exchange(offset, expected, desired)

    return step


def when(register: str, value: int, then: Step) -> Step:
    """Does `then` if the register has the value, else nothing."""

    def step(words: Words, registers: Registers) -> None:
        if registers.get(register) == value:
            then(words, registers)

    return step


def results_of(registers: Sequence[Registers]) -> Results:
    return tuple(tuple(sorted(each.items())) for each in registers)


def orders(lengths: Sequence[int], most_drops: int) -> Iterator[Order]:
    """Every order of two programs' steps, with up to so many drops, each in any place."""
    steps = sum(lengths)
    for first in itertools.combinations(range(steps), lengths[0]):
        plain = ["0" if index in first else "1" for index in range(steps)]
        for count in range(most_drops + 1):
            # More than one drop in a place is one.
            for places in itertools.combinations(range(steps + 1), count):
                order: list[str] = []
                for index in range(steps + 1):
                    if index in places:
                        order.append("drop")
                    if index < steps:
                        order.append(plain[index])
                yield tuple(order)


@dataclass(slots=True)
class ModelWords:
    """Words of pages that show the file after a drop."""

    file: dict[int, int]
    stored: dict[int, int] = field(default_factory=dict)

    def load(self, offset: int, /) -> int:
        return self.stored.get(offset, self.file[offset])

    def store(self, offset: int, value: int, /) -> None:
        self.stored[offset] = value

    def compare_exchange(self, offset: int, expected: int, desired: int, /) -> int:
        found = self.load(offset)
        if found == expected:
            self.stored[offset] = desired
        return found

    def drop(self) -> None:
        self.stored.clear()


def run_on_model(programs: Sequence[Program], file: dict[int, int], order: Order) -> Results:
    words = ModelWords(file)
    registers: list[Registers] = [{}, {}]
    waiting = [iter(program) for program in programs]
    for who in order:
        if who == "drop":
            words.drop()
        else:
            next(waiting[int(who)])(words, registers[int(who)])
    return results_of(registers)


def possible_results(programs: Sequence[Program], file: dict[int, int]) -> set[Results]:
    """With drops in any number of places."""
    lengths = [len(program) for program in programs]
    every_place = sum(lengths) + 1
    return {run_on_model(programs, file, order) for order in orders(lengths, every_place)}


class Players:
    """Two real threads that do one step each time that they are told, on a real mapping."""

    def __init__(self, mapping: ScratchMap, drop: Callable[[], object]) -> None:
        self._mapping = mapping
        self._drop = drop
        self._told: list[SimpleQueue[tuple[Step, Registers] | None]] = [
            SimpleQueue(),
            SimpleQueue(),
        ]
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._play, args=(told,), daemon=True) for told in self._told
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for told in self._told:
            told.put(None)
        for thread in self._threads:
            thread.join()

    def _play(self, told: SimpleQueue[tuple[Step, Registers] | None]) -> None:
        while (task := told.get()) is not None:
            step, registers = task
            try:
                step(self._mapping, registers)
            except BaseException as error:
                self._done.put(error)
            else:
                self._done.put(None)

    def run(self, programs: Sequence[Program], order: Order) -> Results:
        """From a page that shows the file."""
        self._mapping.drop()
        registers: list[Registers] = [{}, {}]
        waiting = [iter(program) for program in programs]
        for who in order:
            if who == "drop":
                self._drop()
                continue
            self._told[int(who)].put((next(waiting[int(who)]), registers[int(who)]))
            error = self._done.get()
            if error:
                raise error
        return results_of(registers)
