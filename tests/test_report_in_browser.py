"""Reports in headless Chromium with the network blocked: `look` holds every page to what it must be."""

import pytest
from workbook_project import FIGURES, PROSE, notebook, write_project

from thyroid_utils.workbook.cli import main

WIDE = """import numpy as np, pandas as pd
from thyroid_utils.workbook.record import record_table
record_table(pd.DataFrame(np.ones((3, 40))), "wide", "A table wider than any phone.")
print("x" * 400)
from IPython.display import HTML, Markdown, Math, display
display(HTML('<img src="https://example.org/p.png"><link rel="stylesheet" href="https://example.org/s.css"><b>kept</b>'))
display(Math(r"\\\\sum_i x_i"), Markdown("![remote](https://example.org/q.png) $y^2$"))"""


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


@pytest.mark.parametrize("name", ["index", "01_first", "02_fails"])
def test_every_page_on_every_screen(look, reports, name):
    for width, scheme in ((390, "dark"), (768, "light"), (1920, "light")):
        look(reports / f"{name}.html", width, scheme)


def test_figures_are_whole_formulas_set_contents_unfold_and_links_lead_on_every_screen(look, reports):
    wide, phone = look(reports / "01_first.html"), look(reports / "01_first.html", 390)
    cut = "[...document.querySelectorAll('.table:has(table)')].map(t => t.querySelector('table').scrollWidth > t.clientWidth)"
    told = "[...document.querySelectorAll('.table:has(table)')].map(t => (t.querySelector('.more')?.checkVisibility() ?? false))"
    for page in (wide, phone):
        assert page.evaluate(cut) == page.evaluate(told), "a narrow table, a wide one"
        assert page.evaluate("[...document.images].every(i => i.getBoundingClientRect().right <= innerWidth)")
    assert wide.evaluate(told) == [False, True]
    wide, phone = look(reports / "01_first.html"), look(reports / "01_first.html", 390)
    heights = "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
    assert len(wide.evaluate(heights)) == 4 and min(wide.evaluate(heights)) > 5 and "$" not in wide.inner_text("main")
    assert wide.is_visible("aside.contents") and not phone.is_visible("aside.contents")
    phone.click("details.contents > summary")
    phone.click("details.contents a >> nth=1")
    assert phone.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 900
    wide.click("details.code summary >> nth=0")
    assert wide.is_visible("details.code pre >> nth=0")
    page = look(reports / "index.html")
    page.click("text=Look at it")
    assert page.url.endswith("02_fails.html#error") and "ZeroDivisionError" in page.inner_text("#error")
