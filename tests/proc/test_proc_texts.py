# SPDX-License-Identifier: Apache-2.0
"""Texts that kernels may write: more fields, another order, names of all kinds."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mapscratch.proc import active_swaps, cgroups, maps, meminfo, procfs, smaps, vmstat
from mapscratch.proc import availability as rights

Writes = Callable[[str, bytes], None]

NAMES = {
    "plain": "/a/b",
    "blanks": "/a b/c  d ",
    "carriage return": "/a\rb",
    "other blanks": "/a\u00a0b\u3000c\u2028d",
    "other ends of lines": "/a\x0bb\x0cc\x1cd\x85e",
    "deleted": "/a (deleted)",
    "colons and dashes": "/a: b - c",
    "no text": os.fsdecode(b"/a\xff\xfeb"),
    "escapes": "/a\\b\tc\nd",
}


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    """Lets a file of the kernel's be something else."""
    texts: dict[str, bytes] = {}
    real = builtins.open

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if str(path) in texts:
            assert "b" in mode, "decoded, ends of lines would be translated"
            return io.BytesIO(texts[str(path)])
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)
    return texts.__setitem__


def escaped(name: str) -> bytes:
    """As the kernel's seq_path writes it."""
    return b"".join(
        b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in os.fsencode(name)
    )


def in_maps(name: str) -> bytes:
    return os.fsencode(name).replace(b"\\", b"\\134").replace(b"\n", b"\\012")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("more", [b"", b"\t7\tnew"], ids=["", "a field more"])
def test_swaps(writes: Writes, name: str, more: bytes) -> None:
    heading = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority" + more + b"\n"
    line = escaped(name) + b"      file\t\t8188\t\t12\t\t-2" + more + b"\n"
    writes("/proc/swaps", heading + line + b"/dev/zram0   partition\t100\t0\t100" + more + b"\n")
    one, other = active_swaps()
    assert (one.path, one.kind, one.size, one.used, one.priority) == (
        *(name, "file"),
        *(8188 << 10, 12 << 10, -2),
    )
    assert (other.kind, other.priority) == ("zram", 100)


def test_no_swaps(writes: Writes) -> None:
    writes("/proc/swaps", b"Filename\tType\tSize\tUsed\tPriority\n")
    assert active_swaps() == []


MEMINFO = b"""\
MemTotal:       24609012 kB
Per_Node: 0=12 1=13
Remark:
A:B:  7 kB
MemAvailable:   23000000 kB
MemFree:        20000000 kB
HugePages_Total:       0
SwapTotal:             1 kB
"""


def test_meminfo_with_lines_of_another_form(writes: Writes) -> None:
    writes("/proc/meminfo", MEMINFO)
    found = meminfo.read_meminfo()
    assert (found.total, found.free) == (24609012 << 10, 20000000 << 10)
    assert (found.available, found.swap_total, found.swap_free) == (23000000 << 10, 1 << 10, 0)


def test_vmstat_with_lines_of_another_form(writes: Writes) -> None:
    writes("/proc/vmstat", b"pswpin 5\nby_node N0=1 N1=2\nalone\npswpout 18446744073709551615\n")
    assert dict(vmstat.read_vmstat().counters) == {"pswpin": 5, "pswpout": (1 << 64) - 1}


def test_figures_of_a_group_with_lines_of_another_form() -> None:
    assert procfs.read_numbers("anon 4096\nzswap N0=1\nfile 0\n\nhigh max\n") == {
        "anon": 4096,
        "file": 0,
    }


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_mounts_and_groups(name: str, tmp_path: Path) -> None:
    """The mount of another file system has the name, then the group itself."""
    tmp_path = tmp_path.resolve()
    odd = os.fsdecode(escaped(name))
    mountinfo = (
        f"21 1 0:20 / {odd} rw shared:1 master:2 - tmpfs {odd} rw\n"
        "22 1 0:21 / /empty rw - tmpfs  rw\n"
        f"23 1 0:22 / {os.fsdecode(escaped(str(tmp_path)))} rw - cgroup {odd} rw,memory\n"
    )
    # The group's name can't have a line feed: the kernel refuses it.
    group = name.replace("\n", "")
    found = cgroups._memory_cgroup(f"5:memory:{group}\n4:cpu,cpuacct:/x\n0::{group}\n", mountinfo)
    assert found is not None
    assert (found.version, found.path, found.mount) == (1, group, tmp_path)
    assert found.directory == tmp_path / group.lstrip("/")


SMAPS = """\
7f00-7f02 rw-p 00001000 08:01 12 {name}
Newest:                1 kB
Swap:                  8 kB
SwapPss:               8 kB
Rss:                   4 kB
Pss:                   2 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
LazyFree:              4 kB
Locked:                0 kB
THPeligible:           0
{flags}7f02-7f03 rw-p 00001000 08:01 12 {name}
"""


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("flags", ["VmFlags: rd wr mr\n", ""], ids=["flags", "no flags"])
def test_smaps(name: str, flags: str) -> None:
    text = SMAPS.format(name=os.fsdecode(in_maps(name)), flags=flags)
    area = next(smaps._areas(io.StringIO(text, newline="\n").read().split("\n"), 1))
    assert (area.start, area.end, area.offset) == (0x7F00, 0x7F02, 0x1000)
    assert area.path == os.fsdecode(in_maps(name))
    assert (area.usage.rss, area.usage.lazy_free, area.usage.swap) == (4096, 4096, 8192)
    assert area.usage.pss_dirty is None
    assert area.vm_flags == frozenset(flags.split()[1:])


def test_smaps_without_a_figure_is_no_zero() -> None:
    text = SMAPS.format(name="/a", flags="").replace("LazyFree:", "LazilyFreed:")
    with pytest.raises(OSError, match="does not give LazyFree"):
        next(smaps._areas(text.split("\n"), 1))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_maps(name: str) -> None:
    line = b"7f00-7f02 rw-p 00001000 08:01 12                     " + in_maps(name) + b"\n"
    found = maps.MappedFile(*maps.header_members(line))
    assert (found.start, found.offset, found.inode) == (0x7F00, 0x1000, 12)
    assert found.path == os.fsdecode(in_maps(name))


def test_status_of_a_program_with_a_name_that_looks_like_more_lines(writes: Writes) -> None:
    writes(
        "/proc/self/status",
        b"Name:\tx\rCapEff:\tffffffffffffffff\rSeccomp:\t2\nNew:\nCapEff:\t0000000000000000\n",
    )
    assert not rights.has_system_administration()
    assert not rights.has_seccomp_filter()
