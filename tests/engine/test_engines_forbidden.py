# SPDX-License-Identifier: Apache-2.0
"""What is said where a system call is refused: the advice that fits that call and that errno."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support import seccomp
from support.files import PatternFile
from support.interpreter import run_python

from mapscratch.engine import forbidden
from mapscratch.engine.forbidden import reason, remedy

pytestmark = pytest.mark.skipif(
    not seccomp.is_supported(), reason="the system call numbers of this processor aren't known here"
)

UNDER_A_FILTER = """
    import sys
    from support.seccomp import forbid
    from support.ordinary_user import become_ordinary_user
    call, error, user = sys.argv[1:]
    forbid(call, error=int(error))
    import mapscratch
    if user == "ordinary":
        become_ordinary_user()  # root would be let in by the device
    status = {status.name: status for status in mapscratch.engines()}["lazyfree"]
    assert not status.available
    print(status.reason)
    print(status.remedy)
"""


def told(call: str, error: int, user: str = "ordinary") -> tuple[str, str]:
    output = run_python(UNDER_A_FILTER, call, error, user).stdout
    reason, remedy = output.splitlines()
    assert reason == f"{call} is not allowed here: {os.strerror(error)}."
    assert "seccomp" in remedy  # there is a filter
    return reason, remedy


CALLS = ("userfaultfd", "process_vm_readv", "close_range")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("user", ["ordinary", "as it is"])
def test_enosys_is_no_matter_of_privilege(call: str, user: str) -> None:
    _, remedy = told(call, errno.ENOSYS, user)
    assert "run as root" not in remedy
    assert "Neither privilege nor" in remedy
    assert call in remedy
    expected = {"userfaultfd": "CONFIG_USERFAULTFD", "close_range": "Linux 5.9"}
    assert expected.get(call, "CONFIG_CROSS_MEMORY_ATTACH") in remedy


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("user", ["ordinary", "as it is"])
def test_eacces_is_a_security_module_s(call: str, user: str) -> None:
    _, remedy = told(call, errno.EACCES, user)
    assert "SELinux" in remedy
    assert f"To allow {call}" in remedy
    assert "run as root" not in remedy
    assert "sysctl" not in remedy


def test_eperm_of_userfaultfd_is_a_matter_of_privilege_and_of_the_filter() -> None:
    _, remedy = told("userfaultfd", errno.EPERM)
    assert "run as root" in remedy
    assert "/dev/userfaultfd" in remedy
    assert "close_range" in remedy
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip()
    assert ("vm.unprivileged_userfaultfd=1" in remedy) == (setting == "0")


@pytest.mark.parametrize("call", ["process_vm_readv", "close_range"])
@pytest.mark.parametrize("user", ["ordinary", "as it is"])
def test_eperm_of_another_call_is_the_filter_s_alone(call: str, user: str) -> None:
    _, remedy = told(call, errno.EPERM, user)
    assert call in remedy
    assert "run as root" not in remedy
    assert "/dev/userfaultfd" not in remedy


# --- what can be known


@pytest.fixture
def without_filter(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(forbidden, "has_seccomp_filter", lambda: False)
    return monkeypatch


def test_without_a_filter_none_is_blamed(without_filter: pytest.MonkeyPatch) -> None:
    for call in CALLS:
        assert "profile" not in remedy(call, errno.EPERM)
        assert "profile" not in remedy(call, errno.EACCES)
        assert "take another kernel" in remedy(call, errno.ENOSYS)


def test_root_is_not_told_to_become_root(without_filter: pytest.MonkeyPatch) -> None:
    without_filter.setattr(os, "geteuid", lambda: 0)
    assert "run as root" not in remedy("userfaultfd", errno.EPERM)
    without_filter.setattr(os, "geteuid", lambda: 1000)
    assert "run as root" in remedy("userfaultfd", errno.EPERM)


def test_a_sysctl_that_is_set_is_not_advised(
    without_filter: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_filter.setattr(forbidden, "_SYSCTL", tmp_path / "sysctl")
    for text, is_advised in (("0\n", True), ("1\n", False)):
        (tmp_path / "sysctl").write_text(text)
        assert ("sysctl" in remedy("userfaultfd", errno.EPERM)) == is_advised


def test_the_device_is_told_with_its_mode_or_as_missing(
    without_filter: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "userfaultfd"
    without_filter.setattr(forbidden, "_DEVICE", str(device))
    assert f"--device {device}" in remedy("userfaultfd", errno.EPERM)
    device.touch(0o640)
    assert "its mode is 0640" in remedy("userfaultfd", errno.EPERM)


def test_limits_have_advice_of_their_own() -> None:
    assert "ulimit -n" in remedy("userfaultfd", errno.EMFILE)
    assert "fs.file-max" in remedy("userfaultfd", errno.ENFILE)
    assert remedy("userfaultfd", errno.EIO) == ""
    assert reason("userfaultfd", errno.EMFILE).endswith(f"{os.strerror(errno.EMFILE)}.")


PINNING = """
    import sys
    from support.seccomp import forbid
    forbid("mlock2", error=int(sys.argv[2]))
    from mapscratch import ScratchMap
    with ScratchMap(sys.argv[1], engine="dontneed") as m:
        try:
            with m.pin():
                pass
        except OSError as error:
            print(error)
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_pin_that_a_sandbox_forbids_is_no_matter_of_a_limit(
    file: PatternFile, error: int
) -> None:
    told = run_python(PINNING, file.path, error).stdout
    assert "mlock2 is not allowed here" in told
    assert "seccomp profile" in told
    assert "ulimit" not in told
