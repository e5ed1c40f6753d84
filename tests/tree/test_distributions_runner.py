# SPDX-License-Identifier: Apache-2.0
"""How the tree is tried on Debian's releases: no root is made, what happens in one is played."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.places import TREE
from support.waiting import eventually

from distributions import __main__ as runner
from distributions import roots, steps

README = (TREE / "README.md").read_text()
GREEN = (
    "0 upgraded, 9 newly installed\n9 words checked, 0 wrong\n7 passed\n3 libraries ran converted"
)
VERSIONS = """\
glibc 2.41
14.2.0
3.13.5
GNU ld (GNU Binutils for Debian) 2.44
Copyright (C) 2025 Free Software Foundation, Inc.
"""


def test_what_is_installed_is_what_the_readme_says() -> None:
    packages = steps.prerequisites(README)
    assert packages.split() == ["build-essential", "python3-dev", "python3-venv"]
    assert f"--yes install {packages}\n" in steps.all_steps(README)[0].script + "\n"
    with pytest.raises(ValueError, match="apt install"):
        steps.prerequisites("# mapscratch")


def test_every_step_that_is_asked_for_is_there() -> None:
    names = [step.name for step in steps.all_steps(README)]
    assert len(set(names)) == len(names)
    assert {*steps.QUICK, *steps.FULL} <= set(names)


@pytest.mark.parametrize(
    ("name", "status", "output", "good", "said"),
    [
        ("test", 0, "== 7 passed, 2 skipped in 9.1s ==", True, "7 passed, 2 skipped in 9.1s "),
        ("test", 2, "== 1 failed, 7 passed ==", False, "1 failed, 7 passed "),
        ("test", 2, "make: *** No rule", False, "exit status 2"),
        ("test", 0, "no tests ran", False, "ended well, and did nothing that shows it"),
        ("compare", 0, "9 words checked against readelf, 3 wrong.", False, None),
        ("compare", 0, "9 words checked against readelf, 0 wrong.", True, None),
        ("cpython", 0, "mapscratch: 0 refused", False, None),
    ],
)
def test_a_step_is_green_only_by_what_it_shows(
    name: str, status: int, output: str, good: bool, said: str | None
) -> None:
    step = next(step for step in steps.all_steps(README) if step.name == name)
    assert step.judge(status, output)[0] is good
    assert said is None or step.judge(status, output)[1] == said


def test_versions_of_a_root() -> None:
    assert steps.parts(VERSIONS) == "glibc 2.41, gcc 14.2.0, Python 3.13.5, binutils 2.44"
    assert steps.parts("glibc 2.41\n") == "not known"


def test_the_mirror_is_the_one_that_apt_uses() -> None:
    lines = (
        "http://x.example/nodejs/ Node Node\n"
        "http://security.example/debian-security/ Debian Debian-Security\n"
        "http://mirror.example/debian/ Debian Debian\n"
    )
    assert roots.mirror_of_this_machine(lines) == "http://mirror.example/debian"
    assert roots.mirror_of_this_machine("") == roots.DEFAULT_MIRROR


def test_without_debootstrap_or_root_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "debootstrap" else tool)
    assert runner.main(["--quick"]) == 2
    assert "apt install debootstrap" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runner.main(["--quick"]) == 2
    assert "sudo make distro-test" in capsys.readouterr().err


Played = Callable[[roots.Root, str], tuple[int, str]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Played], None]:
    """Lets a function say what a script in a root does: its exit status, and what it prints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runner, "check_host", lambda: None)
    monkeypatch.setattr(
        roots.Root, "make", lambda self, *_: (self.path / "src").mkdir(parents=True)
    )
    monkeypatch.setattr(roots.Root, "put_tree", lambda self, tree: None)

    def begin(played: Played) -> None:
        def run(self: roots.Root, script: str, log: Path, *_: object) -> int:
            status, printed = played(self, script)
            log.write_text(printed)
            return status

        monkeypatch.setattr(roots.Root, "run", run)

    return begin


def test_the_oldest_makes_the_wheel_that_the_others_install(
    play: Callable[[Played], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    installed = {}

    def played(root: roots.Root, script: str) -> tuple[int, str]:
        folder = root.path / "src" / steps.WHEELS
        if "make wheel" in script:
            folder.mkdir()
            (folder / "mapscratch-1-abi3.whl").write_text(f"made on {root.release}")
        if "units INSTALL" in script:
            installed[root.release] = (folder / "mapscratch-1-abi3.whl").read_text()
        return 0, VERSIONS if script == steps.VERSIONS else GREEN

    play(played)
    assert runner.main([]) == 0
    assert installed == dict.fromkeys(roots.RELEASES, "made on bookworm")
    shown = (next(tmp_path.rglob("table.md"))).read_text()
    assert "| sid |" in shown
    assert "make test | 7 passed" in shown
    assert "trixie" in capsys.readouterr().out


def test_red_in_one_root_is_red_and_the_others_go_on(
    play: Callable[[Played], None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def played(root: roots.Root, script: str) -> tuple[int, str]:
        seen.append((root.release, script))
        bad = root.release == "trixie" and script.strip() == "make compare"
        return (2, "undefined reference to f") if bad else (0, GREEN)

    play(played)
    assert runner.main(["--steps", "compare", "test"]) == 1
    shown = capsys.readouterr().out
    assert "trixie: make compare: FAILED: exit status 2" in shown
    assert "undefined reference to f" in shown
    assert ("trixie", "\nmake test") in seen
    assert ("sid", "\nmake test") in seen


def test_without_its_prerequisites_nothing_is_tried_in_a_root(
    play: Callable[[Played], None], capsys: pytest.CaptureFixture[str]
) -> None:
    play(lambda root, script: (100 if "apt-get" in script else 0, GREEN))
    assert runner.main(["sid", "--quick"]) == 1
    assert "not run: no prerequisites" in " ".join(capsys.readouterr().out.split())


def test_what_a_root_inherits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = roots.Root("sid", tmp_path / "sid", tmp_path / "pip")
    command = root.command("true", {"https_proxy": "http://proxy", "CFLAGS": "-O0", "HOME": "/h"})
    assert "https_proxy=http://proxy" in command[-1]
    assert "CFLAGS" not in command[-1]
    assert "HOME=/root" in command[-1]


def test_interrupted_it_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    if roots.run([*roots.NAMESPACES, "true"], tmp_path / "log", lambda: None):
        # Not as an ordinary user, nor where the root is no mount, as in a root of this very kind.
        pytest.skip(f"no namespaces of mounts: {(tmp_path / 'log').read_text().strip()}")
    place = tmp_path / "place"
    place.mkdir()
    started = tmp_path / "started"
    script = f"mount -t tmpfs none {place} && echo $$ >{started}; sleep 5432.1 & sleep 5432.1"

    def interrupt_once_started() -> None:
        if started.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roots.run([*roots.NAMESPACES, "sh", "-c", script], tmp_path / "log", interrupt_once_started)
    assert str(place) not in Path("/proc/mounts").read_text()
    assert eventually(lambda: b"sleep\x005432.1\x00" not in command_lines())


def command_lines() -> set[bytes]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.add(path.read_bytes())
    return found
