# SPDX-License-Identifier: Apache-2.0
"""The process that runs a Python fixup, and the side that starts it.

The pager (``libscratch/helper.c``) connects to the process's abstract socket, hands it a piece of
shared memory, and asks for units by number; the process decodes them there and answers. A forked
child of the reader has a pager and so a connection of its own: the process gets its end of that
through the socket of its owner, because the child may be another user or in another network
namespace. Whoever connects shows a key, which only the owner and its children know. The process
ends when its owner has let go of it and nobody is connected any more.
"""

from __future__ import annotations

import fcntl
import hmac
import math
import mmap
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import spawn
from typing import Any, NoReturn

import numpy as np

from mapscratch._native import HELPER_KEY_BYTES, STAGING_BYTES
from mapscratch.engine import Helper
from mapscratch.errors import UserError
from mapscratch.fixups.numbers import DType

# Both as in libscratch/helper.c.
_QUESTION = struct.Struct("=QQQ")
_ANSWER = struct.Struct("=Qq480s")
_QUESTIONS = 2  # at a time, each with memory of its own
_FAILED = 1
# To the process, from its owner; a connection comes with any other byte.
_FAREWELL = b"b"
_GRACE_SECONDS = 1.0
_STRANGERS = 16  # who may be connected without having shown the key


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
            "from mapscratch.arrays.fixup_process import main; main()"
        )
        # Of a process that has closed its standard input the file may be number 0, which is the
        # other's pipe.
        descriptor = fcntl.fcntl(job.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        self._socket, theirs = socket.socketpair()
        self._socket_file = _file_of(self._socket)
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), "-c", program],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                pass_fds=[descriptor],
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
            os.close(descriptor)
        try:
            self.helper = self._handshake(replace(job, descriptor=descriptor))
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._socket.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _handshake(self, job: Job) -> Helper:
        assert self._process.stdout
        key = os.urandom(HELPER_KEY_BYTES)
        try:
            pickled, needs_main = _pickle(job)
            self._socket.sendall(pickle.dumps((_preparation(needs_main), key)))
            self._socket.sendall(pickled)
            with self._process.stdout as answers:
                address, problem = pickle.load(answers)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise FixupError(
                "the process of a Python fixup ended before it was ready (exit status "
                f"{self._process.wait()}); what it wrote to standard error says why"
            ) from None
        if problem:
            raise FixupError(f"the Python fixup fails on the first block: {problem}")
        return Helper(str(address), key, self._socket.fileno())

    def close(self) -> None:
        """Lets go of it: it ends when nobody is connected to it any more."""
        self._close_socket()
        if os.getpid() != self._owner:
            return
        with suppress(subprocess.TimeoutExpired):  # a forked child is connected to it
            self._process.wait(1)

    def _close_socket(self) -> None:
        """Unless somebody has closed it, and another file has got its number."""
        with suppress(OSError):
            if _file_of(self._socket) != self._socket_file:
                self._socket.detach()
            elif os.getpid() == self._owner:
                self._socket.send(_FAREWELL, socket.MSG_DONTWAIT)
        with suppress(OSError):
            self._socket.close()


def _file_of(opened: socket.socket) -> tuple[int, int]:
    status = os.fstat(opened.fileno())
    return status.st_dev, status.st_ino


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
    _allow_many_descriptors()
    owner, answers = socket.socket(fileno=os.dup(0)), os.fdopen(os.dup(1), "wb")
    key = b""
    os.dup2(2, 1)  # what the function prints must not get into the answers
    problem: str | None = None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sent = owner.makefile("rb")
        preparation, key = pickle.load(sent)
        spawn.prepare(preparation)
        job = pickle.load(sent)
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
        _Service(job, key).run(listener, owner)
    sys.exit(1 if problem else 0)


def _allow_many_descriptors() -> None:
    """Every forked child takes two: a connection, and its memory."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # more than a lowered fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Connection:
    """One pager and the memory that it shares with us."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.memory: mmap.mmap | None = None

    def begin(self, key: bytes) -> bool:
        """Takes the memory of who knows the key; False if it is somebody else.

        Anybody on this machine can find an abstract socket; the file is for our user's eyes.
        """
        shown, descriptors, _, _ = socket.recv_fds(self.socket, len(key), 1)
        try:
            if len(descriptors) == 1 and hmac.compare_digest(shown, key):
                self.memory = mmap.mmap(descriptors[0], _QUESTIONS * STAGING_BYTES)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return self.memory is not None

    def serve(self, job: Job) -> bool:
        """Answers one question; False if the pager has gone."""
        message = self.socket.recv(_QUESTION.size)
        if len(message) != _QUESTION.size:
            return False
        number, first_unit, units = _QUESTION.unpack(message)
        error, text = 0, ""
        try:
            assert self.memory is not None
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


class _Service:
    """Who is connected, and whether there is an owner who may make connections."""

    def __init__(self, job: Job, key: bytes) -> None:
        self._job = job
        self._key = key
        self._selector = selectors.DefaultSelector()
        self._known: set[_Connection] = set()  # passed by the owner's socket, or with the key
        self._strangers: list[_Connection] = []
        self._has_owner = True
        self._ends_at = 0.0

    def run(self, listener: socket.socket, owner: socket.socket) -> None:
        """Serves until there is neither an owner nor a connection of somebody known."""
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(owner, selectors.EVENT_READ)
        while (left := self._seconds_left()) > 0:
            for event, _ in self._selector.select(None if left == math.inf else left):
                if event.fileobj is owner:
                    self._hear(owner)
                elif event.fileobj is listener:
                    self._accept(listener)
                elif not self._goes_on(event.data):
                    self._remove(event.data)
            while len(self._strangers) > _STRANGERS:
                self._remove(self._strangers[0])

    def _seconds_left(self) -> float:
        needed = self._has_owner or self._known
        return math.inf if needed else self._ends_at - time.monotonic()

    def _hear(self, owner: socket.socket) -> None:
        """From the owner, or from a child of its, which may fork when the owner has gone."""
        try:
            message, descriptors, _, _ = socket.recv_fds(owner, 1, 1)
        except OSError:
            message, descriptors = b"", []
        for descriptor in descriptors:
            self._known.add(self._connection(socket.socket(fileno=descriptor)))
        if message == _FAREWELL:
            self._has_owner = False
        elif not message:
            self._selector.unregister(owner)
            if self._has_owner:  # somebody has closed all descriptors, and may be about to fork
                self._ends_at = time.monotonic() + _GRACE_SECONDS
            self._has_owner = False

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # no more descriptors
            self._strangers.append(self._connection(listener.accept()[0]))

    def _connection(self, connected: socket.socket) -> _Connection:
        connection = _Connection(connected)
        self._selector.register(connected, selectors.EVENT_READ, connection)
        return connection

    def _remove(self, connection: _Connection) -> None:
        self._known.discard(connection)
        if connection in self._strangers:
            self._strangers.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _goes_on(self, connection: _Connection) -> bool:
        try:
            if connection.memory is None:
                return self._begin(connection)
            return connection.serve(self._job)
        except OSError:  # the pager's process has ended
            return False

    def _begin(self, connection: _Connection) -> bool:
        if not connection.begin(self._key):
            return False
        if connection in self._strangers:
            self._strangers.remove(connection)
            self._known.add(connection)
        return True
