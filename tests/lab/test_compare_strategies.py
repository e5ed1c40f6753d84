# SPDX-License-Identifier: Apache-2.0
"""Windows of each strategy: mapped, reclaimed, healed, and checked so that errors are found."""

from __future__ import annotations

import os

import numpy as np
import pytest
from elf_oracle import compile_library, needs_compiler, needs_readelf

from mapscratch import fixups
from mapscratch.lab.compare.session import Session
from mapscratch.lab.rig.strategies import STRATEGIES, Verification, Window
from mapscratch.lab.rig.workload import read_workload

pytestmark = [needs_compiler, needs_readelf]

RUNNABLE = [name for name, strategy in STRATEGIES.items() if not strategy.unavailable()]
SOURCE = "static int x; int *table[3000] = {[0 ... 2999] = &x};"


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    directory = tmp_path_factory.mktemp("library")
    return read_workload([compile_library(directory, "table", SOURCE)], pages=1)


@pytest.fixture(params=RUNNABLE)
def window(request, workload):
    (bases,) = workload.load_bases("test")
    window = Window(STRATEGIES[request.param], workload.libraries[0], bases)
    window.map()
    window.touch()
    window.heal()
    yield window
    window.close()


def test_every_word_is_right_at_first_and_after_reclaim(window):
    checked = len(window.library.content)
    assert window.verify() == Verification(checked, 0, 0)
    window.strategy.reclaim(window.memory)
    window.touch()
    window.heal()
    assert window.verify() == Verification(checked, 0, 0)


def test_fixups_are_missing_after_a_drop_only_where_nobody_makes_them(window):
    states = window.states()
    assert states.copies == len(window.library.pages)
    dropped = window.strategy.reclaim(window.memory)
    after = window.states()
    window.touch()
    made = window.heal()
    if not window.strategy.self_healing:
        assert dropped == made == 0
    elif window.strategy.reclaimed_by_kernel:
        assert dropped == after.swapped == 0
        assert made == after.fixups_absent > 0  # the kernel need not take every page
    else:
        assert dropped == states.copies - after.copies == len(window.library.pages)
        assert made == len(window.library.plan)


def test_a_wrong_word_is_found(window):
    offset = int(window.library.plan.offsets[7])
    window.memory[offset : offset + 8] = b"garbage!"
    assert window.verify().wrong == 1


def test_a_wrong_word_outside_of_the_fixups_is_found(window):
    untouched = np.setdiff1d(
        np.arange(len(window.library.content)), window.library.plan.offsets // 8
    )
    offset = int(untouched[0]) * 8
    window.memory[offset : offset + 8] = b"garbage!"
    assert window.verify().wrong == 1


def test_missing_fixups_are_excused_only_where_pages_may_come_back_without(window):
    window.forget()
    found = window.verify()
    expected = len(window.library.plan)
    if window.strategy.self_healing:
        assert (found.wrong, found.lost) == (0, expected)
    else:
        assert (found.wrong, found.lost) == (expected, 0)


def test_a_fixup_that_is_never_made_is_wrong_everywhere(window, monkeypatch):
    monkeypatch.setattr(window, "heal", lambda: 0)
    window.forget()
    assert window.verify().wrong == len(window.library.plan)


def test_page_in_fixups_come_with_the_page(workload):
    if "lazyfree" not in RUNNABLE:
        pytest.skip(STRATEGIES["lazyfree"].unavailable())
    session = Session(workload, STRATEGIES["lazyfree"], "test")
    session.ready()
    session.first_page_in()
    assert session.fixups().count == 0
    session.reclaim()
    absent = session.state().pages.fixups_absent
    session.page_in()
    assert session.state().pages.fixups_absent == 0
    assert absent > 0
    assert session.fixups().count == 0
    assert session.verify().wrong == 0
    session.close()


def test_a_session_measures_its_windows_only(workload):
    session = Session(workload, STRATEGIES["private"], "test")
    session.ready()
    session.first_page_in()
    session.fixups()
    ballast = bytearray(os.urandom(1 << 20))
    memory = session.state().memory
    mapped = workload.mapped_pages * os.sysconf("SC_PAGESIZE")
    assert workload.pages * os.sysconf("SC_PAGESIZE") <= memory.anonymous <= mapped
    assert memory.rss <= mapped < len(ballast)
    session.close()


def test_the_size_of_a_fixup_table_is_what_is_reported(workload):
    words = fixups.Words(workload.libraries[0].plan.offsets, workload.libraries[0].file_words)
    assert words.offsets.itemsize + words.operands.itemsize == 16


def test_an_engine_that_does_not_run_says_why():
    for name, strategy in STRATEGIES.items():
        assert (strategy.unavailable() == "") == (name in RUNNABLE)
    assert "private" in RUNNABLE
