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

from mapscratch.arrays.decoded import DecodedMap, NoMemory
from mapscratch.fixups.numbers import DType

AnyArray = np.ndarray[Any, DType]

_PAGES_AT_ONCE = 256  # other readers' page faults wait so long
_WORTH_IT = 8  # missing pages
_DENSE = 16  # pages a row, on average, up to which one look at the whole span is cheaper
_SEQUENTIAL = 8  # where more than one page of so many is wanted, readers in sequence cost less
_LONGEST_ROW = 64 * 1024  # bytes; longer ones are read in sequence, for which page-in is made


def gather(array: AnyArray, index: Any, mapping: DecodedMap | NoMemory) -> AnyArray | None:
    """``array[index]`` if that are rows of which pages are missing; None: index it as usual.

    Args:
        array: a plain array.
        index: anything that an array can be indexed by.
        mapping: where it lies.
    """
    picks = _only_picks(index, array.ndim)
    if isinstance(mapping, NoMemory) or not mapping.can_fetch or not array.size or picks is None:
        return None
    if picks.dtype == np.bool_:
        return _under_mask(array, picks, mapping)
    rows = _rows(array, picks)
    if rows is None or _is_for_a_sequential_reader(array, rows):
        return None
    taken = _taken(array, rows, mapping)
    return None if taken is None else taken.reshape(picks.shape + array.shape[1:])


def _only_picks(index: Any, dimensions: int) -> AnyArray | None:
    """What of an index picks rows, if all else takes everything."""
    first, others = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
    if not isinstance(first, list | np.ndarray) or not all(map(_takes_all, others)):
        return None
    try:
        picks = np.asarray(first)
    except ValueError:
        return None  # NumPy has the right error for it
    ellipses = sum(other is Ellipsis for other in others)
    indexed = (picks.ndim if picks.dtype == np.bool_ else 1) + len(others) - ellipses
    return picks if ellipses <= 1 and indexed <= dimensions else None


def _takes_all(index: Any) -> bool:
    return index is Ellipsis or (isinstance(index, slice) and index == slice(None))


def _taken(array: AnyArray, rows: AnyArray, mapping: DecodedMap) -> AnyArray | None:
    """Rows whose missing pages are made first; None: too few are missing."""
    start = array.__array_interface__["data"][0] - mapping._address + rows * array.strides[0]
    wanted = _Pages(mapping, start // PAGESIZE, (start + array[:1].nbytes - 1) // PAGESIZE)
    missing = wanted.missing()
    if np.count_nonzero(missing) < _WORTH_IT:
        return None
    picked = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part in _parts(missing):
        wanted.fetch(part)
        array.take(rows[part], axis=0, out=picked[part], mode="clip")
    return picked


def _is_for_a_sequential_reader(array: AnyArray, rows: AnyArray) -> bool:
    """They ascend, and so close to each other that page-in ahead of a reader costs less."""
    stride = array.strides[0]
    if (rows[-1] - rows[0]) * stride // PAGESIZE >= _SEQUENTIAL * len(rows):
        return False
    steps = np.diff(rows)
    if (steps < 0).any():
        return False
    pages = np.count_nonzero(np.diff(rows * stride // PAGESIZE)) + 1
    pages *= max(1, array[:1].nbytes // PAGESIZE)
    return bool(pages * _SEQUENTIAL > (rows[-1] - rows[0]) * stride // PAGESIZE)


def _under_mask(array: AnyArray, mask: AnyArray, mapping: DecodedMap) -> AnyArray | None:
    """The rows, or with a mask of more dimensions the items, where the mask is true."""
    if not mask.ndim or mask.shape != array.shape[: mask.ndim]:
        return None  # NumPy has the right error for it
    by_columns = mask.ndim > 1 and not array.flags.c_contiguous
    if by_columns and not (mask.ndim == array.ndim and array.flags.f_contiguous):
        return None
    inner = array.shape[mask.ndim :]
    rows = array.ravel(order="F") if by_columns else array.reshape(-1, *inner)
    wanted = mask.ravel(order="F" if by_columns else "C")
    if not _has_fit_rows(rows) or _is_dense(rows, wanted):
        return None
    if by_columns:  # what is picked comes in the order of rows all the same
        numbers = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    else:
        numbers = np.flatnonzero(wanted)
    taken = _taken(rows, numbers, mapping) if len(numbers) >= _WORTH_IT else None
    return rows.take(numbers, axis=0) if taken is None else taken


def _is_dense(rows: AnyArray, mask: AnyArray) -> bool:
    """So many pages are wanted that page-in ahead of a reader costs less."""
    in_a_page = max(1, PAGESIZE // rows.strides[0])
    whole = len(mask) // in_a_page * in_a_page
    pages = int(np.count_nonzero(mask[:whole].reshape(-1, in_a_page).any(axis=1)))
    return pages * in_a_page * _SEQUENTIAL > len(mask)


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
            self._pages = _distinct(every)
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
        wanted = _distinct(np.minimum(first[:, None] + np.arange(width), last[:, None]))
        wanted = wanted[self._is_missing[wanted]]
        self._is_missing[wanted] = False
        if len(wanted):
            self._mapping.fetch(self._pages[wanted].data)


def _distinct(numbers: AnyArray) -> AnyArray:
    """As `numpy.unique`, but that imports a module at its first call.

    A child that is forked meanwhile by another thread would wait for that import for ever.
    """
    ascending = np.sort(numbers, axis=None)
    distinct: AnyArray = ascending[np.diff(ascending, prepend=-1) != 0]
    return distinct


def _rows(array: AnyArray, index: AnyArray) -> AnyArray | None:
    """The rows, none negative; None if it is no such index."""
    if index.dtype.kind not in "iu" or index.size < _WORTH_IT:
        return None
    if not array.ndim or not _has_fit_rows(array):
        return None
    rows = index.ravel().astype(np.int64)
    rows = np.where(rows < 0, rows + len(array), rows)
    if rows.min() < 0 or rows.max() >= len(array):
        return None  # NumPy has the right error for it
    return rows


def _has_fit_rows(array: AnyArray) -> bool:
    """Each in one piece, and not too long."""
    row = array[:1]  # not array[0], which may be read to be made a scalar
    return array.strides[0] > 0 and row.flags.c_contiguous and row.nbytes <= _LONGEST_ROW


def _parts(missing: AnyArray) -> Iterator[slice]:
    """Rows after each other with so many missing pages together."""
    number = np.cumsum(missing) // _PAGES_AT_ONCE
    bounds = np.flatnonzero(np.diff(number)) + 1
    edges = [0, *bounds.tolist(), len(missing)]
    return (slice(start, end) for start, end in itertools.pairwise(edges))
