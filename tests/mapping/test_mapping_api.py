# SPDX-License-Identifier: Apache-2.0
"""A ScratchMap is the standard's mmap in everything that is inherited, on each engine."""

from __future__ import annotations

import copy
import gc
import mmap
import os
import pickle
import re
import struct
import weakref
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from conftest import MapFile
from support.files import PatternFile, make_file

from mapscratch import ScratchMap


class Standard(mmap.mmap):
    """A subclass, because in CPython iterating over a subclass of mmap gives ints, not bytes."""


@pytest.fixture
def standard(file: PatternFile) -> mmap.mmap:
    """What everything is compared with."""
    with file.path.open("rb") as source:
        return Standard(source.fileno(), 0, access=mmap.ACCESS_COPY)


READERS: dict[str, Callable[[mmap.mmap], object]] = {
    "len": len,
    "size": lambda m: m.size(),
    "bytes": bytes,
    "index": lambda m: [m[0], m[-1], m[PAGESIZE], m[PAGESIZE - 1]],
    "slice": lambda m: [m[:], m[5:70000], m[-100:], m[::4097], m[10:0:-3], m[70:70]],
    "iteration": lambda m: list(m)[:9000],
    "reversed": lambda m: list(reversed(m))[:9000],
    "contains": lambda m: [m[77] in m, 0 in m],
    "memoryview": lambda m: bytes(memoryview(m)[100:20000]),
    "memoryview of words": lambda m: memoryview(m)[: 5 * PAGESIZE].cast("Q").tolist(),
    "numpy": lambda m: int(np.frombuffer(m, dtype=np.uint8).astype(np.uint64).sum()),
    "numpy words": lambda m: np.frombuffer(m, "<u8", count=5000, offset=8).tolist(),
    "re.search": lambda m: re.search(rb"[A-Z]{4}", m).span(),
    "re.finditer": lambda m: [match.start() for match in re.finditer(rb"ab", m)],
    "struct": lambda m: struct.unpack_from("<IQH", m, 3 * PAGESIZE - 5),
    "find": lambda m: [m.find(m[50000:50010]), m.find(b"\0"), m.find(m[9:12], 9), m.find(b"")],
    "rfind": lambda m: [m.rfind(m[50000:50010]), m.rfind(b"\0"), m.rfind(m[9:12], 0, 500)],
    "read": lambda m: [m.seek(3), m.read(10), m.tell(), m.read(5000), m.read(), m.read(), m.tell()],
    "read_byte": lambda m: [m.seek(PAGESIZE), m.read_byte(), m.read_byte(), m.tell()],
    "readline": lambda m: [m.seek(0), m.readline(), m.readline(), m.tell()],
    "seek": lambda m: [m.seek(0), m.seek(-7, os.SEEK_END), m.tell(), m.read(), m.seek(-5, 1)],
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_reading_is_the_standards(
    reader: Callable[[mmap.mmap], object], m: ScratchMap, standard: mmap.mmap
) -> None:
    expected = reader(standard)
    # seek() returns None before Python 3.13; what it does is seen by tell().
    assert reader(m) == expected
    m.drop()
    assert reader(m) == expected


ERRORS: dict[str, Callable[[mmap.mmap], object]] = {
    "index behind the end": lambda m: m[len(m)],
    "index before the start": lambda m: m[-len(m) - 1],
    "index of no int": lambda m: m["a"],  # type: ignore[call-overload]
    "seek before the start": lambda m: m.seek(-1),
    "seek behind the end": lambda m: m.seek(len(m) + 1),
    "seek from nowhere": lambda m: m.seek(0, 9),
    "read_byte at the end": lambda m: [m.seek(0, 2), m.read_byte()],
    "write_byte at the end": lambda m: [m.seek(0, 2), m.write_byte(1)],
    "write behind the end": lambda m: [m.seek(-2, 2), m.write(b"abc")],
    "assign another length": lambda m: m.__setitem__(slice(0, 3), b"ab"),
    "assign a large byte": lambda m: m.__setitem__(0, 256),
    "assign behind the end": lambda m: m.__setitem__(len(m), 1),
    "delete": lambda m: m.__delitem__(0),  # type: ignore[attr-defined]
    "move behind the end": lambda m: m.move(len(m) - 5, 0, 10),
    "move a negative count": lambda m: m.move(0, 1, -1),
    "unpack behind the end": lambda m: struct.unpack_from("<Q", m, len(m) - 7),
    "numpy behind the end": lambda m: np.frombuffer(m, np.uint8, count=1, offset=len(m)),
    "hash of a bytes": lambda m: {m} == {bytes(m)} or m[1.5],  # type: ignore[call-overload]
}


@pytest.mark.parametrize("wrong", ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_the_standards(
    wrong: Callable[[mmap.mmap], object], m: ScratchMap, standard: mmap.mmap
) -> None:
    with pytest.raises(Exception) as expected:
        wrong(standard)
    with pytest.raises(expected.type):
        wrong(m)


WRITERS: dict[str, Callable[[mmap.mmap], object]] = {
    "item": lambda m: m.__setitem__(70000, 1),
    "slice": lambda m: m.__setitem__(slice(PAGESIZE - 3, PAGESIZE + 3), b"abcdef"),
    "step": lambda m: m.__setitem__(slice(0, 40000, 4000), b"0123456789"),
    "write": lambda m: [m.seek(12345), m.write(b"hello"), m.tell()],
    "write a lot": lambda m: [m.seek(1), m.write(b"x" * 100_000)],
    "write_byte": lambda m: [m.seek(9), m.write_byte(255), m.tell()],
    "move": lambda m: m.move(100, 50_000, 30_000),
    "move overlapping": lambda m: m.move(10, 0, 20_000),
    "memoryview": lambda m: memoryview(m).__setitem__(slice(5, 8), b"abc"),
    "numpy": lambda m: np.frombuffer(m, np.uint8).__setitem__(slice(9, 9000), 7),
    "struct": lambda m: struct.pack_into("<QH", m, 2 * PAGESIZE - 4, 1, 2),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_writing_stays_in_memory_and_is_dropped(
    writer: Callable[[mmap.mmap], object], m: ScratchMap, standard: mmap.mmap, file: PatternFile
) -> None:
    with m.pin():  # what was written lasts until it is compared
        assert writer(m) == writer(standard)
        assert m[:] == standard[:] != file.data
    assert file.is_intact()
    assert m.drop() > 0
    assert m[:] == file.data


def test_no_method_changes_the_file(map_file: MapFile, file: PatternFile) -> None:
    before = file.path.stat()
    m = map_file()
    for use in (*READERS.values(), *WRITERS.values()):
        use(m)
    m.store(0, 1)
    m.compare_exchange(8, m.load(8), 2)
    m.flush()
    m.flush(0, PAGESIZE)
    m.madvise(mmap.MADV_WILLNEED)
    with m.pin(), pytest.raises(TypeError):
        m.resize(PAGESIZE)
    if m.engine != "dontneed":
        m.reclaim()
    m.counts()
    m.drop()
    m[0:3] = b"xyz"
    m.close()
    after = file.path.stat()
    assert file.is_intact()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("newsize", [0, 1, PAGESIZE, 1 << 40, -1])
def test_resize_never_works(m: ScratchMap, file: PatternFile, newsize: int) -> None:
    with pytest.raises(TypeError, match="can't be resized"):
        m.resize(newsize)
    assert file.is_intact()
    assert m[:] == file.data


def test_flush_writes_nothing_back(m: ScratchMap, file: PatternFile) -> None:
    m[0:5] = b"abcde"
    assert m.flush() is None
    assert m.flush(PAGESIZE, PAGESIZE) is None
    assert file.is_intact()


def test_another_mapping_never_sees_a_store(map_file: MapFile, file: PatternFile) -> None:
    mine, other = map_file(), map_file()
    mine.store(0, 1)
    mine[PAGESIZE : 2 * PAGESIZE] = bytes(PAGESIZE)
    assert other[:] == file.data


def test_context_manager_closes(map_file: MapFile) -> None:
    with map_file() as m:
        assert not m.closed
    assert m.closed
    with pytest.raises(ValueError), m:
        pass
    failing = map_file()
    with pytest.raises(ZeroDivisionError), failing:
        raise ZeroDivisionError
    assert failing.closed


def test_weak_references_die_with_it(engine: str, file: PatternFile) -> None:
    m = ScratchMap(file.path, engine=engine)
    died = []
    reference = weakref.ref(m, died.append)
    assert reference() is m
    del m
    gc.collect()
    assert reference() is None
    assert died == [reference]


def test_it_can_be_subclassed(engine: str, file: PatternFile) -> None:
    class Table(ScratchMap):
        __slots__ = ("note", "width")

        def __new__(cls, source: Path, width: int, engine: str) -> Table:
            self = super().__new__(cls, source, engine=engine)
            self.width = width
            return self

        def row(self, number: int) -> bytes:
            return self[number * self.width : (number + 1) * self.width]

    with Table(file.path, 16, engine) as table:
        assert table.row(3) == file.data[48:64]
        assert table.load(8) == file.word(8)
        assert table.drop() >= 0
        assert repr(table).startswith("<Table of ")
        assert isinstance(table, mmap.mmap)


def test_a_view_keeps_it_open_and_working(m: ScratchMap, file: PatternFile) -> None:
    view = memoryview(m)
    array = np.frombuffer(m, np.uint8)
    for attempt in range(3):
        with pytest.raises(BufferError):
            m.close()
        assert not m.closed
        m.store(attempt * PAGESIZE, 1)
        assert m.drop() >= 1
        assert m.load(0) == file.word(0)
        assert bytes(view) == array.tobytes() == file.data
    with m.pin(), pytest.raises(BufferError):
        m.close()
    view.release()
    del array
    m.close()
    assert m.closed


def test_a_view_outlives_the_last_name(engine: str, file: PatternFile) -> None:
    view = memoryview(ScratchMap(file.path, engine=engine))
    gc.collect()
    assert bytes(view) == file.data
    view.release()


def test_it_cannot_be_pickled_or_copied(m: ScratchMap) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="give the file's name"):
            pickle.dumps(m, protocol)
    for copier in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can't be pickled or copied"):
            copier(m)


def test_identity_is_equality(map_file: MapFile) -> None:
    first, second = map_file(), map_file()
    assert first == first  # noqa: PLR0124
    assert first != second
    assert len({first, second, first}) == 2


def test_repr_says_engine_promise_and_place(map_file: MapFile, file: PatternFile) -> None:
    m = map_file(offset=2 * PAGESIZE, length=100)
    text = repr(m)
    assert repr(str(file.path)) in text
    assert "100 bytes at 8192" in text
    assert repr(m.engine) in text
    assert m.guarantees.no_swap in text
    m.close()
    assert repr(m) == f"<ScratchMap of {str(file.path)!r}, closed>"


@pytest.mark.parametrize(
    "advice", ["MADV_NORMAL", "MADV_RANDOM", "MADV_SEQUENTIAL", "MADV_WILLNEED"]
)
def test_harmless_advice_is_taken(m: ScratchMap, file: PatternFile, advice: str) -> None:
    m.madvise(getattr(mmap, advice))
    m.madvise(getattr(mmap, advice), PAGESIZE, 3 * PAGESIZE)
    assert m[:] == file.data


@pytest.mark.parametrize(
    "advice",
    ["MADV_DONTNEED", "MADV_FREE", "MADV_REMOVE", "MADV_DONTFORK", "MADV_DOFORK", "MADV_HUGEPAGE"],
)
def test_advice_that_would_break_the_engine_is_refused(
    m: ScratchMap, file: PatternFile, advice: str
) -> None:
    with pytest.raises(ValueError, match=r"drop\(\), reclaim\(\) or pin\(\)"):
        m.madvise(getattr(mmap, advice))
    assert m[:] == file.data


CLOSED: dict[str, Callable[[ScratchMap], object]] = {
    "load": lambda m: m.load(0),
    "store": lambda m: m.store(0, 1),
    "compare_exchange": lambda m: m.compare_exchange(0, 1, 2),
    "drop": lambda m: m.drop(),
    "drop nothing": lambda m: m.drop(0, 0),
    "reclaim": lambda m: m.reclaim(),
    "pin": lambda m: m.pin().__enter__(),
    "counts": lambda m: m.counts(),
    "guarantees": lambda m: m.guarantees,
    "madvise": lambda m: m.madvise(mmap.MADV_NORMAL),
    "flush": lambda m: m.flush(),
    "len": len,
    "item": lambda m: m[0],
    "slice": lambda m: m[:],
    "assignment": lambda m: m.__setitem__(0, 1),
    "iteration": list,
    "find": lambda m: m.find(b"a"),
    "rfind": lambda m: m.rfind(b"a"),
    "read": lambda m: m.read(),
    "read_byte": lambda m: m.read_byte(),
    "readline": lambda m: m.readline(),
    "seek": lambda m: m.seek(0),
    "tell": lambda m: m.tell(),
    "size": lambda m: m.size(),
    "move": lambda m: m.move(0, 1, 1),
    "write": lambda m: m.write(b"a"),
    "write_byte": lambda m: m.write_byte(1),
    "memoryview": memoryview,
    "enter": lambda m: m.__enter__(),
    "native hooks": lambda m: m._drop(0, PAGESIZE),
    "native counts": lambda m: m._range_counts(),
}


@pytest.mark.parametrize("use", CLOSED.values(), ids=CLOSED.keys())
def test_a_closed_mapping_raises_valueerror(
    map_file: MapFile, use: Callable[[ScratchMap], object]
) -> None:
    m = map_file()
    m.store(0, 1)
    m.close()
    m.close()
    with pytest.raises(ValueError):
        use(m)


def test_a_mapping_that_was_never_made_crashes_nothing(engine: str, file: PatternFile) -> None:
    m = ScratchMap.__new__(ScratchMap, file.path, engine=engine)
    m.__init__()  # type: ignore[misc]
    assert m[:] == file.data
    m.close()
    with pytest.raises((TypeError, ValueError)):
        ScratchMap.__new__(ScratchMap)  # type: ignore[call-arg]


def test_the_files_later_content_is_seen_after_a_drop(map_file: MapFile, file: PatternFile) -> None:
    m = map_file()
    m.store(PAGESIZE, 1)
    with file.path.open("r+b") as writable:
        writable.seek(PAGESIZE)
        writable.write(b"new file")
    m.drop()
    assert m[PAGESIZE : PAGESIZE + 9] == b"new file" + file.data[PAGESIZE + 8 : PAGESIZE + 9]
    assert m[:PAGESIZE] == file.data[:PAGESIZE]


def test_the_file_may_be_deleted(engine: str, tmp_path: Path) -> None:
    file = make_file(tmp_path / "deleted", 3)
    with ScratchMap(file.path, engine=engine) as m:
        file.path.unlink()
        m.store(0, 1)
        m.drop()
        assert m[:] == file.data
