# SPDX-License-Identifier: Apache-2.0
"""The tests' own tools: a debugger that can't, and a process that a neighbour broke."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.debugger import gdb_must, read
from support.operated import Operated, lasting, operated
from support.patience import patient
from support.places import TESTS

TESTS_OF_GDB = next(TESTS.rglob("test_operating_debuggers.py"))
COMPLAINT = "Couldn't write extended state status: Bad address."
GDB_ON_AMX = """\
#!/usr/bin/env bash
# What 13.1 does on a processor with AMX: a function isn't called, and the process is lost.
for word; do
  case $word in
    print*) words+=({complain} -ex kill) ;;
    *) words+=("$word") ;;
  esac
done
exec {gdb} "${{words[@]}}"
"""


def test_a_gdb_that_calls_no_function_skips_what_it_is_for_and_nothing_else(
    lazyfree: str, tmp_path: Path
) -> None:
    gdb_must(read)
    program, report = tmp_path / "gdb", tmp_path / "report.xml"
    complain = shlex.quote(f'shell echo "{COMPLAINT}" >&2')
    program.write_text(GDB_ON_AMX.format(complain=complain, gdb=shutil.which("gdb")))
    program.chmod(0o755)
    tests = ("-k", "that_gdb or gdb_reads or proc_mem", str(TESTS_OF_GDB))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        timeout=patient(120),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    skipped = {
        case.attrib["name"]: skip.attrib["message"]
        for case in ElementTree.parse(report).iter("testcase")
        for skip in case.iter("skipped")
    }
    assert skipped.keys() == {
        "test_a_function_that_gdb_calls_may_touch_missing_pages",
        "test_a_function_that_gdb_calls_waits_for_ever_if_no_other_thread_may_run",
    }
    assert all(COMPLAINT in why and str(program) in why for why in skipped.values())


@pytest.mark.parametrize(
    "broken",
    [
        lambda process: os.kill(process.pid, signal.SIGKILL),
        lambda process: os.kill(process.pid, signal.SIGSTOP),
        lambda process: process.begin("exit()"),
        lambda process: process.begin("'an answer that nobody took'"),
    ],
    ids=["killed", "stopped", "ended", "out of step"],
)
def test_a_process_that_a_test_broke_is_replaced_for_the_next_one(
    broken: Callable[[Operated], None],
) -> None:
    with lasting(lambda: operated("")) as whole:
        first = whole()
        assert whole() is first
        broken(first)
        assert whole() is not first
        assert first.has_ended()
        assert whole().ask("6 * 7") == 42
