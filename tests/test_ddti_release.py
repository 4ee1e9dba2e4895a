from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.readers.published import rasterise

HEIGHT, WIDTH = 36, 56
SQUARE = [(10, 5), (19, 5), (19, 14), (10, 14)]  # x 10 to 19, y 5 to 14: 100 pixels, its outline included
OTHER = [(30, 20), (39, 20), (39, 24), (30, 24)]  # 50 pixels


def region(points) -> dict:
    return {"points": [{"x": x, "y": y} for x, y in points], "annotation": {}, "regionType": "freehand"}


def svg(*polygons) -> str:
    return json.dumps([region(points) for points in polygons])


class Release:
    """Builds a folder in the layout of the original release."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def frames(self, *names):
        for name in names:
            Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(self.folder / f"{name}.jpg")
        return self

    def case(self, number: int, marks: dict | list, **values):
        fields = {"age": "", "sex": "", "composition": "", "echogenicity": "", "margins": "", "calcifications": "", "tirads": ""}
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in (fields | values).items())
        pairs = marks.items() if isinstance(marks, dict) else marks
        drawn = "".join(f"<mark><image>{frame}</image><svg>{text}</svg></mark>" for frame, text in pairs)
        (self.folder / f"{number}.xml").write_text(f"<case><number>{number}</number>{inner}{drawn}</case>")
        return self

    def load(self) -> pd.DataFrame:
        return load_cases("ddti", self.folder)


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    return Release(tmp_path / "DDTI release")


def mask_of(cases: pd.DataFrame, case: str) -> np.ndarray:
    return read_mask(cases.loc[case, "mask"], (HEIGHT, WIDTH))


def test_a_case_becomes_rows_with_its_columns_and_masks(release, tmp_path):
    release.frames("7_1", "7_2", "12_1").case(
        7,
        {1: svg(SQUARE), 2: svg(SQUARE, OTHER)},
        age="45",
        sex="F",
        composition="solid",
        echogenicity="hypoechogenicity",
        margins="ill defined",
        calcifications="microcalcifications",
        tirads="4a",
    )
    release.case(12, {1: svg(OTHER)}, tirads="2")
    before = sorted(release.folder.iterdir())
    cases = release.load()
    assert cases.index.tolist() == ["ddti/7_1", "ddti/7_2", "ddti/12_1"]
    assert cases["patient"].tolist() == ["ddti-7", "ddti-7", "ddti-12"] and cases["patient_known"].all()
    assert cases["label"].tolist() == [1, 1, 0] and cases["tirads"].tolist() == ["4a", "4a", "2"]
    first = cases.loc["ddti/7_1"]
    traits = first[["age", "sex", "composition", "echogenicity", "margins", "calcifications"]].tolist()
    assert traits == [45, "F", "solid", "hypoechogenicity", "ill defined", "microcalcifications"]
    assert cases.loc["ddti/12_1", ["age", "sex", "composition"]].isna().all()
    assert cases["nodules"].tolist() == [1, 2, 1] and cases["mask_problem"].isna().all()
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5:15, 10:20] = True
    assert np.array_equal(mask_of(cases, "ddti/7_1"), expected)
    assert mask_of(cases, "ddti/7_2").sum() == 150
    assert sorted(release.folder.iterdir()) == before and str(tmp_path / "cache") in first["mask"]


def test_several_marks_of_one_frame_are_joined_and_overlaps_leave_no_hole(release):
    shifted = [(x + 5, y) for x, y in SQUARE]
    release.frames("1_1").case(1, [(1, svg(SQUARE)), (1, svg(shifted))])
    cases = release.load()
    assert cases.loc["ddti/1_1", "nodules"] == 2 and mask_of(cases, "ddti/1_1").sum() == 150


@pytest.mark.parametrize(
    "tirads, label", [("2", 0), ("3", 0), ("4a", 1), ("4B", 1), (" 4c ", 1), ("5", 1), ("", None), ("4", None), ("6", None)]
)
def test_label_follows_tirads(release, tirads, label):
    cases = release.frames("1_1").case(1, {1: svg(SQUARE)}, tirads=tirads).load()
    found = cases.loc["ddti/1_1", "label"]
    assert pd.isna(found) if label is None else found == label
    assert bool(cases.attrs["notes"]) == (tirads in ("4", "6"))


BROKEN = {
    "empty": ("", "no outline drawn"),
    "no regions": ("[]", "no outline drawn"),
    "cut off": (svg(SQUARE)[:-20], "svg is broken JSON"),
    "no JSON": ("oops", "svg is broken JSON"),
    "deeply nested": ("[" * 50_000, "svg is broken JSON"),
    "one point": (svg(SQUARE[:1]), "1 points"),
    "two points": (svg(SQUARE[:2]), "2 points"),
    "no points": ('[{"annotation": {}}]', "0 points"),
    "points of another kind": ('[{"points": 7}]', "0 points"),
    "a region of another kind": ('["freehand"]', "0 points"),
    "not a number": ('[{"points": [{"x": NaN, "y": 1}, {"x": 1e999, "y": 2}, {"x": "a", "y": 3}]}]', "no x and y"),
    "outside": (svg([(100, 100), (120, 100), (120, 120)]), "outside the frame"),
    "far outside": (svg([(1e9, 1e9), (2e9, 1e9), (2e9, 2e9)]), "no x and y"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_outline_that_cannot_be_used_leaves_the_mask_empty_and_is_named(release, name):
    text, words = BROKEN[name]
    cases = release.frames("1_1").case(1, {1: text}, tirads="5").load()
    row = cases.loc["ddti/1_1"]
    assert pd.isna(row["mask"]) and words in row["mask_problem"]
    assert row["label"] == 1 and row["nodules"] == 0


DRAWN = {
    "missing points": (
        json.dumps([{"points": [None, *region(SQUARE)["points"], {"x": 12}]}]),
        100,
        "2 points of an outline have no",
    ),
    "a stray click": (svg(SQUARE, [(1, 1)]), 100, "1 points, at least 3"),
    "over the edge": (svg([(x + WIDTH - 15, y) for x, y in SQUARE]), 50, "2 points of an outline lie outside"),
    "a huge number": (json.dumps([region([*SQUARE, (10**400, 5)])]), 100, "1 points of an outline have no"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_can_be_drawn_of_an_outline_is_drawn_and_the_rest_named(release, name):
    text, pixels, words = DRAWN[name]
    cases = release.frames("1_1").case(1, {1: text}).load()
    assert mask_of(cases, "ddti/1_1").sum() == pixels and cases.loc["ddti/1_1", "nodules"] == 1
    assert words in cases.loc["ddti/1_1", "mask_problem"]


def test_one_broken_mark_does_not_take_the_others_with_it(release):
    cases = release.frames("1_1", "1_2").case(1, {1: "broken", 2: svg(OTHER)}).load()
    assert pd.isna(cases.loc["ddti/1_1", "mask"]) and mask_of(cases, "ddti/1_2").sum() == 50


@pytest.mark.parametrize("broken", ["<case><number>1</number><tirads>5</ti", ""])
def test_malformed_xml_leaves_its_case_without_mask_and_label(release, broken):
    release.frames("1_1", "2_1").case(2, {1: svg(SQUARE)}, tirads="3")
    (release.folder / "1.xml").write_text(broken)
    cases = release.load()
    row = cases.loc["ddti/1_1"]
    assert pd.isna(row["mask"]) and pd.isna(row["label"]) and pd.isna(row["nodules"])
    assert "1.xml: not well-formed" in row["mask_problem"] and row["patient"] == "ddti-1"
    assert cases.loc["ddti/2_1", "label"] == 0


HOSTILE = {
    "billion laughs": '<!DOCTYPE c [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><case><sex>&b;</sex></case>',
    "file": '<!DOCTYPE c [<!ENTITY f SYSTEM "file:///etc/passwd">]><case><sex>&f;</sex></case>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_is_refused(release, name):
    release.frames("1_1")
    (release.folder / "1.xml").write_text(HOSTILE[name])
    with pytest.raises(DataError) as error:
        release.load()
    text = str(error.value)
    assert "1.xml" in text and "entities" in text and "download it again" in text and "\n" not in text


def test_what_does_not_fit_together_is_noted(release):
    release.frames("1_1", "9_1", "cover")
    marks = [(1, svg(SQUARE)), (3, svg(OTHER)), (4, ""), ("first", svg(SQUARE)), ("9" * 5000, svg(OTHER))]
    release.case(1, marks, age="9" * 5000).case(2, {1: svg(SQUARE)})
    path = release.folder / "1.xml"
    path.write_text(path.read_text().replace("<number>1<", "<number>77<"))
    cases = release.load()
    notes = [f"{note['file'].rpartition('/')[2]}: {note['problem']}".replace("9" * 5000, "9…") for note in cases.attrs["notes"]]
    assert notes == [
        "1.xml: names case 77; the file's name is used",
        "1.xml: age is '9…'; left empty",
        "1.xml: a mark names the frame 'first'; left out",
        "1.xml: a mark names the frame '9…'; left out",
        "cover.jpg: not named NNN_K; left out",
        "1.xml: outlines frame 3, which is not there",
        "2.xml: no frame of this case is there",
    ]
    assert "cover" not in " ".join(cases.index)
    assert cases.loc["ddti/9_1", "mask_problem"] == "no 9.xml" and cases.loc["ddti/1_1", "patient"] == "ddti-1"


def test_xml_without_frames_or_twice_for_one_case(release):
    release.case(1, {1: svg(SQUARE)})
    with pytest.raises(DataError, match=r"no NNN_K\.jpg"):
        release.load()
    (release.folder / "1.XML").write_text("<case></case>")
    with pytest.raises(DataError, match="two files for case 1"):
        release.load()


def test_an_unreadable_frame_is_named_and_does_not_stop_the_others(release):
    release.frames("1_2").case(1, {1: svg(SQUARE), 2: svg(SQUARE)})
    (release.folder / "1_1.jpg").write_bytes(b"<html>404</html>")
    cases = release.load()
    assert "HTML" in cases.loc["ddti/1_1", "mask_problem"] and pd.isna(cases.loc["ddti/1_1", "mask"])
    assert str(release.folder) not in cases.loc["ddti/1_1", "mask_problem"]
    assert mask_of(cases, "ddti/1_2").sum() == 100


def test_masks_are_made_once_and_anew_when_an_outline_changes(release):
    release.frames("1_1").case(1, {1: svg(SQUARE)})
    first = release.load().loc["ddti/1_1", "mask"]
    written = os.stat(first).st_mtime_ns
    again = release.load().loc["ddti/1_1", "mask"]
    assert again == first and os.stat(first).st_mtime_ns == written
    release.case(1, {1: svg(OTHER)})
    cases = release.load()
    assert cases.loc["ddti/1_1", "mask"] != first and mask_of(cases, "ddti/1_1").sum() == 50


def test_outlines_of_real_masks_give_these_masks_back(release, real_data):
    real = load_cases("ddti", real_data).iloc[::40]
    originals = {}
    for number, row in enumerate(real.itertuples(), start=1):
        mask = read_mask(row.mask)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        shutil.copy(row.image, release.folder / f"{number}_1.png")
        release.case(number, {1: svg(*(contour[:, 0].tolist() for contour in contours if len(contour) > 2))})
        originals[f"ddti/{number}_1"] = mask
    cases = release.load()
    assert len(cases) == len(originals) == 14
    for case, mask in originals.items():
        drawn = read_mask(cases.loc[case, "mask"], mask.shape)
        assert (drawn != mask).sum() <= 0.002 * mask.sum()  # specks of one or two pixels have no outline; holes are filled


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0.4, 1.0)), min_size=5, max_size=14),
    st.integers(24, 60),
    st.integers(24, 60),
)
def test_rasterising_agrees_with_scikit_image_up_to_the_outline(spokes, x, y):
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    radii = np.array([20 * length for _, length in spokes])
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1).round().astype(np.int32)
    ours = rasterise([points], (90, 90))
    theirs = polygon2mask((90, 90), points[:, ::-1])
    assert not (theirs & ~ours).any()  # all inner pixels are there
    segments = np.roll(points, -1, axis=0) - points
    lengths = np.linalg.norm(segments, axis=1)
    rows, columns = np.nonzero(ours & ~theirs)
    for row, column in zip(rows, columns, strict=True):  # the others lie on the outline, within a pixel's diagonal
        offset = np.array([column, row]) - points
        along = np.clip((offset * segments).sum(axis=1) / np.maximum(lengths, 1e-9) ** 2, 0, 1)
        assert np.linalg.norm(offset - along[:, None] * segments, axis=1).min() <= np.sqrt(0.5)


def test_a_cache_that_cannot_be_written_is_one_line(release, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be written .*; set THYROID_WORKBOOK_CACHE"):
        release.frames("1_1").case(1, {1: svg(SQUARE)}).load()
