"""The app in headless Chromium: open, filter, step by keyboard, move the threshold, several networks side by side."""

import os
import re

import numpy as np
import pandas as pd
import pytest
from dicom_files import region, write_dicom
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


def _mark(page, kind: str, value: str = "", note: str = "", reader: str = "ABC") -> None:
    page.get_by_label("Mark as").select_option(kind)
    for name, text in {"Reader": reader, "Note": note, "Value": value}.items():
        if text:
            page.get_by_label(name, exact=True).fill(text)
            page.get_by_label(name, exact=True).press("Tab")
    page.get_by_role("button", name="Mark", exact=True).click()


def test_a_mark_outlives_the_page_and_another_reader_sees_it(page, browser, address):
    case = case_of(page)
    _mark(page, "label wrong", "benign", "calcified rim")
    page.wait_for_selector("text=label wrong benign “calcified rim” (ABC)")
    page.reload(timeout=READY)
    page.wait_for_selector("text=label wrong benign “calcified rim” (ABC)", timeout=READY)
    other = browser.new_context().new_page()  # with its own cookies and kernel
    other.goto(address, timeout=READY)
    other.wait_for_selector("text=label wrong benign “calcified rim” (ABC)", timeout=READY)
    assert case_of(other) == case
    _mark(other, "outline poor", reader="XYZ")
    other.wait_for_selector("text=outline poor (XYZ)")
    page.get_by_label("Reader", exact=True).fill("ABC")
    page.get_by_label("Reader", exact=True).press("Tab")
    page.get_by_label("Mark as").select_option("label wrong")
    page.get_by_role("button", name="Take mine back").click()
    page.wait_for_selector("text=outline poor (XYZ)")
    assert page.locator("text=(ABC)").count() == 0
    other.context.close()


def test_an_upload_is_looked_at_and_one_of_200_mb_stays_where_it_is(page, tmp_path):
    large, small = tmp_path / "large.dcm", tmp_path / "Müller^Hanna.dcm"
    large.touch()
    os.truncate(large, 200 * 2**20)
    gray = np.tile(np.linspace(20, 230, 96).astype(np.uint8), (80, 1))
    write_dicom(small, gray[None], regions=[region(0.01, 0.01)], more=[(0x10, 0x10, "PN", "Müller^Hanna")])
    page.locator("input[type=file]").set_input_files(large)
    page.wait_for_selector("text=This file has 200 MB and was not sent: at most 50 MB are read.")
    page.locator("input[type=file]").set_input_files(small)
    page.wait_for_selector("text=The networks", timeout=READY)  # at work, and says so
    page.wait_for_selector("th:has-text('prediction set')", timeout=READY)
    assert "Müller" not in page.content() and page.locator("text=96×80").count() == 1


def test_the_page_asks_nobody_else_and_is_refused_without_the_token(browser, address):
    page, told = browser.new_context().new_page(), []
    page.on("requestfinished", lambda request: told.append(request.url))
    page.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
    page.goto(address.partition("?")[0], timeout=READY)
    assert page.locator("input[type=password]").count() == 1 and page.locator(".review-viewer").count() == 0
    page.goto(address, timeout=READY)
    page.wait_for_selector(".review-frame img.frame", timeout=READY)
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in told)
    page.context.close()
