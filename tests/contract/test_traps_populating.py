# SPDX-License-Identifier: Apache-2.0
"""An eighth trap: the kernel fills, locks or writes memory for others (mlock, read).

It asks for pages that can be written wherever memory is writable, and an array's memory is, for
the kernel to move huge pages in. Nobody stores anything: nobody may be killed, and what was asked
for is done, or refused with an error.
"""

from __future__ import annotations

import signal
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support.interpreter import run_python
from support.seccomp import is_supported

import mapscratch

ITEMS = 1_500_000

START = """
    import ctypes, errno, os, sys, warnings
    from mmap import PAGESIZE
    import numpy as np, mapscratch.arrays
    from support.array_fixups import half
    from support.ordinary_user import become_ordinary_user

    # What was locked just now may wait, on each processor, where reclaim passes over it.
    BATCHES = 32 * os.cpu_count()
    path, kind, is_warm, user = sys.argv[1:5]
    libc = ctypes.CDLL(None, use_errno=True)
    file = open(path, "rb")
    stored = np.fromfile(file, ">i2")
    if user == "ordinary":
        become_ordinary_user()
    warnings.simplefilter("ignore", mapscratch.SystemCallWarning)

    def make():
        '''A mapping, what it shows, and what it should show.'''
        if kind == "array":
            array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
            shown, wanted = np.asarray(array), stored.astype("f4") * np.float32(0.5)
            memory = array.scratch
        elif kind == "python array":
            array = mapscratch.array(path, "f4", source=">i2", fixup=mapscratch.fixups.Python(half))
            shown, wanted = np.asarray(array), stored.astype("f4") * np.float32(0.5)
            memory = array.scratch
        else:
            access = 1 if kind == "read-only map" else 3  # ACCESS_READ, ACCESS_COPY
            memory = mapscratch.ScratchMap(path, access=access, engine="lazyfree")
            shown, wanted = np.frombuffer(memory, ">i2"), stored
        if is_warm == "warm":
            assert np.array_equal(shown, wanted)
        return memory, shown, wanted

    def place_of(shown, offset=0):
        return ctypes.c_void_p(shown.__array_interface__["data"][0] + offset)

    def pages_of(shown):
        return -(-shown.nbytes // PAGESIZE)

    def length_of(shown):
        return ctypes.c_size_t(pages_of(shown) * PAGESIZE)

    def tell(result):
        return os.strerror(ctypes.get_errno()) if result < 0 else result
"""


@pytest.fixture
def path(public_path: Path) -> Path:
    values = np.random.default_rng(0).integers(-30_000, 30_000, ITEMS).astype(">i2")
    values.tofile(public_path / "values")
    (public_path / "values").chmod(0o644)
    return public_path / "values"


READ_ONLY = ("array", "read-only map")
TEMPERATURES = ("cold", "warm")
USERS = ("privileged", "ordinary")
# An ordinary user may not be able to start the interpreter for a Python fixup.
SITUATIONS = [
    *product(READ_ONLY, TEMPERATURES, USERS),
    *product(["python array"], TEMPERATURES, ["privileged"]),
]


@pytest.mark.parametrize(
    ("kind", "temperature", "user"), [*SITUATIONS, *product(["map"], TEMPERATURES, USERS)]
)
def test_who_locks_it_gets_the_pages_or_an_error(
    lazyfree: str, path: Path, kind: str, temperature: str, user: str
) -> None:
    run_python(
        START
        + """
    MLOCK2 = 325 if os.uname().machine == "x86_64" else 284
    MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
    ways = {
        "mlock": lambda shown: libc.mlock(place_of(shown), length_of(shown)),
        "mlock2": lambda shown: libc.syscall(MLOCK2, place_of(shown), length_of(shown), 0),
        "mlock of a part": lambda shown: libc.mlock(place_of(shown, 5 * PAGESIZE), PAGESIZE),
        "mlockall": lambda shown: libc.mlockall(MCL_CURRENT),
        "mlockall, future": lambda shown: libc.mlockall(MCL_CURRENT | MCL_FUTURE),
        "on fault": lambda shown: libc.mlockall(MCL_CURRENT | MCL_ONFAULT),
    }
    for name, use in ways.items():
        memory, shown, wanted = make()
        result = use(shown)
        assert result in (0, -1), (name, result)
        served = memory.guarantees.system_calls
        if not result and served and name not in ("on fault", "mlock of a part"):
            assert memory.counts().resident == pages_of(shown), (name, memory.counts())
        assert np.array_equal(shown, wanted), name
        if result:
            assert ctypes.get_errno() in (errno.ENOMEM, errno.EAGAIN, errno.EPERM), tell(result)
        assert not libc.munlockall()
        memory.reclaim()
        assert memory.counts().swapped < BATCHES, name
        assert np.array_equal(shown, wanted), name
        """,
        path,
        kind,
        temperature,
        user,
    )


@pytest.mark.parametrize(
    ("kind", "temperature", "user"), [*SITUATIONS, *product(["map"], TEMPERATURES, USERS)]
)
def test_who_has_it_filled_gets_the_pages_or_an_error(
    lazyfree: str, path: Path, kind: str, temperature: str, user: str
) -> None:
    run_python(
        START
        + """
    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 22, 23, 25
    for advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE):
        memory, shown, wanted = make()
        result = libc.madvise(place_of(shown), length_of(shown), advice)
        assert result in (0, -1), (advice, result)
        if not result and advice != MADV_COLLAPSE:
            assert memory.counts().resident == pages_of(shown), (advice, memory.counts())
        if kind != "map" and advice == MADV_POPULATE_WRITE:
            assert result and ctypes.get_errno() in (errno.EINVAL, errno.EFAULT), tell(result)
        assert np.array_equal(shown, wanted), advice
        memory.reclaim()
        assert memory.counts().swapped < BATCHES, advice
        assert np.array_equal(shown, wanted), advice
        """,
        path,
        kind,
        temperature,
        user,
    )


@pytest.mark.parametrize(("kind", "temperature", "user"), SITUATIONS)
def test_who_writes_into_what_is_read_only_gets_an_error(
    lazyfree: str, path: Path, kind: str, temperature: str, user: str
) -> None:
    """As into any read-only memory; and what was there is there afterwards."""
    run_python(
        START
        + """
    class Part(ctypes.Structure):
        _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    def write_remotely(place):
        source = ctypes.create_string_buffer(PAGESIZE)
        local = Part(ctypes.addressof(source), PAGESIZE)
        remote = Part(place.value, PAGESIZE)
        return libc.process_vm_writev(
            os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
        )

    def write_memory(place):
        memory = os.open("/proc/self/mem", os.O_RDWR)
        return libc.pwrite(memory, bytes(PAGESIZE), PAGESIZE, ctypes.c_long(place.value))

    direct = os.open(path, os.O_RDONLY | os.O_DIRECT) if hasattr(os, "O_DIRECT") else file.fileno()
    zero = os.open("/dev/zero", os.O_RDONLY)
    pipe, end = os.pipe()
    os.write(end, bytes(PAGESIZE))
    ways = {
        "read": lambda place: libc.read(zero, place, PAGESIZE),
        "read from a pipe": lambda place: libc.read(pipe, place, PAGESIZE),
        "direct": lambda place: libc.pread(direct, place, PAGESIZE, 0),
        "process_vm_writev": write_remotely,
        "/proc/self/mem": write_memory,
    }
    for name, use in ways.items():
        memory, shown, wanted = make()
        result = use(place_of(shown, 3 * PAGESIZE))
        assert result == -1, (name, result)
        assert ctypes.get_errno() in (errno.EFAULT, errno.EIO), (name, tell(result))
        assert np.array_equal(shown, wanted), name
        memory.reclaim()
        assert memory.counts().swapped < BATCHES, name
        assert np.array_equal(shown, wanted), name
        """,
        path,
        kind,
        temperature,
        user,
    )


STRAY_STORES = {
    "": signal.SIGBUS,
    "pin = array.scratch.pin(); pin.__enter__()": signal.SIGSEGV,
    "libc.mlockall(1 | 4)": signal.SIGSEGV,  # MCL_CURRENT, MCL_ONFAULT
    "libc.mlockall(1)": signal.SIGSEGV,
}


@pytest.mark.parametrize("before", STRAY_STORES)
def test_a_stray_store_into_what_is_locked_is_a_crash_and_no_kill(
    lazyfree: str, path: Path, before: str
) -> None:
    result = run_python(
        START
        + f"""
    array = mapscratch.array(path, "f4", source=">i2", scale=0.5)
    np.asarray(array).sum()
    {before}
    print("so far", flush=True)
    ctypes.memset(place_of(array, PAGESIZE), 0, 8)
    print("stored", flush=True)
        """,
        path,
        "array",
        "warm",
        "privileged",
        check=False,
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGSEGV), result.stderr


@pytest.mark.skipif(not is_supported(), reason="the numbers of system calls here are not known")
@pytest.mark.parametrize("what", ["store", "cut", "cut map"])
def test_where_no_page_can_be_poisoned_it_is_a_crash_and_no_kill(
    lazyfree: str, path: Path, what: str
) -> None:
    """As before Linux 6.6, and in a sandbox that knows the older requests alone."""
    result = run_python(
        START
        + """
    from support.seccomp import forbid_request
    UFFDIO_POISON = 0xC020AA08
    what = sys.argv[5]
    forbid_request(UFFDIO_POISON)
    memory, shown, wanted = make()
    if what != "store":
        memory.drop()
        os.truncate(path, PAGESIZE)
    pid = os.fork()  # the child, too, has the message and the crash
    if pid:
        os.waitpid(pid, 0)
    print("so far", flush=True)
    if what == "store":
        ctypes.memset(place_of(shown, PAGESIZE), 0, 8)
    else:
        shown[ITEMS - 1]
    print("went on", flush=True)
        """.replace("ITEMS", str(ITEMS)),
        path,
        "map" if what == "cut map" else "array",
        "warm",
        "privileged",
        what,
        check=False,
    )
    assert result.stdout == "so far\n" * 2, result.stderr
    assert result.returncode == -signal.SIGSEGV, result.stderr
    message = "stored into the array" if what == "store" else "can't be made"
    assert result.stderr.count(message) == 2, result.stderr
    if what == "store":
        assert "help(mapscratch.array)" in result.stderr
        assert "overwrite_a" in (mapscratch.array.__doc__ or "")
