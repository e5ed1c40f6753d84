# SPDX-License-Identifier: Apache-2.0
"""The one reader of ELF relocations.

    libraries = [relocations(path) for path in default_libraries()]
    for plan in link(libraries):
        words = plan.values(bases)      # what a loader would store at plan.offsets

`relocations` reads what a library's file says; `link` resolves several libraries against each
other. Read are little-endian ELF64 shared libraries and position-independent executables for
x86-64 and aarch64; anything else, damaged files included, raises ElfError.
"""

from .convert import Conversion, convert, overlay, read_record
from .convertible import ConversionError
from .headers import LoadSegment
from .kinds import RelocationKind
from .libraries import default_libraries
from .linking import FixupPlan, link
from .reader import LibraryRelocations, relocations
from .source import ElfError
from .survey import FixupsPerPage, LibrarySurvey, TouchedPages, fixups_per_page, survey
from .symbols import SymbolTable

__all__ = [
    "Conversion",
    "ConversionError",
    "ElfError",
    "FixupPlan",
    "FixupsPerPage",
    "LibraryRelocations",
    "LibrarySurvey",
    "LoadSegment",
    "RelocationKind",
    "SymbolTable",
    "TouchedPages",
    "convert",
    "default_libraries",
    "fixups_per_page",
    "link",
    "overlay",
    "read_record",
    "relocations",
    "survey",
]
