# SPDX-License-Identifier: Apache-2.0
"""/proc/vmstat, /proc/meminfo, and what importing the package costs."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mapscratch import _native, proc
from mapscratch.proc import VmStat, read_meminfo, read_vmstat

PAGE = mmap.PAGESIZE


def test_counters_rise_by_what_this_process_does() -> None:
    before = read_vmstat()
    mapping = mmap.mmap(-1, 256 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(256):
        mapping[page * PAGE] = 1
    risen = read_vmstat() - before
    # Others may fault as well meanwhile; fewer there cannot be.
    assert risen["pgfault"] >= 256
    assert risen.swapped_in >= 0 <= risen.swapped_out
    assert risen.lazily_freed >= 0 <= risen.refaulted


def test_differences_and_bytes() -> None:
    before = VmStat({"pswpout": 10, "pgsteal_anon": 1, "pgsteal_file": 2, "gone": 1})
    after = VmStat({"pswpout": 13, "pgsteal_anon": 4, "pgsteal_file": 7, "pgpgin": 5})
    risen = after - before
    assert dict(risen.counters) == {"pswpout": 3, "pgsteal_anon": 3, "pgsteal_file": 5}
    assert risen.reclaimed == 8
    assert risen.bytes("pswpout") == 3 * PAGE
    assert after.bytes("pgpgin") == 5 * 1024
    assert risen.get("gone") is None
    with pytest.raises(KeyError, match="gone"):
        risen["gone"]


def test_the_counters_that_are_documented_are_there() -> None:
    now = read_vmstat()
    for name in ("pswpin", "pswpout", "pglazyfree", "pglazyfreed", "pgmajfault"):
        assert now[name] == now.get(name)
    assert now.reclaimed <= now["pgscan_anon"] + now["pgscan_file"]


def test_memory_of_the_machine() -> None:
    memory = read_meminfo()
    assert memory.total == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert 0 < memory.available <= memory.total
    assert memory.swap_free <= memory.swap_total


def test_public_names_are_there_and_listed_once() -> None:
    assert sorted(proc._HOME) == sorted(proc.__all__)
    for name in proc.__all__:
        assert getattr(proc, name) is not None
    assert set(proc.__all__) <= set(dir(proc))
    with pytest.raises(AttributeError):
        proc.nothing  # type: ignore[attr-defined] # noqa: B018


def test_counting_pages_loads_nothing_heavy(tmp_path: Path) -> None:
    # The package alone, without site: other modules and editable installs load what they need.
    (tmp_path / "mapscratch").mkdir()
    for source in (Path(proc.__file__).parent, Path(_native.__file__)):
        (tmp_path / "mapscratch" / source.name).symlink_to(source)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import mapscratch.proc as k; k.count_pages(0, 4096)\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "mapscratch.proc.pagemap" in loaded
    assert {
        "ctypes",
        "json",
        "numpy",
        "subprocess",
        "mapscratch.proc.swap",
        "mapscratch.proc.cgroups",
    }.isdisjoint(loaded)
