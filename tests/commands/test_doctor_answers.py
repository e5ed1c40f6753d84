# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch doctor` says first is what a program finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import seccomp
from support.interpreter import run_python

needs_seccomp = pytest.mark.skipif(
    not seccomp.is_supported(), reason="no system call numbers for this machine"
)

ASK = """
import dataclasses, json
import mapscratch.doctor.answers as answers
{before}
print(json.dumps([dataclasses.asdict(answer) for answer in answers.ask()]))
"""


def ask(before: str = "") -> list[dict[str, Any]]:
    """In a process of its own, after something was done to it; warnings are errors."""
    done = run_python(ASK.format(before=before), options=("-W", "error"))
    assert done.stderr == ""
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(found) == 3
    return found


def test_with_privilege_all_of_it_works(lazyfree: str, purgeable_pages: None) -> None:
    from mapscratch import engines

    served = next(one for one in engines() if one.name == "lazyfree").system_calls
    array, calls, cache = ask()
    assert array["works"] and cache["works"]
    assert calls["works"] is served
    assert not array["remedy"] and not cache["remedy"]


def test_an_ordinary_user_is_told_about_system_calls(lazyfree: str) -> None:
    array, calls, _ = ask(
        "from support.ordinary_user import become_ordinary_user; become_ordinary_user()"
    )
    assert array["works"]
    if not calls["works"]:  # vm.unprivileged_userfaultfd may be 1
        assert "EFAULT" in calls["why"]
        assert "/dev/userfaultfd" in calls["remedy"] and "np.save" in calls["remedy"]


@needs_seccomp
def test_where_userfaultfd_is_forbidden_the_cache_works(purgeable_pages: None) -> None:
    array, calls, cache = ask(
        "from support import seccomp; seccomp.forbid('userfaultfd', 'process_vm_readv')"
    )
    assert not array["works"] and "is not allowed here" in array["why"]
    assert "seccomp profile" in array["remedy"]
    assert not calls["works"]
    assert cache["works"]


@needs_seccomp
def test_a_sandbox_that_forbids_the_thread_is_found_by_trying(lazyfree: str) -> None:
    array, *_ = ask(
        "from support import seccomp; import errno\n"
        "from mapscratch import _native\n"
        "seccomp.forbid('clone', 'clone3', error=errno.EPERM)"
    )
    assert not array["works"]
    assert "Operation not permitted" in array["why"]


def test_a_cache_that_the_kernel_takes_nothing_from(lazyfree: str) -> None:
    *_, cache = ask("from mapscratch.cache import purgeable; purgeable.why_not = lambda: 'locked'")
    assert not cache["works"]
    assert "locked" in cache["why"]
    assert "max_bytes" in cache["remedy"]


def test_wrong_values_are_no_yes(lazyfree: str) -> None:
    array, *_ = ask("answers._read_an_array = lambda: False")
    assert not array["works"]
    assert "WRONG" in array["why"]
