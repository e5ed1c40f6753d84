# SPDX-License-Identifier: Apache-2.0
"""Compiled fixups: numba, ctypes and cffi; and what would call back into Python is refused."""

from __future__ import annotations

import ctypes
import pickle
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import cffi
import numba
import numpy as np
import pytest
from support import compiled_fixups
from support.interpreter import run_python

import mapscratch
from mapscratch.fixups import Compiled

Values = np.ndarray[Any, np.dtype[Any]]

SOURCE = r"""
#include <stdint.h>
#include <string.h>

/* Big-endian 16-bit integers, plus what the user data says. */
int32_t decode(void *output, const void *source, int64_t items, int64_t first, void *user_data) {
    const unsigned char *from = source;
    float added = 0;
    memcpy(&added, user_data, sizeof added);
    for (int64_t item = 0; item < items; item++)
        ((float *)output)[item] = (int16_t)(from[2 * item] << 8 | from[2 * item + 1]) + added;
    return 0;
}

/* A block of a float16-free Q8: a float and 32 bytes make 32 floats. */
int32_t dequantise(void *output, const void *source, int64_t items, int64_t first,
                   void *user_data) {
    const unsigned char *from = source;
    for (int64_t item = 0; item < items; item++) {
        float scale;
        const unsigned char *block = from + item / 32 * 36;
        memcpy(&scale, block, sizeof scale);
        ((float *)output)[item] = scale * (signed char)block[4 + item % 32];
    }
    return 0;
}

/* The index of each item, and a failure on the item that the user data names. */
int32_t index_of(void *output, const void *source, int64_t items, int64_t first, void *user_data) {
    int64_t bad;
    memcpy(&bad, user_data, sizeof bad);
    for (int64_t item = 0; item < items; item++) {
        if (first + item == bad)
            return 42;
        ((int64_t *)output)[item] = first + item;
    }
    return 0;
}
"""

# The tests reclaim what is read again and again, in place of a kernel that wants memory.
pytestmark = pytest.mark.filterwarnings("ignore::mapscratch.ThrashingWarning")

ADDED = np.float32(0.5).tobytes()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the build needs one, too"
    directory = tmp_path_factory.mktemp("compiled")
    (directory / "decode.c").write_text(SOURCE)
    path = directory / "decode.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", path, directory / "decode.c"]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def values() -> Values:
    return np.random.default_rng(0).integers(-30_000, 30_000, 300_000).astype(">i2")


@pytest.fixture
def path(tmp_path: Path, values: Values) -> Path:
    values.tofile(tmp_path / "values")
    return tmp_path / "values"


def functions(library: Path) -> dict[str, Any]:
    by_ctypes = ctypes.CDLL(str(library)).decode
    ffi = cffi.FFI()
    ffi.cdef("int32_t decode(void *, const void *, int64_t, int64_t, void *);")
    by_cffi = ffi.dlopen(str(library))
    return {
        "ctypes": by_ctypes,
        "cffi": ffi.addressof(by_cffi, "decode"),
        "cffi's function": by_cffi.decode,
        "address": ctypes.cast(by_ctypes, ctypes.c_void_p).value,
    }


@pytest.mark.parametrize("kind", ["ctypes", "cffi", "cffi's function", "address"])
def test_a_c_function(lazyfree: str, path: Path, values: Values, library: Path, kind: str) -> None:
    fixup = Compiled(functions(library)[kind], user_data=ADDED)
    array = mapscratch.array(path, "f4", source=">i2", fixup=fixup)
    expected = values.astype("f4") + np.float32(0.5)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(array), expected)
        array.scratch.reclaim()
    assert repr(fixup).startswith("Compiled(")


def test_numba(lazyfree: str, path: Path, values: Values) -> None:
    array = mapscratch.array(
        path, "f4", source=">i2", fixup=Compiled(compiled_fixups.half_of_big_endian)
    )
    expected = values.astype("f4") * np.float32(0.5)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(array), expected)
        array.scratch.reclaim()
    np.testing.assert_array_equal(array[[3, 299_999] * 20], expected[[3, 299_999] * 20])


def test_numba_c_and_numpy_agree(lazyfree: str, path: Path, values: Values, library: Path) -> None:
    @numba.cfunc(Compiled.SIGNATURE)
    def decode(output, source, items, first, user_data):  # type: ignore[no-untyped-def]
        made = numba.carray(output, (items,), np.float32)
        stored = numba.carray(source, (2 * items,), np.uint8)
        added = numba.carray(user_data, (1,), np.float32)[0]
        for item in range(items):
            made[item] = np.float32(np.int16(stored[2 * item] << 8 | stored[2 * item + 1])) + added
        return 0

    in_numba = mapscratch.array(path, "f4", source=">i2", fixup=Compiled(decode, user_data=ADDED))
    for kind, function in functions(library).items():
        fixup = Compiled(function, user_data=ADDED)
        in_c = mapscratch.array(path, "f4", source=">i2", fixup=fixup)
        np.testing.assert_array_equal(np.asarray(in_c), np.asarray(in_numba), kind)
    np.testing.assert_array_equal(np.asarray(in_numba), values.astype("f4") + np.float32(0.5))


def test_numba_divides_as_numpy_does(lazyfree: str, tmp_path: Path) -> None:
    """With Python's division it would raise, for which numba takes the interpreter's lock."""
    stored = np.arange(-50_000, 50_000, dtype="i4")
    stored.tofile(tmp_path / "values")
    run_python(
        """
        import sys, numba, numpy as np, mapscratch
        from mapscratch.fixups import Compiled

        @numba.cfunc(Compiled.SIGNATURE, error_model="numpy")
        def divide(output, source, items, first, user_data):
            made = numba.carray(output, (items,), np.float64)
            stored = numba.carray(source, (items,), np.int32)
            for item in range(items):
                made[item] = 1000 / stored[item]
            return 0

        array = mapscratch.array(sys.argv[1], "f8", source="i4", fixup=Compiled(divide))
        assert array[50_000] == np.inf  # a page fault under the interpreter's lock
        with np.errstate(divide="ignore"):
            assert np.array_equal(array, 1000 / np.fromfile(sys.argv[1], "i4"))
        """,
        tmp_path / "values",
    )


def test_numba_with_typed_pointers(lazyfree: str, path: Path, values: Values) -> None:
    pointer = numba.types.CPointer

    @numba.cfunc(
        numba.types.int32(
            pointer(numba.types.float32),
            pointer(numba.types.uint16),
            numba.types.int64,
            numba.types.int64,
            numba.types.voidptr,
        )
    )
    def decode(output, source, items, first, user_data):  # type: ignore[no-untyped-def]
        for item in range(items):
            output[item] = source[item] & 255
        return 0

    array = mapscratch.array(path, "f4", source=">i2", fixup=Compiled(decode))
    np.testing.assert_array_equal(np.asarray(array), values.view("u2") & 255)


def test_blocks_that_hold_their_scale(lazyfree: str, tmp_path: Path, library: Path) -> None:
    blocks = np.zeros(3000, [("scale", "<f4"), ("stored", "i1", 32)])
    random = np.random.default_rng(3)
    blocks["scale"] = random.random(3000)
    blocks["stored"] = random.integers(-128, 128, (3000, 32))
    blocks.tofile(tmp_path / "q8")
    expected = (blocks["scale"][:, None] * blocks["stored"].astype("f4")).astype("f4").ravel()
    function = ctypes.CDLL(str(library)).dequantise
    fixup = Compiled(function, items=32)
    array = mapscratch.array(tmp_path / "q8", "f4", source=blocks.dtype, fixup=fixup)
    assert array.shape == (3000 * 32,)
    np.testing.assert_array_equal(np.asarray(array), expected)
    some = mapscratch.array(tmp_path / "q8", "f4", shape=777, source=blocks.dtype, fixup=fixup)
    np.testing.assert_array_equal(np.asarray(some), expected[:777])


def test_the_index_of_the_first_item(lazyfree: str, path: Path, library: Path) -> None:
    fixup = Compiled(
        ctypes.CDLL(str(library)).index_of, user_data=(-1).to_bytes(8, "little", signed=True)
    )
    array = mapscratch.array(path, "i8", source=">i2", fixup=fixup)
    assert array[123_456] == 123_456
    np.testing.assert_array_equal(np.asarray(array), np.arange(300_000))


def test_a_failure_names_the_block(lazyfree: str, path: Path, library: Path) -> None:
    result = run_python(
        """
        import ctypes, sys, numpy as np, mapscratch
        from mapscratch.fixups import Compiled
        function = ctypes.CDLL(sys.argv[2]).index_of
        fixup = Compiled(function, user_data=(200_000).to_bytes(8, "little"))
        array = mapscratch.array(sys.argv[1], "i8", source=">i2", fixup=fixup)
        assert np.array_equal(array[:199_500], np.arange(199_500))
        assert np.array_equal(array[201_000:], np.arange(201_000, 300_000))
        assert np.array_equal(array[[201_000, 5] * 20], [201_000, 5] * 20)
        print("so far", flush=True)
        array[[200_000, 7] * 20]
        print("read what can't be made", flush=True)
        """,
        path,
        library,
        check=False,
    )
    assert result.stdout == "so far\n", result.stderr
    assert result.returncode in (-signal.SIGBUS, -signal.SIGKILL)
    assert "block 390 (items from 199680 on) of the array of" in result.stderr
    assert "its fixup returned 42" in result.stderr


def test_what_calls_back_into_python_is_refused() -> None:
    signature = (ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 2)
    callback = ctypes.CFUNCTYPE(*signature, ctypes.c_void_p)(lambda *_: 0)
    with pytest.raises(TypeError, match=r"calls back into Python.*fixups\.Python"):
        Compiled(callback)
    ffi = cffi.FFI()
    from_cffi = ffi.callback(
        "int32_t(void *, const void *, int64_t, int64_t, void *)", lambda *_: 0
    )
    with pytest.raises(TypeError, match=r"calls back into Python.*fixups\.Python"):
        Compiled(from_cffi)


def of_one(value):  # type: ignore[no-untyped-def]
    return value


def of_five(output, source, items, first, user_data):  # type: ignore[no-untyped-def]
    return 0


def of_six(output, source, items, first, user_data, more):  # type: ignore[no-untyped-def]
    return 0


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (of_one, "float64(float64)"),
        (of_five, "int64(voidptr, voidptr, int64, int64, voidptr)"),
        (of_five, "int32(voidptr, voidptr, int32, int32, voidptr)"),
        (of_five, "int32(int64, int64, int64, int64, int64)"),
        (of_six, "int32(voidptr, voidptr, int64, int64, voidptr, int64)"),
    ],
)
def test_another_signature_is_refused(function: Any, signature: str) -> None:
    with pytest.raises(TypeError, match=r"signature is .* must be like int32\(voidptr"):
        Compiled(numba.cfunc(signature)(function))


FFI = cffi.FFI()
NO_FUNCTIONS = [len, lambda *_: 0, 3.5, None, True, FFI.new("char[16]"), FFI.cast("int", 5)]
NO_ADDRESSES = [0, -1, FFI.cast("int (*)(int)", 0), ctypes.CFUNCTYPE(ctypes.c_int)()]


@pytest.mark.parametrize("function", NO_ADDRESSES)
def test_null_pointers_are_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="null pointer"):
        Compiled(function)


@pytest.mark.parametrize("function", NO_FUNCTIONS)
def test_other_things_are_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="is not a compiled function"):
        Compiled(function)


@pytest.mark.parametrize("place", ["support.compiled_fixups", "nowhere:decode", "support:nothing"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises((ValueError, ImportError, AttributeError)):
        Compiled(place)


def test_by_its_place_it_pickles(lazyfree: str, path: Path, values: Values) -> None:
    by_name = Compiled("support.compiled_fixups:half_of_big_endian")
    found = Compiled(compiled_fixups.half_of_big_endian)  # its module knows it by that name
    for fixup in (by_name, found, pickle.loads(pickle.dumps(by_name))):
        array = mapscratch.array(path, "f4", source=">i2", fixup=fixup)
        pickled = pickle.dumps(array[5:10])
        assert len(pickled) < 1000
        run_python(
            """
            import pickle, sys
            assert pickle.loads(bytes.fromhex(sys.argv[1])).tolist() == eval(sys.argv[2])
            """,
            pickled.hex(),
            (values[5:10].astype("f4") * 0.5).tolist(),
        )


def test_an_address_does_not_pickle(lazyfree: str, path: Path, library: Path) -> None:
    fixup = Compiled(functions(library)["ctypes"], user_data=ADDED)
    array = mapscratch.array(path, "f4", source=">i2", fixup=fixup)
    with pytest.raises(TypeError, match=r"Compiled\('package\.module:name'\)"):
        pickle.dumps(array)
