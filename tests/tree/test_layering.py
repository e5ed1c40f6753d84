# SPDX-License-Identifier: Apache-2.0
"""One pager, one drop policy, data flowing one way: what the source may and may not hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import TREE
from support.staging import stage

NATIVE = [*TREE.glob("libscratch/*.[ch]"), *TREE.glob("src/mapscratch/native/*.[ch]")]
CODE = [*NATIVE, *TREE.glob("src/mapscratch/**/*.py")]


def without_comments(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".py":
        text = re.sub(r'(?s)""".*?"""', "", text)
        return re.sub(r"#.*", "", text)
    return re.sub(r"(?s)/\*.*?\*/|//[^\n]*", "", text)


def sites(pattern: str) -> list[tuple[str, str]]:
    """Where the code matches: the file's name and the line."""
    return [
        (path.name, line.strip())
        for path in CODE
        for line in without_comments(path).splitlines()
        if re.search(pattern, line)
    ]


def test_there_is_code_to_look_at() -> None:
    assert len(NATIVE) > 10
    assert len(CODE) > 30


def test_one_pager_opens_a_userfaultfd() -> None:
    assert [name for name, _ in sites(r"SYS_userfaultfd|NR_userfaultfd")] == ["userfault.c"]
    assert {name for name, _ in sites(r"raw_ioctl\(.*\bUFFDIO_\w+")} == {"userfault.c"}


def test_pages_are_lazily_freed_in_one_file() -> None:
    assert {name for name, _ in sites(r"madvise\(.*\bMADV_FREE\b")} == {"free_lazily.h"}


def test_one_drop_policy() -> None:
    # One place that drops, one that decides by memory pressure to call it, one for who asks for it.
    # (mapping.c empties what it has just mapped; purgeable.py gives back what is lost, or what
    # nobody can come to any more.)
    places = {name for name, _ in sites(r"\bMADV_DONTNEED\b")}
    assert places == {"drop.c", "drop.h", "mapping.c", "purgeable.py"}
    callers = {name for name, _ in sites(r"\bscratch_drop_locked\(")}
    assert callers == {"drop.c", "drop.h", "pressure.c", "mapping.c"}
    assert {name for name, _ in sites(r"memory\.pressure_level")} == {"pressure.c"}


def test_no_assembly_and_nothing_of_one_processor() -> None:
    assert not sites(r"\b(__)?asm(__)?\b|<(x86|imm|emm|xmm)intrin\.h>|__builtin_ia32")
    assert not [name for name, _ in sites(r"__x86_64__|__amd64__|__i386__")]


def test_libscratch_knows_no_python() -> None:
    for path in TREE.glob("libscratch/*.[ch]"):
        assert "Python.h" not in without_comments(path)
        assert not re.search(r"\bPy[A-Z_]\w+", without_comments(path)), path


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_every_source_file_names_its_license(path: Path) -> None:
    assert "SPDX-License-Identifier: Apache-2.0" in path.read_text().splitlines()[0]


def test_files_that_are_named_are_there() -> None:
    """In comments, documents and makefiles; by their path from the tree's top, or from there."""
    named = re.compile(r"(?<![\w./])(?:src|tests|libscratch|runtime|bench)/[\w/]+\.(?:py|c|h|sh)\b")
    folders = ("src", "tests", "libscratch", "runtime", "bench", "docs", "kernel", "distributions")
    files = [path for folder in folders for path in (TREE / folder).rglob("*")]
    files += [TREE / name for name in ("Makefile", "README.md", "CONTRIBUTING.md", "meson.build")]
    read = [
        path
        for path in files
        if path.suffix in ("", ".py", ".md", ".c", ".h", ".sh", ".build") and path.is_file()
        if path.parent.name != "tree"
    ]
    assert len(read) > 300
    missing = [
        (str(path.relative_to(TREE)), name)
        for path in read
        for name in named.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not any((folder / name).exists() for folder in (TREE, path.parent))
    ]
    assert missing == []


def test_imports_flow_one_way(tmp_path: Path) -> None:
    linter = pytest.importorskip("importlinter", reason="pip install --group lint")
    # The source as it is now, not as it was when it was installed: so without site (-S).
    staged = stage(tmp_path)
    (staged / "mapscratch" / "_native.py").touch()  # the linter sees no compiled modules
    path = (staged, Path(linter.__file__).parent.parent)
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    result = subprocess.run(
        [sys.executable, "-S", "-c", command],
        cwd=TREE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 3 kept, 0 broken" in result.stdout


def layers_of_libscratch(tree: Path) -> tuple[int, str]:
    command = [sys.executable, TREE / "libscratch/layers.py", tree]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A tree with nothing but libscratch, to change."""
    shutil.copytree(TREE / "libscratch", tmp_path / "libscratch")
    return tmp_path


needs_compiler = pytest.mark.skipif(
    not shutil.which("cc") or not shutil.which("nm"), reason="apt install build-essential"
)


@needs_compiler
def test_calls_that_go_up_or_across_are_found(copied: Path) -> None:
    # Declared by hand, so that no header tells of them.
    for file, called in (("range", "scratch_pager_watch"), ("drop", "scratch_rearm_forget_marks")):
        with (copied / f"libscratch/{file}.c").open("a") as source:
            source.write(f"void {called}(void); void in_{file}(void) {{ {called}(); }}\n")
    status, said = layers_of_libscratch(copied)
    assert status == 1
    across, up = said.splitlines()
    assert re.fullmatch(
        r"libscratch/drop\.c .* calls scratch_rearm_forget_marks of rearm\.c .*", across
    )
    assert re.fullmatch(r"libscratch/range\.c .* calls scratch_pager_watch of pager\.c .*", up)
    assert "ranges" in up
    assert "the pager's thread" in up


@needs_compiler
def test_an_include_that_goes_up_is_found(copied: Path) -> None:
    with (copied / "libscratch/range.h").open("a") as header:
        header.write('#include "fork.h"\n')
    status, said = layers_of_libscratch(copied)
    assert status == 1
    assert re.match(r"libscratch/range\.h .* includes fork\.h .*\n", said)


@needs_compiler
def test_a_file_without_a_layer_and_a_long_function_are_found(copied: Path) -> None:
    body = "    (void)0;\n" * 57
    for name, more in (("short", ""), ("long", "    (void)0;\n")):
        (copied / f"libscratch/{name}.h").write_text(
            f"static void f(int a,\n  int b) {{\n{body}{more}}}\n"
        )
    status, said = layers_of_libscratch(copied)
    assert status == 1
    assert sorted(said.splitlines()) == [
        "libscratch/long.h:1: f has 61 lines; a function has 60 at most",
        "libscratch/long: in no layer; give it a place in LAYERS of libscratch/layers.py",
        "libscratch/short: in no layer; give it a place in LAYERS of libscratch/layers.py",
    ]
