# SPDX-License-Identifier: Apache-2.0
"""`mapscratch code`: workers as they are and with converted entries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import communicate
from support.waiting import eventually

from mapscratch.cli import EXIT_INTERRUPTED, main
from mapscratch.lab.code import measure as code
from mapscratch.lab.code.measure import CodeError, compare_code
from mapscratch.lab.rig.machine.cgroups import probe_temporary_memory_cgroup
from mapscratch.lab.rig.machine.swap import probe_temporary_swap
from mapscratch.lab.rig.results import Settings
from mapscratch.proc import active_swaps

can_squeeze = bool(probe_temporary_memory_cgroup()) and bool(
    active_swaps() or probe_temporary_swap("file", 256 << 20)
)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def settings(*workers: int) -> Settings:
    return Settings(workers, 1, 60.0, (), "cgroup", "none", 0)


def silent(*_: object) -> None:
    pass


def test_what_is_counted_without_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "probe_temporary_memory_cgroup", _Refusal)
    comparison = compare_code(settings(1, 2), announce=silent, progress=silent)
    assert comparison.no_pressure == "not here"
    assert not comparison.is_wrong
    assert comparison.libraries >= 3
    assert comparison.entries > 500
    assert len(comparison.rounds) == 2 * 2 * 2
    for one in comparison.rounds:
        assert one.squeezed is None
        assert len(one.digests) == 1
        assert one.calm.data > 0
        assert (one.calm.text > 0) == (one.strategy == "converted")
        assert (one.counts is not None) == (one.strategy == "converted")
    # The unfavourable truth: it takes more.
    spawned = [one for one in comparison.rounds if one.start == "spawned"]
    dirty = {one.strategy: one.calm.dirty for one in spawned}
    assert dirty["converted"] > dirty["stock"]


class _Refusal:
    reason = "not here"

    def __bool__(self) -> bool:
        return False


@pytest.mark.skipif(not can_squeeze, reason="no control group, or no swap, can be had")
def test_under_pressure_text_goes_and_is_bound_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = "none" if active_swaps() else "file"
    document = tmp_path / "code.json"
    arguments = ["code", "-n", "2", "--rounds", "1", "--swap", swap]
    assert main([*arguments, "--json", str(document)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.index("Without pressure") < told.index("Under pressure")
    assert "0 wrong." in told
    rounds = json.loads(document.read_text())["rounds"]
    converted = [one for one in rounds if one["strategy"] == "converted"]
    for one in converted:
        assert one["squeezed"]["text"] < one["calm"]["text"]
        assert one["again"]["text"] > 0
        assert one["counts"]["patched"] > 0
    stock = [one for one in rounds if one["strategy"] == "stock"]
    assert sum(one["squeezed"]["data_swapped"] for one in stock) > 0


def test_a_worker_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such module')")
    monkeypatch.setattr(code, "WORKER", broken)
    with pytest.raises(CodeError, match="no such module"):
        compare_code(settings(1), announce=silent, progress=silent)


def test_wrong_results_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import os\nos.write(1, b'%d %d\\n' % (os.getpid(), os.getpid()))\n"
        "while os.read(0, 1): pass\n"
    )
    monkeypatch.setattr(code, "WORKER", wrong)
    monkeypatch.setattr(code, "STARTS", ("spawned",))
    monkeypatch.setattr(code, "probe_temporary_memory_cgroup", _Refusal)
    assert compare_code(settings(1), announce=silent, progress=silent).is_wrong


def test_ctrl_c_leaves_no_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mapscratch", "code", "-n", "5", "--rounds", "50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert eventually(lambda: _workers_of(process.pid))
    workers = _workers_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = communicate(process, seconds=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in errors
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in workers))


def _workers_of(pid: int) -> list[int]:
    """Children that run the worker."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"code/worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    except OSError:
        return []
