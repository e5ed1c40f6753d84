# SPDX-License-Identifier: Apache-2.0
"""The process that runs a Python fixup, and the side that starts it.

The pager (``libscratch/helper.c``) connects to the process's abstract socket, hands it a piece of
shared memory, and asks for units by number; the process decodes them there and answers. A forked
child of the reader has a pager and so a connection of its own. The process ends when its owner has
let go of it and nobody is connected any more.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import spawn
from typing import Any, BinaryIO, NoReturn

import numpy as np

from mapscratch._native import STAGING_BYTES
from mapscratch.errors import UserError
from mapscratch.fixups.numbers import DType

# Both as in libscratch/helper.c.
_QUESTION = struct.Struct("=QQQ")
_ANSWER = struct.Struct("=Qq480s")
_QUESTIONS = 2  # at a time, each with memory of its own
_FAILED = 1


class FixupError(UserError, RuntimeError):
    """A Python fixup can't be used: it raised an exception, or its process didn't start."""


@dataclass(frozen=True)
class Job:
    """What is decoded how: a Python fixup and the geometry of its array (see `Decoding`)."""

    function: Callable[..., Any]
    index: bool
    items: int
    descriptor: int
    offset: int
    source: DType
    source_length: int
    output: DType
    output_items: int
    unit_items: int
    unit_source_length: int

    def decode(self, first_unit: int, units: int) -> np.ndarray[Any, DType]:
        """The output items of some units.

        Raises:
            ValueError: the function made another number of items.
            OSError: the file no longer has the bytes.
            Exception: whatever the function raises.
        """
        start = first_unit * self.unit_source_length
        length = min(units * self.unit_source_length, self.source_length - start)
        encoded = os.pread(self.descriptor, length, self.offset + start)
        if len(encoded) < length:
            raise OSError("the file no longer has these bytes (it shrank)")
        source = np.frombuffer(encoded, self.source)
        first = start // self.source.itemsize
        made = np.asarray(self.function(source, first) if self.index else self.function(source))
        if made.size != len(source) * self.items:
            raise ValueError(
                f"the function made {made.size} items out of {len(source)} source items; "
                f"{len(source) * self.items} were expected"
            )
        wanted = min(units * self.unit_items, self.output_items - first_unit * self.unit_items)
        return made.reshape(-1)[:wanted].astype(self.output, casting="same_kind", copy=False)


class FixupProcess:
    """A process for one array's fixup, from its owner's side.

    Args:
        job: what it does; its function is pickled.

    Raises:
        FixupError: the function can't be pickled, raises on the first block, or no process runs.
    """

    def __init__(self, job: Job) -> None:
        self._owner = os.getpid()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from mapscratch.fixup_process import main; main()"
        )
        # Of a process that has closed its standard input the file may be number 0, which is the
        # other's pipe.
        descriptor = fcntl.fcntl(job.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._process = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[descriptor],
            )
        finally:
            os.close(descriptor)
        try:
            self.address = self._handshake(replace(job, descriptor=descriptor))
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _handshake(self, job: Job) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            pickled, needs_main = _pickle(job)
            self._process.stdin.write(pickle.dumps(_preparation(needs_main)))
            self._process.stdin.write(pickled)
            self._process.stdin.flush()
            address, problem = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise FixupError(
                "the process of a Python fixup ended before it was ready (exit status "
                f"{self._process.wait()}); what it wrote to standard error says why"
            ) from None
        if problem:
            raise FixupError(f"the Python fixup fails on the first block: {problem}")
        return str(address)

    def close(self) -> None:
        """Lets go of it: it ends when nobody is connected to it any more."""
        if os.getpid() != self._owner or self._process.stdin is None:
            return
        with suppress(OSError):  # it has ended
            self._process.stdin.write(b"bye")
            self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()
        with suppress(subprocess.TimeoutExpired):  # a forked child is connected to it
            self._process.wait(1)


def _preparation(needs_main: bool) -> dict[str, Any]:
    """What a spawned process needs to find the same modules.

    To find what stands in ``__main__`` it runs the main script once more, as multiprocessing does:
    only if it must.
    """
    preparation = spawn.get_preparation_data("mapscratch")
    del preparation["authkey"]  # a secret, and nothing here asks for it
    # Nothing here starts processes, and in a worker of joblib it is "loky", which none knows.
    preparation.pop("start_method", None)
    if not needs_main:
        preparation.pop("init_main_from_name", None)
        preparation.pop("init_main_from_path", None)
    return preparation


def _pickle(job: Job) -> tuple[bytes, bool]:
    """The job, and whether it can only be unpickled where the main script has been run."""
    reason = ""
    try:
        pickled = pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        reason = str(error)
    if not reason and b"__main__" not in pickled:
        return pickled, False
    try:
        import cloudpickle
    except ImportError:
        if not reason:
            return pickled, True
        raise FixupError(
            f"a Python fixup's function must be one that another process can import ({reason}); "
            "put it into a module, or install cloudpickle, which takes lambdas, too"
        ) from None
    return cloudpickle.dumps(job), False


def main() -> NoReturn:
    """Runs in the process: takes the job from standard input, tries it, and serves it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader's; it may need us while it cleans up
    owner, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not get into the answers
    problem: str | None = None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        spawn.prepare(pickle.load(owner))
        job = pickle.load(owner)
        job.decode(0, 1)
        listener.bind("")  # the kernel picks an unused abstract name (unix(7))
        listener.listen()
    except BaseException as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
    address = listener.getsockname()
    pickle.dump((address[1:].decode() if address else None, problem), answers)
    answers.close()
    if not problem:
        _serve(listener, owner, job)
    sys.exit(1 if problem else 0)


class _Connection:
    """One pager and the memory that it shares with us."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.memory: mmap.mmap | None = None

    def serve(self, job: Job) -> bool:
        """Answers one message; False if the pager has gone."""
        if self.memory is None:
            message, descriptors, _, _ = socket.recv_fds(self.socket, 1, 1)
            if not message or not descriptors:
                return False
            self.memory = mmap.mmap(descriptors[0], _QUESTIONS * STAGING_BYTES)
            os.close(descriptors[0])
            return True
        message = self.socket.recv(_QUESTION.size)
        if len(message) != _QUESTION.size:
            return False
        number, first_unit, units = _QUESTION.unpack(message)
        error, text = 0, ""
        try:
            room = np.frombuffer(self.memory, np.uint8, STAGING_BYTES, number * STAGING_BYTES)
            _decode_into(room, job, first_unit, units)
        except BaseException as raised:
            traceback.print_exc()
            error, text = _FAILED, f"its fixup raised {type(raised).__name__}: {raised}"
        self.socket.send(_ANSWER.pack(number, error, text.encode(errors="replace")[:479]))
        return True


def _decode_into(room: np.ndarray[Any, DType], job: Job, first_unit: int, units: int) -> None:
    made = job.decode(first_unit, units)
    used = made.nbytes
    room[:used].view(job.output)[:] = made
    room[used : units * job.unit_items * job.output.itemsize] = 0


def _serve(listener: socket.socket, owner: BinaryIO, job: Job) -> None:
    has_owner = True
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(owner, selectors.EVENT_READ)
        connections = 0
        while has_owner or connections:
            for key, _ in selector.select():
                if key.fileobj is owner:
                    has_owner = False
                    selector.unregister(owner)
                elif key.fileobj is listener:
                    connections += _accept(listener, selector)
                elif not _still_serves(key.data, job):
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                    connections -= 1


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> int:
    connected, _ = listener.accept()
    # Anybody on this machine can find an abstract socket; the file is for our user's eyes.
    peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", peer)
    if user not in (os.getuid(), 0):
        connected.close()
        return 0
    selector.register(connected, selectors.EVENT_READ, _Connection(connected))
    return 1


def _still_serves(connection: _Connection, job: Job) -> bool:
    try:
        return connection.serve(job)
    except OSError:  # the pager's process has ended
        return False
