# SPDX-License-Identifier: Apache-2.0
"""The command-line frame: help, version, exit codes, pipes; and `mapscratch doctor`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import seccomp
from support.interpreter import run_python
from support.patience import patient

from mapscratch import __version__, cli
from mapscratch.cli import main
from mapscratch.doctor import command as doctor
from mapscratch.lab.rig.workers import WorkerError
from mapscratch.terminal import check_output_files, whole_number, write_json


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
    monkeypatch.setattr(cli, "_silent_end", lambda: 141)
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
        timeout=patient(30),
    )
    # Whether the reader has gone when it is written to is chance.
    assert done.stderr in ("141\n", "0\n")


@pytest.mark.parametrize("command", ["doctor", "ps", "ps --json"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_wanted_by_nobody(command, closed):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m mapscratch {command} {closed}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_child_has_no_file_of_ours_as_its_output(tmp_path):
    """Not even if ours is closed, so that its number is free for the next file that is opened."""
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    code = f"""if True:
        import subprocess
        from mapscratch.cli import main
        main(["doctor"])
        with open({os.fspath(ours)!r}, "w"):
            subprocess.run(["sh", "-c", "echo said && echo >{copy}"])
    """
    subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], check=True, timeout=patient(60)
    )
    assert ours.read_text() == ""
    assert copy.exists()


def test_an_interrupt_while_it_still_imports(monkeypatch, capfd):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    assert main(["doctor"]) == cli.EXIT_INTERRUPTED
    assert capfd.readouterr().err.startswith("mapscratch: interrupted")


def test_an_error_cannot_steer_the_terminal(monkeypatch, capfd):
    def fail():
        raise OSError(errno.EACCES, "no", "/lib\x1b]0;pwned\x07.so")

    monkeypatch.setattr(doctor, "diagnose", fail)
    assert main(["doctor"]) == cli.EXIT_ERROR
    assert capfd.readouterr().err == "mapscratch: /lib?]0;pwned?.so: no\n"


def test_numbers_of_options_say_their_range():
    number = whole_number(1, 2000)
    assert number("2000") == 2000
    for wrong in ("0", "2001", "-1", "", "x", "1.5", "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError, match="1 to 2,000") as raised:
            number(wrong)
        assert len(str(raised.value)) < 100


def test_one_file_for_two_outputs_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(FileExistsError, match="named twice"):
        check_output_files((tmp_path / "x", tmp_path / "link"))
    check_output_files((tmp_path / "x", tmp_path / "y", None, Path("-"), Path("-")))
    check_output_files((Path(os.devnull), Path(os.devnull)))


def test_doctor_begins_with_what_a_user_asks(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "What works here"
    assert [line.split(":")[0].split()[-1] in ("yes", "no") for line in lines[1:4:2]]
    assert any(line.startswith("Dirty pages of an ordinary private mapping ") for line in lines)
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
        from mapscratch.cli import main
        main(["doctor"])
    """
    output = run_python(code).stdout
    assert "lazyfree  does not run: process_vm_readv is not allowed here" in output
    assert "vm.unprivileged_userfaultfd" in output
    assert "dontneed  runs" in output


def test_a_document_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("before")
    done = run_python(
        """
        import resource, sys
        from pathlib import Path
        from mapscratch.terminal import write_json

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for name in sys.argv[1:]:
            try:
                write_json(Path(name), {"words": "x" * 100_000})
            except OSError as error:
                print(error.strerror)
        """,
        old,
        new,
    )
    assert done.stdout.splitlines() == [os.strerror(errno.EFBIG)] * 2
    assert old.read_text() == "before"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.skipif(os.geteuid() != 0, reason="whose files are whose takes root")
def test_a_file_in_a_folder_of_others_is_written_where_it_is(public_path: Path) -> None:
    file = public_path / "mine.json"
    file.write_text("something longer than what comes")
    file.chmod(0o666)
    public_path.chmod(0o755)
    run_python(
        """
        import sys
        from pathlib import Path
        from mapscratch.terminal import write_json
        from support.ordinary_user import become_ordinary_user

        become_ordinary_user()
        write_json(Path(sys.argv[1]), {"one": 1})
        """,
        file,
    )
    assert json.loads(file.read_text()) == {"one": 1}
    assert list(public_path.iterdir()) == [file]


def test_a_pipe_gets_a_document(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, {"one": 1})
        assert json.loads(os.read(reader, 100)) == {"one": 1}
    finally:
        os.close(reader)
