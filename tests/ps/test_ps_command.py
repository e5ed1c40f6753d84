# SPDX-License-Identifier: Apache-2.0
"""`mapscratch ps`: what it prints, for people, for programs and for Prometheus."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from mmap import PAGESIZE
from pathlib import Path

import pytest
from support.files import make_file
from support.observed import Observed, observed
from support.pseudoterminal import in_a_terminal

from mapscratch.cli import EXIT_ERROR, EXIT_INTERRUPTED, main
from mapscratch.ps.census import ConvertedRun, ScratchCensus
from mapscratch.ps.prometheus import prometheus_lines
from mapscratch.ps.terminal import ps_lines
from mapscratch.run.launch import ResolverCounts

PS = (sys.executable, "-m", "mapscratch", "ps")
ODD_NAME = 'a"b\\c\nd é'

CODE = """
    from support.prelude import *
    import mapscratch
    with open("/proc/self/comm", "w") as comm:
        comm.write(sys.argv[3])
    m.store(0, 1)
    m.drop()
    m.store(0, 1)
    more = [ScratchMap(path, engine=engine) for _ in range(2)]
    cache = mapscratch.Cache()
    cache.put("a", b"something")
    with cache.get("a"): pass
    tell(asdict(m.counts()))
    wait()
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    file = make_file(tmp_path_factory.mktemp("ps") / "pattern", 10)
    with observed(CODE, file.path, "dontneed", ODD_NAME) as one:
        one.hear()
        yield one


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["ps", *words]) == 0
    return capsys.readouterr().out


def test_without_proc_it_does_not_say_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a chroot."""
    monkeypatch.setattr(os, "listdir", lambda _: [])
    assert main(["ps"]) == EXIT_ERROR
    told = capsys.readouterr()
    assert told.out == ""
    assert "mount -t proc" in told.err


def test_a_line_for_what_is_alike(process: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys).splitlines()
    ours = [line.split() for line in lines if line.split()[0] == str(process.pid)]
    assert lines[0].split()[:5] == ["PID", "USER", "COMMAND", "WHAT", "ENGINE"]
    assert ours[0][2].startswith('a"b\\c?d')
    assert " ".join(ours[0][4:9]) == "3 maps dontneed 120 KiB"
    assert ours[0][-4:] == ["1", "-", "-", "pattern"]
    assert ours[1][-8:] == ["entries:", "1,", "hits:", "1,", "made:", "1,", "lost:", "0"]


def test_each_mapping_of_one_process(process: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    heading, *lines = output(capsys, "--pid", str(process.pid)).splitlines()
    assert len(lines) == 4
    first = lines[0]
    assert first[heading.index("DROPPED") :].split()[:3] == ["1", "-", "-"]
    assert first.endswith("/pattern")
    assert output(capsys, "--each").count("/pattern\n") >= 3


def test_the_document(process: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(output(capsys, "--json", "--pid", str(process.pid)))
    assert (document["document"], document["version"]) == ("mapscratch.ps", 1)
    assert document["machine"]["page_size"] == PAGESIZE
    (found,) = document["processes"]
    assert found["pid"] == process.pid
    assert found["readable"] is True
    assert found["problem"] is None
    assert [each["kind"] for each in found["mappings"]] == ["map"] * 3 + ["cache"]
    first, *_, cache = found["mappings"]
    assert first["dirty_bytes"] == PAGESIZE
    assert first["dropped_pages"] == 1
    assert first["droppable_bytes"] is first["fixup_seconds"] is None
    assert cache["cache"]["hits"] == 1
    assert document["runs"] == []


SAMPLE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.e+-]+)")
LABEL = re.compile(r'(?P<name>[a-z_]+)="(?P<value>(?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), text)


def parsed(text: str) -> tuple[dict[str, str], dict[tuple[str, frozenset], float]]:
    """The types, and the samples, as the format's description has it."""
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name in helped
            assert name not in types, "a metric's lines stand together"
            types[name] = kind
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample["name"] == list(types)[-1]
            labels = sample["labels"] or ""
            pairs = [(each["name"], unescaped(each["value"])) for each in LABEL.finditer(labels)]
            assert "".join(each[0] for each in LABEL.finditer(labels)) == labels, line
            key = sample["name"], frozenset(pairs)
            assert key not in samples
            samples[key] = float(sample["value"])
    return types, samples


def test_prometheus(process: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    types, samples = parsed(output(capsys, "--prometheus"))
    assert all(name.startswith("mapscratch_") for name in types)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types.items())
    ours = {
        (name, dict(labels).get("kind")): value
        for (name, labels), value in samples.items()
        if ("pid", str(process.pid)) in labels
    }
    assert ours["mapscratch_mappings", "map"] == 3
    assert ours["mapscratch_dirty_bytes", "map"] == PAGESIZE
    assert ours["mapscratch_dropped_bytes", "map"] == PAGESIZE
    assert ours["mapscratch_bytes", "map"] == 30 * PAGESIZE
    assert ours["mapscratch_cache_entries", "cache"] == 1
    assert ours["mapscratch_cache_hits_total", None] == 1
    assert ours["mapscratch_process_readable", None] == 1
    # What an engine can't know has no sample.
    assert ("mapscratch_droppable_bytes", "map") not in ours
    commands = {
        dict(labels)["command"] for _, labels in samples if ("pid", str(process.pid)) in labels
    }
    assert commands == {ODD_NAME.encode()[:15].decode(errors="replace")}
    assert samples["mapscratch_processes", frozenset()] >= 1


def test_watch_ends_on_interrupt(process: Observed) -> None:
    with subprocess.Popen(
        [*PS, "--watch", "0.1", "--json", "--pid", str(process.pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout and watch.stderr
        for _ in range(2):
            assert json.loads(watch.stdout.readline())["processes"][0]["pid"] == process.pid
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
        assert watch.stderr.read() == ""
    assert watch.returncode == EXIT_INTERRUPTED


@pytest.mark.parametrize(
    "words",
    [
        ["--watch", "0"],
        ["--watch", "soon"],
        ["--pid", "-1"],
        ["--pid", "9" * 20],
        ["--json", "--prometheus"],
    ],
    ids=" ".join,
)
def test_wrong_use(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["ps", *words])
    assert raised.value.code == EXIT_ERROR
    assert "mapscratch ps: error" in capsys.readouterr().err


def test_a_process_that_isnt_there(capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert main(["ps", "--pid", str(ended.pid)]) == EXIT_ERROR
    assert "no process" in capsys.readouterr().err


def test_nobody_uses_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            assert output(capsys, "--pid", str(other.pid)) == (
                f"Process {other.pid} uses no scratch memory.\n"
            )
            _, samples = parsed(output(capsys, "--prometheus", "--pid", str(other.pid)))
            assert samples["mapscratch_processes", frozenset()] == 0
        finally:
            os.kill(other.pid, signal.SIGKILL)


def test_named_with_one_that_uses_it(process: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    # Not this process: other tests may have left scratch memory in it.
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            pids = ("--pid", str(process.pid), "--pid", str(other.pid))
            lines = output(capsys, *pids).splitlines()
        finally:
            other.kill()
    assert f"Process {other.pid} uses no scratch memory." in lines
    assert f"Process {process.pid} uses no scratch memory." not in lines


@pytest.mark.parametrize(
    ("user", "count", "line"),
    [
        (0, 1, "1 process could not be read: it has rights that root hasn't here"),
        (0, 2, "2 processes could not be read: they have rights that root hasn't here"),
        (1, 1, "1 process of other users was not readable: run as root"),
    ],
)
def test_what_could_not_be_read(
    user: int, count: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    census = ScratchCensus(processes=(), runs=(), unreadable=count)
    assert list(ps_lines(census)) == ["No process with scratch memory was found.", line]


def test_runs_with_files_of_the_same_name_are_told_apart() -> None:
    """As of two containers, whose file systems are each its own."""
    counts = ResolverCounts(*range(len(fields(ResolverCounts))))
    runs = tuple(ConvertedRun("/run/counts", pids, counts) for pids in ((7, 9), (8,)))
    census = ScratchCensus(processes=(), runs=runs, unreadable=0)
    _, samples = parsed("".join(f"{line}\n" for line in prometheus_lines(census, 1.0)))
    labels = [dict(labels) for name, labels in samples if name == "mapscratch_run_resolved_total"]
    assert sorted(each["first_pid"] for each in labels) == ["7", "8"]
    assert {each["run"] for each in labels} == {"/run/counts"}


@pytest.mark.parametrize("form", [[], ["--each"], ["--prometheus"], ["--json"]], ids=str)
def test_names_cannot_steer_a_terminal(form: list[str], tmp_path: Path) -> None:
    file = make_file(tmp_path / "lib\x1b]0;pwned\x07.so", 4)
    with observed(CODE, file.path, "dontneed", "c\x1b[31m\x07\x9b") as process:
        process.hear()
        shown = in_a_terminal([*PS, *form])
        assert b"pwned" in shown or "--prometheus" in form
        assert b"\x1b" not in shown
        assert b"\x07" not in shown
        assert "\x9b".encode() not in shown
        if form == ["--prometheus"]:
            # A program gets the name as it is.
            command = next(
                dict(labels)["command"]
                for _, labels in parsed(
                    subprocess.run([*PS, *form], capture_output=True, text=True, check=True).stdout
                )[1]
                if ("pid", str(process.pid)) in labels
            )
            assert command == "c\x1b[31m\x07\x9b"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["ps", "--help"])
    assert raised.value.code == 0
    assert "mapscratch ps --watch" in capsys.readouterr().out
