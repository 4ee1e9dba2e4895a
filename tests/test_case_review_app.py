"""The app in headless Chromium: open, filter, step by keyboard, move the threshold, several networks side by side."""

import re

import pandas as pd
import pytest
from review_project import reviewed
from sklearn.metrics import confusion_matrix

from thyroid_utils.studies.case_review import Review

READY = 120_000  # ms that a page may take to be ready on a busy machine


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with reviewed(tmp_path_factory) as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def address(browser, report, serve):
    """Of a server of the app on the tiny report."""
    return serve(report)


@pytest.fixture
def page(browser, address):
    """The app, opened and ready to be used."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.goto(address, timeout=READY)
    opened.wait_for_selector(".review-frame img.frame", timeout=READY)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def table(report):
    """What the judged network says."""
    return Review.of(str(report)).sets[0].table("timm:test_resnet")


def listed(page) -> list[str]:
    """Ids of the cases in the list."""
    return re.findall(r"phantom/[0-9-]+", page.inner_text(".review-left select[size]"))


def case_of(page) -> str:
    """The one that is looked at."""
    return page.evaluate("document.querySelector('.review-left select[size]').selectedOptions[0].text").split()[1]


def choose(page, name: str, value: str) -> None:
    page.locator(".widget-dropdown", has_text=name).locator("select").select_option(value)


def test_open_filter_step_by_keyboard_and_switch_layers(page, table):
    strip = "['content', 'position', 'bottom'].map(name => getComputedStyle(document.body, '::after')[name])"
    assert page.evaluate(strip) == ['"For research only, not a medical device."', "fixed", "0px"]
    assert listed(page) == table.index.tolist() and case_of(page) == table.index[0]
    choose(page, "Outcome", "wrong")
    wrong = table.index[table["wrong"].astype(bool)].tolist()
    page.wait_for_function(f"document.querySelector('.review-place').textContent == '1 of {len(wrong)}'")
    assert listed(page) == wrong and case_of(page) == wrong[0]
    choose(page, "Outcome", "all")
    page.wait_for_function(f"document.querySelector('.review-place').textContent.endsWith(' of {len(table)}')")
    page.focus(".review-viewer")
    at = table.index.get_loc(case_of(page))
    page.keyboard.press("ArrowRight" if at == 0 else "ArrowLeft")
    there = at + (1 if at == 0 else -1)
    page.wait_for_function(f"document.querySelector('.review-place').textContent == '{there + 1} of {len(table)}'")
    assert case_of(page) == table.index[there]
    page.keyboard.press("2")
    assert page.evaluate("document.querySelector('img.truth').style.opacity") == "0"
    page.keyboard.press("4")
    page.wait_for_selector("img.attention", timeout=READY)
    assert page.evaluate(
        "[...document.querySelectorAll('.review-viewer input, .review-viewer button')].every(c => c.title || c.ariaLabel)"
    )


def test_a_drag_measures_and_a_wheel_enlarges_all_pictures_alike(page, report):
    box = page.locator(".review-frame").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('.review-sheet').style.transform.includes('scale(2.7')")
    assert len(set(page.evaluate("[...document.querySelectorAll('.review-sheet')].map(s => s.style.transform)"))) == 1
    page.locator("button", has_text="Whole").click()
    page.locator("button", has_text="Ruler").click()
    page.mouse.move(box["x"] + 10, middle[1])
    page.mouse.down()
    page.mouse.move(box["x"] + 10 + box["width"] / 2, middle[1], steps=3)
    page.mouse.up()
    spacing = Review.of(str(report)).sets[0].cases["spacing_mm"].iloc[0]
    assert page.inner_text(".review-stage output >> nth=0") == f"{32 * spacing:.1f} mm", "half of 64 pixels"


def test_the_moved_threshold_has_the_matrix_of_scikit_learn(page, table):
    handle = page.locator(".widget-slider", has_text="Threshold").locator(".noUi-handle")
    handle.focus()
    before = page.inner_text(".review-threshold table >> nth=0")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("text => document.querySelector('.review-threshold table').innerText != text", arg=before)
    page.wait_for_timeout(500)
    threshold = float(page.locator(".widget-slider", has_text="Threshold").locator(".widget-readout").inner_text())
    cells = page.locator(".review-threshold table >> nth=0").locator("tbody td").all_inner_texts()
    found = pd.to_numeric(pd.Series(cells), errors="coerce").dropna().astype(int).tolist()
    assert found == confusion_matrix(table["label"], table["probability"] >= threshold).ravel().tolist()


def test_several_networks_stand_side_by_side_and_on_a_phone_below_each_other(page):
    page.locator(".widget-select-multiple select").select_option(
        ["timm:test_resnet", "timm:test_resnet, focal", "unet (widths [4, 8]), bce_dice"]
    )
    page.wait_for_function("document.querySelectorAll('.review-stage figure').length == 3")
    tops = "[...document.querySelectorAll('.review-frame')].map(f => Math.round(f.getBoundingClientRect().top))"
    assert len(set(page.evaluate(tops))) == 1
    assert page.locator(".review-stage img.prediction").count() == 1, "of the segmenter"
    page.set_viewport_size({"width": 420, "height": 900})
    assert len(set(page.evaluate(tops))) == 3 and page.evaluate("document.documentElement.scrollWidth") <= 420
