# SPDX-License-Identifier: Apache-2.0
"""How threads share a `mapscratch.Cache`: one at a time, and one that makes what all wait for.

A signal handler may raise (Ctrl-C) between any two instructions of Python. So what must not be left
half done is a ``with`` on a lock of the standard library's, or one call of a native method.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

from mapscratch.cache_values import Value

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
AnyShared = TypeVar("AnyShared", bound="Shared")

_LOOK_SECONDS = 0.5  # between two looks of who waits whether somebody still makes it


class Shared:
    """What threads use one at a time, by methods that are `exclusive`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # so that who has it and comes again isn't stuck for good
        self._is_held = False


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
        with self._lock:
            if self._is_held:
                raise RuntimeError(
                    "a signal handler, or a finalizer, uses a cache that the code it interrupted "
                    "was just using"
                )
            try:
                self._is_held = True
                return method(self, *arguments, **keywords)
            finally:
                self._is_held = False

    return alone


class Maker:
    """Lives in the frame that makes a value: when it is gone nobody makes that any more."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Making:
    """A value on its way, and what became of it.

    Attributes:
        thread: of its maker.
        done: whether that is over.
        error: what it has raised.
        value: what it has made.
        is_superseded: whether the key was given something else meanwhile, or was dropped.
    """

    __slots__ = ("_maker", "done", "error", "is_superseded", "thread", "value")

    def __init__(self, maker: Maker) -> None:
        self._maker = weakref.ref(maker)
        self.thread = maker.thread
        self.done = threading.Event()
        self.error: Exception | None = None
        self.value: Value | None = None
        self.is_superseded = False

    def goes_on(self) -> bool:
        """Whether somebody still makes it."""
        return not self.done.is_set() and self._maker() is not None

    def wait(self) -> Value | None:
        """What another thread makes; None: it was interrupted, and nobody has made it.

        Raises:
            Exception: what the other thread's `make` raised.
        """
        while not self.done.wait(_LOOK_SECONDS) and self.goes_on():
            pass
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
        self._waits_for: dict[int, Making] = {}  # by thread

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
            making.done.set()

    def supersede(self, keys: Iterable[Hashable]) -> None:
        """What is being made for these keys is for those who wait already, and isn't kept."""
        for key in keys:
            making = self._makings.pop(key, None)
            if making is not None:
                making.is_superseded = True

    def keys(self) -> list[Hashable]:
        """The keys whose values are being made."""
        return list(self._makings)

    def begin_waiting(self, making: Making) -> None:
        """This thread is about to wait for a value.

        Raises:
            RuntimeError: it would wait for itself.
        """
        me = threading.get_ident()
        link: Making | None = making
        while link is not None and link.goes_on():
            if link.thread == me:
                raise RuntimeError(
                    "make asks for a value that is only there when it has returned: its own, or "
                    "one that is made by somebody who waits for it"
                )
            link = self._waits_for.get(link.thread)
        self._waits_for[me] = making

    def end_waiting(self) -> None:
        """This thread waits no more."""
        self._waits_for.pop(threading.get_ident(), None)

    def forget_all(self) -> None:
        """After fork, in the child: there are no other threads."""
        for making in self._makings.values():
            making.done = threading.Event()  # that one's lock may be held by a thread of the parent
        self._makings.clear()
        self._waits_for.clear()
