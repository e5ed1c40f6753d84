# SPDX-License-Identifier: Apache-2.0
"""JSON from a file that anybody may have written: whatever it holds, reading it ends well."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mapscratch.errors import UserError
from mapscratch.opening import open_regular

T = TypeVar("T")

_LARGEST_FILE = 256 << 20
_LARGEST_NUMBER = 1e18  # measured or counted: sums of many such numbers are finite still
_LONGEST = 60


class ReadingError(UserError, ValueError):
    """The file is no use; the message says what is wrong with it, and what to name instead."""


def read_json(path: Path, wanted: str) -> Any:
    """What a regular file holds, all of whose numbers are finite; else `wanted` should be named."""
    try:
        return json.loads(
            _content(path), parse_constant=_number, parse_float=_number, parse_int=_whole_number
        )
    except _NoUseError as error:
        reason = str(error)
    except RecursionError:
        reason = "is nested too deeply"
    except ValueError:
        reason = "is no JSON"
    raise ReadingError(f"{path} {reason}: name {wanted}")


def checked_document(value: object, name: str, version: int, where: str) -> dict[str, Any]:
    """What was read from somewhere, if it is a document of this kind and version."""
    document = value if isinstance(value, dict) else {}
    kind, its = document.get("document"), document.get("version")
    if kind != name:
        what = "no document of mapscratch"
        if isinstance(kind, str):
            what = f"a document {kind[:_LONGEST]!a}"
        raise ReadingError(f"{where}: {what}, and a {name} is wanted: name {_saved_by(name)}")
    if its != version or isinstance(its, bool):
        newer = isinstance(its, int) and its > version
        what = "a newer mapscratch made it, take that" if newer else "make it again"
        text = str(its)[:_LONGEST]
        text = text if text.isascii() and text.isalnum() else ascii(text)
        raise ReadingError(
            f"{where}: version {text} of {name}, and this mapscratch reads {version}: {what}"
        )
    return document


def _saved_by(name: str) -> str:
    return f"what `mapscratch {name.rpartition('.')[2]} --json` saved"


def converted(value: object, kind: type[T], where: str) -> T:
    """What was read from somewhere, as an object of a class whose members have types."""
    try:
        return msgspec.convert(value, kind, dec_hook=_path)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise ReadingError(
            f"{where!a}: {error}: was this file changed by hand? If not, make it again"
        ) from None


def _path(kind: type[Any], value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise ValueError(f"Expected {kind.__name__}")
    return Path(value)


def read_document(path: Path, kind: type[T], name: str, version: int) -> T:
    """What a class wants of a document from a file."""
    document = checked_document(read_json(path, _saved_by(name)), name, version, str(path))
    return converted(document, kind, str(path))


class _NoUseError(ValueError):
    """Why a file is no use, in words that follow its name."""


def _content(path: Path) -> bytes:
    try:
        with open(open_regular(path), "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (IsADirectoryError, ValueError):
        raise _NoUseError("is no regular file") from None
    if len(content) > _LARGEST_FILE:
        raise _NoUseError(f"is larger than {_LARGEST_FILE >> 20} MiB")
    return content


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > _LARGEST_NUMBER:
        raise _NoUseError(f"has a number that makes no sense ({text[:20]})")
    return value


def _whole_number(text: str) -> int:
    _number(text)
    return int(text)
