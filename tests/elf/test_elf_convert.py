# SPDX-License-Identifier: Apache-2.0
"""Converting PLT entries: real libraries, every form of the linker's, and what is declined."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from code_programs import SOURCES, build, build_library

from mapscratch.cli import EXIT_ERROR, main
from mapscratch.elf import ConversionError, ElfError, convert, overlay, read_record
from mapscratch.elf.check import check
from mapscratch.elf.record import RECORD, check_value, unpack_record

FORMS = {
    "lazy": ["-Wl,-z,lazy"],
    "now": ["-Wl,-z,now,-z,relro"],
    "tracked": ["-Wl,-z,lazy,-z,ibtplt", "-fcf-protection=full"],
    "tracked now": ["-Wl,-z,now,-z,ibtplt", "-fcf-protection=full"],
    "sysv hash": ["-Wl,--hash-style=sysv"],
    "no relro": ["-Wl,-z,norelro"],
    "one segment": ["-Wl,-z,noseparate-code"],
    "no sections": ["-Wl,-z,lazy"],
    "packed": ["-Wl,-z,pack-relative-relocs"],
}


def real_libraries() -> list[Path]:
    """What a Python process meets: the system's libraries and those of wheels."""
    folders = [Path("/usr/lib/x86_64-linux-gnu"), Path(np.__file__).parent.parent]
    folders += list(Path("/usr/lib").glob("python3.*/lib-dynload"))
    found = {path.resolve() for folder in folders for path in folder.rglob("*.so*")}
    return sorted(path for path in found if path.is_file() and path.stat().st_size < 8 << 20)


@pytest.fixture(scope="module")
def callee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("callee") / "libcallee.so", "callee.c")


def build_caller(folder: Path, callee: Path, *options: str) -> Path:
    return build_library(
        folder / "libcaller.so", "caller.c", f"-L{callee.parent}", "-lcallee", *options
    )


@pytest.fixture(scope="module")
def built_caller(callee: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_caller(tmp_path_factory.mktemp("caller"), callee, "-Wl,-z,lazy")


@pytest.fixture
def caller(built_caller: Path, tmp_path: Path) -> Path:
    """A copy, that may be spoilt."""
    return Path(shutil.copy2(built_caller, tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_linker(form: str, callee: Path, tmp_path: Path) -> None:
    try:
        library = build_caller(tmp_path, callee, *FORMS[form])
    except subprocess.CalledProcessError:
        pytest.skip(f"this linker knows no {FORMS[form]}")
    if form == "no sections":
        subprocess.run(["strip", str(library)], check=True)
        data = bytearray(library.read_bytes())
        data[40:48] = bytes(8)  # e_shoff
        data[60:64] = bytes(4)  # e_shnum, e_shstrndx
        library.write_bytes(data)
    before = library.read_bytes()
    output = tmp_path / "converted.so"
    conversion = convert(library, output)
    assert conversion.converted >= 1024
    assert conversion.form == (".plt.sec" if "tracked" in form else ".plt")
    assert conversion.bind_now == ("now" in form)
    report = check(output, library)
    assert report.problems == ()
    assert report.entries == conversion.converted
    assert library.read_bytes() == before
    told = subprocess.run(
        ["readelf", "-aW", str(output)], capture_output=True, text=True, check=True
    )
    assert told.stderr == ""
    assert "libmapscratch.so.1" in told.stdout


def test_real_libraries(tmp_path: Path) -> None:
    """As many as there are here, each disassembled; a sample of them in the quick run."""
    libraries = real_libraries()
    output = tmp_path / "converted.so"
    converted, declined = 0, 0
    for library in libraries[:: max(1, len(libraries) // 150)]:
        try:
            conversion = convert(library, output)
        except ElfError:
            declined += 1
            continue
        report = check(output, library)
        assert report.problems == (), library
        assert report.entries == conversion.converted
        converted += 1
    assert converted > 40
    assert converted > 5 * declined


@pytest.mark.stress
def test_all_real_libraries(tmp_path: Path) -> None:
    output = tmp_path / "converted.so"
    entries = 0
    for library in real_libraries():
        try:
            convert(library, output)
        except ElfError as problem:
            assert str(library) in str(problem)
            continue
        report = check(output, library)
        assert report.problems == (), library
        entries += report.entries
    print(f"{entries} entries checked")


def test_the_bytes_of_an_entry(caller: Path, tmp_path: Path) -> None:
    """As the documentation shows them."""
    output = tmp_path / "converted.so"
    convert(caller, output)
    record = read_record(output)
    data = output.read_bytes()
    entries_at = record.segment_offset + record.entries - record.segment_address
    words = np.frombuffer(data, "<u4", record.relocation_count, entries_at)
    for number, word in enumerate(words.tolist()):
        at = record.text_offset + word - record.first_page
        assert data[at : at + 6].hex(" ") == "e9 01 00 00 00 cc"
        assert data[at + 6 : at + 11] == b"\x68" + number.to_bytes(4, "little")
        assert data[at + 11] == 0xE9


def test_an_overlay_ends_with_its_record(caller: Path) -> None:
    data, conversion = overlay(caller)
    record = unpack_record(data[-RECORD.itemsize :])
    text = data[: record.end_page - record.first_page]
    assert record.text_offset == 0
    assert record.segment_offset == len(text)
    assert record.segment_offset + record.segment_size == len(data)
    assert record.converted_count == conversion.converted
    assert record.original_size == caller.stat().st_size
    assert check_value(text) == record.converted_text != record.original_text
    original = caller.read_bytes()[record.first_page : record.end_page]
    assert check_value(original) == record.original_text


def test_the_check_value_is_horner_s_rule() -> None:
    words = [3, 2**64 - 1, 12345678901234567, 0, 5]
    value = 0
    for word in words:
        value = (value * 0x9E3779B97F4A7C15 + word) % 2**64
    assert check_value(np.array(words, dtype="<u8").tobytes()) == value
    assert check_value(b"") == 0


def test_converting_twice_gives_the_same_bytes(caller: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.so", tmp_path / "second.so"
    convert(caller, first)
    convert(caller, second)
    assert first.read_bytes() == second.read_bytes()
    assert overlay(caller)[0] == overlay(caller)[0]


@pytest.mark.parametrize("mode", [0o755, 0o644, 0o400, 0o711])
def test_mode_bits_are_kept(caller: Path, tmp_path: Path, mode: int) -> None:
    caller.chmod(mode)
    convert(caller, tmp_path / "converted.so")
    assert stat.S_IMODE((tmp_path / "converted.so").stat().st_mode) == mode


def test_lazy_clears_every_way_to_ask_for_binding_at_load(callee: Path, tmp_path: Path) -> None:
    library = build_caller(tmp_path, callee, "-Wl,-z,now")
    output = tmp_path / "converted.so"
    assert convert(library, output, lazy=True).lazy
    dynamic = subprocess.run(
        ["readelf", "-dW", str(output)], capture_output=True, text=True, check=True
    )
    assert "NOW" not in dynamic.stdout
    assert check(output).problems == ()


def test_entries_through_got_are_left_alone_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "both.c"
    source.write_text(
        "#include <stdlib.h>\n#include <string.h>\n"
        "void *pointer(void) { return (void *)free; }\n"
        "int both(void *p) { free(p); return atoi(p) + (int)strlen(strerror(1)); }\n"
    )
    library = tmp_path / "libboth.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    conversion = convert(library, tmp_path / "out.so")
    assert conversion.converted >= 2
    assert conversion.plt_got == 2  # free, and __cxa_finalize of the start-up code
    assert conversion.got_calls == 2


# --- what is declined


def fails(path: Path, output: Path, expected: str) -> None:
    with pytest.raises(ElfError, match=expected):
        convert(path, output)
    assert not output.exists()
    assert not list(output.parent.glob(f".{output.name}*"))


def test_what_has_nothing_to_convert(callee: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.so"
    library = build_caller(tmp_path, callee, "-fno-plt", "-Wl,-z,now")
    fails(library, output, "has no PLT entries to bind")


def test_what_is_converted_already(caller: Path, tmp_path: Path) -> None:
    convert(caller, tmp_path / "once.so")
    fails(tmp_path / "once.so", tmp_path / "twice.so", "is converted already")


def test_relocations_in_text(tmp_path: Path) -> None:
    source = tmp_path / "text.s"
    source.write_text(".text\n.globl f\nf: call g@PLT\ncall h@PLT\n.quad f\n")
    library = tmp_path / "libtext.so"
    command = ["cc", "-shared", "-nostdlib", "-Wl,-z,notext", str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    fails(library, tmp_path / "out.so", "has relocations in its text")


def test_the_c_library_is_left_alone(tmp_path: Path) -> None:
    fails(Path("/lib/x86_64-linux-gnu/libc.so.6"), tmp_path / "out.so", "part of the C library")


def test_an_executable_at_a_fixed_address(callee: Path, tmp_path: Path) -> None:
    """It can't be moved, but nothing of it has to be for `mapscratch run`."""
    library = build_caller(tmp_path, callee)
    near = (f"-L{tmp_path}", f"-L{callee.parent}")
    program = build(
        tmp_path / "fixed", "stress.c", "-no-pie", *near, "-lcaller", "-lcallee", "-pthread"
    )
    fails(program, tmp_path / "out", "ET_EXEC")
    assert overlay(program)[1].converted > 5
    assert library.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: b"", "only 0 bytes long"),
        (lambda data: b"no ELF" * 100, "not an ELF file"),
        (lambda data: data[:4] + b"\x01" + data[5:], "not a 64-bit ELF file"),
        (lambda data: data[:18] + b"\xb7" + data[19:], "is for aarch64"),
        (lambda data: data[:18] + b"\xf3" + data[19:], "made for the machine EM_RISCV"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:100], "truncated"),
    ],
    ids=["empty", "text", "32-bit", "aarch64", "other machine", "half", "head"],
)
def test_what_is_no_such_library(caller: Path, tmp_path: Path, change, expected: str) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(change(caller.read_bytes()))
    fails(damaged, tmp_path / "out.so", expected)
    with pytest.raises(ElfError):
        overlay(damaged)


def test_the_library_itself_is_never_written_to(caller: Path, tmp_path: Path) -> None:
    before = caller.read_bytes()
    (tmp_path / "link.so").symlink_to(caller)
    for output in (caller, tmp_path / "link.so"):
        with pytest.raises(ConversionError, match="is the library itself"):
            convert(caller, output)
    assert caller.read_bytes() == before


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def _make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [_make_folder, _make_pipe, _make_socket, _make_link_to_a_device])
def test_nothing_but_a_file_is_replaced(
    make: Callable[[Path], None], caller: Path, tmp_path: Path
) -> None:
    """Root would have a file in place of /dev/null."""
    output = tmp_path / "output"
    make(output)
    before, names = output.lstat(), os.listdir(tmp_path)
    with pytest.raises(ConversionError, match=f"{output}: is .*name the file to write"):
        convert(caller, output)
    after = output.lstat()  # a link that was followed has another time of access
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_mtime_ns,
    )
    assert os.listdir(tmp_path) == names


def test_a_link_stays_and_what_it_leads_to_is_written(caller: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, target in (("old", tmp_path / "old.so"), ("new", tmp_path / "folder" / "new.so")):
        (tmp_path / "old.so").write_bytes(b"what was there")
        link = tmp_path / name
        link.symlink_to(target)
        convert(caller, link)
        assert link.is_symlink()
        assert read_record(target)


def test_a_full_disk_leaves_nothing(caller: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk; SIGXFSZ is ignored, so write fails."""
    script = (
        "import resource, signal, sys\n"
        "from mapscratch.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sys.exit(main(['convert', sys.argv[1], '-o', sys.argv[2]]))\n"
    )
    folder = tmp_path / "full"
    folder.mkdir()
    command = [sys.executable, "-B", "-c", script, str(caller), str(folder / "out.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_ERROR, done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000


def test_ctrl_c_leaves_nothing(
    caller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupted)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert(caller, folder / "out.so")
    assert list(folder.iterdir()) == []


# --- what the check notices


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("entry", "entry 7|the text is not"),
        ("plt0", "PLT0|the text is not"),
        ("relocation", "doesn't store to the dummy word"),
        ("slot", "filled"),
    ],
)
def test_damage_after_conversion_is_noticed(
    caller: Path, tmp_path: Path, what: str, expected: str
) -> None:
    output = tmp_path / "converted.so"
    convert(caller, output)
    record = read_record(output)
    data = bytearray(output.read_bytes())
    shift = record.segment_offset - record.segment_address
    word = int(np.frombuffer(data, "<u4", 8, record.entries + shift)[7])
    places = {
        "entry": record.text_offset + word - record.first_page + 7,
        "plt0": record.text_offset + word // 4096 * 4096 - record.first_page,
        "relocation": record.relocations + shift + 24 * 9,
        "slot": bytes(data).rindex(record.record_slot.to_bytes(8, "little") + b"\x08"),
    }
    if what == "plt0":
        plt0 = bytes(data).index(b"\xff\x35", record.text_offset)
        places[what] = plt0 + 2
    data[places[what]] ^= 0x10
    output.write_bytes(data)
    problems = " ".join(check(output).problems)
    assert re.search(expected, problems), problems


def test_a_library_that_is_not_converted_has_nothing_to_check(caller: Path) -> None:
    with pytest.raises(ElfError, match="is not converted"):
        check(caller)


# --- the command


def test_the_command(caller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.so"
    assert main(["convert", str(caller), "-o", str(output), "--check"]) == 0
    told = capsys.readouterr().out
    assert "1027 entries of .plt converted, on 5 pages" in told
    assert "Checked: 1027 entries, 0 problems." in told
    assert "needs libmapscratch.so.1" in told


def test_the_command_for_programs(
    caller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.so"
    assert main(["convert", str(caller), "-o", str(output), "--check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["converted"] == document["checked"]["entries"] == 1027
    assert document["checked"]["problems"] == []
    assert document["output"] == str(output)
    assert document["appended_bytes"] == output.stat().st_size - caller.stat().st_size


def test_the_command_tells_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, expected in ((SOURCES / "callee.c", "not an ELF file"), (tmp_path / "no", "No such")):
        assert main(["convert", str(path), "-o", str(tmp_path / "out.so")]) == EXIT_ERROR
        told = capsys.readouterr().err
        assert expected in told
        assert len(told.splitlines()) == 1
    assert main(["convert", str(path), "-o", str(tmp_path / "none" / "out.so")]) == EXIT_ERROR


def test_without_capstone_the_check_says_how_to_get_it(caller: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['capstone'] = None\n"
        "from mapscratch.cli import main\n"
        "sys.exit(main(['convert', sys.argv[1], '-o', sys.argv[2], '--check']))"
    )
    command = [sys.executable, "-c", script, str(caller), str(tmp_path / "out.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == EXIT_ERROR
    assert "pip install capstone" in done.stderr
