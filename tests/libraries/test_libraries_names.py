# SPDX-License-Identifier: Apache-2.0
"""What numbers are called: by NumPy, by ml_dtypes, and in files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors
from support.interpreter import run_python

import mapscratch
from mapscratch.fixups import Cast

Values = np.ndarray[Any, np.dtype[Any]]

BYTES = np.arange(3 * 4096, dtype="u2").astype("<u2").tobytes()


def _dtypes_of_others() -> dict[str, np.dtype[Any]]:
    """All that ml_dtypes teaches NumPy."""
    types = {name: getattr(ml_dtypes, name) for name in dir(ml_dtypes)}
    scalars = {name: t for name, t in types.items() if isinstance(t, type)}
    found = {name: np.dtype(t) for name, t in scalars.items() if issubclass(t, np.generic)}
    return {name: dtype for name, dtype in found.items() if dtype.name == name}


OTHERS = _dtypes_of_others()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(BYTES)
    return path


def same_bytes(ours: mapscratch.ScratchArray, expected: Values) -> None:
    assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
    assert ours.tobytes() == expected.tobytes()


def test_there_are_dtypes_to_try() -> None:
    assert {"bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"} <= set(OTHERS)


@pytest.mark.parametrize("dtype", OTHERS.values(), ids=OTHERS.keys())
def test_the_bytes_of_a_dtype_of_ml_dtypes(lazyfree: str, path: Path, dtype: np.dtype[Any]) -> None:
    expected = np.frombuffer(BYTES, dtype)
    for source in (None, dtype, dtype.type, dtype.name):
        ours = mapscratch.array(path, dtype.type, source=source)
        assert ours.scratch.fixup is None
        same_bytes(ours, expected)
    same_bytes(pickle.loads(pickle.dumps(ours[7:90])), expected[7:90])
    same_bytes(mapscratch.array(path, dtype, "r", 3, (11, 5), "F"), _as_memmap(path, dtype))


def _as_memmap(path: Path, dtype: np.dtype[Any]) -> Values:
    return np.asarray(np.memmap(path, dtype, "r", 3, (11, 5), "F"))


def test_they_compute_as_numpy_lets_them(lazyfree: str, path: Path) -> None:
    ours = mapscratch.array(path, ml_dtypes.bfloat16)
    expected = np.frombuffer(BYTES, ml_dtypes.bfloat16)
    np.testing.assert_array_equal(ours + ours, expected + expected)
    np.testing.assert_array_equal(ours.astype("f4"), expected.astype("f4"))


@pytest.mark.parametrize("order", "<>")
def test_bfloat16_of_another_order_is_cast(lazyfree: str, path: Path, order: str) -> None:
    bits = np.frombuffer(BYTES, f"{order}u2").astype("u4") << 16
    ours = mapscratch.array(path, "f4", source=f"{order}BF16")
    np.testing.assert_array_equal(np.asarray(ours), bits.view("f4"))


def test_fields_of_structures(lazyfree: str, path: Path) -> None:
    dtype = np.dtype([("weight", ml_dtypes.bfloat16), ("index", "u2")])
    same_bytes(mapscratch.array(path, dtype), np.frombuffer(BYTES, dtype))


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2"])
def test_names_that_numpy_knows_once_ml_dtypes_is_loaded(path: Path, name: str) -> None:
    run_python(
        "import sys; import mapscratch; "
        "assert mapscratch.array(sys.argv[1], sys.argv[2]).dtype.name == sys.argv[2]",
        str(path),
        name,
    )


# In files

SAFETENSORS: dict[str, Any] = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I16": "i2",
    "U16": "u2",
    "F16": "f2",
    "BF16": ml_dtypes.bfloat16,
    "I32": "i4",
    "U32": "u4",
    "F32": "f4",
    "C64": "c8",
    "F64": "f8",
    "I64": "i8",
    "U64": "u8",
}
"""Of its Dtype, those whose items are whole bytes."""


def _written(path: Path, tensors: dict[str, Values]) -> dict[str, Any]:
    """Each tensor's part of the header, with the place in the file."""
    content = safetensors.save(tensors)
    path.write_bytes(content)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for entry in header.values():
        entry["offset"] = start + entry["data_offsets"][0]
    return dict(header)


@pytest.mark.parametrize(("name", "dtype"), SAFETENSORS.items(), ids=SAFETENSORS.keys())
def test_names_of_safetensors(lazyfree: str, tmp_path: Path, name: str, dtype: Any) -> None:
    stored = np.random.default_rng(0).integers(0, 256, 2400, "u1")
    stored = stored % 2 if name == "BOOL" else stored
    bits = stored.view(dtype)
    seen = "c8" if name == "C64" else "f4"
    path = tmp_path / "model.safetensors"
    path.write_bytes(stored.tobytes())
    as_it_is = mapscratch.array(path, dtype, source=name)
    assert as_it_is.scratch.fixup is None
    same_bytes(as_it_is, bits)
    with np.errstate(all="ignore"):
        expected = bits.astype(seen)
    ours = np.asarray(mapscratch.array(path, seen, source=name))
    np.testing.assert_array_equal(ours, expected)


def test_each_tensor_of_a_file(lazyfree: str, tmp_path: Path) -> None:
    """As a user goes through one, by what the header says. Some have nothing in them."""
    tensors = {
        "bias": np.arange(7, dtype="f4"),
        "weight": np.linspace(-3, 3, 24).astype(ml_dtypes.bfloat16).reshape(4, 6),
        "empty": np.empty((3, 0, 5), "f2"),
        "one": np.array(5, "i8"),
        "mask": np.array([[True, False], [False, True]]),
        "bytes": np.arange(10, dtype="u1"),
        "none": np.empty(0, ml_dtypes.bfloat16),
    }
    path = tmp_path / "model.safetensors"
    header = _written(path, tensors)
    assert header.keys() == tensors.keys()
    for name, entry in header.items():
        expected = tensors[name].astype("f4")
        ours = mapscratch.array(
            path, "f4", offset=entry["offset"], shape=entry["shape"], source=entry["dtype"]
        )
        assert ours.shape == expected.shape
        np.testing.assert_array_equal(np.asarray(ours), expected)


OTHER_SPELLINGS: dict[str, Any] = {
    "FLOAT": "f4",
    "DOUBLE": "f8",
    "FLOAT16": "f2",
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "INT8": "i1",
    "UINT16": "u2",
    "INT64": "i8",
    "torch.float": "f4",
    "torch.int": "i4",
    "torch.bfloat16": ml_dtypes.bfloat16,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.uint8": "u1",
    ">F32": ">f4",
    "<I16": "<i2",
    ">bfloat16": np.dtype(ml_dtypes.bfloat16).newbyteorder(">"),
}


@pytest.mark.parametrize(("name", "dtype"), OTHER_SPELLINGS.items(), ids=OTHER_SPELLINGS.keys())
def test_names_of_others(lazyfree: str, path: Path, name: str, dtype: Any) -> None:
    as_it_is = mapscratch.array(path, dtype, source=name)
    assert as_it_is.scratch.fixup is None
    assert as_it_is.tobytes() == BYTES


def test_a_dtype_of_pytorch(lazyfree: str, path: Path) -> None:
    """Its dtypes are known by what they are called, and the package is never loaded."""
    dtype = type("dtype", (), {"__module__": "torch", "__repr__": lambda self: "torch.bfloat16"})
    ours = mapscratch.array(path, "f4", source=dtype())
    np.testing.assert_array_equal(
        np.asarray(ours), np.frombuffer(BYTES, ml_dtypes.bfloat16).astype("f4")
    )


def test_text_is_numpys(lazyfree: str, path: Path) -> None:
    """``"U8"`` is a file's byte, and NumPy's text where somebody wants to see text."""
    path.write_bytes(np.array(["one", "two"], "<U8").tobytes())
    for source in (None, "<U8", "U8"):
        assert mapscratch.array(path, "U8", source=source).tolist() == ["one", "two"]
    assert mapscratch.array(path, "f4", source="U8").shape == (64,)


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "Q8_0", "f1", "float8", "torch.qint8", ""])
def test_names_of_nothing(lazyfree: str, path: Path, name: str) -> None:
    with pytest.raises(TypeError, match=r"is no number.*fixups"):
        mapscratch.array(path, "f4", source=name)
    with pytest.raises(TypeError, match="source what the file holds"):
        mapscratch.array(path, name or "nothing")


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.float4_e2m1fn])
def test_what_has_no_conversion_is_shown_as_it_is_and_not_cast(
    lazyfree: str, path: Path, dtype: Any
) -> None:
    for arguments in ({"source": dtype}, {"source": dtype, "fixup": Cast()}):
        with pytest.raises(TypeError, match="Compiled or Python"):
            mapscratch.array(path, "f4", **arguments)
    with pytest.raises(TypeError, match="Compiled or Python"):
        mapscratch.array(path, dtype, source="f4")
