# SPDX-License-Identifier: Apache-2.0
"""Numbers and texts as a page shows them."""

from __future__ import annotations

TO = " \N{EN DASH} "
"""Between the ends of a range."""
_UNIT = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def printable(value: object) -> str:
    """A text with escapes for what isn't printable, which would be invisible or mislead.

    Such are a byte of a path that is no UTF-8, a control character, a mark that turns the direction
    of text.
    """
    return "".join(one if one.isprintable() or one == _UNIT else _escape(one) for one in str(value))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code > 0x7F:
        return character.encode("ascii", "backslashreplace").decode()
    return repr(character)[1:-1]


def duration(microseconds: float) -> str:
    """A time in µs, told in the unit that suits it; one below nothing is noise."""
    if microseconds < 0:
        return "not measurable"
    for unit, factor in (("s", 1e6), ("ms", 1e3), ("µs", 1.0)):
        if microseconds >= factor:
            return f"{_two(microseconds / factor)}{_UNIT}{unit}"
    return f"{_two(microseconds * 1e3)}{_UNIT}ns"


def _two(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


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
