# SPDX-License-Identifier: Apache-2.0
"""Room for thread-local variables of libraries in a program that has a loader hook.

Without a hook ld.so first loads all libraries that a program starts with, and then makes the block
of each thread as large as their variables need (static TLS). With one it makes the block before
any library is loaded, so that theirs have to fit into the reserve for libraries that come later:
1,872 bytes with one hook (glibc, elf/dl-tls.c, `_dl_tls_static_surplus_init`). jemalloc alone takes
2,632, and the program ends with "cannot allocate memory in static TLS block". The tunable
``glibc.rtld.optional_static_tls`` makes the reserve larger; it is taken from each thread's stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mapscratch.run.segments import read_facts

TUNABLES = "GLIBC_TUNABLES"
_OPTIONAL_STATIC_TLS = "glibc.rtld.optional_static_tls"
_GLIBC_DEFAULT = 512
_LEAST_BYTES = 4096
"""For whatever the program starts, which nobody looks at before. Not more: a thread may have been
given the smallest stack, PTHREAD_STACK_MIN, which is 16 KiB."""
_NAMESPACES = "glibc.rtld.nns"
_MOST_NAMESPACES = 16
"""DL_NNS of glibc; beyond it ld.so ends a program ("Failed loading 1 audit modules")."""


def needed_bytes(libraries: Iterable[Path]) -> int:
    """What libraries take of the reserve together.

    Args:
        libraries: those that ld.so loads at start, without the executable, whose variables have
            their place.
    """
    return sum(read_facts(path).static_tls for path in libraries)


def tunables(given: str, needed: int, hooks: int) -> str:
    """The value of GLIBC_TUNABLES with which a program starts under loader hooks.

    Args:
        given: the user's, which stays; of two values of one tunable ld.so takes the last.
        needed: bytes, as `needed_bytes` has it.
        hooks: how many there are (LD_AUDIT); each takes one of 16 namespaces.
    """
    values = [given] if given else []
    wanted = max(_LEAST_BYTES, _GLIBC_DEFAULT + needed)
    if _number(given, _OPTIONAL_STATIC_TLS) < wanted:
        values.append(f"{_OPTIONAL_STATIC_TLS}={wanted}")
    if _number(given, _NAMESPACES) > _MOST_NAMESPACES - hooks > 0:
        values.append(f"{_NAMESPACES}={_MOST_NAMESPACES - hooks}")
    return ":".join(values)


def _number(given: str, name: str) -> int:
    """What ld.so reads for a tunable: 17, 0x11 or 021; 0 if it isn't there."""
    pairs = (one.partition("=") for one in given.split(":"))
    text = ([value for key, _, value in pairs if key == name] or ["0"])[-1]
    base = 16 if text[:2].lower() == "0x" else 8 if text.startswith("0") else 10
    try:
        return int(text, base)
    except ValueError:
        return 0
