# SPDX-License-Identifier: Apache-2.0
"""Putting the machine back as it was, whatever becomes of the process that changed it.

A swap area or a control group outlives the process that made it. Exceptions and Ctrl-C can be
caught; SIGKILL, the kernel's out-of-memory killer, a crash and a closed terminal cannot. So for
each such thing a small process is started, the guardian, in a session of its own where no Ctrl-C
and no hang-up reaches it:

- Each change is told to it *before* it is made, and made only when it has answered. What it undoes
  may therefore never have been done, or be half done; every undo step takes that.
- What has no name until it exists (the number of a new zram device), or must not overlap with
  another session's change, it does itself.
- It undoes everything, the last first, as soon as its owner says so, closes the pipe (by
  exec, say), or ends, which it sees by a pidfd even if forked children hold the pipe open.
- It is the only one who undoes, so nothing is undone twice. Should it be killed itself, its owner
  does it instead, with the same code. That leaves one hole: both killed at once, as when a
  container or the machine is stopped, where swap and groups end as well but a swapfile stays.

A forked child which leaves the ``with`` block undoes nothing: it belongs to the process that
entered it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from typing import Any, Self

from mapscratch.lab.rig.machine import guardian_process
from mapscratch.lab.rig.machine.guardian_process import Argument, Step


class Guardian:
    """A context manager: what was remembered in it is undone when it ends or its process does.

    Its exceptions are of the class `error`, called with an errno and a message.
    """

    _process: subprocess.Popen[bytes]

    def __init__(self, error: type[OSError] = OSError) -> None:
        self._error = error
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._number = 0
        self._received = b""
        self._steps: list[Step] = []
        self._failures: list[str] | None = None

    def __enter__(self) -> Self:
        """Start the guardian, some 30 ms; an error says why it could not be started."""
        # -I -S: neither the environment nor installed packages can get in the way.
        command = [sys.executable, "-I", "-S", guardian_process.__file__]
        try:
            owner = os.pidfd_open(self._owner)
            try:
                self._process = subprocess.Popen(
                    [*command, str(owner)],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=(owner,),
                )
            finally:
                os.close(owner)
        except OSError as error:
            raise self._error(
                error.errno or errno.EIO,
                "the guardian process, which cleans up after this one, could not be started: "
                f"{error}; it needs Linux 5.3, the Python interpreter {sys.executable!r} and the "
                f"file {guardian_process.__file__}",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Undo everything, and wait for it; an error says what is left behind, to be removed.

        A first Ctrl-C waits as well; a second one doesn't, and the guardian goes on alone.
        """
        if os.getpid() != self._owner:
            return
        interrupt: KeyboardInterrupt | None = None
        try:
            failures = self._finish()
        except KeyboardInterrupt as error:
            interrupt = error
            failures = self._finish()
        if failures:
            left = "left behind, to be removed by hand: " + "; ".join(failures)
            raise self._error(errno.EBUSY, left)
        if interrupt:
            raise interrupt

    def remember(self, step: str, *arguments: Argument) -> None:
        """Have ``step`` of `guardian_process.UNDO` done in the end; call it before the change."""
        self._request("remember", step, *arguments)

    def act(self, action: str, *arguments: Argument) -> Argument:
        """Have ``action`` of `guardian_process.ACTIONS` done now and undone in the end."""
        return self._request("act", action, *arguments)

    def _request(self, verb: str, name: str, *arguments: Argument) -> Argument:
        with self._lock:
            self._number += 1
            self._send([self._number, verb, name, *arguments])
            answer = self._receive()
            # Older answers are those to requests that an interrupt cut short.
            while answer and answer["number"] != self._number:
                answer = self._receive()
            if not answer:
                raise self._error(
                    errno.EPIPE,
                    "the guardian process, which cleans up after this one, was killed; "
                    "nothing further is changed",
                )
            if "error" in answer:
                raise self._error(answer["errno"], answer["error"])
            self._steps.append(answer["step"])
            value: Argument = answer["value"]
            return value

    def _finish(self) -> list[str]:
        # Said in words: the end of the pipe doesn't reach it while a forked child holds a copy.
        self._send([0, "finish"])
        while answer := self._receive():
            # Kept on self: an interrupt may have this method called again.
            self._failures = answer.get("failures")
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        if self._failures is None:
            self._failures = guardian_process.undo(self._steps)
        return self._failures

    def _send(self, request: list[Argument]) -> None:
        pipe = self._process.stdin
        if pipe and not pipe.closed:
            try:
                pipe.write(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                return  # It is gone; reading its answer says so.

    def _receive(self) -> dict[str, Any] | None:
        pipe = self._process.stdout
        while b"\n" not in self._received:
            data = os.read(pipe.fileno(), 1 << 16) if pipe and not pipe.closed else b""
            if not data:
                return None
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer
