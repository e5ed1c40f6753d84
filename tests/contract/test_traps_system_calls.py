# SPDX-License-Identifier: Apache-2.0
"""Trap 5: system calls that are given pages which are not in memory."""

from __future__ import annotations

import os
import tempfile

import pytest
from support.engines import STATUS
from support.files import PatternFile
from support.interpreter import run_python

# Each gets the mapping's bytes out (or in) by one system call on missing pages; `got` is what came.
CALLS = """
    import errno, os, socket, sys, warnings
    import numpy as np
    from mapscratch import ScratchMap, SystemCallWarning
    from support.ordinary_user import become_ordinary_user

    path, engine, privileged = sys.argv[1], sys.argv[2], sys.argv[3] == "privileged"
    source = open(path, "rb")
    data = source.read()
    directory = sys.argv[4]
    if not privileged:
        become_ordinary_user()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        m = ScratchMap(source, engine=engine)
        other = ScratchMap(source, engine=engine)
        other.close()
    told = [str(warning.message) for warning in caught]
    served = m.guarantees.system_calls

    PART = slice(3 * 4096 + 100, 20 * 4096 + 50)
    wanted = data[PART]


    def through_file(use):
        name = os.path.join(directory, "out")
        with open(name, "w+b", buffering=0) as out:
            done = use(out)
            out.seek(0)
            return out.read(), done


    def write():
        return through_file(lambda out: os.write(out.fileno(), memoryview(m)[PART]))

    def pwritev():
        return through_file(
            lambda out: os.pwritev(out.fileno(), [memoryview(m)[PART]], 0)
        )

    def tofile():
        array = np.frombuffer(m, np.uint8)[PART]
        return through_file(lambda out: array.tofile(out) or len(wanted))

    def save():
        array = np.frombuffer(m, np.uint8)[PART]
        def use(out):
            np.save(out, array)
            return len(wanted)
        got, done = through_file(use)
        return got[-len(wanted):] if len(got) >= len(wanted) else got, done

    def send():
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with near, far:
            done = near.send(memoryview(m)[PART])
            got = b""
            while len(got) < done:
                got += far.recv(1 << 20)
            return got, done

    def pipe():
        read, write = os.pipe()
        try:
            done = os.write(write, memoryview(m)[PART][:4096])
            return os.read(read, 8192) + wanted[4096:], done + len(wanted) - 4096
        finally:
            os.close(read)
            os.close(write)

    OUT = [write, pwritev, tofile, save, send, pipe]

    # Into the mapping: what is read must be there, and nothing else changed.
    message = bytes(range(1, 251)) * 200

    def readinto():
        with open(os.path.join(directory, "in"), "rb", buffering=0) as file:
            return file.readinto(memoryview(m)[PART])

    def preadv():
        with open(os.path.join(directory, "in"), "rb", buffering=0) as file:
            return os.preadv(file.fileno(), [memoryview(m)[PART]], 0)

    def recv_into():
        near, far = socket.socketpair()
        with near, far:
            near.send(message[:5000])
            return far.recv_into(memoryview(m)[PART])

    IN = [readinto, preadv, recv_into]
    with open(os.path.join(directory, "in"), "wb") as file:
        file.write(message)


    def attempt(use):
        try:
            return use(), None
        except OSError as error:
            return None, error
"""

ALL_WORK = """
    def all_work():
        for use in OUT:
            (got, done), error = attempt(use)
            assert error is None, (use.__name__, error)
            assert got == wanted and done == len(wanted), (use.__name__, done, len(got))
            if not pinned:
                m.drop()
        for use in IN:
            done, error = attempt(use)
            assert error is None, (use.__name__, error)
            assert done == (5000 if use is recv_into else min(len(message), len(wanted)))
            seen = m[PART]
            if pinned:
                assert seen[:done] == message[:done], use.__name__
                assert m[:PART.start] == data[:PART.start]
                m[PART] = wanted
            m.drop()
            if not pinned:
                assert m[:] == data
"""


def run_calls(code: str, file: PatternFile, engine: str, user: str) -> None:
    """Runs code behind `CALLS`, with a directory that an ordinary user may write to."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        run_python(CALLS + code, file.path, engine, user, directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_all_work_when_privileged(engine: str, file: PatternFile) -> None:
    if not STATUS[engine].system_calls:
        pytest.skip(STATUS[engine].reason)
    run_calls(
        ALL_WORK
        + """
    assert served and not told
    pinned = False
    all_work()
    with m.pin():
        pinned = True
        all_work()
""",
        file,
        engine,
        "privileged",
    )


def test_all_work_within_a_pin_for_an_ordinary_user(engine: str, file: PatternFile) -> None:
    run_calls(
        ALL_WORK
        + """
    pinned = True
    with m.pin():
        all_work()
    m.drop()
    with m.pin():
        all_work()
    assert m[:] == data or m.drop() >= 0
    m.drop()
    assert m[:] == data
""",
        file,
        engine,
        "ordinary",
    )


def test_for_an_ordinary_user_they_fail_or_do_less_but_never_wrong(
    engine: str, file: PatternFile
) -> None:
    run_calls(
        ALL_WORK
        + """
    if served:
        pinned = False
        assert not told
        all_work()
        raise SystemExit(0)
    assert len(told) == 1, told
    assert "m.pin()" in told[0], told
    failed = 0
    for use in OUT:
        for page in (None, 3, 10, 19):
            m.drop()
            if page is not None:
                m.load(page * 4096)  # it and its neighbours are there, and others aren't
            done, error = attempt(use)
            if error is not None:
                # np.save and tofile say how many bytes they could write, in words.
                assert error.errno == errno.EFAULT or use in (tofile, save), (use, error)
                failed += 1
                continue
            got, count = done
            assert got[:count] == wanted[:count], (use.__name__, count)
            failed += count < len(wanted)
    for use in IN:
        m.drop()
        done, error = attempt(use)
        if error is not None:
            assert error.errno == errno.EFAULT, error
            failed += 1
        else:
            assert m[PART][:done] in (message[:done], wanted[:done])
        m.drop()
        assert m[:] == data
    assert failed > 0
    # All of them work on pages that are in memory, and all bytes are as they were.
    m[:]
    (got, count), error = attempt(write)
    assert error is None and got == wanted
""",
        file,
        engine,
        "ordinary",
    )


def test_the_warning_comes_once_a_process_and_names_the_caller(
    lazyfree: str, file: PatternFile
) -> None:
    run_python(
        """
        import sys, warnings
        from mapscratch import ScratchMap, SystemCallWarning
        from support.ordinary_user import become_ordinary_user

        source = open(sys.argv[1], "rb")
        become_ordinary_user()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            maps = [ScratchMap(source, engine="lazyfree") for _ in range(3)]
        if maps[0].guarantees.system_calls:
            raise SystemExit(0)  # this machine allows it to everybody
        assert [warning.category for warning in caught] == [SystemCallWarning]
        assert caught[0].filename == "<string>", caught[0].filename
        assert "EFAULT" in str(caught[0].message)
        assert "m.pin()" in str(caught[0].message)
        """,
        file.path,
    )


def test_the_warning_tells_who_has_an_array_what_to_do_with_one(
    lazyfree: str, file: PatternFile
) -> None:
    run_python(
        """
        import sys, warnings
        import mapscratch
        from support.ordinary_user import become_ordinary_user

        source = open(sys.argv[1], "rb")
        become_ordinary_user()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            array = mapscratch.array(source, "u1")
        if array.scratch.guarantees.system_calls:
            raise SystemExit(0)  # this machine allows it to everybody
        assert [warning.filename for warning in caught] == ["<string>"]
        assert "a.scratch.pin()" in str(caught[0].message)
        assert "np.array(a)" in str(caught[0].message)
        """,
        file.path,
    )


def test_automatic_choice_gives_no_engine_whose_system_calls_fail(file: PatternFile) -> None:
    run_python(
        """
        import sys, warnings
        warnings.simplefilter("error")
        from mapscratch import ScratchMap, Words, engines
        from support.ordinary_user import become_ordinary_user

        source = open(sys.argv[1], "rb")
        become_ordinary_user()
        m = ScratchMap(source)
        assert m.guarantees.system_calls
        served = {status.name: status.system_calls for status in engines() if status.available}
        if not served.get("lazyfree", True):
            assert m.engine != "lazyfree"
            # But whoever asks for fixups at page-in gets them, and the warning.
            warnings.simplefilter("ignore")
            assert ScratchMap(source, fixup=Words({0: 1})).load(0) == 1
        """,
        file.path,
    )
