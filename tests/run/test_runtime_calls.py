# SPDX-License-Identifier: Apache-2.0
"""Calls through PLT entries that bind themselves again, while their text is dropped."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from code_programs import build, build_calls, build_library, converted, run

from mapscratch.elf import convert
from mapscratch.run.launch import environment, reports
from mapscratch.run.runtime import runtime_library

QUICK_CALLS = 2_000_000
MANY_CALLS = 100_000_000
SYSTEM_PYTHON = Path(os.path.realpath("/usr/bin/python3"))
"""An executable with many entries; a virtual environment's may have all of them in a library."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program whose library calls another through a thousand entries, bound lazily."""
    return build_calls(tmp_path_factory.mktemp("calls"), "-Wl,-z,lazy")


@pytest.fixture(scope="module")
def calls_now(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, bound when it is loaded, with full RELRO."""
    return build_calls(tmp_path_factory.mktemp("calls-now"), "-Wl,-z,now,-z,relro")


@pytest.fixture(scope="module")
def calls_tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two PLTs, for indirect branch tracking."""
    folder = tmp_path_factory.mktemp("calls-tracked")
    return build_calls(folder, "-Wl,-z,lazy,-z,ibtplt", "-fcf-protection=full")


@pytest.fixture(scope="module")
def calls_together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with text and data in one page of the file."""
    folder = tmp_path_factory.mktemp("calls-together")
    return build_calls(folder, "-Wl,-z,lazy,-z,noseparate-code")


@pytest.mark.parametrize("form", ["calls", "calls_now", "calls_tracked", "calls_together"])
@pytest.mark.parametrize("drop_every", [1, 5])
def test_no_call_goes_wrong_while_text_is_dropped(
    form: str, drop_every: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    program: Path = request.getfixturevalue(form)
    libraries = (program, program.with_name("libcaller.so"))
    with converted(tmp_path, *libraries, drop_every=drop_every) as (variables, made, _):
        told = json.loads(run([program, str(QUICK_CALLS), "2"], variables))
        counts = made.counts()
    assert told["calls"] == QUICK_CALLS
    assert told["in_handlers"] > 0
    assert told["in_children"] > 0
    assert told["wrong"] == 0
    assert counts.overlaid == 2
    assert counts.refused == 0
    assert counts.patched + counts.batched > 1000
    assert counts.dropped > 0


@pytest.mark.stress
@pytest.mark.parametrize("drop_every", [1, 2, 5])
def test_no_call_of_a_hundred_million_goes_wrong(
    calls: Path, drop_every: int, tmp_path: Path
) -> None:
    libraries = (calls, calls.with_name("libcaller.so"))
    with converted(tmp_path, *libraries, drop_every=drop_every) as (variables, made, _):
        told = json.loads(run([calls, str(MANY_CALLS), "2", "200"], variables))
        counts = made.counts()
    assert told["calls"] == MANY_CALLS
    assert told["wrong"] == 0
    assert counts.dropped > 1000
    print(f"drops every {drop_every} ms: {told}, {counts}")


def test_without_drops_each_entry_is_bound_once(calls: Path, tmp_path: Path) -> None:
    program = calls
    with converted(tmp_path, program.with_name("libcaller.so")) as (variables, made, _):
        run([program, "10000", "1", "0"], variables)
        counts = made.counts()
    # A signal handler may bind an entry that its thread is just about to bind.
    assert 1024 <= counts.resolved < 1100
    assert 0 < counts.patched + counts.batched <= counts.resolved
    # Several share the cost of making text writable.
    assert counts.batched > 4 * counts.patched
    assert counts.dropped == 0


def test_a_program_that_wants_everything_bound_at_once(calls: Path, tmp_path: Path) -> None:
    """LD_BIND_NOW: the resolver isn't bound lazily itself, and looks through ld.so's code."""
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, library, drop_every=2) as (variables, made, _):
        told = json.loads(run([calls, "500000"], variables | {"LD_BIND_NOW": "1"}))
        assert made.counts().overlaid == 1
        assert made.counts().patched > 0
    assert told["wrong"] == 0


@pytest.mark.parametrize("form", ["calls", "calls_now", "calls_tracked", "calls_together"])
def test_a_converted_file_takes_the_place_of_the_library(
    form: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    program: Path = request.getfixturevalue(form)
    for library in ("libcallee.so", "program"):
        shutil.copy2(program.with_name(library), tmp_path / library)
    conversion = convert(program.with_name("libcaller.so"), tmp_path / "libcaller.so")
    assert conversion.converted >= 1024
    with reports() as made:
        variables = os.environ | {
            "LD_LIBRARY_PATH": str(runtime_library().parent),
            "MAPSCRATCH_COUNTS": str(made.counts_file),
            "MAPSCRATCH_RECLAIMER": "timer 2",
        }
        told = json.loads(run([tmp_path / "program", str(QUICK_CALLS)], variables))
        counts = made.counts()
    assert told["wrong"] == 0
    assert counts.patched + counts.batched > 1000
    assert counts.dropped > 0


def test_a_converted_executable(calls: Path, tmp_path: Path) -> None:
    for library in ("libcallee.so", "libcaller.so"):
        shutil.copy2(calls.with_name(library), tmp_path / library)
    convert(calls, tmp_path / "program")
    with reports() as made:
        variables = os.environ | {
            "LD_LIBRARY_PATH": str(runtime_library().parent),
            "MAPSCRATCH_COUNTS": str(made.counts_file),
            "MAPSCRATCH_RECLAIMER": "timer 2",
        }
        told = json.loads(run([tmp_path / "program", "100000"], variables))
        assert made.counts().resolved > 0
    assert told["wrong"] == 0


def test_lazy_conversion_looks_nothing_up_at_load(calls_now: Path, tmp_path: Path) -> None:
    for library in ("libcallee.so", "program"):
        shutil.copy2(calls_now.with_name(library), tmp_path / library)
    convert(calls_now.with_name("libcaller.so"), tmp_path / "libcaller.so", lazy=True)
    variables = os.environ | {
        "LD_LIBRARY_PATH": str(runtime_library().parent),
        "MAPSCRATCH_RECLAIMER": "off",
        "LD_DEBUG": "statistics",
    }
    command = [str(tmp_path / "program"), "1000", "1", "0"]
    lazy = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    convert(calls_now.with_name("libcaller.so"), tmp_path / "libcaller.so")
    now = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)

    def at_load(text: str) -> int:
        return int(re.search(r"number of relocations:\s+(\d+)", text)[1])  # type: ignore[index]

    assert at_load(now.stderr) - at_load(lazy.stderr) >= 1024


def test_libraries_that_come_and_go(calls: Path, tmp_path: Path) -> None:
    """Their addresses are given to others, whose pages must not be dropped."""
    program = build(tmp_path / "reopen", "reopen.c")
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, library, drop_every=1) as (variables, made, _):
        told = json.loads(run([program, library, "200"], variables))
        counts = made.counts()
    assert told == {"rounds": 200, "wrong": 0}
    assert counts.overlaid == 200


def test_converted_files_that_come_and_go(calls: Path, tmp_path: Path) -> None:
    program = build(tmp_path / "reopen", "reopen.c")
    shutil.copy2(calls.with_name("libcallee.so"), tmp_path / "libcallee.so")
    convert(calls.with_name("libcaller.so"), tmp_path / "libcaller.so")
    variables = os.environ | {
        "LD_LIBRARY_PATH": str(runtime_library().parent),
        "MAPSCRATCH_RECLAIMER": "timer 1",
    }
    told = json.loads(run([program, tmp_path / "libcaller.so", "200"], variables))
    assert told == {"rounds": 200, "wrong": 0}


def test_text_that_may_not_be_made_writable(calls: Path, tmp_path: Path) -> None:
    """MDWE (prctl(2), PR_SET_MDWE): correct, unpatched, and counted."""
    deny = "import ctypes, os, sys; libc = ctypes.CDLL(None); "
    deny += "sys.exit(77) if libc.prctl(65, 1, 0, 0, 0) else os.execv(sys.argv[1], sys.argv[1:])"
    library = calls.with_name("libcaller.so")
    command = [sys.executable, "-c", deny, str(calls), "50000", "2", "2"]
    with converted(tmp_path, library) as (variables, made, _):
        result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        counts = made.counts()
    if result.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert json.loads(result.stdout)["wrong"] == 0
    assert counts.unwritable > 0
    # The others found that another thread was at it, and went the long way.
    assert counts.remembered + counts.busy > 40_000
    assert counts.remembered > counts.resolved
    assert counts.patched == 0


def test_text_is_not_left_writable(tmp_path: Path) -> None:
    script = "import json, sqlite3, zlib; print(open('/proc/self/maps').read())"
    with converted(tmp_path, SYSTEM_PYTHON) as (variables, made, _):
        maps = run([SYSTEM_PYTHON, "-c", script], variables)
        assert made.counts().patched > 0
    assert not re.search(r"^\S+ rwx", maps, flags=re.MULTILINE)


def test_exceptions_pass_through_converted_libraries(tmp_path: Path) -> None:
    library = build_library(tmp_path / "libthrow.so", "exceptions.cc", "-DLIBRARY", compiler="c++")
    near = (f"-L{tmp_path}", "-Wl,-rpath,$ORIGIN")
    program = build(tmp_path / "catch", "exceptions.cc", *near, "-lthrow", compiler="c++")
    expected = run([program], os.environ)
    standard = [
        Path(line.split()[2])
        for line in run(["ldd", program], os.environ).splitlines()
        if "libstdc++" in line or "libgcc_s" in line
    ]
    assert len(standard) == 2
    with converted(tmp_path, library, program, *standard, drop_every=1) as (variables, made, _):
        assert run([program], variables) == expected
        assert made.counts().overlaid == 4
        assert made.counts().dropped > 0


@pytest.fixture
def unknown_linker(tmp_path: Path) -> Path:
    """An ld.so that binds as ever, but by code that is written in another way.

    `mov %rax, %r11` has two encodings; the trampolines get the one that they don't have.
    """
    linker = Path("/lib64/ld-linux-x86-64.so.2")
    code = linker.read_bytes()
    sequence = rb"(\x48\x8b\x73\x10\x48\x8b\x7b\x08\xe8....)\x49\x89\xc3"
    changed, count = re.subn(
        sequence, lambda found: found[1] + b"\x4c\x8b\xd8", code, flags=re.DOTALL
    )
    if not count:
        pytest.skip(f"{linker} is itself one that is not known")
    copy = tmp_path / "ld.so"
    copy.write_bytes(changed)
    copy.chmod(0o755)
    return copy


def test_nothing_is_guessed_about_an_unknown_linker(
    calls: Path, tmp_path: Path, unknown_linker: Path
) -> None:
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, library) as (variables, made, _):
        told = json.loads(run([unknown_linker, calls, "10000", "1", "1"], variables))
        counts = made.counts()
    assert told["wrong"] == 0
    assert (counts.overlaid, counts.refused) == (0, 1)


def test_a_converted_file_says_at_load_that_the_linker_is_unknown(
    calls: Path, tmp_path: Path, unknown_linker: Path
) -> None:
    for library in ("libcallee.so", "program"):
        shutil.copy2(calls.with_name(library), tmp_path / library)
    convert(calls.with_name("libcaller.so"), tmp_path / "libcaller.so")
    variables = os.environ | {"LD_LIBRARY_PATH": str(runtime_library().parent)}
    command = [str(unknown_linker), str(tmp_path / "program"), "1000", "1", "0"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert done.stdout == ""
    assert "way to bind a function is not known" in done.stderr


def test_a_missing_function_fails_at_load_as_it_did(tmp_path: Path) -> None:
    source = tmp_path / "missing.c"
    source.write_text(
        "int nowhere(int); int elsewhere(void); int here(void) { return nowhere(1) + elsewhere(); }"
    )
    library = tmp_path / "libmissing.so"
    command = ["cc", "-shared", "-fPIC", "-Wl,-z,now", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    script = (
        "import ctypes, sys\n"
        "try: ctypes.CDLL(sys.argv[1])\n"
        "except OSError as problem: print(str(problem).replace(sys.argv[1], 'LIB'))\n"
    )
    expected = run([sys.executable, "-c", script, library], os.environ)
    assert "undefined symbol" in expected
    with converted(tmp_path, library) as (variables, made, _):
        assert run([sys.executable, "-c", script, library], variables) == expected
        assert made.counts().overlaid == 1
    convert(library, tmp_path / "libconverted.so")
    variables = os.environ | {"LD_LIBRARY_PATH": str(runtime_library().parent)}
    assert run([sys.executable, "-c", script, tmp_path / "libconverted.so"], variables) == expected


def test_what_the_runtime_needs() -> None:
    """No C library, so it brings none into the loader hook's namespace; and nothing that could be
    somebody's own: no allocator, no getenv. `_dl_find_object` is weak, and not used by the hook.
    """
    listing = run(["readelf", "-dW", runtime_library()], os.environ)
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", listing) == ["ld-linux-x86-64.so.2"]
    assert "NODELETE" in listing
    symbols = run(["readelf", "-W", "--dyn-syms", runtime_library()], os.environ)
    assert set(re.findall(r" UND (\w+)", symbols)) == {
        "__tls_get_addr",  # never called: what the resolver tries ld.so's function with
        "_r_debug",
        "_dl_find_object",
    }
    exported = set(re.findall(r"GLOBAL DEFAULT +\d+ (\w+)", symbols))
    hooks = {"la_version", "la_objopen", "la_objclose", "la_activity"}
    assert exported == {"mapscratch_plt_entry", *hooks}


def threads(variables: dict[str, str]) -> list[str]:
    """The names of the threads of a process that has bound an entry."""
    script = (
        "import os, time; time.sleep(0.1); "
        "print(*(open(f'/proc/self/task/{t}/comm').read().strip() "
        "for t in os.listdir('/proc/self/task')))"
    )
    return run([SYSTEM_PYTHON, "-c", script], variables).split()


def test_a_program_that_overwrites_its_environment(calls: Path, tmp_path: Path) -> None:
    """As those do that set their title; a child's reclaimer is started after that."""
    source = tmp_path / "title.c"
    source.write_text(
        """
        #include <dlfcn.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        extern char **environ;
        int main(int count, char **arguments) {
            for (char **entry = environ; *entry; entry++)
                memset(*entry, 'x', strlen(*entry));
            environ = NULL;
            void *library = dlopen(arguments[1], RTLD_NOW);
            if (!library || fork() == 0)
                return library ? (puts("child"), fflush(stdout), usleep(100000), 0) : 1;
            int status;
            wait(&status);
            return status;
        }
        """
    )
    program = tmp_path / "title"
    subprocess.run(["cc", str(source), "-o", str(program)], check=True)
    library = calls.with_name("libcaller.so")
    with converted(tmp_path, program, library, drop_every=5) as (variables, made, _):
        assert run([program, library], variables) == "child\n"
        counts = made.counts()
    assert counts.overlaid == 2
    assert counts.reclaimers == 2


def test_a_thread_only_where_it_is_wanted(tmp_path: Path) -> None:
    with converted(tmp_path, SYSTEM_PYTHON, drop_every=50) as (variables, _made, _cache):
        assert "mapscratch" in threads(variables)
    with converted(tmp_path, SYSTEM_PYTHON) as (variables, _made, _cache):
        assert len(threads(variables)) == 1


def test_the_thread_does_not_keep_a_process_alive(tmp_path: Path) -> None:
    """A program whose threads all end by pthread_exit ends, and its output is written."""
    source = tmp_path / "last.c"
    source.write_text(
        """
        #include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        static void *work(void *ignored) {
            usleep(200000);
            printf("the last thread's words");
            return ignored;
        }
        int main(void) {
            pthread_t thread;
            puts("first");
            pthread_create(&thread, NULL, work, NULL);
            pthread_detach(thread);
            pthread_exit(NULL);
        }
        """
    )
    program = tmp_path / "last"
    subprocess.run(["cc", "-pthread", str(source), "-o", str(program)], check=True)
    with converted(tmp_path, program, drop_every=5) as (variables, made, _):
        assert run([program], variables) == "first\nthe last thread's words"
        assert made.counts().resolved > 0


def test_the_thread_has_no_privilege(tmp_path: Path) -> None:
    script = (
        "import os, time; time.sleep(0.1)\n"
        "for t in os.listdir('/proc/self/task'):\n"
        "    status = open(f'/proc/self/task/{t}/status').read()\n"
        "    if 'mapscratch' in status: print(status.split('CapEff:')[1].split()[0])\n"
    )
    with converted(tmp_path, SYSTEM_PYTHON, drop_every=20) as (variables, _made, _cache):
        assert int(run([SYSTEM_PYTHON, "-c", script], variables), 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_thread_does_not_outlive_a_change_of_user(tmp_path: Path) -> None:
    """The C library changes all threads that it knows; ours has to notice by itself."""
    script = (
        "import os, time\n"
        "time.sleep(0.1); os.setuid(65534)\n"
        "def owners():\n"
        "    files = (f'/proc/self/task/{t}/status' for t in os.listdir('/proc/self/task'))\n"
        "    return {int(open(f).read().split('Uid:')[1].split()[1]) for f in files}\n"
        "while owners() != {65534}: time.sleep(0.05)\n"
        "print(owners())\n"
    )
    with converted(tmp_path, SYSTEM_PYTHON, drop_every=20) as (variables, _made, _cache):
        assert run([SYSTEM_PYTHON, "-c", script], variables).strip() == "{65534}"


def test_the_environment_says_what_runs(tmp_path: Path) -> None:
    with converted(tmp_path) as (variables, made, cache):
        assert variables["LD_AUDIT"].split(":")[0] == str(runtime_library())
        assert variables["MAPSCRATCH_CACHE"] == str(cache.files)
        trial = environment(cache, made, drop_every=7, base={})
    assert trial["MAPSCRATCH_RECLAIMER"] == "timer 7"
    assert trial["LD_AUDIT"] == str(runtime_library())
