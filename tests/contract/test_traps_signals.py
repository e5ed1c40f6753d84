# SPDX-License-Identifier: Apache-2.0
"""Trap 4: signals blocked, their handlers replaced, and coming all the time."""

from __future__ import annotations

import pytest
from support.files import PatternFile
from support.interpreter import run_python

ROUNDS = """
for round in range(60):
    for page in range(0, 40, 3):
        m.store(page * PAGESIZE, 1)
    m.drop()
    check()
    if engine != "dontneed":
        m.reclaim()
"""

SITUATIONS = {
    "all signals blocked": """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
""",
    "all signals blocked in the faulting thread": """
import signal, threading
inner = ROUNDS
def fault():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    exec(inner)
thread = threading.Thread(target=fault)
thread.start()
thread.join()
""",
    "faulthandler enabled afterwards": """
import faulthandler
faulthandler.enable()
""",
    "handlers replaced": """
import signal
called = []
for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGURG, signal.SIGIO):
    signal.signal(number, lambda *_: called.append(1))
""",
    "signals ignored": """
import signal
for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGURG, signal.SIGPIPE, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
""",
    "a timer each millisecond": """
import signal
called = []
signal.signal(signal.SIGALRM, lambda *_: called.append(m.load(0)))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
""",
    "a handler that touches scratch memory and drops it": """
import signal
def handler(*_):
    m.drop(0, 8 * PAGESIZE)
    if m.load(0) != int.from_bytes(data[:8], "little"):
        raise SystemExit("wrong in a handler")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
""",
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_pages_come_back_right(engine: str, file: PatternFile, situation: str) -> None:
    run_python(
        f"""
        ROUNDS = {ROUNDS!r}
        from support.prelude import *
        exec({situation!r})
        exec(ROUNDS)
        import signal
        signal.setitimer(signal.ITIMER_REAL, 0)
        m.close()
        """,
        file.path,
        engine,
    )


def test_faulthandler_enabled_before(engine: str, file: PatternFile) -> None:
    run_python(
        f"""
        from support.prelude import *
        exec({ROUNDS!r})
        """,
        file.path,
        engine,
        options=("-X", "faulthandler"),
    )


def test_no_signal_handler_is_installed(engine: str, file: PatternFile) -> None:
    run_python(
        """
        import os, signal, sys

        def handlers():
            lines = open("/proc/self/status").read().splitlines()
            masks = [line.split()[1] for line in lines if line.startswith(("SigCgt", "SigIgn"))]
            # The C library has two signals of its own, 32 and 33, for any thread.
            return [int(mask, 16) & (1 << 31) - 1 for mask in masks]

        import mmap
        before = handlers()
        from support.prelude import *
        m.load(0)
        assert handlers() == before
        """,
        file.path,
        engine,
    )


@pytest.mark.parametrize(
    "name",
    [
        "SIGURG",
        "SIGUSR1",
        "SIGTERM",
        "SIGIO",
        "SIGCHLD",
    ],
)
def test_a_signal_to_the_process_reaches_the_program(
    engine: str, file: PatternFile, name: str
) -> None:
    run_python(
        """
        from support.prelude import *
        import signal, time
        number = signal.Signals[sys.argv[3]]
        got = 0

        def handler(*_):
            global got
            got += 1

        signal.signal(number, handler)
        for sent in range(1, 6):
            m.store(0, 1)
            # Blocked for a while, so that it waits for whoever of the process's threads takes it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})
            os.kill(os.getpid(), number)
            time.sleep(0.03)
            assert number in signal.sigpending(), "somebody else has taken it"
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            assert got == sent, (got, sent)
        m.drop()
        check()
        """,
        file.path,
        engine,
        name,
    )


def test_ctrl_c_ends_a_program_that_faults(engine: str, file: PatternFile) -> None:
    result = run_python(
        """
        from support.prelude import *
        import signal, threading, time
        # A shell that starts a program in the background has it ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            while True:
                m.drop()
                check()
        except KeyboardInterrupt:
            print("interrupted")
        m.close()
        """,
        file.path,
        engine,
    )
    assert result.stdout == "interrupted\n"
