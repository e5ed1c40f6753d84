# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md, "Core dumps", "Debuggers" and "Checkpoints"."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import takewhile
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from support.debugger import call, dump, gdb, gdb_command, gdb_must, read
from support.files import make_file
from support.interpreter import run_python
from support.operated import ARRAY, MIB, Operated, make_source, operated
from support.waiting import eventually

import mapscratch
from mapscratch import ScratchMap
from mapscratch.proc import range_memory

SOURCE = MIB
DECODED = 8 * SOURCE
SAMPLE_EVERY = MIB // 8

CRASHING = (
    ARRAY
    + """
    import resource
    scratch = mapscratch.ScratchMap(sys.argv[1], engine="lazyfree")
    private = mapscratch.ScratchMap(sys.argv[1], engine="dontneed")
    cache = mapscratch.Cache()
    cache.put("value", np.full(1 << 17, 1234567.875))
    marker = np.full(4096, 7654321.125)  # of an ordinary array: a core file has it
    private.store(4096, 0x1122334455667788)
    # Not by slices of bytes, which would be copies in ordinary memory.
    array.max(), [sum(memoryview(one)[::4096]) for one in (scratch, private)]
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.chdir(sys.argv[2])
"""
)
WANTED_IN_CORE = """
    import mapscratch, mmap, resource
    m = mapscratch.ScratchMap(sys.argv[1], engine="lazyfree")
    m.madvise(mmap.MADV_DODUMP)
    sum(memoryview(m)[: len(m) // 4 : mmap.PAGESIZE])  # and some that the pager makes ahead
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.chdir(sys.argv[2])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("debuggers") / "bytes", SOURCE)


@pytest.fixture
def process(lazyfree: str, source: Path) -> Iterator[Operated]:
    """An array of which only the first page is in memory; each test breaks its own."""
    with operated(ARRAY.replace("0.37", "0.37, block=4096"), source) as process:
        process.ask("float(array[0])")
        yield process


def check_core(core: Path, source: Path) -> None:
    """What is in a core file, and what is not.

    Raises:
        AssertionError: what can be made again is in it.
    """
    content = core.read_bytes()
    stored = np.fromfile(source, "i1")
    decoded = stored.astype("f8") * 0.37
    step = SAMPLE_EVERY // 8
    samples = [decoded[first : first + 32].tobytes() for first in range(0, len(decoded), step)]
    assert not any(sample in content for sample in samples)
    encoded = [stored[first : first + 256].tobytes() for first in range(0, SOURCE, SOURCE // 4)]
    assert not any(sample in content for sample in encoded)
    assert np.full(512, 1234567.875).tobytes() not in content
    assert np.full(512, 7654321.125).tobytes() in content


def test_what_can_be_made_again_is_marked_as_not_to_be_dumped(engine: str, tmp_path: Path) -> None:
    file = make_file(tmp_path / "pattern", 40)
    with ScratchMap(file.path, engine=engine) as m:
        assert "dd" in range_memory(m._address, len(m)).vm_flags


def test_arrays_and_caches_are_marked_too(lazyfree: str, source: Path) -> None:
    array = mapscratch.array(source, "f8", source="i1")
    cache = mapscratch.Cache()
    cache.put(1, np.ones(1000))
    for address in (
        array.__array_interface__["data"][0],
        np.asarray(cache.get(1).__enter__()).__array_interface__["data"][0],
    ):
        assert "dd" in range_memory(address, 4096).vm_flags


def test_a_core_file_has_nothing_that_can_be_made_again(
    lazyfree: str, source: Path, tmp_path: Path
) -> None:
    core = core_of(CRASHING, source, tmp_path)
    check_core(core, source)
    core.unlink()


def test_who_wants_it_in_a_core_file_gets_what_is_in_memory(
    lazyfree: str, source: Path, tmp_path: Path
) -> None:
    core = core_of(WANTED_IN_CORE, source, tmp_path)
    content = core.read_bytes()
    core.unlink()
    stored = source.read_bytes()
    read, missing = (
        [stored[at : at + PAGESIZE] for at in range(start, start + SOURCE // 4, SAMPLE_EVERY // 4)]
        for start in (0, SOURCE // 4 * 3)
    )
    assert all(page in content for page in read)
    assert not any(page in content for page in missing)


def core_of(code: str, source: Path, directory: Path) -> Path:
    """The core file of a process that runs code and aborts."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or "|" in pattern:
        pytest.skip(f"core files go elsewhere here: {pattern}")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the hard limit of core files is set")
    cores = directory / "cores"
    cores.mkdir()
    with operated(code, source, cores) as process:
        process.begin("os.abort()")
        assert process.wait() == -signal.SIGABRT
    (core,) = cores.iterdir()
    return core


def test_a_core_file_by_gdb_is_the_same(lazyfree: str, source: Path, tmp_path: Path) -> None:
    gdb_must(dump)
    core = tmp_path / "core"
    with operated(CRASHING, source, tmp_path) as process:
        output = gdb(process, f"generate-core-file {core}")
        assert core.exists(), output
        check_core(core, source)
        core.unlink()
        assert process.ask("float(array[5])") is not None


def test_gdb_reads_pages_in_memory_and_no_missing_ones(process: Operated) -> None:
    gdb_must(read)
    address = process.ask("array.__array_interface__['data'][0]")
    missing = address + 4096 * 300
    output = gdb(process, "info threads", f"x/2xw {address}", f"x/2xw {missing}")
    assert '"mapscratch"' in output
    assert f"{address:#x}:\t0x" in output
    assert f"{missing:#x}:\t0x" not in output
    # A read from outside makes no page, and nothing is lost by it.
    assert process.ask("array.scratch.counts().resident") == 1
    assert process.ask("np.array_equal(array, np.fromfile(sys.argv[1], 'i1').astype('f8') * 0.37)")


def test_a_function_that_gdb_calls_may_touch_missing_pages(process: Operated) -> None:
    gdb_must(call)
    missing = process.ask("array.__array_interface__['data'][0]") + 4096 * 300
    output = gdb(
        process, "sharedlibrary libc", f"print ((int (*)(const char *)) atoi)({missing})", "detach"
    )
    assert "$1 = " in output, output
    assert process.ask("array.scratch.counts().resident") >= 2


def test_a_function_that_gdb_calls_waits_for_ever_if_no_other_thread_may_run(
    process: Operated,
) -> None:
    gdb_must(call)
    missing = process.ask("array.__array_interface__['data'][0]") + 4096 * 300
    command = gdb_command(
        process,
        "sharedlibrary libc",
        "set scheduler-locking on",
        "echo now\\n",
        f"print ((int (*)(const char *)) atoi)({missing})",
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as debugger:
        try:
            assert debugger.stdout
            said = list(takewhile("now\n".__ne__, debugger.stdout))
            waiting = "handle_userfault"
            assert eventually(lambda: process.waits_in(process.pid) == waiting, 20), said
            time.sleep(1)
            assert process.waits_in(process.pid) == waiting
            assert debugger.poll() is None
        finally:
            debugger.kill()
            assert "$1 = " not in debugger.communicate()[0]


def test_proc_mem_gives_eio_for_a_missing_page(process: Operated) -> None:
    address = process.ask("array.__array_interface__['data'][0]")
    memory = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
    try:
        first = np.frombuffer(os.pread(memory, 8, address), "f8")[0]
        assert first == process.ask("float(array[0])")
        with pytest.raises(OSError) as caught:
            os.pread(memory, 8, address + 4096 * 300)
        assert caught.value.errno == errno.EIO
    finally:
        os.close(memory)


def test_a_checkpoint_would_meet_a_userfaultfd_of_one_thread(lazyfree: str, source: Path) -> None:
    with operated(ARRAY, source) as process:
        tasks = Path(f"/proc/{process.pid}/task")

        def descriptors(thread: Path) -> list[str]:
            return [os.readlink(entry) for entry in (thread / "fd").iterdir()]

        holders = [
            (thread / "comm").read_text().strip()
            for thread in tasks.iterdir()
            if "anon_inode:[userfaultfd]" in descriptors(thread)
        ]
        assert holders == ["mapscratch"]
        address = process.ask("array.__array_interface__['data'][0]")
        flags = range_memory(address, DECODED, process.pid).vm_flags
        assert {"um", "uw"} <= flags  # registered: missing pages, write-protection
        process.ask("globals().pop('array').size")
        assert "mapscratch" not in [
            (thread / "comm").read_text().strip() for thread in tasks.iterdir()
        ]


def test_a_cache_and_dontneed_have_no_userfaultfd(undisturbed: None, tmp_path: Path) -> None:
    file = make_file(tmp_path / "pattern", 40)
    run_python(
        """
        import os, sys, mapscratch, numpy as np
        cache = mapscratch.Cache()
        cache.put(1, np.ones(100))
        m = mapscratch.ScratchMap(sys.argv[1], engine="dontneed")
        assert m[:] == open(sys.argv[1], "rb").read()
        for thread in os.listdir("/proc/self/task"):
            folder = f"/proc/self/task/{thread}/fd"
            for entry in os.listdir(folder):
                if os.path.lexists(f"{folder}/{entry}"):
                    assert "userfaultfd" not in os.readlink(f"{folder}/{entry}")
        """,
        file.path,
    )
