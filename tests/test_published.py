"""The readers of published sets: their tables, and what is refused or told of a copy that is not as published."""

import json
import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
from made_pictures import SPOT, put, refusal

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.check import check_dataset
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.readers import load_cases


@pytest.fixture
def ddti(tmp_path):
    folder = tmp_path / "sets" / "ddti"
    put(folder / "image", "1.PNG", "2.PNG", "10.PNG")
    put(folder / "mask", "1.PNG", "2.bmp", pixels=SPOT)
    table = "file,case,frame,pane,tirads,label\n10.PNG,7,7_2,left,,\n1.PNG,7,7_1,full,4a,1\n2.PNG,8,8_1,full,3,0\n"
    (folder / "labels.csv").write_text(table)
    return folder


def test_ddti_frames(ddti):
    cases = load_cases("ddti", ddti)
    assert cases.index.tolist() == ["ddti/1", "ddti/2", "ddti/10"]
    assert cases["patient"].tolist() == ["ddti-7", "ddti-8", "ddti-7"] and cases["patient_known"].all()
    assert cases["label"].fillna(-1).tolist() == [1, 0, -1]
    assert cases["tirads"].fillna("none").tolist() == ["4a", "3", "none"]
    assert cases["mask"].isna().tolist() == [False, False, True] and cases.loc["ddti/2", "mask"].endswith("2.bmp")
    pd.testing.assert_frame_equal(load_cases("ddti", ddti.parent), cases)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("10.PNG,7", "11.PNG,9,9_1,full,,\n10.PNG,7", "1 rows have no image file (11)"),
        ("2.PNG,8", "2.PNG,8,8_1,full,3,0\n2.PNG,8", "labels.csv line 5: 2.PNG is listed a second time"),
        (",8,8_1", ",,8_1", "1 values of patient are missing (ddti/2"),
        *(("3,0", f"3,{label}", f"line 4: label is {label!r}; expected 0") for label in ("2", "-1", "0.5", "malign")),
    ],
)
def test_ddti_table_and_folder_hold_each_other(ddti, old, new, told):
    table = ddti / "labels.csv"
    table.write_text(table.read_text().replace(old, new))
    assert told in refusal("ddti", ddti)


def test_what_systems_leave_behind_is_passed_over_and_loops_of_links_end(ddti):
    for place in (ddti, ddti / "image", ddti / "mask"):
        for name in (".DS_Store", "Thumbs.db", "._1.PNG", ".labels.csv", "readme.txt"):
            (place / name).write_bytes(b"\0")
        (place / "__MACOSX").mkdir()
    (ddti / "image" / "up").symlink_to(ddti)
    (ddti / "image" / "again.PNG").symlink_to(ddti / "image", target_is_directory=True)
    assert len(load_cases("ddti", ddti)) == 3
    put(ddti / "mask", "1.tif")
    assert "two files for one image, 1.PNG and 1.tif; keep one" in refusal("ddti", ddti)
    (ddti / "image" / "3.PNG").symlink_to(ddti / "image" / "3.PNG")
    assert "3.PNG: a link that leads nowhere or back to itself" in refusal("ddti", ddti)


@pytest.mark.parametrize(("name", "header"), [("train.csv", "ID,CATE"), ("anything.csv", "id;cate")])
def test_tnscui(tmp_path, name, header):
    composed, decomposed = (unicodedata.normalize(form, "José 3.png") for form in ("NFC", "NFD"))
    put(tmp_path / "image", decomposed, "20.PNG", "4.PNG")
    put(tmp_path / "mask", composed, "4.PNG", pixels=SPOT)
    assert "labels.csv (id,cate)" in refusal("tnscui", tmp_path)
    gap = header[2]
    (tmp_path / name).write_text(f"{header}\n{composed}{gap}1\n4{gap}0\n", encoding="utf-8")
    cases = load_cases("tnscui", tmp_path)
    assert cases.index.tolist() == ["tnscui/4", "tnscui/20", "tnscui/José 3"]
    assert cases["label"].fillna(-1).tolist() == [0, -1, 1]
    assert cases["mask"].isna().tolist() == [False, True, False]
    assert cases["patient"].tolist() == cases.index.tolist() and not cases["patient_known"].any()
    (tmp_path / "train.csv").write_text("ID,CATEG\n3.PNG,1\n")  # named like the published one, it goes before others
    assert "did you mean 'cate'?" in refusal("tnscui", tmp_path)


def test_tg3k(tmp_path):
    put(tmp_path / "thyroid-image", "0014.png", "0000.png", "0007.png")
    put(tmp_path / "thyroid-mask", "0000.png", "0007.png", "0001.png", pixels=SPOT)
    cases = load_cases("tg3k", tmp_path)
    assert cases.index.tolist() == ["tg3k/0000", "tg3k/0007", "tg3k/0014"] and cases["frame"].tolist() == [0, 7, 14]
    assert (cases["target"] == "gland").all() and cases["label"].isna().all()
    assert not cases["patient_known"].any() and cases["patient"].is_unique
    assert cases["mask"].isna().tolist() == [False, False, True]
    assert [note["problem"] for note in cases.attrs["notes"]] == ["1 masks bear the name of no image (0001.png); left out"]


@pytest.fixture
def tn3k(tmp_path):
    folder = tmp_path / "tn3k"
    names = [f"{number:04d}.jpg" for number in range(1, 7)]
    for part, listed in (("trainval", names), ("test", names[:2])):
        put(folder / f"{part}-image", *listed)
        put(folder / f"{part}-mask", *listed, pixels=SPOT)
    (folder / "label4trainval.csv").write_text("".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    (folder / "label4test.csv").write_text("name,label\n0002.jpg,1\n")
    return folder


def test_tn3k_official_split_and_labels(tn3k):
    cases = load_cases("tn3k", tn3k.parent)
    assert cases.index[0] == "tn3k/trainval/0001" and cases["split"].tolist() == ["train"] * 6 + ["test"] * 2
    assert cases["label"].fillna(-1).tolist() == [0, 1, 0, 1, 0, 1, -1, 1]
    assert cases["mask"].notna().all() and not cases["patient_known"].any() and cases["patient"].is_unique
    for train, val in (([1, 2, 3, 5], [0, 4]), (["0002", "0003", "0004", "0006"], ["0001.jpg", "0005.jpg"])):
        (tn3k / "tn3k-trainval-fold3.json").write_text(json.dumps({"train": train, "val": val}))
        splits = load_cases("tn3k", tn3k, fold=3)["split"].tolist()
        assert splits == ["val", "train", "train", "train", "val", "train", "test", "test"], "by position or by name"


TN3K_FOLDS = {
    '{"train": [0, 1], "val": [1]}': "0002 on both sides",
    '{"train": ["0099"], "val": [1]}': "0099 on both sides or not in trainval-image/",
    **dict.fromkeys(('{"train": [0]}', '{"train": [0, 99], "val": [1]}', "<html>", "[1, 2]"), "download it again"),
}


def test_tn3k_files_that_are_wrong_or_missing(tn3k):
    for content, words in TN3K_FOLDS.items():
        (tn3k / "tn3k-trainval-fold0.json").write_text(content)
        assert words in refusal("tn3k", tn3k, fold=0)
    assert "tn3k-trainval-fold1.json (or fold=None)" in refusal("tn3k", tn3k, fold=1)
    assert all("expected 0 to 4" in refusal("tn3k", tn3k, fold=fold) for fold in (5, -1, "first"))
    for path in (tn3k / "test-image").iterdir():
        path.unlink()
    assert "images in test-image/" in refusal("tn3k", tn3k)


# TN5000, ThyroidXL and BUSI


def voc(*nodules: str) -> str:
    """An annotation; a nodule is "class xmin ymin xmax ymax"."""
    drawn = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
    return "<annotation>" + "".join(drawn.format(*nodule.split()) for nodule in nodules) + "</annotation>"


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A folder with the three sets in it."""
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "TN5000"
    put(folder / "JPEGImages", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for number, nodules in enumerate([["0 3 4 20 21"], ["1 5 6 7 8", "1 1 9 6 12"], ["1 1 1 2 2"], ["0 1 2 3 4"]], 1):
        (folder / "Annotations" / f"{number}.xml").write_text(voc(*nodules))
    for side, names in {"train": "1\n2\n", "val": "3\n", "test": "4\n", "trainval": "1\n2\n3\n"}.items():
        (folder / "ImageSets" / "Main" / f"{side}.txt").write_text(names)
    for side, names in {"train": ("058_22_0.png", "058_A7_1.png", "cover.png"), "test": ("060_0F_0.png",)}.items():
        put(tmp_path / "ThyroidXL" / side / "images", *names)
        put(tmp_path / "ThyroidXL" / side / "masks", *names, pixels=SPOT)
    for name in ("benign", "malignant", "normal"):
        put(tmp_path / "BUSI" / name, f"{name} (1).png")
        put(tmp_path / "BUSI" / name, f"{name} (1)_mask.png", pixels=SPOT & (name != "normal"))
    put(tmp_path / "BUSI" / "benign", "benign (1)_mask_1.png", pixels=SPOT[::-1, ::-1])
    return tmp_path


def test_tn5000_official_split_labels_and_boxes(sets):
    cases = load_cases("tn5000", sets)
    assert cases.index.tolist() == ["tn5000/1", "tn5000/2", "tn5000/3", "tn5000/4"]
    assert cases["split"].tolist() == ["train", "train", "val", "test"] and cases["label"].tolist() == [0, 1, 1, 0]
    boxes = cases[["nodules", "box_left", "box_top", "box_right", "box_bottom"]].to_numpy().tolist()
    assert boxes == [[1, 3, 4, 20, 21], [2, 1, 6, 7, 12], [1, 1, 1, 2, 2], [1, 1, 2, 3, 4]]
    assert cases["mask"].isna().all() and not cases["patient_known"].any() and cases["patient"].is_unique
    assert not cases.attrs["notes"] and check_dataset("tn5000", sets).ok


BEYOND = "a box that ends beyond the image or before it begins"
VOC = [
    (voc(), "no nodule in the annotation: no label and no box"),
    (voc("0 1 2 3 4", "1 1 2 3 4"), "nodules of class 0 and 1, expected 0 or 1: no label and no box"),
    ("<annotation>", "no annotation that can be read: no label and no box"),
    (voc("1 1 2 -3 x"), "a box without four whole numbers: no box"),
    # 40×30 pixels; the other box is right
    *((voc("1 1 1 40 30", box), f"{BEYOND}: no box") for box in ("1 5 5 4 9", "1 5 5 9 4", "1 5 5 41 9", "1 5 5 9 31")),
]


@pytest.mark.parametrize(("text", "told"), VOC)
def test_an_annotation_that_tells_no_one_class_or_no_box_leaves_its_image_without_and_is_told(sets, text, told):
    (sets / "TN5000" / "Annotations" / "2.xml").write_text(text)
    cases = load_cases("tn5000", sets)
    is_lost = "no label" in told
    assert cases["label"].isna().tolist() == [False, is_lost, False, False] and cases["split"].notna().all()
    assert cases.loc["tn5000/2", ["nodules", "box_left"]].isna().tolist() == [is_lost, True]
    assert [note["problem"] for note in cases.attrs["notes"]] == [told]


def test_thyroidxl_official_split_by_patient(sets):
    cases = load_cases("thyroidxl", sets)
    assert cases["split"].tolist() == ["train", "train", "train", "test"] and cases["label"].isna().all()
    assert cases["patient"].tolist() == ["thyroidxl-058"] * 2 + ["thyroidxl/train/cover", "thyroidxl-060"]
    assert cases["patient_known"].tolist() == [True, True, False, True] and check_dataset("thyroidxl", sets).ok
    put(sets / "ThyroidXL" / "test" / "images", "058_FF_7.png")
    errors = check_dataset("thyroidxl", sets).table.query("severity == 'error'")["problem"].tolist()
    assert errors == ["mask missing", "one patient is in test, train (3 images)"]


def test_busi_joins_masks_and_leaves_normal_ones_without_label_and_with_an_empty_mask(sets):
    cases = load_cases("busi", sets)
    assert cases.index.tolist() == ["busi/benign (1)", "busi/malignant (1)", "busi/normal (1)"]
    assert cases["label"].fillna(-1).tolist() == [0, 1, -1] and not cases["patient_known"].any()
    masks, expected = map(read_mask, cases["mask"]), [SPOT | SPOT[::-1, ::-1], SPOT, SPOT & False]
    assert all(map(np.array_equal, masks, expected)) and cases["normal"].tolist() == [False, False, True]
    assert set(check_dataset("busi", sets).table["severity"]) == {"info"}


PARTS = [
    ("TN5000/Annotations", None, "Annotations/ with an XML file an image"),
    ("TN5000/ImageSets/Main/val.txt", None, "train.txt, val.txt and test.txt"),
    ("TN5000/ImageSets/Main/test.txt", "1", "test.txt: 1 in two lists"),
    ("TN5000/ImageSets/Main/test.txt", "9", "test.txt: 9 in two lists or not in JPEGImages/"),
    ("ThyroidXL/test", None, "expected train/ and test/ with images/ and masks/"),
    ("ThyroidXL/train/images", None, "expected images in images/"),
    ("BUSI/normal", None, "expected benign/, malignant/ and normal/"),
]


@pytest.mark.parametrize(("part", "content", "told"), PARTS)
def test_a_part_that_is_missing_or_wrong_is_named(sets, part, content, told):
    if content:
        (sets / part).write_text(content)
    else:
        (sets / part).rename(sets / "elsewhere")
    text = refusal(part.partition("/")[0].lower(), sets)
    assert told in text and ("published at" in text) == (content is None)


# DDTI's original release

SQUARE = [(10, 5), (19, 5), (19, 14), (10, 14)]  # x 10 to 19, y 5 to 14: 100 pixels, its outline included
OTHER = [(30, 20), (39, 20), (39, 24), (30, 24)]  # 50 pixels


def svg(*polygons) -> str:
    return json.dumps([{"points": [{"x": x, "y": y} for x, y in points], "regionType": "freehand"} for points in polygons])


class Release:
    """Builds a folder in the layout of the original release."""

    def __init__(self, folder):
        self.folder = folder

    def frames(self, *names):
        put(self.folder, *(f"{name}.jpg" for name in names))
        return self

    def case(self, number: int, marks: list, **values):
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
        inner += "".join(f"<mark><image>{frame}</image><svg>{text}</svg></mark>" for frame, text in marks)
        (self.folder / f"{number}.xml").write_text(f"<case>{inner}</case>")
        return self

    def load(self) -> pd.DataFrame:
        return load_cases("ddti", self.folder)


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "DDTI release").mkdir()
    return Release(tmp_path / "DDTI release")


def mask_of(cases: pd.DataFrame, case: str) -> np.ndarray:
    return read_mask(cases.loc[case, "mask"], SPOT.shape)


def test_a_case_becomes_rows_with_its_columns_and_masks(release, tmp_path):
    told = {"age": "45", "sex": "F", "composition": "solid", "margins": "ill defined", "tirads": "4a"}
    marks = [(1, svg(SQUARE)), (2, svg(SQUARE, OTHER)), (2, svg([(x + 5, y) for x, y in SQUARE]))]
    release.frames("7_1", "7_2", "12_1", "cover").case(7, marks, **told)
    release.case(12, [(1, svg(OTHER))], tirads="2", age="9" * 5000)
    before = sorted(release.folder.iterdir())
    cases = release.load()
    assert cases.index.tolist() == ["ddti/7_1", "ddti/7_2", "ddti/12_1"]
    assert cases["patient"].tolist() == ["ddti-7", "ddti-7", "ddti-12"] and cases["patient_known"].all()
    assert cases["label"].tolist() == [1, 1, 0] and cases["tirads"].tolist() == ["4a", "4a", "2"]
    first = cases.loc["ddti/7_1"]
    assert first[["age", "sex", "composition", "margins"]].tolist() == [45, "F", "solid", "ill defined"]
    assert cases.loc["ddti/12_1", ["age", "sex", "composition"]].isna().all()
    assert cases["nodules"].tolist() == [1, 3, 1] and cases["mask_problem"].isna().all()
    expected = np.zeros(SPOT.shape, bool)
    expected[5:15, 10:20] = True
    assert np.array_equal(mask_of(cases, "ddti/7_1"), expected)
    assert mask_of(cases, "ddti/7_2").sum() == 200, "marks of one frame are joined, and overlaps leave no hole"
    assert sorted(release.folder.iterdir()) == before and str(tmp_path / "cache") in first["mask"]
    assert [note["problem"] for note in cases.attrs["notes"]] == ["not named NNN_K; left out"]


TIRADS = [("2", 0), ("3", 0), ("4a", 1), ("4B", 1), (" 4c ", 1), ("5", 1), ("", None), ("4", None), ("6", None)]


@pytest.mark.parametrize(("tirads", "label"), TIRADS)
def test_label_follows_tirads(release, tirads, label):
    found = release.frames("1_1").case(1, [(1, svg(SQUARE))], tirads=tirads).load().loc["ddti/1_1", "label"]
    assert pd.isna(found) if label is None else found == label


NO_LIST = "no list of outlines"
OUTLINES = {  # the mark's text, the pixels that are drawn, and what is told
    "empty": ("", 0, "no outline drawn"),
    "cut off": (svg(SQUARE)[:-20], 0, NO_LIST),
    "deeply nested": ("[" * 50_000, 0, NO_LIST),
    "two points": (svg(SQUARE[:2]), 0, "2 points"),
    "a region of another kind": ('["freehand"]', 0, NO_LIST),
    "not a number": ('[{"points": [{"x": NaN, "y": 1}, {"x": 1e999, "y": 2}, {"x": 3, "y": 3}]}]', 0, NO_LIST),
    "outside": (svg([(100, 100), (120, 100), (120, 120)]), 0, "marks nothing"),
    "a huge number": (svg([*SQUARE, (10**400, 5)]), 0, NO_LIST),
    "a stray click": (svg(SQUARE, [(1, 1)]), 100, "1 points"),
    "over the edge": (svg([(x + 25, y) for x, y in SQUARE]), 50, "leaves the frame"),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_what_can_be_drawn_of_an_outline_is_drawn_and_the_rest_named(release, name):
    text, pixels, words = OUTLINES[name]
    cases = release.frames("1_1", "1_2").case(1, [(1, text), (2, svg(OTHER))], tirads="5").load()
    row = cases.loc["ddti/1_1"]
    assert words in row["mask_problem"] and row["label"] == 1 and row["nodules"] == bool(pixels)
    assert pd.isna(row["mask"]) if pixels == 0 else mask_of(cases, "ddti/1_1").sum() == pixels
    assert mask_of(cases, "ddti/1_2").sum() == 50


@pytest.mark.parametrize("broken", ["<case><number>1</number><tirads>5</ti", "", None])
def test_a_case_without_readable_file_has_no_mask_and_no_label(release, broken):
    release.frames("1_1", "2_1").case(2, [(1, svg(SQUARE))], tirads="3")
    if broken is not None:
        (release.folder / "1.xml").write_text(broken)
    cases = release.load()
    row = cases.loc["ddti/1_1"]
    assert pd.isna(row["mask"]) and pd.isna(row["label"]) and pd.isna(row["nodules"])
    assert "no 1.xml that can be read" in row["mask_problem"] and row["patient"] == "ddti-1"
    assert cases.loc["ddti/2_1", "label"] == 0


HOSTILE = [
    '<!DOCTYPE c [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><case><sex>&b;</sex></case>',
    '<!DOCTYPE c [<!ENTITY f SYSTEM "file:///etc/passwd">]><case><sex>&f;</sex></case>',
]


@pytest.mark.parametrize("content", HOSTILE, ids=["billion laughs", "file"])
def test_hostile_xml_is_refused(release, content):
    release.frames("1_1")
    (release.folder / "1.xml").write_text(content)
    text = refusal("ddti", release.folder)
    assert "1.xml" in text and "entities" in text and "download it again" in text


def test_what_the_release_or_the_cache_lacks_is_told(release, tmp_path, monkeypatch):
    release.case(1, [(1, svg(SQUARE)), (2, svg(SQUARE))])
    assert "no NNN_K.jpg" in refusal("ddti", release.folder)
    release.frames("1_2")
    (release.folder / "1_1.jpg").write_bytes(b"<html>404</html>")
    cases = release.load()
    assert "<html>" in cases.loc["ddti/1_1", "mask_problem"] and pd.isna(cases.loc["ddti/1_1", "mask"])
    assert str(release.folder) not in cases.loc["ddti/1_1", "mask_problem"] and mask_of(cases, "ddti/1_2").sum() == 100
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be written .*; set THYROID_WORKBOOK_CACHE"):
        release.load()


def test_masks_are_made_once_and_anew_when_an_outline_changes(release):
    release.frames("1_1").case(1, [(1, svg(SQUARE))])
    first = release.load().loc["ddti/1_1", "mask"]
    written = os.stat(first).st_mtime_ns
    assert release.load().loc["ddti/1_1", "mask"] == first and os.stat(first).st_mtime_ns == written
    cases = release.case(1, [(1, svg(OTHER))]).load()
    assert cases.loc["ddti/1_1", "mask"] != first and mask_of(cases, "ddti/1_1").sum() == 50
