"""Every reader: its table, what it refuses in one line, and the registry that notebooks and parameters follow."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import DataError
from thyroid_utils.data import readers
from thyroid_utils.data.images import read_image, write_png
from thyroid_utils.data.readers import READERS, load_cases
from thyroid_utils.data.readers.listing import natural_order, read_table
from thyroid_utils.data.table import make_cases
from thyroid_utils.workbook.parameters import declared_parameters, numbered_notebooks

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


def notes_of(cases, root) -> dict[str, str]:
    return {str(Path(note["file"]).relative_to(root)): note["problem"].split(" (")[0] for note in cases.attrs["notes"]}


# The registry


def test_a_new_reader_is_a_function_and_a_line_here_and_known_to_notebooks_and_parameters(monkeypatch, tmp_path):
    def read_scans(root, side="left"):
        return make_cases([{"case": side, "image": str(root / "a.png"), "patient": "1", "dataset": "scans"}])

    monkeypatch.setitem(readers.READERS, "scans", read_scans)
    assert load_cases("scans", tmp_path, side="right").index.tolist() == ["right"]
    assert "did you mean side?" in refusal("scans", tmp_path, sides="left")
    for notebook in numbered_notebooks():
        assert declared_parameters(notebook)["DATASET"].options == tuple(READERS), notebook.stem


def test_names_options_and_columns_that_are_unknown_are_answered_with_the_nearest(tmp_path):
    assert "did you mean tn3k?" in refusal("TNK3", tmp_path)
    assert "known: phantom, ddti" in refusal("xyz", tmp_path)
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


def test_natural_order():
    names = ["a10", "a2", "a", "a1b", "a1", "10", "2", "A3", "a01"]
    assert sorted(names, key=natural_order) == ["2", "10", "a", "a01", "a1", "a1b", "a2", "A3", "a10"]


# The published sets


@pytest.fixture
def ddti(tmp_path):
    folder = tmp_path / "sets" / "ddti"
    images(folder / "image", "1.PNG", "2.PNG", "10.PNG")
    masks(folder / "mask", "1.PNG", "2.PNG", "10.PNG")
    table = "file,case,frame,pane,tirads,label\n10.PNG,7,7_2,left,,\n1.PNG,7,7_1,full,4a,1\n2.PNG,8,8_1,full,3,0\n"
    (folder / "labels.csv").write_text(table)
    return folder


def test_ddti_frames(ddti):
    (ddti / "mask" / "2.PNG").unlink()
    masks(ddti / "mask", "2.bmp")
    (ddti / "mask" / "10.PNG").unlink()
    cases = load_cases("ddti", ddti)
    assert cases.index.tolist() == ["ddti/1", "ddti/2", "ddti/10"]
    assert cases["patient"].tolist() == ["ddti-7", "ddti-8", "ddti-7"] and cases["patient_known"].all()
    assert cases["label"].fillna(-1).tolist() == [1, 0, -1]
    assert cases["tirads"].fillna("none").tolist() == ["4a", "3", "none"]
    assert cases["pane"].tolist() == ["full", "full", "left"] and cases["frame"].tolist() == ["7_1", "8_1", "7_2"]
    assert cases["mask"].isna().tolist() == [False, False, True] and cases.loc["ddti/2", "mask"].endswith("2.bmp")
    pd.testing.assert_frame_equal(load_cases("ddti", ddti.parent), cases)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("10.PNG,7", "11.PNG,9,9_1,full,,\n10.PNG,7", "1 rows have no image file (11)"),
        ("2.PNG,8,8_1,full,3,0\n", "", "no row for 1 images (2.PNG)"),
        ("2.PNG,8", "2.PNG,8,8_1,full,3,0\n2.PNG,8", "labels.csv line 5: 2.PNG is listed a second time"),
        (",8,8_1", ",,8_1", "line 4: no case number"),
        *(("3,0", f"3,{label}", f"line 4: label is {label!r}; expected 0") for label in ("2", "-1", "0.5", "malign")),
    ],
)
def test_ddti_table_and_folder_hold_each_other(ddti, old, new, told):
    table = ddti / "labels.csv"
    table.write_text(table.read_text().replace(old, new))
    assert told in refusal("ddti", ddti) and str(table) in refusal("ddti", ddti)


@pytest.mark.parametrize("folder", ["image", "mask"])
def test_two_files_for_one_image_are_refused(ddti, folder):
    images(ddti / folder, "2.bmp")
    text = refusal("ddti", ddti)
    assert "2.PNG" in text and "2.bmp" in text and "keep one" in text


def test_what_systems_leave_behind_is_passed_over_and_loops_of_links_end(ddti):
    for place in (ddti, ddti / "image", ddti / "mask"):
        for name in (".DS_Store", "Thumbs.db", "._1.PNG", ".labels.csv", "readme.txt"):
            (place / name).write_bytes(b"\0")
        (place / "__MACOSX").mkdir()
    (ddti / "image" / "up").symlink_to(ddti)
    (ddti / "image" / "again.PNG").symlink_to(ddti / "image", target_is_directory=True)
    assert len(load_cases("ddti", ddti)) == 3
    (ddti / "image" / "3.PNG").symlink_to(ddti / "image" / "3.PNG")
    assert "3.PNG: a link that leads nowhere or back to itself" in refusal("ddti", ddti)
    (ddti.parent / "loop").symlink_to(ddti.parent / "loop")
    assert "no such folder" in refusal("ddti", ddti.parent / "loop")


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


def test_tnscui_by_its_one_table_and_letters_not_bytes(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "José 1.png") for form in ("NFC", "NFD"))
    images(tmp_path / "image", decomposed)
    masks(tmp_path / "mask", composed)
    assert "0 CSV files" in refusal("tnscui", tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"ID,CATE\n{composed},1\n", encoding="utf-8")
    assert "2 CSV files" in refusal("tnscui", tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "train.csv")
    cases = load_cases("tnscui", tmp_path)
    assert cases.index.tolist() == ["tnscui/José 1"] and cases["label"].tolist() == [1] and cases["mask"].notna().all()
    (tmp_path / "train.csv").write_text("ID,CATEG\n3.PNG,1\n")
    assert "did you mean 'cate'?" in refusal("tnscui", tmp_path)
    (tmp_path / "train.csv").write_text("name,class\n3.PNG,1\n")
    assert "no column id, cate; found name, class" in refusal("tnscui", tmp_path)


def test_tg3k(tmp_path):
    images(tmp_path / "thyroid-image", "0014.png", "0000.png", "0007.png")
    masks(tmp_path / "thyroid-mask", "0000.png", "0007.png", "0001.png")
    cases = load_cases("tg3k", tmp_path)
    assert cases.index.tolist() == ["tg3k/0000", "tg3k/0007", "tg3k/0014"] and cases["frame"].tolist() == [0, 7, 14]
    assert (cases["target"] == "gland").all() and cases["label"].isna().all()
    assert not cases["patient_known"].any() and cases["patient"].is_unique
    assert cases["mask"].isna().tolist() == [False, False, True]
    assert list(notes_of(cases, tmp_path).values()) == ["1 masks bear the name of no image"]


@pytest.fixture
def tn3k(tmp_path):
    folder = tmp_path / "tn3k"
    names = [f"{number:04d}.jpg" for number in range(1, 7)]
    for part, listed in (("trainval", names), ("test", names[:2])):
        images(folder / f"{part}-image", *listed)
        masks(folder / f"{part}-mask", *listed)
    (folder / "label4trainval.csv").write_text("".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    (folder / "label4test.csv").write_text("name,label\n0002.jpg,1\n")
    return folder


def test_tn3k_official_split_and_labels(tn3k):
    cases = load_cases("tn3k", tn3k.parent)
    assert cases.index[0] == "tn3k/trainval/0001" and cases.index[-1] == "tn3k/test/0002"
    assert cases["split"].tolist() == ["train"] * 6 + ["test"] * 2
    assert cases["label"].fillna(-1).tolist() == [0, 1, 0, 1, 0, 1, -1, 1]
    assert cases["mask"].notna().all() and not cases["patient_known"].any() and cases["patient"].is_unique


@pytest.mark.parametrize(
    "content", [{"train": [1, 2, 3, 5], "val": [0, 4]}, {"train": ["0002", "0003", "0004", "6"], "val": ["0001.jpg", "0005.jpg"]}]
)
def test_tn3k_folds_by_position_in_the_sorted_list_or_by_name(tn3k, content):
    (tn3k / "tn3k-trainval-fold3.json").write_text(json.dumps(content).replace('"6"', '"0006"'))
    cases = load_cases("tn3k", tn3k, fold=3)
    assert cases["split"].tolist() == ["val", "train", "train", "train", "val", "train", "test", "test"]


def test_tn3k_faults(tn3k):
    assert "tn3k-trainval-fold1.json (or fold=None)" in refusal("tn3k", tn3k, fold=1)
    for fold in (5, -1, "first"):
        assert "expected 0 to 4" in refusal("tn3k", tn3k, fold=fold)
    path = tn3k / "tn3k-trainval-fold0.json"
    for content, words in [
        ('{"train": [0, 1], "val": [1]}', "in train and in val (0002)"),
        ('{"train": [0, 99], "val": [1]}', "no image in trainval-image/ (position 99)"),
        ('{"train": [0]}', "download it again"),
        ("<html>", "download it again"),
        ("[1, 2]", "download it again"),
    ]:
        path.write_text(content)
        assert words in refusal("tn3k", tn3k, fold=0), content
    (tn3k / "label4test.csv").unlink()
    assert "label4test.csv" in refusal("tn3k", tn3k)
    for path in (tn3k / "test-image").iterdir():
        path.unlink()
    assert "images in test-image/" in refusal("tn3k", tn3k)


def test_the_real_sets(real_data):
    cases = load_cases("ddti", real_data)
    assert len(cases) == 543 and cases["patient"].nunique() == 329 and cases["mask"].notna().all()
    assert cases["label"].value_counts(dropna=False).to_dict() == {1: 314, 0: 46, pd.NA: 183}
    assert cases["pane"].value_counts().to_dict() == {"full": 251, "left": 146, "right": 146}
    cases = load_cases("tg3k", real_data)
    assert len(cases) == 717 and cases["mask"].notna().all() and cases["frame"].is_monotonic_increasing


# Folders


@pytest.mark.parametrize(
    "benign, malignant, options",
    [
        ("Benign", "MALIGNANT", {}),
        ("0", "1", {}),
        ("benign nodules", "cancer", {}),
        ("benigno", "m", {"benign": "Benigno"}),
        ("healthy", "sick", {"benign": "healthy", "malignant": "sick"}),
    ],
)
def test_folders_in_the_usual_spellings_or_by_option(tmp_path, benign, malignant, options):
    images(tmp_path / benign, "img_2.png", "img_10.png")
    images(tmp_path / malignant, "img_2.png")
    cases = load_cases("folders", tmp_path, **options)
    assert cases.index.tolist() == ["benign/img_2", "benign/img_10", "malignant/img_2"]
    assert cases["label"].tolist() == [0, 0, 1] and cases["mask"].isna().all() and cases["split"].isna().all()
    assert cases["patient"].tolist() == cases.index.tolist() and not cases["patient_known"].any()


PLACES = [("benign/masks", "a b"), ("benign_mask", "a b"), ("benign_masks", "a b_mask"), ("masks/benign", "a b"),
          ("benign", "a b-Mask_1"), ("Mask/Benign", "a b"), ("benign", "a b_seg"), ("benign", "a b_segmentation")]  # fmt: skip


@pytest.mark.parametrize("place, mask", PLACES)
def test_folders_find_masks_wherever_they_usually_lie(tmp_path, place, mask):
    images(tmp_path / "benign", "a b.png", "c_mask.png")
    images(tmp_path / "malignant", "a b.png")
    masks(tmp_path / place, f"{mask}.bmp")
    cases = load_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a b", "benign/c_mask", "malignant/a b"], "a mask of nothing is an image"
    assert cases["mask"].isna().tolist() == [False, True, True]
    assert cases.loc["benign/a b", "mask"].endswith(f"{mask}.bmp") and cases.attrs["notes"] == []


@pytest.mark.parametrize("where", ["{}/images", "images/{}"])
def test_folders_with_images_above_or_below(tmp_path, where):
    for name in ("benign", "malignant"):
        images(tmp_path / where.format(name), "a.png")
        masks(tmp_path / where.replace("images", "masks").format(name), "a.png")
    cases = load_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a", "malignant/a"]
    assert ["benign" in path and "masks" in path for path in cases["mask"]] == [True, False] and cases.attrs["notes"] == []


def test_folders_with_a_split(tmp_path):
    for split in ("Train", "test"):
        for name in ("benign", "malignant"):
            images(tmp_path / split / name, "p1_a.png", "p2_a.png")
    images(tmp_path / "more", "a.png")
    cases = load_cases("folders", tmp_path)
    assert cases.index[0] == "train/benign/p1_a" and cases["split"].tolist() == ["train"] * 4 + ["test"] * 4
    assert set(notes_of(cases, tmp_path)) == {"more"}
    images(tmp_path / "benign", "b.png")
    assert "class folders beside train, test/" in refusal("folders", tmp_path)
    images(tmp_path / "training" / "benign", "b.png")
    assert "two folders for train" in refusal("folders", tmp_path)


def test_folders_with_a_patient_pattern(tmp_path):
    images(tmp_path / "benign", "p1_a.png", "p1_b.png")
    images(tmp_path / "malignant", "p2_a.png")
    cases = load_cases("folders", tmp_path, patient_pattern=r"^(p\d+)_", target="gland")
    assert cases["patient"].tolist() == ["p1", "p1", "p2"] and cases["patient_known"].all()
    assert (cases["target"] == "gland").all()
    assert "p1_a.png" in refusal("folders", tmp_path, patient_pattern=r"^x(\d+)")
    for pattern in (r"^(p)(\d+)", "(p", r"\d+", 7):
        assert "no regular expression with one group" in refusal("folders", tmp_path, patient_pattern=pattern)
    assert "expected nodule or gland" in refusal("folders", tmp_path, target="lymph node")


def test_folders_tell_what_they_leave_out_however_deep(tmp_path):
    for name in ("benign", "malignant", "normal", "benign/patient 7", "benign/patient 7/study", "malignant/masks"):
        images(tmp_path / name, "a.png")
    images(tmp_path, "stray.png", "stray2.png")
    images(tmp_path / "malignant" / "masks", "b_x.png")
    outside = "images outside the folders of benign and malignant ones; left out"
    assert notes_of(load_cases("folders", tmp_path), tmp_path) == {
        ".": f"2 {outside}",
        "benign/patient 7": f"1 {outside}",
        "benign/patient 7/study": f"1 {outside}",
        "normal": f"1 {outside}",
        "malignant/masks": "1 masks bear the name of no image",
    }


def test_folders_faults(tmp_path):
    images(tmp_path / "benign" / "p 1", "a.png")
    images(tmp_path / "malingnant", "a.png")
    assert "found: benign/, malingnant/" in refusal("folders", tmp_path)
    (tmp_path / "malingnant").rename(tmp_path / "malignant")
    (tmp_path / "malignant" / "a.png").rename(tmp_path / "malignant" / "a.dcm")
    assert "found: a.dcm" in refusal("folders", tmp_path)
    images(tmp_path / "benign", "a.png")
    masks(tmp_path / "benign" / "masks", "a.png")
    masks(tmp_path / "benign_mask", "a.png")
    assert "two masks for a" in refusal("folders", tmp_path)
    images(tmp_path / "0", "b.png")
    assert "two folders for benign" in refusal("folders", tmp_path)


# Manifest


def manifest(folder, text: str, *names: str, encoding: str = "utf-8"):
    images(folder, *names)
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    return folder / "manifest.csv"


def test_manifest_with_all_columns_and_the_shortest(tmp_path):
    text = """image,mask,label,patient,split,case,target,age,id,note,accession,,
a.png,m/a.png,benign,ann,train,first,,40,007,x,12345678901234567890,,
sub/b.png,,1,bob,test,second,gland,,008,,7
"""
    masks(tmp_path / "m", "a.png")
    path = manifest(tmp_path, text, "a.png", "sub/b.png")
    cases = load_cases("manifest", path)
    assert cases.index.tolist() == ["first", "second"] and cases["label"].tolist() == [0, 1]
    assert cases["patient"].tolist() == ["ann", "bob"] and cases["patient_known"].all()
    assert cases["split"].tolist() == ["train", "test"] and cases["target"].tolist() == ["nodule", "gland"]
    assert cases["mask"].isna().tolist() == [False, True]
    assert cases["age"].dropna().tolist() == [40] and cases["id"].tolist() == ["007", "008"]
    assert cases["note"].fillna("none").tolist() == ["x", "none"] and "" not in cases
    assert cases["accession"].tolist() == ["12345678901234567890", "7"]
    pd.testing.assert_frame_equal(load_cases("manifest", tmp_path), cases)
    assert list(load_cases("manifest", tmp_path, having=["label", "mask"]).index) == ["first"]
    assert "did you mean mask?" in refusal("manifest", tmp_path, having="masks")
    cases = load_cases("manifest", manifest(tmp_path, "image\na.png\nsub/../sub\\b.png\n"))
    assert cases.index.tolist() == ["row-0001", "row-0002"] and cases["label"].isna().all()
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()
    assert "none of 2 cases has mask" in refusal("manifest", tmp_path, having=["mask"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding, told", [("utf-8", ""), ("utf-8-sig", ""), ("utf-8", "sep="), ("utf-8-sig", "SEP=")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_manifest_as_spreadsheets_save_it(tmp_path, delimiter, encoding, told, end):
    lines = ["Image,Label ,Patient", '"a, b.png",Malignant,Müller', "c;d.png,0,", ",,"]
    if delimiter != ",":
        lines = [line.replace(",", delimiter) for line in lines]
    if delimiter != "\t":
        lines[2] = lines[2].replace("c;d.png", '"c;d.png"')
    first, lines = f"a{delimiter} b.png", [told + delimiter] * bool(told) + lines
    path = manifest(tmp_path, end.join(lines) + end, first, "c;d.png", encoding=encoding)
    cases = load_cases("manifest", path)
    assert [name.rpartition("/")[2] for name in cases["image"]] == [first, "c;d.png"]
    assert cases["label"].tolist() == [1, 0]
    assert cases["patient"].tolist() == ["Müller", "row-0002"] and cases["patient_known"].tolist() == [True, False]


@pytest.mark.parametrize("stored, listed", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_spaces_accents_and_other_scripts(tmp_path, stored, listed):
    name = "nódulo 1 – März 甲状腺.png"
    folder = tmp_path / "Bilder (ä) 1"
    path = manifest(folder, f"image\n{unicodedata.normalize(listed, name)}\n", unicodedata.normalize(stored, name))
    assert np.array_equal(read_image(load_cases("manifest", path)["image"].iloc[0]), FRAME)


OUTSIDE = ["../outside.png", "sub/../../outside.png", "link.png", "linked/outside.png", "..\\outside.png", "/etc/passwd",
           "C:\\scans\\a.png", "//server/share/a.png"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_that_climbs_out_or_is_absolute_is_refused(tmp_path, name, column):
    images(tmp_path, "outside.png")
    root = tmp_path / "root"
    path = manifest(root, f"image,mask\n{name},a.png\n" if column == "image" else f"image,mask\na.png,{name}\n", "a.png")
    (root / "sub").mkdir()
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "linked").symlink_to(tmp_path)
    text = refusal("manifest", path)
    assert "line 2" in text and repr(name) in text
    assert "absolute path" in text if name in OUTSIDE[5:] else "leads out of" in text and "link" in text


def test_manifest_faults(tmp_path):
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for text, words in [
        ("image\nmissing.png\n", "line 2: no file 'missing.png'"),
        ("image,mask\na.png,missing.png\n", "no file 'missing.png'"),
        ("image,label\na.png,0\n\nb.png,3\n", "line 4: label is '3'"),
        ('image,label\na.png,"0\n"\n\nb.png,3\n', "line 5: label is '3'"),
        ("image,split\na.png,holdout\n", "expected train, val, test"),
        ("image,target\na.png,node\n", "expected nodule, gland"),
        ("image,patient\na.png,Jane\n./a.png,Jane\n", "line 3: ./a.png is listed a second time (first in line 2)"),
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
        found = refusal("manifest", manifest(tmp_path, text))
        assert words in found and "Jane" not in found, text
    for encoding in ("latin-1", "utf-16"):
        assert "CSV UTF-8" in refusal("manifest", manifest(tmp_path, "image\nMüller\n", encoding=encoding))
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "manifest.csv").mkdir()
    assert "expected manifest.csv" in refusal("manifest", tmp_path)


@pytest.mark.parametrize(
    "word", ["NA", "nan", "NULL", "#N/A", "<NA>", "NaT", "nil", "-", "n.a.", "not available", "?", "unknown"]
)
def test_what_stands_for_nothing_in_other_programs_is_nothing(tmp_path, word):
    text = f",image,mask,label,patient,split,age,spacing_mm\n1,a.png,{word},{word},{word},,{word},{word}\n2,b.png,,0,,,41,0.08\n"
    cases = load_cases("manifest", manifest(tmp_path, text, "a.png", "b.png"))
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()
    assert cases["mask"].isna().all() and cases["split"].isna().all() and cases["label"].isna().tolist() == [True, False]
    assert cases["age"].dropna().tolist() == [41] and "" not in cases
    np.testing.assert_equal(cases["spacing_mm"].to_numpy(), [np.nan, 0.08])


@pytest.mark.parametrize("forms", [("7", "7.0"), tuple(unicodedata.normalize(form, "Pé") for form in ("NFC", "NFD"))])
def test_one_patient_in_two_forms_is_one(tmp_path, forms):
    text = "image,patient\n" + "".join(f"{name}.png,{patient}\n" for name, patient in zip("abc", (*forms, "7.5"), strict=True))
    cases = load_cases("manifest", manifest(tmp_path, text, "a.png", "b.png", "c.png"))
    assert cases["patient"].nunique() == 2 and cases["patient_known"].all()


def test_a_wide_table_keeps_its_lines(tmp_path):
    names = [f"column {number}" for number in range(1000)]
    path = manifest(tmp_path, f"image,{','.join(names)}\na.png,{'1,' * 999}1\n", "a.png")
    assert load_cases("manifest", path).shape == (1, 1008)
    assert read_table(path, ("image",)).index.tolist() == [f"{path} line 2"]
