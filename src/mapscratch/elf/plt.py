# SPDX-License-Identifier: Apache-2.0
"""PLT entries of x86-64: found, recognised, and rewritten so that they bind themselves again.

An entry is 16 bytes, at a multiple of 16. Without section headers (stripped files have none) it is
recognised by what it does: it jumps through the GOT slot of a relocation in DT_JMPREL and, to have
the slot bound, pushes the number of just that relocation and goes to PLT0. No other code does.

There are two forms, `.plt` and, for indirect branch tracking, `.plt.sec` with `.plt`::

    ff 25 slot | 68 number | e9 PLT0          jmp *slot; push number; jmp PLT0

    f3 0f 1e fa | [f2] ff 25 slot | nop       endbr64; jmp *slot
    f3 0f 1e fa | 68 number | [f2] e9 PLT0    endbr64; push number; jmp PLT0

What is written leads to the push, so that the entry needs no slot. The word that is patched to bind
it is marked, 8 bytes at a multiple of 8; what follows in an entry never changes::

    [e9 01 00 00 00 cc 68 number] | e9 PLT0   jmp over the cc

    f3 0f 1e fa 0f 1f 40 00 | [e9 to the lazy entry, 0f 1f 00]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .headers import Headers, LoadSegment
from .source import ByteSource

ENTRY_SIZE = 16
JUMP_SLOT_TYPE = 7

_CHUNK_BYTES = 16 << 20
"""Text is looked through in pieces, because some libraries have half a gigabyte of it."""

_ENDBR64 = (0xF3, 0x0F, 0x1E, 0xFA)
_NOP_OF_3 = (0x0F, 0x1F, 0x00)
_NOP_OF_4 = (0x0F, 0x1F, 0x40, 0x00)
_PLAIN_UNFIXED = (0xE9, 0x01, 0x00, 0x00, 0x00, 0xCC)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Code that looks like an entry; m of them.

    Attributes:
        addresses: int64, shape (m,).
        content: uint8, shape (m, 16).
        operand_at: int64, shape (m,): where in it the displacement of `jmp *slot`, or the number
            that is pushed, stands.
        jump_at: int64, shape (m,): where the opcode e9 of the jump to PLT0 stands, if it has one.
    """

    addresses: NDArray[np.int64]
    content: NDArray[np.uint8]
    operand_at: NDArray[np.int64]
    jump_at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.addresses)

    def operands(self) -> NDArray[np.int64]:
        """The signed 32 bits at `operand_at`."""
        return _signed_words(self.content, self.operand_at)

    def slots(self) -> NDArray[np.int64]:
        """The address that `jmp *slot` reads."""
        return self.addresses + self.operand_at + 4 + self.operands()

    def plt0(self) -> NDArray[np.int64]:
        """Where the jump leads."""
        after = self.jump_at + 1
        return self.addresses + after + 4 + _signed_words(self.content, after)


@dataclass(frozen=True, slots=True, eq=False)
class Plt:
    """The PLT of a library, all of whose entries can be converted.

    Attributes:
        form: ".plt" or ".plt.sec".
        words: int64, shape (n,), for each relocation of DT_JMPREL the address of the word that is
            patched; 0 for those that have no entry.
        addresses: int64, shape (m,), of the entries that are rewritten, ascending.
        content: uint8, shape (m, 16), what is written there.
        plt0: the address of PLT0.
        operands: the addresses of the two 4-byte displacements in PLT0: of the slot that is pushed,
            and of the slot that is jumped through.
    """

    form: str
    words: NDArray[np.int64]
    addresses: NDArray[np.int64]
    content: NDArray[np.uint8]
    plt0: int
    operands: tuple[int, int]


class PltError(ValueError):
    """The PLT is not of a form that can be converted; the message says why."""


def find_plt(source: ByteSource, headers: Headers, relocations: NDArray[np.void]) -> Plt:
    """Find the entries of all JUMP_SLOT relocations.

    Args:
        source: the library.
        headers: its headers.
        relocations: DT_JMPREL, shape (n,), of `RELA` (tables.py).

    Raises:
        PltError: there are none, or some can't be converted. (To convert a part of them would
            break the others, for PLT0 is changed.)
        ElfError: the file is damaged.
    """
    is_slot = relocations["type"] == JUMP_SLOT_TYPE
    if not is_slot.any():
        raise PltError("has no PLT entries that are bound by name")
    plain, second, lazy = _scan(source, headers)
    form = ".plt.sec" if _matching_slots(second, relocations).any() else ".plt"
    if form == ".plt":
        words, addresses, content, plt0 = _plain_entries(plain, relocations)
    else:
        words, addresses, content, plt0 = _second_entries(second, lazy, relocations)
    missing = int(np.count_nonzero(is_slot & (words == 0)))
    if missing:
        raise PltError(
            f"{missing} of {int(np.count_nonzero(is_slot))} PLT entries are of an unknown form"
        )
    order = np.argsort(addresses)
    return Plt(
        form, words, addresses[order], content[order], plt0, _plt0_operands(source, headers, plt0)
    )


def count_plt_got(source: ByteSource, headers: Headers, slots: NDArray[np.uint64]) -> int:
    """How many entries jump through one of these GOT slots and have no part that binds it.

    They take 8 bytes, `jmp *slot; xchg %ax, %ax`, or the 16 bytes of an entry of `.plt.sec`.
    """
    wanted = slots.astype(np.int64)
    count = 0
    for address, rows in _all_rows(source, headers):
        second = _second_candidates(address, rows)
        halves = rows.reshape(-1, ENTRY_SIZE // 2)
        short = np.flatnonzero(_has(halves, 0, (0xFF, 0x25)) & _has(halves, 6, (0x66, 0x90)))
        starts = address + short * (ENTRY_SIZE // 2)
        through = starts + 6 + _signed_words(halves[short], np.full(len(short), 2))
        count += int(np.isin(through, wanted).sum() + np.isin(second.slots(), wanted).sum())
    return count


def _scan(source: ByteSource, headers: Headers) -> tuple[_Candidates, _Candidates, _Candidates]:
    """Find what looks like an entry of `.plt`, of `.plt.sec`, and the lazy half of the latter."""
    found: tuple[list[_Candidates], ...] = ([], [], [])
    for address, rows in _all_rows(source, headers):
        parts = (
            _plain_candidates(address, rows),
            _second_candidates(address, rows),
            _lazy_candidates(address, rows),
        )
        for kind, part in zip(found, parts, strict=True):
            if len(part):
                kind.append(part)
    plain, second, lazy = (_joined(parts) for parts in found)
    return plain, second, lazy


def _all_rows(source: ByteSource, headers: Headers) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for segment in headers.segments:
        if segment.executable and not segment.writable:
            yield from _rows(source, segment)


def _rows(source: ByteSource, segment: LoadSegment) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The bytes of a segment as rows of 16, with the address of the first; aligned by address."""
    skipped = -segment.virtual_address % ENTRY_SIZE
    for start in range(skipped, segment.file_size, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, segment.file_size - start) // ENTRY_SIZE * ENTRY_SIZE
        data = source.read(segment.file_offset + start, size, "text")
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, ENTRY_SIZE)
        yield segment.virtual_address + start, rows


def _plain_candidates(address: int, rows: NDArray[np.uint8]) -> _Candidates:
    matches = _has(rows, 0, (0xFF, 0x25)) & _has(rows, 6, (0x68,)) & _has(rows, 11, (0xE9,))
    return _candidates(address, rows, np.flatnonzero(matches), operand_at=2, jump_at=11)


def _second_candidates(address: int, rows: NDArray[np.uint8]) -> _Candidates:
    marked = np.flatnonzero(_has(rows, 0, _ENDBR64))
    content = rows[marked]
    # f2 is the prefix BND, of a time when Intel's MPX was meant to be used.
    bound = _has(content, 4, (0xF2, 0xFF, 0x25))
    matches = _has(content, 4, (0xFF, 0x25)) | bound
    return _candidates(
        address, rows, marked[matches], operand_at=6 + bound[matches].astype(np.int64), jump_at=0
    )


def _lazy_candidates(address: int, rows: NDArray[np.uint8]) -> _Candidates:
    pushes = np.flatnonzero(_has(rows, 0, (0x68,)) | _has(rows, 0, (*_ENDBR64, 0x68)))
    content = rows[pushes]
    push_at = np.where(content[:, 0] == 0x68, 0, 4).astype(np.int64)
    jump_at = push_at + 5
    jump_at += _bytes_at(content, jump_at) == 0xF2
    matches = _bytes_at(content, jump_at) == 0xE9
    return _candidates(
        address, rows, pushes[matches], operand_at=push_at[matches] + 1, jump_at=jump_at[matches]
    )


def _plain_entries(
    plain: _Candidates, relocations: NDArray[np.void]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], int]:
    numbers = _signed_words(plain.content, np.full(len(plain), 7))
    chosen = _matching(numbers, plain.slots(), relocations)
    plt0 = _only(plain.plt0()[chosen])
    numbers, addresses = numbers[chosen], plain.addresses[chosen]
    words = _by_number(numbers, addresses, len(relocations))
    content = plain.content[chosen].copy()
    content[:, : len(_PLAIN_UNFIXED)] = _PLAIN_UNFIXED
    return words, addresses, content, plt0


def _second_entries(
    second: _Candidates, lazy: _Candidates, relocations: NDArray[np.void]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], int]:
    chosen = np.flatnonzero(_matching_slots(second, relocations))
    is_slot = relocations["type"] == JUMP_SLOT_TYPE
    slot_numbers = np.flatnonzero(is_slot)
    slots = relocations["address"][slot_numbers].astype(np.int64)
    order = np.argsort(slots)
    numbers = slot_numbers[order[np.searchsorted(slots, second.slots()[chosen], sorter=order)]]
    lazy_of = _lazy_by_number(lazy, numbers, len(relocations))
    plt0 = _only(lazy.plt0()[lazy_of])
    addresses = second.addresses[chosen]
    words = _by_number(numbers, addresses + 8, len(relocations))
    content = second.content[chosen].copy()
    content[:, 4:8] = _NOP_OF_4
    content[:, 8] = 0xE9
    distances = lazy.addresses[lazy_of] - (addresses + 13)
    if len(distances) and int(np.abs(distances).max()) >= 1 << 31:
        raise PltError("its two PLTs are further than 2 GiB from each other")
    content[:, 9:13] = distances.astype("<i4")[:, None].view(np.uint8)
    content[:, 13:16] = _NOP_OF_3
    return words, addresses, content, plt0


def _lazy_by_number(lazy: _Candidates, numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Which lazy entry pushes each number; all must, and go to one PLT0."""
    pushed = lazy.operands()
    usable = np.flatnonzero((pushed >= 0) & (pushed < count) & np.isin(pushed, numbers))
    if not len(usable):
        raise PltError("its PLT entries have no lazy part")
    targets, times = np.unique(lazy.plt0()[usable], return_counts=True)
    usable = usable[lazy.plt0()[usable] == targets[np.argmax(times)]]
    at = np.full(count, -1, dtype=np.int64)
    at[pushed[usable]] = usable
    if len(np.unique(pushed[usable])) != len(usable):
        raise PltError("two lazy PLT entries push the same number")
    result: NDArray[np.int64] = at[numbers]
    if (result < 0).any():
        raise PltError("its PLT entries have no lazy part")
    return result


def _matching(
    numbers: NDArray[np.int64], slots: NDArray[np.int64], relocations: NDArray[np.void]
) -> NDArray[np.int64]:
    """The candidates whose number is that of the relocation of their slot."""
    possible = np.flatnonzero((numbers >= 0) & (numbers < len(relocations)))
    named = relocations[numbers[possible]]
    agrees = (named["type"] == JUMP_SLOT_TYPE) & (
        named["address"].astype(np.int64) == slots[possible]
    )
    chosen: NDArray[np.int64] = possible[agrees]
    return chosen


def _matching_slots(second: _Candidates, relocations: NDArray[np.void]) -> NDArray[np.bool_]:
    is_slot = relocations["type"] == JUMP_SLOT_TYPE
    return np.isin(second.slots(), relocations["address"][is_slot].astype(np.int64))


def _by_number(
    numbers: NDArray[np.int64], values: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    if len(np.unique(numbers)) != len(numbers):
        raise PltError("two PLT entries are for the same relocation")
    words = np.zeros(count, dtype=np.int64)
    words[numbers] = values
    return words


def _only(values: NDArray[np.int64]) -> int:
    found = np.unique(values)
    if len(found) != 1:
        raise PltError(f"its PLT entries lead to {len(found)} different places to be bound")
    return int(found[0])


def _plt0_operands(source: ByteSource, headers: Headers, plt0: int) -> tuple[int, int]:
    """Check `push slot(%rip); [bnd] jmp *slot(%rip)`, and find its displacements."""
    code = headers.read(source, plt0, ENTRY_SIZE, "PLT0")
    jump_at = 7 if code[6:7] == b"\xf2" else 6
    if code[:2] != b"\xff\x35" or code[jump_at : jump_at + 2] != b"\xff\x25":
        raise PltError(f"what its PLT entries lead to is of an unknown form ({code.hex(' ')})")
    return plt0 + 2, plt0 + jump_at + 2


def _candidates(
    address: int,
    rows: NDArray[np.uint8],
    chosen: NDArray[np.int64],
    operand_at: int | NDArray[np.int64],
    jump_at: int | NDArray[np.int64],
) -> _Candidates:
    zeros = np.zeros(len(chosen), dtype=np.int64)
    return _Candidates(
        address + chosen * ENTRY_SIZE, rows[chosen], zeros + operand_at, zeros + jump_at
    )


def _joined(parts: list[_Candidates]) -> _Candidates:
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return _Candidates(nothing, np.empty((0, ENTRY_SIZE), dtype=np.uint8), nothing, nothing)
    return _Candidates(
        np.concatenate([part.addresses for part in parts]),
        np.concatenate([part.content for part in parts]),
        np.concatenate([part.operand_at for part in parts]),
        np.concatenate([part.jump_at for part in parts]),
    )


def _has(rows: NDArray[np.uint8], start: int, pattern: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which rows hold the bytes at a place."""
    result: NDArray[np.bool_] = rows[:, start] == pattern[0]
    for offset, byte in enumerate(pattern[1:], start + 1):
        result &= rows[:, offset] == byte
    return result


def _bytes_at(rows: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.uint8]:
    return rows[np.arange(len(rows)), places]


def _signed_words(rows: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The signed 32 bits at one place of each row."""
    octets = rows[np.arange(len(rows))[:, None], places[:, None] + np.arange(4)]
    return np.ascontiguousarray(octets).view("<i4")[:, 0].astype(np.int64)
