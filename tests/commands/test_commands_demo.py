# SPDX-License-Identifier: Apache-2.0
"""`mapscratch demo` as a user meets it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import seccomp
from support.interpreter import run_python
from support.patience import communicate
from support.sessions import processes_of_session
from support.squeezing import groups_of
from support.waiting import eventually

from mapscratch.cli import main
from mapscratch.demo import command as demo
from mapscratch.demo.command import Ending, Setting
from mapscratch.errors import last_words
from mapscratch.lab.rig.machine.cgroups import probe_temporary_memory_cgroup
from mapscratch.proc import Availability, active_swaps

LIMIT = 24
TRACEBACK = 'Traceback (most recent call last):\n  File "x"\n    f()\n'


FACTS = {
    "sum": 1.0,
    "wrong": 0,
    "checked": 10,
    "at_random": 5,
    "decoded": 8,
    "decoded_again": 4,
    "most_resident": 2 << 20,
}
KILLED = Ending("killed", 0.2, {})
OURS = Ending("finished", 1.2, FACTS)


def made_setting(**changes: Any) -> Setting:
    arguments: dict[str, Any] = {
        "limit": 64 << 20,
        "limited_by": "cgroup",
        "why_not_cgroup": "",
        "swap": 0,
        "array": 256 << 20,
        "file": 128 << 20,
    }
    return Setting(**(arguments | changes))


def text_of(setting: Setting, ordinary: Ending = KILLED, ours: Ending = OURS) -> str:
    lines = (
        *demo.setting_lines(setting),
        *demo.ordinary_lines(setting, ordinary),
        *demo.our_lines(ours),
    )
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("why", ["run as root", "There is none."])
def test_why_there_is_no_control_group_is_a_sentence_of_its_own(why: str) -> None:
    text = text_of(made_setting(limited_by="itself", why_not_cgroup=why))
    assert f"because {why.rstrip('.')}. That makes no memory pressure" in text


def test_what_is_shown_is_said_before_anything_is_done(
    lazyfree: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def written(descriptor: int, items: int) -> None:
        (first, *_) = capsys.readouterr().out.splitlines()
        assert first.startswith("A file of 48 MiB of big-endian integers")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_source", written)
    assert main(["demo", "--limit", "24"]) == 130


def test_before_the_first_line_no_numpy_is_loaded() -> None:
    """It takes longer than all that is said before."""
    run_python("import sys, mapscratch.demo.command; assert 'numpy' not in sys.modules")


def test_the_ordinary_way_is_killed_and_ours_reads_all(lazyfree: str, capsys: Any) -> None:
    probe = probe_temporary_memory_cgroup()
    if not probe:
        pytest.skip(f"no memory cgroup: {probe.reason}")
    if active_swaps():
        pytest.skip("there is swap: the ordinary way would use it")
    assert main(["demo", "--limit", str(LIMIT), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["document"] == "mapscratch.demo"
    assert document["limited_by"] == "cgroup"
    assert document["array"] == 4 * document["limit"] == 2 * document["file"] == 4 * LIMIT << 20
    assert document["ordinary"]["how"] == "killed"
    facts = document["ours"]["facts"]
    assert facts["wrong"] == 0
    assert facts["checked"] > document["array"] // 4
    assert facts["decoded_again"] > 0
    assert facts["most_resident"] < document["limit"]
    assert document["right"]


def test_the_least_limit_is_enough(lazyfree: str, capsys: Any) -> None:
    """It is for the array and what is done with it; the interpreter is there before."""
    assert main(["demo", "--limit", "8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ours"]["how"] == "finished"
    assert document["ours"]["facts"]["wrong"] == 0


def test_an_ordinary_user_can_read_it(lazyfree: str, tmp_path: Path) -> None:
    """The worker as it runs without privilege, with a limit of its own."""
    path = tmp_path / "values"
    items = LIMIT << 20
    (np.arange(items) % 30_000).astype(">i2").tofile(path)
    done = run_python(
        """
        import numpy.random, sys, warnings
        from mapscratch.demo import worker as demo_worker
        import mapscratch.arrays
        from support.ordinary_user import become_ordinary_user
        with open(sys.argv[1], "rb") as file:
            become_ordinary_user()
            warnings.simplefilter("ignore", mapscratch.SystemCallWarning)
            sys.argv[1:] = ["ours", str(file.fileno()), *sys.argv[2:]]
            demo_worker.main()
        """,
        path,
        items,
        LIMIT << 20,
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["wrong"] == 0
    assert facts["most_resident"] <= LIMIT << 20


def test_it_limits_itself_where_there_is_no_cgroup(
    lazyfree: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    refused = Availability(False, "this is a test.")
    monkeypatch.setattr(demo, "probe_temporary_memory_cgroup", lambda: refused)
    assert main(["demo", "--limit", str(LIMIT), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["limited_by"] == "itself"
    assert document["ordinary"]["how"] == "refused"
    assert document["ours"]["how"] == "finished"
    assert document["ours"]["facts"]["wrong"] == 0
    assert document["ours"]["facts"]["most_resident"] <= document["limit"]


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("", ""),
        ("one\ntwo\n", "two"),
        (f"warned\n{TRACEBACK}E: no a.\n  k: b\n", "E: no a. k: b"),
        (f"{TRACEBACK}E: no a\n\nDuring it:\n\n{TRACEBACK}F: no b\n", "F: no b"),
    ],
)
def test_what_a_process_said_last(said: str, last: str) -> None:
    assert last_words(said) == last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(lazyfree: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mapscratch", "demo", "--limit", "128"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert eventually(lambda: bool(workers_of(process.pid)))
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = communicate(process, seconds=30)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; everything that was made is removed" in errors
    else:
        assert process.returncode == -signal.SIGTERM
    assert eventually(lambda: not leftovers(process.pid))


REFUSALS = [
    ("userfaultfd", errno.EPERM, "seccomp profile"),
    ("userfaultfd", errno.ENOSYS, "CONFIG_USERFAULTFD"),
    ("userfaultfd", errno.EACCES, "audit2allow"),
    ("process_vm_readv", errno.ENOSYS, "CONFIG_CROSS_MEMORY_ATTACH"),
    ("close_range", errno.EPERM, "seccomp profile"),
]


@pytest.mark.skipif(not seccomp.is_supported(), reason="system call numbers aren't known here")
@pytest.mark.parametrize(("call", "error", "advice"), REFUSALS)
@pytest.mark.parametrize("when", ["before", "in the process"])
def test_where_no_engine_runs_it_says_why_and_what_to_do(
    lazyfree: str, call: str, error: int, advice: str, when: str
) -> None:
    """Before anything is written, as an array would say it; or when a process is refused it."""
    done = run_python(
        """
        import sys
        import mapscratch.demo.command, mapscratch.arrays, numpy.random
        from mapscratch.demo import command as demo
        from support.ordinary_user import become_ordinary_user
        from support.seccomp import forbid
        call, error, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        become_ordinary_user()
        if when == "before":
            def _write_source(*arguments):
                raise AssertionError("something was written")
            demo._write_source = _write_source
        else:
            demo.require = lambda *asked: None
        forbid(call, error=error)
        sys.exit(mapscratch.cli.main(["demo", "--limit", "24"]))
        """
        if when == "before"
        else """
        import sys
        from mapscratch.demo import worker as demo_worker
        import mapscratch.arrays, numpy.random
        from support.ordinary_user import become_ordinary_user
        from support.seccomp import forbid
        call, error = sys.argv[1], int(sys.argv[2])
        with open("/proc/self/exe", "rb") as file:
            become_ordinary_user()
            forbid(call, error=error)
            sys.argv[1:] = ["ours", str(file.fileno()), "1000", "0"]
            demo_worker.main()
        """,
        call,
        error,
        when,
        check=False,
    )
    said = done.stderr
    if when != "before":
        said = json.loads(done.stdout.splitlines()[-1])["error"]
    assert done.returncode == (2 if when == "before" else 0), done
    assert f"{call} is not allowed here: {os.strerror(error)}" in said
    assert advice in said
    assert len(done.stderr.splitlines()) == (when == "before")


def test_a_process_that_is_refused_something_is_told_in_full(
    lazyfree: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo, "require", lambda *asked: None)
    monkeypatch.setenv("MAPSCRATCH_ENGINE", "dontneed")
    assert main(["demo", "--limit", str(LIMIT)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a process of the demonstration failed: engine 'dontneed': it has no page-in" in line


def test_a_process_that_ends_at_once_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec 0<&-\necho 'no room for it' >&2\nexit 3\n")
    program.chmod(0o755)
    refused = Availability(False, "this is a test.")
    monkeypatch.setattr(demo, "require", lambda *asked: None)
    monkeypatch.setattr(demo, "probe_temporary_memory_cgroup", lambda: refused)
    monkeypatch.setattr(sys, "executable", str(program))
    assert main(["demo", "--limit", "8"]) == 2
    assert "failed (exit status 3): no room for it" in capsys.readouterr().err


def workers_of(pid: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if b"mapscratch.demo.worker" in _command_line(path) and os.getsid(int(path.name)) == pid
    ]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def leftovers(pid: int) -> list[str]:
    """Processes and control groups of a demonstration that has ended; its file has no name."""
    processes = [f"process {number}" for number in processes_of_session(pid)]
    return processes + list(map(str, groups_of(pid)))


def test_what_it_says() -> None:
    text = text_of(made_setting())
    assert "killed by the kernel, out of memory, after 0.2 s" in text
    assert "read twice from end to end, and 5 numbers at random, in 1.2 s" in text
    assert "10 numbers compared with NumPy's own decoding of the file: 0 wrong" in text
    assert "8 pages decoded, 4 of them again, because the kernel had dropped them" in text
    assert "at most 2 MiB of the array in memory at a time" in text
    swap, finished = made_setting(swap=1 << 30), Ending("finished", 3.0, {"sum": 1.0})
    assert (
        "finished after 3.0 s: this machine has 1,024 MiB of swap, which took what didn't fit"
        in text_of(swap, finished)
    )
    assert "swap" not in text_of(made_setting(), finished)
    document = demo.demo_document(swap, finished, OURS)
    assert document["swap"] == 1 << 30
    assert document["ordinary"]["how"] == "finished"


def test_a_wrong_value_is_a_failure() -> None:
    assert OURS.is_right
    assert not Ending("finished", 1.0, FACTS | {"wrong": 1}).is_right
    assert not KILLED.is_right
    assert text_of(made_setting(), ours=KILLED).count("killed by the kernel") == 2


@pytest.mark.parametrize("limit", ["0", "7", "many", "-5", "1e3"])
def test_limits_that_are_none(limit: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["demo", f"--limit={limit}"])
    assert raised.value.code == 2
    assert "expected a number of MiB from 8 to 1,048,576" in capsys.readouterr().err


def test_help_teaches(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "mapscratch demo --limit 512" in capsys.readouterr().out
