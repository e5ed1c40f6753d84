# SPDX-License-Identifier: Apache-2.0
"""`mapscratch survey` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from elf_oracle import compile_library, needs_compiler
from support.held import python, running, sleeping
from support.pseudoterminal import in_a_terminal

from mapscratch import __version__, cli
from mapscratch.cli import main
from mapscratch.elf import default_libraries
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.census import Census
from mapscratch.lab.survey.document import survey_document
from mapscratch.lab.survey.take import take_census
from mapscratch.lab.survey.terminal import answer
from mapscratch.lab.survey.totals import ORDERS, totals

LIBRARIES = [str(path) for path in default_libraries()[:3]]


@pytest.fixture(scope="module")
def pid() -> Iterator[int]:
    """A small process."""
    with sleeping() as number:
        yield number


def run(capsys, *arguments: object) -> str:
    assert main(["survey", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def last_sentence(output: str) -> str:
    return " ".join(output.rstrip().rpartition("\n\n")[2].split())


def test_without_arguments_it_says_what_it_does_and_what_else_there_is(capsys):
    output = run(capsys)
    first = " ".join(output.partition("\n\n")[0].split())
    assert first.startswith("Libraries of this machine that many programs load: libc.so.6")
    assert "--installed" in first and "--pid all" in first
    assert "saved" in output and "dirtied" in output
    assert "For 100 processes: saved" in " ".join(output.split())
    sentence = last_sentence(output)
    assert re.search(r"has [\d,]+ fixups in the median", sentence)
    assert "% of these pages" in sentence
    assert re.search(r"\d+% of \d+ libraries are bound at load or have no PLT\.$", sentence)
    assert all(len(line) <= 80 for line in output.splitlines())


def test_saved_stands_beside_dirtied_wherever_it_is_told(capsys, pid):
    output = run(capsys, *LIBRARIES, "--pid", pid)
    for line in output.splitlines():
        if re.search(r"\b(dirtied|relocated)$", line):
            assert "saved" in line
    assert "process  " in output


@pytest.mark.parametrize("order", ORDERS)
def test_sorted(capsys, order):
    document = json.loads(run(capsys, *LIBRARIES, "--sort", order, "--json", "-"))
    keys = {
        "dirtied": lambda one: -one["dirtied_pages"],
        "saved": lambda one: -one["saved_pages"],
        "fixups": lambda one: -one["fixups"],
        "name": lambda one: os.path.basename(one["path"]),
    }
    found = [keys[order](one) for one in document["libraries"]]
    assert found == sorted(found)


def test_top_lines(capsys):
    output = run(capsys, *LIBRARIES, "--top", "1")
    assert f"and {len(LIBRARIES) - 1} libraries more; --top 0 shows all" in output
    assert "more" not in run(capsys, *LIBRARIES, "--top", "0")


def test_the_document(tmp_path, capsys, pid):
    path = tmp_path / "survey.json"
    output = run(capsys, *LIBRARIES, "--pid", pid, "--json", path, "--processes", "7", "--top", "0")
    document = json.loads(path.read_text())
    assert (document["document"], document["version"]) == ("mapscratch.survey", 1)
    assert document["mapscratch"] == __version__
    assert datetime.fromisoformat(document["created"]).tzinfo
    assert document["machine"]["page_size"] == os.sysconf("SC_PAGESIZE")
    check_document(document)
    whole = document["totals"]
    assert whole["for_processes"] == {
        "processes": 7,
        "dirtied_pages": 7 * whole["dirtied_pages"],
        "saved_pages": 7 * whole["saved_pages"],
    }
    assert "For 7 processes" in output
    (process,) = document["processes"]
    assert process["pid"] == pid


def check_document(document: dict) -> None:
    """Sums agree; every part is there."""
    libraries, processes, whole = (document[n] for n in ("libraries", "processes", "totals"))
    assert whole["libraries"] == len(libraries)
    assert whole["processes"] == len(processes)
    for name in ("fixups", "dirtied_pages", "saved_pages", "plt_pages", "text_pages"):
        assert whole[name] == sum(one[name] for one in libraries)
    for name in ("relocated_pages", "relocated_pss_bytes"):
        assert whole[name] == sum(one[name] for one in processes)
    assert whole["saved_pages_in_processes"] == sum(one["saved_pages"] for one in processes)
    pages = sum(count for _, _, count in whole["fixups_per_page"]["histogram"])
    assert pages == whole["dirtied_pages"]
    for one in libraries:
        assert set(one["kinds"]) == set(KINDS)
        assert one["fixups"] == sum(one["kinds"].values())
        assert one["saved_pages"] <= one["dirtied_pages"]
        assert one["bind_mode"] in ("now", "lazy", "no PLT")
        assert set(one["fixups_per_page"]) == {"median", "p95", "maximum", "mean", "histogram"}
        assert (one["not_convertible_because"] is None) == one["convertible"]
    for process in processes:
        held = process["libraries"]
        assert process["relocated_pages"] == sum(one["relocated_pages"] for one in held)
        assert process["other_file_pages"] == sum(one["other_pages"] for one in held)
        assert process["saved_pages"] == sum(one["saved_pages"] for one in held)
        assert set(process["by_kind_pages"]) == set(KINDS)


def test_csv(tmp_path, capsys, pid):
    path = tmp_path / "libraries.csv"
    run(capsys, *LIBRARIES, "--csv", path)
    rows = list(csv.DictReader(path.open()))
    assert {row["path"] for row in rows} == {os.path.realpath(name) for name in LIBRARIES}
    assert all(int(row["kinds.RELATIVE"]) >= 0 and row["dirtied_pages"] for row in rows)
    printed = csv.DictReader(io.StringIO(run(capsys, "--pid", pid, "--csv", "-")))
    (row,) = list(printed)
    assert int(row["pid"]) == pid
    assert int(row["saved_pages"]) <= int(row["relocated_pages"])


@needs_compiler
def test_names_that_terminals_and_csv_could_mistake(tmp_path, capsys):
    odd = tmp_path / 'x[red],"\n'
    odd.mkdir()
    path = compile_library(odd, "[bold]b", "static int x; int *p = &x;")
    assert "lib[bold]b.so" in run(capsys, odd)
    (row,) = csv.DictReader(io.StringIO(run(capsys, odd, "--csv", "-")))
    assert row["path"] == str(path.resolve())


HOSTILE = "lib\x1b]0;pwned\x07.so"
SAFE = "lib?]0;pwned?.so"


@pytest.fixture
def hostile(tmp_path):
    """A folder with a library, and a file to skip, whose names steer terminals."""
    shutil.copyfile(LIBRARIES[0], tmp_path / HOSTILE)
    (tmp_path / "bad\x1b[31m\x9b.so").write_bytes(b"\x7fELF")
    return tmp_path


def test_names_that_steer_terminals(hostile, capsys):
    output = run(capsys, hostile)
    assert re.search(rf"^{re.escape(SAFE)}  +[0-9]", output, re.MULTILINE)
    assert "bad?[31m?.so: not an ELF file" in " ".join(output.split())
    assert set(output) - {"\n"} == {letter for letter in output if letter.isprintable()}
    # A program gets the name as it is.
    (row,) = csv.DictReader(io.StringIO(run(capsys, hostile, "--csv", "-")))
    assert row["path"] == str(hostile.resolve() / HOSTILE)


@pytest.mark.parametrize("form", [[], ["--csv", "-"]], ids=str)
def test_names_that_steer_terminals_in_one(hostile, form):
    """With the bar: it names files, too."""
    program = [sys.executable, "-m", "mapscratch", "survey", hostile, *form]
    shown = in_a_terminal(program)
    assert b"pwned" in shown
    assert b"looking for files" in shown, "no bar was shown"
    assert b"\x1b]0" not in shown
    assert b"\x1b[31m" not in shown
    assert b"\x07" not in shown
    assert "\x9b".encode() not in shown


def test_a_process_whose_name_steers_terminals(capsys):
    code = "open('/proc/self/comm', 'w').write('a\\x1b[31m\\x07'); print(flush=True); input()"
    with running(python(code)) as (number, _):
        output = run(capsys, "--pid", number)
        assert "a?[31m? " in output
        assert "\x1b" not in output


@pytest.fixture(scope="module")
def surveyed(pid: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of some libraries and a process."""
    path = tmp_path_factory.mktemp("survey") / "document"
    assert main(["survey", *LIBRARIES, "--pid", str(pid), "--json", str(path)]) == 0
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@pytest.mark.parametrize("columns", [30, 40, 60])
def test_in_a_narrow_terminal_columns_go_on_below_and_figures_are_whole(
    columns, surveyed, pid, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    output = run(capsys, *LIBRARIES, "--pid", pid)
    lines = output.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in output
    words = set(output.split())
    assert {"fixups", "bound", "PLT", "RELRO", "saved", "dirtied"} <= words
    for library in surveyed["libraries"]:
        assert {f"{library['fixups']:,}", f"{library['dirtied_pages']:,}"} <= words
    assert columns < 40 or max(line.count("█") for line in lines) == min(30, columns - 33)


def test_one_library_is_not_counted_in_per_cent(capsys):
    sentence = last_sentence(run(capsys, LIBRARIES[0]))
    assert sentence.endswith(
        ("The library is bound at load or has no PLT.", "The library is bound lazily.")
    )


def test_skipped_files_are_told(tmp_path, capsys):
    for number in range(7):
        (tmp_path / f"bad{number}.so").write_bytes(b"\x7fELF" + bytes(number))
    output = run(capsys, LIBRARIES[0], tmp_path)
    assert "bad0.so: not an ELF file" in " ".join(output.split())
    assert "and 2 more skipped; --json lists all" in output
    document = json.loads(run(capsys, LIBRARIES[0], tmp_path, "--json", "-"))
    assert len(document["skipped"]) == 7
    assert all(one["reason"] for one in document["skipped"])


@needs_compiler
def test_a_library_without_relocations(tmp_path, capsys):
    path = compile_library(
        tmp_path, "plain", "int f(void) { return 1; }", "-Wl,--no-dynamic-linker"
    )
    assert last_sentence(run(capsys, path)) == "Relocation dirties no page of what was surveyed."
    assert json.loads(run(capsys, path, "--json", "-"))["totals"]["dirtied_pages"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent.so"], "/nonexistent.so: No such file or directory"),
        ([__file__], "not an ELF file"),
        (["--pid", str((1 << 22) - 1)], "there is no process 4194303"),
        (["--json", "-", "--csv", "-"], "can't both be printed"),
        (["--json", "/nonexistent/x.json"], "can't be written to"),
        (["--csv", "/"], "/: Is a directory"),
        (["--json", "/tmp/x", "--csv", "/tmp/../tmp/x"], "/tmp/x: is named twice"),
    ],
)
def test_an_error_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["survey", *arguments]) == cli.EXIT_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mapscratch: ") and message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pid", "x"], "expected all or the number of a process, 1 to 4,194,304, not 'x'"),
        (["--pid", "0"], "1 to 4,194,304"),
        (["--pid", "9" * 5000], "1 to 4,194,304"),
        (["--top", "-1"], "expected a number from 0 to 10,000,000, not '-1'"),
        (["--processes", "0"], "expected a number from 1 to 10,000,000, not '0'"),
        (["--processes", "9" * 20], "from 1 to 10,000,000"),
        (["--sort", "size"], "invalid choice"),
        (["--json", ""], "is empty"),
        (["--csv", ""], "is empty"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_use_is_explained(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["survey", *arguments])
    assert raised.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {arguments[0]}" in line and message in line


def test_an_empty_name_is_not_the_current_folder(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["survey", LIBRARIES[0], ""])
    assert raised.value.code == 2
    assert "the name of a file is empty" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m mapscratch survey {LIBRARIES[0]} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_ascii_terminals_get_ascii():
    done = subprocess.run(
        [sys.executable, "-m", "mapscratch", "survey", LIBRARIES[0]],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"#" in done.stdout
    assert done.stdout.isascii()


def test_what_is_asked_of_it_by_others():
    """A document and an answer without the command: what a report calls."""
    census = take_census(LIBRARIES)
    document = survey_document(census, datetime.now().astimezone())
    check_document(document)
    assert "fixups in the median" in answer(totals(census))
    assert survey_document(Census(), datetime.now().astimezone())["totals"]["libraries"] == 0


def test_names_that_are_not_utf_8_are_written_as_they_are(tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/\xff.so"
    shutil.copy2(LIBRARIES[0], name)
    output = run(capsys, os.fsdecode(name), "--csv", tmp_path / "s.csv", "--json", tmp_path / "s")
    assert "?.so" in output
    assert name in (tmp_path / "s.csv").read_bytes()
    (one,) = json.loads((tmp_path / "s").read_bytes())["libraries"]
    assert os.fsencode(one["path"]) == name
