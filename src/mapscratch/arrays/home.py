# SPDX-License-Identifier: Apache-2.0
"""What an array is a view of: a mapping of a file, and all that makes it again elsewhere."""

from __future__ import annotations

import math
import os
import pickle
import time
import uuid
import warnings
import weakref
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from mapscratch.arrays.decoded import DecodedMap, Geometry, NoMemory
from mapscratch.engine import chosen_name
from mapscratch.errors import UserError, caller_level
from mapscratch.fixups.arrays import ArrayFixup, Recipe
from mapscratch.fixups.numbers import DType, SourceType

AnyArray: TypeAlias = np.ndarray[Any, DType]
Shape: TypeAlias = tuple[int, ...]
Changes: TypeAlias = Literal["refuse", "unnoticed"]

_LOOK_FOR_THRASHING_SECONDS = 0.2
NAMELESS = "a file without a name"
"""Where a path is expected; those begin with a slash."""

_IF_IT_GROWS = (
    ". It has grown: of a file that is only added to, as a recording, make it with "
    "changes='unnoticed', which gives up that other changes are noticed"
)


class SourceChanged(UserError, RuntimeError):
    """The file isn't any more what it was when the array was made."""


class ThrashingWarning(ResourceWarning):
    """An array's blocks are decoded again and again: it doesn't fit into memory."""


# The interpreter hides ResourceWarnings by default. This one is for whoever runs the program.
warnings.filterwarnings("default", category=ThrashingWarning, append=True)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """All that makes an array again in another process.

    The inode is no part of that: the file may be a copy there. It tells files apart that had the
    same path, size and time after each other.
    """

    path: str
    inode: int
    size: int
    modified_ns: int
    dtype: DType
    offset: int
    shape: Shape
    order: Literal["C", "F"]
    source: SourceType
    fixup: ArrayFixup | None
    block: int | None
    engine: str
    source_length: int
    changes: Changes

    @property
    def items(self) -> int:
        """Of the whole array."""
        return math.prod(self.shape)

    def is_still_of(self, status: os.stat_result) -> bool:
        """Whether a file with this status still has what the array shows, as far as that shows."""
        if self.changes == "unnoticed":
            return status.st_size >= self.offset + self.source_length
        return status.st_size == self.size and status.st_mtime_ns == self.modified_ns


class Home:
    """A mapping and what it is of; shared by an array and its views."""

    def __init__(self, spec: ArraySpec, mapping: DecodedMap | NoMemory, descriptor: int) -> None:
        self.spec = spec
        self.map = mapping
        # The mapping can't be closed while this is there.
        self._memory: AnyArray = (
            np.frombuffer(mapping, "u1") if isinstance(mapping, DecodedMap) else np.empty(0, "u1")
        )
        self.address = address_of(self._memory)
        self.end = self.address + len(self._memory)
        self._descriptor = os.dup(descriptor)
        self._identity = identity_of(os.fstat(self._descriptor))
        self._pickled: bytes | None = None
        self._token = uuid.uuid4().hex
        self._next_look = 0.0
        self._has_warned = False
        weakref.finalize(self, _close_quietly, self._descriptor, self._identity)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """All bytes, for NumPy: an array that is made of these has this object as its base."""
        return {**self._memory.__array_interface__, "data": (self.address, True)}

    def holds(self, array: AnyArray) -> bool:
        """It lies in this mapping."""
        if home_of(array) is self:
            return True
        # Where NumPy has put something of its own in between, as broadcast_to and as_strided do.
        return self.address <= address_of(array) < self.end

    def pickled(self) -> bytes:
        """The spec, pickled once.

        Raises:
            TypeError: the file has no name by which another process could open it.
        """
        if self.spec.path == NAMELESS:
            raise TypeError(
                "an array of a file without a name can't be given to another process, which could "
                "not open it: make the array of a path, or give np.array(a)"
            )
        if self._pickled is None:
            self._pickled = pickle.dumps(self.spec)
            homes.setdefault(self._pickled, self)
        return self._pickled

    def token(self) -> Any:
        """What this mapping shows, for Dask: the same for the same file and fixup, if it pickles.

        Else it is unique, as Dask does it with objects that it knows nothing of.
        """
        try:
            return self.pickled()
        except (TypeError, AttributeError, pickle.PicklingError):
            return self._token

    def check_source(self) -> None:
        """Looks whether the file is still the same.

        Raises:
            SourceChanged: it isn't.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError:
            return  # somebody has closed all descriptors
        if identity_of(now) != self._identity:
            return  # and another file has got this one
        if not self.spec.is_still_of(now):
            raise SourceChanged(
                f"{self.spec.path} was changed while an array of it is in use: some of its blocks "
                "would be decoded from the old bytes and some from the new. Make the array again"
                + (_IF_IT_GROWS if now.st_size > self.spec.size else "")
            )

    def look(self) -> None:
        """What is checked before each operation on the array; a microsecond."""
        self.check_source()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_FOR_THRASHING_SECONDS
            self._look_for_thrashing()

    def _look_for_thrashing(self) -> None:
        """Warns once, when each page was on average made twice because there was no room."""
        if isinstance(self.map, NoMemory):
            return
        native = self.map._range_counts()
        distinct = native["filled"] - native["rebuilt"]
        by_the_kernel = native["rebuilt"] - native["dropped"]
        if self._has_warned or not distinct or by_the_kernel < distinct:
            return
        self._has_warned = True
        page_kib = os.sysconf("SC_PAGESIZE") / 1024
        try:
            room = f"room for {self.map.counts().resident * page_kib / 1024:.4g} MiB of it"
        except OSError:  # a process may not see its own pages, and its arrays are read all the same
            room = "less room than that"
        warnings.warn(
            f"blocks of the array of {self.spec.path} are decoded again and again: "
            f"{native['rebuilt']} pages so far. The working set is "
            f"{distinct * page_kib / 1024:.4g} MiB, and there is {room}. Work in chunks that fit, "
            "decoding as you go, or keep what you derive in a mapscratch.Cache",
            ThrashingWarning,
            stacklevel=caller_level(),
        )


homes: weakref.WeakValueDictionary[bytes, Home] = weakref.WeakValueDictionary()
"""Of arrays that were pickled or unpickled here: slices of one array share its mapping."""


def home_of(array: AnyArray) -> Home | None:
    """What an array is a view of."""
    base: Any = array
    while base is not None and not isinstance(base, Home):
        base = getattr(base, "base", None)  # as_strided has objects of its own in between
    return base


def open_home(spec: ArraySpec, recipe: Recipe, descriptor: int) -> Home:
    """Maps what a spec says, from a descriptor of its file.

    Raises:
        ValueError: the number of items doesn't fit the fixup, or the block isn't one.
        EngineUnavailable: no engine can do it here.
        OSError: the file can't be mapped.
    """
    items, itemsize, source_itemsize = spec.items, spec.dtype.itemsize, spec.source.dtype.itemsize
    if spec.fixup:
        spec.fixup.check(items)
    else:  # bytes as they are
        items, itemsize, source_itemsize = items * itemsize, 1, 1
    geometry = Geometry.of(items, itemsize, source_itemsize, recipe.items)
    if not items:
        return Home(spec, _no_memory(spec, geometry), descriptor)
    mapping = DecodedMap(
        name=spec.path.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        fileno=descriptor,
        offset=spec.offset,
        source=spec.source,
        output=spec.dtype,
        geometry=geometry,
        recipe=recipe,
        block=spec.block,
        engine=spec.engine,
    )
    return Home(spec, mapping, descriptor)


def _no_memory(spec: ArraySpec, geometry: Geometry) -> NoMemory:
    """For an array without items.

    Raises:
        ValueError: with items it couldn't be made either.
    """
    chosen_name(spec.engine)
    geometry.block_pages(spec.block)
    return NoMemory()


def address_of(array: AnyArray) -> int:
    """Of the first item."""
    address: int = array.__array_interface__["data"][0]
    return address


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """What tells files apart."""
    return status.st_dev, status.st_ino


def _close_quietly(descriptor: int, identity: tuple[int, int]) -> None:
    """Unless somebody has closed it, and another file has got its number."""
    try:
        if identity_of(os.fstat(descriptor)) == identity:
            os.close(descriptor)
    except OSError:
        pass
