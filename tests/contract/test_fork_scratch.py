# SPDX-License-Identifier: Apache-2.0
"""Trap 2: a mapping over fork, by every way to fork."""

from __future__ import annotations

import signal

import pytest
from support.engines import AVAILABLE
from support.files import PatternFile
from support.interpreter import run_python


def test_child_and_grandchild_see_right_bytes(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *

        def dirty():
            with m.pin():
                for page in range(0, 40, 2):
                    m.store(page * PAGESIZE, 1)

        def shows_stores(page):
            return m.load(page * PAGESIZE) == 1

        def grandchild():
            m.store(16, 5)
            m.drop()
            check()

        def child():
            for page in range(40):
                # A child of lazyfree begins with the file, one of the others with what is here.
                if shows_stores(page):
                    assert engine != "lazyfree" and page % 2 == 0, page
            in_child(grandchild)
            m.store(PAGESIZE, 3)
            m.drop()
            check()
            in_child(grandchild)
            check()

        for _ in range(3):
            dirty()
            in_child(child)
            m.drop()
            check()
        in_child(child)
        """,
        file.path,
        engine,
    )


def test_the_parents_stores_stay_over_a_fork(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        with m.pin():  # so that nothing but the fork could take them
            for page in range(40):
                m.store(page * PAGESIZE, page + 1)
            for _ in range(5):
                in_child(m.drop)
                for page in range(40):
                    assert m.load(page * PAGESIZE) == page + 1
        m.drop()
        check()
        """,
        file.path,
        engine,
    )


def test_a_child_holds_no_pins_and_can_pin_itself(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *

        def child():
            assert m.counts().pinned == 0
            m.store(0, 7)
            m.drop()
            check()
            with m.pin():
                m.store(0, 8)
                assert m.drop() == 0
                assert m.load(0) == 8
                outer.__exit__(None, None, None)  # the parent's pin: not ours to release
                assert m.counts().pinned == 41
                assert m.drop() == 0
                assert m.load(0) == 8
            assert m.counts().pinned == 0
            m.drop()
            check()

        outer = m.pin()
        with outer:
            m.store(0, 1)
            in_child(child)
            assert m.counts().pinned == 41
            assert m.drop() == 0
            assert m.load(0) == 1
        m.drop()
        check()
        """,
        file.path,
        engine,
    )


def test_the_child_may_close_and_the_parent_goes_on(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *

        def child():
            m.close()
            with ScratchMap(path, engine=engine) as other:
                other.store(0, 1)
                other.drop()
                assert other[:] == data
            # A thread that has been joined is listed for a moment longer.
            assert any(len(os.listdir("/proc/self/task")) == 1 for _ in range(100_000))

        in_child(child)
        m.drop()
        check()
        """,
        file.path,
        engine,
    )


def test_fixups_are_made_in_the_child(lazyfree: str, file: PatternFile) -> None:
    run_python(
        """
        import os, sys
        from mapscratch import ScratchMap, Words
        m = ScratchMap(sys.argv[1], fixup=Words({0: 5, 4096: 6}))
        child = os.fork()
        for _ in range(3):
            right = (m.load(0), m.load(4096)) == (5, 6)
            m.drop()
        if not child:
            os._exit(not right)
        assert right
        assert os.waitpid(child, 0)[1] == 0
        """,
        file.path,
    )


FORKING_WHILE_A_THREAD_FAULTS = """
    import os, sys, threading
    {before}
    from support.prelude import *

    done = False
    wrong = []
    loads = 0

    def hammer():
        global loads
        while not done:
            m.drop()
            for page in range(40):
                if m.load(page * PAGESIZE) != int.from_bytes(
                    data[page * PAGESIZE : page * PAGESIZE + 8], "little"
                ):
                    wrong.append(page)
                loads += 1

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        in_child(lambda: [check(), m.drop(), check()])
    done = True
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    assert loads > 200
    m.drop()
    check()
"""


def test_forks_while_threads_fault(engine: str, file: PatternFile) -> None:
    run_python(FORKING_WHILE_A_THREAD_FAULTS.format(before=""), file.path, engine)


def test_forks_while_threads_fault_and_other_modules_have_hooks(
    engine: str, file: PatternFile
) -> None:
    # `logging` and `random`, for two, have hooks; these run before ours if imported before.
    hook = (
        "os.register_at_fork(after_in_parent=lambda: [None for _ in range(10000)]); "
        "sys.setswitchinterval(1e-6)"
    )
    run_python(FORKING_WHILE_A_THREAD_FAULTS.format(before=hook), file.path, engine, timeout=30)


def test_other_modules_hooks_may_touch_the_mapping(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import os, sys
        touched = []

        def touch():
            if "m" in globals():
                touched.append(m[:] == data)
                m.drop()

        os.register_at_fork(before=touch, after_in_parent=touch, after_in_child=touch)
        from support.prelude import *

        def child():
            assert touched == [True, True], touched

        for _ in range(3):
            m.drop()
            in_child(child)
            assert touched == [True, True], touched
            touched.clear()
        """,
        file.path,
        engine,
        timeout=20,
    )


def test_forks_from_several_threads(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        import threading
        failures = []

        def fork_often():
            try:
                for _ in range(25):
                    m.drop()
                    in_child(check)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=fork_often) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        check()
        """,
        file.path,
        engine,
    )


def test_forks_while_mappings_come_and_go(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        import threading
        done = False
        failures = []

        def churn():
            try:
                while not done:
                    with ScratchMap(path, engine=engine) as other:
                        other.store(0, 1)
                        other.drop()
                        assert other[:100] == data[:100]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            in_child(lambda: [m.drop(), check()])
        done = True
        for thread in threads:
            thread.join()
        assert not failures, failures
        """,
        file.path,
        engine,
    )


def test_a_raw_clone_crashes_and_never_reads_zeros(lazyfree: str, file: PatternFile) -> None:
    run_python(
        f"""
        from support.prelude import *
        from support.seccomp import system_call_number
        import ctypes, signal
        m.load(0)  # a page that is in the parent's memory, and others that aren't
        libc = ctypes.PyDLL(None)  # keeps the interpreter's lock
        for page in (0, 20):
            child = libc.syscall(system_call_number("clone"), signal.SIGCHLD, 0, 0, 0, 0)
            if child == 0:
                seen = m.load(page * PAGESIZE)
                os._exit(2 if seen == 0 else 3)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == -{int(signal.SIGSEGV)}, status
        m.drop()
        check()
        """,
        file.path,
        lazyfree,
    )


def test_a_raw_fork_crashes_in_an_array_and_a_cache_goes_on(
    lazyfree: str, file: PatternFile
) -> None:
    """What skips all fork handlers: arrays are a hole, a cache is a copy."""
    run_python(
        f"""
        import ctypes, os, sys
        import numpy as np, mapscratch
        a = np.asarray(mapscratch.array(sys.argv[1], "f4", source=">i2"))
        cache = mapscratch.Cache()
        cache.put("kept", np.full(100_000, 7, "u1"))
        cache._table.release_recent()
        libc = ctypes.PyDLL(None)  # keeps the interpreter's lock
        if not hasattr(libc, "_Fork"):
            raise SystemExit  # before glibc 2.34
        a[0]  # in the parent's memory; the last page isn't
        for index in (0, len(a) - 1):
            child = libc._Fork()
            if child == 0:
                a[index]
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -{int(signal.SIGSEGV)}
        child = libc._Fork()
        if child == 0:
            with cache.get("kept") as value:
                os._exit(0 if (value == 7).all() else 2)
        assert os.waitpid(child, 0)[1] == 0
        """,
        file.path,
    )


@pytest.mark.parametrize("engine", [name for name in AVAILABLE if name != "lazyfree"])
def test_a_raw_clone_of_a_file_mapping_sees_right_bytes(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        from support.seccomp import system_call_number
        import ctypes, signal
        libc = ctypes.PyDLL(None)
        child = libc.syscall(system_call_number("clone"), signal.SIGCHLD, 0, 0, 0, 0)
        if child == 0:
            os._exit(m[:] != data)
        assert os.waitpid(child, 0)[1] == 0
        """,
        file.path,
        engine,
    )


def test_other_ways_to_start_a_process(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        import subprocess
        m.store(0, 1)
        for arguments in ({}, {"preexec_fn": os.getpid}, {"close_fds": False},
                          {"start_new_session": True}):
            done = subprocess.run(["true"], **arguments)
            assert done.returncode == 0
            m.drop()
            check()
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
        assert os.system("true") == 0
        if os.path.exists("/dev/pts/ptmx"):  # where terminals can be made
            child, terminal = os.forkpty()
            if not child:
                os._exit(m[:] != data)
            assert os.waitpid(child, 0)[1] == 0
            m.drop()
            check()
        """,
        file.path,
        engine,
    )


@pytest.mark.parametrize("engine", [name for name in AVAILABLE if name != "kernel"])
def test_each_side_of_a_fork_has_its_own_native_thread(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        m.load(0)
        pager = _native.pager_thread()
        assert os.path.exists(f"/proc/self/task/{pager}")

        def child():
            assert _native.pager_thread() not in (0, pager)
            assert os.path.exists(f"/proc/self/task/{_native.pager_thread()}")
            assert m.load(8) == int.from_bytes(data[8:16], "little")

        for _ in range(10):
            in_child(child)
        assert _native.pager_thread()
        assert os.path.exists(f"/proc/self/task/{_native.pager_thread()}")
        m.close()
        assert _native.pager_thread() == 0
        in_child(lambda: None)
        assert _native.pager_thread() == 0
        """,
        file.path,
        engine,
    )


def test_a_fork_never_finds_a_second_thread(engine: str, file: PatternFile) -> None:
    """From Python 3.12 on os.fork() warns if it does: there, as here, right after the fork."""
    run_python(
        """
        import os, sys
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # where threads end slowest
        seen = []

        def count():
            with open("/proc/self/stat") as stat:
                seen.append(int(stat.read().rpartition(")")[2].split()[17]))  # num_threads

        from support.prelude import *
        import ctypes
        m.load(0)
        # Python counts before any of its own hooks, so a hook of the C library has to.
        hook = ctypes.CFUNCTYPE(None)(count)
        libc = ctypes.PyDLL(None)
        register = getattr(libc, "__register_atfork", None) or libc.pthread_atfork
        assert register(None, hook, None, None) == 0
        for _ in range(200):
            in_child(lambda: None)
        assert set(seen) == {1}, {number: seen.count(number) for number in set(seen)}
        """,
        file.path,
        engine,
    )
