# SPDX-License-Identifier: Apache-2.0
"""What workers map: windows of libraries, what is stored there and what is expected."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from elf_oracle import compile_library, needs_compiler, needs_readelf
from rich.console import Console

from mapscratch.lab.compare.document import comparison_document
from mapscratch.lab.compare.rounds import compare
from mapscratch.lab.compare.terminal import print_comparison
from mapscratch.lab.oracle import ExpectedWord, SecondOpinion
from mapscratch.lab.rig import workload as module
from mapscratch.lab.rig.results import Settings
from mapscratch.lab.rig.workload import WorkloadError, read_workload

SOURCE = "static int x; int *table[600] = {[0 ... 599] = &x};"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_library(tmp_path_factory.mktemp("library"), "table", SOURCE)


@needs_compiler
@needs_readelf
def test_the_set_is_mapped_until_there_are_enough_pages(library):
    once = read_workload([library], pages=1)
    assert once.copies == 1
    assert once.pages >= 2
    many = read_workload([library], pages=10 * once.pages - 1)
    assert many.copies == 10
    assert many.pages == 10 * once.pages
    assert many.fixups == 10 * once.fixups


@needs_compiler
@needs_readelf
def test_mappings_of_a_process_are_limited(library):
    assert read_workload([library], pages=10**6).copies == module._MOST_MAPPINGS


@needs_compiler
@needs_readelf
def test_plan_and_expectation_agree_and_differ_from_the_file(library):
    workload = read_workload([library], pages=1)
    (only,) = workload.libraries
    (bases,) = workload.load_bases("a process")
    expected = only.expected_content(bases)
    stored = only.content.copy()
    stored[only.plan.offsets // 8] = only.plan.values(bases)
    assert np.array_equal(stored, expected)
    assert np.count_nonzero(expected != only.content) >= 600
    assert np.array_equal(only.file_words, only.content[only.plan.offsets // 8])
    assert only.fixups_by_page.sum() == len(only.plan)


@needs_compiler
@needs_readelf
def test_every_process_and_copy_has_its_own_page_aligned_bases(library):
    workload = read_workload([library], pages=30)
    bases = [
        base for process in ("1", "2") for copy in workload.load_bases(process) for base in copy
    ]
    assert len(set(bases)) == 2 * workload.copies
    assert all(base % 4096 == 0 and 0 < base < 1 << 47 for base in bases)
    assert workload.load_bases("1") == workload.load_bases("1")


@needs_compiler
@needs_readelf
def test_a_library_named_twice_counts_once(library):
    assert read_workload([library, library], pages=1).linked == 1


@needs_compiler
@needs_readelf
def test_without_relocations_there_is_nothing_to_compare(tmp_path):
    empty = compile_library(tmp_path, "empty", "int f(void) { return 1; }")
    with pytest.raises(WorkloadError, match="no relocations"):
        read_workload([empty])


@needs_compiler
def test_disagreement_about_where_is_an_error(library, monkeypatch):
    elsewhere = SecondOpinion([{1 << 30: ExpectedWord(0, 0)}], ("readelf",), ())
    monkeypatch.setattr(module, "second_opinion", lambda paths: elsewhere)
    with pytest.raises(WorkloadError, match="please report"):
        read_workload([library])


@needs_readelf
@needs_compiler
def test_who_was_asked_is_said(library, monkeypatch):
    """A reader that can't be used stands in a note, the one that was used beside the figure."""
    opinion = module.second_opinion([library])
    noted = SecondOpinion(opinion.words, ("pyelftools",), ("liba.so: readelf finds 0 of 9 ...",))
    monkeypatch.setattr(module, "second_opinion", lambda paths: noted)
    workload = read_workload([library])
    settings = Settings(
        processes=(1,), rounds=1, seconds=60, strategies=("private",), pressure="pageout",
        swap="none", pages=1,
    )  # fmt: skip
    comparison = compare(workload, settings, announce=lambda _: None, progress=lambda *_: None)
    assert comparison.readers == ("pyelftools",)
    assert noted.notes[0] in comparison.notes
    document = comparison_document(comparison, datetime.now(UTC))
    assert document["checked_against"] == ["pyelftools"]
    console = Console(file=io.StringIO(), width=200)
    print_comparison(console, comparison, verbose=False)
    assert "words checked against pyelftools, 0 wrong" in console.file.getvalue()
