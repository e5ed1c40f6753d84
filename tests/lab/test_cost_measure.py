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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import mean

import pytest
from elf_oracle import needs_readelf
from support.patience import communicate
from support.sessions import processes_of_session
from support.squeezing import groups_of
from support.waiting import eventually

from mapscratch.elf import default_libraries
from mapscratch.lab.compare.rounds import compare
from mapscratch.lab.cost import lines
from mapscratch.lab.cost.costs import Costs
from mapscratch.lab.cost.lines import LineTimer, regressors
from mapscratch.lab.cost.loader_costs import LoaderTimer
from mapscratch.lab.cost.measure import measure
from mapscratch.lab.cost.timers import working_folder
from mapscratch.lab.rig.machine.swap import probe_temporary_swap
from mapscratch.lab.rig.results import Settings, Spread
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.workload import read_workload
from mapscratch.proc import active_swaps

KINDS = tuple(kind for kind in ("file", "zram", "zswap") if probe_temporary_swap(kind, 96 << 20))
KSM = Path("/sys/kernel/mm/ksm")
PAGES = 128
"""With fixups, of a process that makes round trips: fewer than a real run has, and quicker."""
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
NEVER_WITHOUT = {"drop.dontneed", "fixup.word"}
"""Times by themselves, of what runs everywhere."""
LOST_IN_NOISE = "too little for this machine's noise"
"""Why a difference, or what takes pages that have left memory, may not be there."""

needs_loader = pytest.mark.skipif(
    platform.machine() != "x86_64"
    or platform.libc_ver()[0] != "glibc"
    or not (shutil.which("as") and shutil.which("ld")),
    reason="as and ld make libraries that ld.so of glibc on x86-64 loads",
)


def ksm_settings() -> dict[str, str]:
    names = ("run", "pages_to_scan", "sleep_millisecs", "smart_scan", "advisor_mode")
    return {name: (KSM / name).read_text().strip() for name in names if (KSM / name).exists()}


def ksm_is_as(before: dict[str, str]) -> bool:
    """What was at work before belongs to others, who change it as they like."""
    return before.get("run") != "0" or ksm_settings() == before


def working_folders(pid: int) -> list[Path]:
    return list(Path("/var/tmp").glob(f"mapscratch-cost-{pid}-*"))


def is_clean(pid: int, ksm: dict[str, str]) -> bool:
    """Nothing of that process is left."""
    swaps = [area.path for area in active_swaps() if f"-{pid}-" in area.path]
    return not swaps and not groups_of(pid) and not working_folders(pid) and ksm_is_as(ksm)


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def costs(said: list[str]) -> Costs:
    before = ksm_settings()
    steps: list[tuple[str, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_PAGES", PAGES)
        found = measure(
            KINDS,
            seconds=1.0,
            announce=said.append,
            progress=lambda what, share: steps.append((what, share)),
        )
    assert eventually(lambda: is_clean(os.getpid(), before))
    # What can't be measured here isn't tried again.
    assert 4 <= len(steps) <= 4 * found.rounds
    assert all(0 <= share <= 1 for _, share in steps)
    return found


def test_every_figure_is_there_or_it_is_said_why_not(costs):
    measured = [one.name for one in costs.measurements]
    assert len(measured) == len(set(measured))
    assert set(measured) | costs.left_out.keys() >= NAMES
    assert not set(measured) & costs.left_out.keys()
    assert all(reason for reason in costs.left_out.values())
    assert set(measured) >= NEVER_WITHOUT
    runs_here = {f"swap.{kind}.{way}" for kind in KINDS for way in ("out", "in")}
    for name in (*runs_here, "fault.copy_on_write", "fault.page_cache"):
        assert name in measured or LOST_IN_NOISE in costs.left_out[name]


def test_figures_make_sense(costs):
    assert costs.rounds >= 1
    assert costs.seconds > 0
    for one in costs.measurements:
        assert one.median > 0
        assert one.minimum <= one.median <= one.maximum
        assert 0 < one.rounds <= costs.rounds
        assert one.title and one.note.endswith(".")
        assert one.per in ("fixup", "page", "call")

    # Of a size that makes sense, however busy the machine is: noise only adds to the least of them.
    for less, more in (
        ("fixup.word", "fault.copy_on_write"),
        ("relocation.relative", "relocation.symbolic.long"),
        ("fault.page_cache", "fault.disk"),
    ):
        smaller, larger = costs.measurement(less), costs.measurement(more)
        if smaller and larger:
            assert smaller.minimum < 10 * larger.maximum, (less, more)


def test_there_is_a_line_for_everything_that_runs_here(costs):
    expected = {f"swap.{kind}" for kind in KINDS}
    expected |= {
        name for name in STRATEGIES if name != "private" and not STRATEGIES[name].unavailable()
    }
    measured = {line.what for line in costs.lines}
    for what in expected - measured:
        assert costs.left_out[f"line.{what}"] == "pages didn't leave memory"
    assert "dontneed" in measured  # whose pages always do
    assert {f"line.{name}" for name in STRATEGIES if name != "private"} <= {
        *(f"line.{what}" for what in measured),
        *costs.left_out,
    }
    for line in costs.lines:
        assert 1 <= len(line.fits) <= costs.rounds
        assert line.cpu_us
        assert 0 < line.cpu_us.minimum <= line.cpu_us.median <= line.cpu_us.maximum
        assert [point.fixups for point in line.points[:4]] == [1, 64, 256, 512]
        for point in line.points:
            assert 0 < point.minimum <= point.median <= point.maximum
        # Where it was measured, what each round predicts is right in the mean, by least squares.
        least = mean(point.minimum for point in line.points)
        most = mean(point.maximum for point in line.points)
        for fit in line.fits:
            predicted = mean(
                fit.round_trip_us(point.fixups, *beside)
                for point, beside in zip(line.points, line.layouts, strict=True)
            )
            assert least * 0.999 <= predicted <= most * 1.001
        assert line.fitted("clean_page_us").minimum >= 0
        assert line.fitted("mapping_us").minimum >= 0


def test_what_is_made_is_announced(costs, said):
    assert len(said) == len(KINDS)
    assert all("removed" in sentence for sentence in said)


@needs_loader
def test_the_loader_says_the_same(tmp_path):
    timer = LoaderTimer(tmp_path)
    timer.once(1)
    checks = timer.checks()
    assert len(checks) == 4
    for check in checks:
        assert "LD_DEBUG=statistics" in check.note
        assert check.ratio == pytest.approx(check.ours / check.theirs)
        if check.what.endswith(": number"):
            assert check.ours == check.theirs
            assert check.agrees
        else:
            # Whether these agree depends on what else the machine does.
            assert check.ours > 0
            assert check.theirs > 0


ROUNDS = 7
MEDIANS = 1.3
"""How many times longer one of the two may be."""


@pytest.mark.stress
@needs_readelf
@pytest.mark.timeout(240)
def test_the_prediction_is_what_compare_measures(monkeypatch):
    monkeypatch.setattr(lines, "_PAGES", PAGES)
    # Noise may spoil one run, not two.
    apart = prediction_and_comparison() and prediction_and_comparison()
    assert not apart


def prediction_and_comparison() -> list[str]:
    """What of it doesn't agree: spreads that have nothing in common, or medians of another size."""
    libraries = [path for path in default_libraries() if path.name.startswith("libcrypto")]
    workload = read_workload(libraries or default_libraries()[:1], pages=PAGES)
    kinds = [kind for kind in ("zram", "file") if kind in KINDS][:1]
    strategies = tuple(
        name
        for name in STRATEGIES
        if not STRATEGIES[name].unavailable() and (name != "private" or kinds)
    )
    settings = Settings((1,), 1, 60.0, strategies, "pageout", *(kinds or ["none"]), PAGES)
    rounds: dict[str, list[float | None]] = {}
    with working_folder() as folder:
        timer = LineTimer(folder, kinds, silent)
        # In turns: whatever else happens on this machine happens to both.
        for number in range(1, ROUNDS + 1):
            timer.once(number)
            for one in compare(workload, settings, announce=silent, progress=silent).rounds:
                assert one.wrong_words == 0
                name = f"swap.{kinds[0]}" if one.strategy == "private" else one.strategy
                rounds.setdefault(name, []).append(one.round_trip_us)
        predictions = {
            line.what: Spread.of(fit.round_trip_us(*regressors(workload)) for fit in line.fits)
            for line in timer.lines()
        }
    assert predictions.keys() == rounds.keys()
    found = {what: Spread.of(times) for what, times in rounds.items()}
    return [
        f"{what}: {predicted} predicted, {found[what]} found"
        for what, predicted in predictions.items()
        if not agree(predicted, found[what])
    ]


def agree(one: Spread, other: Spread | None) -> bool:
    return (
        other is not None
        and one.minimum <= other.maximum
        and other.minimum <= one.maximum
        and one.median / MEDIANS <= other.median <= one.median * MEDIANS
    )


SCRIPT = """
import json, sys
from mapscratch.lab.cost import lines
from mapscratch.lab.cost.measure import measure
def progress(what, share):
    print(what, file=sys.stderr, flush=True)
kinds, lines._PAGES = json.loads(sys.argv[1])
costs = measure(kinds, seconds=1.0, announce=lambda said: None, progress=progress)
json.dump({"left_out": costs.left_out, "measured": [one.name for one in costs.measurements],
           "lines": [line.what for line in costs.lines]}, sys.stdout)
"""
# Its process is ended in the middle of it.
KSM_SCRIPT = """
import sys, time
from pathlib import Path
from mapscratch.lab.cost import ksm_costs
def merge(*_):
    print("KSM", file=sys.stderr, flush=True)
    time.sleep(600)
ksm_costs._merge = merge
try:
    ksm_costs.KsmTimer(Path()).once(1)
except ksm_costs.CannotMeasure as reason:
    sys.exit(f"left out: {reason}")
"""


@contextmanager
def started(
    script: str, *prefix: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs it, in a session of its own, all of which ends with the block."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", script, json.dumps([KINDS, PAGES])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen[str], phase: str, seconds: float = 60.0) -> None:
    assert process.stderr
    said = []
    timer = threading.Timer(seconds, end, [process])
    timer.start()
    try:
        for line in process.stderr:
            said.append(line)
            if line.endswith(f"{phase}\n"):
                return
            if line.startswith("left out: "):
                pytest.skip(line.strip())
    finally:
        timer.cancel()
    pytest.fail(f"it ended before {phase}, or was not there in {seconds:g} s: {said}")


@pytest.mark.parametrize("phase", ["round trips", "page faults"])
def test_ctrl_c_leaves_nothing_behind(phase):
    before = ksm_settings()
    with started(SCRIPT) as process:
        wait_for(process, phase)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = communicate(process, seconds=60)
        assert "KeyboardInterrupt" in errors
        assert eventually(lambda: not processes_of_session(process.pid))
    assert eventually(lambda: is_clean(process.pid, before))


@pytest.mark.skipif(not os.access(KSM / "run", os.W_OK), reason="KSM is not there, or needs root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ksm_is_as_before_whatever_ends_a_run(number):
    before = ksm_settings()
    if before["run"] != "0":
        pytest.skip("KSM is at work here already")
    with started(KSM_SCRIPT) as process:
        wait_for(process, "KSM")
        assert ksm_settings() != before
        process.send_signal(number)
        communicate(process, seconds=60)
        assert eventually(lambda: not processes_of_session(process.pid))
    assert eventually(lambda: ksm_is_as(before))


def test_an_ordinary_user_gets_what_needs_no_root():
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or not setpriv:
        pytest.skip("to become an ordinary user needs root and setpriv (util-linux)")
    # This interpreter may be where only root can read; that is all the user is allowed.
    allowed = [f"--{which}-caps=+dac_read_search" for which in ("inh", "ambient")]
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *allowed]
    # An editable install looks whether it is to be built again, and mustn't write of it.
    environment = {"MESONPY_EDITABLE_VERBOSE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with started(SCRIPT, *user, environment=environment) as process:
        output, errors = communicate(process, seconds=90)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert set(found["measured"]) >= NEVER_WITHOUT
    assert set(found["measured"]) | found["left_out"].keys() >= NAMES
    # Differences may be too small to be seen.
    for name in ("fault.copy_on_write", "fault.page_cache", "fork.page"):
        assert name in found["measured"] or LOST_IN_NOISE in found["left_out"][name]
    assert "dontneed" in found["lines"]
    for kind in KINDS:
        assert "root" in found["left_out"][f"swap.{kind}.out"]
    assert "root" in found["left_out"]["ksm.merge"] or "KSM" in found["left_out"]["ksm.merge"]
