# SPDX-License-Identifier: Apache-2.0
"""A file that shrinks under its mapping: a message that names it, and an end; never other bytes."""

from __future__ import annotations

import signal

import pytest
from support.engines import AVAILABLE
from support.files import PatternFile
from support.interpreter import run_python

SHRINKING = """
    from support.prelude import *
    import mapscratch
    fixup = mapscratch.Words({8: 5}) if sys.argv[3] == "fixups" else None
    m = ScratchMap(path, engine=engine, fixup=fixup)
    m[:]
    m.drop()
    os.truncate(path, 10 * PAGESIZE + 100)
    # What the file still has is there, in the same fault-around too.
    for page in range(10):
        assert m[page * PAGESIZE + 100] == data[page * PAGESIZE + 100]
    assert m[10 * PAGESIZE + 99] == data[10 * PAGESIZE + 99]
    assert m[10 * PAGESIZE + 100] == 0  # as with mmap: the file's last page is filled up
    assert m.load(8) == (5 if fixup else int.from_bytes(data[8:16], "little"))
    print("so far", flush=True)
    {touch}
    print("read what is not there", flush=True)
"""
TOUCHES = {
    "load": "m.load(20 * PAGESIZE)",
    "store": "m.store(20 * PAGESIZE, 1)",
    "slice": "m[30 * PAGESIZE : 31 * PAGESIZE]",
    "in the same fault-around": "m.load(11 * PAGESIZE)",
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
@pytest.mark.parametrize("fixups", ["fixups", "plain"])
def test_the_message_names_the_file(
    lazyfree: str, file: PatternFile, touch: str, fixups: str
) -> None:
    result = run_python(
        SHRINKING.replace("{touch}", touch), file.path, lazyfree, fixups, check=False, timeout=30
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGKILL)
    message = result.stderr.strip()
    assert str(file.path) in message
    assert "shrank" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("engine", [name for name in AVAILABLE if name != "lazyfree"])
def test_a_mapping_of_the_file_ends_by_sigbus(engine: str, file: PatternFile) -> None:
    """With `dontneed` and `kernel` it is the standard's mmap in this as well."""
    result = run_python(
        SHRINKING.replace("{touch}", TOUCHES["load"]), file.path, engine, "plain", check=False
    )
    assert result.stdout == "so far\n"
    assert result.returncode == -signal.SIGBUS


def test_the_parent_goes_on_when_its_child_touches_what_is_gone(
    lazyfree: str, file: PatternFile
) -> None:
    run_python(
        """
        from support.prelude import *
        other_path = path + ".other"
        with open(other_path, "wb") as file:
            file.write(data)
        child = os.fork()
        if not child:
            other = ScratchMap(other_path, engine=engine)
            os.truncate(other_path, 0)
            other.load(0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) < 0
        check()
        m.drop()
        check()
        """,
        file.path,
        lazyfree,
    )


def test_pages_that_are_in_memory_stay(lazyfree: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        with m.pin():
            os.truncate(path, 0)
            check()
        """,
        file.path,
        lazyfree,
    )


def test_a_file_that_grows_back_is_seen(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        m[:]
        m.drop()
        os.truncate(path, PAGESIZE)
        os.truncate(path, len(data))
        assert m[:PAGESIZE] == data[:PAGESIZE]
        assert m[PAGESIZE:] == bytes(len(data) - PAGESIZE)  # what the file has now
        """,
        file.path,
        engine,
    )
