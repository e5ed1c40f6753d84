# SPDX-License-Identifier: Apache-2.0
"""What to do where the kernel refuses engine ``lazyfree`` a system call.

Each errno has causes of its own, and which of them it can be is seen from the process: whether it
has a seccomp filter, privilege, the device, and what the sysctl says.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mapscratch.proc.availability import has_seccomp_filter

_SYSCTL = Path("/proc/sys/vm/unprivileged_userfaultfd")
_DEVICE = "/dev/userfaultfd"
_SELINUX = "/sys/fs/selinux"
_NEEDED = "userfaultfd, close_range and process_vm_readv"

_NOTHING_ELSE = "Neither privilege nor the sysctl vm.unprivileged_userfaultfd changes that."

_MISSING = {
    "userfaultfd": "one without userfaultfd (CONFIG_USERFAULTFD)",
    "close_range": "one older than Linux 5.9, which has no close_range",
    "process_vm_readv": "one without process_vm_readv (CONFIG_CROSS_MEMORY_ATTACH)",
}
_SHORT_OF = {
    errno.EMFILE: "Raise RLIMIT_NOFILE (`ulimit -n`), or close files.",
    errno.ENFILE: "Raise the sysctl fs.file-max: the machine has too many open files.",
    errno.ENOMEM: "The kernel has no memory for it: raise the limit of this control group.",
    errno.EINVAL: "It takes Linux 5.11.",
}


def reason(system_call: str, error: int) -> str:
    """What was refused."""
    return f"{system_call} is not allowed here: {os.strerror(error)}."


def remedy(system_call: str, error: int) -> str:
    """What would allow one of the system calls that are needed; empty where nothing is known.

    Args:
        system_call: ``"userfaultfd"``, ``"close_range"`` or ``"process_vm_readv"``.
        error: the errno value that it gave.
    """
    if error == errno.ENOSYS:
        return _of_a_missing_call(system_call)
    if error == errno.EACCES:
        return _of_a_security_module(system_call)
    if error == errno.EPERM:
        return _to_allow_userfaultfd() if system_call == "userfaultfd" else _of_a_sandbox()
    return _SHORT_OF.get(error, "")


def _in_the_profile() -> str:
    return f"allow the system calls {_NEEDED} in the seccomp profile of this process"


def _of_a_missing_call(system_call: str) -> str:
    kernel = f"The kernel answers like {_MISSING[system_call]}"
    if not has_seccomp_filter():
        return f"{kernel}: take another kernel. {_NOTHING_ELSE}"
    # gVisor and old container runtimes answer so for what they don't know.
    return (
        f"{kernel}, but this process has a seccomp filter, which may answer so: "
        f"{_in_the_profile()} (a newer container runtime knows them). {_NOTHING_ELSE}"
    )


def _of_a_security_module(system_call: str) -> str:
    selinux = "SELinux" if os.path.isdir(_SELINUX) else "SELinux or another"
    ways = [
        f"have the security module allow it ({selinux}: `ausearch -m avc -ts recent` shows what "
        "was denied, `audit2allow` makes a rule of it)"
    ]
    if has_seccomp_filter():
        ways.append(_in_the_profile())
    return f"To allow {system_call}: {'; or '.join(ways)}."


def _of_a_sandbox() -> str:
    if has_seccomp_filter():
        return f"A seccomp filter forbids it: {_in_the_profile()}. {_NOTHING_ELSE}"
    return f"A security module forbids it (there is no seccomp filter). {_NOTHING_ELSE}"


def _to_allow_userfaultfd() -> str:
    """EPERM: what privilege, the sysctl, the device and the filter each would give."""
    ways = []
    if has_seccomp_filter():
        ways.append(_in_the_profile())
    if os.geteuid():
        ways.append("run as root")
    if _text(_SYSCTL) != "1":
        ways.append("`sysctl vm.unprivileged_userfaultfd=1`")
    ways.append(_to_open_the_device())
    return f"To allow userfaultfd: {', or '.join(ways)}."


def _to_open_the_device() -> str:
    try:
        mode = stat.S_IMODE(os.stat(_DEVICE).st_mode)
    except OSError:
        return f"give it {_DEVICE} (Linux 6.1; in a container `--device {_DEVICE}`)"
    return f"give this user access to {_DEVICE} (its mode is {mode:04o})"


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
