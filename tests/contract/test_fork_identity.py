# SPDX-License-Identifier: Apache-2.0
"""A process that becomes somebody else, or goes elsewhere, between mapping a file and forking."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from support import seccomp
from support.interpreter import run_python

ITEMS = 200_000

START = """
    import ctypes, gc, os, sys, numpy as np, mapscratch
    from mapscratch.engine import release_all
    from mapscratch import ScratchMap, Words
    from mapscratch.fixups import Python
    from support import array_fixups

    libc = ctypes.CDLL(None, use_errno=True)
    path, empty = sys.argv[1], sys.argv[2]
    values = np.fromfile(path, "u1")
    kept = {
        "python": mapscratch.array(path, "f8", source="u1", fixup=Python(array_fixups.square)),
        "array": mapscratch.array(path, "f4", source="u1"),
    }
    expected = {"python": values.astype("f8") ** 2, "array": values.astype("f4")}
    m = ScratchMap(path, engine="lazyfree")
    plain = ScratchMap(path, engine="dontneed")
    if sys.argv[3] == "touched":
        assert all(np.array_equal(kept[name], expected[name]) for name in kept)

    def must(result):
        if result:
            number = ctypes.get_errno()
            print(os.strerror(number))
            raise SystemExit(77)

    def unshare(kind):
        must(libc.unshare(kind))

    def become_nobody():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    def give_up_capabilities():
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        must(libc.capset(header, (ctypes.c_uint32 * 6)()))

    def is_right():
        for name, array in kept.items():
            assert np.array_equal(array, expected[name]), name
        for mapping in (m, plain):
            assert mapping[:] == values.tobytes()
            mapping.store(0, 1)
            mapping.drop()
            assert mapping[:] == values.tobytes()
        release_all()
        for name, array in kept.items():
            assert np.array_equal(array[-5000:], expected[name][-5000:]), name

    def in_a_child(use):
        child = os.fork()
        if not child:
            status = 1
            try:
                use()
                status = 0
            except SystemExit as ended:
                status = ended.code
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 77:
            raise SystemExit(77)
        assert status == 0
"""

CHANGES = {
    "user": "become_nobody()",
    "user, dumpable": "become_nobody(); libc.prctl(4, 1, 0, 0, 0)",
    "effective user": "os.seteuid(65534)",
    "group": "os.setgid(65534)",
    "groups": "os.setgroups([1, 2, 3])",
    "capabilities": "give_up_capabilities()",
    "no new privileges": "must(libc.prctl(38, 1, 0, 0, 0))",
    "not dumpable": "must(libc.prctl(4, 0, 0, 0, 0))",
    "network": "unshare(0x40000000)",
    "user namespace": "unshare(0x10000000)",
    "mounts": "unshare(0x00020000)",
    "interprocess": "unshare(0x08000000)",
    "host name": "unshare(0x04000000)",
    "control groups": "unshare(0x02000000)",
    "time": "unshare(0x00000080)",
    "root": "os.chroot(empty); os.chdir('/')",
    "user, network": "unshare(0x40000000); become_nobody()",
    "user, descriptors": "os.closerange(3, 10_000); become_nobody()",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 200, ITEMS, np.uint8)
    values.tofile(tmp_path / "values")
    (tmp_path / "empty").mkdir()
    return tmp_path / "values"


def run(code: str, path: Path, *arguments: object, errors: str = "") -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    # From 3.12 on Python warns of a thread at a fork: here the pager may stay, where none can be
    # started after it.
    options = ("-W", "ignore:This process (pid=:DeprecationWarning")
    done = run_python(
        START + code, path, path.parent / "empty", *arguments, options=options, check=False
    )
    if done.returncode == 77:
        pytest.skip(f"not allowed here: {done.stdout}")
    assert done.returncode == 0 and re.fullmatch(errors, done.stderr), done


@pytest.mark.slow
@pytest.mark.parametrize("touched", ["touched", "untouched"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_and_then_forks(lazyfree: str, path: Path, change: str, touched: str) -> None:
    run(
        f"""
    {CHANGES[change]}
    in_a_child(lambda: (is_right(), in_a_child(is_right)))
    is_right()
    in_a_child(is_right)
    is_right()
        """,
        path,
        touched,
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_and_then_a_first_touch(lazyfree: str, path: Path, change: str) -> None:
    run(
        f"""
    {CHANGES[change]}
    is_right()
        """,
        path,
        "untouched",
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_the_child(lazyfree: str, path: Path, change: str) -> None:
    run(
        f"""
    def changed():
        {CHANGES[change]}
        is_right()
        in_a_child(is_right)
    in_a_child(changed)
    is_right()
        """,
        path,
        "untouched",
    )


@pytest.mark.parametrize("more", ["", "os.chroot(empty)", "become_nobody()", "unshare(0x80)"])
def test_a_parent_that_may_have_no_more_threads(lazyfree: str, path: Path, more: str) -> None:
    """Its children are in a namespace of process numbers that isn't its own."""
    run(
        f"""
    unshare(0x20000000)
    {more}
    in_a_child(lambda: (is_right(), in_a_child(is_right)))
    is_right()
        """,
        path,
        "untouched",
    )


def test_a_parent_at_its_limit_of_tasks(lazyfree: str, path: Path) -> None:
    """The pager is a task of its user's, too."""
    run(
        """
    import resource, signal
    libc.prctl(8, 1, 0, 0, 0)  # keep capabilities until the limit counts
    user = 1_000_000 + os.getpid()  # who runs nothing else, another run of this test included
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    children = []
    try:
        while len(children) < 20:
            child = os.fork()
            if not child:
                libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # none outlives a test that fails
                signal.pause()
            children.append(child)
        raise AssertionError("there was no limit")
    except BlockingIOError:
        pass
    is_right()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    in_a_child(is_right)
    is_right()
        """,
        path,
        "untouched",
        errors=r"(mapscratch: after fork the scratch mapping of .* touching it will crash\n)*",
    )


def test_a_child_forks_after_its_parent_has_let_go(lazyfree: str, path: Path) -> None:
    run(
        """
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.read(ready, 1)
        in_a_child(is_right)
        is_right()
        os._exit(0)
    del kept["python"]
    gc.collect()
    os.write(go, b"x")
    assert os.waitpid(child, 0)[1] == 0
        """,
        path,
        "untouched",
    )


def test_a_process_ends_though_nothing_was_asked_since_a_fork(lazyfree: str, path: Path) -> None:
    run(
        """
    process = kept["python"].scratch.map.process
    in_a_child(lambda: None)
    del kept["python"]
    gc.collect()
    assert not os.path.exists(f"/proc/{process.pid}")
    kept["array"][0]
        """,
        path,
        "untouched",
    )


@pytest.mark.skipif(not seccomp.is_supported(), reason="system call numbers aren't known here")
@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_one_way_to_the_process_of_a_fixup_is_enough(lazyfree: str, path: Path, name: str) -> None:
    run(
        f"""
    from support.seccomp import forbid
    forbid({name!r})
    in_a_child(is_right)
    is_right()
        """,
        path,
        "untouched",
    )


@pytest.mark.skipif(not seccomp.is_supported(), reason="system call numbers aren't known here")
def test_where_userfaultfd_is_forbidden_meanwhile_a_child_is_told(
    lazyfree: str, path: Path
) -> None:
    """It crashes when it touches what it can't have, and reads no zeros."""
    if os.geteuid():
        pytest.skip("as root, whom the device would let in")
    done = run_python(
        START
        + """
    from support.seccomp import forbid
    forbid("userfaultfd", error=38)
    child = os.fork()
    if not child:
        kept["array"][0]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -11
    is_right()
        """,
        path,
        path.parent / "empty",
        "untouched",
    )
    assert "can't be used in process" in done.stderr
    assert "Function not implemented" in done.stderr


def test_a_fork_leaves_no_descriptor(lazyfree: str, path: Path) -> None:
    run(
        """
    def descriptors():
        return sorted(os.listdir("/proc/self/fd"))
    before = descriptors()
    def child():
        assert descriptors() == before
        is_right()
        assert descriptors() == before
    for _ in range(5):
        in_a_child(child)
        assert descriptors() == before
    is_right()
    assert descriptors() == before
        """,
        path,
        "touched",
    )
