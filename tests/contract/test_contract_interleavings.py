# SPDX-License-Identifier: Apache-2.0
"""Two threads' step programs in every order, with drops in every place: model and real engines.

What is seen on an engine is among what the model says is possible. What the model says of the
protocols (one word holds; two words, locks, counters and once-flags don't) is seen on the engines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from support.engines import AVAILABLE
from support.files import PatternFile
from support.processors import on_one_processor
from support.steps import (
    Players,
    Program,
    Results,
    Step,
    Words,
    compare_exchange,
    load,
    orders,
    possible_results,
    run_on_model,
    store,
    when,
)

from mapscratch import ScratchMap

FIRST, SECOND = 0, 8  # in one page
MADE = 77


@pytest.fixture(
    params=[
        pytest.param((engine, dropped), id=f"{engine}, {dropped}")
        for engine in AVAILABLE
        for dropped in ("drop", "reclaim by the kernel")
        if (engine, dropped) != ("dontneed", "reclaim by the kernel")
    ]
)
def players(request: pytest.FixtureRequest, file: PatternFile) -> Iterator[Players]:
    """The same programs on a real mapping, dropped in each way that the engine has."""
    engine, dropped = request.param
    with (
        on_one_processor() if engine == "kernel" else nullcontext(),
        ScratchMap(file.path, engine=engine) as m,
        Players(m, m.drop if dropped == "drop" else m.reclaim) as players,
    ):
        yield players


@pytest.fixture
def words(file: PatternFile) -> dict[int, int]:
    return {offset: file.word(offset) for offset in (FIRST, SECOND)}


def seen_on_engine(
    players: Players, programs: tuple[Program, Program], most_drops: int
) -> set[Results]:
    lengths = [len(program) for program in programs]
    return {players.run(programs, order) for order in orders(lengths, most_drops)}


def registers(results: Results, thread: int) -> dict[str, int]:
    return dict(results[thread])


# One word whose value in the file means "not made yet": load it; if it isn't made, make it and
# store it; use what is made, not what is read again.


def use_one_word(not_made: int) -> Program:
    def use(_: Words, registers: dict[str, int]) -> None:
        found = registers["found"]
        registers["used"] = MADE if found == not_made else found

    return (
        load(FIRST, "found"),
        when("found", not_made, store(FIRST, MADE)),
        use,
    )


def test_one_word_is_never_used_unmade_on_the_model(words: dict[int, int]) -> None:
    program = use_one_word(words[FIRST])
    results = possible_results((program, program), words)
    assert {registers(result, thread)["used"] for result in results for thread in (0, 1)} == {MADE}
    assert {registers(result, 0)["found"] for result in results} == {MADE, words[FIRST]}


def test_one_word_is_never_used_unmade_on_the_engine(
    players: Players, words: dict[int, int]
) -> None:
    programs = (use_one_word(words[FIRST]), use_one_word(words[FIRST]))
    seen = seen_on_engine(players, programs, most_drops=2)
    assert seen <= possible_results(programs, words)
    assert {registers(result, thread)["used"] for result in seen for thread in (0, 1)} == {MADE}
    assert len(seen) > 1


# Two words: the target, then a flag (or the jump) that says it is there.

MAKE_TARGET_THEN_FLAG: Program = (store(FIRST, MADE), store(SECOND, 1))
FOLLOW_FLAG: Program = (load(SECOND, "flag"), when("flag", 1, load(FIRST, "target")))


def test_two_words_break_on_the_model(words: dict[int, int]) -> None:
    programs = (MAKE_TARGET_THEN_FLAG, FOLLOW_FLAG)
    followed_to_file = (("flag", 1), ("target", words[FIRST]))
    assert followed_to_file in {result[1] for result in possible_results(programs, words)}
    # And only drops do it.
    without = {run_on_model(programs, words, order) for order in orders((2, 2), 0)}
    assert followed_to_file not in {result[1] for result in without}


def test_two_words_break_on_the_engine(players: Players, words: dict[int, int]) -> None:
    programs = (MAKE_TARGET_THEN_FLAG, FOLLOW_FLAG)
    seen = seen_on_engine(players, programs, most_drops=2)
    assert seen <= possible_results(programs, words)
    assert (("flag", 1), ("target", words[FIRST])) in {result[1] for result in seen}
    assert (("flag", 1), ("target", MADE)) in {result[1] for result in seen}


# What C4 says that compare-exchange doesn't promise: a lock, a counter.


def test_two_compare_exchanges_both_succeed_over_a_drop(
    players: Players, words: dict[int, int]
) -> None:
    in_file = words[FIRST]
    programs: tuple[Program, Program] = (
        (compare_exchange(FIRST, in_file, 1, "found"),),
        (compare_exchange(FIRST, in_file, 2, "found"),),
    )
    both = ((("found", in_file),), (("found", in_file),))
    assert both in possible_results(programs, words)
    assert players.run(programs, ("0", "drop", "1")) in possible_results(programs, words)
    # Whether a page goes when the kernel is asked to reclaim it is the kernel's decision.
    assert any(both in seen_on_engine(players, programs, most_drops=1) for _ in range(50))
    for order in (("0", "1"), ("1", "0")):
        assert run_on_model(programs, words, order) != both


def test_a_counter_goes_back_over_a_drop(players: Players, words: dict[int, int]) -> None:
    counting: Program = (
        compare_exchange(FIRST, words[FIRST], 1, "first"),
        compare_exchange(FIRST, 1, 2, "second"),
    )
    reading: Program = (load(FIRST, "one"), load(FIRST, "two"))
    programs = (counting, reading)
    seen = seen_on_engine(players, programs, most_drops=2)
    assert seen <= possible_results(programs, words)
    backwards = {(("one", 2), ("two", words[FIRST])), (("one", 1), ("two", words[FIRST]))}
    assert backwards <= {result[1] for result in seen}


def test_a_page_never_reverts_in_part(players: Players, words: dict[int, int]) -> None:
    programs: tuple[Program, Program] = (
        (store(FIRST, 1), store(SECOND, 2)),
        (load(SECOND, "second"), load(FIRST, "first"), load(SECOND, "again")),
    )
    stored_before = [order for order in orders((2, 3), 2) if order[:2] == ("0", "0")]
    both_ways = set()
    for order in stored_before:
        found = registers(players.run(programs, order), 1)
        both_ways.add(found["second"])
        if found["second"] == words[SECOND]:
            assert found["first"] == words[FIRST], "one store went, the other stayed"
        if found["first"] == words[FIRST]:
            assert found["again"] == words[SECOND], "one store went, the other stayed"
    assert both_ways == {2, words[SECOND]}


def alphabet(in_file: dict[int, int]) -> list[Step]:
    return [
        load(FIRST, "first"),
        load(SECOND, "second"),
        store(FIRST, 1),
        store(SECOND, 2),
        compare_exchange(FIRST, in_file[FIRST], 3, "exchanged"),
        compare_exchange(FIRST, 1, in_file[FIRST], "undone"),
    ]


def test_every_pair_of_programs_of_two_steps(players: Players, words: dict[int, int]) -> None:
    programs = list(itertools.product(alphabet(words), repeat=2))
    for index, (one, other) in enumerate(itertools.combinations_with_replacement(programs, 2)):
        # Each pair in two of its 36 orders with up to one drop; all orders come round.
        choice = list(orders((2, 2), 1))
        for order in (choice[index % len(choice)], choice[(7 * index + 3) % len(choice)]):
            seen = players.run((one, other), order)
            allowed = {
                run_on_model((one, other), words, other_order)
                for other_order in with_more_drops(order)
            }
            assert seen in allowed, order


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_every_pair_of_programs_of_two_steps_in_every_order(
    players: Players, words: dict[int, int]
) -> None:
    programs = list(itertools.product(alphabet(words), repeat=2))
    for pair in itertools.combinations_with_replacement(programs, 2):
        assert seen_on_engine(players, pair, most_drops=2) <= possible_results(pair, words)


def with_more_drops(order: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The order with drops in any further places, as the contract allows at any moment."""
    places = len(order) + 1
    for count in range(places + 1):
        for chosen in itertools.combinations(range(places), count):
            longer: list[str] = []
            for index in range(places):
                if index in chosen:
                    longer.append("drop")
                if index < len(order):
                    longer.append(order[index])
            yield tuple(longer)


def test_four_steps_each(players: Players, words: dict[int, int]) -> None:
    publishing: Program = (
        load(FIRST, "found"),
        when("found", words[FIRST], compare_exchange(FIRST, words[FIRST], MADE, "exchanged")),
        load(FIRST, "again"),
        store(SECOND, 2),
    )
    reading: Program = (
        load(SECOND, "second"),
        load(FIRST, "first"),
        store(FIRST, MADE),
        load(SECOND, "last"),
    )
    programs = (publishing, reading)
    possible = possible_results(programs, words)
    # Every order, each with a drop in one place at least; more drops give nothing new.
    seen = seen_on_engine(players, programs, most_drops=1)
    assert seen <= possible
    assert len(seen) > 20
