# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: SIM115 - the tests close what these functions open
"""The file that a user names: paths, open files, what is none, and what changes meanwhile."""

from __future__ import annotations

import bz2
import codecs
import fileinput
import gzip
import io
import lzma
import os
import pickle
import socket
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.interpreter import run_python

import mapscratch
from mapscratch import elf

Values = np.ndarray[Any, np.dtype[Any]]
Open = Callable[[Path], Any]

ITEMS = 5000
STORED = np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype("<i2")
BYTES = STORED.tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def decoded(file: Any) -> mapscratch.ScratchArray:
    return mapscratch.array(file, "f4", source="<i2")


# Files whose descriptor is not what they read


def _packed(module: Any, mode: str = "rb") -> Open:
    def open_packed(path: Path) -> Any:
        packed = path.with_suffix(".packed")
        packed.write_bytes(module.compress(path.read_bytes()))
        return module.open(packed, mode)

    return open_packed


def _member_of_zip(path: Path) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "member")  # stored as it is, but not where the file begins
    return zipfile.ZipFile(path.with_suffix(".zip")).open("member")


def _member_of_tar(path: Path) -> Any:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        archive.add(path, "member")
    with tarfile.open(path.with_suffix(".tar")) as archive:
        return archive.extractfile("member")


def _of_a_socket(path: Path) -> Any:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(path.read_bytes())
    with ours:
        return ours.makefile("rb")


class _Backwards(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)[::-1]


class _Window(io.FileIO):
    """A part of a file: it reads from its own beginning on."""

    def seek(self, position: int, whence: int = 0) -> int:
        return super().seek(position + 10 * (whence == 0), whence) - 10


class _Inverted(io.FileIO):
    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer) or 0
        buffer[:size] = bytes(255 - byte for byte in buffer[:size])
        return size


def _fsspec(**how: Any) -> Open:
    def open_local(path: Path) -> Any:
        fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
        packed = path.with_suffix(".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        return fsspec.open(str(packed if how else path), "rb", **how).open()

    return open_local


READ_SOMETHING_ELSE: dict[str, Open] = {
    "gzip": _packed(gzip),
    "gzip as text": _packed(gzip, "rt"),
    "bz2": _packed(bz2),
    "lzma": _packed(lzma),
    "a buffer over gzip": lambda path: io.BufferedReader(_packed(gzip)(path)),
    "a buffer over a buffer over gzip": lambda path: io.BufferedReader(
        io.BufferedReader(_packed(gzip)(path))  # type: ignore[arg-type]
    ),
    "a member of a zip file": _member_of_zip,
    "a member of a tar file": _member_of_tar,
    "a socket": _of_a_socket,
    "bytes in memory": lambda path: io.BytesIO(path.read_bytes()),
    "text in memory": lambda path: io.StringIO("1234"),
    "a codec": lambda path: codecs.open(str(path), "rb", "latin-1"),
    "many files after each other": lambda path: fileinput.input(str(path)),
    "a buffer that reads in its own way": lambda path: _Backwards(io.FileIO(path)),
    "a raw file that reads in its own way": lambda path: io.BufferedReader(_Inverted(path)),
    "a window in a file": _Window,
    "fsspec, packed": _fsspec(compression="gzip"),
}


@pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")
@pytest.mark.parametrize("take", [decoded, mapscratch.ScratchMap], ids=["array", "ScratchMap"])
@pytest.mark.parametrize("open_file", READ_SOMETHING_ELSE.values(), ids=READ_SOMETHING_ELSE.keys())
def test_what_reads_something_else_is_refused(
    lazyfree: str, path: Path, closing: ExitStack, open_file: Open, take: Any
) -> None:
    file = open_file(path)
    closing.callback(file.close)
    with pytest.raises(io.UnsupportedOperation, match=r"into a file.*give that|write them to a fi"):
        take(file)


# Files that read their descriptor


def _with_content(file: Any) -> Any:
    for start in range(0, len(BYTES), 100):  # some of it stays in the buffer
        file.write(BYTES[start : start + 100])
    return file


READ_THE_FILE: dict[str, Open] = {
    "raw": lambda path: open(path, "rb", buffering=0),
    "buffered": lambda path: open(path, "rb"),
    "for both": lambda path: open(path, "r+b"),
    "for appending": lambda path: open(path, "a+b"),
    "text": lambda path: open(path, encoding="latin-1"),
    "a descriptor": lambda path: open(os.open(path, os.O_RDONLY), "rb"),
    "by an opener": lambda path: open("x", "rb", opener=lambda _, flags: os.open(path, flags)),
    "a URL": lambda path: urllib.request.urlopen(path.as_uri()),
    "fsspec": _fsspec(),
    "at the end": lambda path: _at_the_end(open(path, "rb")),
    "written": lambda path: _with_content(open(path, "w+b")),
    "written at random": lambda path: _with_content(io.BufferedRandom(io.FileIO(path, "w+"))),
    "written as text": lambda path: _written_as_text(open(path, "w+", encoding="latin-1")),
    "temporary": lambda path: _with_content(tempfile.TemporaryFile()),
    "temporary with a name": lambda path: _with_content(tempfile.NamedTemporaryFile()),
    "temporary in memory": lambda path: _with_content(tempfile.SpooledTemporaryFile()),
    "temporary, spooled": lambda path: _with_content(tempfile.SpooledTemporaryFile(100)),
}


def _at_the_end(file: Any) -> Any:
    file.seek(0, os.SEEK_END)
    return file


def _written_as_text(file: Any) -> Any:
    file.reconfigure(newline="")
    file.write(BYTES.decode("latin-1"))
    return file


@pytest.mark.parametrize("open_file", READ_THE_FILE.values(), ids=READ_THE_FILE.keys())
def test_all_that_was_written_is_mapped(
    lazyfree: str, path: Path, closing: ExitStack, open_file: Open
) -> None:
    file = open_file(path)
    closing.callback(file.close)
    ours = decoded(file)
    mapped = closing.enter_context(mapscratch.ScratchMap(file, engine=lazyfree))
    file.flush()  # that nothing is left for later
    np.testing.assert_array_equal(np.asarray(ours + 0), STORED.astype("f4"))
    assert mapped[:] == BYTES


@pytest.mark.parametrize("mode", ["w+b", "w+"])
def test_what_is_flushed_before_is_no_change(lazyfree: str, path: Path, mode: str) -> None:
    with open(path, mode, encoding=None if "b" in mode else "latin-1") as file:
        (_with_content if "b" in mode else _written_as_text)(file)
        ours = decoded(file)
        assert len(ours) == ITEMS
    np.testing.assert_array_equal(np.asarray(ours + 0), STORED.astype("f4"))


def test_a_position_stays_and_means_nothing(lazyfree: str, path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(100)
        assert len(decoded(file)) == ITEMS
        assert file.tell() == 100
        assert file.read(4) == BYTES[100:104]


def test_a_file_for_writing_only(lazyfree: str, path: Path) -> None:
    with open(path, "ab") as file:
        for take in (decoded, mapscratch.ScratchMap):
            with pytest.raises(io.UnsupportedOperation, match=r"writing only.*'rb'"):
                take(file)


def test_a_closed_file(lazyfree: str, path: Path) -> None:
    with open(path, "rb") as file:
        pass
    for take in (decoded, mapscratch.ScratchMap):
        with pytest.raises(ValueError, match="closed: open it again, or give its path"):
            take(file)


def _in_a_zip_file(path: Path) -> Any:
    _member_of_zip(path).close()
    return zipfile.Path(path.with_suffix(".zip"), "member")


IN_NO_FILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bytes that can be changed": (lambda path: bytearray(BYTES), r"in memory already.*frombuffer"),
    "a view of bytes": (lambda path: memoryview(BYTES), r"in memory already.*frombuffer"),
    "an array": (lambda path: STORED, r"in memory already.*frombuffer"),
    "a place in a zip file": (_in_a_zip_file, r"zipfile.*Path: unpack it into a file"),
    "nothing": (lambda path: None, "not NoneType"),
    "a number": (lambda path: 7, "not int"),
}


@pytest.mark.parametrize(("make", "message"), IN_NO_FILE.values(), ids=IN_NO_FILE.keys())
def test_what_names_no_file_says_what_to_do(
    lazyfree: str, path: Path, make: Callable[[Path], Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        decoded(make(path))


def test_only_a_name_of_the_same_file_goes_into_a_pickle(lazyfree: str, path: Path) -> None:
    """A name that is relative to something else, or of a file that was replaced, misleads."""
    with open("numbers", "rb", opener=lambda _, flags: os.open(path, flags)) as file:
        nameless = decoded(file)
    with pytest.raises(TypeError, match="make the array of a path"):
        pickle.dumps(nameless)
    with open(os.fsencode(path), "rb") as file:
        named = decoded(file)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(named))), STORED)


# Paths


class _NamedByBytes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


@pytest.mark.parametrize("spell", [os.fsencode, os.fspath, _NamedByBytes], ids=lambda s: s.__name__)
def test_a_path_however_it_is_given(lazyfree: str, tmp_path: Path, spell: Any) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))  # no UTF-8
    path.write_bytes(BYTES)
    ours = decoded(spell(path))
    np.testing.assert_array_equal(np.asarray(ours), STORED)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(ours))), STORED)
    with mapscratch.ScratchMap(spell(path), engine=lazyfree) as mapped:
        assert mapped[:] == BYTES
    mapscratch.save(spell(path.with_suffix(".npy")), ours)
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), STORED)
    ours.tofile(spell(path.with_suffix(".raw")))
    assert path.with_suffix(".raw").read_bytes() == STORED.astype("f4").tobytes()


def test_a_library_named_by_bytes(tmp_path: Path) -> None:
    library = elf.default_libraries()[0]
    name = os.fsencode(library)
    assert elf.relocations(name).path == library
    assert elf.survey(name).path == library


# What is no file


def _a_pipe(path: Path) -> str:
    os.mkfifo(path.with_suffix(".pipe"))
    return str(path.with_suffix(".pipe"))


def _a_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path.with_suffix(".socket")))
    return str(path.with_suffix(".socket"))


NO_FILES: dict[str, tuple[Callable[[Path], str], str]] = {
    "a pipe": (_a_pipe, r"pipe is a pipe .*copy"),
    "a socket": (_a_socket, r"socket is a socket .*copy"),
    "a device without an end": (lambda path: "/dev/zero", r"zero is a character device .*copy"),
    "a terminal": (lambda path: "/dev/tty", r"tty is a character device .*copy"),
    "a folder": (lambda path: str(path.parent), "directory.*give a file in it"),
}


@pytest.mark.parametrize(("make", "message"), NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_file_is_refused_and_not_opened(
    lazyfree: str, path: Path, make: Callable[[Path], str], message: str
) -> None:
    """Opening a pipe that nobody writes to waits for ever."""
    name = make(path)
    for take in (decoded, mapscratch.ScratchMap, elf.relocations, elf.survey):
        with pytest.raises((ValueError, IsADirectoryError), match=message):
            take(name)
    with pytest.raises(elf.ElfError, match=message):
        elf.convert(name, path.with_suffix(".converted"))


@pytest.mark.parametrize("command", ["survey NAME", "convert NAME -o OUT", "compare NAME"])
def test_commands_refuse_a_pipe(path: Path, command: str) -> None:
    pipe = _a_pipe(path)
    words = [{"NAME": pipe, "OUT": path.with_suffix(".out")}.get(w, w) for w in command.split()]
    ended = run_python(
        "import sys; from mapscratch.cli import main; sys.exit(main(sys.argv[1:]))",
        *words,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"mapscratch: {pipe}" in ended.stderr
    assert "is a pipe and not a regular file" in ended.stderr.replace("\n", " ")


def test_a_descriptor_is_told_how_to_be_a_file(lazyfree: str, path: Path) -> None:
    with open(path, "rb") as file:
        with pytest.raises(TypeError, match=r"open\(descriptor, 'rb', closefd=False\)"):
            decoded(file.fileno())
        whole = mapscratch.ScratchMap(np.int64(file.fileno()))  # as mmap.mmap takes it
        assert whole[:] == path.read_bytes()


def test_an_open_pipe_and_an_open_device(lazyfree: str) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb"):
        for take in (decoded, mapscratch.ScratchMap):
            with pytest.raises(ValueError, match=r"is a pipe .*copy"):
                take(pipe)
    with open("/dev/zero", "rb") as device, pytest.raises(ValueError, match="character device"):
        decoded(device)


# Saving


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::3]], ids=["whole", "strided"])
@pytest.mark.parametrize("buffered", [False, True], ids=["itself", "in a buffer"])
@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=lambda module: module.__name__)
def test_saved_to_a_file_that_packs(
    lazyfree: str, path: Path, module: Any, buffered: bool, view: Any
) -> None:
    """NumPy writes round such a file, to its descriptor, where it looks like an ordinary one."""
    ours = decoded(path)[view]
    packed = path.with_suffix(".packed")

    def open_packed() -> Any:
        file = module.open(packed, "wb")
        return io.BufferedWriter(file) if buffered else file

    with open_packed() as file:
        mapscratch.save(file, ours)
    with module.open(packed) as file:
        np.testing.assert_array_equal(np.load(file), STORED[view])
    with open_packed() as file:
        file.write(b"before")
        ours.tofile(file)
        file.write(b"after")
    with module.open(packed) as file:
        assert file.read() == b"before" + STORED[view].astype("f4").tobytes() + b"after"


def test_saved_to_a_file_that_takes_little_at_a_time(lazyfree: str, path: Path) -> None:
    class Slow(io.RawIOBase):
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            self.taken += bytes(data[:1000])
            return min(1000, len(data))

    slow = Slow()
    decoded(path).tofile(slow)
    assert slow.taken == STORED.astype("f4").tobytes()
