# SPDX-License-Identifier: Apache-2.0
"""Whether something privileged can be done here, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

from mapscratch.proc.procfs import read_text

_CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h
_SECCOMP_MODE_FILTER = 2  # include/uapi/linux/seccomp.h


@dataclass(frozen=True, slots=True)
class Availability:
    """The answer of a probe, which has changed nothing.

    Attributes:
        available: whether it is expected to work.
        reason: one sentence: how it will be done, or what forbids it and what to do.
    """

    available: bool
    reason: str

    def __bool__(self) -> bool:
        """The same as `available`."""
        return self.available


def has_system_administration() -> bool:
    """Whether this process has CAP_SYS_ADMIN, which is what counts, not the user's number."""
    return bool(int(_status("CapEff") or "0", 16) >> _CAP_SYS_ADMIN & 1)


def has_seccomp_filter() -> bool:
    """Whether a filter of system calls is on this process: its own, its container's, its unit's."""
    return _status("Seccomp") == str(_SECCOMP_MODE_FILTER)


def _status(name: str) -> str:
    """A line of /proc/self/status; empty if it isn't there."""
    # By line feeds alone: the program's name, which stands there too, may hold a carriage return.
    for line in read_text("/proc/self/status").split("\n"):
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""
