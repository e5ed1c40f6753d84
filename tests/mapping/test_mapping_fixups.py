# SPDX-License-Identifier: Apache-2.0
"""Page-in fixups: made before anybody sees the page, each time that it comes back."""

from __future__ import annotations

import random
import threading
from array import array
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.files import PatternFile, make_file

from mapscratch import EngineUnavailable, Relocate, ScratchMap, Words

BIAS = 0x7F12_3456_7000


def test_words_are_there_at_every_page_in(lazyfree: str, file: PatternFile) -> None:
    wanted = {0: 1, 8: 2**64 - 1, PAGESIZE - 8: 3, PAGESIZE: 4, 17 * PAGESIZE + 64: 5}
    expected = bytearray(file.data)
    for offset, value in wanted.items():
        expected[offset : offset + 8] = value.to_bytes(8, "little")
    with ScratchMap(file.path, fixup=Words(wanted), engine=lazyfree) as m:
        assert m[:] == expected
        m[:] = bytes(len(m))
        assert m.drop() == file.pages
        assert m[:] == expected
        m.reclaim()
        assert m[:] == expected
        assert m.counts().rebuilt >= file.pages
    assert file.is_intact()


def test_relocation_adds_the_bias_to_the_files_words(lazyfree: str, file: PatternFile) -> None:
    offsets = list(range(0, 3 * PAGESIZE, 24))
    with ScratchMap(file.path, fixup=Relocate(BIAS, offsets), engine=lazyfree) as m:
        for _ in range(2):
            for offset in offsets:
                assert m.load(offset) == (file.word(offset) + BIAS) % 2**64
            assert m.load(8) == file.word(8)
            m.drop()


def test_offsets_count_from_the_mappings_start(lazyfree: str, file: PatternFile) -> None:
    with ScratchMap(file.path, offset=3 * PAGESIZE, fixup=Words({8: 77}), engine=lazyfree) as m:
        assert m.load(8) == 77
        assert m.load(0) == file.word(3 * PAGESIZE)


def test_the_first_and_the_last_word(lazyfree: str, file: PatternFile) -> None:
    last = len(file.data) // 8 * 8 - 8
    with ScratchMap(file.path, fixup=Words([0, last], [1, 2]), engine=lazyfree) as m:
        assert (m.load(0), m.load(last)) == (1, 2)
        assert m[last + 8 :] == file.data[last + 8 :]


def test_a_read_only_mapping_has_fixups_too(lazyfree: str, file: PatternFile) -> None:
    with ScratchMap(file.path, access=1, fixup=Words({0: 9}), engine=lazyfree) as m:
        assert m.load(0) == 9
        m.drop()
        assert m.load(0) == 9


def test_no_thread_ever_sees_a_page_without_its_fixups(lazyfree: str, file: PatternFile) -> None:
    offsets = list(range(0, 40 * PAGESIZE, 512))
    wrong: list[tuple[int, int]] = []
    with ScratchMap(file.path, fixup=Relocate(BIAS, offsets), engine=lazyfree) as m:
        view = np.frombuffer(m, np.uint64, 40 * 512)
        expected = np.frombuffer(file.data, np.uint64, 40 * 512).copy()
        expected[::64] += np.uint64(BIAS)
        done = threading.Event()

        def read(view: np.ndarray[Any, Any]) -> None:
            while not done.is_set():
                seen = view.copy()  # without the interpreter's lock
                if not np.array_equal(seen, expected):
                    wrong.append((int(np.argmax(seen != expected)), int(seen[0])))
                    return

        readers = [threading.Thread(target=read, args=(view,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        generator = random.Random(0)
        for _ in range(400):
            first = generator.randrange(40)
            m.drop(first * PAGESIZE, generator.randrange(1, 41 - first) * PAGESIZE)
            m.reclaim(first * PAGESIZE, PAGESIZE)
        done.set()
        for reader in readers:
            reader.join()
        del view, readers, reader
    assert not wrong


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 4 * 512 - 1), st.integers(0, 2**64 - 1), max_size=60))
def test_any_table_of_words(
    tmp_path_factory: pytest.TempPathFactory, table: dict[int, int]
) -> None:
    file = make_file(tmp_path_factory.getbasetemp() / "any-table", 4)
    wanted = {8 * word: value for word, value in table.items()}
    try:
        m = ScratchMap(file.path, fixup=Words(wanted))
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with m:
        for _ in range(2):
            seen = np.frombuffer(m[:], np.uint64).tolist()
            expected = [wanted.get(8 * word, file.word(8 * word)) for word in range(4 * 512)]
            assert seen == expected
            m.drop()


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 8, 16],
        (0, 8, 16),
        range(0, 24, 8),
        array("Q", [0, 8, 16]),
        np.array([0, 8, 16], np.uint64),
        np.array([0, 8, 16], np.int64),
        np.array([0, 1, 8, 1, 16, 1], np.uint64)[::2],
        iter([0, 8, 16]),
    ],
    ids=lambda offsets: type(offsets).__name__,
)
def test_offsets_of_every_kind(offsets: Any) -> None:
    words = Words(offsets, [1, 2, 3])
    assert words.offsets.tolist() == [0, 8, 16]
    assert words.operands.tolist() == [1, 2, 3]
    assert len(words) == 3
    assert repr(words) == "<Words of 3 words>"


def test_a_dictionary_may_be_in_any_order() -> None:
    words = Words({16: 3, 0: 1, 8: 2})
    assert (words.offsets.tolist(), words.operands.tolist()) == ([0, 8, 16], [1, 2, 3])


def test_relocate_knows_its_bias() -> None:
    fixup = Relocate(0x1000, [8, 16])
    assert fixup.load_bias == 0x1000
    assert fixup.operands.tolist() == [0x1000] * 2
    assert repr(fixup) == "<Relocate of 2 words by 0x1000>"


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "too few values": (lambda: Words([0, 8], [1]), ValueError, "2 offsets, but 1 values"),
    "too many values": (lambda: Words([0], [1, 2]), ValueError, "1 offsets, but 2 values"),
    "no values": (lambda: Words([0]), ValueError, "values are missing"),
    "values twice": (lambda: Words({0: 1}, [1]), ValueError, "already has the values"),
    "negative value": (
        lambda: Words({0: -1}),
        OverflowError,
        "int|range|long|float|large|unsigned",
    ),
    "large value": (
        lambda: Words({0: 2**64}),
        OverflowError,
        "int|range|long|float|large|unsigned",
    ),
    "negative offset": (
        lambda: Words([-8], [1]),
        OverflowError,
        "int|range|long|float|large|unsigned",
    ),
    "value of no int": (lambda: Words({0: "a"}), TypeError, "int|range|long|float|large|unsigned"),  # type: ignore[dict-item]
    "offset of no int": (
        lambda: Words([0.5], [1]),
        TypeError,
        "int|range|long|float|large|unsigned",
    ),  # type: ignore[list-item]
    "narrow buffer": (lambda: Words(np.array([0], np.uint32), [1]), ValueError, "8 bytes"),
    "negative bias": (
        lambda: Relocate(-1, [0]),
        OverflowError,
        "int|range|long|float|large|unsigned",
    ),
    "large bias": (
        lambda: Relocate(2**64, [0]),
        OverflowError,
        "int|range|long|float|large|unsigned",
    ),
    "bias of no int": (
        lambda: Relocate(1.5, [0]),
        TypeError,
        "int|range|long|float|large|unsigned",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_tables_raise(case: tuple[Any, type[Exception], str]) -> None:
    make, error, text = case
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    "offsets",
    [[4], [1, 8], [8, 0], [8, 8], [0, 40 * PAGESIZE + 8000], [2**63], [41 * PAGESIZE]],
    ids=str,
)
def test_offsets_that_do_not_fit_raise_when_it_is_mapped(
    lazyfree: str, file: PatternFile, offsets: list[int]
) -> None:
    with pytest.raises(ValueError, match="multiples of 8 inside the mapping, in ascending order"):
        ScratchMap(file.path, fixup=Words(offsets, [1] * len(offsets)), engine=lazyfree)


def test_a_word_over_the_end_of_the_file_raises(lazyfree: str, file: PatternFile) -> None:
    for length in (1, 7, 8, 12):
        last = length // 8 * 8
        with pytest.raises(ValueError, match=f"offset {last}"):
            ScratchMap(file.path, length=length, fixup=Words({last: 1}), engine=lazyfree)


def test_no_words_at_all_are_a_fixup(lazyfree: str, file: PatternFile) -> None:
    with ScratchMap(file.path, fixup=Words({}), engine=lazyfree) as m:
        assert m[:] == file.data


def test_an_engine_without_page_in_fixups_says_so(file: PatternFile) -> None:
    with pytest.raises(EngineUnavailable, match="'dontneed': it has no page-in fixups"):
        ScratchMap(file.path, fixup=Words({0: 1}), engine="dontneed")
