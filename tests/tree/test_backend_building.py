# SPDX-License-Identifier: Apache-2.0
"""What pip is told on a Python without the GIL, and on one that is too old."""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from email import message_from_bytes
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.places import TREE

PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())
WITHOUT = "-Dpython.allow_limited_api=false"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that pip calls."""
    pytest.importorskip("mesonpy", reason="pip install meson-python")
    (path,) = PROJECT["build-system"]["backend-path"]
    monkeypatch.syspath_prepend(TREE / path)
    return __import__(PROJECT["build-system"]["build-backend"])


def play_python(monkeypatch: pytest.MonkeyPatch, *, is_free_threaded: bool) -> None:
    real = sysconfig.get_config_var

    def variable(name: str) -> Any:
        return int(is_free_threaded) if name == "Py_GIL_DISABLED" else real(name)

    monkeypatch.setattr(sysconfig, "get_config_var", variable)


@pytest.mark.parametrize(
    ("told", "passed"),
    [
        (None, [WITHOUT]),
        ({"setup-args": "-Dwerror=true"}, [WITHOUT, "-Dwerror=true"]),
        ({"setup-args": ["-Da=b", "-Dc=d"]}, [WITHOUT, "-Da=b", "-Dc=d"]),
    ],
)
def test_a_free_threaded_python_gets_no_limited_api(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, told: Any, passed: list[str]
) -> None:
    play_python(monkeypatch, is_free_threaded=True)
    seen = {}
    for name in ("build_wheel", "build_editable"):
        monkeypatch.setattr(
            backend.mesonpy, name, lambda where, settings, name=name: seen.update({name: settings})
        )
        getattr(backend, name)("dist", told)
        assert seen[name]["setup-args"] == passed


@pytest.mark.parametrize("told", [None, {}, {"setup-args": "-Dwerror=true", "builddir": "b"}])
def test_every_other_python_gets_what_the_user_says(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    play_python(monkeypatch, is_free_threaded=False)
    assert backend.for_this_python(told) == (told or {})


def test_an_old_python_gets_metadata_that_pip_refuses_by(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pyproject_metadata", reason="it comes with meson-python")
    monkeypatch.setitem(sys.modules, "tomli", tomllib)
    monkeypatch.chdir(TREE)
    name = backend.metadata_alone(str(tmp_path))
    metadata = message_from_bytes((tmp_path / name / "METADATA").read_bytes())
    assert name == "mapscratch-0.1.0.dist-info"
    assert metadata["Name"] == PROJECT["project"]["name"]
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]


def test_too_old_means_the_same_to_the_backend_and_to_pip(backend: ModuleType) -> None:
    oldest = ".".join(map(str, backend.OLDEST))
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    # Here nothing is prepared: meson-python's own metadata are those of what it builds.
    assert not hasattr(backend, "prepare_metadata_for_build_wheel")
