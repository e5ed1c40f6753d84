# SPDX-License-Identifier: Apache-2.0
"""Fixtures: each engine, a file whose every word is known, a mapping of it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
from support.engines import AVAILABLE, STATUS, why_not
from support.files import PatternFile, make_file
from support.patience import pytest_timeout_set_timer  # noqa: F401

from mapscratch import ScratchMap, cache
from mapscratch.cache import purgeable
from mapscratch.engine import dontneed

MapFile = Callable[..., ScratchMap]

# A slow example is no fault of what is tested. Where a processor
# is emulated: `--hypothesis-profile guest`.
hypothesis.settings.register_profile("any", deadline=None)
hypothesis.settings.load_profile("any")
hypothesis.settings.register_profile("guest", max_examples=10, deadline=None)

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C;
# nohup, a closed terminal.
for _number, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def _engine_or_skip(engine: str) -> str:
    if not STATUS[engine].available:
        pytest.skip(why_not(engine))
    return engine


@pytest.fixture(scope="session")
def purgeable_pages() -> None:
    """The kernel takes pages that are freed lazily."""
    if reason := purgeable.why_not():
        pytest.skip(reason)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that any user may read and write.

    Those of pytest are its user's; whoever opens one has it closed by the next run that starts.
    """
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mapscratch-test-") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


@pytest.fixture
def small_pages(purgeable_pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache uses huge pages: what it holds can be counted to the page."""
    monkeypatch.setattr(cache, "why_no_slots", lambda: "this is a test")


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the test drops pages of `dontneed`: others on this machine may be short."""
    monkeypatch.setattr(dontneed, "_woken_by", "nothing: this is a test")


@pytest.fixture(params=AVAILABLE)
def engine(request: pytest.FixtureRequest, undisturbed: None) -> str:
    """Each engine that runs here; test_engines_choice.py says why another doesn't."""
    engine: str = request.param
    return engine


@pytest.fixture
def lazyfree() -> str:
    """For what only this engine does."""
    return _engine_or_skip("lazyfree")


@pytest.fixture
def kernel() -> str:
    """For what only this engine does."""
    return _engine_or_skip("kernel")


@pytest.fixture
def file(tmp_path: Path) -> PatternFile:
    """40 pages and a part of one: more than two fault-arounds, and an incomplete last page."""
    return make_file(tmp_path / "pattern", 40.3)


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory on a disk: pytest's own may be memory, as /tmp of Debian 13 is."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


@contextmanager
def _map_maker(engine: str, file: PatternFile) -> Iterator[MapFile]:
    made: list[ScratchMap] = []

    def make(**arguments: object) -> ScratchMap:
        mapping = ScratchMap(file.path, engine=engine, **arguments)  # type: ignore[arg-type]
        made.append(mapping)
        return mapping

    yield make
    for mapping in made:
        try:
            mapping.close()
        except BufferError:
            continue


@pytest.fixture
def map_file(engine: str, file: PatternFile) -> Iterator[MapFile]:
    """Makes mappings of the file with the engine, closed at the end if nobody has a view."""
    with _map_maker(engine, file) as make:
        yield make


@pytest.fixture
def map_lazyfree(lazyfree: str, file: PatternFile) -> Iterator[MapFile]:
    """As `map_file`, with this engine alone."""
    with _map_maker(lazyfree, file) as make:
        yield make


@pytest.fixture
def m(map_file: MapFile) -> ScratchMap:
    """A mapping of the whole file."""
    return map_file()
