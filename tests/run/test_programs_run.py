# SPDX-License-Identifier: Apache-2.0
"""`mapscratch run`: the program must not notice, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from code_programs import build, build_calls, build_library, converted, run
from support import seccomp
from support.patience import patient
from support.places import TESTS

from mapscratch.cli import EXIT_ERROR, main
from mapscratch.elf import overlay
from mapscratch.run.cache import ConversionCache, Kept, file_key
from mapscratch.run.launch import CannotRun, environment, find_program, reports

MAPSCRATCH = (sys.executable, "-m", "mapscratch")


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_calls(tmp_path_factory.mktemp("calls"), "-Wl,-z,lazy")


def command(*words: str | Path) -> list[str]:
    return [*MAPSCRATCH, "run", *(os.fspath(word) for word in words)]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a program that is started puts what it removes again; others run programs, too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


# --- what a user sees


def test_the_first_run_converts_what_is_loaded_at_start(
    cache_home: Path, temporary: Path, calls: Path
) -> None:
    result = subprocess.run(
        command("-v", "--", calls, "10000"), capture_output=True, text=True, check=True
    )
    assert '"wrong": 0' in result.stdout
    assert "libcaller.so: 1027 entries converted" in result.stderr
    assert "libc.so.6: runs as it is" in result.stderr
    again = subprocess.run(
        command("-v", "--", calls, "10000"), capture_output=True, text=True, check=True
    )
    assert "entries converted" not in again.stderr
    assert " ran converted, 0 did not" in again.stderr
    assert not list(temporary.iterdir())


def test_what_is_opened_later_is_converted_for_the_next_time(cache_home: Path, calls: Path) -> None:
    library = calls.with_name("libcaller.so")
    script = f"import ctypes; ctypes.CDLL({str(library)!r})"
    first = subprocess.run(
        command("-v", "--", sys.executable, "-c", script),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{library}: 1027 entries converted" in first.stderr
    with reports() as made:
        variables = environment(ConversionCache(), made, reclaimer="off")
        run([sys.executable, "-c", script], variables)
        assert library not in made.misses()


def test_silent_unless_asked(cache_home: Path) -> None:
    subprocess.run(command("--", "true"), check=True)
    result = subprocess.run(command("--", "echo", "a"), capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("a\n", "")


def test_the_exit_status_is_the_program_s(cache_home: Path) -> None:
    shell = "/bin/sh"
    assert subprocess.run(command("--", shell, "-c", "exit 7"), check=False).returncode == 7
    killed = subprocess.run(command("--", shell, "-c", "kill -9 $$"), check=False)
    assert killed.returncode == 128 + signal.SIGKILL


def test_options_of_the_command_are_its_own(cache_home: Path) -> None:
    result = subprocess.run(
        command("echo", "-v", "--no-reclaimer"), capture_output=True, text=True, check=True
    )
    assert result.stdout == "-v --no-reclaimer\n"


def test_ctrl_c_is_the_program_s_business_and_leaves_nothing(
    cache_home: Path, temporary: Path
) -> None:
    script = "import time\ntry: print('ready', flush=True); time.sleep(60)\n"
    script += "except KeyboardInterrupt: print('asked to end')\n"
    with subprocess.Popen(
        command("--", sys.executable, "-c", script),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "asked to end\n"
        assert process.wait() == 0
    assert not list(temporary.iterdir())


def test_sigterm_is_passed_on(cache_home: Path, temporary: Path) -> None:
    with subprocess.Popen(
        command("--", "sh", "-c", "echo ready; exec sleep 60"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert not list(temporary.iterdir())


def test_a_script_runs_by_its_interpreter(cache_home: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env -S bash\necho $((6 * 7))\n")
    script.chmod(0o755)
    assert find_program(str(script)).executable == Path("/usr/bin/env")
    assert run(command("--", script), os.environ) == "42\n"


# --- what is declined


def test_setuid_is_declined(
    tmp_path: Path, cache_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "privileged"
    shutil.copy2("/bin/true", program)
    program.chmod(0o755 | stat.S_ISUID)
    assert main(["run", "--", str(program)]) == EXIT_ERROR
    told = capsys.readouterr().err
    assert "setuid" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID])
def test_a_setuid_script_runs_because_the_kernel_ignores_that(
    bit: int, tmp_path: Path, cache_home: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho script\n")
    script.chmod(0o755 | bit)
    assert run(command("--", script), os.environ) == "script\n"


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_a_sandbox_that_does_not_tell_of_capabilities(error: int, cache_home: Path) -> None:
    if not seccomp.is_supported():
        pytest.skip("the numbers of this machine's system calls are not known here")
    script = (
        "import sys\n"
        "from support import seccomp\n"
        "from mapscratch.cli import main\n"
        f"seccomp.forbid('listxattr', error={error})\n"
        "sys.exit(main(['run', '--', 'echo', 'it runs']))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    assert run([sys.executable, "-c", script], environment) == "it runs\n"


def test_static_is_declined(tmp_path: Path) -> None:
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 0; }")
    program = tmp_path / "static"
    subprocess.run(["cc", "-static", str(source), "-o", str(program)], check=True)
    with pytest.raises(CannotRun, match="a static program"):
        find_program(str(program))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"#!/no/such/interpreter\n", "does not exist"),
        (b"#!\n", "names no interpreter"),
        (b"plain text", "not an ELF file"),
        (b"\x7fELF\x01\x01\x01" + bytes(100), "not a 64-bit ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(10), "not an ELF file"),
    ],
)
def test_what_is_no_program(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(0o755)
    with pytest.raises(CannotRun, match=expected):
        find_program(str(path))


def test_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--", "no-such-command-anywhere"]) == 127
    assert "not found" in capsys.readouterr().err


# --- which file a command is: as execvp(3) has it


@pytest.fixture(scope="module")
def says_its_name(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("name") / "name.c"
    source.write_text("#include <stdio.h>\nint main(int n, char **words) { puts(words[0]); }")
    subprocess.run(["cc", str(source), "-o", str(source.with_suffix(""))], check=True)
    return source.with_suffix("")


@pytest.fixture
def folder(
    says_its_name: Path, cache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, with a program called ls, and one in a folder called bin."""
    (tmp_path / "bin").mkdir()
    for name in ("ls", "bin/only-there"):
        shutil.copy2(says_its_name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told_by(*words: str | bytes, path: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """What `mapscratch run --` says in the current folder; `path`: PATH, None to unset it."""
    variables = {name: value for name, value in os.environ.items() if name != "PATH"}
    if path is not None:
        variables["PATH"] = path
    words_of_it = [*MAPSCRATCH, "run", "--", *words]
    return subprocess.run(words_of_it, env=variables, capture_output=True, check=False)


@pytest.mark.parametrize("name", ["./ls", "././ls", "bin/only-there", "bin/../ls"])
def test_a_command_with_a_slash_is_a_path(folder: Path, name: str) -> None:
    for path in (os.environ["PATH"], "", None):
        assert told_by(name, path=path).stdout.decode() == f"{name}\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "ls"),
        (":/bin", "ls"),
        ("/no/such/folder::/bin", "ls"),
        (".:/bin", "ls"),
        ("bin", "only-there"),
        ("/bin:./bin/", "only-there"),
    ],
)
def test_names_are_found_in_path_as_execvp_finds_them(folder: Path, path: str, name: str) -> None:
    result = told_by(name, path=path)
    assert (result.stdout.decode(), result.returncode) == (f"{name}\n", 0), result.stderr


def test_without_path_the_system_s_folders_are_searched(folder: Path) -> None:
    assert told_by("ls", "--version", path=None).stdout.startswith(b"ls (GNU coreutils)")
    assert told_by("only-there", path=None).returncode == 127


def test_what_is_here_but_not_in_path_is_not_found_and_named(folder: Path) -> None:
    shutil.copy2("ls", "mine")
    result = told_by("mine", path="/bin")
    assert result.returncode == 127
    assert b"./mine" in result.stderr


@pytest.mark.parametrize("name", [b"with space", b"-v", b"--", b"new\nline", b"\xff\xfe", b"a=b"])
def test_any_name_that_a_file_can_have(folder: Path, name: bytes) -> None:
    shutil.copy2(b"ls", name)
    assert told_by(b"./" + name, path="/bin").stdout == b"./" + name + b"\n"
    shown = told_by(name, path="")
    if name != b"--":  # which stands between our options and the command
        assert shown.stdout == name + b"\n", shown.stderr
    (folder / "script").write_bytes(b"#!./" + name + b"\n")
    (folder / "script").chmod(0o755)
    if not set(name) & set(b" \n"):
        assert told_by("./script").stdout == b"./" + name + b"\n"


def test_links_are_followed_and_keep_their_names(folder: Path) -> None:
    os.symlink("bin/only-there", "link")
    assert told_by("./link").stdout == b"./link\n"


def test_a_script_sees_the_path_by_which_it_was_called(folder: Path) -> None:
    (folder / "script").write_text('#!/bin/sh\necho "$0" "$@"\n')
    (folder / "script").chmod(0o755)
    assert told_by("./script", "a b", "-v").stdout == b"./script a b -v\n"


def test_what_is_no_program_is_passed_over_in_path(folder: Path) -> None:
    for name in ("first", "second", "third"):
        (folder / name).mkdir()
    (folder / "first" / "tool").mkdir()
    (folder / "second" / "tool").write_text("not executable")
    shutil.copy2("ls", folder / "third" / "tool")
    assert told_by("tool", path="first:second:third").stdout == b"tool\n"
    assert told_by("tool", path="first:second").returncode == 126


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_text(path: Path) -> None:
    path.write_text("#!/bin/sh\n")


def _make_pipe(path: Path) -> None:
    os.mkfifo(path, 0o777)


def _make_circle(path: Path) -> None:
    path.symlink_to(path.name)


def _make_dead_link(path: Path) -> None:
    path.symlink_to("nothing")


def _make_script_of_nothing(path: Path) -> None:
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)


def _make_script_with_carriage_return(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\r\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (_make_folder, 126),
        (_make_text, 126),
        (_make_pipe, 126),
        (_make_circle, 126),
        (_make_dead_link, 127),
        (_make_script_of_nothing, 126),
        (_make_script_with_carriage_return, 126),
    ],
)
def test_what_can_t_be_executed_ends_with_a_shell_s_status(
    folder: Path, make: Callable[[Path], None], status: int
) -> None:
    make(folder / "thing")
    result = told_by("./thing")
    assert result.returncode == status
    assert b"thing: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --- what else a program inherits


def test_files_that_the_shell_opened_stay_open(cache_home: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"for the program\n")
    os.close(write)
    result = subprocess.run(
        command("--", "cat", f"/dev/fd/{read}"), pass_fds=[read], capture_output=True, check=True
    )
    os.close(read)
    assert result.stdout == b"for the program\n"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_what_was_ignored_stays_ignored(cache_home: Path, number: signal.Signals) -> None:
    """As nohup(1) starts it, and a shell what runs in the background."""
    words = shlex.join(command("--", "grep", "SigIgn", "/proc/self/status"))
    shell = f"trap '' {number.name[3:]}; {words}"
    told = run(["sh", "-c", shell], os.environ)
    assert int(told.split()[1], 16) >> (number - 1) & 1
    plain = run(command("--", "grep", "SigIgn", "/proc/self/status"), os.environ)
    assert not int(plain.split()[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_for_the_program_are_passed_on(cache_home: Path, number: signal.Signals) -> None:
    script = f"""if True:
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, {{{number:d}}})
        print("ready", flush=True)
        print(signal.sigtimedwait({{{number:d}}}, {patient(60)}).si_signo)
        sys.exit(3)
    """
    with subprocess.Popen(
        command("--", sys.executable, "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == f"{number:d}\n"
        assert process.wait() == 3


# --- the loader believes the original path


def test_a_wheel_that_finds_its_libraries_by_origin(tmp_path: Path) -> None:
    """As auditwheel makes them: an extension beside a folder package.libs, found by RUNPATH."""
    package, libraries = tmp_path / "package", tmp_path / "package.libs"
    package.mkdir()
    libraries.mkdir()
    callee = build_library(libraries / "libcallee.so", "callee.c")
    origin = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../package.libs"
    extension = build_library(
        package / "libcaller.so", "caller.c", f"-L{libraries}", origin, "-lcallee"
    )
    program = build(
        tmp_path / "program", "stress.c", f"-L{package}", "-lcaller", f"-Wl,-rpath,{package}",
        f"-Wl,-rpath-link,{libraries}", f"-L{libraries}", "-lcallee", "-pthread",
    )  # fmt: skip
    with converted(tmp_path, extension, callee, program) as (variables, made, _):
        assert '"wrong": 0' in run([program, "10000", "1", "1"], variables)
        assert made.counts().overlaid >= 2


def test_a_library_that_finds_its_data_beside_itself(tmp_path: Path) -> None:
    """By dladdr; and dl_iterate_phdr and /proc tell what they tell without us."""
    source = tmp_path / "beside.c"
    source.write_text(
        """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <link.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        static int tell(struct dl_phdr_info *info, size_t size, void *ignored) {
            if (strstr(info->dlpi_name, "libbeside"))
                printf("%s %d %s\\n", info->dlpi_name, info->dlpi_phnum, (char *)ignored);
            return 0;
        }
        void beside(void) {
            Dl_info where;
            dladdr((void *)beside, &where);
            printf("%s %s\\n", where.dli_fname, where.dli_sname);
            dl_iterate_phdr(tell, "");
            char *real = realpath(where.dli_fname, NULL);
            printf("%s\\n", real);
            free(real);
        }
        """
    )
    library = tmp_path / "libbeside.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    script = f"import ctypes; ctypes.CDLL({str(library)!r}).beside()"
    expected = run([sys.executable, "-c", script], os.environ)
    assert str(library) in expected
    with converted(tmp_path, library) as (variables, made, _):
        assert run([sys.executable, "-c", script], variables) == expected
        assert made.counts().overlaid == 1
        assert made.counts().resolved > 0


def test_numpy_with_the_libraries_of_its_wheel(cache_home: Path) -> None:
    script = (
        "import numpy as np; a = np.arange(250000.0).reshape(500, 500) % 17; "
        "b = a + np.eye(500) * 99; print(repr(np.linalg.solve(b, a).sum()), np.fft.fft(a[0])[3])"
    )
    expected = run([sys.executable, "-c", script], os.environ)
    for _ in range(2):
        told = run(command("--drop-every", "2", "--", sys.executable, "-c", script), os.environ)
        assert told == expected


# --- the cache


def test_a_changed_file_is_another_file(calls: Path, tmp_path: Path) -> None:
    for name in ("libcallee.so", "libcaller.so", "program"):
        shutil.copy2(calls.with_name(name), tmp_path / name)
    library = tmp_path / "libcaller.so"
    with converted(tmp_path, library) as (variables, made, cache):
        assert cache.knows(library)
        with library.open("ab") as file:
            file.write(b"\0")
        assert not cache.knows(library)
        run([tmp_path / "program", "1000", "1", "0"], variables)
        assert made.counts().overlaid == 0
        assert library in made.misses()


def test_a_conversion_that_does_not_fit_is_refused(calls: Path, tmp_path: Path) -> None:
    """The cache says that it belongs to the library, but the text in memory is another."""
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, library) as (variables, made, cache):
        entry = cache.files / file_key(library.stat())
        data = bytearray(entry.read_bytes())
        data[-160 + 13 * 8] ^= 1  # the check value of the original text
        entry.resolve().write_bytes(data)
        assert '"wrong": 0' in run([calls, "1000", "1", "0"], variables)
        assert made.counts().overlaid == 0
        assert made.counts().refused == 1


@pytest.mark.parametrize("length", [1, 159, 160, 4096, 20000])
def test_a_truncated_conversion_is_refused(calls: Path, tmp_path: Path, length: int) -> None:
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, library) as (variables, made, cache):
        entry = (cache.files / file_key(library.stat())).resolve()
        os.truncate(entry, length)
        assert '"wrong": 0' in run([calls, "1000", "1", "0"], variables)
        assert made.counts().refused == 1


def _keep(arguments: tuple[Path, Path]) -> Kept:
    folder, library = arguments
    return ConversionCache(folder).keep(library)


def test_many_processes_may_fill_one_cache(calls: Path, tmp_path: Path) -> None:
    library = calls.with_name("libcaller.so")
    with ProcessPoolExecutor(8) as pool:
        kept = list(pool.map(_keep, [(tmp_path / "cache", library)] * 32))
    assert {one.converted for one in kept} == {1027}
    cache = ConversionCache(tmp_path / "cache")
    assert (cache.files / file_key(library.stat())).read_bytes() == overlay(library)[0]
    names = [path.name for path in cache.root.rglob("*") if not path.is_dir()]
    assert not [name for name in names if name.startswith(".new")]


def test_a_declined_library_is_remembered_with_the_reason(tmp_path: Path) -> None:
    cache = ConversionCache(tmp_path / "cache")
    library = tmp_path / "broken.so"
    library.write_bytes(b"\x7fELF" + bytes(100))
    first, second = cache.keep(library), cache.keep(library)
    assert first.is_new
    assert not second.is_new
    assert first.reason == second.reason != ""
    assert not first.converted
    assert (cache.files / file_key(library.stat())).stat().st_size == 0


def test_the_cache_can_be_cleared(cache_home: Path) -> None:
    subprocess.run(command("--", "true"), check=True)
    assert list((cache_home / "mapscratch" / "code").rglob("*"))
    ConversionCache().clear()
    assert not (cache_home / "mapscratch" / "code").exists()


def test_a_cache_that_can_t_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["run", "--", "true"]) == EXIT_ERROR
    told = capsys.readouterr().err
    assert "Not a directory" in told
    assert "set XDG_CACHE_HOME" in told
    assert len(told.splitlines()) == 1


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a container has it that runs as any number."""

    def unknown(_: int) -> object:
        raise KeyError

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert main(["run", "--", "true"]) == EXIT_ERROR
    told = capsys.readouterr().err
    assert "no home" in told
    assert "set XDG_CACHE_HOME" in told
    assert len(told.splitlines()) == 1


def test_a_relative_cache_path_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ConversionCache().root.is_relative_to(tmp_path)


def test_it_starts_without_numpy(cache_home: Path) -> None:
    """What is waited for at each start: not the reader of ELF files."""
    script = (
        "import sys, mapscratch.run.command, mapscratch.cli; "
        "print([name for name in ('numpy', 'elftools', 'rich') if name in sys.modules])"
    )
    assert run([sys.executable, "-c", script], os.environ) == "[]\n"


def test_processes_that_outlive_the_command(cache_home: Path) -> None:
    """A daemon's reports have nowhere to go any more; it goes on."""
    script = "(sleep 0.5; bash -c 'echo late | cat') & echo early"
    with subprocess.Popen(
        command("--", "bash", "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        start = time.monotonic()
        assert process.stdout.read() == "early\nlate\n"
        assert time.monotonic() - start < patient(30)
