# SPDX-License-Identifier: Apache-2.0
"""Worker processes: answers, errors, death of a worker and of the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mapscratch.lab.cost.termination import interrupted_by_termination
from mapscratch.lab.rig.workers import WorkerError, Workers


class Counter:
    """A session."""

    def __init__(self, number: int) -> None:
        self.number = number

    def ready(self) -> None:
        pass

    def add(self) -> int:
        self.number += 1
        return self.number

    def fail(self) -> None:
        raise ValueError("no such thing")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        os._exit(3)

    def hang(self) -> None:
        time.sleep(60)

    def interrupt(self) -> str:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return "still here"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pids: list[int]) -> bool:
    for _ in range(200):
        if not any(map(is_running, pids)):
            return True
        time.sleep(0.02)
    return False


def test_sessions_keep_their_state_and_answers_their_order():
    with Workers([Counter(10), Counter(20)]) as workers:
        assert workers.all("add") == [11, 21]
        assert workers.in_turn("add") == [12, 22]
        pids = workers.pids
    assert has_ended(pids)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fail", r"worker 1 \(process \d+\) failed in step 'fail': ValueError: no such thing"),
        ("die", r"was killed by SIGKILL .* in step 'die'"),
        ("leave", r"ended by itself \(exit status 3\)"),
        ("hang", r"doesn't answer for 0.3 s in step 'hang'"),
    ],
)
def test_what_goes_wrong_in_a_worker_ends_all(method, message):
    with (
        pytest.raises(WorkerError, match=message),
        Workers([Counter(0), Counter(0)], patience=0.3) as workers,
    ):
        pids = workers.pids
        workers.all(method)
    assert has_ended(pids)


def test_a_worker_that_was_killed_between_two_steps():
    with (
        pytest.raises(WorkerError, match="killed by SIGKILL"),
        Workers([Counter(0), Counter(0)]) as workers,
    ):
        pids = workers.pids
        os.kill(pids[1], signal.SIGKILL)
        time.sleep(0.05)
        workers.all("add")
    assert has_ended(pids)


def test_what_ends_a_command_is_the_parents_business():
    with interrupted_by_termination(), Workers([Counter(0)]) as workers:
        assert workers.all("interrupt") == ["still here"]


def test_an_exception_in_the_parent_ends_workers():
    with pytest.raises(KeyboardInterrupt), Workers([Counter(0)]) as workers:
        pids = workers.pids
        raise KeyboardInterrupt
    assert has_ended(pids)


def test_workers_end_with_a_parent_that_is_killed():
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_compare_workers import Counter\n"
        "from mapscratch.lab.rig.workers import Workers\n"
        "with Workers([Counter(0), Counter(0)]) as workers:\n"
        "    print(*workers.pids, flush=True)\n"
        "    workers.all('hang')\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    assert has_ended(pids)
