# SPDX-License-Identifier: Apache-2.0
"""`mapscratch report` in a real browser: what is drawn, and that nothing is asked of a network."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.browser import WHY_NOT, Browser, find_browser
from support.report_documents import (
    MIXED,
    make_compare,
    make_cost,
    make_ps,
    make_survey,
    saved,
)

from mapscratch.cli import main

image = pytest.importorskip("matplotlib.image")
pytestmark = pytest.mark.skipif(find_browser() is None, reason=WHY_NOT)

WIDE, PHONE = 1000, 390
TEXTS_THAT_TOUCH = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg.chart")) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const boxes = [...svg.querySelectorAll("text")].map((text) => {
      const box = text.getBoundingClientRect();
      return {text: text.textContent, left: box.left, right: box.right, top: box.top, bottom: box.bottom};
    }).filter((box) => box.right > box.left);
    boxes.forEach((one, index) => {
      const room = 1.5;
      if (one.left < frame.left - room || one.right > frame.right + room ||
          one.top < frame.top - room || one.bottom > frame.bottom + room) found.push(`cut: ${one.text}`);
      for (const other of boxes.slice(index + 1)) {
        // Boxes of lines of text have some room of their own above and below.
        if (one.left < other.right && other.left < one.right &&
            one.top + 3 < other.bottom && other.top + 3 < one.bottom) {
          found.push(`${one.text} | ${other.text}`);
        }
      }
    });
  }
  return found;
})()
"""  # noqa: E501
VISIBLE = (
    "[...document.querySelectorAll('svg.chart')].filter((svg) => svg.getBoundingClientRect().width)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    arguments = ["report", "-o", str(folder / "report.html")]
    for document in (make_survey(), make_cost(), make_ps()):
        path = saved(document, folder)
        arguments += [f"--{path.stem}", str(path)]
    for swap in ("file", "zram"):
        arguments += ["--compare", str(saved(make_compare(swap), folder, f"{swap}.json"))]
    assert main(arguments) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.look(width=WIDE)
    browser.open(page)
    return browser


def pixels(png: bytes, name: str) -> np.ndarray:
    """An image, not blank; kept for whoever wants to look (MAPSCRATCH_SCREENSHOTS: a folder)."""
    if folder := os.environ.get("MAPSCRATCH_SCREENSHOTS"):
        (Path(folder) / name).write_bytes(png)
    found = image.imread(io.BytesIO(png))[..., :3]
    assert len(np.unique(found[::2, ::2].sum(axis=2))) > 50
    return found


def of_the_page(contacted: list[str]) -> list[str]:
    """Without what the browser does by itself: asking its maker for the time and for updates.

    What it gives up before it has asked for anything says nothing.
    """
    own = re.compile(r"^[A-Z]+ (http://)?[\w.-]+\.(google|googleapis|gstatic)\.com[:/]")
    return [one for one in contacted if one and not own.match(one)]


def test_nothing_is_asked_for_and_nothing_goes_wrong(opened, page):
    assert opened.problems == []
    assert set(opened.requests) <= {page.as_uri()}
    assert of_the_page(opened.contacted) == []
    assert "<link" not in page.read_text()  # which could have it connect, and ask for nothing


def test_its_policy_forbids_what_is_not_its_own(opened):
    opened.run("document.body.insertAdjacentHTML('beforeend', '<img src=http://localhost:1/x>')")
    opened.run("document.body.append(Object.assign(document.createElement('script'), {text: 'a'}))")
    refused = [problem for problem in opened.problems if "Content Security Policy" in problem]
    assert len(refused) >= 2
    assert opened.refused == ["csp"]
    assert of_the_page(opened.contacted) == []
    opened.problems.clear()


@pytest.mark.parametrize("width", [WIDE, 700, PHONE])
def test_no_text_is_cut_and_none_lies_on_another(opened, width):
    opened.look(width=width)
    assert opened.run(TEXTS_THAT_TOUCH) == []
    assert opened.run("document.documentElement.scrollWidth") <= width
    keys = opened.run(f"{VISIBLE}.map((svg) => svg.closest('figure').id)")
    assert keys == ["chart-trip", "chart-sweep"]


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (PHONE, 844)])
def test_links_and_verdict_are_within_the_first_screen(opened, width, height):
    opened.look(width=width)
    for what in ("nav", "#verdict"):
        bottom = opened.run(f"document.querySelector('{what}').getBoundingClientRect().bottom")
        assert bottom < height


@pytest.mark.parametrize("width", [WIDE, 700, PHONE])
def test_fixups_as_they_are_mixed_have_room(browser, tmp_path, width):
    cost = make_cost(MIXED)
    files = [str(saved(one, tmp_path)) for one in (make_survey(), cost)]
    output = tmp_path / "mixed.html"
    assert main(["report", "-o", str(output), "--survey", files[0], "--cost", files[1]]) == 0
    browser.look(width=width)
    browser.open(output)
    assert browser.run(TEXTS_THAT_TOUCH) == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    said = browser.run("document.querySelector('output').innerText")
    assert "as ld.so does it, many libraries: any number" in said
    assert "look-ups" not in said
    pixels(browser.screenshot(), f"mixed-{width}.png")


def test_what_a_screenshot_shows(opened):
    light = pixels(opened.screenshot(), "light.png")
    opened.look(width=WIDE, dark=True)
    dark = pixels(opened.screenshot(), "dark.png")
    assert light.mean() > 0.85
    assert dark.mean() < 0.25
    opened.look(width=PHONE)
    phone = pixels(opened.screenshot(), "phone.png")
    assert phone.shape[1] == PHONE
    assert phone.mean() > 0.8


def test_on_paper_it_is_light_and_without_controls(opened):
    opened.look(width=WIDE, dark=True, media="print")
    assert pixels(opened.screenshot(), "print.png").mean() > 0.85
    assert opened.run("getComputedStyle(document.querySelector('.device-form')).display") == "none"
    assert opened.run(TEXTS_THAT_TOUCH) == []
    printed = opened.pdf()
    if folder := os.environ.get("MAPSCRATCH_SCREENSHOTS"):
        (Path(folder) / "print.pdf").write_bytes(printed)
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


def test_the_slider_moves_a_line_and_fills_a_row(opened):
    def state() -> list[str]:
        found = opened.run(
            "[document.querySelector('output').innerText,"
            " document.querySelector('tr.slider:not([hidden])').innerText,"
            " document.querySelector('.device line').getAttribute('y1')]"
        )
        return [text.replace("\N{NO-BREAK SPACE}", " ") for text in found]

    def move(value: float) -> None:
        opened.run(
            f"(() => {{ const slider = document.querySelector('#device'); slider.value = {value};"
            " slider.dispatchEvent(new Event('input')); })()"
        )

    move(0)
    fast = state()
    # 1 µs and the kernel's 3.5 µs are less than the 7.6 µs of a drop.
    assert "A read takes 1.0 µs, a page's way out and back 4.5 µs." in fast[0]
    assert fast[1].count("never") == 4
    opened.run("document.querySelector('.presets button').click()")
    nvme = state()
    assert "80 µs" in nvme[0]
    assert "long look-ups: up to 184 a page" in nvme[0]
    assert nvme[1].count("any number") == 3
    assert float(nvme[2]) < float(fast[2])
    assert opened.run(TEXTS_THAT_TOUCH) == []


def test_without_its_script_it_says_the_same(browser, page):
    browser.look(width=WIDE)
    browser.open(page, script=False)
    text = browser.run("document.body.innerText")
    shown = browser.run("getComputedStyle(document.querySelector('.device-form')).display")
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == "none"
    assert "NVMe" in text
    assert "the slider's device" not in text
