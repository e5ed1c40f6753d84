# SPDX-License-Identifier: Apache-2.0
"""Short real runs: every figure is there and makes sense, and nothing stays behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from elf_oracle import needs_readelf
from support.waiting import eventually

from mapscratch.elf import default_libraries
from mapscratch.experiment import lines
from mapscratch.experiment.costs import Costs
from mapscratch.experiment.lines import LineTimer, regressors
from mapscratch.experiment.loader_costs import LoaderTimer
from mapscratch.experiment.measure import measure
from mapscratch.experiment.results import Settings, Spread
from mapscratch.experiment.rounds import compare
from mapscratch.experiment.strategies import STRATEGIES
from mapscratch.experiment.timers import working_folder
from mapscratch.experiment.workload import read_workload
from mapscratch.kernelstats import active_swaps, probe_temporary_swap

KINDS = tuple(kind for kind in ("file", "zram", "zswap") if probe_temporary_swap(kind, 96 << 20))
KSM = Path("/sys/kernel/mm/ksm")
NAMES = {
    *("relocation.relative", "relocation.relr"),
    *(f"relocation.symbolic.{scope}" for scope in ("short", "long")),
    *(f"binding.{mode}.{scope}" for mode in ("now", "lazy") for scope in ("short", "long")),
    *("fixup.at_page_in", "fixup.word"),
    *("fault.copy_on_write", "fault.page_cache", "fault.disk"),
    *(f"swap.{kind}.{way}" for kind in ("file", "zram", "zswap") for way in ("out", "in")),
    *("fill.4096", "fill.65536", "fill.2097152", "drop.lazyfree", "drop.dontneed"),
    *("ksm.merge", "ksm.unmerge", "fork.page"),
}
NEVER_WITHOUT = {"fault.copy_on_write", "fault.page_cache", "drop.dontneed", "fixup.word"}

needs_loader = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="ld.so of glibc on x86-64 loads the libraries that are made",
)


def ksm_settings() -> dict[str, str]:
    names = ("run", "pages_to_scan", "sleep_millisecs", "smart_scan", "advisor_mode")
    return {name: (KSM / name).read_text() for name in names if (KSM / name).exists()}


def working_folders(pid: int) -> list[Path]:
    return list(Path("/var/tmp").glob(f"mapscratch-cost-{pid}-*"))


def is_clean(pid: int, ksm: dict[str, str]) -> bool:
    """Nothing of that process is left."""
    swaps = [area.path for area in active_swaps() if f"-{pid}-" in area.path]
    return not swaps and not working_folders(pid) and ksm_settings() == ksm


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def costs(said: list[str]) -> Costs:
    before = ksm_settings()
    steps: list[tuple[str, float]] = []
    found = measure(
        KINDS,
        seconds=1.0,
        announce=said.append,
        progress=lambda what, share: steps.append((what, share)),
    )
    assert eventually(lambda: is_clean(os.getpid(), before))
    assert len(steps) == 4 * found.rounds
    assert all(0 <= share <= 1 for _, share in steps)
    return found


def test_every_figure_is_there_or_it_is_said_why_not(costs):
    measured = [one.name for one in costs.measurements]
    assert len(measured) == len(set(measured))
    assert set(measured) | costs.left_out.keys() >= NAMES
    assert not set(measured) & costs.left_out.keys()
    assert all(reason for reason in costs.left_out.values())
    assert set(measured) >= NEVER_WITHOUT
    assert {f"swap.{kind}.{way}" for kind in KINDS for way in ("out", "in")} <= set(measured)


def test_figures_make_sense(costs):
    assert costs.rounds >= 1
    assert costs.seconds > 0
    for one in costs.measurements:
        assert one.spread.median > 0
        assert one.spread.minimum <= one.spread.median <= one.spread.maximum
        assert 0 < one.rounds <= costs.rounds
        assert one.title and one.note.endswith(".")
        assert one.per in ("fixup", "page", "call")

    def median(name: str) -> float:
        found = costs.measurement(name)
        assert found
        return found.median

    # A store into a page in memory is less than any page fault.
    assert median("fixup.word") < median("fault.copy_on_write")
    if costs.measurement("relocation.symbolic.long"):
        assert median("relocation.symbolic.short") < median("relocation.symbolic.long")
        assert median("relocation.relative") < median("relocation.symbolic.short")
    if costs.measurement("fault.disk"):
        assert median("fault.page_cache") < median("fault.disk")


def test_there_is_a_line_for_everything_that_runs_here(costs):
    expected = {f"swap.{kind}" for kind in KINDS}
    expected |= {
        name for name in STRATEGIES if name != "private" and not STRATEGIES[name].unavailable()
    }
    measured = {line.what for line in costs.lines}
    assert expected <= measured
    assert {f"line.{name}" for name in STRATEGIES if name != "private"} <= {
        *(f"line.{what}" for what in measured),
        *costs.left_out,
    }
    for line in costs.lines:
        assert len(line.fits) == costs.rounds
        assert line.cpu_us
        assert 0 < line.cpu_us.minimum <= line.cpu_us.median <= line.cpu_us.maximum
        assert [point.fixups for point in line.points[:4]] == [1, 64, 256, 512]
        for point in line.points:
            trip = point.round_trip_us
            assert 0 < trip.minimum <= trip.median <= trip.maximum
        # Between the points, what is predicted is of their size.
        around = [point.round_trip_us.median for point in line.points]
        assert min(around) / 3 < line.round_trip_us(200, 0.1, 0.01).median < 3 * max(around)
        assert line.clean_page_us.minimum >= 0
        assert line.mapping_us.minimum >= 0


def test_what_is_made_is_announced(costs, said):
    assert len(said) == len(KINDS)
    assert all("and removed" in sentence for sentence in said)


@needs_loader
def test_the_loader_says_the_same(tmp_path):
    timer = LoaderTimer(tmp_path)
    for number in range(1, 13):
        timer.once(number)
        checks = {check.what: check for check in timer.checks()}
        assert len(checks) == 4
        if number >= 2 and all(check.agrees for check in checks.values()):
            break
    for what, check in checks.items():
        assert check.agrees, (what, check)
        assert "LD_DEBUG=statistics" in check.note
        assert check.ratio == pytest.approx(check.ours / check.theirs)
        if what.endswith(": number"):
            assert check.ours == check.theirs


@needs_readelf
def test_the_prediction_is_what_compare_measures():
    libraries = [path for path in default_libraries() if path.name.startswith("libcrypto")]
    workload = read_workload(libraries or default_libraries()[:1], pages=lines._PAGES)
    kinds = [kind for kind in ("zram", "file") if kind in KINDS][:1]
    strategies = tuple(
        name
        for name in STRATEGIES
        if not STRATEGIES[name].unavailable() and (name != "private" or kinds)
    )
    settings = Settings((1,), 2, 60.0, strategies, "pageout", *(kinds or ["none"]), lines._PAGES)
    found: dict[str, list[float | None]] = {}
    with working_folder() as folder:
        timer = LineTimer(Path(folder), kinds, silent)
        # In turns: whatever else happens on this machine happens to both.
        for number in range(1, 13):
            timer.once(number)
            for one in compare(workload, settings, announce=silent, progress=silent).rounds:
                assert one.wrong_words == 0
                name = f"swap.{kinds[0]}" if one.strategy == "private" else one.strategy
                found.setdefault(name, []).append(one.round_trip_us)
            predicted = {line.what: line for line in timer.lines()}
            assert predicted.keys() == found.keys()
            apart = [
                (what, prediction, measured)
                for what, line in predicted.items()
                for prediction in [line.round_trip_us(*regressors(workload))]
                for measured in [Spread.of(found[what])]
                if not measured
                or prediction.minimum > measured.maximum
                or measured.minimum > prediction.maximum
            ]
            if number >= 2 and not apart:
                break
    assert not apart


SCRIPT = """
import json, sys
from mapscratch.experiment.measure import measure
def progress(what, share):
    print(what, file=sys.stderr, flush=True)
costs = measure(json.loads(sys.argv[1]), seconds=1.0, announce=lambda said: None, progress=progress)
json.dump({"left_out": costs.left_out, "measured": [one.name for one in costs.measurements],
           "lines": [line.what for line in costs.lines]}, sys.stdout)
"""
KSM_SCRIPT = """
import itertools, sys
from mapscratch.experiment.ksm_costs import KsmTimer
timer = KsmTimer()
for number in itertools.count(1):
    timer.once(number)
    print("KSM", file=sys.stderr, flush=True)
"""


def start(script: str, *prefix: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, json.dumps(KINDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(process: subprocess.Popen[str], phase: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if line.endswith(f"{phase}\n"):
            return
    pytest.fail(f"it ended before {phase}")


def processes_of_session(session: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("phase", ["round trips", "page faults"])
def test_ctrl_c_leaves_nothing_behind(phase):
    before = ksm_settings()
    process = start(SCRIPT)
    wait_for(process, phase)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert eventually(lambda: not processes_of_session(process.pid))
    assert eventually(lambda: is_clean(process.pid, before))


@pytest.mark.skipif(not os.access(KSM / "run", os.W_OK), reason="KSM is not there, or needs root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ksm_is_as_before_whatever_ends_a_run(number):
    before = ksm_settings()
    process = start(KSM_SCRIPT)
    wait_for(process, "KSM")
    time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert eventually(lambda: not processes_of_session(process.pid))
    assert eventually(lambda: ksm_settings() == before)


def test_an_ordinary_user_gets_what_needs_no_root():
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or not setpriv:
        pytest.skip("to become an ordinary user needs root and setpriv (util-linux)")
    # This interpreter may be where only root can read; that is all the user is allowed.
    allowed = [f"--{which}-caps=+dac_read_search" for which in ("inh", "ambient")]
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *allowed]
    # An editable install looks whether it is to be built again, and mustn't write of it.
    environment = {"MESONPY_EDITABLE_VERBOSE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = start(SCRIPT, *user, env={**os.environ, **environment})
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert set(found["measured"]) >= NEVER_WITHOUT | {"fork.page"}
    assert "dontneed" in found["lines"]
    assert set(found["measured"]) | found["left_out"].keys() >= NAMES
    for kind in KINDS:
        assert "root" in found["left_out"][f"swap.{kind}.out"]
    assert "root" in found["left_out"]["ksm.merge"] or "KSM" in found["left_out"]["ksm.merge"]
