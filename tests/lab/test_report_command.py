# SPDX-License-Identifier: Apache-2.0
"""`mapscratch report` as a command: files that it is given, what it runs itself, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.interpreter import run_python
from support.patience import communicate
from support.report_documents import BENCH, make_compare, make_cost, make_survey, saved
from support.waiting import eventually

from mapscratch.cli import main
from mapscratch.lab.report import command as report
from mapscratch.lab.report.bench import files_of_the_source
from mapscratch.lab.report.parts import Outcome, Part, run_part
from mapscratch.lab.rig import surroundings
from mapscratch.proc.availability import Availability

LIBRARY = next(
    (
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line or "/libc-" in line
    ),
    sys.executable,
)
SURVEY = Part("survey", "", ("survey", LIBRARY, "--json", "{folder}/s.json"), "s.json", 60.0)


def test_a_page_from_files(tmp_path, capsys):
    output = tmp_path / "page.html"
    arguments = ["report", "-o", str(output), "--survey", str(saved(make_survey(), tmp_path))]
    assert main([*arguments, "--compare", str(saved(make_compare(), tmp_path))]) == 0
    assert capsys.readouterr().out.startswith(str(output))
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert output.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert {path.name for path in tmp_path.iterdir()} == {
        "page.html", "survey.json", "compare.json",
    }  # fmt: skip


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_wrong_words_are_an_exit_status(tmp_path):
    path = saved(make_compare(wrong_words=1), tmp_path)
    assert main(["report", "-o", str(tmp_path / "x.html"), "--compare", str(path)]) == 1


def test_to_standard_output(tmp_path):
    command = [sys.executable, "-m", "mapscratch", "report", "-o", "-"]
    path = saved(make_cost(), tmp_path)
    done = subprocess.run([*command, "--cost", str(path)], capture_output=True, check=True)
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    assert done.stdout.endswith(b"</html>\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"document": "mapscratch.survey", "version": NaN}', "NaN"),
        (b'{"totals": {"fixups": 1e300}}', "makes no sense"),
        (b'{"totals": {"fixups": 1' + 400 * b"0" + b"}}", "makes no sense"),
        (b"[]", "no document of mapscratch"),
        (b'{"document": ["mapscratch.survey"]}', "no document of mapscratch"),
        (b'{"document": "mapscratch.cost", "version": 1}', "a mapscratch.survey is wanted"),
        (b'{"document": "<x>\\u0000\\n", "version": 1}', "a mapscratch.survey is wanted"),
        (b'{"document": "mapscratch.survey", "version": 2}', "a newer mapscratch made it"),
        (b'{"document": "mapscratch.survey", "version": 0}', "make it again"),
        (b'{"document": "mapscratch.survey", "version": 1}', "missing required field"),
        (b'{"document": "mapscratch.survey", "version": true}', "make it again"),
        (b'{"document": "mapscratch.survey"}', "make it again"),
    ],
)
def test_a_file_that_is_no_document_is_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    output = tmp_path / "page.html"
    assert main(["report", "-o", str(output), "--survey", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert message in error
    assert not output.exists()


BAD = [
    ("libraries", {}),
    ("libraries", [7]),
    ("libraries", [{"path": 7}]),
    ("libraries", [{"dirtied_pages": -1}]),
    ("libraries", [{"dirtied_pages": "many"}]),
    ("totals", []),
    ("totals", {"libraries": True}),
    ("totals", {"pages_by_fixups": [[1]]}),
    ("totals", {"pages_by_fixups": [[1, None]]}),
    ("processes", [{"pid": "1"}]),
    ("machine", "Linux"),
    ("skipped", [{"path": None, "reason": []}]),
    ("created", {}),
    ("left_out", {"x": 1}),
    ("seconds", "long"),
]


@pytest.mark.parametrize(("member", "value"), BAD)
def test_a_member_of_another_kind_is_one_line(member, value, tmp_path, capsys):
    path = saved(make_survey(**{member: value}), tmp_path)
    assert main(["report", "-o", str(tmp_path / "page.html"), "--survey", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert member in error
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_was_there_stays_if_a_new_one_can_not_be_made(tmp_path, capsys):
    output = tmp_path / "page.html"
    output.write_text("old")
    path = saved(make_survey(totals=3), tmp_path)
    assert main(["report", "-o", str(output), "--survey", str(path)]) == 2
    assert output.read_text() == "old"
    assert main(["report", "-o", str(tmp_path), "--survey", str(path)]) == 2
    assert "directory" in capsys.readouterr().err.splitlines()[-1]


def test_a_page_that_can_not_be_written_leaves_nothing_new(tmp_path):
    """As on a full disk: files here may have 4 KiB, and the page has more."""
    document, output = saved(make_survey(), tmp_path), tmp_path / "page.html"
    command = [sys.executable, "-m", "mapscratch", "report", "-o", str(output)]
    limited = ["sh", "-c", 'ulimit -f 8 && exec "$@"', "sh", *command, "--survey", str(document)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [document]
    output.write_text("old")
    assert subprocess.run(limited, capture_output=True, check=False).returncode == 2
    assert output.read_text() == "old"
    assert set(tmp_path.iterdir()) == {document, output}


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["report", "--survey", str(tmp_path / "pipe")]) == 2
    assert "regular file" in capsys.readouterr().err


def test_results_of_benchmarks_are_those_named_or_those_of_the_source(tmp_path, monkeypatch):
    output, cost = tmp_path / "x.html", str(saved(make_cost(), tmp_path))
    named = tmp_path / "run.json"
    named.write_text(json.dumps(BENCH))
    command = ["report", "-o", str(output), "--cost", cost]
    assert main([*command, "--bench", str(named), str(named)]) == 0
    assert output.read_text().count('<th scope="col">A Processor, 2026-02</th>') == 4
    assert main(command) == 0
    assert "A Processor" not in output.read_text()
    # A wheel's tests find none.
    assert ("were not given" in output.read_text()) == (not files_of_the_source())
    root = Path(report.__file__).parents[4]
    assert files_of_the_source() == sorted(root.glob("bench/results/*.json"))
    monkeypatch.setattr(report, "files_of_the_source", list)
    assert main(command) == 0
    assert "were not given" in output.read_text()


@pytest.mark.parametrize("content", ["{}", "[]", '{"figures": {"arrays.scan": "much"}}', "x"])
def test_results_that_are_none_are_one_line(content, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(content)
    cost = str(saved(make_cost(), tmp_path))
    assert main(["report", "-o", str(tmp_path / "x"), "--cost", cost, "--bench", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error


def test_one_document_is_not_given_twice(tmp_path, capsys):
    path = str(saved(make_cost(), tmp_path))
    assert main(["report", "-o", str(tmp_path / "x"), "--cost", path, "--cost", path]) == 2
    assert "--cost is given twice" in capsys.readouterr().err


def test_files_that_are_not_there(tmp_path, capsys):
    assert main(["report", "--cost", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


# --- what it runs itself -------------------------------------------------------------------------


def test_a_part_is_a_command_of_its_own(tmp_path, monkeypatch):
    # Modules of the folder that somebody is in are not ours.
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    outcome = run_part(SURVEY, tmp_path)
    assert outcome.reason == ""
    assert outcome.document["document"] == "mapscratch.survey"
    assert SURVEY.command == f"mapscratch survey {LIBRARY} --json s.json"


def test_a_part_that_fails_says_why(tmp_path):
    part = Part("survey", "", ("survey", str(tmp_path / "none.so")), "s.json", 60.0)
    outcome = run_part(part, tmp_path)
    assert outcome.document is None
    assert "none.so" in outcome.reason
    assert "Traceback" not in outcome.reason


def test_a_part_that_takes_too_long_is_interrupted_and_cleans_up(tmp_path):
    part = Part("compare", "", ("compare", "--json", "{folder}/c.json"), "c.json", 2.0)
    ticks: list[float] = []
    outcome = run_part(part, tmp_path, ticks.append)
    assert outcome.reason == "it was interrupted after 2 s"
    assert ticks == sorted(ticks)
    assert not (tmp_path / "c.json").exists()


@contextmanager
def running_report(folder: Path, *before: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A report that runs its first command, and the numbers of the processes that it started."""
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [*before, sys.executable, "-m", "mapscratch", "report", "-o", str(folder / "x.html")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        assert any("survey" in line for line in process.stderr)
        assert eventually(lambda: _children(process.pid))
        yield process, _children(process.pid)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_what_runs_and_leaves_nothing(number, tmp_path):
    with running_report(tmp_path) as (process, children):
        process.send_signal(number)
        # Another one doesn't keep it from cleaning up.
        process.send_signal(signal.SIGINT)
        _, error = communicate(process, seconds=60)
        assert process.returncode == 130
        assert error.splitlines()[-1].endswith("interrupted; everything that was made is removed")
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
        assert list(tmp_path.iterdir()) == []


def test_a_hangup_is_ignored_where_it_was_before(tmp_path):
    with running_report(tmp_path, "nohup") as (process, children):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        assert _children(process.pid) == children


def test_what_runs_ends_if_the_report_is_killed(tmp_path):
    with running_report(tmp_path) as (process, children):
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(_runs, children)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_from_nothing_every_part_that_fails_is_told(tmp_path, monkeypatch, capsys):
    """The real commands; two of them can't do what they are asked for."""
    none = str(tmp_path / "none")

    def part(name, *_, **__):
        words = {"cost": ("cost", "--from", none), "compare": ("compare", none)}
        return SURVEY if name == "survey" else Part(name, name, words[name], "x.json", 60.0)

    monkeypatch.setattr(report, "_part", part)
    output, kept = tmp_path / "page.html", tmp_path / "kept"
    assert main(["report", "-o", str(output), "--keep", str(kept)]) == 0
    told = capsys.readouterr().err
    assert "survey: done" in told
    assert f"cost: not done: {none}" in told
    assert f"compare: not done: {none}" in told
    html = output.read_text(encoding="utf-8")
    assert html.count(f"could not be found out ({none}") >= 2
    assert f"mapscratch survey {LIBRARY} --json s.json" in html
    assert [path.name for path in kept.iterdir()] == ["s.json"]
    assert json.loads((kept / "s.json").read_text())["document"] == "mapscratch.survey"


def test_nothing_that_could_be_made_is_an_error(tmp_path, monkeypatch, capsys):
    def part(name, *_, **__):
        return Part(name, name, (name, "--from", str(tmp_path / "none")), "x.json", 60.0)

    monkeypatch.setattr(report, "_part", part)
    output, kept = tmp_path / "page.html", tmp_path / "kept"
    assert main(["report", "-o", str(output), "--keep", str(kept)]) == 2
    assert "nothing could be measured" in capsys.readouterr().err.splitlines()[-1]
    assert "Nothing could be measured here" in output.read_text(encoding="utf-8")
    assert not kept.exists()


def test_where_nothing_can_be_kept_nothing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "run_part", lambda *_: pytest.fail("something was run"))
    file = tmp_path / "file"
    file.write_text("kept")
    for folder in (file, file / "below"):
        assert main(["report", "-o", str(tmp_path / "x.html"), "--keep", str(folder)]) == 2
        assert str(file) in capsys.readouterr().err
    assert file.read_text() == "kept"


def test_a_folder_in_which_nothing_was_kept_does_not_stay(tmp_path, monkeypatch):
    def interrupted(part, folder, tick):
        assert kept.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "run_part", interrupted)
    (tmp_path / "own").mkdir()
    for kept in (tmp_path / "new" / "below", tmp_path / "own" / "below", tmp_path / "own"):
        arguments = ["report", "-o", str(tmp_path / "x.html"), "--keep", str(kept)]
        assert main(arguments) == 130
        assert list(tmp_path.rglob("*")) == [tmp_path / "own"]


@pytest.mark.parametrize(
    "option", [("--swap", "all"), ("--keep", "kept"), ("--seconds", "30")], ids=lambda one: one[0]
)
def test_options_of_what_is_run_do_not_go_with_files(option, tmp_path, capsys):
    path = saved(make_survey(), tmp_path)
    output = tmp_path / "x.html"
    assert main(["report", "-o", str(output), "--survey", str(path), *option]) == 2
    assert f"leave {option[0]} away" in capsys.readouterr().err
    assert not output.exists()


def no_part(part, folder, tick):
    raise AssertionError(f"{part.command} was run")


@pytest.mark.parametrize("choices", [["all"], ["zram"], ["none", "file"], ["file", "all"]])
def test_swap_that_an_ordinary_user_asks_for_is_refused_before_anything_runs(choices, tmp_path):
    done = run_python(
        """
        import sys, time
        import rich.console, rich.progress
        from mapscratch.cli import main
        from mapscratch.lab.report import command as report
        from support.ordinary_user import become_ordinary_user
        become_ordinary_user()
        def run_part(*arguments):
            raise AssertionError("something was run")
        report.run_part = run_part
        sys.exit(main(["report", "-o", "-", *sys.argv[1:]]))
        """,
        *(word for choice in choices for word in ("--swap", choice)),
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert f"--swap {choices[-1] if choices[0] == 'none' else choices[0]}: " in line
    assert "needs root" in line and "sudo" in line


def test_one_swap_that_can_not_be_made_is_refused_where_it_is_named(monkeypatch, tmp_path, capsys):
    possible = {"file": Availability(True, "a file")}
    refused = Availability(False, "no module: modprobe it")
    monkeypatch.setattr(
        surroundings, "probe_temporary_swap", lambda kind, size: possible.get(kind, refused)
    )
    monkeypatch.setattr(report, "run_part", no_part)
    command = ["report", "-o", str(tmp_path / "x.html"), "--swap", "file", "--swap", "zram"]
    assert main(command) == 2
    assert "--swap zram: no module: modprobe it" in capsys.readouterr().err


def test_swap_that_is_made_where_it_can_be_is_told_where_it_can_not(monkeypatch, tmp_path, capsys):
    refused = Availability(False, "be root")
    monkeypatch.setattr(surroundings, "probe_temporary_swap", lambda kind, size: refused)
    monkeypatch.setattr(surroundings, "active_swaps", list)
    monkeypatch.setattr(
        report, "run_part", lambda part, folder, tick: Outcome(part, None, "left out", 0.0)
    )
    output = tmp_path / "x.html"
    assert main(["report", "-o", str(output), "--swap", "auto"]) == 2
    assert "swap file: not made: be root" in capsys.readouterr().err
    assert "be root" in output.read_text()


def test_why_some_swap_can_not_be_made_is_told(tmp_path, monkeypatch, capsys):
    def probe(kind, size=0):
        return Availability(kind == "file", f"no {kind}: be root")

    def part(name, seconds, swap, **_):
        assert swap == ("none" if name == "survey" else "file")
        words = ("survey", LIBRARY, "--json", f"{{folder}}/{name}.json")
        return Part(name, name, words, f"{name}.json", 60.0)

    def run(part, folder, tick):
        document = {"survey": make_survey, "cost": make_cost, "compare": make_compare}[part.name]()
        if part.name == "cost":
            document["left_out"] = {"line.swap.zram": "it is not there, and was not asked for"}
        return Outcome(part, document, "", 1.0)

    monkeypatch.setattr(surroundings, "probe_temporary_swap", probe)
    monkeypatch.setattr(report, "_part", part)
    monkeypatch.setattr(report, "run_part", run)
    output = tmp_path / "page.html"
    assert main(["report", "-o", str(output), "--swap", "all"]) == 0
    assert "swap zram: not made: no zram: be root" in capsys.readouterr().err
    html = output.read_text(encoding="utf-8")
    assert html.count("no zram: be root") == 2
    assert "not asked for" not in html


def test_the_parts_keep_to_the_time_in_all():
    names = ["survey", "cost", "compare", "compare"]
    left = 270.0
    for index, name in enumerate(names):
        left -= left * report._share(name, names[index:])
    assert left == pytest.approx(0)


def test_a_part_has_time_beyond_its_own():
    part = report._part("cost", 100.0, "file", several=False, with_survey=True)
    assert part.limit == 125
    assert part.words[part.words.index("--seconds") + 1] == "77"
    assert report._part("survey", 10.0, "none", several=False, with_survey=False).limit == 30


def test_time_that_is_too_short_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--seconds", "3"])
    assert "20 to 86400" in capsys.readouterr().err
