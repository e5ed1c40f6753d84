# SPDX-License-Identifier: Apache-2.0
"""Code run in an interpreter of its own, because it may crash, hang, or change its process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from support.patience import communicate, inheritable, patient
from support.places import TESTS


def start_python(
    code: str,
    *arguments: object,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    interpreter: str = sys.executable,
    path: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """Starts an interpreter on indented code; `arguments` are its sys.argv[1:]."""
    variables = {name: value for name, value in os.environ.items() if name != "MAPSCRATCH_ENGINE"}
    inherited = [variables["PYTHONPATH"]] if "PYTHONPATH" in variables else []
    variables["PYTHONPATH"] = os.pathsep.join((str(TESTS), *path, *inherited))
    return subprocess.Popen(
        [interpreter, *options, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables | inheritable() | (environment or {}),
    )


def run_python(
    code: str,
    *arguments: object,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    interpreter: str = sys.executable,
    path: tuple[str, ...] = (),
    timeout: float = 60,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs indented code to its end.

    Raises:
        AssertionError: it didn't end in time, or (`check`) it failed; its standard error is told.
    """
    process = start_python(
        code,
        *arguments,
        options=options,
        environment=environment,
        interpreter=interpreter,
        path=path,
    )
    with process:
        try:
            output, errors = communicate(process, seconds=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            raise AssertionError(
                f"not at its end after {patient(timeout):.0f} s: it hangs\n{output}\n{errors}"
            ) from None
    if check and process.returncode:
        raise AssertionError(f"exit status {process.returncode}\n{output}\n{errors}")
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
