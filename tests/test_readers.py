from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_image, read_mask, write_png
from thyroid_utils.data.readers import READERS, load_cases
from thyroid_utils.data.readers.listing import natural_order, read_table
from thyroid_utils.data.table import validate_cases

FRAME = np.full((6, 8), 90, np.uint8)
SPOT = np.zeros((6, 8), bool)
SPOT[2:4, 2:5] = True


def images(folder, *names):
    for name in names:
        write_png(folder / name, FRAME)


def masks(folder, *names):
    for name in names:
        write_png(folder / name, SPOT)


def refusal(dataset, root, **options) -> str:
    """The one line with which a data set is refused; it always names what or where, and what to do."""
    with pytest.raises(DataError) as error:
        load_cases(dataset, root, **options)
    text = str(error.value)
    assert "\n" not in text and "; " in text, text
    return text


# The registry


def test_the_agreed_readers_are_there():
    assert list(READERS) == ["phantom", "ddti", "tn3k", "tg3k", "tnscui", "folders", "manifest"]


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    assert "did you mean tn3k?" in refusal("TNK3", tmp_path)
    assert "known: phantom, ddti" in refusal("xyz", tmp_path)


def test_cases_can_be_asked_to_have_labels_and_masks(tmp_path):
    settings = {"patients": 6, "size": 64, "seed": 3}
    every = load_cases("phantom", **settings)
    assert load_cases("phantom", having=["label", "mask"], **settings).equals(every)
    rows = [{"image": f"{name}.png", "mask": f"{name}_mask.png", "label": 1} for name in "abc"]
    for row, case in zip(rows, every.itertuples(), strict=False):
        for column in ("image", "mask"):
            (tmp_path / row[column]).write_bytes(Path(getattr(case, column)).read_bytes())
    rows[0]["mask"], rows[1]["label"] = None, None
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    assert len(load_cases("manifest", tmp_path)) == 3
    assert len(load_cases("manifest", tmp_path, having="mask")) == 2
    assert list(load_cases("manifest", tmp_path, having=["label", "mask"]).index) == ["row-0003"]
    assert "did you mean mask" in refusal("manifest", tmp_path, having=["masks"])
    pd.DataFrame(rows[:1]).to_csv(tmp_path / "manifest.csv", index=False)
    assert "none of 1 cases has mask" in refusal("manifest", tmp_path, having=["mask"])


def test_unknown_options_are_refused_by_name(tmp_path):
    assert "did you mean fold?" in refusal("tn3k", tmp_path, folds=1)
    assert "known: having" in refusal("ddti", tmp_path, fold=1)
    assert "did you mean patients?" in refusal("phantom", tmp_path, patiens=3)


@pytest.mark.parametrize("dataset", [name for name in READERS if name != "phantom"])
def test_missing_data_name_the_tree_the_find_and_the_source(tmp_path, dataset):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "pictures").mkdir()
    text = refusal(dataset, tmp_path)
    assert str(tmp_path) in text and "expected" in text and "found: notes.txt, pictures/" in text
    assert ("published at" in text) == (dataset not in ("folders", "manifest"))
    assert "no such folder" in refusal(dataset, tmp_path / "absent")
    assert "an empty folder" in refusal(dataset, (tmp_path / "pictures"))
    assert "DATA_ROOT" in refusal(dataset, None)


def test_a_relative_root_is_seen_from_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    images(tmp_path / "sets" / "tg3k" / "thyroid-image", "0000.png")
    monkeypatch.chdir("/")
    assert len(load_cases("tg3k", "sets")) == 1


def test_phantoms_come_through_the_same_door_and_leave_a_given_folder_alone(tmp_path):
    cases = load_cases("phantom", tmp_path, patients=4, size=64, workers=1)
    assert not list(tmp_path.iterdir())
    assert cases["patient"].nunique() == 4 and cases.index.str.startswith("phantom/").all()
    assert cases["patient_known"].all() and (cases["target"] == "nodule").all()
    pd.testing.assert_frame_equal(validate_cases(cases), cases)


def test_natural_order():
    names = ["a10", "a2", "a", "a1b", "a1", "10", "2", "A3", "a01"]
    assert sorted(names, key=natural_order) == ["2", "10", "a", "a01", "a1", "a1b", "a2", "A3", "a10"]


# DDTI, frames with a table


@pytest.fixture
def ddti(tmp_path):
    folder = tmp_path / "sets" / "ddti"
    images(folder / "image", "1.PNG", "2.PNG", "10.PNG")
    masks(folder / "mask", "1.PNG", "2.PNG", "10.PNG")
    table = "file,case,frame,pane,tirads,label\n10.PNG,7,7_2,left,,\n1.PNG,7,7_1,full,4a,1\n2.PNG,8,8_1,full,3,0\n"
    (folder / "labels.csv").write_text(table)
    return folder


def test_ddti_frames(ddti):
    cases = load_cases("ddti", ddti)
    assert cases.index.tolist() == ["ddti/1", "ddti/2", "ddti/10"]
    assert cases["patient"].tolist() == ["ddti-7", "ddti-8", "ddti-7"] and cases["patient_known"].all()
    assert cases["label"].fillna(-1).tolist() == [1, 0, -1]
    assert cases["tirads"].fillna("none").tolist() == ["4a", "3", "none"]
    assert cases["pane"].tolist() == ["full", "full", "left"] and cases["frame"].tolist() == ["7_1", "8_1", "7_2"]
    assert (cases["target"] == "nodule").all() and cases["mask"].notna().all()
    pd.testing.assert_frame_equal(load_cases("ddti", ddti.parent), cases)


def test_a_missing_mask_is_na(ddti):
    (ddti / "mask" / "2.PNG").unlink()
    assert load_cases("ddti", ddti)["mask"].isna().tolist() == [False, True, False]


def test_a_mask_may_have_another_format_and_case_than_its_image(ddti):
    (ddti / "mask" / "2.PNG").unlink()
    masks(ddti / "mask", "2.bmp")
    assert load_cases("ddti", ddti).loc["ddti/2", "mask"].endswith("2.bmp")


def test_ddti_table_and_folder_hold_each_other(ddti):
    table = ddti / "labels.csv"
    text = table.read_text()
    table.write_text(text + "11.PNG,9,9_1,full,,\n")
    assert "1 rows have no image file (11)" in refusal("ddti", ddti)
    table.write_text(text.replace("2.PNG,8,8_1,full,3,0\n", ""))
    assert "no row for 1 images (2.PNG)" in refusal("ddti", ddti)
    table.write_text(text + "2.PNG,8,8_1,full,3,0\n")
    assert "labels.csv line 5" in refusal("ddti", ddti) and "a second time" in refusal("ddti", ddti)
    table.write_text(text.replace(",8,8_1", ",,8_1"))
    assert "no case number" in refusal("ddti", ddti)


@pytest.mark.parametrize("label", ["2", "-1", "0.5", "malign", "benign?"])
def test_a_label_outside_0_and_1_is_refused_with_its_line(ddti, label):
    table = ddti / "labels.csv"
    table.write_text(table.read_text().replace("8_1,full,3,0", f"8_1,full,3,{label}"))
    text = refusal("ddti", ddti)
    assert f"{table} line 4" in text and repr(label.strip()) in text and "correct it" in text


def test_two_files_for_one_image_are_refused(ddti):
    images(ddti / "image", "2.bmp")
    text = refusal("ddti", ddti)
    assert "2.PNG" in text and "2.bmp" in text and "keep one" in text
    (ddti / "image" / "2.bmp").rename(ddti / "mask" / "2.bmp")
    assert "keep one" in refusal("ddti", ddti)


def test_what_systems_leave_behind_is_passed_over(ddti):
    for place in (ddti, ddti / "image", ddti / "mask"):
        for name in (".DS_Store", "Thumbs.db", "._1.PNG", ".labels.csv", "readme.txt"):
            (place / name).write_bytes(b"\0")
        (place / "__MACOSX").mkdir()
    assert len(load_cases("ddti", ddti)) == 3


def test_symlink_loops_end(ddti):
    (ddti / "image" / "up").symlink_to(ddti)
    (ddti / "image" / "again.PNG").symlink_to(ddti / "image", target_is_directory=True)
    assert len(load_cases("ddti", ddti)) == 3
    (ddti / "image" / "3.PNG").symlink_to(ddti / "image" / "3.PNG")
    text = refusal("ddti", ddti)
    assert "3.PNG" in text and "leads nowhere or back to itself" in text
    (ddti / "image" / "3.PNG").unlink()
    (ddti.parent / "loop").symlink_to(ddti.parent / "loop")
    assert "no such folder" in refusal("ddti", ddti.parent / "loop")


def test_real_ddti(real_data):
    cases = load_cases("ddti", real_data)
    assert len(cases) == 543 and cases["patient"].nunique() == 329 and cases["mask"].notna().all()
    assert cases["label"].value_counts(dropna=False).to_dict() == {1: 314, 0: 46, pd.NA: 183}
    assert cases["pane"].value_counts().to_dict() == {"full": 251, "left": 146, "right": 146}


# TN-SCUI


@pytest.mark.parametrize("name, header", [("train.csv", "ID,CATE"), ("anything.csv", "id;cate")])
def test_tnscui(tmp_path, name, header):
    images(tmp_path / "image", "3.PNG", "20.PNG", "4.PNG")
    masks(tmp_path / "mask", "3.PNG", "4.PNG")
    gap = header[2]
    (tmp_path / name).write_text(f"{header}\n3.PNG{gap}1\n4{gap}0\n")
    cases = load_cases("tnscui", tmp_path)
    assert cases.index.tolist() == ["tnscui/3", "tnscui/4", "tnscui/20"]
    assert cases["label"].fillna(-1).tolist() == [1, 0, -1]
    assert cases["mask"].isna().tolist() == [False, False, True]
    assert cases["patient"].tolist() == cases.index.tolist() and not cases["patient_known"].any()


def test_accents_are_compared_as_letters_and_not_as_bytes(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "José 1.png") for form in ("NFC", "NFD"))
    images(tmp_path / "image", decomposed)
    masks(tmp_path / "mask", composed)
    (tmp_path / "train.csv").write_text(f"ID,CATE\n{composed},1\n", encoding="utf-8")
    cases = load_cases("tnscui", tmp_path)
    assert cases.index.tolist() == ["tnscui/José 1"] and cases["label"].tolist() == [1] and cases["mask"].notna().all()


def test_tnscui_with_several_tables(tmp_path):
    images(tmp_path / "image", "3.PNG")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("ID,CATE\n3.PNG,1\n")
    assert "2 CSV files" in refusal("tnscui", tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "train.csv")
    assert len(load_cases("tnscui", tmp_path)) == 1


def test_a_near_miss_of_a_column_is_told(tmp_path):
    images(tmp_path / "image", "3.PNG")
    (tmp_path / "train.csv").write_text("ID,CATEG\n3.PNG,1\n")
    assert "did you mean 'cate'?" in refusal("tnscui", tmp_path)
    (tmp_path / "train.csv").write_text("name,class\n3.PNG,1\n")
    assert "no column id, cate; found name, class" in refusal("tnscui", tmp_path)


# TG3K


def test_tg3k(tmp_path):
    images(tmp_path / "thyroid-image", "0014.png", "0000.png", "0007.png")
    masks(tmp_path / "thyroid-mask", "0000.png", "0007.png")
    cases = load_cases("tg3k", tmp_path)
    assert cases.index.tolist() == ["tg3k/0000", "tg3k/0007", "tg3k/0014"] and cases["frame"].tolist() == [0, 7, 14]
    assert (cases["target"] == "gland").all() and cases["label"].isna().all()
    assert not cases["patient_known"].any() and cases["patient"].is_unique
    assert cases["mask"].isna().tolist() == [False, False, True]


def test_real_tg3k(real_data):
    cases = load_cases("tg3k", real_data)
    assert len(cases) == 717 and cases["mask"].notna().all() and cases["frame"].is_monotonic_increasing
    mask = read_mask(cases.iloc[0]["mask"])
    assert mask.shape == (256, 256) and 0.01 < mask.mean() < 0.6


# TN3K


@pytest.fixture
def tn3k(tmp_path):
    folder = tmp_path / "tn3k"
    names = [f"{number:04d}.jpg" for number in range(6)]
    images(folder / "trainval-image", *names)
    masks(folder / "trainval-mask", *names)
    images(folder / "test-image", *names[:2])
    masks(folder / "test-mask", *names[:2])
    (folder / "label4trainval.csv").write_text("".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    (folder / "label4test.csv").write_text("0000.jpg,1\n0001.jpg,0\n")
    return folder


def test_tn3k_official_split_and_labels(tn3k):
    cases = load_cases("tn3k", tn3k.parent)
    assert cases.index[0] == "tn3k/trainval/0000" and cases.index[-1] == "tn3k/test/0001"
    assert cases["split"].tolist() == ["train"] * 6 + ["test"] * 2
    assert cases["label"].tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    assert cases["mask"].notna().all() and not cases["patient_known"].any() and cases["patient"].is_unique


@pytest.mark.parametrize(
    "content",
    [
        {"train": [0, 1, 2, 3], "val": [4, 5]},
        {"train": ["0000", "0001", "0002", "0003"], "val": ["0004.jpg", "0005.jpg"]},
    ],
)
def test_tn3k_folds(tn3k, content):
    (tn3k / "tn3k-trainval-fold3.json").write_text(json.dumps(content))
    cases = load_cases("tn3k", tn3k, fold=3)
    assert cases["split"].tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def test_tn3k_folds_by_number_are_positions_in_the_sorted_list(tn3k):
    for number in range(6):  # names that start at 1: position 0 is 0001.jpg
        part = tn3k / "trainval-image"
        (part / f"{5 - number:04d}.jpg").rename(part / f"{6 - number:04d}.jpg")
    (tn3k / "label4trainval.csv").write_text("".join(f"{number:04d}.jpg,0\n" for number in range(1, 7)))
    (tn3k / "tn3k-trainval-fold0.json").write_text('{"train": [1, 2, 3, 4, 5], "val": [0]}')
    cases = load_cases("tn3k", tn3k, fold=0)
    assert cases.index[cases["split"] == "val"].tolist() == ["tn3k/trainval/0001"]


def test_tn3k_faults(tn3k):
    assert "tn3k-trainval-fold1.json (or fold=None)" in refusal("tn3k", tn3k, fold=1)
    for fold in (5, -1, "first"):
        assert "expected 0 to 4" in refusal("tn3k", tn3k, fold=fold)
    path = tn3k / "tn3k-trainval-fold0.json"
    for content, words in [
        ('{"train": [0, 1], "val": [1]}', "in train and in val (0001)"),
        ('{"train": [0, 99], "val": [1]}', "no image in trainval-image/ (position 99)"),
        ('{"train": [0]}', "download it again"),
        ("<html>", "download it again"),
        ("[1, 2]", "download it again"),
    ]:
        path.write_text(content)
        assert words in refusal("tn3k", tn3k, fold=0), content
    (tn3k / "label4test.csv").write_text("0000.jpg,1\n0009.jpg,0\n")
    assert "1 rows have no image file (0009)" in refusal("tn3k", tn3k)
    (tn3k / "label4test.csv").unlink()
    assert "label4test.csv" in refusal("tn3k", tn3k)
    for path in (tn3k / "test-image").iterdir():
        path.unlink()
    assert "images in test-image/" in refusal("tn3k", tn3k)


def test_tn3k_labels_with_a_header_and_gaps(tn3k):
    (tn3k / "label4test.csv").write_text("name,label\n0001.jpg,1\n")
    assert load_cases("tn3k", tn3k)["label"].tail(2).fillna(-1).tolist() == [-1, 1]


# Folders


@pytest.mark.parametrize(
    "benign, malignant", [("benign", "malignant"), ("Benign", "MALIGNANT"), ("0", "1"), ("b", "M"), ("benign nodules", "cancer")]
)
def test_folders_in_the_usual_spellings(tmp_path, benign, malignant):
    images(tmp_path / benign, "img_2.png", "img_10.png")
    images(tmp_path / malignant, "img_2.png")
    cases = load_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/img_2", "benign/img_10", "malignant/img_2"]
    assert cases["label"].tolist() == [0, 0, 1] and cases["mask"].isna().all() and cases["split"].isna().all()
    assert cases["patient"].tolist() == cases.index.tolist() and not cases["patient_known"].any()


@pytest.mark.parametrize(
    "place, mask",
    [
        ("benign/masks", "a b.png"),
        ("benign_mask", "a b.png"),
        ("benign_masks", "a b_mask.png"),
        ("masks/benign", "a b.bmp"),
        ("Mask/Benign", "a b.png"),
        ("benign", "a b_mask.png"),
        ("benign", "a b-Mask_1.png"),
    ],
)
def test_folders_find_masks_wherever_they_usually_lie(tmp_path, place, mask):
    images(tmp_path / "benign", "a b.png", "c.png")
    images(tmp_path / "malignant", "a b.png")
    masks(tmp_path / place, mask)
    cases = load_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a b", "benign/c", "malignant/a b"]
    assert cases["mask"].isna().tolist() == [False, True, True]
    assert cases.loc["benign/a b", "mask"].endswith(mask) and cases.attrs["notes"] == []


def test_folders_with_images_below(tmp_path):
    images(tmp_path / "benign" / "images", "a.png")
    masks(tmp_path / "benign" / "masks", "a.png")
    images(tmp_path / "malignant" / "images", "a.png")
    assert load_cases("folders", tmp_path)["mask"].isna().tolist() == [False, True]


def test_folders_with_images_above(tmp_path):
    for name in ("benign", "malignant"):
        images(tmp_path / "images" / name, "a.png")
        masks(tmp_path / "masks" / name, "a.png")
    cases = load_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a", "malignant/a"] and cases["mask"].notna().all()
    assert [path.split("/")[-2] for path in cases["mask"]] == ["benign", "malignant"]


def test_folders_with_a_split(tmp_path):
    for split in ("Train", "test"):
        for name in ("benign", "malignant"):
            images(tmp_path / split / name, "p1_a.png", "p2_a.png")
    cases = load_cases("folders", tmp_path)
    assert cases.index[0] == "train/benign/p1_a" and cases["split"].tolist() == ["train"] * 4 + ["test"] * 4


@pytest.mark.parametrize("other", ["TRAIN", "training"])
def test_two_folders_for_one_split_are_refused_and_not_one_of_them_forgotten(tmp_path, other):
    for split in ("train", other, "test"):
        for name in ("benign", "malignant"):
            images(tmp_path / split / name, "a.png")
    assert "two folders for train" in refusal("folders", tmp_path)


def test_folders_with_a_patient_pattern(tmp_path):
    images(tmp_path / "benign", "p1_a.png", "p1_b.png")
    images(tmp_path / "malignant", "p2_a.png")
    cases = load_cases("folders", tmp_path, patient_pattern=r"^(p\d+)_", target="gland")
    assert cases["patient"].tolist() == ["p1", "p1", "p2"] and cases["patient_known"].all()
    assert (cases["target"] == "gland").all()
    assert "p1_a.png" in refusal("folders", tmp_path, patient_pattern=r"^x(\d+)")
    assert "2 groups, expected one" in refusal("folders", tmp_path, patient_pattern=r"^(p)(\d+)")
    assert "no regular expression" in refusal("folders", tmp_path, patient_pattern="(p")
    assert "expected nodule or gland" in refusal("folders", tmp_path, target="lymph node")


def notes_of(cases, root) -> dict[str, str]:
    return {str(Path(note["file"]).relative_to(root)): note["problem"].split(" (")[0] for note in cases.attrs["notes"]}


def test_folders_tell_what_they_leave_out(tmp_path):
    for name in ("benign", "malignant", "normal", "benign/patient 7", "malignant/masks"):
        images(tmp_path / name, "a.png")
    images(tmp_path, "stray.png", "stray2.png")
    images(tmp_path / "malignant" / "masks", "b_seg.png")
    outside = "images outside the folders of benign and malignant ones; left out"
    assert notes_of(load_cases("folders", tmp_path), tmp_path) == {
        ".": f"2 {outside}",
        "benign/patient 7": f"1 {outside}",
        "normal": f"1 {outside}",
        "malignant/masks": "1 masks bear the name of no image",
    }


def test_folders_with_a_split_tell_what_they_leave_out(tmp_path):
    for name in ("train/benign", "train/malignant", "more", "train"):
        images(tmp_path / name, "a.png")
    cases = load_cases("folders", tmp_path)
    assert len(cases) == 2 and set(notes_of(cases, tmp_path)) == {"more", "train"}
    images(tmp_path / "benign", "b.png")
    assert "class folders beside train/" in refusal("folders", tmp_path)


@pytest.mark.parametrize("dataset", ["ddti", "tg3k"])
def test_masks_without_an_image_are_told(tmp_path, request, dataset):
    if dataset == "ddti":
        root = request.getfixturevalue("ddti")
        masks(root / "mask", "99.PNG")
    else:
        root = tmp_path
        images(root / "thyroid-image", "0000.png")
        masks(root / "thyroid-mask", "0000.png", "0001.png")
    assert list(notes_of(load_cases(dataset, root), root).values()) == ["1 masks bear the name of no image"]


def test_folders_faults(tmp_path):
    images(tmp_path / "benign", "a.png")
    images(tmp_path / "malingnant", "a.png")
    assert "found: benign/, malingnant/" in refusal("folders", tmp_path)
    (tmp_path / "malingnant").rename(tmp_path / "malignant")
    masks(tmp_path / "benign" / "masks", "a.png")
    masks(tmp_path / "benign_mask", "a.png")
    assert "two masks for a" in refusal("folders", tmp_path)
    images(tmp_path / "0", "b.png")
    assert "two folders for benign" in refusal("folders", tmp_path)


def test_an_image_that_is_called_a_mask_of_nothing_stays_an_image(tmp_path):
    images(tmp_path / "benign", "face_mask.png")
    images(tmp_path / "malignant", "a.png")
    assert load_cases("folders", tmp_path).index.tolist() == ["benign/face_mask", "malignant/a"]


# Manifest


def manifest(folder, text: str, *names: str, encoding: str = "utf-8"):
    images(folder, *names)
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    return folder / "manifest.csv"


FULL = """image,mask,label,patient,split,case,target,age,id,note
a.png,m/a.png,benign,ann,train,first,,40,007,x
sub/b.png,,1,bob,test,second,gland,,008,
"""


def test_manifest_with_all_columns(tmp_path):
    path = manifest(tmp_path, FULL, "a.png", "sub/b.png")
    masks(tmp_path / "m", "a.png")
    cases = load_cases("manifest", path)
    assert cases.index.tolist() == ["first", "second"] and cases["label"].tolist() == [0, 1]
    assert cases["patient"].tolist() == ["ann", "bob"] and cases["patient_known"].all()
    assert cases["split"].tolist() == ["train", "test"] and cases["target"].tolist() == ["nodule", "gland"]
    assert cases["mask"].isna().tolist() == [False, True]
    assert cases["age"].dropna().tolist() == [40] and cases["id"].tolist() == ["007", "008"]
    assert cases["note"].fillna("none").tolist() == ["x", "none"]
    pd.testing.assert_frame_equal(load_cases("manifest", tmp_path), cases)


def test_the_shortest_manifest(tmp_path):
    cases = load_cases("manifest", manifest(tmp_path, "image\na.png\nb.png\n", "a.png", "b.png"))
    assert cases.index.tolist() == ["row-0001", "row-0002"] and cases["label"].isna().all()
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_manifest_as_spreadsheets_save_it(tmp_path, delimiter, encoding, end):
    lines = ["Image,Label ,Patient", '"a, b.png",Malignant,Müller', "c;d.png,0,", ",,"]
    if delimiter != ",":
        lines = [line.replace(",", delimiter) for line in lines]
    if delimiter != "\t":
        lines[2] = lines[2].replace("c;d.png", '"c;d.png"')
    first = f"a{delimiter} b.png"
    path = manifest(tmp_path, end.join(lines) + end, first, "c;d.png", encoding=encoding)
    cases = load_cases("manifest", path)
    assert [name.rpartition("/")[2] for name in cases["image"]] == [first, "c;d.png"]
    assert cases["label"].tolist() == [1, 0]
    assert cases["patient"].tolist() == ["Müller", "row-0002"] and cases["patient_known"].tolist() == [True, False]


@pytest.mark.parametrize("stored, listed", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_with_spaces_accents_and_other_scripts(tmp_path, stored, listed):
    name = "nódulo 1 – März 甲状腺.png"
    folder = tmp_path / "Bilder (ä) 1"
    path = manifest(folder, f"image\n{unicodedata.normalize(listed, name)}\n", unicodedata.normalize(stored, name))
    assert np.array_equal(read_image(load_cases("manifest", path)["image"].iloc[0]), FRAME)


@pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png", "link.png", "linked/outside.png", "..\\outside.png"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_that_climbs_out_is_refused(tmp_path, name, column):
    images(tmp_path, "outside.png")
    root = tmp_path / "root"
    row = f"{name},a.png" if column == "image" else f"a.png,{name}"
    path = manifest(root, f"image,mask\n{row}\n", "a.png")
    (root / "sub").mkdir()
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "linked").symlink_to(tmp_path)
    text = refusal("manifest", path)
    assert "line 2" in text and repr(name) in text and "leads out of" in text


@pytest.mark.parametrize("name", ["/etc/passwd", "C:\\scans\\a.png", "//server/share/a.png"])
def test_an_absolute_path_is_refused(tmp_path, name):
    assert "absolute path" in refusal("manifest", manifest(tmp_path, f"image\n{name}\n"))


def test_paths_within_the_root_may_wind(tmp_path):
    path = manifest(tmp_path, "image\nsub/../a.png\nsub\\b.png\n", "a.png", "sub/b.png")
    assert len(load_cases("manifest", path)) == 2


def test_manifest_faults(tmp_path):
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for text, words in [
        ("image\nmissing.png\n", "line 2: no file 'missing.png'"),
        ("image,mask\na.png,missing.png\n", "no file 'missing.png'"),
        ("image,label\na.png,0\n\nb.png,3\n", "line 4: label is '3'"),
        ("image,split\na.png,holdout\n", "expected train, val, test"),
        ("image,target\na.png,node\n", "expected nodule, gland"),
        ("image\na.png\n./a.png\n", "line 3: ./a.png is listed a second time (first in line 2)"),
        ("image,case\na.png,x\nb.png,x\n", "line 3: x is listed a second time (first in line 2)"),
        ("image,label\n,1\n", "no image named"),
        ("image,pateint\na.png,7\n", "did you mean 'patient'?"),
        ("images\na.png\n", "did you mean 'image'?"),
        ("file,label\na.png,1\n", "no column image; found file, label"),
        ("image,dataset\na.png,x\n", "'dataset' has a fixed meaning"),
        ("image,age,AGE\na.png,1,2\n", "'age' occurs twice"),
        ("image,label\na.png,1,extra\n", "line 2: 3 fields, expected 2"),
        ("image,label\na.png\n", "line 2: 1 fields, expected 2"),
        ('image,label\n"a.png,1\n', "correct the quotes"),
        ("image\n", "no rows"),
        ("", "empty"),
        ("image\nloop.png\n", "loop.png"),
    ]:
        assert words in refusal("manifest", manifest(tmp_path, text)), text


def test_empty_columns_at_the_right_are_passed_over(tmp_path):
    cases = load_cases("manifest", manifest(tmp_path, "image,label,,\na.png,1,,\nb.png,0\n", "a.png", "b.png"))
    assert cases["label"].tolist() == [1, 0] and "" not in cases


def test_a_manifest_that_is_no_utf8_text(tmp_path):
    path = manifest(tmp_path, "image,patient\na.png,Müller\n", encoding="latin-1")
    assert str(path) in refusal("manifest", path) and "CSV UTF-8" in refusal("manifest", path)
    path = manifest(tmp_path, "image\na.png\n", encoding="utf-16")
    assert "CSV UTF-8" in refusal("manifest", path)


def test_long_and_zero_led_numbers_stay_text(tmp_path):
    text = "image,accession,code,size\na.png,12345678901234567890,01,1.5\nb.png,7,2,\n"
    cases = load_cases("manifest", manifest(tmp_path, text, "a.png", "b.png"))
    assert cases["accession"].tolist() == ["12345678901234567890", "7"] and cases["code"].tolist() == ["01", "2"]
    assert cases["size"].dropna().tolist() == [1.5]


def test_what_stands_for_nothing_in_other_programs_is_nothing(tmp_path):
    text = ",image,mask,label,patient,split,age\n1,a.png,NA,NA,NA,NA,NA\n2,b.png,nan,0,NaN,,41\n"
    cases = load_cases("manifest", manifest(tmp_path, text, "a.png", "b.png"))
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()
    assert cases["mask"].isna().all() and cases["split"].isna().all() and cases["label"].isna().tolist() == [True, False]
    assert cases["age"].dropna().tolist() == [41] and "" not in cases


def test_no_message_shows_a_patient(tmp_path):
    text = "image,patient,split\na.png,Jane Doe,train\na.png,Jane Doe,test\n"
    assert "Jane" not in refusal("manifest", manifest(tmp_path, text, "a.png"))


def test_line_numbers_count_lines_and_not_rows(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n"two\nlines",1\n\nx,2\n')
    assert [place.rpartition(" ")[2] for place in read_table(tmp_path / "a.csv", ("a",)).index] == ["3", "5"]


def test_the_spacing_of_a_manifest_is_a_number_above_0_or_nothing(tmp_path):
    text = "image,spacing_mm\na.png,0.08\nb.png,{}\n"
    for nothing in ("", "NA", "unknown"):
        spacing = load_cases("manifest", manifest(tmp_path, text.format(nothing), "a.png", "b.png"))["spacing_mm"]
        np.testing.assert_equal(spacing.to_numpy(), [0.08, np.nan])
    none = load_cases("manifest", manifest(tmp_path, "image,spacing_mm\na.png,unknown\n", "a.png"))["spacing_mm"]
    assert none.isna().all() and str(none.dtype) == "float64"
    for wrong in ("0", "-1", "inf", "0.1 mm"):
        message = refusal("manifest", manifest(tmp_path, text.format(wrong), "a.png", "b.png"))
        assert f"spacing_mm are not a number above 0 (row-0002: {wrong!r}); give the side" in message
