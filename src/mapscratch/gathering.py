# SPDX-License-Identifier: Apache-2.0
"""Rows picked by an index array, whose missing pages are decoded together.

A page fault is dear because the thread that needs the page goes to sleep and is woken. Where all
rows are known before the first is read, the pager can make their pages in one go.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from mmap import PAGESIZE
from typing import Any

import numpy as np

from mapscratch.decoded import DecodedMap
from mapscratch.fixups.numbers import DType

AnyArray = np.ndarray[Any, DType]

_PAGES_AT_ONCE = 256  # other readers' page faults wait so long
_WORTH_IT = 8  # missing pages
_DENSE = 16  # pages a row, on average, up to which one look at the whole span is cheaper
_LONGEST_ROW = 64 * 1024  # bytes; longer ones are read in sequence, for which page-in is made


def gather(array: AnyArray, index: Any, mapping: DecodedMap) -> AnyArray | None:
    """``array[index]`` if that are rows of which pages are missing; None: index it as usual.

    Args:
        array: a plain view of the mapping.
        index: anything that an array can be indexed by.
        mapping: where it lies.
    """
    rows = _rows(array, index)
    if rows is None or not mapping.can_fetch:
        return None
    start = array.__array_interface__["data"][0] - mapping._address + rows * array.strides[0]
    wanted = _Pages(mapping, start // PAGESIZE, (start + array[:1].nbytes - 1) // PAGESIZE)
    missing = wanted.missing()
    if np.count_nonzero(missing) < _WORTH_IT:
        return None
    picked = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part in _parts(missing):
        wanted.fetch(part)
        array.take(rows[part], axis=0, out=picked[part], mode="clip")
    return picked.reshape(np.shape(index) + array.shape[1:])


class _Pages:
    """The pages of some rows, each from its `first` to its `last`, and which are in memory."""

    def __init__(self, mapping: DecodedMap, first: AnyArray, last: AnyArray) -> None:
        lowest, highest = int(first.min()), int(last.max())
        self._mapping = mapping
        self._pages: AnyArray
        if highest - lowest < _DENSE * len(first):
            self._pages = np.arange(lowest, highest + 1)
            self._first, self._last = first - lowest, last - lowest
        else:
            width = int((last - first).max()) + 1
            every = np.minimum(first[:, None] + np.arange(width), last[:, None])
            self._pages = np.unique(every)
            self._first = np.searchsorted(self._pages, first)
            self._last = self._first + (last - first)
        residence = np.frombuffer(mapping.residence(self._pages.data), np.uint8)
        self._is_missing = (residence & 1) == 0

    def missing(self) -> AnyArray:
        """Of each row, how many of its pages are missing."""
        before = np.concatenate([[0], np.cumsum(self._is_missing)])
        missing: AnyArray = before[self._last + 1] - before[self._first]
        return missing

    def fetch(self, part: slice) -> None:
        """Has the missing pages of some rows made, each page once."""
        first, last = self._first[part], self._last[part]
        width = int((last - first).max()) + 1
        wanted = np.unique(np.minimum(first[:, None] + np.arange(width), last[:, None]))
        wanted = wanted[self._is_missing[wanted]]
        self._is_missing[wanted] = False
        if len(wanted):
            self._mapping.fetch(self._pages[wanted].data)


def _rows(array: AnyArray, index: Any) -> AnyArray | None:
    """The rows, none negative; None if it is no such index."""
    if not isinstance(index, list | np.ndarray) or not array.ndim or not array.size:
        return None
    rows = np.asarray(index)
    is_fit = rows.dtype.kind in "iu" and rows.size >= _WORTH_IT and array.strides[0] > 0
    row = array[:1]  # not array[0], which may be read to be made a scalar
    if not is_fit or not row.flags.c_contiguous or row.nbytes > _LONGEST_ROW:
        return None
    rows = rows.ravel().astype(np.int64)
    rows = np.where(rows < 0, rows + len(array), rows)
    if rows.min() < 0 or rows.max() >= len(array):
        return None  # NumPy has the right error for it
    return rows


def _parts(missing: AnyArray) -> Iterator[slice]:
    """Rows after each other with so many missing pages together."""
    number = np.cumsum(missing) // _PAGES_AT_ONCE
    bounds = np.flatnonzero(np.diff(number)) + 1
    edges = [0, *bounds.tolist(), len(missing)]
    return (slice(start, end) for start, end in itertools.pairwise(edges))
