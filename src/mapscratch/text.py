# SPDX-License-Identifier: Apache-2.0
"""Numbers and names in words: each is said in one way everywhere.

Every command needs some of it, those without an extra, too: nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SWAPS = {"file": "swapfile", "partition": "swap partition"}


def counted(number: int, one: str, several: str = "") -> str:
    """A number of things: ``1 page``, ``1,200 pages``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def listed(parts: Iterable[str]) -> str:
    """Parts of a sentence: ``a``, ``a and b``, ``a, b and c``."""
    items = list(parts)
    return " and ".join(", ".join(group) for group in (items[:-1], items[-1:]) if group)


def whole(value: float) -> str:
    """``1,235``: without decimals."""
    return f"{value:,.0f}"


def decimal(value: float) -> str:
    """``1,235``, ``12.3``, ``1.23``: with three digits that mean something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def microseconds(value: float) -> str:
    """A time in µs: ``1,235 µs``, ``12 µs``, ``1.2 µs``, ``0.12 µs``."""
    if value >= 10:
        return f"{value:,.0f} µs"
    return f"{value:.1f} µs" if value >= 1 else f"{value:.2f} µs"


def nanoseconds(value: float) -> str:
    """A time in ns: ``164 ns``, ``3.6 ns``."""
    return f"{value:,.0f} ns" if value >= 20 else f"{value:.1f} ns"


def size(amount: float) -> str:
    """Bytes, in the largest unit of which there is one: ``512 B``, ``4 KiB``, ``67.7 MiB``."""
    at = 0
    while amount >= 1023.95 and at < len(_SIZES) - 1:  # What is rounded to 1024 is of the next.
        amount /= 1024
        at += 1
    text = f"{amount:,.0f}" if at < 2 or amount >= 100 else f"{amount:.1f}"
    return f"{text} {_SIZES[at]}"


def mebibytes(amount: float) -> str:
    """Bytes in MiB, where amounts are to be compared: ``1,234 MiB``."""
    return f"{amount / (1 << 20):,.0f} MiB"


def swap_name(kind: str) -> str:
    """A kind of swap (``file``, ``swap.file``, ``zram``, ...): ``swapfile``, ``zram``."""
    kind = kind.removeprefix("swap.")
    return _SWAPS.get(kind, kind)
