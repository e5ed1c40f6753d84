# SPDX-License-Identifier: Apache-2.0
"""`Pinned`: what `mapscratch.Cache.get` returns, and what it says to who takes it for the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from mapscratch._native import PinnedValue

Lent = TypeVar("Lent")

_ADVICE = (
    "this is what Cache.get and get_many return, and not the value. The value is inside: "
    "`with cache.get(...) as value:`. Or cache[key], which is the value, pinned while it lives"
)

_OF_VALUES = """
    len getitem setitem delitem iter contains array bytes int float complex index
    neg pos abs invert eq ne lt le gt ge add radd sub rsub mul rmul matmul rmatmul
    truediv rtruediv floordiv rfloordiv mod rmod pow rpow
    and rand or ror xor rxor lshift rlshift rshift rrshift
"""


class Pinned(PinnedValue, Generic[Lent]):
    """What `Cache.get` returns: a context manager around the value.

    The value stays pinned while it, or anything that was made of it without a copy, lives: at least
    to the end of the ``with`` block. Whoever takes it for the value itself gets a TypeError (an
    AttributeError, where that is what is missing) that says so.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        value: Lent | None

        def __new__(cls, value: Lent) -> Self:
            """For one ``with``."""

        def __enter__(self) -> Lent:
            """The value."""

    def __bool__(self) -> bool:
        """True: there is a value."""
        return True

    def __repr__(self) -> str:
        return f"<a value of a cache, for `with`: {self.value!r}>"

    if not TYPE_CHECKING:  # so that type checkers tell, too

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"{name}: {_ADVICE}")


def _refuse(self: Pinned[Any], *_: Any, **__: Any) -> NoReturn:
    raise TypeError(_ADVICE)


for _name in _OF_VALUES.split():
    setattr(Pinned, f"__{_name}__", _refuse)
