# SPDX-License-Identifier: Apache-2.0
"""Any file, types, shape, fixup and order of reads and drops: what NumPy decodes from the file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mapscratch
from mapscratch.fixups import ArrayFixup, ByteSwap, Cast, Python, Scale

# The tests reclaim what is read again and again, in place of a kernel that wants memory.
pytestmark = pytest.mark.filterwarnings("ignore::mapscratch.ThrashingWarning")

UNHARMED = [HealthCheck.function_scoped_fixture]  # it is a name, the same for every example

Values = np.ndarray[Any, np.dtype[Any]]

INTEGERS = ["i1", ">i2", "<i2", ">u2", "<i4", ">i4", "u1", ">u4"]
FLOATS = ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"]


@dataclass(frozen=True)
class Case:
    """An array and how NumPy makes the same."""

    source: str
    output: str
    fixup: ArrayFixup | None
    decode: Callable[[Values], Values]


def unpack_twelve_bits(source: Values) -> Values:
    """Three bytes make two items of 12 bits, as many cameras pack them."""
    raw = source.view("u1").reshape(-1, 3).astype("u2")
    return np.stack([raw[:, 0] | (raw[:, 1] & 15) << 8, raw[:, 1] >> 4 | raw[:, 2] << 4], axis=1)


@st.composite
def casts(draw: st.DrawFn) -> Case:
    source = draw(st.sampled_from(INTEGERS))
    output = draw(st.sampled_from(["i8", "f4", "f8", "<i4", ">f4", "c8", "f2"]))
    return Case(
        source, output, draw(st.sampled_from([None, Cast()])), lambda raw: raw.astype(output)
    )


@st.composite
def float_casts(draw: st.DrawFn) -> Case:
    source = draw(st.sampled_from(FLOATS))
    output = draw(st.sampled_from(["f4", "f8", "f2", "c16"]))
    return Case(source, output, None, lambda raw: raw.astype(output))


@st.composite
def swaps(draw: st.DrawFn) -> Case:
    source = draw(st.sampled_from([">i2", ">f8", ">u4", ">c8"]))
    output = np.dtype(source).newbyteorder("=").str
    return Case(source, output, ByteSwap(), lambda raw: raw.astype(output))


@st.composite
def scales(draw: st.DrawFn) -> Case:
    source = draw(st.sampled_from(INTEGERS))
    output = draw(st.sampled_from(["f4", "f8"]))
    scale, zero = draw(st.floats(-100, 100)), draw(st.floats(-100, 100))
    block = draw(st.sampled_from([None, 7, 1024]))

    def decode(raw: Values) -> Values:
        wide = np.dtype(output if raw.dtype.itemsize <= 2 else "f8").type
        return (raw.astype(wide) * wide(scale) + wide(zero)).astype(output)

    return Case(source, output, Scale(scale, zero, block=block), decode)


def cases() -> st.SearchStrategy[Case]:
    return st.one_of(casts(), float_casts(), swaps(), scales())


INDEX = st.one_of(
    st.tuples(
        st.just("slice"),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([1, 3, -1, 999]),
    ),
    st.tuples(st.just("item"), st.floats(0, 1, exclude_max=True), st.just(0), st.just(0)),
    st.tuples(
        st.just("drop"),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.just(1),
    ),
    st.tuples(
        st.just("reclaim"),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.just(1),
    ),
    st.tuples(st.just("pinned"), st.floats(0, 1, exclude_max=True), st.just(0), st.just(0)),
    st.tuples(st.just("sum"), st.just(0), st.just(1), st.just(1)),
)


def use(array: mapscratch.ScratchArray, expected: Values, step: Any) -> None:
    kind, start, stop, stride = step
    size = len(array)
    low, high = sorted((int(start * size), int(stop * size)))
    if kind == "slice":
        part = slice(low, high + 1, stride) if stride > 0 else slice(high, low or None, stride)
        np.testing.assert_array_equal(np.asarray(array[part]), expected[part])
    elif kind == "item":
        index = min(low, size - 1)
        np.testing.assert_array_equal(np.asarray(array)[index], expected[index])
    elif kind == "drop":
        array[low : high + 1].scratch.drop()
    elif kind == "reclaim":
        array[low : high + 1].scratch.reclaim()
    elif kind == "pinned":
        index = min(low, size - 1)
        with array[index : index + 1].scratch.pin():
            array.scratch.drop()
            np.testing.assert_array_equal(np.asarray(array)[index], expected[index])
    else:
        np.testing.assert_array_equal(np.asarray(array), expected)


@settings(max_examples=120, deadline=None, suppress_health_check=UNHARMED)
@given(
    case=cases(),
    items=st.one_of(st.integers(1, 5000), st.integers(30_000, 400_000)),
    offset=st.integers(0, 9000),
    behind=st.integers(0, 3),
    block=st.sampled_from([None, None, 4096, 12288, 1 << 20]),
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(INDEX, min_size=1, max_size=12),
)
def test_any_array(
    lazyfree: str,
    case: Case,
    items: int,
    offset: int,
    behind: int,
    block: int | None,
    seed: int,
    steps: list[Any],
) -> None:
    source = np.dtype(case.source)
    raw = np.random.default_rng(seed).bytes(offset + items * source.itemsize + behind)
    if case.fixup is not None and isinstance(case.fixup, Scale) and case.fixup.block:
        assert len(case.fixup.scales) == 1
    with tempfile.NamedTemporaryFile() as file, np.errstate(all="ignore"):
        file.write(raw)
        file.flush()
        expected = case.decode(np.frombuffer(raw, source, items, offset))
        array = mapscratch.array(
            Path(file.name),
            case.output,
            offset=offset,
            shape=items,
            source=case.source,
            fixup=case.fixup,
            block=block,
        )
        for step in steps:
            use(array, expected, step)
        use(array, expected, ("sum", 0, 1, 1))


@settings(max_examples=60, deadline=None, suppress_health_check=UNHARMED)
@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 300),
    order=st.sampled_from("CF"),
    offset=st.integers(0, 100),
    rectangle=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    strides=st.tuples(st.sampled_from([1, -1, 3]), st.sampled_from([1, -1, 2])),
)
def test_any_rectangle(
    lazyfree: str,
    rows: int,
    columns: int,
    order: Any,
    offset: int,
    rectangle: tuple[float, ...],
    strides: tuple[int, int],
) -> None:
    raw = np.random.default_rng(rows).bytes(offset + 2 * rows * columns)
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        stored = np.ndarray((rows, columns), ">i2", raw, offset, order=order)
        expected = stored.astype("f4") * np.float32(0.25)
        array = mapscratch.array(
            file.name, "f4", "r", offset, (rows, columns), order, source=">i2", scale=0.25
        )
        top, bottom = sorted(int(part * rows) for part in rectangle[:2])
        left, right = sorted(int(part * columns) for part in rectangle[2:])
        part = np.s_[top : bottom + 1, left : right + 1]
        step = np.s_[:: strides[0], :: strides[1]]
        for _ in range(2):
            np.testing.assert_array_equal(np.asarray(array[part][step]), expected[part][step])
            np.testing.assert_array_equal(array[part].sum(axis=0), expected[part].sum(axis=0))
            array[top : bottom + 1].scratch.reclaim()
        np.testing.assert_array_equal(np.asarray(array.T), expected.T)


@pytest.mark.parametrize("items", [2, 8191, 300_000])
def test_three_bytes_make_two_items(lazyfree: str, tmp_path: Path, items: int) -> None:
    raw = np.random.default_rng(items).integers(0, 256, -(-items // 2) * 3, "u1")
    raw.tofile(tmp_path / "packed")
    fixup = Python(unpack_twelve_bits, items=2)
    array = mapscratch.array(tmp_path / "packed", "u2", shape=items, source="V3", fixup=fixup)
    expected = unpack_twelve_bits(raw).reshape(-1)[:items]
    np.testing.assert_array_equal(np.asarray(array), expected)
    array.scratch.reclaim()
    np.testing.assert_array_equal(array[::-1], expected[::-1])
