# SPDX-License-Identifier: Apache-2.0
"""load, store and compare_exchange: what they do, and every way to call them wrongly."""

from __future__ import annotations

import mmap
import threading
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from conftest import MapFile
from hypothesis import given
from hypothesis import strategies as st
from support.files import PatternFile, make_file
from support.interpreter import run_python

from mapscratch import ScratchMap

LARGEST = 2**64 - 1


def test_a_word_is_eight_bytes_in_native_order(m: ScratchMap, file: PatternFile) -> None:
    for offset in (0, 8, PAGESIZE - 8, PAGESIZE, 40 * PAGESIZE):
        assert m.load(offset) == int(np.frombuffer(file.data, np.uint64, 1, offset)[0])


@pytest.mark.parametrize("value", [0, 1, 2**63, LARGEST, 0x0123456789ABCDEF])
def test_what_is_stored_is_loaded(m: ScratchMap, file: PatternFile, value: int) -> None:
    with m.pin():
        assert m.store(16, value) is None
        assert m.load(16) == value
        assert int(np.frombuffer(m, np.uint64, 1, 16)[0]) == value
        assert m[8:16] == file.data[8:16]
        assert m[24:32] == file.data[24:32]


def test_compare_exchange_returns_what_it_found(m: ScratchMap, file: PatternFile) -> None:
    before = file.word(0)
    with m.pin():
        assert m.compare_exchange(0, before ^ 1, 5) == before
        assert m.load(0) == before
        assert m.compare_exchange(0, before, 5) == before
        assert m.load(0) == 5
        assert m.compare_exchange(0, 5, 5) == 5
        assert m.compare_exchange(0, 5, LARGEST) == 5
        assert m.compare_exchange(0, LARGEST, 0) == LARGEST
        assert m.load(0) == 0


def test_of_many_compare_exchanges_one_succeeds(m: ScratchMap, file: PatternFile) -> None:
    threads = 4
    start = threading.Barrier(threads)
    winners: list[tuple[int, int]] = []

    def contend(me: int) -> None:
        start.wait()
        winners.extend(
            (offset, me)
            for offset in range(0, 4000, 8)
            if m.compare_exchange(offset, file.word(offset), me) == file.word(offset)
        )

    with m.pin():  # no drop comes between
        workers = [threading.Thread(target=contend, args=(me,)) for me in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(offset for offset, _ in winners) == list(range(0, 4000, 8))
        assert all(m.load(offset) == me for offset, me in winners)


@pytest.mark.parametrize("offset", [1, 4, 7, 9, PAGESIZE - 4, 40 * PAGESIZE + 1])
def test_misaligned_offsets_raise(m: ScratchMap, offset: int) -> None:
    for use in (
        lambda: m.load(offset),
        lambda: m.store(offset, 1),
        lambda: m.compare_exchange(offset, 1, 2),
    ):
        with pytest.raises(ValueError, match=f"offset {offset} is misaligned: .* multiple of 8"):
            use()


@pytest.mark.parametrize("offset", [-8, -1, 10**9, 2**63 - 1, 2**63, -(2**63), 2**70, -(2**70)])
def test_offsets_out_of_range_raise(m: ScratchMap, offset: int) -> None:
    for use in (
        lambda: m.load(offset),
        lambda: m.store(offset, 1),
        lambda: m.compare_exchange(offset, 1, 2),
    ):
        with pytest.raises(IndexError):
            use()


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, PAGESIZE - 1, PAGESIZE + 7])
def test_a_word_must_lie_in_the_mapping_whole(map_file: MapFile, length: int) -> None:
    m = map_file(length=length)
    fits = length // 8 * 8
    for offset in range(0, fits, 8):
        m.store(offset, m.load(offset))
    with pytest.raises(IndexError, match=rf"mapping's {length}"):
        m.load(fits)
    with pytest.raises(IndexError):
        m.store(fits, 0)


@pytest.mark.parametrize("value", [-1, 2**64, 2**70, -(2**64)])
def test_values_that_are_no_word_raise(m: ScratchMap, file: PatternFile, value: int) -> None:
    for use in (
        lambda: m.store(0, value),
        lambda: m.compare_exchange(0, value, 1),
        lambda: m.compare_exchange(0, file.word(0), value),
    ):
        with pytest.raises(OverflowError, match=r"range\(2\*\*64\)"):
            use()
    assert m[:] == file.data


@pytest.mark.parametrize("wrong", [1.0, "1", b"1", None, [1], object(), np.float64(1)])
def test_what_is_no_int_raises_typeerror(m: ScratchMap, file: PatternFile, wrong: Any) -> None:
    for use in (
        lambda: m.load(wrong),
        lambda: m.store(wrong, 1),
        lambda: m.store(0, wrong),
        lambda: m.compare_exchange(wrong, 1, 2),
        lambda: m.compare_exchange(0, wrong, 2),
        lambda: m.compare_exchange(0, 1, wrong),
    ):
        with pytest.raises(TypeError):
            use()
    assert m[:] == file.data


def test_the_number_of_arguments_is_checked(m: ScratchMap) -> None:
    for use in (
        m.load,
        lambda: m.load(0, 0),  # type: ignore[call-arg]
        lambda: m.store(0),  # type: ignore[call-arg]
        lambda: m.store(0, 1, 2),  # type: ignore[call-arg]
        lambda: m.compare_exchange(0, 1),  # type: ignore[call-arg]
        lambda: m.compare_exchange(0, 1, 2, 3),  # type: ignore[call-arg]
        lambda: m.load(offset=0),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            use()


@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint8, np.int16, bool, np.intp])
def test_ints_of_other_types_are_taken(m: ScratchMap, file: PatternFile, kind: Any) -> None:
    with m.pin():
        assert m.load(kind(0)) == file.word(0)
        m.store(kind(0), kind(1))
        assert m.compare_exchange(kind(0), kind(1), kind(0)) == 1
        assert m.load(0) == 0
    assert type(m.load(kind(0))) is int


@pytest.mark.parametrize(
    "use",
    [
        "m.load(Closing())",
        "m.store(Closing(), 1)",
        "m.store(0, Closing())",
        "m.compare_exchange(0, 1, Closing())",
    ],
)
def test_an_int_whose_index_closes_the_mapping_crashes_nothing(
    engine: str, file: PatternFile, use: str
) -> None:
    run_python(
        f"""
        import sys
        from mapscratch import ScratchMap

        m = ScratchMap(sys.argv[1], engine=sys.argv[2])

        class Closing:
            def __index__(self):
                m.close()
                return 0

        try:
            {use}
        except ValueError as error:
            assert "closed" in str(error)
        else:
            raise SystemExit("stored into memory that is gone")
        """,
        file.path,
        engine,
    )


@pytest.mark.parametrize("arguments", [{"access": mmap.ACCESS_READ}, {"prot": mmap.PROT_READ}])
def test_a_read_only_mapping_takes_no_store(
    map_file: MapFile, file: PatternFile, arguments: dict[str, int]
) -> None:
    m = map_file(**arguments)
    for use in (
        lambda: m.store(0, 1),
        lambda: m.compare_exchange(0, 1, 2),
        lambda: m.__setitem__(0, 1),
        lambda: m.write(b"a"),
        lambda: m.move(0, 8, 8),
        lambda: memoryview(m).__setitem__(0, 1),
    ):
        with pytest.raises(TypeError):
            use()
    assert m.load(0) == file.word(0)
    assert m[:] == file.data
    m.drop()
    with m.pin():
        assert m[:] == file.data


@given(
    offset=st.integers(-(2**66), 2**66) | st.integers(-20, 5000),
    value=st.integers(-(2**66), 2**66) | st.integers(2**64 - 3, 2**64 + 3),
)
def test_any_ints_store_or_raise(
    offset: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "words-of-any-ints"
    file = make_file(path, 1.1, seed=3)
    with ScratchMap(path, engine="dontneed") as m:
        is_word = 0 <= offset <= len(m) - 8 and offset % 8 == 0
        if is_word and 0 <= value <= LARGEST:
            m.store(offset, value)
            assert m.load(offset) == value
        else:
            with pytest.raises((IndexError, ValueError, OverflowError)):
                m.store(offset, value)
            assert m[:] == file.data
