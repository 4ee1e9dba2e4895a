"""The page with an exported dual stage, in Chromium with the network blocked: what it says is what onnxruntime says in Python."""

import base64
import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.data.images import read_gray
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.inference.known import Known
from thyroid_utils.inference.onnx_network import FORMAT
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.workbook import browser_page

GRAY = np.asarray(Image.fromarray(np.random.default_rng(1).integers(0, 256, (15, 20), np.uint8)).resize((200, 150)))
COLOUR = np.dstack([GRAY, GRAY[::-1], 255 - GRAY])
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
CUT, WAS_COLOUR = "The networks learnt from pictures cut to the echo image", "A colour picture, read as gray."
STEPS = [{"gray": {}}, {"crop_echo": {"margin": 3}}, {"resize": {"size": [64, 64]}}]
# The inputs and outputs of dual_stage.onnx: the mask is a blur, the class a mean
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
    toy (uint8[h, w] frame) => (float probability, float malignant, float[h, w] map, bool[h, w] mask) {
    levels = Cast<to = 1>(frame)  axes = Constant<value_ints = [0, 1]>()  batch = Unsqueeze(levels, axes)
    blurred = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(batch)  smooth = Squeeze(blurred, axes)
    middle = Constant<value_float = 128.0>()  centred = Sub(smooth, middle)  tenth = Constant<value_float = 0.03>()
    logits = Mul(centred, tenth)  map = Sigmoid(logits)  half = Constant<value_float = 0.5>()  mask = GreaterOrEqual(map, half)
    row = ReduceMean<axes = [0], keepdims = 0>(logits)  malignant = ReduceMean<keepdims = 0>(row)
    probability = Sigmoid(malignant) }"""


def written(path, low=0.7, dice=0.7, steps=STEPS, roles=("classifier", "segmenter")):
    networks = {"classifier": Estimate(0.8, low, 0.9, 40, 30), "segmenter": Estimate(dice, 0.1, 0.8, 40, 30)}
    told = {"format": FORMAT, "research_only": RESEARCH_ONLY, "outside": dict.fromkeys(networks, steps)}
    told |= {"model": dict.fromkeys(networks, "mobile"), "run": dict.fromkeys(networks, "0123456789abcdef")}
    told["known"] = {role: Known(networks[role], {}, threshold=0.416).to_json() for role in roles}
    model = onnx.parser.parse_model(GRAPH)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("exported") / "dual_stage.onnx")


@pytest.fixture(scope="module")
def page(model, browser):
    try:
        path = browser_page.write_page(model, model.with_name("page.html"))
    except DataError as error:
        pytest.skip(str(error)) if "cannot be read or fetched" in str(error) else pytest.fail(str(error))
    context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark")
    context.set_offline(True)
    context.route("http*://**", lambda route: route.abort())
    opened, told = context.new_page(), []
    opened.on("request", lambda request: told.append(request.url))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.goto(path.as_uri())
    yield opened
    assert told == [path.as_uri()], "the page asks for itself alone"
    context.close()


def encoded(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def drop(page, *files):
    page.evaluate(
        """files => { const moved = new DataTransfer();
        files.forEach(file => moved.items.add(new File([Uint8Array.from(atob(file), c => c.charCodeAt(0))], "scan")));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: moved, bubbles: true})); }""",
        [base64.b64encode(file).decode() for file in files],
    )
    page.wait_for_selector("#result:visible, #wrong:visible", timeout=20_000)


def check_answer(page, model, frame):
    """Hold what the page found to what onnxruntime finds in the frame; the probability to the order of float32's sums."""
    probability, mask = page.evaluate("[answer.probability, [...answer.mask]]")
    expected = onnxruntime.InferenceSession(model).run(["probability", "mask"], {"frame": np.ascontiguousarray(frame)})
    assert probability == pytest.approx(float(expected[0]), abs=1e-4)
    np.testing.assert_array_equal(np.array(mask, bool).reshape(frame.shape), expected[1])
    told = page.inner_text("#numbers")
    assert f"{100 * probability:.1f} %" in told and f"{sum(mask):,} pixels" in told


CONTENTS = {
    "gray": (encoded(GRAY), []),
    "colour": (encoded(COLOUR), [WAS_COLOUR]),
    "laid on black": (encoded(np.dstack([COLOUR, GRAY])), [WAS_COLOUR]),
    "turned": (encoded(GRAY, "JPEG", exif=TURNED), []),
    "dark": (encoded(GRAY // 10), ["Fills less than an eighth", "No nodule was found."]),
    "16 bits": (encoded(GRAY.astype(np.uint16) * 257), ["Of 16 bits the browser keeps 8"]),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_dropped_picture_gets_the_answer_that_onnxruntime_gives(page, model, tmp_path, name):
    content, told = CONTENTS[name]
    (tmp_path / "scan.png").write_bytes(content)
    drop(page, content)
    check_answer(page, model, read_gray(tmp_path / "scan.png"))
    warnings = sorted(page.locator("#warnings p").all_inner_texts())
    assert len(warnings) == 1 + len(told) and all(map(str.startswith, warnings, sorted([CUT, *told])))


def test_the_picture_is_cut_by_drag_and_by_keyboard(page, model):
    drop(page, encoded(GRAY))
    place = page.locator("#canvas").bounding_box()
    for part, act in ((0.25, page.mouse.down), (0.75, page.mouse.up)):
        page.mouse.move(place["x"] + part * place["width"], place["y"] + part * place["height"])
        act()
    page.wait_for_selector("#result:visible")
    left, top, right, bottom = page.evaluate("Object.values(box)")
    assert np.abs(np.array([left, top, right, bottom]) - [50, 37.5, 150, 112.5]).max() <= 1
    page.focus("#left")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.wait_for_selector("#result:visible")
    check_answer(page, model, GRAY[top:bottom, left + 1 : right])
    assert page.locator("#warnings p").count() == 0


REFUSED = {
    "There is no picture in this.": [],
    "Choose one picture at a time.": [encoded(GRAY)] * 2,
    "This file is empty": [b""],
    "neither PNG nor JPEG. Save it as PNG": [encoded(GRAY, "TIFF")],
    "is damaged": [encoded(GRAY)[:-300]],
    "is damaged or not whole": [encoded(GRAY, "JPEG")[:-300]],
    "one gray level": [encoded(np.full_like(GRAY, 9))],
    "more than 16,777,216 pixels": [encoded(GRAY)[:16] + (2**16).to_bytes(4) * 2 + encoded(GRAY)[24:]],
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_judged_is_told_in_words(page, told):
    drop(page, *REFUSED[told])
    assert told in page.inner_text("#wrong") and not page.is_visible("#result") and page.inner_text("#told") == ""


def test_gray_is_luma_to_the_level_and_the_page_fits_a_phone_and_may_ask_for_nothing(page):
    colours = np.random.default_rng(0).integers(0, 256, (1, 20_000, 4), np.uint8)
    gray = page.evaluate("pixels => [...luma(pixels)]", colours.ravel().tolist())
    np.testing.assert_array_equal(gray, luma(colours[..., :3])[0])
    asked = """new Promise(told => { addEventListener("securitypolicyviolation", event => told(event.violatedDirective));
        fetch("https://example.org").catch(() => {}); })"""
    assert page.evaluate(asked) == "connect-src"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.locator(".always").bounding_box()["y"] >= 0 and RESEARCH_ONLY in page.inner_text(".always")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("[...document.querySelectorAll('input')].every(input => input.labels.length)")


def test_what_is_not_to_be_believed_is_known_to_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(browser_page, "runtime", dict)
    poor = written(tmp_path / "poor.onnx", low=0.5, dice=np.nan, steps=[{"crop_echo": {}}, {"clahe": {}}])
    for path, call, fair, told in (
        (written(tmp_path / "good.onnx"), "", True, []),
        (poor, "none, as the classifier is not", False, ["after clahe", "outlines were not measured"]),
    ):
        text = browser_page.write_page(path, tmp_path / "page.html").read_text()
        known = json.loads(text.partition('id="known">')[2].partition("</script>")[0])
        assert (known["no_call"][:30], known["fair_outlines"], known["crop"]) == (call, fair, True)
        assert len(known["warnings"]) == len(told) and all(map(str.__contains__, known["warnings"], told))
    with pytest.raises(DataError, match="not the two of a dual stage"):
        browser_page.write_page(written(poor, roles=["classifier"]), tmp_path / "none.html")
    monkeypatch.setattr(browser_page, "_LARGEST", 100)
    with pytest.raises(ParameterError, match="export smaller networks"):
        browser_page.write_page(written(poor), tmp_path / "none.html")


def test_a_package_that_is_not_there_or_damaged_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(browser_page, "ADDRESS", "file:///nowhere/onnxruntime-web.tgz")
    for told in ("cannot be read or fetched", "its SHA-512 is not that of onnxruntime-web"):
        with pytest.raises(DataError, match=rf"{told}.*download file:.*, put it into {tmp_path}"):
            browser_page.runtime()
        (tmp_path / "onnxruntime-web.tgz").write_bytes(b"half of it")
