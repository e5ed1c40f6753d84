# SPDX-License-Identifier: Apache-2.0
"""What fixups and pages cost on this machine: the figures of ``mapscratch cost --measure``.

Times are ns, but for a page's round trip, which is µs, as in `mapscratch.lab.rig.results`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import Meta

from mapscratch.lab.rig.results import Spread

Per: TypeAlias = Literal["fixup", "page", "call"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Spread):
    """One figure: ns for each of what it counts, over the rounds."""

    name: str  # unique
    title: str
    per: Per
    rounds: int
    note: str  # how it was measured, and what is or isn't in it
    unit: str = "ns"


@dataclass(frozen=True, slots=True)
class Fit:
    """A plane through the points of one round, by least squares."""

    page_us: float  # a page without any fixup
    fixup_ns: float  # more, for each fixup on it
    clean_page_us: float  # more, for each mapped page without fixups that lies between the others
    mapping_us: float  # more, for each mapping, however large

    def round_trip_us(self, fixups: float, clean_pages: float = 0, mappings: float = 0) -> float:
        """What the plane says; of a library with a hundred such pages, each has 0.01 mappings."""
        beside = self.clean_page_us * clean_pages + self.mapping_us * mappings
        return self.page_us + self.fixup_ns * fixups / 1e3 + beside


class Point(NamedTuple):
    """A page's round trip on one generated library, in µs, as `rounds.run_round` measures it."""

    fixups: float  # on each page that has any
    median: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Line:
    """A page's round trip (to leave memory and come back as it was) by its number of fixups."""

    what: str  # ``swap.file`` and so on, to which the page goes, or the engine that drops it
    fixups: str  # what they are made of: ``known values``; ``none``: they come back with the page
    fits: Annotated[tuple[Fit, ...], Meta(min_length=1)]  # one for each round
    points: tuple[Point, ...]  # what the fits go through
    layouts: tuple[tuple[float, float], ...]  # of each: clean pages and mappings a page with fixups
    cpu_us: Spread | None = None  # of the processes alone, for a page: the mean of all points

    def __post_init__(self) -> None:
        if len(self.points) != len(self.layouts):
            raise ValueError("not as many layouts as points")

    @property
    def mean_fixups(self) -> float:
        """Fixups a page where it was measured."""
        return statistics.fmean(one.fixups for one in self.points) if self.points else 0.0

    def fitted(self, figure: str) -> Spread:
        """A figure of `Fit`, over the rounds."""
        values = [getattr(fit, figure) for fit in self.fits]
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Check:
    """The same thing measured by somebody else."""

    what: str
    ours: float
    theirs: float
    ratio: float  # of our figure to theirs
    agrees: bool
    note: str  # who they are, the unit, and the tolerance within which the ratio agrees


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that was measured, in rounds in which all measurements took turns."""

    measurements: tuple[Measurement, ...]
    lines: tuple[Line, ...]  # one for each swap and each engine that runs here
    checks: tuple[Check, ...]
    left_out: dict[str, str]  # what isn't there, a measurement or ``line.`` and a line's, and why
    notes: tuple[str, ...]
    rounds: int
    seconds: float

    def measurement(self, name: str) -> Measurement | None:
        """The measurement of that name; None if it was left out."""
        return next((one for one in self.measurements if one.name == name), None)

    def line(self, what: str) -> Line | None:
        """The line of that swap or engine; None if it was left out."""
        return next((one for one in self.lines if one.what == what), None)
