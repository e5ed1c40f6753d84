# SPDX-License-Identifier: Apache-2.0
"""What is done in each root, in order, and how one knows that it went well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WHEELS = "dist"
"""In the tree: where `make wheel` puts the wheel, and where that of the oldest root is put."""


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        name: how it is asked for.
        title: how the table calls it.
        script: for `sh -e`, in the root's copy of the tree.
        proof: what the output must hold, if the script ends well; its last occurrence is shown.
        at_oldest: run before the script, in the oldest root of the run alone.
    """

    name: str
    title: str
    script: str
    proof: str
    at_oldest: str = ""

    def judge(self, status: int, output: str) -> tuple[bool, str]:
        """Whether it went well, and what to say of it.

        Args:
            status: the script's exit status.
            output: all that it printed.
        """
        found = re.findall(self.proof, output)
        if status:
            return False, found[-1] if found else f"exit status {status}"
        return (True, found[-1]) if found else (False, "ended well, and did nothing that shows it")


def prerequisites(readme: str) -> str:
    """The packages that the README tells a user to install; ValueError if it tells none."""
    told = re.search(r"^\$ sudo apt install ([a-z0-9 .+-]+?) *(?:#.*)?$", readme, re.MULTILINE)
    if not told:
        raise ValueError('README.md has no line "$ sudo apt install …"')
    return told[1]


# Each program first by itself. The second time what it loads later is converted, too; at the end
# all of its text is dropped every few milliseconds.
_RUN = """
python3 -c "$program" >/tmp/expected
for options in "" "" "--drop-every 5"; do
  .venv/bin/mapscratch run -v $options -- python3 -c "$program" >/tmp/found 2>/tmp/said
  cat /tmp/said
  cmp /tmp/expected /tmp/found
done
"""
_CPYTHON = """
program='
import bz2, collections, decimal, hashlib, json, lzma, re, ssl, zlib
text = json.dumps([{"n": n, "root": str(decimal.Decimal(n).sqrt())} for n in range(20000)]).encode()
for squeeze in (bz2, lzma, zlib):
    assert squeeze.decompress(squeeze.compress(text)) == text
print(hashlib.sha256(text).hexdigest(), collections.Counter(re.findall(rb"[0-9]", text)))
print(ssl.create_default_context().get_ciphers()[0]["name"])
'"""
_SQLITE = """
program='
import sqlite3
base = sqlite3.connect(":memory:")
base.create_function("odd", 1, lambda n: n % 2)
base.execute("create table squares(n integer primary key, square integer)")
base.executemany("insert into squares values (?, ?)", ((n, n * n) for n in range(100000)))
query = "select odd(n), count(*), sum(square), group_concat(n % 7) from squares group by 1"
print(base.execute(query).fetchall())
print(base.execute("pragma integrity_check").fetchall())
'"""
_RAN = r"\d+ libraries ran converted"


def all_steps(readme: str) -> tuple[Step, ...]:
    """All steps, in the order in which they must be taken.

    Args:
        readme: the README's text.
    """
    packages = prerequisites(readme)
    return (
        Step(
            "prerequisites",
            f"apt install {packages}",
            "apt-get --quiet update || echo 'the mirror has no newer list: the old one is used'\n"
            f"apt-get --quiet --yes install {packages}",
            r"\d+ upgraded, \d+ newly installed",
        ),
        Step(
            "compare", "make compare", "make compare", r"[\d,]+ words checked(?:.|\n)*?, 0\s+wrong"
        ),
        Step("test", "make test", "make test", r"(?:\d+ failed, )?\d+ passed[^\n=]*"),
        Step(
            "wheel",
            "the oldest's abi3 wheel",
            f"make units INSTALL={WHEELS}/*.whl\n.venv-units/bin/mapscratch doctor",
            r"(?:\d+ failed, )?\d+ passed[^\n=]*",
            at_oldest="make wheel",
        ),
        Step(
            "cpython",
            "mapscratch run: CPython",
            f"make .venv/installed-base\n{_CPYTHON}\n{_RUN}",
            _RAN,
        ),
        Step(
            "sqlite",
            "mapscratch run: sqlite",
            f"make .venv/installed-base\n{_SQLITE}\n{_RUN}",
            _RAN,
        ),
        Step(
            "units",
            "pip install . and unit tests",
            "make units",
            r"(?:\d+ failed, )?\d+ passed[^\n=]*",
        ),
    )


QUICK = ("prerequisites", "units")
FULL = ("prerequisites", "compare", "test", "wheel", "cpython", "sqlite")

VERSIONS = """
getconf GNU_LIBC_VERSION
gcc -dumpfullversion
python3 -c 'import platform; print(platform.python_version())'
ld --version
"""
"""What tells the parts of a root, one a line; see `parts`."""


def parts(output: str) -> str:
    """One line of what VERSIONS prints: glibc, gcc, Python, binutils."""
    lines = output.splitlines()
    if len(lines) < 4:
        return "not known"
    binutils = re.findall(r"[\d.]+", lines[3].rpartition(")")[2] or lines[3])
    return (
        f"glibc {lines[0].split()[-1]}, gcc {lines[1]}, Python {lines[2]}, binutils {binutils[0]}"
    )


def wheel_in(tree: Path) -> Path | None:
    """The wheel that was made there."""
    return next(iter(sorted((tree / WHEELS).glob("mapscratch-*.whl"))), None)
