# SPDX-License-Identifier: GPL-2.0-only
"""Whether the series has the form that kernel people expect: for git am and checkpatch."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from kernel.vm.source import Source, series, touched_files

# Signed-off-by is left to whoever submits it; there is no history here in which to look commits up.
_NOT_FOR_US = "MISSING_SIGN_OFF,FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID"
_SETTINGS = tuple(
    word
    for setting in (
        "user.name=mapscratch",
        "user.email=mapscratch@example.org",
        "commit.gpgsign=false",
        "core.hooksPath=/dev/null",
    )
    for word in ("-c", setting)
)


def problems(source: Source) -> list[str]:
    """What git am or checkpatch.pl has to say against the series; empty if nothing."""
    found = []
    pristine = source.changed_texts(())
    with tempfile.TemporaryDirectory(prefix="mapscratch-series-") as name:
        repository = Path(name)
        for file in touched_files(series()):
            if file in pristine:
                (repository / file).parent.mkdir(parents=True, exist_ok=True)
                (repository / file).write_bytes(pristine[file])
        for command in (
            ("init", "--quiet"),
            ("add", "--all"),
            ("commit", "--quiet", "--message", "as Debian has it"),
            ("am", "--quiet", *map(str, series())),
        ):
            done = _run("git", *_SETTINGS, *command, directory=repository)
            if done.returncode:
                found.append(f"git {command[0]}: {done.stdout}{done.stderr}")
                break
    for patch in series():
        checkpatch = ("perl", "scripts/checkpatch.pl", "--no-summary", "--terse")
        done = _run(
            *checkpatch, f"--ignore={_NOT_FOR_US}", str(patch.resolve()), directory=source.tree
        )
        if done.stdout.strip() or done.returncode:
            found.append(f"checkpatch: {(done.stdout + done.stderr).strip()}")
    return found


def _run(*command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
