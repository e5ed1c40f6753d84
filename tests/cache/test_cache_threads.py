# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache` in threads, over fork, in signals: made once, never a wrong byte, no hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.interpreter import run_python
from support.patience import patient
from support.purgeable import reclaim_all
from support.waiting import eventually

from mapscratch import Cache
from mapscratch import cache as module

pytestmark = pytest.mark.usefixtures("purgeable_pages")


def in_threads(count: int, function: Callable[[int], None]) -> None:
    """Runs it in so many threads, and raises what one of them raises."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient(60))
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_one_makes_it_and_all_get_it() -> None:
    cache = Cache()
    calls = []

    def make() -> Any:
        calls.append(threading.get_ident())
        time.sleep(0.1)
        return np.arange(100_000)

    def use(number: int) -> None:
        with cache.get("key", make) as value:
            assert (value == np.arange(100_000)).all()

    in_threads(12, use)
    assert len(calls) == 1
    stats = cache.stats()
    assert (stats.made, stats.hits) == (1, 11)
    assert stats.bytes_in_use == 0


def test_other_keys_are_made_meanwhile() -> None:
    cache = Cache()
    together = threading.Barrier(4, timeout=patient(30))

    def use(number: int) -> None:
        def make() -> bytes:
            together.wait()
            return bytes([number])

        with cache.get(number, make) as value:
            assert bytes(value) == bytes([number])

    in_threads(4, use)


def test_bytes_that_one_has_let_go_are_there_for_the_others() -> None:
    cache = Cache()

    def use(number: int) -> None:
        for key in range(200):
            with cache.get(key, lambda key=key: time.sleep(1e-4) or bytes([key]) * 3000) as value:
                assert value[2999] == key

    in_threads(6, use)


def test_what_make_raises_reaches_all_who_wait() -> None:
    cache = Cache()
    failed = []
    calls = []

    def make() -> bytes:
        calls.append(1)
        time.sleep(0.1)
        raise ZeroDivisionError("no such tile")

    def use(number: int) -> None:
        with pytest.raises(ZeroDivisionError, match="no such tile"):
            cache.get("key", make)
        failed.append(number)

    in_threads(8, use)
    assert len(failed) == 8
    assert len(calls) == 1
    assert "key" not in cache
    assert bytes(cache.get("key", lambda: b"now").value) == b"now"


def test_who_is_interrupted_leaves_it_to_the_others() -> None:
    cache = Cache()
    is_made = threading.Event()

    def interrupted() -> bytes:
        is_made.set()
        time.sleep(0.1)
        raise KeyboardInterrupt

    def use(number: int) -> None:
        if number == 0:
            with pytest.raises(KeyboardInterrupt):
                cache.get("key", interrupted)
        else:
            assert is_made.wait(patient(30))
            assert bytes(cache.get("key", lambda: b"made").value) == b"made"

    in_threads(4, use)


def test_a_make_that_asks_for_itself() -> None:
    cache = Cache()
    with pytest.raises(RuntimeError, match="when it has returned"):
        cache.get("key", lambda: bytes(cache.get("key", lambda: b"").value))

    @cache.memoize
    def factorial(n: int) -> Any:
        return np.array([n * factorial(n - 1)[0] if n else 1])

    assert factorial(10)[0] == 3_628_800


def test_two_that_wait_for_each_other() -> None:
    cache = Cache()
    together = threading.Barrier(2, timeout=patient(30))
    ended = []

    def use(number: int) -> None:
        def make() -> bytes:
            together.wait()
            return bytes(cache.get(1 - number, lambda: b"other").value)

        try:
            cache.get(number, make)
        except RuntimeError:
            ended.append(number)

    in_threads(2, use)
    assert ended  # one is told; the other gets its error, or the value after all


def test_many_at_once_of_which_others_make_some() -> None:
    cache = Cache()

    def use(number: int) -> None:
        random = np.random.default_rng(number)
        for _ in range(60):
            keys = [int(key) for key in random.integers(0, 40, 8)]
            make = lambda keys: [np.full(3000, key) for key in keys]  # noqa: E731
            with cache.get_many(keys, make) as values:
                assert [value[1234] for value in values] == keys
            if number == 0:
                reclaim_all(cache)

    in_threads(5, use)


@pytest.mark.parametrize("limit", [None, 300 * 4096])
def test_reclaimed_and_dropped_all_the_time(limit: int | None) -> None:
    """Entries of all sizes, held for a while; the kernel takes what it may without pause."""
    cache = Cache(max_bytes=limit)
    stop = threading.Event()
    sizes = [10, 500, 2000, 5000, 4096, 60_000, 300_000]

    def take() -> None:
        while not stop.is_set():
            reclaim_all(cache)
            time.sleep(1e-4)

    def use(number: int) -> None:
        random = np.random.default_rng(number)
        kept: list[tuple[int, Any]] = []
        until = time.monotonic() + 2
        while time.monotonic() < until:
            key = int(random.integers(0, 120))
            size = sizes[key % len(sizes)]
            with cache.get(key, lambda key=key, size=size: np.full(size, key, "u1")) as value:
                assert value.shape == (size,)
                assert (value == key).all()
                if random.integers(8) == 0:
                    kept.append((key, value[size // 3 :]))
            if len(kept) > 5:
                key, part = kept.pop(0)
                assert (part == key).all()
            if random.integers(200) == 0:
                cache.drop(key)
            if random.integers(2000) == 0:
                cache.drop()

    reclaimer = threading.Thread(target=take)
    reclaimer.start()
    try:
        in_threads(4, use)
    finally:
        stop.set()
        reclaimer.join()
    stats = cache.stats()
    assert stats.hits
    assert stats.lost
    assert stats.bytes_in_use == 0
    cache.drop()
    assert cache.stats().bytes_held == 0


def test_over_fork() -> None:
    cache = Cache()
    for key in range(50):
        cache.put(key, np.full(20_000, key))
    kept = cache.get(7).value
    cache._table.release_recent()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for key in range(0, 50, 2):
                with cache.get(key) as value:
                    assert (value == key).all()
            assert (kept == 7).all()
            del value
            reclaim_all(cache)
            for key in range(50):
                with cache.get(key, lambda key=key: np.full(20_000, key)) as value:
                    assert (value == key).all()
            status = 0
        finally:
            os._exit(status)
    for key in range(49, -1, -1):
        with cache.get(key) as value:
            assert (value == key).all()
    del value
    reclaim_all(cache)
    assert os.waitpid(pid, 0)[1] == 0
    assert (kept == 7).all()


def test_forked_while_others_use_and_make() -> None:
    run_python(
        """
        import os, sys, threading, time
        import numpy as np
        from mapscratch import Cache
        from support.purgeable import reclaim_all
        sys.setswitchinterval(1e-6)  # so that others are amid something
        cache = Cache()
        stop = threading.Event()
        def use(number):
            random = np.random.default_rng(number)
            while not stop.is_set():
                key = int(random.integers(0, 60))
                with cache.get(key, lambda: time.sleep(1e-3) or np.full(9000, key, "u1")) as value:
                    assert (value == key).all()
        threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                pid = os.fork()
                if not pid:
                    status = 1
                    try:
                        for key in range(60):
                            with cache.get(key, lambda: np.full(9000, key, "u1")) as value:
                                assert (value == key).all()
                        status = 0
                    finally:
                        os._exit(status)
                assert os.waitpid(pid, 0)[1] == 0
                reclaim_all(cache)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        """
    )


def test_a_signal_handler_that_uses_the_cache_is_told() -> None:
    """It may interrupt the cache itself: then an error, and no deadlock."""
    run_python(
        """
        import signal, time
        import numpy as np
        from mapscratch import Cache
        cache = Cache()
        told, fine = [], []
        def handle(*_):
            try:
                with cache.get("other", lambda: b"x" * 5000) as value:
                    fine.append(value[0])
            except RuntimeError as error:
                told.append(error)
            again()
        def again():
            # Once: a handler that interrupts itself would ask for what it is just making.
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        signal.signal(signal.SIGALRM, handle)
        again()
        until = time.monotonic() + 1.5
        key = 0
        while time.monotonic() < until:
            key += 1
            with cache.get(key % 50, lambda: np.full(5000, key % 50)) as value:
                assert (value == key % 50).all()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert fine
        assert all("signal handler" in str(error) for error in told), told
        """
    )


def test_an_array_may_end_while_the_cache_is_in_use() -> None:
    """The garbage collector ends cycles at any moment, also amid the cache's own work."""
    cache = Cache()

    class Cycle:
        def __init__(self, value: Any) -> None:
            self.value = value
            self.itself = self

    for key in range(3000):
        Cycle(cache.get(key % 97, lambda key=key: np.full(600, key % 97)).value)
    assert eventually(lambda: cache.stats().bytes_in_use < 3000 * 4096)
    for key in range(97):
        with cache.get(key) as value:
            assert (value == key).all()


def test_interrupted_by_ctrl_c() -> None:
    cache = Cache()
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        cache.get("key", lambda: time.sleep(30) or b"")
    assert bytes(cache.get("key", lambda: b"now").value) == b"now"


def test_what_an_interrupt_may_leave() -> None:
    """An entry that was retired is none; nor is one that was in a table put into another."""
    cache = Cache()
    cache.put("key", b"a" * 10_000)
    entry = cache._table.entry("key")
    assert entry
    cache.drop()
    with pytest.raises(ValueError, match="was, in a table"):
        cache._table.insert("key", entry)
    cache.put("other", b"b" * 10_000)
    entry.pages[0].retire()
    assert bytes(cache.get("key", lambda: b"c" * 10_000).value) == b"c" * 10_000
    assert bytes(cache.get("other").value) == b"b" * 10_000


def test_interrupted_at_any_moment() -> None:
    """Whatever is left undone: no wrong byte, and nobody waits for somebody who has gone."""
    run_python(
        """
        import signal, sys, threading, time
        import numpy as np
        from mapscratch import Cache
        from support.patience import patient
        from support.purgeable import reclaim_all
        cache = Cache()
        class Interrupt(BaseException):
            pass
        def interrupt(*_):
            raise Interrupt
        sys.unraisablehook = lambda unraisable: None  # one that interrupts the garbage collector
        sizes = [10, 900, 5000, 100_000]
        def use(key):
            size = sizes[key % 4]
            with cache.get(key, lambda: np.full(size, key, "u1")) as value:
                assert value.shape == (size,)
                assert (value == key).all()
            with cache.get_many([key, key + 1], lambda keys: [
                np.full(sizes[key % 4], key, "u1") for key in keys
            ]) as values:
                assert all((value == key + i).all() for i, value in enumerate(values))
        stop = threading.Event()
        def others(number):
            random = np.random.default_rng(number)
            while not stop.is_set():
                use(int(random.integers(0, 200)))
                if number == 0:
                    reclaim_all(cache)
        threads = [threading.Thread(target=others, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        random = np.random.default_rng(7)
        interrupts = 0
        signal.signal(signal.SIGALRM, interrupt)
        until = time.monotonic() + 4
        def turn():
            signal.setitimer(signal.ITIMER_REAL, float(random.uniform(1e-5, 2e-3)))
            turn_ends = time.monotonic() + 0.05  # if the garbage collector was interrupted
            while time.monotonic() < turn_ends:
                use(int(random.integers(0, 200)))
            signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            while time.monotonic() < until or interrupts <= 100:
                try:
                    turn()
                except Interrupt:
                    interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop.set()
        for thread in threads:
            thread.join(patient(20))
            assert not thread.is_alive(), "it waits for a lock"
        for key in range(200):
            use(key)
        cache.drop()
        # A run that was just cut, and nothing stored in it, may be lost; never one that is leased.
        assert cache.stats().bytes_held < 8 << 20
        """,
        timeout=60,
    )


def test_interrupted_at_the_end_of_each_call() -> None:
    """A signal handler may raise after any call, also after the one that takes a lock."""
    run_python(
        """
        import sys, threading
        from mapscratch import Cache
        from support.patience import patient
        class Interrupt(BaseException):
            pass
        sys.unraisablehook = lambda unraisable: None
        def use(cache):
            with cache.get("small", lambda: bytes(100)) as value:
                assert value == bytes(100)
            keys = ["small", "large"]
            with cache.get_many(keys, lambda keys: [bytes(9000) for _ in keys]) as values:
                assert len(values[1]) == 9000
            cache.put("large", bytes(9000))
            cache.stats()
            cache.drop()
            Cache()
        def waits(cache):
            other = threading.Thread(target=lambda: use(cache), daemon=True)
            other.start()
            other.join(patient(30))
            return other.is_alive()
        class After:
            def __init__(self, calls):
                self.left = calls
            def __call__(self, frame, event, argument):
                self.left -= event in ("call", "c_return")
                if not self.left:
                    sys.setprofile(None)
                    raise Interrupt
        cache, calls = Cache(), 0
        while True:
            calls += 1
            after = After(calls)
            try:
                sys.setprofile(after)
                use(cache)
                sys.setprofile(None)
            except Interrupt:
                pass
            assert not waits(cache), f"interrupted after call {calls}"
            if after.left > 0:
                break
        assert calls > 200, calls
        """
    )


@pytest.mark.parametrize("give_up", ["put", "drop", "drop all", "clear"])
def test_what_is_being_made_when_its_key_is_dropped_is_not_kept(give_up: str) -> None:
    cache = Cache()
    source = [b"old"]
    has_begun, may_end = threading.Event(), threading.Event()

    @cache.memoize
    def load() -> bytes:
        value = source[0]
        has_begun.set()
        assert value == b"new" or may_end.wait(patient(30))
        return value

    def ask() -> bytes:
        if give_up == "clear":
            return bytes(load())
        return bytes(cache.get("key", load.__wrapped__).value)

    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    assert has_begun.wait(patient(30))
    source[0] = b"new"
    if give_up == "put":
        cache.put("key", b"new")
    elif give_up == "clear":
        load.cache_clear()
    else:
        cache.drop(*(["key"] if give_up == "drop" else []))
    assert ask() == b"new"
    may_end.set()
    thread.join()
    assert answers == [b"old"]  # who asked before gets what was there then
    assert ask() == b"new"


def test_two_caches_whose_keys_own_values_of_the_other() -> None:
    """Leases end amid the other cache's work: nobody waits for a lock then."""
    caches = [Cache(max_bytes=400 << 10), Cache(max_bytes=400 << 10)]

    class Owner:
        tile: Any

    def use(number: int) -> None:
        mine, other = caches[number % 2], caches[1 - number % 2]
        until = time.monotonic() + 2
        turn = 0
        while time.monotonic() < until:
            turn += 1
            owner = Owner()
            owner.tile = other.get((number, turn % 50), lambda: bytes(3000)).value
            mine.put(owner, bytes(3000))

    in_threads(4, use)


def test_an_error_that_is_kept_keeps_no_key_from_others() -> None:
    class Bad:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            raise OSError("no such key")

    cache = Cache()
    with pytest.raises(OSError, match="no such key") as kept:
        cache.get_many(["b", "a", Bad()], lambda keys: [b"" for _ in keys])
    assert bytes(cache.get("b", lambda: b"made").value) == b"made"
    in_threads(2, lambda number: cache.get("a", lambda: b"made"))
    assert kept.value


def test_the_interpreter_ends_while_a_thread_uses_it() -> None:
    run_python(
        """
        import threading, time
        from mapscratch import Cache
        cache = Cache()
        for key in range(2000):
            cache.put(key, bytes(5000))
        shown = cache.get(7).value
        def use():
            while True:
                cache.stats()
        threading.Thread(target=use, daemon=True).start()
        time.sleep(0.3)
        """,
        timeout=20,
    )


def test_forked_while_caches_are_made() -> None:
    run_python(
        """
        import os, sys, threading
        from mapscratch import Cache
        sys.setswitchinterval(1e-5)
        shared = Cache()
        shared.put(5, bytes(5000))
        stop = threading.Event()
        def make():
            while not stop.is_set():
                Cache().put(1, bytes(5000))
        def use():
            while not stop.is_set():
                with shared.get(5, lambda: bytes(5000)):
                    pass
        threads = [threading.Thread(target=target) for target in (make, make, use)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(40):
                pid = os.fork()
                if not pid:
                    with shared.get(5, lambda: bytes(5000)) as value:
                        os._exit(0 if len(value) == 5000 else 1)
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        """,
        timeout=40,
    )


def test_a_hit_while_its_place_is_about_to_be_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits take no lock: they come at any moment, here just before an entry is overwritten."""
    cache = Cache()
    for key in range(8):
        cache.put(key, np.full(60_000, key, "u1"))
    cache._short_until = 1000  # memory is
    kept: dict[Any, Any] = {}
    really = module.PurgeableEntry

    def entry(*arguments: Any) -> Any:
        kept.update((key, cache[key]) for key in cache._table.keys_by_use())
        return really(*arguments)

    monkeypatch.setattr(module, "PurgeableEntry", entry)
    cache.put("new", np.full(60_000, 99, "u1"))
    monkeypatch.undo()
    assert len(kept) == 8
    for key, value in kept.items():
        assert (value == key).all()
    assert (cache["new"] == 99).all()


def test_hits_while_memory_is_short() -> None:
    """What is found stays as it was while others are put in the place of what nobody uses."""
    cache = Cache()
    stop = threading.Event()

    def use(number: int) -> None:
        random = np.random.default_rng(number)
        try:
            for _ in range(3000 if number else 6000):
                key = int(random.integers(0, 40))
                if number:
                    pinned = cache.get(key, None)
                    if pinned:
                        with pinned as value:
                            first = value[0]
                            assert first == key
                            assert (value == key).all()
                        del value
                else:
                    cache._short_until = cache._made + 10
                    cache.put(key, np.full(9000, key, "u1"))
                if stop.is_set():
                    return
        finally:
            stop.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(4, use)
    finally:
        sys.setswitchinterval(interval)
