# SPDX-License-Identifier: Apache-2.0
"""The guardian: what it was told is undone once, whatever ends its owner. Needs no privilege."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.errors import raises_errno
from support.pseudoterminal import open_pseudoterminal
from support.waiting import eventually

from mapscratch.lab.rig.machine import guardian_process
from mapscratch.lab.rig.machine.guardian import Guardian

OWNER = """
    import os, signal, sys, time
    from mapscratch.lab.rig.machine.guardian import Guardian
    with Guardian() as guardian:
        guardian.act("change_setting", sys.argv[1], "changed")
        {then}
"""
WAIT = "print(guardian._process.pid, flush=True); time.sleep(60)"


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    path = tmp_path / "setting"
    path.write_text("as before")
    return path


def owner(setting: Path, then: str = WAIT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER).format(then=then), str(setting)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def is_restored(setting: Path) -> bool:
    # The file is a plain one, so the shorter text is written over the start of the longer.
    return setting.read_text().startswith("as before")


def test_the_end_of_the_block_undoes_and_leaves_no_process(setting: Path) -> None:
    with Guardian() as guardian:
        assert guardian.act("change_setting", str(setting), "changed") == "as before"
        assert setting.read_text().startswith("changed")
        pid = guardian._process.pid
    assert is_restored(setting)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_exception_undoes_and_goes_on(setting: Path) -> None:
    with pytest.raises(ZeroDivisionError), Guardian() as guardian:
        guardian.act("change_setting", str(setting), "changed")
        raise ZeroDivisionError
    assert is_restored(setting)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_owner_undoes(setting: Path, number: signal.Signals) -> None:
    with owner(setting) as process:
        first_line(process)
        assert setting.read_text().startswith("changed")
        process.send_signal(number)
        assert process.wait() == -number
    assert eventually(lambda: is_restored(setting))


def test_a_closed_terminal_undoes(setting: Path) -> None:
    terminal, inner = open_pseudoterminal()
    # The first terminal that the leader of a session opens becomes the session's own.
    program = f"import os; os.open({os.ttyname(inner)!r}, os.O_RDWR)\n"
    with subprocess.Popen(
        [sys.executable, "-c", program + textwrap.dedent(OWNER).format(then=WAIT), str(setting)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        first_line(process)
        assert setting.read_text().startswith("changed")
        os.close(inner)
        os.close(terminal)
        assert process.wait() == -signal.SIGHUP
    assert eventually(lambda: is_restored(setting))


def test_a_forked_child_that_holds_the_pipe_does_not_keep_it_from_undoing(setting: Path) -> None:
    # By one write each: the two do it at the same time.
    then = "child = os.fork(); os.write(1, b'0 %d\\n' % child); time.sleep(60)"
    with owner(setting, then) as process:
        assert process.stdout
        lines = [process.stdout.readline().split() for _ in range(2)]
        child = int(next(line[1] for line in lines if line[1] != "0"))
        try:
            process.kill()
            process.wait()
            assert eventually(lambda: is_restored(setting))
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_living_forked_child_does_not_delay_the_ordinary_end(setting: Path) -> None:
    with owner(setting, "child = os.fork(); child or time.sleep(60); print(child)") as process:
        assert eventually(lambda: process.poll() is not None)
        os.kill(int(first_line(process)), signal.SIGKILL)
    assert is_restored(setting)


def test_a_forked_child_that_leaves_the_block_undoes_nothing(setting: Path) -> None:
    then = "os.fork() or sys.exit(); print(os.wait()[1], open(sys.argv[1]).read(), flush=True)"
    with owner(setting, then) as process:
        assert first_line(process).startswith("0 changed")
        assert process.wait() == 0
    assert is_restored(setting)


def test_an_interrupt_while_it_undoes_waits_for_it(setting: Path) -> None:
    then = (
        "print(guardian._process.pid, flush=True); "
        "sys.stdin.readline(); print('leaves', flush=True)"
    )
    with owner(setting, then) as process:
        guardian = int(first_line(process))
        os.kill(guardian, signal.SIGSTOP)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert first_line(process) == "leaves"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        os.kill(guardian, signal.SIGCONT)
        assert process.wait() == -signal.SIGINT
        assert is_restored(setting)


def test_an_owner_that_becomes_another_program_undoes(setting: Path) -> None:
    with owner(setting, "os.execv('/bin/sleep', ['sleep', '60'])") as process:
        assert eventually(lambda: is_restored(setting) and "sleep" in command(process.pid))
        process.kill()


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def test_signals_do_not_end_the_guardian(setting: Path) -> None:
    with Guardian() as guardian:
        guardian.act("change_setting", str(setting), "changed")
        assert os.getsid(guardian._process.pid) == guardian._process.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(guardian._process.pid, number)
        guardian.remember("write", str(setting), "as before")
    assert is_restored(setting)


def test_the_owner_undoes_if_the_guardian_was_killed(setting: Path) -> None:
    with Guardian() as guardian:
        guardian.act("change_setting", str(setting), "changed")
        os.kill(guardian._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, guardian._process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(OSError, match="was killed; nothing further is changed") as caught:
            guardian.remember("write", str(setting), "never")
        assert caught.value.errno == errno.EPIPE
    assert is_restored(setting)


def test_steps_are_undone_in_reverse_even_if_one_fails(setting: Path) -> None:
    class OwnError(OSError):
        pass

    missing = setting.parent / "missing" / "setting"
    with pytest.raises(OwnError, match=r"to be removed by hand: write .*missing"):  # noqa: SIM117
        with Guardian(OwnError) as guardian:
            guardian.remember("write", str(setting), "first")
            guardian.remember("write", str(missing), "x")
            guardian.remember("write", str(setting), "second")
    assert setting.read_text().startswith("first")


def test_a_failing_action_raises_and_changes_nothing(setting: Path) -> None:
    missing = setting.parent / "missing"
    with Guardian() as guardian, raises_errno(errno.ENOENT):
        guardian.act("change_setting", str(missing), "changed")
    assert not missing.exists()


def test_a_second_owner_of_a_setting_waits_for_the_first(setting: Path) -> None:
    with owner(setting) as first:
        first_line(first)
        with owner(setting, "print('got it', flush=True)") as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.3)
            first.kill()
            assert first_line(second) == "got it"
            assert second.wait() == 0
    assert is_restored(setting)


def test_without_an_interpreter_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/missing/python")
    with pytest.raises(OSError, match=r"could not be started.*'/missing/python'"):
        Guardian().__enter__()


def test_what_was_merged_is_unmerged_before_the_setting_is_put_back(tmp_path: Path) -> None:
    setting = tmp_path / "run"
    os.mkfifo(setting)
    descriptor = os.open(setting, os.O_RDWR | os.O_NONBLOCK)
    try:
        guardian_process.stop_merging(str(setting), "0")
        assert os.read(descriptor, 4096) == b"20"
    finally:
        os.close(descriptor)


def test_turning_on_merging_is_undone(setting: Path) -> None:
    with Guardian() as guardian:
        former = guardian.act("start_merging", str(setting))
        assert setting.read_text().startswith("1")
        assert str(former).startswith("as before")
    assert is_restored(setting)
