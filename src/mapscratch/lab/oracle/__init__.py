# SPDX-License-Identifier: Apache-2.0
"""A second opinion on what a loader would store, from what other readers of ELF files say.

The experiment checks every word of every page against this and not against `mapscratch.elf`, whose
words it stored. Nothing is shared with that package: binutils' readelf parses the files, the rules
of symbol resolution (those that `mapscratch.elf.link` documents) are written down a second time,
without arrays.

A reader may itself be wrong: readelf 2.44 prints of RELR, when it is asked for the dynamic section,
the heading and no line. So what a reader finds is held against the sizes that the file states, and
a reader that finds less is not used: the next one is, and the answer says so. The readers are
readelf by the dynamic section, readelf by the section headers, and pyelftools.
"""

from mapscratch.lab.oracle.opinion import SecondOpinion, second_opinion
from mapscratch.lab.oracle.resolution import ExpectedWord
from mapscratch.lab.oracle.tables import OracleError

__all__ = ["ExpectedWord", "OracleError", "SecondOpinion", "second_opinion"]
