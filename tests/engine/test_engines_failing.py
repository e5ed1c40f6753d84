# SPDX-License-Identifier: Apache-2.0
"""An engine that seems to run and fails when it is to take over: the next gets its turn."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from support import seccomp
from support.files import PatternFile
from support.interpreter import run_python

from mapscratch import EngineUnavailable, ScratchMap, Words, engines
from mapscratch.engine.dontneed import DontneedEngine
from mapscratch.engine.lazyfree import LazyfreeEngine

needs_seccomp = pytest.mark.skipif(
    not seccomp.is_supported(), reason="the system call numbers of this processor aren't known here"
)

START = """
    import errno, os, sys
    import numpy as np, mapscratch
    from mapscratch import EngineUnavailable, ScratchMap, Words, _native
    from support.seccomp import forbid

    path = sys.argv[1]
    data = open(path, "rb").read()
    ScratchMap(path, engine="lazyfree").close()  # it runs here
    if {status.name: status for status in mapscratch.engines()}["kernel"].available:
        raise SystemExit(0)  # is taken before it

    def left():
        with open("/proc/self/maps") as maps:
            mappings = [line for line in maps if path in line]
        return len(mappings), sorted(os.listdir("/proc/self/fd")), _native.pager_thread()

    def refused(make):
        try:
            make()
        except Exception as error:
            return error
        raise SystemExit("not refused")
"""


@needs_seccomp
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EPERM])
def test_where_no_thread_can_be_started(lazyfree: str, file: PatternFile, error: int) -> None:
    run_python(
        START
        + """
    forbid("clone", "clone3", error=int(sys.argv[2]))
    before = left()
    with ScratchMap(path) as m:
        assert m.engine == "dontneed"
        assert m[:] == data
        m.store(0, 1)
        assert m.drop() == 1
        assert m[:] == data
    assert left() == before
    error = refused(lambda: ScratchMap(path, engine="lazyfree"))
    assert type(error) in (OSError, BlockingIOError, PermissionError), type(error)
    assert error.errno == int(sys.argv[2])
    for make in (
        lambda: ScratchMap(path, fixup=Words({0: 1})),
        lambda: mapscratch.array(path, "u1"),
    ):
        error = refused(make)
        assert isinstance(error, EngineUnavailable) and isinstance(error, OSError)
        assert error.errno == int(sys.argv[2])
        lines = [line.split(":")[0].strip() for line in str(error).splitlines()]
        assert ["kernel", "lazyfree", "dontneed"] == [
            line for line in lines if line in ("kernel", "lazyfree", "dontneed")
        ], lines
        assert "can't start" in str(error)
    assert "mapscratch.Cache" in str(error)
    assert left() == before
        """,
        file.path,
        error,
    )


@needs_seccomp
def test_where_the_pager_is_refused_the_userfaultfd_that_the_probe_got(
    lazyfree: str, file: PatternFile
) -> None:
    run_python(
        START
        + """
    from mapscratch.engine import lazyfree
    status = lazyfree.LazyfreeEngine().status()
    assert status.available
    lazyfree.LazyfreeEngine.status = lambda self: status  # it was asked before
    lazyfree._warn_of_system_calls = lambda **_: None
    forbid("userfaultfd", error=errno.ENOSYS)
    before = left()
    with ScratchMap(path) as m:
        assert m.engine == "dontneed"
        assert m[:] == data
    assert left()[0::2] == before[0::2]
    assert "userfaultfd" in str(refused(lambda: mapscratch.array(path, "u1")))
    assert left()[0::2] == before[0::2]
        """,
        file.path,
    )


def test_all_fail_and_each_says_how(file: PatternFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, mapping: Any, request: Any) -> None:
        raise OSError(errno.ENODEV, f"{self.name} doesn't like it")

    for engine in (LazyfreeEngine, DontneedEngine):
        monkeypatch.setattr(engine, "attach", fail)
    kernel = {status.name: status for status in engines()}["kernel"]
    if kernel.available:
        pytest.skip("engine 'kernel' is taken")
    with pytest.raises(EngineUnavailable) as raised:
        ScratchMap(file.path)
    assert isinstance(raised.value, OSError)
    assert raised.value.errno == errno.ENODEV
    for name in ("lazyfree", "dontneed"):
        assert f"{name}: {name} doesn't like it" in str(raised.value)
    assert "kernel: this kernel has no MAP_SCRATCH" in str(raised.value)


def test_an_engine_that_fails_after_it_took_over_leaves_nothing(
    lazyfree: str, file: PatternFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = LazyfreeEngine.attach

    def attach_and_fail(self: Any, mapping: Any, request: Any) -> None:
        attach(self, mapping, request)
        mapping.store(0, 99)
        raise OSError(errno.EIO, "too late")

    monkeypatch.setattr(LazyfreeEngine, "attach", attach_and_fail)
    if {status.name: status for status in engines()}["kernel"].available:
        pytest.skip("engine 'kernel' is taken")
    with ScratchMap(file.path) as m:
        assert m.engine == "dontneed"
        assert m[:] == file.data
        m.drop()
        assert m[:] == file.data
    with pytest.raises(EngineUnavailable, match="too late"):
        ScratchMap(file.path, fixup=Words({0: 1}))
