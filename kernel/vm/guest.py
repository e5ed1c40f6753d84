# SPDX-License-Identifier: GPL-2.0-only
"""What runs in the guest: one step of a job after the other, each with a time limit of its own.

The host puts ``job.json`` into a shared directory and finds ``results.json`` there, written anew
after each step, so that a guest that dies tells how far it came. Everything that a step prints goes
to the console at once. At the end the kernel's log is searched for what it complains of.

Started by ``init.sh`` as the first process of the guest; the standard library is all there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SHARE = Path("/run/share")
COMPLAINTS = re.compile(
    r"WARNING:|BUG:|Oops:|Bad page|Bad rss|page_table_check|general protection|blocked for more"
    r"|self-detected stall|detected stalls|list_(add|del) corruption|EXT4-fs error|going negative"
)
POWER_OFF = 0x4321FEDC  # include/uapi/linux/reboot.h


def bring_up_loopback() -> None:
    """Programs under test talk to themselves."""
    request = struct.pack("16sh14x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def run_step(step: dict[str, Any]) -> dict[str, Any]:
    """Runs a step to its end or its limit; its children are ended with it."""
    name, limit = step["name"], step["limit"]
    print(f"== {name} (at most {limit} s)", flush=True)
    began = time.monotonic()
    lines: list[str] = []
    process = subprocess.Popen(
        step["command"],
        cwd=step.get("directory", "/run/ext4"),
        env=os.environ | step.get("environment", {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def relay() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            print(f"  {line}", end="", flush=True)

    reader = threading.Thread(target=relay, daemon=True)
    reader.start()
    try:
        status = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
        print(f"  not at its end after {limit} s: it hangs, and is killed", flush=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    reader.join(timeout=5)
    seconds = time.monotonic() - began
    print(f"-- {name}: exit status {status}, {seconds:.0f} s", flush=True)
    return {
        "name": name,
        "status": status,
        "seconds": round(seconds, 1),
        "timed_out": seconds >= limit,
        "output": "".join(lines),
    }


def kernel_complaints(log: str) -> list[str]:
    """Lines of the kernel's log that no healthy run has."""
    return [line for line in log.splitlines() if COMPLAINTS.search(line)]


def main() -> None:
    """Runs the job."""
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    os.environ |= {"HOME": "/root", "TERM": "dumb", "COLUMNS": "100", "LANG": "C.UTF-8"}
    job = json.loads((SHARE / "job.json").read_text())
    bring_up_loopback()
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    if "lru_gen" in job:
        Path("/sys/kernel/mm/lru_gen/enabled").write_text("y" if job["lru_gen"] else "n")
    print(f"guest: Linux {os.uname().release}, {os.cpu_count()} processors", flush=True)
    results: list[dict[str, Any]] = []
    for step in job["steps"]:
        results.append(run_step(step))
        (SHARE / "results.json").write_text(json.dumps({"steps": results, "ended": False}))
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    (SHARE / "dmesg").write_text(log)
    document = {"steps": results, "ended": True, "complaints": kernel_complaints(log)}
    (SHARE / "results.json").write_text(json.dumps(document))
    os.sync()


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        print(f"guest: {error!r}", flush=True)
    sys.stdout.flush()
    ctypes.CDLL(None).reboot(ctypes.c_int(POWER_OFF - (1 << 32) if POWER_OFF >> 31 else POWER_OFF))
