# SPDX-License-Identifier: Apache-2.0
"""Fixups that decode blocks of a file into items of an array."""

from __future__ import annotations

import ctypes
import importlib
import math
import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mapscratch import _native
from mapscratch.errors import caller_level
from mapscratch.fixups.arithmetic import Arithmetic, stored_number
from mapscratch.fixups.numbers import FOREIGN, DType, SourceType, is_swapped, number_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Buffer


_CTYPES_FUNCTION: type = ctypes.CFUNCTYPE(None).__mro__[1]  # of functions of any signature


@dataclass(frozen=True, slots=True)
class Recipe:
    """How blocks are made: a C function, or a Python function for a process of its own.

    Attributes:
        function: the address of a function with the C signature in `Compiled`; 0 for none.
        user_data: a copy of these bytes is the function's last argument.
        items: output items that one source item makes.
        python: the function for the process; see `Python`.
        keep: what must live as long as the array.
    """

    function: int
    user_data: bytes = b""
    items: int = 1
    python: Python | None = None
    keep: object = None


class ArrayFixup(ABC):
    """What makes items of an array out of items of a file."""

    @abstractmethod
    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """How it is done for these types.

        Raises:
            TypeError: it can't be done for them.
        """

    def check(self, output_items: int) -> None:  # noqa: B027 - most fit any array
        """Looks whether it fits an array of so many items.

        Raises:
            ValueError: it doesn't.
        """


class Cast(ArrayFixup):
    """Numbers of one type from numbers of another: ``source.astype(dtype)``, byte order and all.

    Any pair of NumPy's numeric types; as a source also bfloat16 and the floats of eight bits, by
    ml_dtypes' names (``"float8_e4m3fn"``, ``"float8_e5m2"``), and ml_dtypes' dtypes. What C leaves
    undefined stays so, as in NumPy: a float that is NaN or too large for an integer.

    Warns:
        ComplexWarning: imaginary parts are thrown away.
    """

    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """A C function of ours."""
        return _conversion(source, output)

    def __repr__(self) -> str:
        return "Cast()"


class ByteSwap(Cast):
    """The same numbers, in the other byte order: a big-endian file as native numbers."""

    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """A C function of ours; the types must differ in their order alone."""
        if source.dtype.newbyteorder("=") != output.newbyteorder("=") or source.foreign:
            raise TypeError(
                f"ByteSwap changes the order of bytes and nothing else: {source} can't become "
                f"{output}; use Cast"
            )
        return super().recipe(source, output)

    def __repr__(self) -> str:
        return "ByteSwap()"


class Scale(ArrayFixup):
    """Scaled numbers: ``source * scale + zero``, rounded once, to the output's type.

    That is FITS's BSCALE and BZERO, netCDF's scale_factor and add_offset, and a quantised tensor's
    scale; for its zero point see `from_zero_point`.

    Integers with an integer scale and zero are exact, however large. Else it is computed in double
    (in long double if 64-bit integers or long doubles are the source or the output), each step
    rounded there as NumPy, astropy, nibabel and netCDF4 round it, and in a narrower type where that
    loses nothing before its last step. Integers of 8 and 16 bits as float32 are computed in
    float32, as astropy does: fast, and each step is rounded there. Integer outputs wrap around;
    floats become integers after the sum, cut off as by ``astype``.

    Args:
        scale: one number, or with `block` one for each block.
        zero: what a stored 0 means: one number, or one for each block.
        block: so many items after each other, in the file's order, share a scale and a zero: the
            length of a row for scales by row, 32 for many quantised formats.
        blank: this number in the file means that there is no value; it becomes NaN. It is compared
            as a number of the file's type, a float rounded to it. One that this type can't hold
            never occurs.

    Raises:
        ValueError: scales without a `block`, or as many zeros as there are not scales.
        TypeError: a scale or zero that is no real number.
    """

    zero_points: np.ndarray[Any, DType] | None = None  # instead of `zeros`

    def __init__(
        self,
        scale: ArrayLike = 1,
        zero: ArrayLike = 0,
        *,
        block: int | None = None,
        blank: float | None = None,
    ) -> None:
        scales, zeros = np.broadcast_arrays(
            np.atleast_1d(_real(scale, "scale")).ravel(), _real(zero, "zero").ravel()
        )
        if len(scales) != 1 and block is None:
            raise ValueError(
                f"{len(scales)} scales need block=: how many items after each other share one"
            )
        if block is not None and block < 1:
            raise ValueError(f"block must be at least 1, not {block}")
        self.scales = scales.copy()
        self.zeros = zeros.copy()
        self.block = block
        self.blank = blank

    @classmethod
    def from_zero_point(
        cls, scale: ArrayLike, zero_point: ArrayLike, *, block: int | None = None
    ) -> Scale:
        """For ``(stored - zero_point) * scale``, as quantised tensors have it.

        It is computed as it stands there, as torch and ONNX do: the difference of integers is
        exact, and the product is rounded.
        """
        made = cls(scale, zero_point, block=block)
        made.zero_points = made.zeros
        made.zeros = -(made.scales * made.zero_points.astype(np.result_type(made.zeros, "i1")))
        return made

    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """A C function of ours; output types are integers and real floats."""
        if output.kind not in "iuf" or number_name(output) is None:
            raise TypeError(f"Scale makes integers or real floats, not {output}")
        if source.dtype.kind in "mM":
            raise TypeError(
                f"{source} is no number that can be scaled: give what it is stored as, "
                f"source='{source.dtype.str[0]}i8'"
            )
        return _conversion(
            source,
            output,
            arithmetic=self._arithmetic,
            blank=self._stored_blank(source, output),
            block=self.block,
        )

    def _arithmetic(self, source: SourceType, output: DType) -> Arithmetic | None:
        if self._changes_nothing():
            return None
        terms = self.zeros if self.zero_points is None else self.zero_points
        is_point = self.zero_points is not None
        return Arithmetic.of(source, output, self.scales, terms, zero_is_point=is_point)

    def _changes_nothing(self) -> bool:
        return bool((self.scales == 1).all() and (self.zeros == 0).all())

    def _stored_blank(self, source: SourceType, output: DType) -> bytes:
        """As the file holds it; nothing if it never occurs there.

        Raises:
            TypeError: the output has no NaN, or the source's numbers can't be compared.
        """
        if self.blank is None or (output.kind in "iu" and self._is_unsigned_by_convention(source)):
            return b""
        if output.kind != "f" or source.dtype.kind not in "iuf":
            raise TypeError(
                f"blank= is a number of the file that becomes NaN: {source} to {output} has no "
                "place for it; take a float dtype, or leave blank= out"
            )
        return stored_number(self.blank, source)

    def _is_unsigned_by_convention(self, source: SourceType) -> bool:
        """FITS has no unsigned integers of 16 bits and more, and no signed ones of 8.

        They are stored with the sign bit turned. Every number means something; none is blank.
        """
        dtype = source.dtype
        if dtype.kind not in "iu" or source.foreign or (dtype.kind == "u" and dtype.itemsize > 1):
            return False
        offset = -128 if dtype.kind == "u" else 2 ** (8 * dtype.itemsize - 1)
        is_offset = len(self.zeros) == 1 and self.zeros[0] == offset
        return bool(is_offset and self.scales[0] == 1 and self.zero_points is None)

    def check(self, output_items: int) -> None:
        """There must be a scale for every block."""
        if self.block is None:
            return
        blocks = -(-output_items // self.block)
        if blocks != len(self.scales) and len(self.scales) != 1:
            raise ValueError(
                f"{output_items} items in blocks of {self.block} are {blocks} blocks, but there "
                f"are {len(self.scales)} scales"
            )

    def __repr__(self) -> str:
        if len(self.scales) > 1:
            return f"Scale(<{len(self.scales)} scales, a block of {self.block} items each>)"
        blank = "" if self.blank is None else f", blank={self.blank}"
        return f"Scale({self.scales[0]}, {self.zeros[0]}{blank})"


class Compiled(ArrayFixup):
    """A compiled function: a numba ``@cfunc``, or a C function by ctypes or cffi.

    Its C signature is::

        int32_t decode(void *output, const void *source, int64_t items, int64_t first,
                       void *user_data);

    It makes `items` items of output, of which the first is item `first` of the array in the file's
    order, from the source bytes that belong to them, and returns 0; anything else says that it
    can't, and whoever touches these items gets a message and SIGBUS. Both buffers are aligned to
    16 bytes and hold just that. For numba, the signature is `Compiled.SIGNATURE`, and
    ``numba.carray(pointer, shape, dtype)`` makes an array of a pointer.

    It runs on a native thread **without the interpreter's lock, while the thread that wants the
    items waits**: it must not call Python, take a lock that a reader may hold, or touch scratch
    memory, and it must give the same output for the same source every time.

    **A numba function must not raise.** numba reports an exception under the interpreter's lock,
    for which a reader may wait forever, and then returns 0 as if all had been made. What can
    raise: integer division (not with ``@cfunc(..., error_model="numpy")``), assignments between
    arrays of different shapes, new arrays, ``boundscheck=True``. A loop over the items can't.

    Args:
        function: a numba cfunc, a ctypes function, a cffi function pointer, the address as an int,
            or ``"module:name"`` of one of these, which pickles.
        items: output items that one source item makes (32 for a block of 32 quantised weights, 2
            for a byte of two nibbles).
        user_data: bytes of which the function gets a copy.

    Raises:
        TypeError: it is not a compiled function, or it would call back into Python.
    """

    SIGNATURE = "int32(voidptr, voidptr, int64, int64, voidptr)"

    def __init__(self, function: Any, *, items: int = 1, user_data: Buffer = b"") -> None:
        self._name = function if isinstance(function, str) else _importable_name(function)
        self._function = _resolve(function) if isinstance(function, str) else function
        self._address = _address_of(self._function)
        self._items = _checked_items(items)
        self._user_data = bytes(user_data)

    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """The function itself."""
        return Recipe(self._address, self._user_data, self._items, keep=self._function)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._name is None:
            raise TypeError(
                "this compiled function can't be pickled: an address means nothing to another "
                "process. Give its place, Compiled('package.module:name'), so that it can be "
                "imported there"
            )
        return _unpickle_compiled, (self._name, self._items, self._user_data)

    def __repr__(self) -> str:
        return f"Compiled({self._name or self._function!r})"


class Python(ArrayFixup):
    """A Python function, run in a process of its own.

    Never in a thread of the reader: a reader that waits for a page may hold the interpreter's lock.
    The function gets an array of source items and gives as many items of output (times `items`);
    with ``index=True`` it also gets the index of the first. It must give the same output for the
    same source every time. If it raises, or its process dies, whoever touches these items gets a
    message that names the file, the block and the exception, and SIGBUS; it is tried on the first
    block when the array is made, where an exception is an ordinary one.

    Args:
        function: a function that other processes can import, or that cloudpickle can pickle.
        items: output items that one source item makes.
        index: call it with the index of the first source item, too.
    """

    def __init__(
        self, function: Callable[..., ArrayLike], *, items: int = 1, index: bool = False
    ) -> None:
        if not callable(function):
            raise TypeError(f"Python needs a function, not {type(function).__name__}")
        self.function = function
        self.items = _checked_items(items)
        self.index = index

    def recipe(self, source: SourceType, output: DType) -> Recipe:
        """The function, for a process that is made with the array."""
        return Recipe(0, items=self.items, python=self)

    def __reduce__(self) -> tuple[Any, ...]:
        function: Any = self.function
        if _importable_name(function) is None:
            # By value if possible: another process has another __main__, and finds no lambda.
            with suppress(ImportError):
                import cloudpickle

                function = cloudpickle.dumps(function)
        return _unpickle_python, (function, self.items, self.index)

    def __repr__(self) -> str:
        return f"Python({getattr(self.function, '__qualname__', self.function)!r})"


def identity(dtype: DType) -> Recipe:
    """The file's bytes as they are."""
    return _conversion(SourceType(np.dtype("u1")), np.dtype("u1"))


def _conversion(
    source: SourceType,
    output: DType,
    *,
    arithmetic: Callable[[SourceType, DType], Arithmetic | None] | None = None,
    block: int | None = None,
    blank: bytes = b"",
) -> Recipe:
    number = _number_like(source)
    output_number = number_name(output) or _number_of_same_size(source.dtype, output)
    if number is None or output_number is None:
        raise TypeError(
            f"numbers can be cast, but not {source} to {output}; use Compiled or Python"
        )
    if source.dtype.kind == "c" and output.kind not in "cb":
        warnings.warn(
            f"{source} to {output} throws the imaginary parts away",
            np.exceptions.ComplexWarning,
            stacklevel=caller_level(),
        )
    scaled = arithmetic(source, output) if arithmetic else None
    user_data = _native.conversion(
        source=number,
        output=output_number,
        through=scaled.through if scaled else output_number,
        source_is_swapped=is_swapped(source.dtype),
        output_is_swapped=is_swapped(output),
        zero_is_point=scaled is not None and scaled.zero_is_point,
        blank=blank,
        block_items=block or 2**62,
        scales=scaled.scales if scaled else b"",
        zeros=scaled.zeros if scaled else b"",
    )
    return Recipe(_native.convert_function(), user_data)


def _number_like(source: SourceType) -> str | None:
    """Dates are swapped like the integers that they are."""
    return source.number or ("i8" if source.dtype.kind in "mM" else None)


def _number_of_same_size(source: DType, output: DType) -> str | None:
    is_same = source.newbyteorder("=") == output.newbyteorder("=")
    return "i8" if output.kind in "mM" and is_same else None


def _real(values: ArrayLike, name: str) -> np.ndarray[Any, DType]:
    """As an array of numbers that NumPy has.

    Raises:
        TypeError: they are something else.
    """
    if isinstance(values, np.ndarray) and np.any(getattr(values, "mask", False)):
        raise TypeError(f"{name} is masked: there is no number in it")
    array = np.asarray(values)
    if array.dtype.name in FOREIGN:
        return array.astype("f8")
    if array.dtype.kind == "O":
        return _real_objects(array, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, not {array.dtype}")
    return array


def _real_objects(array: np.ndarray[Any, DType], name: str) -> np.ndarray[Any, DType]:
    """Integers stay as they are, NumPy may have none so large; others (fractions) become doubles.

    Raises:
        TypeError: they are no numbers.
        ValueError: a number is larger than all doubles.
    """
    values = array.ravel().tolist()
    if any(value is None or isinstance(value, str | bytes) for value in values):
        raise TypeError(f"{name} must be real numbers, not {values[0]!r}")
    try:
        doubles = [float(value) for value in values]
    except OverflowError:
        raise ValueError(f"{name} has a number that is larger than any double") from None
    pairs = zip(values, doubles, strict=True)
    if all(math.isfinite(double) and value == int(value) for value, double in pairs):
        return np.array([int(value) for value in values], "O").reshape(array.shape)
    return np.array(doubles, "f8").reshape(array.shape)


def _checked_items(items: int) -> int:
    if items < 1:
        raise ValueError(f"items must be at least 1, not {items}")
    return items


def _importable_name(function: Any) -> str | None:
    """``module:name`` if an import there gives the same object again, in any process."""
    origin = getattr(function, "_pyfunc", function)  # numba's cfunc knows what it was made of
    module, name = getattr(origin, "__module__", None), getattr(origin, "__qualname__", None)
    if not module or not name or module in ("__main__", "__mp_main__"):
        return None
    try:
        return f"{module}:{name}" if _resolve(f"{module}:{name}") is function else None
    except (ImportError, AttributeError):
        return None


def _resolve(place: str) -> Any:
    module, _, name = place.partition(":")
    if not name:
        raise ValueError(f"{place!r} is not 'module:name'")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _unpickle_python(function: Any, items: int, index: bool) -> Python:
    if isinstance(function, bytes):
        function = pickle.loads(function)
    return Python(function, items=items, index=index)


def _unpickle_compiled(name: str, items: int, user_data: bytes) -> Compiled:
    return Compiled(name, items=items, user_data=user_data)


def _address_of(function: Any) -> int:
    if isinstance(function, int) and not isinstance(function, bool):
        address = function
    elif hasattr(function, "_pyfunc") and hasattr(function, "address"):
        address = _address_of_numba(function)
    elif isinstance(function, _CTYPES_FUNCTION):
        address = _address_of_ctypes(function)
    elif "_cffi_backend" in type(function).__module__:
        address = _address_of_cffi(function)
    else:
        raise _not_compiled(function)
    if address <= 0:
        raise TypeError(f"{function!r} is a null pointer, or no address at all")
    return address


def _not_compiled(function: Any) -> TypeError:
    return TypeError(
        f"{function!r} is not a compiled function: give a numba cfunc, a ctypes function or a cffi "
        "function pointer (ffi.addressof(lib, 'name')); for a Python function use fixups.Python"
    )


def _address_of_numba(function: Any) -> int:
    signature = function._sig
    types = [str(argument) for argument in signature.args]
    is_right = (
        len(types) == 5
        and all(types[place].endswith("*") for place in (0, 1, 4))
        and types[2:4] == ["int64", "int64"]
        and str(signature.return_type) == "int32"
    )
    if not is_right:
        raise TypeError(
            f"the cfunc's signature is {signature}; it must be like {Compiled.SIGNATURE}"
        )
    return int(function.address)


def _address_of_ctypes(function: Any) -> int:
    owned = getattr(function, "_objects", None) or {}
    if any("CThunk" in type(value).__name__ for value in owned.values()):
        raise TypeError(
            "this ctypes function calls back into Python, which would wait for a lock that the "
            "reader holds; use fixups.Python"
        )
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _address_of_cffi(function: Any) -> int:
    if " calling <" in repr(function):
        raise TypeError(
            "this cffi function calls back into Python, which would wait for a lock that the "
            "reader holds; use fixups.Python"
        )
    import _cffi_backend

    backend = _cffi_backend
    if backend.typeof(function).kind != "function":
        raise _not_compiled(function)
    word = backend.new_primitive_type("uintptr_t")
    return int(backend.cast(word, function))
