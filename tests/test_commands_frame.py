# SPDX-License-Identifier: Apache-2.0
"""The command-line frame: help, version, exit codes, pipes; and `mapscratch doctor`."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest
from support import seccomp
from support.interpreter import run_python

from mapscratch import __version__, commands
from mapscratch.commands import doctor, main
from mapscratch.experiment.workers import WorkerError


def test_version(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"mapscratch {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["doctor", "--help"]])
def test_help_teaches_with_examples(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert "Examples:" in output
    assert "mapscratch doctor" in output or "mapscratch compare" in output


def test_without_a_command_it_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as raised:
        main([])
    assert raised.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.EACCES, "no", "/x"), 2, "mapscratch: /x: no\n"),
        (OSError(errno.EACCES, "one\ntwo"), 2, "mapscratch: one two\n"),
        (WorkerError("worker 1 was killed"), 2, "mapscratch: worker 1 was killed\n"),
        (
            KeyboardInterrupt(),
            130,
            "mapscratch: interrupted; everything that was made is removed\n",
        ),
        (BrokenPipeError(errno.EPIPE, "pipe"), 141, ""),
    ],
)
def test_errors_become_exit_codes_in_one_place(error, status, message, monkeypatch, capfd):
    def fail():
        raise error

    monkeypatch.setattr(doctor, "diagnose", fail)
    monkeypatch.setattr(commands, "_silent_end", lambda: 141)
    assert main(["doctor"]) == status
    captured = capfd.readouterr()
    assert captured.err == message
    assert captured.out == ""


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(doctor, "diagnose", lambda: {}["no such key"])
    with pytest.raises(KeyError):
        main(["doctor"])


def test_a_pipe_that_nobody_reads_is_no_error():
    command = f"{sys.executable} -m mapscratch doctor --json"
    done = subprocess.run(
        ["sh", "-c", f"({command}; echo $? >&2) | true"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    # Whether the reader has gone when it is written to is chance.
    assert done.stderr in ("141\n", "0\n")


def test_doctor_begins_with_ordinary_mappings(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Dirty pages of an ordinary private mapping ")
    for engine in ("kernel", "lazyfree", "dontneed"):
        assert any(line.strip().startswith(engine) for line in lines)


def test_doctor_for_programs(capsys):
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["document"] == "mapscratch.doctor"
    assert document["version"] == 1
    assert {"engines", "swap", "locked_limit", "cgroup", "pressure_stall"} <= set(document)


@pytest.mark.skipif(not seccomp.is_supported(), reason="no system call numbers for this machine")
def test_doctor_says_what_is_missing_and_how_to_allow_it():
    code = """
        from support import seccomp
        seccomp.forbid("userfaultfd", "process_vm_readv")  # root has /dev/userfaultfd as well
        from mapscratch.commands import main
        main(["doctor"])
    """
    output = run_python(code).stdout
    assert "lazyfree  does not run: process_vm_readv is not allowed here" in output
    assert "vm.unprivileged_userfaultfd" in output
    assert "dontneed  runs" in output
