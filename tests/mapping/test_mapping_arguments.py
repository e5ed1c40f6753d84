# SPDX-License-Identifier: Apache-2.0
"""How a ScratchMap is made: every kind of file and argument, right or wrong, on each engine."""

from __future__ import annotations

import errno
import io
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest
from support.errors import raises_errno
from support.files import PatternFile, make_file
from support.interpreter import run_python

from mapscratch import ScratchMap, Words


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class PathLike:
    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> str | bytes:
        return self.path


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_a_descriptor_may_be_closed_afterwards(engine: str, file: PatternFile, flags: int) -> None:
    with opened(file.path, flags) as descriptor:
        m = ScratchMap(descriptor, engine=engine)
        os.fstat(descriptor)  # ours to close, and still open
    m.store(0, 1)
    m.drop()
    assert m[:] == file.data
    assert m.size() == len(file.data)
    m.close()


def test_path_pathlike_and_open_files_are_taken(engine: str, file: PatternFile) -> None:
    with file.path.open("rb") as source, file.path.open("r+b", buffering=0) as raw:
        for what in (str(file.path), file.path, PathLike(str(file.path)), source, raw):
            before = descriptors()
            with ScratchMap(what, engine=engine) as m:
                assert m[:] == file.data
            assert descriptors() == before
        assert not source.closed
        assert source.read(5) == file.data[:5]


def test_a_path_of_bytes_behind_an_interface_is_taken(engine: str, file: PatternFile) -> None:
    with ScratchMap(PathLike(os.fsencode(file.path)), engine=engine) as m:
        assert m[:] == file.data


def test_a_name_that_is_no_text_is_taken(engine: str, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff"))
    file = make_file(path, 2)
    with opened(path) as descriptor:
        for what in (path, str(path), descriptor):
            with ScratchMap(what, engine=engine) as m:
                assert m[:] == file.data
                assert "caf\\xe9" in repr(m).replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, slice(None)),
        ({"length": 1}, slice(0, 1)),
        ({"length": PAGESIZE + 1}, slice(0, PAGESIZE + 1)),
        ({"offset": PAGESIZE}, slice(PAGESIZE, None)),
        ({"offset": 40 * PAGESIZE}, slice(40 * PAGESIZE, None)),
        ({"offset": 17 * PAGESIZE, "length": 77}, slice(17 * PAGESIZE, 17 * PAGESIZE + 77)),
    ],
)
def test_any_part_of_the_file_is_mapped(
    engine: str, file: PatternFile, arguments: dict[str, int], expected: slice
) -> None:
    with ScratchMap(file.path, engine=engine, **arguments) as m:
        data = file.data[expected]
        assert len(m) == len(data)
        assert m.size() == len(file.data)
        for _ in range(2):
            assert m[:] == data
            m[0:1] = b"\0"
            assert m.drop() >= 1


def test_behind_the_end_of_the_file_is_nothing_but_zeros(engine: str, tmp_path: Path) -> None:
    file = make_file(tmp_path / "partial", 2.5)
    with ScratchMap(file.path, engine=engine) as m, pytest.raises(IndexError):
        m[len(file.data)]
    # Grown afterwards, to the end of the page: the mapping's length stays.
    with ScratchMap(file.path, engine=engine) as m:
        os.truncate(file.path, 3 * PAGESIZE)
        assert len(m) == len(file.data)
        assert m[:] == file.data


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": -1},
        {"offset": -1},
        {"offset": -PAGESIZE},
        {"offset": 1},
        {"offset": PAGESIZE // 2},
        {"offset": PAGESIZE + 8},
        {"length": 10**9},
        {"length": 41 * PAGESIZE},
        {"offset": 41 * PAGESIZE},
        {"offset": 40 * PAGESIZE, "length": PAGESIZE},
        {"length": 2**63},
        {"offset": 2**64},
        {"length": 1.5},
        {"offset": "0"},
        {"length": None},
    ],
    ids=str,
)
def test_wrong_places_raise_what_the_standard_raises(
    engine: str, file: PatternFile, arguments: dict[str, Any]
) -> None:
    before = descriptors()
    with opened(file.path) as descriptor:
        named = {"length": 0, "flags": mmap.MAP_PRIVATE, "prot": 3} | arguments
        with pytest.raises(Exception) as expected:
            mmap.mmap(descriptor, **named)
        with pytest.raises(expected.type):
            ScratchMap(descriptor, engine=engine, **arguments)
    with pytest.raises(expected.type):
        ScratchMap(file.path, engine=engine, **arguments)
    assert descriptors() == before


def test_an_empty_file_raises_valueerror(engine: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError):
        ScratchMap(tmp_path / "empty", engine=engine)
    with pytest.raises(ValueError):
        ScratchMap(tmp_path / "empty", length=5, engine=engine)


def test_a_file_that_is_not_there_or_not_open_to_us(engine: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScratchMap(tmp_path / "missing", engine=engine)
    with pytest.raises(ValueError):
        ScratchMap("a\0b", engine=engine)
    file = make_file(tmp_path / "written", 1)
    with opened(file.path, os.O_WRONLY) as write_only, pytest.raises(PermissionError):
        ScratchMap(write_only, engine=engine)
    with (
        opened(file.path, os.O_PATH) as path_only,
        raises_errno(errno.EBADF),
    ):
        ScratchMap(path_only, engine=engine)


def test_closed_descriptors_and_files_raise(engine: str, file: PatternFile) -> None:
    with opened(file.path) as descriptor:
        pass
    with raises_errno(errno.EBADF):
        ScratchMap(descriptor, engine=engine)
    with file.path.open("rb") as source:
        pass
    with pytest.raises(ValueError):
        ScratchMap(source, engine=engine)
    with pytest.raises(io.UnsupportedOperation):
        ScratchMap(io.BytesIO(b"abc"), engine=engine)  # type: ignore[arg-type]
    for huge in (2**31, 2**70):
        with pytest.raises(OverflowError):
            ScratchMap(huge, engine=engine)


@pytest.mark.parametrize("descriptor", [-1, -2, -(2**40)])
def test_negative_descriptors_are_not_anonymous_memory(engine: str, descriptor: int) -> None:
    with pytest.raises(ValueError, match="anonymous"):
        ScratchMap(descriptor, 4096, engine=engine)


@pytest.mark.parametrize("what", [None, 1.5, bytearray(b"/etc/passwd"), object(), [3]])
def test_what_is_no_file_raises_typeerror(engine: str, what: Any) -> None:
    with pytest.raises(TypeError, match="a descriptor, a path or an open file"):
        ScratchMap(what, engine=engine)


def test_directories_pipes_sockets_and_devices_raise(engine: str, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        ScratchMap(tmp_path, engine=engine)
    with opened(tmp_path) as directory, pytest.raises(IsADirectoryError):
        ScratchMap(directory, engine=engine)
    read, write = os.pipe()
    near, far = socket.socketpair()
    with near, far, open(read, "rb"), open(write, "wb"):
        for what in (read, write, near, near.fileno(), "/dev/null", "/dev/zero"):
            with pytest.raises(ValueError, match="only a regular file"):
                ScratchMap(what, 4096, engine=engine)


def test_a_file_in_memory_is_a_file(engine: str) -> None:
    descriptor = os.memfd_create("scratch", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, b"0123456789" * 1000)
        with ScratchMap(descriptor, engine=engine) as m:
            m.store(0, 0)
            m.drop()
            assert m[:12] == b"012345678901"
    finally:
        os.close(descriptor)


def test_a_file_of_proc_that_pretends_to_be_empty_raises(engine: str) -> None:
    with pytest.raises(ValueError):
        ScratchMap("/proc/self/status", engine=engine)


@pytest.mark.parametrize(
    "flags",
    [
        0,
        mmap.MAP_SHARED,
        mmap.MAP_SHARED | mmap.MAP_PRIVATE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        mmap.MAP_SHARED | mmap.MAP_ANONYMOUS,
        0x08,  # MAP_DROPPABLE
    ],
)
def test_shared_and_anonymous_mappings_are_refused(
    engine: str, file: PatternFile, flags: int
) -> None:
    with pytest.raises(ValueError, match="a scratch mapping is"):
        ScratchMap(file.path, flags=flags, engine=engine)


def test_other_flags_of_a_private_mapping_are_taken(engine: str, file: PatternFile) -> None:
    for flag in (mmap.MAP_POPULATE, mmap.MAP_DENYWRITE, mmap.MAP_STACK):
        with ScratchMap(file.path, flags=mmap.MAP_PRIVATE | flag, engine=engine) as m:
            m.store(8, 1)
            m.drop()
            assert m[:] == file.data


READ, WRITE, EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC


@pytest.mark.parametrize(
    "arguments",
    [
        {"access": mmap.ACCESS_WRITE},
        {"access": 7},
        {"access": -1},
        {"prot": 0},
        {"prot": WRITE},
        {"prot": EXECUTE},
        {"access": mmap.ACCESS_READ, "prot": READ | EXECUTE},
    ],
    ids=str,
)
def test_access_and_protection_that_make_no_sense_are_refused(
    engine: str, file: PatternFile, arguments: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"ACCESS_COPY|PROT_READ|access or prot"):
        ScratchMap(file.path, engine=engine, **arguments)
    assert file.is_intact()


@pytest.mark.parametrize(
    ("arguments", "is_writable"),
    [
        ({}, True),
        ({"access": mmap.ACCESS_COPY}, True),
        ({"access": mmap.ACCESS_DEFAULT}, True),
        ({"prot": READ | WRITE}, True),
        ({"prot": READ | WRITE | EXECUTE}, True),
        ({"access": mmap.ACCESS_READ}, False),
        ({"prot": READ}, False),
        ({"access": mmap.ACCESS_READ, "prot": READ}, False),
        ({"access": mmap.ACCESS_COPY, "prot": READ}, False),
        ({"prot": READ | EXECUTE}, False),
    ],
    ids=str,
)
def test_access_and_protection_mean_what_they_say(
    engine: str, file: PatternFile, arguments: dict[str, int], is_writable: bool
) -> None:
    with ScratchMap(file.path, engine=engine, **arguments) as m:
        assert memoryview(m).readonly is not is_writable
        for _ in range(2):
            if is_writable:
                m.store(0, 1)
                m[5 * PAGESIZE] = 0
            assert m[-9:] == file.data[-9:]
            m.drop()
            assert m[:] == file.data
        with m.pin():
            assert m[:] == file.data


def test_a_positional_order_like_the_standards(engine: str, file: PatternFile) -> None:
    arguments = (100, mmap.MAP_PRIVATE, READ | WRITE, mmap.ACCESS_DEFAULT, PAGESIZE)
    with opened(file.path) as descriptor:
        with ScratchMap(descriptor, *arguments, engine=engine) as m:
            assert m[:] == file.data[PAGESIZE : PAGESIZE + 100]
        with pytest.raises(TypeError):
            ScratchMap(descriptor, *arguments, None, "auto")  # type: ignore[misc]


WRONG_CHOICES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown engine": ({"engine": "fast"}, ValueError, "there are kernel, lazyfree, dontneed"),
    "no engine": ({"engine": ""}, ValueError, "no such engine: ''"),
    "engine of no string": ({"engine": None}, ValueError, "no such engine: None"),
    "unknown guarantee": ({"guarantee": {"fast"}}, ValueError, "'no-swap', 'system-calls'"),
    "one guarantee misspelt": ({"guarantee": "noswap"}, ValueError, "no such guarantee: 'noswap'"),
    "guarantee of no collection": ({"guarantee": 5}, TypeError, "not iterable"),
    "fixup of no fixup": ({"fixup": {0: 1}}, TypeError, "Words, Relocate"),
    "fixup class": ({"fixup": Words}, TypeError, "not type"),
    "unknown argument": ({"madvise": 1}, TypeError, "madvise"),
}


@pytest.mark.parametrize("case", WRONG_CHOICES.values(), ids=WRONG_CHOICES.keys())
def test_wrong_choices_say_which_there_are(
    file: PatternFile, case: tuple[dict[str, Any], type[Exception], str]
) -> None:
    arguments, error, text = case
    before = descriptors()
    with pytest.raises(error, match=text):
        ScratchMap(file.path, **arguments)
    assert descriptors() == before


def test_thousands_of_failures_and_successes_leave_nothing(engine: str, file: PatternFile) -> None:
    def count(use: Callable[[], object]) -> tuple[int, int]:
        for _ in range(50):
            use()
        return len(descriptors()), len(Path("/proc/self/maps").read_text().splitlines())

    def make_and_forget() -> None:
        m = ScratchMap(file.path, engine=engine)
        m.store(0, 1)
        with m.pin():
            m.load(8)
        del m

    def fail() -> None:
        with raises_errno(errno.EINVAL):
            ScratchMap(file.path, offset=1, engine=engine)

    for use in (make_and_forget, fail):
        before = count(use)
        after = min(count(use) for _ in range(4))
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 3  # of malloc's arenas, say


def test_no_thread_or_descriptor_stays_behind(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import gc, os, sys
        from mapscratch import ScratchMap, _native

        def now():
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

        before = now()
        for _ in range(5):
            maps = [ScratchMap(sys.argv[1], engine=sys.argv[2]) for _ in range(4)]
            for m in maps:
                m.store(0, 1)
            assert now()[1] <= before[1] + 1, "one thread a process"
            maps.pop().close()
            del maps, m
            gc.collect()
            # A thread that has been joined is listed for a moment longer.
            assert any(now() == before for _ in range(10_000)), (now(), before)
            assert _native.pager_thread() == 0
        """,
        file.path,
        engine,
    )


def test_an_offset_within_a_page_says_what_it_may_be(engine: str, file: PatternFile) -> None:
    with pytest.raises(OSError, match=f"offset=100.*multiple of {PAGESIZE}.*mapscratch.array") as e:
        ScratchMap(file.path, engine=engine, offset=100)
    assert e.value.filename == str(file.path)
