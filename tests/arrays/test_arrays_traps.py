# SPDX-License-Identifier: Apache-2.0
"""Arrays where a pager could hang, crash or hand out other bytes: in interpreters of their own."""

from __future__ import annotations

import ctypes
import signal
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.interpreter import run_python
from support.seccomp import is_supported

import mapscratch

ITEMS = 1_500_000

START = """
    import os, signal, sys, threading, time
    import numpy as np, mapscratch
    path = sys.argv[1]
    expected = np.fromfile(path, ">i2").astype("f4") * np.float32(0.5)
    array = mapscratch.array(path, "f4", source=">i2", scale=0.5)

    def check(part=slice(None)):
        assert np.array_equal(array[part], expected[part])
"""


@pytest.fixture
def path(public_path: Path) -> Path:
    values = np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(">i2")
    values.tofile(public_path / "values")
    (public_path / "values").chmod(0o644)
    return public_path / "values"


def run(code: str, path: Path, *arguments: object, **keywords: Any) -> Any:
    return run_python(START + code, path, *arguments, **keywords)


def test_threads_that_hold_the_interpreters_lock_and_a_dropper(lazyfree: str, path: Path) -> None:
    """A NumPy loop over missing pages waits with the lock held (object items, small arrays)."""
    run(
        """
    plain = np.asarray(array)
    stop = threading.Event()
    someone_reads = threading.Event()
    wrong = []
    def read(seed):
        random = np.random.default_rng(seed)
        while not stop.is_set():
            someone_reads.set()
            start = random.integers(0, len(plain) - 400)
            part = plain[start : start + 400]
            if part.tolist() != expected[start : start + 400].tolist():  # holds the lock
                wrong.append(start)
    def drop():
        for round in range(100):
            someone_reads.wait()  # on a busy machine the dropper may be through before
            someone_reads.clear()
            array.scratch.drop()
            array.scratch.reclaim()
        stop.set()
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    dropper = threading.Thread(target=drop)
    for thread in (*threads, dropper):
        thread.start()
    for thread in (*threads, dropper):
        thread.join()
    assert not wrong, wrong
    assert array.scratch.counts().rebuilt
    """,
        path,
    )


SITUATIONS = {
    "a timer each millisecond": """
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(float(array[len(fired) % 1000])))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    """,
    "faulthandler enabled afterwards": """
    import faulthandler
    faulthandler.enable()
    # No dump_traceback_later(repeat=True): CPython 3.11 crashes by itself when it does that often.
    faulthandler.dump_traceback(file=open("/dev/null", "w"))
    """,
    "a worker that replaces SIGBUS": """
    for number in (signal.SIGBUS, signal.SIGSEGV):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGBUS, lambda *_: None)
    """,
    "all signals blocked": """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    """,
    "every descriptor closed": """
    os.closerange(3, 4096)
    """,
    "everything locked": """
    import ctypes
    assert not ctypes.CDLL(None).mlockall(2)
    array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
    """,
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_right_bytes_all_the_same(lazyfree: str, path: Path, situation: str) -> None:
    run(
        situation
        + """
    for round in range(12):
        check()
        check(slice(round * 1000, None, 4099))
        array.scratch.drop()
        check(slice(None, None, -1))
        array.scratch.reclaim()
    signal.setitimer(signal.ITIMER_REAL, 0)
    """,
        path,
    )


def test_over_fork(lazyfree: str, path: Path) -> None:
    run(
        """
    check(slice(0, 500_000))
    for round in range(5):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                check()
                array.scratch.drop()
                check()
                if not os.fork():
                    check()
                    os._exit(0)
                status = os.wait()[1]
            finally:
                os._exit(status)
        check()
        array.scratch.reclaim()
        assert os.waitpid(pid, 0)[1] == 0
        check()
    """,
        path,
    )


def test_fork_while_threads_read(lazyfree: str, path: Path) -> None:
    run(
        """
    stop = threading.Event()
    wrong = []
    def read():
        while not stop.is_set():
            if not np.array_equal(array, expected):
                wrong.append(1)
            array.scratch.drop()
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for round in range(20):
        pid = os.fork()
        if not pid:
            os._exit(not np.array_equal(np.asarray(array)[::50], expected[::50]))
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    """,
        path,
    )


READER = """
import sys, pickle, numpy as np
array = pickle.load(sys.stdin.buffer)
expected = np.fromfile(sys.argv[1], ">i2").astype("f4") * np.float32(0.5)
for round in range(3):
    assert np.array_equal(array, expected)
    array.scratch.reclaim()
"""


@pytest.mark.slow
def test_sixteen_readers(lazyfree: str, path: Path) -> None:
    run(
        """
    import pickle, subprocess
    readers = [
        subprocess.Popen([sys.executable, "-c", sys.argv[2], path], stdin=subprocess.PIPE)
        for _ in range(16)
    ]
    for process in readers:
        process.stdin.write(pickle.dumps(array))
        process.stdin.close()
    assert [process.wait() for process in readers] == [0] * 16
    """,
        path,
        READER,
    )


def test_a_file_cut_short(lazyfree: str, path: Path) -> None:
    result = run(
        """
    plain = np.asarray(array)
    check()
    array.scratch.drop()
    os.truncate(path, 1_000_000)
    assert np.array_equal(plain[:499_000], expected[:499_000])
    try:
        array[0]
    except mapscratch.SourceChanged as error:
        assert "was changed" in str(error)
    print("so far", flush=True)
    plain[1_000_000]
    print("read what is not there", flush=True)
    """,
        path,
        check=False,
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGKILL)
    assert str(path) in result.stderr
    assert "shrank" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("place", ["8192", "-address % (2 << 20) + (2 << 20) + 8192"])
def test_a_stray_store_is_a_crash(lazyfree: str, path: Path, place: str) -> None:
    """In what was filled with small pages, and in the last huge page."""
    result = run(
        f"""
    import ctypes
    check()
    address = array.__array_interface__["data"][0]
    assert address % 4096 == 0
    print("so far", flush=True)
    ctypes.memset(address + {place}, 0, 8)
    time.sleep(1)
    print("stored", flush=True)
    """,
        path,
        check=False,
    )
    assert result.stdout == "so far\n"
    assert result.returncode in (-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGKILL)


def test_behind_the_last_item_is_zero(lazyfree: str, tmp_path: Path) -> None:
    """Not what the pager made before: who has the address can see the page whole."""
    (tmp_path / "ones").write_bytes(b"\xff" * (1 << 20))
    (tmp_path / "few").write_bytes(b"\xff" * 20)
    for _ in range(3):
        ones = mapscratch.array(tmp_path / "ones", "u4", source=">u4")
        assert (ones == 0xFFFFFFFF).all()
        few = mapscratch.array(tmp_path / "few", "u4", source=">u4")
        page = ctypes.string_at(few.__array_interface__["data"][0], PAGESIZE)
        assert page == b"\xff" * 20 + bytes(PAGESIZE - 20)


def test_a_stray_store_into_what_is_missing_is_a_crash(lazyfree: str, path: Path) -> None:
    result = run(
        """
    import ctypes
    address = array.__array_interface__["data"][0]
    print("so far", flush=True)
    ctypes.memset(address + 8192, 0, 8)
    print("stored", flush=True)
    """,
        path,
        check=False,
    )
    assert result.stdout == "so far\n"
    assert result.returncode in (-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGKILL)


def test_under_a_limit_on_data(lazyfree: str, path: Path) -> None:
    """Then the array is read-only memory, which doesn't count, and small pages do."""
    run(
        """
    import resource
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, before[1]))
    other = mapscratch.array(path, "f4", source=">i2", scale=0.5)
    for round in range(3):
        assert np.array_equal(other, expected)
        other.scratch.reclaim()
    with open("/proc/self/maps") as maps:
        address = other.scratch.map._address
        line = next(line for line in maps if line.startswith(f"{address:x}-"))
    assert line.split()[1] == "r--p", line
    """,
        path,
    )


SYSTEM_CALLS = """
    import os, socket, sys, tempfile, warnings
    import numpy as np, mapscratch.arrays
    from support.ordinary_user import become_ordinary_user
    path = sys.argv[1]
    expected = np.fromfile(path, ">i2").astype("f4") * np.float32(0.5)
    become_ordinary_user()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mapscratch.SystemCallWarning)
        array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
    served = array.scratch.guarantees.system_calls
    directory = tempfile.TemporaryDirectory()
    target = os.path.join(directory.name, "target")
"""


def test_what_an_ordinary_user_saves_is_whole(lazyfree: str, path: Path) -> None:
    """Pages that are missing in a system call: right bytes or the documented error."""
    run_python(
        SYSTEM_CALLS
        + """
    for save in (np.save, mapscratch.save):
        array.scratch.drop()
        save(target + ".npy", array)
        assert np.array_equal(np.load(target + ".npy"), expected)
    array.scratch.drop()
    mapscratch.save(target + ".npy", np.asarray(array)[::2])
    assert np.array_equal(np.load(target + ".npy"), expected[::2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mapscratch.SystemCallWarning)
        memory = mapscratch.ScratchMap(path, engine="lazyfree")
    raw = np.fromfile(path, ">i2")
    for step in (1, 2):
        numbers, right = np.frombuffer(memory, ">i2")[::step], raw[::step]
        memory.drop()
        mapscratch.save(target + ".npy", numbers)
        assert np.array_equal(np.load(target + ".npy"), right)
    array.scratch.drop()
    array.tofile(target)
    assert np.array_equal(np.fromfile(target, "f4"), expected)
    array.scratch.drop()
    with open(target, "wb") as file:
        if served:
            file.write(array)
        else:
            try:
                file.write(array)
            except OSError as error:
                assert error.errno == 14, error  # EFAULT
            else:
                raise SystemExit("written without an error")
    ours, theirs = socket.socketpair()
    part = array[:1000]
    array.scratch.drop()
    if not served:
        try:
            ours.send(part)
        except OSError as error:
            assert error.errno == 14, error
        else:
            raise SystemExit("sent without an error")
    with part.scratch.pin():
        ours.sendall(part)
        with open(target, "wb") as file:
            file.write(part)
    assert theirs.recv(8000) == expected[:1000].tobytes()
    assert np.array_equal(np.fromfile(target, "f4"), expected[:1000])
    """,
        path,
    )


def test_root_is_served_in_system_calls(lazyfree: str, path: Path, tmp_path: Path) -> None:
    if not mapscratch.array(path, "f4", source=">i2").scratch.guarantees.system_calls:
        pytest.skip("userfaultfd in user mode only: this user gets no faults of system calls")
    run(
        """
    for round in range(3):
        with open(sys.argv[2], "wb") as file:
            assert file.write(array) == array.nbytes
        assert np.array_equal(np.fromfile(sys.argv[2], "f4"), expected)
        array.scratch.drop()
    """,
        path,
        tmp_path / "target",
    )


@pytest.mark.skipif(not is_supported(), reason="the numbers of system calls here are not known")
def test_a_sandbox_without_userfaultfd(path: Path) -> None:
    run_python(
        """
        import sys
        import mapscratch.arrays
        from support.ordinary_user import become_ordinary_user
        from support.seccomp import forbid
        become_ordinary_user()  # root also gets one by /dev/userfaultfd
        forbid("userfaultfd")
        try:
            mapscratch.array(sys.argv[1], "f4", source=">i2")
        except mapscratch.EngineUnavailable as error:
            message = str(error)
        else:
            raise SystemExit("it was made")
        assert "userfaultfd is not allowed here" in message
        assert "sysctl vm.unprivileged_userfaultfd=1" in message
        assert "seccomp profile" in message
        assert "mapscratch.Cache" in message
        assert "chunk by chunk" in message
        """,
        path,
    )
