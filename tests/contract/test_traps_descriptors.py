# SPDX-License-Identifier: Apache-2.0
"""Trap 1: a program closes every descriptor, as daemons do, and their numbers are used again."""

from __future__ import annotations

import pytest
from support.files import PatternFile
from support.interpreter import run_python

CLOSING = {
    "closerange": "os.closerange(3, 65536)",
    "closerange from standard input": "os.closerange(0, 65536)",
    "one by one": """
for number in range(3, 1024):
    try:
        os.close(number)
    except OSError:
        pass
""",
    "of what proc lists": """
for number in map(int, os.listdir("/proc/self/fd")):
    try:
        os.close(number)
    except OSError:
        pass
""",
}


@pytest.mark.parametrize("closing", CLOSING.values(), ids=CLOSING.keys())
def test_all_descriptors_are_closed_and_their_numbers_used_again(
    engine: str, file: PatternFile, closing: str
) -> None:
    run_python(
        f"""
        from support.prelude import *
        import io
        errors = io.FileIO(os.dup2(2, 200, inheritable=False), "w")
        m.store(0, 1)
        for round in range(2):
            exec({closing!r})
            reused = [os.open("/dev/zero", os.O_RDWR) for _ in range(100)]
            m.drop()
            try:
                check()
                m.store(8, 2)
                m.drop()
                check()
                if engine != "dontneed":
                    m.reclaim()
                    check()
                with m.pin():
                    pass
                m.counts()
                # And a mapping that is made afterwards.
                with ScratchMap(path, engine=engine) as other:
                    assert other[:] == data
                    other.drop()
                    assert other[:] == data
            except BaseException as error:
                with open("/proc/self/comm"): pass
                os._exit(3)
        os._exit(0)
        """,
        file.path,
        engine,
    )


def test_nothing_of_ours_is_in_the_programs_descriptor_table(
    engine: str, file: PatternFile
) -> None:
    run_python(
        """
        import mmap, os, sys
        from mapscratch import ScratchMap

        def targets():
            found = []
            for number in os.listdir("/proc/self/fd"):
                try:
                    found.append(os.readlink(f"/proc/self/fd/{number}"))
                except OSError:
                    pass
            return sorted(target for target in found if not target.startswith("/proc/"))

        path, engine = sys.argv[1:]
        before = targets()
        m = ScratchMap(path, engine=engine)
        m.store(0, 1)
        m.drop()
        m.load(0)
        # The standard's mmap keeps a duplicate of the file's, for size().
        assert targets() == sorted([*before, path]), targets()
        m.close()
        assert targets() == before
        """,
        file.path,
        engine,
    )


def test_a_pipe_that_the_program_closes_is_closed(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import os, sys
        read, write = os.pipe()
        from support.prelude import *
        m.load(0)
        os.close(write)
        assert os.read(read, 1) == b"", "somebody else holds the writing end"
        """,
        file.path,
        engine,
        timeout=30,
    )


def test_a_daemon_sees_the_right_bytes(engine: str, file: PatternFile, tmp_path: object) -> None:
    run_python(
        """
        from support.prelude import *
        m.store(0, 1)
        read, write = os.pipe()
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            # The daemon: everything closed but the way to tell.
            os.dup2(write, 0)
            os.closerange(1, 65536)
            for _ in range(3):
                os.open("/dev/null", os.O_RDWR)
            os.chdir("/")
            verdict = b"wrong"
            try:
                for _ in range(3):
                    m.store(PAGESIZE, 1)
                    m.drop()
                    if m[:] != data:
                        break
                else:
                    verdict = b"right"
            except BaseException as error:
                verdict = repr(error).encode()
            os.write(0, verdict)
            os._exit(0)
        os.wait()
        os.close(write)
        verdict = os.read(read, 1000)
        assert verdict == b"right", verdict
        m.drop()
        check()
        """,
        file.path,
        engine,
    )


@pytest.mark.parametrize("free", range(5))
def test_fork_with_a_full_descriptor_table(lazyfree: str, file: PatternFile, free: int) -> None:
    run_python(
        f"""
        from support.prelude import *
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for _ in range({free}):
            os.close(taken.pop())
        child = os.fork()
        if not child:
            os._exit(m[:] != data)
        _, status = os.waitpid(child, 0)
        for number in taken:
            os.close(number)
        assert status == 0, status
        m.drop()
        check()
        """,
        file.path,
        lazyfree,
    )
