# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG in small pieces: every text escaped, every mark placed by a scale.

What a mark looks like is said by its class, and by the style sheet for light, dark and print: no
element has a colour or a style of its own, and the page's Content-Security-Policy would not let it.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FONT_SIZE = 13.0
"""Of the text in charts, in their units."""
TO = " \N{EN DASH} "
"""Between the ends of a range."""
_UNIT = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""
_CHARACTER = 0.56 * FONT_SIZE
"""So wide is a character of a sans-serif at most on average."""


def shown(text: object) -> str:
    """A text that can be put between tags and into attributes.

    What isn't printable (a byte of a path that is no UTF-8, a control character, a mark that turns
    the direction of text) is shown as an escape, because it would be invisible or mislead.
    """
    return html.escape(
        "".join(one if one.isprintable() or one == _UNIT else _escape(one) for one in str(text)),
        quote=True,
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return (
        character.encode("ascii", "backslashreplace").decode()
        if code > 0x7F
        else repr(character)[1:-1]
    )


def element(tag: str, *content: str, **attributes: object) -> str:
    """An element.

    Args:
        tag: its name.
        content: what is in it, made by this module: it isn't escaped again.
        attributes: escaped here; ``class_`` is class, other underscores are hyphens. None and
            False leave one out, True gives it no value.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-").replace("viewbox", "viewBox")
        words.append(name if value is True else f'{name}="{_value(value)}"')
    return f"<{' '.join(words)}>{''.join(content)}</{tag}>"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return shown(value)


def label(text: object, x: float, y: float, class_: str = "", *, anchor: str = "start") -> str:
    """Text in a chart; its base line is at y."""
    return element("text", shown(text), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str, **attributes: object) -> str:
    """A line through points."""
    steps = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return element("path", d=f"M{steps}", class_=class_, **attributes)


def marker(shape: str, x: float, y: float, class_: str, size: float = 4.5) -> str:
    """A mark that is told apart by its shape, not by its colour alone.

    Args:
        shape: ``circle``, ``square``, ``diamond``, ``triangle``, ``down`` or ``cross``.
        x: of its middle.
        y: of its middle.
        class_: what it looks like.
        size: half of its width.
    """
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "down": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        "cross": ((-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3),
                  (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3)),
    }[shape]  # fmt: skip
    steps = "L".join(f"{_value(x + dx * size)} {_value(y + dy * size)}" for dx, dy in corners)
    return element("path", d=f"M{steps}Z", class_=class_)


def text_width(text: str) -> float:
    """How wide a text in a chart may be, in the chart's units."""
    return len(text) * _CHARACTER


def shortened(text: str, width: float) -> str:
    """A text that fits; the end of a name that is too long says less than its beginning."""
    room = max(int(width / _CHARACTER), 2)
    return text if len(text) <= room else text[: room - 1] + "…"


def apart(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Moves labels apart, each as little as that takes.

    Args:
        wanted: where each would like to be.
        distance: between any two at least.
        low: none is before it.
        high: none is behind it, unless there are too many.

    Returns:
        where each is, in the order of `wanted`.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [min(max(wanted[index], low), high) for index in order]
    # Runs that touch are moved as one, about their middle.
    runs: list[list[float]] = []  # sum of (wanted - offset), members, first place
    for place in places:
        runs.append([place, 1.0, place])
        while len(runs) > 1 and runs[-2][2] + runs[-2][1] * distance > runs[-1][2]:
            last = runs.pop()
            before = runs[-1]
            before[0] += last[0] - last[1] * before[1] * distance
            before[1] += last[1]
            first = before[0] / before[1]
            before[2] = max(low, min(first, high - (before[1] - 1) * distance))
    settled = [run[2] + number * distance for run in runs for number in range(round(run[1]))]
    found = [0.0] * len(wanted)
    for index, place in zip(order, settled, strict=True):
        found[index] = place
    return found


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on an axis.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: a place.
        end: a place; below `start` for an axis upwards.
        logarithmic: equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one that lies outside is at the axis's end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, at most so many."""
        if self.logarithmic:
            return _log_ticks(self.low, self.high, most)
        return _linear_ticks(self.low, self.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
        if last - first < most:
            return [index * step for index in range(first, last + 1)]
    return [low, high]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            factor * 10.0**decade
            for decade, factor in itertools.product(decades, factors)
            if low <= factor * 10.0**decade <= high
        ]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def round_up(value: float) -> float:
    """The next number that looks well at the end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        factor * power
        for factor in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
        if value <= factor * power * (1 + 1e-9)
    )


def count(value: float) -> str:
    """A whole number, with separators."""
    return f"{value:,.0f}"


def counted(number: float, one: str, many: str = "") -> str:
    """So many of something."""
    text = count(number)
    return f"{text} {one if text == '1' else many or one + 's'}"


def digits(value: float) -> str:
    """A number with two or three digits that mean something."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def microseconds(value: float) -> str:
    """A time in µs, told in the unit that suits it; one below nothing is noise."""
    if value < 0:
        return "not measurable"
    if value >= 1e6:
        return f"{digits(value / 1e6)}{_UNIT}s"
    if value >= 1e3:
        return f"{_two(value / 1e3)}{_UNIT}ms"
    return f"{_two(value)}{_UNIT}µs" if value >= 1 else f"{_two(value * 1e3)}{_UNIT}ns"


def nanoseconds(value: float) -> str:
    """A time in ns, told in the unit that suits it."""
    return microseconds(value / 1e3)


def _two(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def mebibytes(size: float) -> str:
    """An amount of memory, with as many digits as the other commands print."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= 10 * factor:
            return f"{size / factor:,.0f}{_UNIT}{unit}"
        if size >= factor:
            return f"{size / factor:.1f}{_UNIT}{unit}"
    return f"{size / 1024:.0f}{_UNIT}KiB" if size else "0"


def percent(share: float) -> str:
    """A share of 0 to 1; 0 and 100 % mean none and all."""
    if 0 < share < 0.001:
        return f"under 0.1{_UNIT}%"
    if 0.999 < share < 1:
        return f"over 99.9{_UNIT}%"
    if 0 < share < 0.1:
        return f"{100 * share:.1f}{_UNIT}%"
    if 0.99 < share < 1:
        return f"{100 * share:.1f}{_UNIT}%"
    return f"{100 * share:.0f}{_UNIT}%"
