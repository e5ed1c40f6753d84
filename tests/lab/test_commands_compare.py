# SPDX-License-Identifier: Apache-2.0
"""`mapscratch compare` as a user meets it: first runs, files, errors, interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from elf_oracle import needs_readelf
from support import seccomp
from support.comparisons import make_comparison, make_round
from support.engines import STATUS
from support.interpreter import run_python
from support.patience import communicate
from support.sessions import processes_of_session
from support.swap import some_swap

from mapscratch import __version__, cli
from mapscratch.cli import main
from mapscratch.elf import default_libraries
from mapscratch.lab.compare import command
from mapscratch.lab.compare.document import comparison_schema
from mapscratch.lab.rig.machine.swap import probe_temporary_swap
from mapscratch.proc import active_swaps

LIBRARY = str(default_libraries()[0])
SMALL = ("compare", LIBRARY, "-n", "1,2", "--rounds", "1", "--pages", "20")

pytestmark = needs_readelf


def last_sentence(output: str) -> str:
    """What stands after the last empty line, its lines joined."""
    return " ".join(output.rstrip().rpartition("\n\n")[2].split())


# --- the first runs ----------------------------------------------------------------------------


@pytest.mark.skipif(bool(active_swaps()), reason="there is swap here")
def test_a_first_run_without_swap(capsys):
    assert main(SMALL) == 0
    output = capsys.readouterr().out
    assert output.startswith("At most 60 s: 1, 2 processes")
    if "Swap: none." not in output:
        pytest.skip("somebody has added swap meanwhile")
    assert last_sentence(output).startswith(
        "Without swap 2 processes gave back 0.00 MiB of each MiB asked for with MAP_PRIVATE and"
    )


AS_ORDINARY_USER = """
    import sys
    from mapscratch.cli import main
    # With privilege first, for what is imported late: the interpreter may lie in a directory that
    # is closed to others.
    status = main(["compare", *sys.argv[1:], "--swap", "none", "--pressure", "pageout"])
    print("AS ORDINARY USER", flush=True)
    from support.ordinary_user import become_ordinary_user
    become_ordinary_user()
    sys.exit(status or main(["compare", *sys.argv[1:]]))
"""


def test_a_first_run_of_an_ordinary_user_with_swap():
    with some_swap():
        done = run_python(AS_ORDINARY_USER, *SMALL[1:])
    output = done.stdout.partition("AS ORDINARY USER")[2]
    assert "0 wrong" in output
    sentence = last_sentence(output)
    assert sentence.startswith("With MAP_PRIVATE 2 processes sent ")
    assert " to " in sentence and sentence.endswith(".")
    assert done.stderr == ""


IN_A_SANDBOX = """
    import sys
    from support import seccomp
    seccomp.forbid("userfaultfd", "process_vm_readv")  # root has /dev/userfaultfd as well
    from mapscratch.cli import main
    sys.exit(main(["compare", *sys.argv[1:]]))
"""


@pytest.mark.skipif(not seccomp.is_supported(), reason="no system call numbers for this machine")
def test_a_first_run_in_a_sandbox_without_userfaultfd():
    output = run_python(IN_A_SANDBOX, *SMALL[1:]).stdout
    assert "Left out: lazyfree; process_vm_readv is not allowed here" in output
    assert "A seccomp filter forbids it: allow the system calls" in " ".join(output.split())
    assert "0 wrong" in output
    without_userfaultfd = "kernel" if STATUS["kernel"].available else "dontneed"
    assert without_userfaultfd in last_sentence(output)
    assert last_sentence(output).endswith(".")


# --- what it writes ----------------------------------------------------------------------------


def test_json_follows_the_schema(tmp_path, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    path = tmp_path / "result.json"
    assert main([*SMALL, "--json", str(path), "--verbose"]) == 0
    document = json.loads(path.read_text())
    jsonschema.validate(document, comparison_schema())
    assert document["mapscratch"] == __version__
    assert document["verdict"]["sentence"] == last_sentence(capsys.readouterr().out)
    assert document["wrong_words"] == 0


def test_a_chart_is_saved(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.svg"
    assert main([*SMALL, "--strategy", "private", "--chart", str(path)]) == 0
    assert path.read_text().startswith("<?xml")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [b"\xff.so", b"-n.so", b"two words.so"])
def test_a_library_may_have_any_name(name, tmp_path, monkeypatch, capsys):
    """Without a slash it is a file of this folder, as everywhere."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    shutil.copy2(LIBRARY, name)
    options = ["-n", "1", "--rounds", "1", "--pages", "20", "--chart", "chart.svg"]
    assert main(["compare", *options, "--", os.fsdecode(name)]) == 0
    assert (tmp_path / "chart.svg").read_text().startswith("<?xml")


def test_wrong_words_make_it_fail(monkeypatch, capsys):
    found = make_comparison(make_round("private", wrong_words=1))
    monkeypatch.setattr(command, "compare", lambda *args, **named: found)
    assert main(SMALL) == cli.EXIT_WRONG
    assert "1 of 51,200 words read were wrong" in last_sentence(capsys.readouterr().out)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent.so"], "/nonexistent.so: No such file or directory"),
        ([__file__], "not an ELF file"),
        (["--chart", "chart.pdf"], ".svg or .png"),
        (["--json", "/nonexistent/x.json"], "/nonexistent/x.json: can't be written to"),
        (["--json", "/"], "/: Is a directory"),
    ],
)
def test_an_error_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["compare", *arguments]) == cli.EXIT_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mapscratch: ")
    assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "0"],
        ["-n", "1,x"],
        ["-n", ""],
        ["-n", "100000"],
        ["--rounds", "0"],
        ["--rounds", "-1"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--swap", "tape"],
        ["--strategy", "hope"],
    ],
)
def test_wrong_use_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["compare", *arguments])
    assert raised.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--swap", "file"),
        ("--swap", "zram"),
        ("--swap", "zswap"),
        ("--pressure", "cgroup"),
    ],
    ids=" ".join,
)
def test_what_needs_root_says_so_before_anything_is_read(arguments):
    code = """
        import sys
        import rich.console, rich.progress
        import mapscratch.lab.compare.command
        from mapscratch.cli import main
        from support.ordinary_user import become_ordinary_user
        become_ordinary_user()
        sys.exit(main(["compare", *sys.argv[1:]]))
    """
    done = run_python(code, *SMALL[1:], *arguments, check=False)
    if done.returncode == 0:
        pytest.skip("an ordinary user may do this here")
    assert done.returncode == cli.EXIT_ERROR
    (line,) = done.stderr.splitlines()
    assert " ".join(arguments[-2:]) in line and "root" in line
    assert not done.stdout


def test_without_readelf_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(SMALL) == cli.EXIT_ERROR
    assert "apt install binutils" in capsys.readouterr().err


# --- interrupts --------------------------------------------------------------------------------


def start_long_run(*arguments: str) -> subprocess.Popen[str]:
    """A run that lasts, after its workers have begun."""
    program = [sys.executable, "-m", "mapscratch", "compare", LIBRARY, "-n", "2"]
    process = subprocess.Popen(
        [*program, "--rounds", "10000", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(1000):
        if len(processes_of_session(process.pid)) >= 3:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError("no workers after 20 s")


def wait_until_nothing_is_left(pid: int) -> None:
    for _ in range(500):
        left = [area.path for area in active_swaps() if f"mapscratch-swap-{pid}-" in area.path]
        left += map(str, processes_of_session(pid))
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"left behind: {left}")


def temporary_swap_if_possible() -> tuple[str, ...]:
    return ("--swap", "file") if probe_temporary_swap("file", 96 << 20) else ()


def test_ctrl_c_leaves_nothing_behind():
    process = start_long_run(*temporary_swap_if_possible())
    os.killpg(process.pid, signal.SIGINT)
    _, errors = communicate(process, seconds=30)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert errors == "mapscratch: interrupted; everything that was made is removed\n"
    wait_until_nothing_is_left(process.pid)


def test_a_killed_worker_is_an_error_and_leaves_nothing_behind():
    process = start_long_run(*temporary_swap_if_possible())
    for pid in processes_of_session(process.pid):
        if pid != process.pid:
            os.kill(pid, signal.SIGKILL)
            break
    _, errors = communicate(process, seconds=30)
    assert process.returncode == cli.EXIT_ERROR
    assert "was killed by SIGKILL" in errors
    wait_until_nothing_is_left(process.pid)


def test_a_killed_run_leaves_nothing_behind():
    process = start_long_run(*temporary_swap_if_possible())
    process.kill()
    communicate(process, seconds=30)
    wait_until_nothing_is_left(process.pid)
