# SPDX-License-Identifier: Apache-2.0
"""Numbers and texts as a page shows them."""

from __future__ import annotations

from mapscratch.lab.rig.results import Spread

_UNIT = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def printable(value: object) -> str:
    """A text with escapes for what isn't printable, which would be invisible or mislead.

    Such are a byte of a path that is no UTF-8, a control character, a mark that turns the direction
    of text.
    """
    return "".join(one if one.isprintable() or one == _UNIT else _escape(one) for one in str(value))


def _escape(character: str) -> str:
    # surrogateescape has made of a byte that is no UTF-8 half of a pair.
    return character.encode("unicode_escape").decode().replace("\\udc", "\\x")


def duration(microseconds: float) -> str:
    """A time in µs, told in the unit that suits it; one below nothing is noise."""
    if microseconds < 0:
        return "not measurable"
    for unit, factor in (("s", 1e6), ("ms", 1e3), ("µs", 1.0), ("ns", 1e-3)):
        if microseconds >= factor or unit == "ns":
            break
    value = microseconds / factor
    return f"{value:.0f}{_UNIT}{unit}" if value >= 10 else f"{value:.1f}{_UNIT}{unit}"


def digits(value: float) -> str:
    """A number with two or three digits that mean something."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def percent(share: float) -> str:
    """A share of 0 to 1; 0 and 100 % mean none and all."""
    if 0 < share < 0.001:
        return f"under 0.1{_UNIT}%"
    if 0.999 < share < 1:
        return f"over 99.9{_UNIT}%"
    exact = 0 < share < 0.1 or 0.99 < share < 1
    return f"{100 * share:.{1 if exact else 0}f}{_UNIT}%"


def ranged(low: str, high: str) -> str:
    """Two numbers or times with a dash between them; one where both are the same."""
    dash = " \N{EN DASH} " if _UNIT in low + high else "\N{EN DASH}"
    return low if low == high else f"{low}{dash}{high}"


def spread(measured: Spread, factor: float = 1.0) -> str:
    """The least and the most of a time in µs, or of what is µs by a factor."""
    return ranged(duration(measured.minimum * factor), duration(measured.maximum * factor))
