# SPDX-License-Identifier: Apache-2.0
"""Temporary swap, made and removed by the real kernel; others may make swap at the same time."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from support.waiting import eventually

from mapscratch import _native, proc
from mapscratch.lab.rig import machine
from mapscratch.lab.rig.machine.swap import (
    SwapError,
    SwapKind,
    probe_temporary_swap,
    temporary_swap,
)
from mapscratch.proc import SwapArea, active_swaps, count_pages, swap

SIZE = 64 << 20
KINDS: tuple[SwapKind, ...] = get_args(SwapKind)
ZSWAP = Path("/sys/module/zswap/parameters/enabled")


def need(kind: SwapKind) -> None:
    probe = probe_temporary_swap(kind, SIZE)
    if not probe:
        pytest.skip(probe.reason)


def area_at(path: str) -> SwapArea | None:
    return next((area for area in active_swaps() if area.path == path), None)


def is_gone(path: str) -> bool:
    return area_at(path) is None and not os.path.exists(path)


@pytest.mark.parametrize("kind", KINDS)
def test_pages_go_there_and_come_back(kind: SwapKind) -> None:
    need(kind)
    mapping = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    pattern = b"".join(page.to_bytes(4, "little") * 1024 for page in range(1024))
    with temporary_swap(kind, SIZE) as made:
        area = area_at(made)
        assert area
        assert area.size == SIZE
        assert area.kind == ("zram" if kind == "zram" else "file")
        assert area.priority == max(other.priority for other in active_swaps())
        if kind == "zswap":
            assert ZSWAP.read_text().strip() == "Y"
        if kind != "zram":
            assert os.stat(made).st_mode & 0o7777 == 0o600
        mapping[:] = pattern
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        for _ in range(20):
            mapping.madvise(21)  # MADV_PAGEOUT
            counts = count_pages(address, len(mapping))
            if counts.swapped == 1024:
                break
        assert counts.swapped == 1024
        # Areas of equal priority take turns: pages may be in someone else's, and stay there.
        others = len(active_swaps()) > 1
    assert is_gone(made)
    assert others or count_pages(address, len(mapping)).swapped == 0
    assert mapping[:] == pattern


def test_zswap_gets_its_former_setting() -> None:
    need("zswap")
    # Only one who holds the setting knows what it is before and after: others may use it too.
    former = ZSWAP.read_text().strip()
    with temporary_swap("zswap", SIZE):
        assert ZSWAP.read_text().strip() == "Y"
    assert eventually(lambda: ZSWAP.read_text().strip() == former)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_removes_it(kind: SwapKind) -> None:
    need(kind)
    path = ""
    with pytest.raises(ZeroDivisionError), temporary_swap(kind, SIZE) as made:
        path = made
        raise ZeroDivisionError
    assert is_gone(path)


OWNER = """
    import sys, time
    from mapscratch.lab.rig.machine.swap import temporary_swap
    with temporary_swap(sys.argv[1], int(sys.argv[2])) as swap:
        print(swap, flush=True)
        time.sleep(60)
"""


def owner(kind: SwapKind) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), kind, str(SIZE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("kind", "number"),
    [(kind, signal.SIGKILL) for kind in KINDS]
    + [("file", signal.SIGINT), ("file", signal.SIGTERM), ("zram", signal.SIGINT)],
)
def test_a_signal_to_the_owner_removes_it(kind: SwapKind, number: signal.Signals) -> None:
    need(kind)
    with owner(kind) as process:
        assert process.stdout
        path = process.stdout.readline().strip()
        assert area_at(path)
        process.send_signal(number)
        assert process.wait() == -number
        if number == signal.SIGINT:
            assert is_gone(path)  # Its own clean-up has waited for the guardian.
    assert eventually(lambda: is_gone(path))


def test_killed_at_any_moment_nothing_stays(on_disk: Path) -> None:
    need("file")
    start = "machine.swap._DIRECTORIES = sys.argv[3:]\nprint(flush=True)\nwith"
    program = "from mapscratch.lab.rig import machine\n" + textwrap.dedent(OWNER)
    program = program.replace("with", start, 1)
    for milliseconds in range(0, 96, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", program, "file", str(8 << 20), str(on_disk)],
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(milliseconds / 1000)
            process.kill()
        assert eventually(lambda: not any(on_disk.iterdir()))
        assert not any(area.path.startswith(str(on_disk)) for area in active_swaps())


def test_a_device_of_someone_else_is_left_alone() -> None:
    need("zram")
    before = {path.name for path in Path("/sys/block").glob("zram*")}
    with temporary_swap("zram", SIZE) as made:
        assert Path(made).name not in before
        used = {path.name for path in Path("/sys/block").glob("zram*")}
        assert Path(made).name in used
    assert not Path("/sys/block", Path(made).name).exists()


@pytest.fixture
def here(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place for swapfiles."""
    monkeypatch.setattr(machine.swap, "_DIRECTORIES", (str(on_disk),))
    return on_disk


def test_the_first_place_that_is_suitable_is_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.swap, "_DIRECTORIES", ("/missing", str(here), "/"))
    if not (probe := probe_temporary_swap("file", SIZE)):
        pytest.skip(probe.reason)
    assert probe.reason == f"a swapfile in {here}"
    with temporary_swap("file", SIZE) as made:
        assert Path(made).parent == here
    assert list(here.iterdir()) == []


def test_a_directory_with_blanks_in_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = here / "a b\\c"
    directory.mkdir()
    monkeypatch.setattr(machine.swap, "_DIRECTORIES", (str(directory),))
    if not (probe := probe_temporary_swap("file", 8 << 20)):
        pytest.skip(probe.reason)
    with temporary_swap("file", 8 << 20) as made:
        assert area_at(made)
    assert is_gone(made)


def test_places_that_cannot_take_a_swapfile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("file")
    with pytest.raises(SwapError, match=r"only \d+ MiB are free.*ask for less") as caught:
        temporary_swap("file", 1 << 60).__enter__()
    assert caught.value.errno == errno.ENOSPC
    memory = Path("/dev/shm")
    if machine.swap._file_system(str(memory)) == 0x01021994:
        monkeypatch.setattr(machine.swap, "_DIRECTORIES", (str(memory),))
        with pytest.raises(SwapError, match=r"/dev/shm: tmpfs is memory itself.*ext4 or xfs"):
            temporary_swap("file", SIZE).__enter__()
        assert not list(memory.glob(".mapscratch-swap*"))
    monkeypatch.setattr(machine.swap, "_DIRECTORIES", (str(here / "missing"),))
    with pytest.raises(SwapError, match="there is no such directory"):
        temporary_swap("file", SIZE).__enter__()


def test_a_kernel_that_refuses_is_answered_in_words(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("file")
    # A header of no swap area: the real swapon(2) answers EINVAL.
    monkeypatch.setattr(machine.swap, "_swap_header", lambda pages: bytes(mmap.PAGESIZE))
    with pytest.raises(SwapError, match=r"refuses a swapfile.*swapon: .*ext4") as caught:
        temporary_swap("file", SIZE).__enter__()
    assert caught.value.errno == errno.EINVAL
    assert list(here.iterdir()) == []
    before = set(os.listdir("/sys/block"))
    if probe_temporary_swap("zram", SIZE):
        with pytest.raises(SwapError, match="could not be made a swap area"):  # noqa: SIM117
            with temporary_swap("zram", SIZE):
                pass
        assert eventually(lambda: set(os.listdir("/sys/block")) <= before)


def test_modules_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    need("file")
    monkeypatch.setattr(machine.swap, "_ZRAM_CONTROL", "/sys/class/missing")
    assert "modprobe zram" in probe_temporary_swap("zram", SIZE).reason
    monkeypatch.setattr(machine.swap, "_ZSWAP_ENABLED", "/sys/module/missing")
    assert "CONFIG_ZSWAP" in probe_temporary_swap("zswap", SIZE).reason
    with pytest.raises(SwapError, match="modprobe zram"):
        temporary_swap("zram", SIZE).__enter__()


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="kind must be one of file, zram, zswap"):
        temporary_swap("ram", SIZE).__enter__()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 40960 bytes, not 1"):
        temporary_swap("file", 1).__enter__()


@pytest.fixture
def as_nobody() -> Iterator[list[str]]:
    """The start of a command: an interpreter run by an ordinary user who can import the package."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or not setpriv:
        pytest.skip("to become an ordinary user needs root and setpriv (util-linux)")
    nobody = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as directory:
        # The package, and pytest's own temporary directory, may be where only root can read.
        os.chmod(directory, 0o755)
        for package in (machine, proc):
            source = Path(package.__file__).parent
            shutil.copytree(source, Path(directory, *package.__name__.split(".")))
        shutil.copy(_native.__file__, Path(directory, "mapscratch"))
        start = f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {directory!r})\n"
        for interpreter in (sys.executable, "/usr/bin/python3"):
            command = [*nobody, interpreter, "-I", "-S", "-c", start]
            try_out = [*command[:-1], start + "import mapscratch.lab.rig.machine"]
            if subprocess.run(try_out, check=False, capture_output=True).returncode == 0:
                yield command
                return
    pytest.skip("an ordinary user can run no Python 3.11 here")


def test_an_ordinary_user_is_told_what_to_do(as_nobody: list[str]) -> None:
    script = """
        from mapscratch.lab.rig.machine.cgroups import *
        from mapscratch.lab.rig.machine.swap import *
        from mapscratch.proc import *
        import ctypes, mmap
        for kind in ("file", "zram", "zswap"):
            assert not probe_temporary_swap(kind)
            try:
                with temporary_swap(kind, 64 << 20):
                    print("made")
            except SwapError as error:
                print(error)
        try:
            with temporary_memory_cgroup(64 << 20):
                print("made")
        except CgroupError as error:
            print(error)
        print(probe_temporary_memory_cgroup().reason)
        m = mmap.mmap(-1, 8 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        m[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(m))
        print(count_pages(address, len(m)), page_entries(address, len(m))[0] & (1 << 55) - 1)
        try:
            count_pages(0, 4096, 1)
        except PermissionError as error:
            print(error)
    """
    *command, start = as_nobody
    done = subprocess.run(
        [*command, start + textwrap.dedent(script)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert all("run it with sudo" in line for line in lines[:3])
    assert all("run as root" in line or "no memory controller" in line for line in lines[3:5])
    assert lines[5] == "PageFlags(present=1, swapped=0, private=1) 0"
    assert "run as its user or as root" in lines[6]


def test_lines_of_proc_swaps() -> None:
    assert swap._swap_area("/a\\040b\\134c\tfile\t\t65532\t\t4\t\t-2\n") == SwapArea(
        "/a b\\c", "file", 65532 * 1024, 4096, -2
    )
    assert swap._swap_area("/dev/zram10 partition 8 0 5").kind == "zram"
    assert swap._swap_area("/dev/sda2 partition 8 0 5").kind == "partition"
