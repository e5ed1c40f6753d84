# SPDX-License-Identifier: Apache-2.0
"""`mapscratch cost` as a user meets it: every option, files, errors, interrupts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from support.costs import LINES, distribution_of_counts, make_costs
from support.interpreter import run_python
from support.patience import communicate, patient
from support.sessions import processes_of_session

from mapscratch import cli
from mapscratch.cli import main
from mapscratch.elf import default_libraries
from mapscratch.lab.cost import command
from mapscratch.lab.cost.alternatives import Alternatives
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.document import cost_document, read_figures
from mapscratch.lab.cost.model import Layout
from mapscratch.lab.cost.timers import working_folder
from mapscratch.lab.reading import ReadingError
from mapscratch.lab.rig import surroundings
from mapscratch.proc import Availability

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIBRARY = str(default_libraries()[1])
PAGES_BY_FIXUPS = [[5, 50], [36, 30], [288, 20]]
SURVEY = {
    "document": "mapscratch.survey",
    "version": 1,
    "libraries": [{"kinds": {"RELATIVE": 60, "RELR": 15, "symbolic": 25}, "dirtied_pages": 100}],
    "processes": [
        # Half of it shared by a fork; nothing; all in swap.
        {"relocated_pages": 600, "relocated_pss_bytes": 300 << 12, "swap_bytes": 0},
        {"relocated_pages": 0, "relocated_pss_bytes": 0, "swap_bytes": 0},
        {"relocated_pages": 100, "relocated_pss_bytes": 0, "swap_bytes": 100 << 12},
    ],
    "totals": {"pages_by_fixups": PAGES_BY_FIXUPS, "dirtied_pages": 100, "window_pages": 120},
}


def document_of(costs, **options) -> dict:
    pages = distribution_of_counts(
        "three pages", np.array([10, 100, 400]), layout=Layout(0.5, 0.01)
    )
    return cost_document(CostReport(costs, pages, **options), CREATED)


@pytest.fixture
def figures(tmp_path: Path) -> str:
    """A file of an earlier run."""
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(document_of(make_costs())))
    return str(path)


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(SURVEY))
    return path


@pytest.fixture
def measured(monkeypatch) -> list[tuple]:
    """Nothing is measured; gives what it was called with."""
    calls = []

    def measure(swaps, *, seconds, announce, progress):
        calls.append((swaps, seconds))
        progress("half of it", 0.5)
        return make_costs()

    tried = Alternatives("/lib/libx.so", 100, 8, 100 << 12, 11 << 12, 900.0, 0.0, 1.0, 0.2)
    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "try_alternatives", lambda library, progress: tried)
    return calls


def run(capsys, *arguments: str) -> str:
    """The output, its lines joined."""
    assert main(["cost", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


# --- figures of an earlier run ------------------------------------------------------------------


def test_figures_of_an_earlier_run_are_told_and_nothing_is_measured(figures, capsys, monkeypatch):
    monkeypatch.setattr(command, "measure", None)
    output = run(capsys, "--from", figures)
    assert output.startswith("Figures of 02 January 2026, 03:04")
    assert "nothing is measured" in output
    assert output.endswith(" in a long scope.")


def test_the_same_document_comes_out_that_went_in(figures, tmp_path, capsys):
    again = tmp_path / "again.json"
    document = json.loads(Path(figures).read_text())
    document["machine"]["kernel"] = "of another machine"
    Path(figures).write_text(json.dumps(document))
    run(capsys, "--from", figures, "--json", str(again))
    assert json.loads(again.read_text()) == document


def test_json_on_standard_output_is_alone_there(figures, tmp_path, capsys):
    assert main(["cost", "--from", figures, "--json", "-"]) == 0
    captured = capsys.readouterr()
    saved = tmp_path / "saved.json"
    saved.write_text(captured.out)
    assert read_figures(saved).costs() == make_costs()
    assert "How expensive are the fixups?" in captured.err


@pytest.mark.parametrize(
    ("latency", "title"),
    [("nvme", "nvme at 80 µs"), ("disk", "disk at 10,000 µs"), ("12.5", "device at 12.5 µs")],
)
def test_another_device_is_reckoned_with(figures, latency, title, capsys):
    output = run(capsys, "--from", figures, "--device-latency", latency)
    assert f"{title}: assumed, not measured" in output
    assert f"{title}, read-ahead" in output


def test_without_swap_a_device_is_assumed_and_that_is_said(tmp_path, capsys):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(document_of(make_costs(lines=LINES[2:]))))
    output = run(capsys, "--from", str(path))
    assert "Swap was not measured; nvme at 80 µs is assumed" in output
    assert "Against nvme (assumed, 8" in output


def test_libraries_say_whose_pages(figures, capsys):
    output = run(capsys, "--from", figures, LIBRARY)
    assert f"Pages: {Path(LIBRARY).name.split('.so')[0]}:" in output
    assert "three pages" not in output


def test_a_survey_says_whose_pages_and_which_processes(figures, survey, capsys):
    output = run(capsys, "--from", figures, "--survey", str(survey), "--processes", "50")
    assert "1 surveyed library: 100 with fixups" in output
    assert "75% of them relative" in output
    assert "50 processes on one host" in output
    # Of the two processes that have any: 300 and 100.
    assert "10,000 pages with fixups" in output


def test_a_fleet_is_told_with_what_is_assumed(figures, tmp_path, capsys):
    path = tmp_path / "fleet.json"
    options = ("--processes", "1000", "--hosts", "1000")
    output = run(capsys, "--from", figures, *options, "--json", str(path))
    assert "1,000 processes on each of 1,000 hosts" in output
    assert "private, swapfile" in output and "docs/cost.md says what else is assumed" in output
    fleet = json.loads(path.read_text())["fleet"]
    assert fleet["pages"] == 3_000_000
    assert {plan["written_bytes"] for plan in fleet["plans"]} == {0, 3_000_000 << 12}


def test_a_chart_is_saved(figures, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.svg"
    run(capsys, "--from", figures, "--chart", str(path))
    assert path.read_text().startswith("<?xml")


def test_it_needs_no_unicode_and_no_colour(figures):
    program = [sys.executable, "-m", "mapscratch", "cost", "--from", figures, "--processes", "9"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(program, capture_output=True, env=environment, check=True)
    lines = done.stdout.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout.decode("ascii")
    assert done.stderr == b""


def test_files_are_saved_even_if_nobody_reads_to_the_end(figures, tmp_path):
    pytest.importorskip("matplotlib")
    saved, chart = tmp_path / "out.json", tmp_path / "out.svg"
    program = [sys.executable, "-m", "mapscratch", "cost", "--from", figures]
    process = subprocess.Popen(
        [*program, "--json", str(saved), "--chart", str(chart)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.close()
    process.wait(patient(60))
    assert json.loads(saved.read_text())["document"] == "mapscratch.cost"
    assert chart.read_text().startswith("<?xml")


@pytest.mark.parametrize("columns", [1, 20, 40, 200])
def test_figures_are_whole_in_any_terminal(figures, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    options = ["--device-latency", "disk", "--processes", "1000000", "--hosts", "1000000"]
    assert main(["cost", "--from", figures, *options]) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    assert columns < 40 or max(map(len, output.splitlines())) <= columns
    assert columns < 80 or "years ±" in output


# --- measuring ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--measure"], ["--swap", "none"]])
def test_alone_it_measures_what_changes_nothing_and_says_so(options, measured, monkeypatch, capsys):
    monkeypatch.setattr(command, "active_swaps", list)
    output = run(capsys, *options, LIBRARY)
    assert measured == [((), command.DEFAULT_SECONDS)]
    assert "Nothing on the machine is changed" in output
    assert "There is no swap, so it is not measured: as root, --swap all" in output
    assert "11 of the 100 dirty pages of libx.so" in output


def test_time_and_swaps_are_passed_on(measured, monkeypatch, capsys):
    possible = {"file": Availability(True, ""), "zram": Availability(False, "no zram: root")}
    monkeypatch.setattr(
        surroundings,
        "probe_temporary_swap",
        lambda kind, size: possible.get(kind, possible["zram"]),
    )
    monkeypatch.setattr(command, "active_swaps", list)
    monkeypatch.setattr(surroundings, "active_swaps", list)
    assert "zram is left out: no zram: root" in run(
        capsys, "--swap", "all", "--seconds", "7", LIBRARY
    )
    run(capsys, "--swap", "file", LIBRARY)
    run(capsys, "--swap", "auto", LIBRARY)
    seconds = command.DEFAULT_SECONDS
    assert measured == [(("file",), 7.0), (("file",), seconds), (("file",), seconds)]
    possible["file"] = Availability(False, "not root")
    assert "Swap: file is left out: not root" in run(capsys, "--swap", "auto", LIBRARY)
    assert main(["cost", "--swap", "all"]) == cli.EXIT_ERROR
    assert "--swap all: file: not root; zram: no zram: root; zswap" in capsys.readouterr().err


def test_swap_that_is_there_is_left_as_it_is(measured, monkeypatch, capsys):
    for module in (command, surroundings):
        monkeypatch.setattr(module, "active_swaps", lambda: ["one"])
    assert "swap is what is there" in run(capsys, "--swap", "auto", LIBRARY)
    assert measured[0][0] == ()


def test_other_ways_are_tried_with_the_library_that_is_named(measured, monkeypatch, capsys):
    tried = []
    monkeypatch.setattr(command, "try_alternatives", lambda path, progress: tried.append(path))
    run(capsys, LIBRARY)
    assert tried == [Path(LIBRARY)]


@pytest.mark.stress
def test_a_real_run_is_what_it_saves(tmp_path, capsys):
    path = tmp_path / "cost.json"
    output = run(capsys, "--seconds", "5", "--json", str(path))
    document = json.loads(path.read_text())
    assert {one["name"] for one in document["measurements"]} >= {
        "relocation.relative",
        "relocation.symbolic.short",
        "fault.copy_on_write",
    }
    assert " ".join(document["answer"].split()) in output
    assert document["alternatives"]["pages"] > 0
    assert run(capsys, "--from", str(path)).endswith(" ".join(document["answer"].split()))


# --- errors -------------------------------------------------------------------------------------


def test_what_is_no_use_is_found_before_anything_is_measured(measured, tmp_path, capsys):
    survey = tmp_path / "survey.json"
    survey.write_text(json.dumps(SURVEY | {"processes": []}))
    for arguments in (
        ["--survey", str(survey), "--processes", "5"],
        ["--json", "/"],
        ["--chart", "x.pdf"],
    ):
        assert main(["cost", *arguments]) == cli.EXIT_ERROR
    assert measured == []
    capsys.readouterr()


def test_what_does_not_go_together_is_said(figures, survey, capsys):
    for arguments, message in (
        (["--from", figures, "--measure"], "leave --measure away"),
        (["--from", figures, "--swap", "all", "--seconds", "9"], "leave --swap, --seconds away"),
        (["--from", figures, "--hosts", "3"], "--hosts needs --processes"),
        (["--from", figures, "--survey", str(survey), LIBRARY], "name no libraries as well"),
        (["--from", figures, "/nonexistent.so"], "/nonexistent.so: No such file or directory"),
        (["--from", figures, __file__], "not an ELF file"),
        (["--from", "/nonexistent.json"], "/nonexistent.json: No such file or directory"),
        (["--from", __file__], "is no JSON"),
        (
            ["--from", str(survey)],
            "a document 'mapscratch.survey', and a mapscratch.cost is wanted",
        ),
        (
            ["--from", figures, "--survey", figures],
            "name what `mapscratch survey --json` saved",
        ),
        (["--from", figures, "--survey", "/nonexistent.json"], "No such file or directory"),
        (["--from", figures, "--chart", "chart.pdf"], ".svg or .png"),
        (["--from", figures, "--json", "/nonexistent/x.json"], "can't be written to"),
        (["--from", figures, "--json", "/"], "Is a directory"),
        (["--from", "/"], "/ is no regular file"),
        (["--from", figures, "--survey", os.devnull], "is no regular file"),
        (["--from", figures, "--json", "x.svg", "--chart", "x.svg"], "is named twice"),
    ):
        assert main(["cost", *arguments]) == cli.EXIT_ERROR, arguments
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("mapscratch: ") and message in line


@pytest.mark.parametrize("option", ["--from", "--survey"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": NaN}', "a number that makes no sense (NaN)"),
        (b"[-Infinity]", "a number that makes no sense (-Infinity)"),
        (b"[1e999]", "a number that makes no sense (1e999)"),
        (b"[1" + b"0" * 9000 + b"]", "a number that makes no sense (1000"),
        (b"\x7fELF\xff\xfe", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"", "is no JSON"),
        (b"[]", "mapscratch"),
    ],
)
def test_whatever_a_file_holds_is_refused_in_a_line(
    figures, tmp_path, option, content, message, capsys
):
    path = tmp_path / "odd"
    path.write_bytes(content)
    others = [] if option == "--from" else ["--from", figures]
    assert main(["cost", *others, option, str(path)]) == cli.EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and len(line) < 300


@pytest.mark.parametrize("option", ["--from", "--survey"])
def test_a_pipe_is_not_waited_for(figures, tmp_path, option, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert main(["cost", "--from", figures, option, str(path)]) == cli.EXIT_ERROR
    assert "is no regular file" in capsys.readouterr().err


def saved(document: dict, path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def wrong(value: object) -> object:
    """Something of another type."""
    return {"x": 1} if not isinstance(value, dict) else "x"


@pytest.mark.parametrize("remove", [True, False])
def test_figures_that_are_damaged_anywhere_are_refused_or_read(tmp_path, remove, measured, capsys):
    tried = Alternatives("/lib/libx.so", 100, 8, 100 << 12, 11 << 12, 900.0, 0.0, 1.0, 0.2)
    whole = document_of(make_costs(), alternatives=tried)

    def places(value, *way):
        if isinstance(value, dict | list) and way[:1] != ("baselines",):
            names = value if isinstance(value, dict) else range(min(len(value), 1))
            for name in names:
                yield (*way, name)
                yield from places(value[name], *way, name)

    path = tmp_path / "cost.json"
    refused = 0
    for *way, name in places(json.loads(json.dumps(whole))):
        document = json.loads(json.dumps(whole))
        at = document
        for step in way:
            at = at[step]
        if remove:
            del at[name]
        else:
            at[name] = wrong(at[name])
        try:
            read_figures(saved(document, path))
        except ReadingError as error:
            refused += 1
            assert str(path) in str(error)
            assert "Error" not in str(error) and "\n" not in str(error)
            continue
        if not remove and way[:1] == ["measurements"]:
            assert main(["cost", "--from", str(path)]) == 0, (way, name)
    assert refused > 30


def test_a_later_version_is_told_from_damage(figures, survey, tmp_path, capsys):
    path = tmp_path / "newer.json"
    path.write_text(json.dumps({"document": "mapscratch.cost", "version": 99}))
    assert main(["cost", "--from", str(path)]) == cli.EXIT_ERROR
    assert "version 99 of mapscratch.cost, and this mapscratch reads 1: a newer" in (
        capsys.readouterr().err
    )
    path.write_text(json.dumps(SURVEY | {"version": 99}))
    assert main(["cost", "--from", figures, "--survey", str(path)]) == cli.EXIT_ERROR
    assert "version 99 of mapscratch.survey, and this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": []}, "survey with --pid all"),
        ({"processes": [{}]}, "missing required field `relocated_pages` - at `$.processes[0]`"),
        ({"totals": {}}, "at `$.totals`: was this file changed by hand?"),
        ({"libraries": 3}, "Expected `array`, got `int` - at `$.libraries`"),
        ({"totals": SURVEY["totals"] | {"pages_by_fixups": []}}, "survey other libraries"),
        ({"totals": SURVEY["totals"] | {"pages_by_fixups": ["x"]}}, "make it again"),
    ],
)
def test_a_survey_that_is_no_use_says_why(figures, tmp_path, change, message, capsys):
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(SURVEY | change))
    arguments = ["cost", "--from", figures, "--survey", str(path), "--processes", "5"]
    assert main(arguments) == cli.EXIT_ERROR
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--swap", "tape"],
        ["--seconds", "0"],
        ["--seconds", "x"],
        ["--device-latency", "tape"],
        ["--device-latency", "nan"],
        ["--device-latency", "-1"],
        ["--processes", "0"],
        ["--processes", "x"],
        ["--processes", "9" * 20],
        ["--hosts", "-2"],
        ["--hosts", "9" * 5000],
        ["--from", ""],
        ["--json", ""],
    ],
)
def test_wrong_use_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["cost", *arguments])
    assert raised.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["file", "zram", "zswap", "all"])
def test_what_needs_root_says_so_before_anything_is_read(choice):
    code = """
        import sys
        import rich.console, rich.progress
        import mapscratch.lab.cost.command
        from mapscratch.cli import main
        from support.ordinary_user import become_ordinary_user
        become_ordinary_user()
        sys.exit(main(["cost", "--swap", *sys.argv[1:]]))
    """
    done = run_python(code, choice, LIBRARY, check=False)
    assert done.returncode == cli.EXIT_ERROR
    (line,) = done.stderr.splitlines()
    assert f"--swap {choice}" in line and "needs root" in line and "sudo" in line
    assert not done.stdout


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["cost", "--help"])
    output = capsys.readouterr().out
    assert "mapscratch cost --from cost.json --device-latency nvme" in output
    assert "nvme 80, ssd 150, disk 10,000" in " ".join(output.split())


# --- interrupts ---------------------------------------------------------------------------------


def measuring_folders(pid: int) -> list[Path]:
    return list(Path("/var/tmp").glob(f"mapscratch-cost-{pid}-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_it_leaves_nothing_behind(number):
    program = [sys.executable, "-m", "mapscratch", "cost", "--seconds", "100"]
    process = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("At most 100 s")
    time.sleep(1)
    os.killpg(process.pid, number)
    _, errors = communicate(process, seconds=30)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert errors == "mapscratch: interrupted; everything that was made is removed\n"
    for _ in range(250):
        if not processes_of_session(process.pid) and not measuring_folders(process.pid):
            return
        time.sleep(0.02)
    raise AssertionError(f"left behind: {processes_of_session(process.pid)}")


def test_what_a_killed_one_left_is_swept_by_the_next_and_nothing_else():
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    place = Path("/var/tmp")
    left = place / f"mapscratch-cost-{killed.pid}-left"
    of_a_living_one = place / f"mapscratch-cost-{os.getpid()}-living"
    locked = place / f"mapscratch-cost-{killed.pid}-locked"
    folders = (left, of_a_living_one, locked)
    try:
        for folder in folders:
            folder.mkdir()
            (folder / "file").write_text("x")
        lock = os.open(locked, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with working_folder() as folder:
            assert folder.is_dir()
        os.close(lock)
        assert [folder.exists() for folder in folders] == [False, True, True]
        assert not folder.exists()
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
