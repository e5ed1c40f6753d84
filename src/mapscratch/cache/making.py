# SPDX-License-Identifier: Apache-2.0
"""How threads share a `mapscratch.Cache`: one at a time, and one that makes what all wait for.

A signal handler may raise (Ctrl-C) at the end of any call, so no lock is held by Python code: not
by a ``with`` (Python 3.14 may be interrupted between taking the lock and the body), nor by what is
built of that (`threading.Event`). What must not be left half done is one call of a native method;
what waits looks again from time to time whether there is still somebody to wait for.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

from mapscratch._native import Exclusive, forks
from mapscratch.cache.values import Value

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
AnyShared = TypeVar("AnyShared", bound="Shared")

_LOOK_SECONDS = 0.5  # between two looks of who waits whether somebody still makes it


class Shared:
    """What threads use one at a time, by methods that are `exclusive`."""

    def __init__(self) -> None:
        self._alone = Exclusive()


def exclusive(
    method: Callable[Concatenate[AnyShared, Parameters], Result],
) -> Callable[Concatenate[AnyShared, Parameters], Result]:
    """A method of something `Shared` that one thread at a time is in.

    Raises:
        RuntimeError: a signal handler or a finalizer calls it amid one such method.
    """

    @functools.wraps(method)
    def alone(
        self: AnyShared, /, *arguments: Parameters.args, **keywords: Parameters.kwargs
    ) -> Result:
        return self._alone(method, self, *arguments, **keywords)

    return alone


class Maker:
    """Lives in the frame that makes a value: when it is gone nobody makes that any more."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Waiter:
    """Lives in the frame that waits for a value: when it is gone its thread doesn't any more."""

    __slots__ = ("__weakref__", "making")

    def __init__(self, making: Making) -> None:
        self.making = making


class Making:
    """A value on its way, and what became of it.

    Attributes:
        thread: of its maker.
        is_over: whether it has been made, or hasn't and won't be.
        error: what it has raised.
        value: what it has made.
        is_superseded: whether the key was given something else meanwhile, or was dropped.
    """

    __slots__ = (
        "_forks",
        "_latch",
        "_maker",
        "error",
        "is_over",
        "is_superseded",
        "thread",
        "value",
    )

    def __init__(self, maker: Maker) -> None:
        self._maker = weakref.ref(maker)
        self.thread = maker.thread
        self._forks = forks()
        self._latch = threading.Lock()  # wakes who waits; `is_over` is what counts
        self._latch.acquire()
        self.is_over = False
        self.error: Exception | None = None
        self.value: Value | None = None
        self.is_superseded = False

    def goes_on(self) -> bool:
        """Whether somebody still makes it; threads don't come over fork."""
        return not self.is_over and self._maker() is not None and self._forks == forks()

    def end(self) -> None:
        """It is over: whoever waits goes on."""
        self.is_over = True
        with suppress(RuntimeError):  # it is open already
            self._latch.release()

    def wait(self) -> Value | None:
        """What another thread makes; None: it was interrupted, and nobody has made it.

        Raises:
            Exception: what the other thread's `make` raised.
        """
        while self.goes_on():
            if self._latch.acquire(timeout=_LOOK_SECONDS):
                self._latch.release()  # for the next one, who else looks a little later
        if self.error is not None:
            raise self.error
        return self.value


def fail(makings: Iterable[Making], error: Exception) -> None:
    """Whoever waits for these gets the error.

    A function of its own: a name for one of them in a frame that the error's traceback holds would
    keep that frame, and what is in use there, until the garbage collector comes.
    """
    for making in makings:
        making.error = error


class Makers:
    """Who makes what, and who waits for whom; used by one thread at a time."""

    def __init__(self) -> None:
        self._makings: dict[Hashable, Making] = {}
        self._waiters: dict[int, weakref.ref[Waiter]] = {}  # by thread

    def join(self, key: Hashable, maker: Maker) -> tuple[Making, bool]:
        """The making of a key's value, and whether it is by this maker."""
        making = self._makings.get(key)
        if making is not None and making.goes_on():
            return making, False
        making = self._makings[key] = Making(maker)
        return making, True

    def end(self, makings: dict[Hashable, Making]) -> None:
        """These are over: whoever waits goes on."""
        for key, making in makings.items():
            if self._makings.get(key) is making:
                del self._makings[key]
            making.end()

    def supersede(self, keys: Iterable[Hashable]) -> None:
        """What is being made for these keys is for those who wait already, and isn't kept."""
        for key in keys:
            making = self._makings.pop(key, None)
            if making is not None:
                making.is_superseded = True

    def keys(self) -> list[Hashable]:
        """The keys whose values are being made."""
        return list(self._makings)

    def begin_waiting(self, waiter: Waiter) -> None:
        """This thread is about to wait for a value.

        Raises:
            RuntimeError: it would wait for itself.
        """
        me = threading.get_ident()
        link: Waiter | None = waiter
        while link is not None and link.making.goes_on():
            thread = link.making.thread
            if thread == me:
                raise RuntimeError(
                    "make asks for a value that is only there when it has returned: its own, or "
                    "one that is made by somebody who waits for it"
                )
            link = self._waiter(thread)
        self._waiters[me] = weakref.ref(waiter)

    def end_waiting(self) -> None:
        """This thread waits no more."""
        self._waiters.pop(threading.get_ident(), None)

    def _waiter(self, thread: int) -> Waiter | None:
        reference = self._waiters.get(thread)
        return reference() if reference else None
