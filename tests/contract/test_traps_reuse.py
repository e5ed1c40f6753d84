# SPDX-License-Identifier: Apache-2.0
"""Trap 6: mappings come and go under drops and reclaim, with other memory around them.

An address may belong to somebody else a microsecond after a mapping of it was closed. Canaries fill
the memory that malloc and mmap hand out meanwhile, and nobody but their owner may change them.
"""

from __future__ import annotations

import pytest
from support.files import PatternFile
from support.interpreter import run_python

CHURN = """
    from support.prelude import *
    from support.patience import patient
    import gc, mmap, random, threading, time
    import numpy as np

    seconds = float(sys.argv[3])
    start = time.monotonic()
    failures = []
    churned = checked = 0
    m.close()

    def goes_on():
        elapsed = time.monotonic() - start
        enough = churned > 20 and checked > 100
        return not failures and (elapsed < seconds or (not enough and elapsed < patient(30)))

    def guarded(use):
        def run():
            try:
                while goes_on():
                    use()
            except BaseException as error:
                failures.append(repr(error))
        return run

    def come_and_go():
        global churned
        generator = random.Random(churned)
        way = generator.randrange(4)
        mapping = ScratchMap(path, engine=engine, length=generator.randrange(1, len(data)))
        for page in range(0, len(mapping), 3 * PAGESIZE):
            mapping[page] = 0
        if way == 0:
            mapping.close()
        elif way == 1:
            with mapping:
                mapping.drop()
        elif way == 2:
            view = memoryview(mapping)
            try:
                mapping.close()
            except BufferError:
                pass
            mapping.drop()
            assert view[:8] == data[:min(8, len(view))]
            del view
        del mapping  # way 2 and 3: unmapped by its finaliser
        churned += 1

    shared = [ScratchMap(path, engine=engine) for _ in range(4)]

    def drop_others():
        for mapping in list(shared):
            try:
                mapping.drop()
                if engine != "dontneed":
                    mapping.reclaim()
                assert mapping.load(8) == int.from_bytes(data[8:16], "little")
            except ValueError:
                pass  # closed meanwhile
            _native.announce_pressure(2)
            _native.release_all()

    def replace():
        for index in range(4):
            old, shared[index] = shared[index], ScratchMap(path, engine=engine)
            try:
                old.close()
            except BufferError:
                pass  # a drop of it is under way: its last name closes it

    def canaries():
        global checked
        generator = random.Random(checked)
        neighbours = []
        for index in range(60):
            size = generator.choice((PAGESIZE, 5 * PAGESIZE, 41 * PAGESIZE, 200_000))
            kind = generator.randrange(3)
            if kind == 0:
                memory = bytearray(size)
            elif kind == 1:
                memory = np.empty(size, np.uint8)
            else:
                memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            np.frombuffer(memory, np.uint8)[:] = index + 1
            neighbours.append(memory)
        time.sleep(0.002)
        for index, memory in enumerate(neighbours):
            seen = np.frombuffer(memory, np.uint8)
            if not np.all(seen == index + 1):
                failures.append(f"somebody changed the memory beside ours: {np.unique(seen)}")
            checked += 1

    threads = [
        threading.Thread(target=guarded(use))
        for use in (come_and_go, come_and_go, drop_others, replace, canaries, canaries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert churned > 20 and checked > 100, (churned, checked)
    del shared
    gc.collect()
    assert _native.pager_thread() == 0
    print(churned, "mappings", checked, "canaries")
"""


def test_nobody_elses_memory_is_dropped(engine: str, file: PatternFile) -> None:
    run_python(CHURN, file.path, engine, 0.8)


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_nobody_elses_memory_is_dropped_for_long(engine: str, file: PatternFile) -> None:
    print(run_python(CHURN, file.path, engine, 60, timeout=180).stdout)


def test_an_address_used_again_at_once_is_not_ours(engine: str, file: PatternFile) -> None:
    """The window of a store ends after its mapping has gone and others live at its address."""
    run_python(
        """
        import gc, mmap, sys, time
        from mapscratch import ScratchMap, _native

        path, engine = sys.argv[1:]
        size = 41 * 4096
        reused = 0
        for round in range(24):
            m = ScratchMap(path, engine=engine)
            for page in range(41):
                m.store(page * 4096, 1)  # marks it: to be re-armed in 10 ms
            address = m._address
            if round % 2:
                m.close()
            else:
                del m
            others = [
                mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                for _ in range(3)
            ]
            for other in others:
                other[:] = b"canary" * (size // 6) + b"x" * (size % 6)
            keeper = ScratchMap(path, engine=engine)  # so that the native thread goes on
            keeper.store(0, 1)
            _native.announce_pressure(2)
            _native.release_all()
            time.sleep(0.015)
            with open("/proc/self/maps") as maps:
                reused += any(
                    int(start, 16) <= address < int(end, 16)
                    for start, end in (line.split()[0].split("-") for line in maps)
                )
            for other in others:
                assert other[:] == b"canary" * (size // 6) + b"x" * (size % 6)
            keeper.close()
        assert reused > 4, reused
        """,
        file.path,
        engine,
    )


def test_closing_while_another_thread_drops_never_crashes(engine: str, file: PatternFile) -> None:
    run_python(
        """
        from support.prelude import *
        import threading, time
        refused = 0

        def use_until_closed(mapping):
            try:
                while True:
                    mapping.drop()
                    mapping.load(0)
                    with mapping.pin():
                        pass
                    mapping.counts()
                    time.sleep(0)  # else another thread never runs while nobody uses it
            except ValueError as error:
                assert "closed" in str(error), error

        for _ in range(20):
            mapping = ScratchMap(path, engine=engine)
            thread = threading.Thread(target=use_until_closed, args=(mapping,))
            thread.start()
            while True:
                try:
                    mapping.close()
                    break
                except BufferError:
                    refused += 1
                    time.sleep(0.0002)
            thread.join()
        check()
        """,
        file.path,
        engine,
    )


@pytest.mark.slow
def test_an_address_goes_from_thread_to_thread(engine: str, file: PatternFile) -> None:
    """A mapping is made where another thread has just unmapped one, of another length."""
    run_python(
        """
        from support.prelude import *
        import random, threading
        m.close()
        sys.setswitchinterval(1e-6)
        made = []

        def come_and_go(seed):
            generator = random.Random(seed)
            for _ in range(1000):
                pages = generator.randrange(1, 41)
                mapping = ScratchMap(path, engine=engine, length=pages * PAGESIZE)
                for page in (0, pages // 2, pages - 1):
                    mapping[page * PAGESIZE] = 0
                mapping.close()
            made.append(2000)

        threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(made) == 8000
        """,
        file.path,
        engine,
        timeout=20,
    )
