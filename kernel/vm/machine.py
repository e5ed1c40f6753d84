# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine that boots a kernel over the host's own root, does a job, and is gone.

QEMU emulates the processor (TCG): no privilege and no /dev/kvm is needed, and timings compare
only to each other. The host's root is the guest's, read-only by 9p; test files live on an ext4
disk, swap on another, both sparse files in a temporary directory that is removed at the end.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent.parent
QEMU = "qemu-system-x86_64"
DISK_MIB = 1024
SWAP_MIB = 512
SECONDS_TO_BOOT = 120
SILENCE_MARGIN = 60
"""So long after a step's limit the guest, which should have ended it, is taken for dead."""
SLOWNESS = TREE / "tests" / "support" / "patience.py"
"""Says by what the limits of an idle machine are to be multiplied."""


class MachineError(RuntimeError):
    """The machine could not be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command in the guest.

    Attributes:
        name: for people.
        command: program and arguments.
        limit: seconds until it is killed, on an idle machine.
        environment: variables on top of the guest's.
        directory: where it runs; the ext4 disk by default.
    """

    name: str
    command: tuple[str, ...]
    limit: int
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "/run/ext4"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended: its exit status, seconds, and all that it printed."""

    name: str
    status: int
    seconds: float
    timed_out: bool
    output: str


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    Attributes:
        steps: as far as it came.
        ended: the guest came to the end of its job.
        complaints: lines of the kernel's log that no healthy run has.
        why: why it didn't come to the end; empty if it did.
        share: files that the steps left, by name.
    """

    steps: tuple[StepResult, ...]
    ended: bool
    complaints: tuple[str, ...]
    why: str
    share: dict[str, bytes]

    @property
    def good(self) -> bool:
        """Every step ended with 0 and the kernel had nothing to complain of."""
        return self.ended and not self.complaints and all(not s.status for s in self.steps)


def check_host() -> None:
    """Sees to it that a machine can be started from here.

    Raises:
        MachineError: it can't; the message says what to do.
    """
    if not shutil.which(QEMU):
        raise MachineError(f"{QEMU} is missing: apt install qemu-system-x86")
    for path in (str(TREE), sys.executable):
        if re.search(r"[\s\"]", path):
            raise MachineError(f"{path}: a path with spaces can't be given to a kernel as it boots")
        if re.match(r"/(run|dev|proc|sys|mnt)/", path):
            raise MachineError(
                f"{path}: the guest has something else there; clone to another place"
            )


def _make_disks(directory: Path) -> None:
    for name, size in (("disk", DISK_MIB), ("swap", SWAP_MIB)):
        image = directory / name
        image.touch(mode=0o600)
        os.truncate(image, size << 20)
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for command in (("mkfs.ext4", "-q", "-F", "disk"), ("mkswap", "swap")):
        program = shutil.which(command[0], path=path)
        if not program:
            raise MachineError(f"{command[0]} is missing: apt install e2fsprogs util-linux")
        subprocess.run(
            [program, *command[1:]],
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it warns that a sparse file is no good swapfile
        )


def _command(image: Path, directory: Path, memory_mib: int, processors: int) -> list[str]:
    drive = "if=virtio,format=raw,cache=unsafe"
    export = "security_model=none,multidevs=remap"
    arguments = (
        "console=ttyS0 quiet panic=-1 oops=panic log_buf_len=16M root=/dev/root rootfstype=9p ro "
        "rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=524288 "
        f"init={TREE}/kernel/vm/init.sh GUEST_TREE={TREE} GUEST_PYTHON={sys.executable}"
    )
    return [
        QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(processors),
        "-m", f"{memory_mib}M", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
        "-fsdev", f"local,id=root,path=/,readonly=on,{export}",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=/dev/root",
        "-fsdev", f"local,id=share,path={directory / 'share'},{export}",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
        "-drive", f"file={directory / 'disk'},{drive}",
        "-drive", f"file={directory / 'swap'},{drive}",
        "-kernel", str(image), "-append", arguments,
    ]  # fmt: skip


def _measure_slowness() -> float:
    """Of this machine, which others use too, and so of what is emulated on it."""
    found = subprocess.run([sys.executable, str(SLOWNESS)], check=True, stdout=subprocess.PIPE)
    return float(found.stdout)


def _watch(
    process: subprocess.Popen[bytes], steps: tuple[Step, ...], slowness: float, quietly: bool
) -> str:
    """Relays the console until the guest is gone; why it was killed, or an empty string."""
    assert process.stdout
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    limits = {step.name: step.limit for step in steps}
    deadline = time.monotonic() + SECONDS_TO_BOOT * slowness
    doing = "boot"
    rest = b""
    while True:
        left = deadline - time.monotonic()
        if left < 0 or not selector.select(timeout=left):
            return f"the guest hangs in: {doing}"
        got = os.read(process.stdout.fileno(), 1 << 16)
        if not got:
            return ""
        *lines, rest = (rest + got).split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace").rstrip("\r")
            if line.startswith("== "):
                doing = line[3:].rpartition(" (at most")[0]
                deadline = time.monotonic() + limits.get(doing, 0) + SILENCE_MARGIN * slowness
            if not quietly:
                print(line, flush=True)


def run_job(
    image: Path,
    steps: tuple[Step, ...],
    *,
    memory_mib: int = 768,
    processors: int = 2,
    lru_gen: bool = False,
    quietly: bool = False,
) -> JobResult:
    """Boots the kernel and runs the steps, with live output; leaves nothing behind.

    Args:
        image: a bzImage.
        steps: in this order, whatever becomes of those before.
        memory_mib: of the guest.
        processors: of the guest.
        lru_gen: reclaim by multi-generational LRU lists and not by the classic ones.
        quietly: don't relay what the guest prints.

    Raises:
        MachineError: there is no QEMU, or something else that the host lacks.
    """
    check_host()
    slowness = _measure_slowness()
    steps = tuple(replace(step, limit=round(step.limit * slowness)) for step in steps)
    with tempfile.TemporaryDirectory(prefix="mapscratch-guest-") as name:
        directory = Path(name)
        share = directory / "share"
        share.mkdir()
        _make_disks(directory)
        job = {
            "lru_gen": lru_gen,
            "steps": [
                {
                    "name": step.name, "command": step.command, "limit": step.limit,
                    "environment": step.environment, "directory": step.directory,
                }
                for step in steps
            ],
        }  # fmt: skip
        (share / "job.json").write_text(json.dumps(job))
        process = subprocess.Popen(
            _command(image, directory, memory_mib, processors),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to hear; the machine is then killed below
        )
        try:
            why = _watch(process, steps, slowness, quietly)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return _read_results(share, why)


def _read_results(share: Path, why: str) -> JobResult:
    document: dict[str, Any] = {"steps": [], "ended": False}
    results = share / "results.json"
    if results.exists():
        document = json.loads(results.read_text())
    ended = bool(document["ended"]) and not why
    return JobResult(
        steps=tuple(StepResult(**step) for step in document["steps"]),
        ended=ended,
        complaints=tuple(document.get("complaints", ())),
        why=why or ("" if ended else "the guest died: its last lines say why"),
        share={
            file.name: file.read_bytes()
            for file in share.iterdir()
            if file.is_file() and file.name not in ("job.json", "results.json")
        },
    )
