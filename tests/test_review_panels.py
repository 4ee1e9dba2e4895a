"""The panels that take something in: an image of the reader's own, and marks."""

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicom_files import region, write_dicom
from review_project import reviewed

from thyroid_utils.common.files import InMemory
from thyroid_utils.data.dicom import is_dicom, read_dicom
from thyroid_utils.data.images import read_image
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.studies.case_review import Review
from thyroid_utils.studies.review_marks import Marks
from thyroid_utils.workbook.review import upload_panel as panels
from thyroid_utils.workbook.review.marks_panel import marks_panel
from thyroid_utils.workbook.review.shown import Shown
from thyroid_utils.workbook.review.upload_panel import upload_panel

PATIENT = "Müller^Hanna"


@pytest.fixture(scope="module")
def review(tmp_path_factory):
    with reviewed(tmp_path_factory) as (folder, _):
        yield Review.of(str(folder))


@pytest.fixture(scope="module")
def panel(review):
    return upload_panel(review)


def send(panel, content: bytes) -> str:
    """What the panel says to an upload, its message and, where there is one, the table below the picture."""
    upload, shown = panel.children
    upload._handle_custom_msg({"bytes": len(content)}, [memoryview(content)])
    return upload.told + "".join(found.children[1].value for found in shown.children)


def frame(width: int = 80, height: int = 64) -> np.ndarray:
    random = np.random.default_rng(0)
    gray = cv2.GaussianBlur(random.integers(0, 255, (height, width)).astype(np.uint8), (0, 0), 2)
    return cv2.normalize(gray, None, 10, 240, cv2.NORM_MINMAX)


def as_file(kind: str, folder: Path, pixels: np.ndarray | None = None) -> bytes:
    pixels, path = frame() if pixels is None else pixels, folder / f"{PATIENT}.{kind}"
    if kind != "dcm":
        return cv2.imencode(f".{kind}", pixels)[1].tobytes()
    more = [(0x10, 0x10, "PN", PATIENT), (0x10, 0x20, "LO", "ID-4711")]
    return write_dicom(path, pixels[None], regions=[region(0.01, 0.01)], more=more).read_bytes()


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "bmp", "dcm"])
def test_an_image_in_memory_reads_as_its_file_does(tmp_path, kind):
    content = as_file(kind, tmp_path)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    assert is_dicom(InMemory(content)) == is_dicom(path) == (kind == "dcm")
    if kind == "dcm":
        one, other = (next(read_dicom(given).iter_frames()) for given in (InMemory(content), path))
    else:
        one, other = read_image(InMemory(content)), read_image(path)
    assert (one == other).all() and one.shape == (64, 80)


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "dcm"])
def test_an_upload_is_looked_at_and_nothing_of_it_is_told_or_kept(panel, tmp_path, monkeypatch, kind):
    content = as_file(kind, tmp_path)
    send(panel, as_file("png", tmp_path))  # the networks are loaded
    watched = [Path(os.environ[f"THYROID_WORKBOOK_{name}"]) for name in ("CACHE", "RUNS")] + [tmp_path]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = {folder: sorted(folder.rglob("*")) for folder in watched}
    told = send(panel, content)
    assert "probability of malignant" in told and "prediction set" in told and RESEARCH_ONLY in told
    assert "Müller" not in told and "4711" not in told
    assert {folder: sorted(folder.rglob("*")) for folder in watched} == before
    (seen,) = panel.children[1].children
    (picture,) = seen.children[0].pictures
    assert (picture["width"], picture["height"]) == (80, 64) and {"frame", "prediction", "attention"} <= set(picture["layers"])
    assert seen.children[0].spacing == pytest.approx(0.1 if kind == "dcm" else 0)  # mm a pixel of 0.01 cm


def _coloured() -> np.ndarray:
    colours = cv2.cvtColor(frame(), cv2.COLOR_GRAY2BGR)
    colours[20:40, 20:40] = (0, 0, 250)
    return colours


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda folder: b"", "not a PNG, JPEG, TIFF, BMP or GIF image"),
        (lambda folder: b"<!DOCTYPE html><html><script>alert(1)</script></html>", "not a PNG, JPEG, TIFF, BMP or GIF image"),
        (lambda folder: b"PK\x03\x04" + bytes(2000), "not a PNG, JPEG, TIFF, BMP or GIF image"),
        (lambda folder: as_file("png", folder)[:900], "damaged or truncated; download or export it again"),
        (lambda folder: as_file("dcm", folder)[:-900], "damaged or incomplete DICOM, ValueError in reading it"),
        (lambda folder: as_file("dcm", folder)[:300], "a DICOM file without a picture; leave it out"),
        (
            lambda folder: as_file("png", folder, np.zeros((4097, 4096), np.uint8)),
            "216 pixels; crop or shrink it first",
        ),
        (lambda folder: as_file("png", folder, np.full((64, 64), 7, np.uint8)), "all its pixels have one gray level"),
        (lambda folder: as_file("png", folder, _coloured()), "colour Doppler; the networks learnt from gray images"),
        (lambda folder: bytes(panels.MOST_BYTES + 1), "more than 50 MB; export one frame of it"),
    ],
)
def test_what_cannot_be_looked_at_is_told_and_the_next_image_is(panel, tmp_path, made, told):
    assert told in send(panel, made(tmp_path))
    assert "probability of malignant" in send(panel, as_file("png", tmp_path))


def test_a_report_without_a_segmenter_says_so(review):
    alone = Review(
        review.report, [type(review.sets[0])("x", {n: r for n, r in review.sets[0].networks.items() if "unet" not in n})]
    )
    assert "the report has no segmenter" in upload_panel(alone).value


def test_a_case_is_marked_shown_and_taken_back(review, tmp_path):
    shown, marks = Shown(review), Marks(tmp_path / "review.csv")
    shown.case = first = review.sets[0].cases.index[0]
    controls, told, said = marks_panel(marks, shown).children
    kind, value, note, reader, keep, back = controls.children
    kind.value = "label wrong"
    keep.click()
    assert "reader is empty" in told.value and not marks.path.exists()
    reader.value, value.value, note.value = "ABC", "benign", "<b>calcified</b>"
    keep.click()
    assert told.value == "" and "label wrong benign “&lt;b&gt;calcified&lt;/b&gt;” (ABC)" in said.value
    shown.case = review.sets[0].cases.index[1]
    assert "no marks" in said.value and "1 mark in" in said.value
    shown.case = first
    assert "(ABC)" in said.value
    back.click()
    assert "(ABC)" not in said.value and marks.table.empty
    marks.path.write_text("edited")
    keep.click()
    assert 'role="alert"' in told.value and "line 1 is not" in told.value and marks.path.read_text() == "edited"


def test_without_a_case_there_is_nothing_to_mark(tmp_path):
    controls, told, said = marks_panel(Marks(tmp_path / "review.csv"), Shown(Review())).children
    controls.children[4].click()
    assert "the image cannot be read" in told.value and said.value == ""
