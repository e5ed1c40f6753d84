# SPDX-License-Identifier: Apache-2.0
"""Fixups that are a table of aligned 8-byte words."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from mapscratch import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

_WORD = 8


def _word_array(values: Buffer | Iterable[int]) -> array[int]:
    try:
        view = memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        return array("Q", values)  # type: ignore[arg-type]
    if view.itemsize != _WORD:
        raise ValueError(
            f"a buffer of words has items of 8 bytes; those of this one have {view.itemsize}"
        )
    words = array("Q")
    words.frombytes(view.tobytes())
    return words


class Words:
    """Sets words: at page-in, the word at each offset becomes its value.

    Args:
        offsets: byte offsets into the mapping, ascending multiples of 8: a buffer of 8-byte items
            (a NumPy uint64 array, an ``array("Q")``) or an iterable of ints; or a mapping from
            offset to value, in any order.
        values: as many unsigned 64-bit values; not given with a mapping.

    Raises:
        ValueError: the two are not as many. (Offsets are checked when a mapping is made.)
        OverflowError: a value is not in range(2**64).
    """

    rule: ClassVar[int] = _native.RULE_SET

    def __init__(
        self,
        offsets: Mapping[int, int] | Buffer | Iterable[int],
        values: Buffer | Iterable[int] | None = None,
    ) -> None:
        if isinstance(offsets, Mapping):
            if values is not None:
                raise ValueError("a mapping of offsets to values already has the values")
            items = sorted(offsets.items())
            offsets = [offset for offset, _ in items]
            values = [value for _, value in items]
        elif values is None:
            raise ValueError("values are missing")
        self.offsets = _word_array(offsets)
        self.operands = _word_array(values)
        if len(self.offsets) != len(self.operands):
            raise ValueError(
                f"{len(self.offsets)} offsets, but {len(self.operands)} values: "
                "each offset needs one"
            )

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} words>"


class Relocate(Words):
    """Adds a load bias to words: at page-in, each becomes what the file holds plus the bias.

    This is what relocation by a load bias is once symbols are known; the sum wraps at 2**64.

    Args:
        load_bias: the number added, in range(2**64).
        offsets: as for `Words`.
    """

    rule: ClassVar[int] = _native.RULE_ADD

    def __init__(self, load_bias: int, offsets: Buffer | Iterable[int]) -> None:
        words = _word_array(offsets)
        super().__init__(words, array("Q", [load_bias]) * len(words))
        self.load_bias = load_bias

    def __repr__(self) -> str:
        return f"<Relocate of {len(self)} words by {self.load_bias:#x}>"
