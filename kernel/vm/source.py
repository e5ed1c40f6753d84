# SPDX-License-Identifier: GPL-2.0-only
"""Linux as Debian ships it, unpacked once into a cache, with any set of changes laid over it.

All variants are built in one tree, because make compares times: only the files that differ from
what was built last are written, and so only what depends on them is compiled again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kernel.vm.machine import TREE

PACKAGE = "linux-source-6.12"
PINNED_VERSION = "6.12.117-1~deb12u1"
ARCHIVE = Path(f"/usr/src/{PACKAGE}.tar.xz")
PATCHES = TREE / "kernel" / "patches"


class SourceError(RuntimeError):
    """The source can't be had or changed; the message says what to do."""


def cache_directory() -> Path:
    """Where everything that is built goes: outside of the tree, and of anybody's way."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mapscratch" / "kernel"


def installed_version() -> str:
    """The version of Debian's source package; empty if it isn't installed."""
    answer = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() if not answer.returncode else ""


def series() -> list[Path]:
    """The patches, in order."""
    return sorted(PATCHES.glob("*.patch"))


def touched_files(patches: Iterable[Path]) -> list[str]:
    """Paths in the kernel's tree that the patches change or make."""
    marker = "+++ b/"
    return sorted(
        {
            line[len(marker) :]
            for patch in patches
            for line in patch.read_text().splitlines()
            if line.startswith(marker)
        }
    )


class Source:
    """The unpacked tree.

    Attributes:
        version: of the Debian package.
        tree: what make builds.
    """

    def __init__(self) -> None:
        self.version = installed_version()
        if not self.version or not ARCHIVE.exists():
            raise SourceError(f"Linux's source is missing: apt install {PACKAGE}")
        directory = cache_directory() / self.version
        self.tree = directory / "source"
        self._pristine = directory / "pristine"

    def unpack(self) -> bool:
        """Unpacks the archive if that was not done yet; whether it was done now."""
        if self.tree.exists():
            return False
        self.tree.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="unpack-", dir=self.tree.parent))
        try:
            subprocess.run(
                ["tar", "--extract", "--strip-components=1", "--file", ARCHIVE, "-C", partial],
                check=True,
            )
            partial.rename(self.tree)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return True

    def _pristine_text(self, name: str) -> bytes | None:
        """A file as it was shipped, kept aside at the first change; None: it was not there."""
        kept = self._pristine / name
        absent = kept.with_name(kept.name + ".absent")
        if absent.exists():
            return None
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            file = self.tree / name
            if not file.exists():
                absent.touch()
                return None
            partial = kept.with_name(kept.name + ".partial")
            shutil.copyfile(file, partial)
            partial.rename(kept)
        return kept.read_bytes()

    def changed_texts(self, changes: Iterable[bytes]) -> dict[str, bytes]:
        """The touched files of the series as they are after `changes`, unified diffs in order.

        Raises:
            SourceError: a change doesn't apply.
        """
        self.unpack()
        names = touched_files(series())
        with tempfile.TemporaryDirectory(prefix="mapscratch-patch-") as directory:
            stage = Path(directory)
            for name in names:
                text = self._pristine_text(name)
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                if text is not None:
                    (stage / name).write_bytes(text)
            for change in changes:
                if b"\ndiff --git " not in b"\n" + change:
                    continue  # a patch of which nothing is left
                applied = subprocess.run(
                    ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch"],
                    cwd=stage,
                    input=change,
                    capture_output=True,
                    check=False,
                )
                if applied.returncode:
                    raise SourceError(
                        f"a patch does not apply to {PACKAGE} {self.version} (made for "
                        f"{PINNED_VERSION}):\n{applied.stdout.decode(errors='replace')}"
                    )
            return {name: (stage / name).read_bytes() for name in names if (stage / name).exists()}

    def lay(self, texts: dict[str, bytes]) -> None:
        """Makes the tree's touched files be `texts`, and those not in it as they were shipped.

        Touched is what any series has ever touched here, of which this one may be the shorter.
        """
        ever = {
            str(path.relative_to(self._pristine)).removesuffix(".absent")
            for path in self._pristine.rglob("*")
            if path.is_file() and path.suffix != ".partial"
        }
        for name in sorted(ever | set(touched_files(series()))):
            wanted = texts.get(name, self._pristine_text(name))
            file = self.tree / name
            if wanted is None:
                file.unlink(missing_ok=True)
            elif not file.exists() or file.read_bytes() != wanted:
                file.write_bytes(wanted)
