# SPDX-License-Identifier: Apache-2.0
"""Which engine a mapping gets, and what is said where one can't be had."""

from __future__ import annotations

import errno

import pytest
from support import seccomp
from support.engines import STATUS, why_not
from support.files import PatternFile
from support.interpreter import run_python

from mapscratch import EngineUnavailable, Guarantees, ScratchMap, Words, engines

needs_seccomp = pytest.mark.skipif(
    not seccomp.is_supported(), reason="the system call numbers of this processor aren't known here"
)


def test_every_engine_says_whether_it_runs_and_why() -> None:
    statuses = engines()
    assert [status.name for status in statuses] == ["kernel", "lazyfree", "dontneed"]
    for status in statuses:
        assert status.reason.endswith(".")
        if status.available:
            assert not status.remedy
    assert STATUS["dontneed"].available, "on any Linux"
    assert "MAP_SCRATCH" in STATUS["kernel"].reason
    if not STATUS["kernel"].available:
        assert "EINVAL" in STATUS["kernel"].reason


@pytest.mark.parametrize("name", sorted(STATUS))
def test_an_engine_that_is_named_is_taken_or_refused_with_its_reason(
    name: str, file: PatternFile
) -> None:
    if STATUS[name].available:
        with ScratchMap(file.path, engine=name) as m:
            assert m.engine == name
            assert m[:] == file.data
    else:
        with pytest.raises(EngineUnavailable) as raised:
            ScratchMap(file.path, engine=name)
        assert STATUS[name].reason in str(raised.value)
        assert STATUS[name].remedy in str(raised.value)


def test_the_environment_takes_the_place_of_auto(
    engine: str, file: PatternFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAPSCRATCH_ENGINE", engine)
    with ScratchMap(file.path) as m:
        assert m.engine == engine
    with ScratchMap(file.path, engine="dontneed") as m:
        assert m.engine == "dontneed"  # who names one gets it
    monkeypatch.setenv("MAPSCRATCH_ENGINE", "auto")
    with ScratchMap(file.path) as m:
        assert m.engine in STATUS
    monkeypatch.setenv("MAPSCRATCH_ENGINE", "fast")
    with pytest.raises(ValueError, match="no such engine: 'fast'"):
        ScratchMap(file.path)


def test_automatic_choice_prefers_the_kernels_decision(file: PatternFile) -> None:
    best = next(status.name for status in engines() if status.available and status.system_calls)
    with ScratchMap(file.path) as m:
        assert m.engine == best


def test_automatic_choice_takes_map_scratch_where_it_is(file: PatternFile) -> None:
    if not STATUS["kernel"].available:
        pytest.skip(why_not("kernel"))
    for guarantee in ((), {"no-swap"}, {"no-swap", "system-calls"}):
        with ScratchMap(file.path, guarantee=guarantee) as m:
            assert m.engine == "kernel"


def test_automatic_choice_with_fixups_takes_who_makes_them(
    lazyfree: str, file: PatternFile
) -> None:
    with ScratchMap(file.path, fixup=Words({0: 1})) as m:
        assert m.engine == lazyfree
        assert m.guarantees.page_in_fixups


def test_guarantees_are_what_each_engine_promises(engine: str, file: PatternFile) -> None:
    with ScratchMap(file.path, engine=engine) as m:
        promised = m.guarantees
    assert isinstance(promised, Guarantees)
    assert promised.no_swap_detail
    if engine == "lazyfree":
        assert promised.no_swap == "outside window"
        assert promised.window_seconds == pytest.approx(0.010)
        assert "10 ms" in promised.no_swap_detail
        assert (promised.page_in_fixups, promised.clean_pages_shared) == (True, False)
    elif engine == "kernel":
        assert (promised.no_swap, promised.window_seconds) == ("firm", 0)
        assert promised.system_calls
        assert (promised.page_in_fixups, promised.clean_pages_shared) == (False, True)
    elif engine == "dontneed":
        assert promised.system_calls
        assert (promised.page_in_fixups, promised.clean_pages_shared) == (False, True)
        assert (promised.no_swap == "firm") == (promised.locked_bytes >= len(file.data))


@pytest.mark.parametrize("guarantee", ["system-calls", ["system-calls"], {"system-calls"}, (), []])
def test_a_guarantee_may_come_in_any_collection(file: PatternFile, guarantee: object) -> None:
    with ScratchMap(file.path, guarantee=guarantee) as m:  # type: ignore[arg-type]
        assert m.guarantees.system_calls


def test_no_swap_is_only_what_is_firm(lazyfree: str, file: PatternFile) -> None:
    with pytest.raises(EngineUnavailable, match=r"pages may reach swap: .* within 10 ms"):
        ScratchMap(file.path, engine=lazyfree, guarantee={"no-swap"})


def test_fixups_and_no_swap_together_cannot_be_had_and_each_engine_says_why(
    file: PatternFile,
) -> None:
    with pytest.raises(EngineUnavailable) as raised:
        ScratchMap(file.path, fixup=Words({0: 1}), guarantee={"no-swap"})
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["kernel", "lazyfree", "dontneed"]


WITHOUT_USERFAULTFD = """
    import sys, errno
    from support.seccomp import forbid
    from support.ordinary_user import become_ordinary_user
    forbid("userfaultfd", error=int(sys.argv[2]))
    import mapscratch
    from mapscratch import EngineUnavailable, ScratchMap, Words

    source = open(sys.argv[1], "rb")
    data = source.read()
    if int(sys.argv[2]) == errno.EPERM:
        # root would be let in by the device
        become_ordinary_user()
    status = {status.name: status for status in mapscratch.engines()}["lazyfree"]
    assert not status.available
    assert "userfaultfd is not allowed here" in status.reason, status.reason
    assert "vm.unprivileged_userfaultfd" in status.remedy
    assert "seccomp" in status.remedy and "close_range" in status.remedy

    def refused(**arguments):
        try:
            ScratchMap(source, **arguments)
        except EngineUnavailable as error:
            return str(error)
        raise SystemExit(f"not refused: {arguments}")

    m = ScratchMap(source)
    kernel = {status.name: status for status in mapscratch.engines()}["kernel"]
    assert m.engine == ("kernel" if kernel.available else "dontneed")
    m.store(0, 1)
    assert m.drop() == 1
    assert m[:] == data
    assert "vm.unprivileged_userfaultfd" in refused(engine="lazyfree")
    told = refused(fixup=Words({0: 1}))
    assert "vm.unprivileged_userfaultfd" in told
    assert "dontneed: it has no page-in fixups" in told
"""


@needs_seccomp
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_without_userfaultfd_everything_else_works(file: PatternFile, error: int) -> None:
    run_python(WITHOUT_USERFAULTFD, file.path, error)


FORBIDDEN = """
    import sys, errno
    from support.seccomp import forbid
    forbid(sys.argv[2], error=int(sys.argv[3]))
    from mapscratch import EngineUnavailable, ScratchMap, engines
    data = open(sys.argv[1], "rb").read()
    with ScratchMap(sys.argv[1]) as m:
        m.store(0, 1)
        m.drop()
        assert m[:] == data
    status = {status.name: status for status in engines()}["lazyfree"]
    if status.available:
        with ScratchMap(sys.argv[1], engine="lazyfree") as m:
            m.store(0, 1)
            m.drop()
            assert m[:] == data
            import os
            child = os.fork()
            if not child:
                os._exit(m[:] != data)
            assert os.waitpid(child, 0)[1] == 0
            m.drop()
            assert m[:] == data
    elif sys.argv[2] != "memfd_create":
        assert sys.argv[2] in status.reason + status.remedy
    if sys.argv[2] == "memfd_create":
        status = {status.name: status for status in engines()}["kernel"]
        assert "MAP_SCRATCH can't be tried" in status.reason, status
"""


@needs_seccomp
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize(
    "name", ["close_range", "memfd_create", "mlock2", "process_vm_readv", "socket"]
)
def test_automatic_choice_works_whatever_a_sandbox_forbids(
    file: PatternFile, name: str, error: int
) -> None:
    run_python(FORBIDDEN, file.path, name, error)


@needs_seccomp
def test_a_guarantee_that_fails_at_the_last_moment_raises(file: PatternFile) -> None:
    run_python(
        """
        import sys, errno
        from support.seccomp import forbid
        forbid("mlock2", error=errno.EPERM)
        from mapscratch import EngineUnavailable, ScratchMap, engines
        assert ScratchMap(sys.argv[1], engine="dontneed").guarantees.no_swap == "best effort"
        kernel = {status.name: status for status in engines()}["kernel"]
        # What the kernel drops by itself is firm without a lock.
        for engine in ("dontneed",) if kernel.available else ("dontneed", "auto"):
            try:
                ScratchMap(sys.argv[1], engine=engine, guarantee={"no-swap"})
            except EngineUnavailable as error:
                assert "pages may reach swap" in str(error)
            else:
                raise SystemExit("a guarantee that doesn't hold")
        """,
        file.path,
    )
