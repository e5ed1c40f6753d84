# SPDX-License-Identifier: Apache-2.0
"""Python fixups: in a process of their own, for every process that reads; loud when they fail."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import array_fixups
from support.interpreter import run_python, start_python
from support.patience import communicate, patient
from support.places import TESTS
from support.waiting import eventually

import mapscratch
from mapscratch.fixups import Python

ITEMS = 300_000

START = """
    import os, sys, signal, threading
    import numpy as np, mapscratch
    from mapscratch.fixups import Python
    from support import array_fixups
    path = sys.argv[1]
    values = np.fromfile(path, "i4")
"""


@pytest.fixture
def values() -> np.ndarray[Any, np.dtype[Any]]:
    return np.random.default_rng(0).integers(8, 1000, ITEMS).astype("i4")


@pytest.fixture
def path(tmp_path: Path, values: Any) -> Path:
    values.tofile(tmp_path / "values")
    return tmp_path / "values"


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_function_of_numpy(lazyfree: str, path: Path, values: Any) -> None:
    array = mapscratch.array(path, "f8", source="i4", fixup=Python(array_fixups.square))
    np.testing.assert_array_equal(np.asarray(array), values.astype("f8") ** 2)
    array.scratch.reclaim()
    np.testing.assert_array_equal(array[-5:], values[-5:].astype("f8") ** 2)
    counts = array.scratch.counts()
    assert counts.rebuilt
    assert counts.fixup_seconds


def test_more_items_than_the_source_has(lazyfree: str, path: Path) -> None:
    array = mapscratch.array(path, "u1", source="u1", fixup=Python(array_fixups.nibbles, items=2))
    raw = np.fromfile(path, "u1")
    assert array.shape == (2 * len(raw),)
    np.testing.assert_array_equal(array[::2], raw & 15)
    np.testing.assert_array_equal(array[1::2], raw >> 4)
    odd = mapscratch.array(
        path, "u1", shape=4097, source="u1", fixup=Python(array_fixups.nibbles, items=2)
    )
    np.testing.assert_array_equal(np.asarray(odd), np.asarray(array)[:4097])


def test_the_index_of_the_first_item(lazyfree: str, path: Path, values: Any) -> None:
    fixup = Python(array_fixups.add_index, index=True)
    array = mapscratch.array(path, "i8", source="i4", fixup=fixup)
    np.testing.assert_array_equal(np.asarray(array), values + np.arange(ITEMS))
    for start in (250_000, 7, 100_000):
        array.scratch.drop()
        np.testing.assert_array_equal(
            array[start : start + 9], (values + np.arange(ITEMS))[start : start + 9]
        )


@pytest.mark.parametrize("block", [4096, 65536, 1 << 20])
def test_blocks_of_any_size(lazyfree: str, path: Path, values: Any, block: int) -> None:
    array = mapscratch.array(
        path, "f8", source="i4", fixup=Python(array_fixups.square), block=block
    )
    np.testing.assert_array_equal(array[::-1], values[::-1].astype("f8") ** 2)


def test_a_lambda_by_cloudpickle(lazyfree: str, path: Path, values: Any) -> None:
    pytest.importorskip("cloudpickle")
    array = mapscratch.array(path, "i4", fixup=Python(lambda source: source + 1))
    np.testing.assert_array_equal(np.asarray(array), values + 1)


def test_a_lambda_without_cloudpickle(lazyfree: str, path: Path) -> None:
    run_python(
        START
        + """
    sys.modules["cloudpickle"] = None
    try:
        mapscratch.array(path, "i4", fixup=Python(lambda source: source))
    except mapscratch.FixupError as error:
        assert "put it into a module, or install cloudpickle" in str(error)
    else:
        raise SystemExit("it was taken")
    """,
        path,
    )


SCRIPT = """
import sys
import numpy as np
import mapscratch
from mapscratch.fixups import Python
from support import array_fixups
print("running", flush=True)
def double(source):
    return 2 * source
values = np.fromfile(sys.argv[1], "i4")
for function, expected in ((double, 2 * values), (array_fixups.square, values.astype("f8") ** 2)):
    array = mapscratch.array(sys.argv[1], "f8", source="i4", fixup=Python(function))
    assert np.array_equal(array, expected)
"""


@pytest.mark.parametrize("by", ["path", "standard input"])
def test_a_script_is_not_run_again(lazyfree: str, path: Path, tmp_path: Path, by: str) -> None:
    pytest.importorskip("cloudpickle")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with open(script) as file:
        done = subprocess.run(
            [sys.executable, str(script) if by == "path" else "-", str(path)],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(TESTS)},
        )
    assert (done.returncode, done.stdout) == (0, "running\n"), done.stderr


FAILURES = {
    "raises": (array_fixups.fails_on_a_seven, "KeyError: 'there is a seven'"),
    "too few": (array_fixups.makes_too_few, "ValueError: the function made"),
    "another type": (array_fixups.makes_strings, "TypeError: Cannot cast"),
    "dies": (array_fixups.dies_on_a_seven, "ended before it was ready"),
}


@pytest.mark.parametrize(("function", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_what_fails_on_the_first_block_is_an_exception(
    lazyfree: str, tmp_path: Path, function: Any, message: str
) -> None:
    np.full(10_000, 7, "i4").tofile(tmp_path / "sevens")
    with pytest.raises(mapscratch.FixupError, match=message):
        mapscratch.array(tmp_path / "sevens", "i4", fixup=Python(function))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("fails_on_a_seven", "its fixup raised KeyError: 'there is a seven'"),
        ("dies_on_a_seven", "the process of its fixup has ended"),
    ],
)
def test_what_fails_later_names_file_block_and_exception(
    lazyfree: str, path: Path, values: Any, function: str, reason: str
) -> None:
    values[200_000] = 7
    values.tofile(path)
    result = run_python(
        START
        + f"""
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.{function}))
    assert np.array_equal(array[:1000], values[:1000])
    if "{function}" != "dies_on_a_seven":
        assert np.array_equal(array[:199_000], values[:199_000])
        assert np.array_equal(array[201_000:], values[201_000:])  # the same batch, another block
    print("so far", flush=True)
    array[200_000]
    print("read what can't be made", flush=True)
    """,
        path,
        check=False,
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGKILL)
    message = next(line for line in result.stderr.splitlines() if line.startswith("mapscratch:"))
    block = 200_000 * 4 // os.sysconf("SC_PAGESIZE")
    assert f"block {block} (items from {block * 1024} on) of the array of {path}" in message
    assert message.endswith(reason)


def test_its_process_killed_from_outside(lazyfree: str, path: Path) -> None:
    result = run_python(
        START
        + """
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.is_slow), block=4096)
    array[0]
    process = array.scratch.map.process
    threading.Timer(0.2, os.kill, (process.pid, signal.SIGKILL)).start()
    print("so far", flush=True)
    np.asarray(array).sum()
    print("read what can't be made", flush=True)
    """,
        path,
        check=False,
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGKILL)
    assert "the process of its fixup" in result.stderr


def test_what_it_prints_is_not_an_answer(lazyfree: str, path: Path) -> None:
    result = run_python(
        START
        + """
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.talks))
    assert np.array_equal(array, values)
    """,
        path,
    )
    assert result.stdout == ""
    assert "decoding" in result.stderr


def test_its_process_ends_with_the_array(lazyfree: str, path: Path) -> None:
    array = mapscratch.array(path, "f8", source="i4", fixup=Python(array_fixups.square))
    process = array.scratch.map.process
    assert process is not None
    pid = process.pid
    array.sum()
    assert is_running(pid)
    del array, process
    gc.collect()
    assert not is_running(pid)


@pytest.mark.parametrize("end", ["pass", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_its_process_ends_with_its_owner(lazyfree: str, path: Path, end: str) -> None:
    result = run_python(
        START
        + f"""
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.talks))
    array.sum()
    print(array.scratch.map.process.pid, flush=True)
    {end}
    """,
        path,
        check=False,
    )
    pid = int(result.stdout)
    assert eventually(lambda: not is_running(pid))


def test_forked_children_have_connections_of_their_own(lazyfree: str, path: Path) -> None:
    result = run_python(
        START
        + """
    array = mapscratch.array(path, "f8", source="i4", fixup=Python(array_fixups.square))
    expected = values.astype("f8") ** 2
    assert np.array_equal(array[:1000], expected[:1000])
    children = []
    for child in range(4):
        pid = os.fork()
        if not pid:
            right = True
            for round in range(3):
                right &= np.array_equal(array, expected)
                array.scratch.drop()
            os._exit(not right)
        children.append(pid)
        assert np.array_equal(array, expected)  # after the fork the parent connects again
        array.scratch.drop()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    print(array.scratch.map.process.pid)
    """,
        path,
    )
    assert eventually(lambda: not is_running(int(result.stdout)))


def test_a_child_outlives_the_owner(lazyfree: str, path: Path, tmp_path: Path) -> None:
    run_python(
        START
        + """
    array = mapscratch.array(path, "f8", source="i4", fixup=Python(array_fixups.square))
    if os.fork():
        os._exit(0)
    import time
    array[0]
    time.sleep(0.3)
    right = np.array_equal(array, values.astype("f8") ** 2)
    open(sys.argv[2], "w").write("right" if right else "wrong")
    """,
        path,
        tmp_path / "answer",
    )
    assert eventually((tmp_path / "answer").exists)
    assert eventually(lambda: (tmp_path / "answer").read_text() == "right")


def test_threads_of_the_reader(lazyfree: str, path: Path, values: Any) -> None:
    array = mapscratch.array(
        path, "f8", source="i4", fixup=Python(array_fixups.square), block=16384
    )
    expected = values.astype("f8") ** 2
    wrong: list[int] = []
    stop = threading.Event()

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        starts = random.integers(0, ITEMS - 100, 200)
        wrong.extend(
            int(start)
            for start in starts
            if not np.array_equal(array[start : start + 100], expected[start : start + 100])
        )

    def drop() -> None:
        while not stop.is_set():
            array.scratch.drop()
            time.sleep(0.001)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    dropper = threading.Thread(target=drop)
    for thread in (*threads, dropper):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    dropper.join()
    assert not wrong


def test_two_arrays_do_not_wait_for_each_other(lazyfree: str, path: Path, values: Any) -> None:
    """While a slow fixup is awaited the pager serves others."""
    slow = mapscratch.array(path, "i4", fixup=Python(array_fixups.is_slow), block=4096)
    fast = mapscratch.array(path, "f4", source="i4")
    done = threading.Event()

    def read_slowly() -> None:
        memory = memoryview(slow.scratch.map)
        for page in range(5):
            assert memory[page * 4096] is not None
        done.set()

    thread = threading.Thread(target=read_slowly)
    thread.start()
    rounds = 0
    while not done.is_set():
        np.testing.assert_array_equal(np.asarray(fast)[:5000], values[:5000])
        fast.scratch.drop()
        rounds += 1
    thread.join()
    assert rounds > 0


def test_pickles_by_reference(lazyfree: str, path: Path, values: Any) -> None:
    array = mapscratch.array(path, "f8", source="i4", fixup=Python(array_fixups.square))
    pickled = pickle.dumps(array[10:20])
    assert len(pickled) < 1000
    run_python(
        """
        import pickle, sys
        import numpy as np
        part = pickle.loads(bytes.fromhex(sys.argv[1]))
        assert part.tolist() == eval(sys.argv[2]), part
        """,
        pickled.hex(),
        (values[10:20].astype("f8") ** 2).tolist(),
    )


def test_interrupted_while_it_starts(lazyfree: str, path: Path) -> None:
    process = start_python(
        START
        + """
    import mapscratch.arrays.fixup_process as fixup_process
    import subprocess
    popen = subprocess.Popen
    def start(*arguments, **keywords):
        started = popen([sys.executable, "-c", "import time; time.sleep(100)"],
                        stdin=-1, stdout=-1)
        print(started.pid, flush=True)
        return started
    subprocess.Popen = start
    mapscratch.array(path, "i4", fixup=Python(array_fixups.talks))
    """,
        path,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = communicate(process, seconds=20)
    assert "KeyboardInterrupt" in errors
    assert eventually(lambda: not is_running(pid))


def test_no_other_user_is_served(lazyfree: str, path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.talks))
    process = array.scratch.map.process
    assert process is not None
    run_python(
        """
        import os, socket, sys
        from support.ordinary_user import become_ordinary_user
        become_ordinary_user()
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(b"\\0" + sys.argv[1].encode())
        memory = os.memfd_create("stranger")
        os.truncate(memory, 1 << 20)
        try:
            socket.send_fds(stranger, [b"x"], [memory])
            stranger.send(bytes(16))
            answer = stranger.recv(500)
        except OSError:
            answer = b""
        assert not answer, answer
        """,
        process.helper.address,
    )
    array.sum()


def has_been_closed(connection: socket.socket) -> bool:
    """By the other side, which may not even have accepted it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_strangers_neither_hinder_nor_keep_it(lazyfree: str, path: Path) -> None:
    """Anybody on the machine may connect to an abstract socket."""
    array = mapscratch.array(path, "i4", fixup=Python(array_fixups.talks))
    process = array.scratch.map.process
    assert process is not None
    strangers = []
    for _ in range(100):
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.settimeout(patient(20))
        stranger.connect(b"\0" + process.helper.address.encode())
        strangers.append(stranger)
    assert has_been_closed(strangers[0])
    array.sum()
    del array
    gc.collect()
    assert eventually(lambda: not is_running(process.pid))
    assert has_been_closed(strangers[-1])
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("function", [3, None])
def test_not_a_function(function: Any) -> None:
    with pytest.raises(TypeError, match="needs a function"):
        Python(function)
