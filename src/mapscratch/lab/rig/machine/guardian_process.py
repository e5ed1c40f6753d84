# SPDX-License-Identifier: Apache-2.0
"""The process that puts things back; `mapscratch.lab.rig.machine.guardian` starts it and says why.

It runs as a script, outside of the package and with nothing but the standard library, so that it
needs no more than this file. What can be undone is in `UNDO`, what it does itself is in `ACTIONS`.

The protocol: the owner writes one JSON array a line, ``[number, verb, name, arguments...]``, and
gets one JSON object a line back, with the same number. The verbs are ``remember`` (an undo step),
``act`` (an action, whose undo step is remembered before the answer goes out) and ``finish``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import sys
import syslog
import time
from collections.abc import Callable, Iterable
from typing import Any

Argument = str | int
Step = list[Any]  # a name in `UNDO` and its arguments

# Seconds in which the kernel may refuse with "busy" or "no memory" before that is a failure.
_PATIENCE = 30.0
_RETRIED = {errno.EBUSY, errno.ENOMEM, errno.EINTR, errno.EAGAIN}


def undo(steps: Iterable[Step]) -> list[str]:
    """Undo steps, the last first; each may have been undone before, or never been done.

    What failed is returned, a sentence each.
    """
    failures = []
    for name, *arguments in reversed(list(steps)):
        try:
            UNDO[name](*arguments)
        except Exception as error:  # Whatever went wrong with one, the others are still to do.
            failures.append(f"{name} {' '.join(map(str, arguments))}: {error}")
    return failures


def write(path: str | os.PathLike[str], text: str) -> None:
    """By one system call, as settings want it: a buffer would report its error only on closing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def remove_swap_file(path: str) -> None:
    """End swapping to a file and remove it. A file still in use is kept: it can be tried again."""
    swap_off(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_zram(device: int) -> None:
    """End swapping to a zram device and remove the device."""
    swap_off(f"/dev/zram{device}")
    # udev and the like open new block devices for a moment: busy until they have looked.
    _patiently(lambda: write("/sys/class/zram-control/hot_remove", str(device)), errno.ENODEV)


def stop_merging(path: str, value: str) -> None:
    """Give KSM's setting `run` its former value, with no page merged that wasn't before.

    0 alone leaves merged what is: then the next store to it by any process is a page fault. What 2
    undoes is everything, so nothing may have been merged before.
    """
    _patiently(lambda: write(path, "2"))
    write(path, value)


def return_process(group: str, pid: int, home: str) -> None:
    """Move a process back to the control group it came from, if it is still in ``group``."""
    if pid in _processes(group):
        _move(pid, home)


def remove_group(group: str, home: str) -> None:
    """Move what is left in a control group to ``home``, and remove the group."""

    def empty_and_remove() -> None:
        for pid in _processes(group):
            _move(pid, home)
        os.rmdir(group)

    _patiently(empty_and_remove, errno.ENOENT)


_STEPS = (remove_swap_file, remove_zram, write, stop_merging, return_process, remove_group)
UNDO: dict[str, Callable[..., None]] = {step.__name__: step for step in _STEPS}


def add_zram() -> tuple[int, Step]:
    """Make a zram device; only the one who made it knows that it is ours to remove."""
    with open("/sys/class/zram-control/hot_add", encoding="ascii") as file:
        device = int(file.read())
    return device, ["remove_zram", device]


def change_setting(path: str, value: str) -> tuple[str, Step]:
    """Change a kernel setting and keep others who do so through this function from doing it.

    The lock is on the setting's own file and lasts as long as this process: two that nest in the
    wrong order would otherwise leave behind what the other one had set.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    _patiently(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))
    former = os.read(descriptor, 4096).decode().strip()
    write(path, value)
    return former, ["write", path, former]


def start_merging(path: str) -> tuple[str, Step]:
    """Turn on KSM by its setting `run`, as `change_setting` does, and unmerge in the end."""
    former, _ = change_setting(path, "1")
    return former, ["stop_merging", path, former]


_ACTIONS = (add_zram, change_setting, start_merging)
ACTIONS: dict[str, Callable[..., tuple[Argument, Step]]] = {one.__name__: one for one in _ACTIONS}


def swap_off(path: str) -> None:
    """End swapping to a file or device. That it is no swap area, or not there, is no error."""
    _patiently(lambda: call_libc("swapoff", os.fsencode(path)), errno.EINVAL, errno.ENOENT)


def call_libc(name: str, *arguments: object) -> None:
    """A system call that Python has no name for; OSError if it answers with anything but 0."""
    import ctypes  # Not at the top: where a Python lacks it, all but swap is still undone.

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _obey_until_the_end(owner: int, steps: list[Step]) -> None:
    """Do what standard input says until the owner, a pidfd, finishes, closes it, or is no more.

    The pipe alone would not do: a forked child of the owner holds a copy of its end.
    """
    received = b""
    finished = False
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(owner, select.POLLIN)
    while not finished:
        ready = {descriptor for descriptor, _ in poll.poll()}
        data = os.read(0, 1 << 16) if 0 in ready and owner not in ready else b""
        if not data:
            break
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            number, verb, *request = json.loads(line)
            finished = finished or verb == "finish"
            if not finished:
                _answer({"number": number, **_obey(verb, request, steps)})


def _obey(verb: str, request: Step, steps: list[Step]) -> dict[str, Any]:
    if verb == "remember":
        steps.append(request)
        return {"step": request, "value": 0}
    name, *arguments = request
    try:
        value, step = ACTIONS[name](*arguments)
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "error": error.strerror or str(error)}
    steps.append(step)
    return {"step": step, "value": value}


def _answer(answer: dict[str, Any]) -> bool:
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


def _patiently(call: Callable[[], object], *harmless: int) -> None:
    end = time.monotonic() + _PATIENCE
    pause = 0.005
    while True:
        try:
            call()
            return
        except OSError as error:
            if error.errno in harmless:
                return
            if error.errno not in _RETRIED or time.monotonic() > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def _processes(group: str) -> list[int]:
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return []


def _move(pid: int, group: str) -> None:
    with contextlib.suppress(ProcessLookupError):  # A process that has ended needs no moving.
        write(f"{group}/cgroup.procs", str(pid))


def main() -> None:
    """Shield this process from what ends its owner, then obey that, and undo all in the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    # An ordinary user may not; the out-of-memory killer prefers larger processes anyway.
    with contextlib.suppress(OSError):
        write("/proc/self/oom_score_adj", "-1000")
    steps: list[Step] = []
    try:
        _obey_until_the_end(int(sys.argv[1]), steps)
    finally:
        failures = undo(steps)
        if not _answer({"failures": failures}):
            for failure in failures:
                syslog.syslog(syslog.LOG_ERR, f"mapscratch: not cleaned up: {failure}")


if __name__ == "__main__":
    main()
