# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and their self-test, built in the cache; only what changed is built again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO, TypeAlias

from kernel.vm.machine import TREE
from kernel.vm.source import PINNED_VERSION, Source, series

CONFIGURATION = TREE / "kernel" / "kernel.config"
MOST_JOBS = 2
SELF_TEST = "tools/testing/selftests/mm/map_scratch.c"

_TOOLS = {
    "make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl",
    "patch": "patch", "xz": "xz-utils", "ld": "binutils",
}  # fmt: skip
_HEADERS = {"/usr/include/gelf.h": "libelf-dev"}


Changes: TypeAlias = tuple[bytes, ...] | dict[str, bytes]
"""Unified diffs, or the content of the files that differ from Debian's."""


class BuildError(RuntimeError):
    """A kernel could not be built; the message says what to do."""


def missing_packages() -> list[str]:
    """Debian packages that a build lacks."""
    missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    return missing + [package for file, package in _HEADERS.items() if not Path(file).exists()]


def _exclusive(directory: Path) -> TextIO:
    """Keeps others from building in the same cache for as long as the answer is open."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another process builds or tests a kernel in this cache: waiting for it", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


class Builder:
    """Builds variants of one source: unpatched, patched, patched but for one hunk.

    There is one at a time on a machine; a second one waits until the first one's process has ended.
    """

    def __init__(self) -> None:
        missing = missing_packages()
        if missing:
            raise BuildError(f"to build a kernel: apt install {' '.join(missing)}")
        self.source = Source()
        if self.source.version != PINNED_VERSION:
            print(
                f"note: the series is made for {PINNED_VERSION}; here is {self.source.version}",
                flush=True,
            )
        self._directory = self.source.tree.parent
        self._objects = self._directory / "objects"
        self._lock = _exclusive(self._directory)

    def image(self, name: str, changes: Changes) -> Path:
        """The bzImage of the source with `changes`, built if that was not done before.

        Args:
            name: of the variant: of its file, and in what is told.
            changes: unified diffs, in order, or the changed files as they are to be.

        Raises:
            BuildError: it doesn't compile.
            SourceError: a change doesn't apply.
        """
        image = self._directory / f"bzImage-{name}"
        stamp = image.with_suffix(".stamp")
        key = self._key(changes)
        if image.exists() and stamp.exists() and stamp.read_text() == key:
            return image
        began = time.monotonic()
        stamp.unlink(missing_ok=True)
        texts = changes if isinstance(changes, dict) else self.source.changed_texts(changes)
        self.source.lay(texts)
        self._configure()
        self._make(name)
        shutil.copyfile(self._objects / "arch/x86/boot/bzImage", image)
        stamp.write_text(key)
        print(f"built the {name} kernel in {time.monotonic() - began:.0f} s: {image}", flush=True)
        return image

    def unpatched(self) -> Path:
        """The kernel as Debian's source has it."""
        return self.image("unpatched", ())

    def patched(self) -> Path:
        """The kernel with the whole series."""
        return self.image("scratch", tuple(patch.read_bytes() for patch in series()))

    def self_test(self) -> Path:
        """The series' own test, compiled."""
        changes = tuple(patch.read_bytes() for patch in series())
        texts = self.source.changed_texts(changes)
        directory = self._directory / "selftest"
        (directory / "mm").mkdir(parents=True, exist_ok=True)
        for header in ("kselftest.h", "kselftest_harness.h"):
            shutil.copyfile(
                self.source.tree / "tools/testing/selftests" / header, directory / header
            )
        source = directory / "mm" / "map_scratch.c"
        source.write_bytes(texts[SELF_TEST])
        program = directory / "map_scratch"
        compiled = subprocess.run(
            ["gcc", "-O2", "-D_GNU_SOURCE", "-pthread", "-o", program, source],
            capture_output=True,
            text=True,
            check=False,
        )
        if compiled.returncode:
            raise BuildError(f"the self-test does not compile:\n{compiled.stderr}")
        return program

    def _key(self, changes: Changes) -> str:
        digest = hashlib.sha256(CONFIGURATION.read_bytes())
        for change in changes.values() if isinstance(changes, dict) else changes:
            # The self-test is no part of the kernel.
            if b"+++ b/" + SELF_TEST.encode() not in change:
                digest.update(
                    change[max(0, change.find(b"diff --git")) :]
                )  # not what it says of itself
        return f"{self.source.version} {digest.hexdigest()}"

    def _configure(self) -> None:
        wanted = CONFIGURATION.read_bytes()
        last = self._objects / "mapscratch.config"
        if last.exists() and last.read_bytes() == wanted:
            return
        self._objects.mkdir(parents=True, exist_ok=True)
        self._run("allnoconfig", f"KCONFIG_ALLCONFIG={CONFIGURATION}", "-s")
        have = set((self._objects / ".config").read_text().splitlines())
        refused = [
            line
            for line in wanted.decode().splitlines()
            if re.match(r"CONFIG_\w+=[^n]", line) and line not in have
        ]
        if refused:
            raise BuildError(f"this kernel has no {', '.join(refused)} (see {CONFIGURATION})")
        last.write_bytes(wanted)

    def _make(self, name: str) -> None:
        log = self._directory / f"build-{name}.log"
        jobs = min(MOST_JOBS, os.cpu_count() or 1)
        done = 0
        with log.open("w") as file:
            process = self._start("bzImage", f"-j{jobs}")
            try:
                assert process.stdout
                for line in process.stdout:
                    file.write(line)
                    done += line.startswith(("  CC", "  AR", "  LD"))
                    if sys.stdout.isatty():
                        print(f"\rthe {name} kernel: {done} files", end="", flush=True)
                    elif done and not done % 200 and line.startswith("  CC"):
                        print(f"the {name} kernel: {done} files", flush=True)
                status = process.wait()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
        if sys.stdout.isatty():
            print("\r", end="")
        if status:
            tail = "".join(log.read_text().splitlines(keepends=True)[-20:])
            raise BuildError(f"the {name} kernel does not build; the end of {log}:\n{tail}")

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", "-C", self.source.tree, f"O={self._objects}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            # Time and place in the image would make equal sources differ.
            env=os.environ | {"KBUILD_BUILD_TIMESTAMP": "0", "KBUILD_BUILD_USER": "mapscratch"},
        )

    def _run(self, *arguments: str) -> None:
        process = self._start(*arguments)
        try:
            output, _ = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
        if process.returncode:
            raise BuildError(f"make {' '.join(arguments)}:\n{output}")
