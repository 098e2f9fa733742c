"""The report in headless Chromium, as a reader has it: ``make test-browser`` runs this, and installs the browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.reporting.report import ReportRequest, write_report
from tests.browser import Page, browser_page
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.browser]

PHONE, DESKTOP = 375, 1280

CONTRAST = """
(() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [21, ""];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("script, style")) continue;
    const pair = [light(parse(getComputedStyle(element).color)), light(paper(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < worst[0]) worst = [ratio, text];
  }
  return worst;
})()
"""
"""The text of least contrast with what it stands on, by WCAG 2.2."""

COLUMN = "Array.from(document.querySelectorAll('#runs table tbody tr'), (row) => row.cells[{index}].textContent)"
SORTED = "Array.from(document.querySelectorAll('#runs th'), (heading) => heading.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the report of the shipped runs."""
    out = tmp_path_factory.mktemp("shipped") / "report"
    return write_report(ReportRequest((ROOT / "results" / "runs",), out)).as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


def column(page: Page, index: int) -> list[Any]:
    return list(page.evaluate(COLUMN.format(index=index)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_opens_clean_shows_its_figures_and_fits(page: Page, address: str, width: int, scheme: str) -> None:
    page.show(width, scheme=scheme)
    page.open(address)
    assert page.complaints == []
    assert page.requests == [address]
    pictures = page.evaluate("Array.from(document.images, (image) => [image.complete, image.naturalWidth, image.alt])")
    assert len(pictures) >= 4
    assert all(complete and shown > 100 and alt for complete, shown, alt in pictures)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]


def test_tables_are_sorted_by_a_click_and_back_by_another(page: Page, address: str) -> None:
    page.show(DESKTOP)
    page.open(address)
    seeds, minutes = column(page, 4), [float(text) for text in column(page, 5)]
    assert seeds != sorted(seeds) and minutes != sorted(minutes)
    page.click("#runs th:nth-child(6) button")
    assert [float(text) for text in column(page, 5)] == sorted(minutes)  # as numbers: 9.8 before 11.4
    assert page.evaluate(SORTED) == [None] * 5 + ["ascending"] + [None] * 2
    page.click("#runs th:nth-child(6) button")
    assert [float(text) for text in column(page, 5)] == sorted(minutes, reverse=True)
    assert page.evaluate(SORTED) == [None] * 5 + ["descending"] + [None] * 2
    assert page.complaints == []


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_tables_are_sorted_by_the_keyboard_alone(page: Page, address: str, key: str) -> None:
    page.show(DESKTOP)
    page.open(address)
    before = column(page, 0)
    page.evaluate("document.querySelector('#runs .scroll').focus()")
    for _ in range(5):  # to the fifth heading: the seed
        page.press("Tab")
    assert page.evaluate("document.activeElement.closest('th').textContent") == "seed"
    page.press(key)
    seeds = [int(text) for text in column(page, 4)]
    assert seeds == sorted(seeds)
    assert page.evaluate(SORTED)[4] == "ascending"
    assert sorted(column(page, 0)) == sorted(before) != before


def test_what_does_not_exist_comes_last_either_way(page: Page, address: str) -> None:
    page.show(DESKTOP)
    page.open(address)
    rows = "Array.from(document.querySelectorAll('#runs table tbody tr'))"
    page.evaluate(f"{rows}.slice(0, 3).forEach((row) => row.cells[5].textContent = '')")
    for _ in range(2):
        page.click("#runs th:nth-child(6) button")
        assert column(page, 5)[-3:] == [""] * 3


def test_the_first_key_offers_to_skip_to_the_summary(page: Page, address: str) -> None:
    page.show(PHONE)
    page.open(address)
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the summary"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    page.press("Enter")
    assert page.evaluate("location.hash") == "#summary"


def test_a_page_that_asks_for_something_or_complains_is_found_out(page: Page, tmp_path: Path) -> None:
    """The tests above can fail: a page with a picture from elsewhere and an error is seen to have both."""
    bad = tmp_path / "bad.html"
    (tmp_path / "picture.png").write_bytes(b"")
    bad.write_text("<img src=picture.png><script>console.error('oh'); throw new Error('no')</script>")
    page.open(bad.as_uri())
    assert len(page.complaints) >= 2
    assert (tmp_path / "picture.png").as_uri() in page.requests
