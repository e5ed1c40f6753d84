# SPDX-License-Identifier: Apache-2.0
"""Minimal roots of Debian's releases, made once by debootstrap and used again.

Whoever enters one gets namespaces of mounts and processes of his own: when the command ends, or is
killed, no mount and no process of it is left.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RELEASES = ("bookworm", "trixie", "sid")
"""Oldest first: a wheel that is made on one must run on all that follow."""
DEFAULT_MIRROR = "http://deb.debian.org/debian"
TREE = "/src"
"""Where the tree is, seen from inside."""

NAMESPACES = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child"),
)
"""Before a command: mounts and processes of its own, that end with it."""

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_CERTIFICATES_INSIDE = "/etc/host-certificates.crt"
_PASSED_ON = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "CI"),
)
_GRACE_SECONDS = 20

# What the kernel shows, as this machine sees it; /tmp as Debian 13 has it; pip's downloads for all.
_ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mkdir -p "$1/var/cache/pip"
mount --bind "$2" "$1/var/cache/pip"
exec chroot "$1" sh -c "$3"
"""


class RootError(RuntimeError):
    """A root can't be made or entered; the message says what to do."""


def cache_directory() -> Path:
    """Where the roots and the logs are: outside of the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mapscratch" / "roots"


def check_host() -> None:
    """Raises RootError if roots can't be made here."""
    missing = [tool for tool in ("debootstrap", "unshare", "chroot") if not shutil.which(tool)]
    if missing:
        packages = {"unshare": "util-linux", "chroot": "coreutils"}
        named = " ".join(packages.get(tool, tool) for tool in missing)
        raise RootError(f"no {', '.join(missing)} here: apt install {named}")
    if os.geteuid():
        raise RootError("making and entering roots needs root: sudo make distro-test")


def mirror_of_this_machine(targets: str | None = None) -> str:
    """The address of Debian's archive that apt uses here, or Debian's own.

    Args:
        targets: lines of "ADDRESS ORIGIN LABEL"; as `apt-get indextargets` says if not given.
    """
    if targets is None:
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)"]
        try:
            targets = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:  # no Debian: debootstrap runs elsewhere, too
            targets = ""
    for line in targets.splitlines():
        address, _, kind = line.partition(" ")
        if kind == "Debian Debian":
            return address.rstrip("/")
    return DEFAULT_MIRROR


def run(command: list[str], log: Path, tick: Callable[[], None]) -> int:
    """Runs a command in a session of its own; its exit status. Interrupted, all of it ends.

    Args:
        command: the program and its arguments.
        log: the file that what it prints goes to.
        tick: called ten times a second meanwhile.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                tick()
                time.sleep(0.1)
        except BaseException:
            # First as Ctrl-C does it, so that who made a swapfile takes it away.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    return process.returncode


@dataclass(frozen=True)
class Root:
    """One release's root.

    Attributes:
        release: its name, as debootstrap knows it.
        path: its folder; there once it is complete.
        downloads: pip's cache, which all roots share.
    """

    release: str
    path: Path
    downloads: Path

    @classmethod
    def of(cls, release: str) -> Root:
        """The root in the cache, whether it is there or not."""
        directory = cache_directory()
        return cls(release, directory / release, directory / "pip")

    @contextmanager
    def locked(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Nobody else uses the root meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / f"{self.release}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another process uses the root of {self.release}: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def make(self, mirror: str, log: Path, tick: Callable[[], None]) -> None:
        """Makes it by debootstrap, if it isn't there; RootError if that fails."""
        self.downloads.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            return
        unfinished = self.path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", self.release, str(unfinished), mirror]
        if run([*NAMESPACES, "--mount-proc", *command], log, tick):
            raise RootError(
                f"debootstrap of {self.release} from {mirror} failed, see {log}; "
                "another mirror: --mirror"
            )
        # A mirror may be a snapshot. Its signatures are checked as ever, its date is not.
        (unfinished / "etc/apt/apt.conf.d/00mirror").write_text(
            'Acquire::Check-Valid-Until "false";\n' + _proxies_of_apt()
        )
        unfinished.rename(self.path)

    def remove(self) -> None:
        """Takes it away, so that it is made anew."""
        shutil.rmtree(self.path, ignore_errors=True)

    def put_tree(self, tree: Path) -> None:
        """The tree as git knows it, uncommitted changes included, and nothing that was built."""
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        if listing.returncode:
            raise RootError(f"{tree} is no clone: {listing.stderr.strip()}")
        inside = self.path / TREE.lstrip("/")
        shutil.rmtree(inside, ignore_errors=True)
        for name in filter(None, listing.stdout.split("\0")):
            if (tree / name).is_file():  # or it was removed and that isn't committed
                target = inside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, target)

    def run(self, script: str, log: Path, tick: Callable[[], None] = lambda: None) -> int:
        """Runs a shell script in the root's copy of the tree; its exit status."""
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", self.path / "etc" / name)
        if _CERTIFICATES.exists():
            shutil.copy(_CERTIFICATES, self.path / _CERTIFICATES_INSIDE.lstrip("/"))
        return run(self.command(script, os.environ), log, tick)

    def command(self, script: str, environment: Mapping[str, str]) -> list[str]:
        """What enters the root and runs the script in it."""
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "PIP_CACHE_DIR": "/var/cache/pip",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **{name: environment[name] for name in _PASSED_ON if name in environment},
        }
        if _CERTIFICATES.exists():
            for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
                variables[name] = _CERTIFICATES_INSIDE
        clean = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        inside = f"mkdir -p {TREE} && cd {TREE} && exec {shlex.join([*clean, 'sh', '-ec', script])}"
        entered = ["sh", "-c", _ENTER, "sh", str(self.path), str(self.downloads), inside]
        return [*NAMESPACES, *entered]


def _proxies_of_apt() -> str:
    """The lines of apt's configuration here that say how to reach a mirror."""
    command = ["apt-config", "dump"]
    try:
        dumped = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    return "".join(f"{line}\n" for line in dumped.splitlines() if "::Proxy" in line)
