# SPDX-License-Identifier: Apache-2.0
"""What `pip install mapscratch` brings runs with NumPy alone; other commands say what they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.patience import patient
from support.places import TREE

from mapscratch.cli import COMMANDS
from mapscratch.elf import default_libraries
from mapscratch.extras import EXTRAS, missing_extra

MODULES_OF_PACKAGES = {"pyelftools": "elftools"}

WITHOUT = """
import sys

for name in {modules!r}:
    sys.modules[name] = None
"""


def with_numpy_alone(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command where no package of an extra can be imported, in none of its processes."""
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT.format(modules=sum(EXTRAS.values(), ())))
    return subprocess.run(
        [sys.executable, "-m", "mapscratch", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(hidden), "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=patient(120),
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version",), "mapscratch "),
        (("demo", "--limit", "8"), "of scaled float32"),
        (("doctor",), "lazyfree"),
        (("doctor", "--json"), '"engines"'),
        (("ps", "--json"), '"processes"'),
        (("run", "--", "echo", "it", "ran"), "it ran"),
    ],
    ids=lambda argument: " ".join(argument) if isinstance(argument, tuple) else "",
)
def test_numpy_is_enough(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = with_numpy_alone(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_numpy_is_enough_to_convert(tmp_path: Path) -> None:
    library = default_libraries()[1]  # the first is the C library's
    done = with_numpy_alone(tmp_path, "convert", library, "-o", tmp_path / library.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / library.name).exists()


@pytest.mark.parametrize(
    "command", [name for name, module in COMMANDS.items() if module.startswith("lab.")]
)
@pytest.mark.parametrize("option", [None, "--help"])
def test_what_measures_says_what_to_install(
    command: str, option: str | None, tmp_path: Path
) -> None:
    done = with_numpy_alone(tmp_path, command, *filter(None, [option]))
    if done.returncode == 0:
        assert option  # whoever asks for help gets it
        return
    assert (done.returncode, done.stdout) == (2, "")
    assert not list(tmp_path.glob("report*"))
    assert re.fullmatch(
        r"mapscratch: this needs \w+, which is not installed: "
        r"pip install jinja2 msgspec pyelftools rich\n",
        done.stderr,
    )


def test_help_names_all_commands(tmp_path: Path) -> None:
    done = with_numpy_alone(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in (
        "demo",
        "doctor",
        "compare",
        "survey",
        "cost",
        "report",
        "ps",
        "convert",
        "run",
    ):
        assert re.search(rf"^    {command} ", done.stdout, re.MULTILINE), command


def test_each_package_of_these_extras_is_known() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["numpy>=1.26"]
    found = {}
    for extra in EXTRAS:
        requirements = project["optional-dependencies"][extra]
        packages = [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
        found[extra] = sorted(MODULES_OF_PACKAGES.get(package, package) for package in packages)
    assert found == {extra: sorted(modules) for extra, modules in EXTRAS.items()}


def test_a_module_that_no_extra_has_is_a_mistake_of_ours() -> None:
    error = ModuleNotFoundError("No module named 'mapscratch.gone'", name="mapscratch.gone")
    with pytest.raises(ModuleNotFoundError) as raised:
        missing_extra(error)
    assert raised.value is error
