"""Reports in headless Chromium with the network blocked: nothing is asked for, pictures and formulas are to be seen."""

from __future__ import annotations

import shutil

import pytest
from workbook_project import FIGURES, PROSE, notebook, write_project

from thyroid_utils.workbook.cli import main

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH: apt-get install chromium")

WIDE = """import numpy as np, pandas as pd
from thyroid_utils.workbook.record import record_table
record_table(pd.DataFrame(np.ones((3, 40))), "wide", "A table wider than any phone.")
print("x" * 400)
from IPython.display import HTML, Markdown, Math, display
display(HTML('<img src="https://example.org/p.png"><link rel="stylesheet" href="https://example.org/s.css"><b>kept</b>'))
display(Math(r"\\\\sum_i x_i"), Markdown("![remote](https://example.org/q.png) $y^2$"))"""
PAGES = ("index", "01_first", "02_fails")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    params = write_project(
        root,
        "title: A test of the pages\ndescription: On screens of every size.\n",
        n01_first=notebook("A first notebook with a rather long title", FIGURES, WIDE.replace("\\\\\\\\", "\\\\"), prose=PROSE),
        n02_fails=notebook("Fails", "1 / 0"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_ROOT", str(root))
        assert main(["run", str(params)]) == 1
    return root / "reports" / "test"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # --no-sandbox: containers, in which such tests run, often allow no user namespaces
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def look(browser, reports):
    """Opens a page and returns it with what it asked the network for and what the console complained of."""
    contexts = []

    def opened(name: str, width: int = 1400, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        asked, complaints = [], []
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.route("http*://**", lambda route: route.abort())
        page.goto((reports / f"{name}.html").as_uri())
        return page, asked, complaints

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_no_request_leaves_and_the_console_is_quiet(look, name):
    page, asked, complaints = look(name)
    assert asked == [] and complaints == []
    assert page.evaluate("document.scripts.length") == 0


def test_pictures_are_to_be_seen_and_have_words(look):
    for name, least in (("index", 1), ("01_first", 1)):
        pictures = look(name)[0].evaluate(
            "[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width, i.alt])"
        )
        assert len(pictures) >= least
        assert all(natural > 100 and shown > 100 and words for natural, shown, words in pictures), pictures


def test_formulas_are_set(look):
    page = look("01_first")[0]
    boxes = page.evaluate(
        "[...document.querySelectorAll('math')].map(m => [m.getBoundingClientRect().width, m.getBoundingClientRect().height])"
    )
    assert len(boxes) == 4 and all(width > 5 and height > 5 for width, height in boxes), boxes
    heights = page.evaluate("['mfrac', 'mi'].map(name => document.querySelector(name).getBoundingClientRect().height)")
    assert heights[0] > 1.5 * heights[1], "a fraction is taller than a letter only where the browser sets it"
    assert "$" not in page.inner_text("main")


@pytest.mark.parametrize("width", [390, 768, 1920])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_its_screen(look, name, width):
    page = look(name, width)[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if name == "01_first":
        assert page.evaluate("[...document.querySelectorAll('.table .scroll')].some(e => e.scrollWidth > e.clientWidth)"), (
            "it scrolls itself"
        )


@pytest.mark.parametrize("name", PAGES)
def test_dark_is_dark_and_light_is_light(look, name):
    for scheme, dark in (("dark", True), ("light", False)):
        page = look(name, scheme=scheme)[0]
        colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        background, text = (sum(int(part) for part in colour[4:-1].split(",")) / 3 for colour in colours)
        assert (background < 60 and text > 180) if dark else (background > 200 and text < 80), colours


def test_contents_stand_beside_the_text_on_a_wide_screen_and_fold_on_a_phone(look):
    wide, phone = look("01_first")[0], look("01_first", 390)[0]
    assert wide.is_visible("aside.contents") and not wide.is_visible("details.contents")
    assert not phone.is_visible("aside.contents") and phone.is_visible("details.contents > summary")
    phone.click("details.contents > summary")
    phone.click("details.contents a >> nth=1")
    assert phone.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 900


def test_code_is_folded_and_opens(look):
    page = look("01_first")[0]
    assert not page.is_visible("details.code pre >> nth=0")
    page.click("details.code summary >> nth=0")
    assert page.is_visible("details.code pre >> nth=0")


def test_the_index_leads_to_the_reports_and_a_failure_to_its_error(look):
    page = look("index")[0]
    page.click("text=Look at it")
    assert page.url.endswith("02_fails.html#error") and "ZeroDivisionError" in page.inner_text("#error")
    page.click("nav.top a >> nth=0")
    assert page.url.endswith("index.html")
    page.click("text=A first notebook with a rather long title")
    assert page.inner_text("h1") == "A first notebook with a rather long title"
