# SPDX-License-Identifier: Apache-2.0
"""Whether something privileged can be done here, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

_CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h


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
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
