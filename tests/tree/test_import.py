# SPDX-License-Identifier: Apache-2.0
"""What `import mapscratch` loads, starts and opens: nothing but itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.interpreter import run_python
from support.staging import stage

import mapscratch
from mapscratch import _native

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STRICT = ["-W", "error"]
if IS_FREE_THREADED:
    STRICT += ["-W", "ignore:The global interpreter lock:RuntimeWarning"]

LOADED = """
    import sys
    before = set(sys.modules)
    import mapscratch
    foreign = {
        name.partition(".")[0] for name in set(sys.modules) - before
    } - set(sys.stdlib_module_names) - {"mapscratch"}
    # What an editable installation or a tool of the environment brings by itself.
    foreign = {name for name in foreign if not name.startswith(("_mapscratch_editable", "mesonpy"))}
    assert not foreign, foreign
    unwanted = {"ctypes", "subprocess", "asyncio", "numpy", "typing_extensions", "logging"}
    loaded_by_us = {
        name for name in set(sys.modules) - before
        if getattr(sys.modules[name], "__name__", "").startswith("mapscratch")
    }
    print(*sorted(loaded_by_us))
"""


def test_nothing_outside_of_the_standard_library_is_loaded() -> None:
    loaded = run_python(LOADED, options=STRICT).stdout.split()
    assert "mapscratch.mapping" in loaded
    assert "mapscratch.engine.lazyfree" in loaded
    for heavy in ("cli", "elf", "lab", "ps", "run", "terminal", "proc.swap"):
        assert not any(name.startswith(f"mapscratch.{heavy}") for name in loaded), heavy


@pytest.mark.skipif(not IS_FREE_THREADED, reason="this Python has the GIL")
def test_a_free_threaded_python_takes_its_lock_and_says_so() -> None:
    script = "import sys, mapscratch; print(sys._is_gil_enabled())"
    assert run_python(script).stdout == "True\n"
    with pytest.raises(AssertionError, match=r"load module 'mapscratch\._native'"):
        run_python(script, options=("-W", "error"))


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_elsewhere_it_raises_an_importerror_that_says_so(platform: str) -> None:
    message = run_python(
        """
        import sys
        import mmap, os, resource  # these ask for the platform themselves
        sys.path_importer_cache.clear()
        import importlib.util
        specification = importlib.util.find_spec("mapscratch")
        sys.platform = sys.argv[1]
        try:
            import mapscratch
        except ImportError as error:
            print(error)
        assert not any(name.startswith("mapscratch.") for name in sys.modules)
        """,
        platform,
    ).stdout
    assert "Linux" in message
    assert f"can't run on {platform}" in message


def test_importing_and_asking_starts_and_opens_nothing() -> None:
    run_python(
        """
        import os

        def now():
            return os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")

        before = now()
        import mapscratch
        from mapscratch import _native
        mapscratch.engines()
        assert now() == before, (now(), before)
        assert _native.pager_thread() == 0
        """
    )


def test_the_public_names_are_there_and_documented() -> None:
    for name in mapscratch.__all__:
        assert getattr(mapscratch, name).__doc__, name
    assert list(mapscratch.__all__) == sorted(mapscratch.__all__)
    assert mapscratch.ScratchMap.__doc__ is not None
    assert "Stores vanish" in mapscratch.ScratchMap.__doc__.splitlines()[0]
    for name in ("load", "store", "compare_exchange"):
        assert getattr(_native.WordMap, name).__doc__


def test_completion_offers_what_is_public_and_nothing_else() -> None:
    offered = {name for name in dir(mapscratch) if not name.startswith("__")}
    assert offered == {*mapscratch.__all__, "fixups"}
    for name in dir(mapscratch):
        assert hasattr(mapscratch, name), name


def test_the_stub_names_what_the_bridge_has() -> None:
    stub = Path(mapscratch.__file__).with_name("_native.pyi").read_text()
    described = set(re.findall(r"^def (\w+)|^class (\w+)|^([A-Z_0-9]+):", stub, re.MULTILINE))
    names = {name for group in described for name in group if name}
    names -= {"RangeCounts", "UserfaultStatus"}
    assert names == {name for name in vars(_native) if not name.startswith("__")}


def _starts(interpreter: str) -> bool:
    """Whether it is a Python, and not the stand-in of a version manager for one that isn't set."""
    return not subprocess.run([interpreter, "-c", ""], capture_output=True, check=False).returncode


def _interpreters() -> list[str]:
    """Other Pythons on this machine that the one wheel must serve."""
    found = []
    for version in ("3.11", "3.12", "3.13", "3.14"):
        if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            continue
        named = shutil.which(f"python{version}")
        managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        candidates = ([named] if named else []) + [str(path) for path in managed]
        found += [path for path in candidates if _starts(path)][:1]
    return found


@pytest.mark.parametrize(
    "interpreter", [sys.executable, *_interpreters()], ids=lambda path: Path(path).name
)
def test_one_build_serves_every_python_without_a_warning(interpreter: str, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    (tmp_path / "file").write_bytes(os.urandom(40 * 4096))
    run_python(
        """
        import os, sys, threading
        sys.path.insert(0, sys.argv[2])
        import mapscratch
        from mapscratch import ScratchMap, _native
        assert mapscratch.__file__.startswith(sys.argv[2]), mapscratch.__file__

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # where threads end slowest
        with open(sys.argv[1], "rb") as file:
            data = file.read()
        for engine in [status.name for status in mapscratch.engines() if status.available]:
            m = ScratchMap(sys.argv[1], engine=engine)
            assert m[:] == data
            m.store(0, 2**64 - 1)
            assert m.load(0) == 2**64 - 1
            for _ in range(50):
                child = os.fork()  # warns from Python 3.12 on if it finds a second thread
                if not child:
                    os._exit(m[8:] != data[8:])
                assert os.waitpid(child, 0)[1] == 0
                m.drop()
                assert m[:] == data
            with m.pin():
                pass
            m.close()
        """,
        tmp_path / "file",
        staged,
        interpreter=interpreter,
        options=("-S", *STRICT, "-X", "dev"),
    )
