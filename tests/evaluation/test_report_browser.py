"""The report in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..browser import Browser, chromium
from .pages import page_of

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no chromium is on PATH; Debian: apt-get install chromium"
)
PAGES = ("run", "large", "several")
TABLE = "Array.from(document.querySelectorAll('#metrics tbody tr')).map(r => r.cells[0].innerText)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        (folder / f"{name}.html").write_text(page_of(name), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


def complaints(browser: Browser) -> list[object]:
    logged = [each["entry"] for each in browser.said("Log.entryAdded")]
    return [
        *logged,
        *browser.said("Runtime.consoleAPICalled"),
        *browser.said("Runtime.exceptionThrown"),
    ]


@pytest.mark.parametrize("name", PAGES)
def test_it_loads_alone_and_every_picture_decodes(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name])
    urls = [each["request"]["url"] for each in browser.said("Network.requestWillBeSent")]
    assert {url.partition(":")[0] for url in urls} == {"file", "data"}
    assert sum(url.startswith("file:") for url in urls) == 1
    pictures = (
        "(async () => { const all = [...document.images,"
        "...document.getElementById('besides').content.querySelectorAll('img')];"
        "const copies = all.map(i => { const c = new Image(); c.src = i.src; return c; });"
        "await Promise.all(copies.map(c => c.decode()));"
        "return copies.map(c => c.naturalWidth); })()"
    )
    widths = browser.run(pictures)
    assert len(widths) >= 40 and set(widths) == {16 if name == "run" else 160}
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert complaints(browser) == []


def test_sorting_by_a_column(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["several"])
    gains = "Array.from(document.querySelectorAll('#metrics .gain')).map(c => +c.dataset.sort)"
    state = "document.querySelector('#metrics thead th:nth-child(4)').getAttribute('aria-sort')"
    before = browser.run(gains)
    assert before != sorted(before) and browser.run(state) is None
    browser.click("#metrics thead th:nth-child(4) button")
    assert browser.run(gains) == sorted(before, reverse=True)
    assert browser.run(state) == "descending"
    browser.click("#metrics thead th:nth-child(4) button")
    assert browser.run(gains) == sorted(before) and browser.run(state) == "ascending"
    browser.click("#metrics thead th:nth-child(1) button")
    names = browser.run(TABLE)
    assert names == sorted(names) and browser.run(state) is None
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 1
    assert complaints(browser) == []


def test_choosing_a_metric_and_a_model(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["several"])
    choose = (
        "(() => { for (const [id, v] of [['column', %r], ['model', %r]]) {"
        "const e = document.getElementById(id); e.value = v;"
        "e.dispatchEvent(new Event('change', {bubbles: true})); } })()"
    )
    keys = "[...document.querySelectorAll('#%s article')].map(a => a.dataset.key)"
    lists = "JSON.parse(document.getElementById('choices').textContent)"
    for column, model in (("image_reward", "half </script>"), ("geneval", "aligned")):
        browser.run(choose % (column, model))
        expected = browser.run(lists)[model][column]
        for name in ("gains", "losses"):
            assert browser.run(keys % name) == expected[name]
            shown = browser.run(f"!document.getElementById('{name}').hidden")
            assert shown == bool(expected[name])
    values = "[...document.querySelectorAll('figcaption [data-column]:not([hidden])')]"
    assert browser.run(f"{values}.every(v => v.dataset.column === 'geneval')")
    kinds = "[...document.querySelectorAll('#kinds tbody tr:not([hidden])')]"
    assert (
        browser.run(f"{kinds}.map(r => r.dataset.column + r.dataset.model)")
        == ["genevalaligned"] * 2
    )
    assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [360, 390, 768, 1200])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_sideways(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width=width)
    # On a wide screen a scroll bar takes its share of the window.
    assert browser.run(
        "document.documentElement.scrollWidth === document.documentElement.clientWidth"
    )
    # Configurations may be scrolled; tables, pictures and charts must fit.
    wide = (
        "[...document.querySelectorAll('.scroll, table, img, svg, h1, h2, h3, form, .headlines')]"
        ".filter(e => e.getClientRects().length && (e.getBoundingClientRect().right > %d"
        " || e.scrollWidth > e.clientWidth + 1 && e.matches('.scroll'))).map(e => e.outerHTML)"
    )
    assert browser.run(wide % (width + 1)) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(
    browser: Browser, pages: dict[str, Path], scheme: str
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", media="screen", features=features)
    browser.open(pages["run"])
    contrast = """(() => {
      const luminance = text => {
        const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ground = luminance(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll('p, th, td, small, b, h1, h2, h3, span, i, dt, dd')]
        .filter(e => e.innerText).map(e => luminance(getComputedStyle(e).color))
        .map(l => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05))
        .reduce((a, b) => Math.min(a, b)); })()"""
    assert browser.run(contrast) >= 4.5
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def test_it_prints(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["several"])
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.getElementById('choose')).display") == "none"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"]) > 10_000
    browser.call("Emulation.setEmulatedMedia", media="")
