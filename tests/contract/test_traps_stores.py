# SPDX-License-Identifier: Apache-2.0
"""Trap 3: stores that vanish do so by whole pages, never one without the others."""

from __future__ import annotations

import pytest
from support.engines import AVAILABLE
from support.files import PatternFile
from support.interpreter import run_python

# Each thread has pages of its own, in which it writes one version after the other into every word,
# without the interpreter's lock (NumPy) or with it (m.store). A page then holds, from its first
# word to its last: versions that don't rise, of which those that are gone show the file; and no
# word may be older than what the thread wrote last, unless the page was dropped since.
STORING = """
    from support.prelude import *
    from support.patience import patient
    import random, threading, time
    import numpy as np

    seconds, way = float(sys.argv[3]), sys.argv[4]
    words = np.frombuffer(m, np.uint64, 40 * 512).reshape(40, 512)
    in_file = np.frombuffer(data, np.uint64, 40 * 512).reshape(40, 512)
    start = time.monotonic()
    failures, losses, kept = [], [], []
    sys.setswitchinterval(1e-4)

    def goes_on():
        elapsed = time.monotonic() - start
        return not failures and (elapsed < (seconds if losses and kept else patient(15)))

    def fail(*what):
        failures.append(what)

    def is_cut(words, version, page, where):
        # One word, some of its bytes the file's and the others stored last.
        found, stored, original = (
            np.array(value, np.uint64).reshape(-1).view(np.uint8)
            for value in (words, version, in_file[page][where])
        )
        return len(words) == 1 and np.all((found == stored) | (found == original))

    def write(pages):
        try:
            version = 0
            generator = random.Random(pages[0])
            while goes_on():
                page = generator.choice(pages)
                version += 1
                # One word after the other is stored, in order; then they are read in that order.
                if way == "numpy":
                    words[page] = version
                else:
                    for word in range(0, 512, 64):
                        m.store(page * PAGESIZE + 8 * word, version)
                step = 1 if way == "numpy" else 64
                seen = words[page, ::step].copy()
                reverted = seen == in_file[page, ::step]
                torn = ~(reverted | (seen == version))
                # NumPy promises no whole words: 2.5 copies by bytes. One may be cut where its page
                # went; the store of a word may not.
                if torn.any() and (way == "words" or not is_cut(seen[torn], version, page, torn)):
                    fail(page, "neither the file's nor stored last", version, seen[torn].tolist())
                reverted |= torn
                # Dropped while it was written: the words before are the file's. While it was read:
                # the words behind are.
                changes = np.count_nonzero(np.diff(reverted.astype(np.int8)))
                if changes > 2:
                    fail(page, "reverted in patches", reverted.tolist())
                (losses if reverted.any() else kept).append(page)
        except BaseException as error:
            fail(repr(error))

    def settle(pages):
        # After a while nobody stores: then each page is one thing or the other.
        for page in pages:
            words[page] = 99
        m.reclaim() if engine != "dontneed" else m.drop(0, 20 * PAGESIZE)
        for page in pages:
            seen = words[page].copy()
            if not (np.array_equal(seen, in_file[page]) or np.all(seen == 99)):
                fail(page, "half of one and half of the other", seen.tolist()[:20])

    def take():
        generator = random.Random(0)
        while goes_on():
            first = generator.randrange(40)
            length = generator.randrange(1, 41 - first) * PAGESIZE
            if engine != "dontneed" and generator.random() < 0.5:
                m.reclaim(first * PAGESIZE, length)
            else:
                m.drop(first * PAGESIZE, length)

    threads = [
        threading.Thread(target=write, args=(range(mine, 40, 3),)) for mine in range(3)
    ] + [threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(50):
        settle(range(40))
    assert not failures, failures[:3]
    assert losses and kept, (len(losses), len(kept))
    del words
    m.drop()
    check()
    print(len(losses), "lost", len(kept), "kept")
"""


@pytest.mark.parametrize("way", ["numpy", "words"])
def test_stores_are_lost_by_whole_pages(engine: str, file: PatternFile, way: str) -> None:
    run_python(STORING, file.path, engine, 0.4, way)


@pytest.mark.stress
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["numpy", "words"])
def test_stores_are_lost_by_whole_pages_for_long(engine: str, file: PatternFile, way: str) -> None:
    print(run_python(STORING, file.path, engine, 30, way, timeout=120).stdout)


def test_a_store_is_never_forgotten_before_its_page_is_dropped(file: PatternFile) -> None:
    """What is stored between two re-armings is still there, if nobody drops."""
    for engine in AVAILABLE:
        run_python(
            """
            from mapscratch.engine import dontneed
            dontneed._woken_by = "nothing: others on this machine may be short of memory"
            from support.prelude import *
            import time
            end = time.monotonic() + 0.15
            version = 0
            while time.monotonic() < end:  # some fifteen windows
                version += 1
                for page in range(0, 40, 5):
                    m.store(page * PAGESIZE, version)
                for page in range(0, 40, 5):
                    assert m.load(page * PAGESIZE) == version, (page, version)
            """,
            file.path,
            engine,
        )
