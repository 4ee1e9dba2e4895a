"""The registry of readers, and one's own images: in folders or listed in a manifest; what is refused, in one line."""

import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_pictures import SPOT, put, refusal

from thyroid_utils.data import readers
from thyroid_utils.data.images import read_mask
from thyroid_utils.data.readers import READERS, load_cases
from thyroid_utils.data.table import make_cases
from thyroid_utils.workbook.notebooks import numbered_notebooks
from thyroid_utils.workbook.parameters import declared_parameters

named_cases = partial(load_cases, keep_names=True)


def notes_of(cases, root) -> dict[str, str]:
    return {str(Path(note["file"]).relative_to(root)): note["problem"].split(" (")[0] for note in cases.attrs["notes"]}


def test_a_new_reader_is_a_function_and_a_line_here_and_known_to_notebooks_and_parameters(monkeypatch, tmp_path):
    def read_scans(root, side="left"):
        return make_cases([{"case": side, "image": str(root / "a.png"), "patient": "1", "dataset": "scans"}])

    monkeypatch.setitem(readers.READERS, "scans", read_scans)
    assert load_cases("scans", tmp_path, side="right").index.tolist() == ["right"]
    assert "did you mean tn3k?" in refusal("TNK3", tmp_path)
    assert load_cases("phantom", None, patients=1, size=64)["patient_known"].all()
    for notebook in numbered_notebooks():
        assert declared_parameters(notebook)["DATASET"].options == tuple(READERS), notebook.stem


@pytest.mark.parametrize("dataset", [name for name in READERS if name != "phantom"])
def test_missing_data_name_the_tree_the_find_and_the_source(tmp_path, dataset):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "pictures").mkdir()
    text = refusal(dataset, tmp_path)
    assert str(tmp_path) in text and "expected" in text and "found: notes.txt, pictures/" in text
    assert ("published at" in text) == (dataset not in ("folders", "manifest"))
    assert "no such folder" in refusal(dataset, tmp_path / "absent")
    assert "an empty folder" in refusal(dataset, tmp_path / "pictures")
    assert "DATA_ROOT" in refusal(dataset, None)


SPELLINGS = [("Benign", "MALIGNANT", {}),
             ("0", "1", {}), ("benign nodules", "cancer", {}), ("benigno", "m", {"benign": "Benigno"}),
             ("healthy", "sick", {"benign": "healthy", "malignant": "sick"})]  # fmt: skip


@pytest.mark.parametrize(("benign", "malignant", "options"), SPELLINGS)
def test_folders_in_the_usual_spellings_or_by_option(tmp_path, benign, malignant, options):
    put(tmp_path / benign, "img_2.png", "img_10.png", "img_a1.png", "img_01.png")
    put(tmp_path / malignant, "img_2.png")
    cases = named_cases("folders", tmp_path, **options)
    names = ["benign/img_01", "benign/img_2", "benign/img_10", "benign/img_a1", "malignant/img_2"]
    assert cases.index.tolist() == names == cases["patient"].tolist() and not cases["patient_known"].any()
    assert cases["label"].tolist() == [0, 0, 0, 0, 1] and cases["mask"].isna().all() and cases["split"].isna().all()


PLACES = [("benign/masks", "a b"), ("benign_mask", "a b"), ("benign_masks", "a b_mask"), ("masks/benign", "a b"),
          ("benign", "a b-Mask_1"), ("Mask/Benign", "a b"), ("benign", "a b_seg"), ("benign", "a b_segmentation")]  # fmt: skip


@pytest.mark.parametrize(("place", "mask"), PLACES)
def test_folders_find_masks_wherever_they_usually_lie(tmp_path, place, mask):
    put(tmp_path / "benign", "a b.png", "c_mask.png")
    put(tmp_path / "malignant", "a b.png")
    put(tmp_path / place, f"{mask}.bmp", pixels=SPOT)
    cases = named_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a b", "benign/c_mask", "malignant/a b"], "a mask of nothing is an image"
    assert cases["mask"].isna().tolist() == [False, True, True]
    assert cases.loc["benign/a b", "mask"].endswith(f"{mask}.bmp") and cases.attrs["notes"] == []


OTHER_MASKS = ["{}_gt", "{}_tumor", "{}-label", "{}_segmentation", "{}_lesion", "{}mask", "{} mask", "mask_{}", "GT_{}", "Seg-{}",
               "{}_mask_1", "{}_mask (1)"]  # fmt: skip


@pytest.mark.parametrize("name", OTHER_MASKS)
def test_masks_beside_their_images_under_many_names(tmp_path, name):
    put(tmp_path / "benign", "i1.png", "i2.png", "i10.png")
    put(tmp_path / "malignant", "nodule.png", "label_7.png")
    put(tmp_path / "benign", *(f"{name.format(image)}.png" for image in ("i1", "i2", "i10")), pixels=SPOT)
    cases = named_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/i1", "benign/i2", "benign/i10", "malignant/label_7", "malignant/nodule"]
    assert [Path(mask).stem for mask in cases["mask"].dropna()] == [name.format(image) for image in ("i1", "i2", "i10")]


def test_a_picture_called_a_nodule_is_no_mask(tmp_path):
    put(tmp_path / "benign", "1.png", "nodule_1.png", "1_lesion.png")
    put(tmp_path / "malignant", "nodule_2.png")
    put(tmp_path / "malignant", "nodule_2_mask.png", pixels=SPOT)
    cases = named_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/1", "benign/1_lesion", "benign/nodule_1", "malignant/nodule_2"]
    assert cases["mask"].notna().tolist() == [False, False, False, True]


def test_numbers_behind_mask_are_the_images_or_several_nodules(tmp_path):
    """scan_mask_1 is of scan_1 where that is; of BUSI's `benign (1)` it is a second nodule, and the mask is the union."""
    put(tmp_path / "benign", "scan.png", "scan_1.png", "benign (1).png")
    put(tmp_path / "malignant", "x.png")
    put(tmp_path / "benign", "scan_mask.png", "scan_mask_1.png", "benign (1)_mask.png", pixels=SPOT)
    put(tmp_path / "benign", "benign (1)_mask_1.png", "benign (1)_mask_2.png", pixels=SPOT[::-1, ::-1])
    masks = named_cases("folders", tmp_path)["mask"]
    assert [Path(mask).stem for mask in masks[["benign/scan", "benign/scan_1"]]] == ["scan_mask", "scan_mask_1"]
    assert np.array_equal(read_mask(masks["benign/benign (1)"]), SPOT | SPOT[::-1, ::-1])
    put(tmp_path / "benign", "benign (1)_seg.png", pixels=SPOT)
    assert "two masks for benign (1)" in refusal("folders", tmp_path)


def test_a_pattern_that_finds_a_word_for_nobody_finds_no_patient(tmp_path):
    put(tmp_path / "benign", "NA_1.png", "NA_2.png", "7_1.png")
    put(tmp_path / "malignant", "8_1.png")
    cases = named_cases("folders", tmp_path, patient_pattern=r"^(\w+)_")
    assert cases["patient"].tolist() == ["7", "benign/NA_1", "benign/NA_2", "8"]
    assert cases["patient_known"].tolist() == [True, False, False, True]
    assert [note["problem"] for note in cases.attrs["notes"]] == ["2 images have a patient that is taken for unknown (NA)"]
    text = "image,patient\na.png,Na\nb.png,Na\nc.png,NA\nd.png,\ne.png,\n"
    cases = named_cases("manifest", manifest(tmp_path, text, *(f"{name}.png" for name in "abcde")))
    assert [note["problem"] for note in cases.attrs["notes"]] == ["2 images have a patient that is taken for unknown (Na)"]


@pytest.mark.parametrize("where", ["{}/images", "images/{}"])
def test_folders_with_images_above_or_below(tmp_path, where):
    for name in ("benign", "malignant"):
        put(tmp_path / where.format(name), "a.png")
        put(tmp_path / where.replace("images", "masks").format(name), "a.png", pixels=SPOT)
    cases = named_cases("folders", tmp_path)
    assert cases.index.tolist() == ["benign/a", "malignant/a"]
    assert ["benign" in path and "masks" in path for path in cases["mask"]] == [True, False] and cases.attrs["notes"] == []


def test_folders_with_a_split(tmp_path):
    for split in ("Train", "test"):
        for name in ("benign", "malignant"):
            put(tmp_path / split / name, "p1_a.png", "p2_a.png")
    put(tmp_path / "more", "a.png")
    cases = named_cases("folders", tmp_path)
    assert cases.index[0] == "train/benign/p1_a" and cases["split"].tolist() == ["train"] * 4 + ["test"] * 4
    assert set(notes_of(cases, tmp_path)) == {"more"}
    put(tmp_path / "benign", "b.png")
    assert "class folders beside train, test/" in refusal("folders", tmp_path)


def test_folders_with_a_patient_pattern(tmp_path):
    put(tmp_path / "benign", "p1_a.png", "p1_b.png")
    put(tmp_path / "malignant", "p2_a.png")
    cases = named_cases("folders", tmp_path, patient_pattern=r"^(p\d+)_", target="gland")
    assert cases["patient"].tolist() == ["p1", "p1", "p2"] and cases["patient_known"].all()
    assert (cases["target"] == "gland").all()
    assert "p1_a.png" in refusal("folders", tmp_path, patient_pattern=r"^x(\d+)")
    for pattern in (r"^(p)(\d+)", "(p", 7):
        assert "no regular expression with one group" in refusal("folders", tmp_path, patient_pattern=pattern)
    assert "expected nodule or gland" in refusal("folders", tmp_path, target="lymph node")


def test_folders_faults(tmp_path):
    put(tmp_path / "benign" / "p 1", "a.png")
    put(tmp_path / "malingnant", "a.png")
    assert "found: benign/, malingnant/" in refusal("folders", tmp_path)
    (tmp_path / "malingnant").rename(tmp_path / "malignant")
    (tmp_path / "malignant" / "a.png").rename(tmp_path / "malignant" / "a.dcm")
    told = refusal("folders", tmp_path)
    assert "found: 1 image outside the folders" in told and "(benign/p 1), 1 DICOM file left out (malignant)" in told
    put(tmp_path / "benign", "a.png")
    for place in ("benign/masks", "benign_mask"):
        put(tmp_path / place, "a.png", pixels=SPOT)
    assert "two masks for a" in refusal("folders", tmp_path)
    put(tmp_path / "0", "b.png")
    assert "two folders for benign" in refusal("folders", tmp_path)


def manifest(folder, text: str, *names: str, encoding: str = "utf-8"):
    put(folder, *names)
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    return folder / "manifest.csv"


def test_manifest_with_all_columns_the_shortest_and_one_of_very_many(tmp_path):
    text = """image,mask,label,patient,split,case,target,age,id,note,accession,,
a.png,m/a.png,benign,ann,Train,first,,40,007,x,12345678901234567890,,
sub/b.png,,1,bob,test,second,gland,,008,,7
"""
    put(tmp_path / "m", "a.png", pixels=SPOT)
    path = manifest(tmp_path, text, "a.png", "sub/b.png")
    cases = named_cases("manifest", path)
    assert cases.index.tolist() == ["first", "second"] and cases["label"].tolist() == [0, 1]
    assert cases["patient"].tolist() == ["ann", "bob"] and cases["patient_known"].all()
    assert cases["split"].tolist() == ["train", "test"] and cases["target"].tolist() == ["nodule", "gland"]
    assert cases["mask"].isna().tolist() == [False, True]
    assert cases["age"].dropna().tolist() == [40] and cases["id"].tolist() == ["007", "008"]
    assert cases["accession"].tolist() == ["12345678901234567890", "7"]
    pd.testing.assert_frame_equal(named_cases("manifest", tmp_path), cases)
    assert list(named_cases("manifest", tmp_path, having=["label", "mask"]).index) == ["first"]
    cases = named_cases("manifest", manifest(tmp_path, "image\na.png\nsub/../sub\\b.png\n"))
    assert cases.index.tolist() == ["row-0001", "row-0002"] and cases["label"].isna().all()
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()
    assert "did you mean mask?" in refusal("manifest", tmp_path, having="masks")
    assert "none of 2 cases has mask" in refusal("manifest", tmp_path, having=["mask"])
    many = ",".join(f"c{number}" for number in range(5000))
    path = manifest(tmp_path, f"image,{many}\na.png,{'1,' * 4999}2\n", "a.png")
    assert named_cases("manifest", path)["c4999"].tolist() == [2]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "told", "end"),
    [("utf-8", "", "\n"), ("utf-8-sig", "", "\r\n"), ("utf-8", "sep=", "\r\n"), ("utf-8-sig", "SEP=", "\n")],
)
def test_manifest_as_spreadsheets_save_it(tmp_path, delimiter, encoding, told, end):
    lines = ["Image,Label ,Patient", '"a, b.png",Malignant,Müller', "c;d.png,0,", ",,"]
    if delimiter != ",":
        lines = [line.replace(",", delimiter) for line in lines]
    if delimiter != "\t":
        lines[2] = lines[2].replace("c;d.png", '"c;d.png"')
    first, lines = f"a{delimiter} b.png", [told + delimiter] * bool(told) + lines
    path = manifest(tmp_path, end.join(lines) + end, first, "c;d.png", encoding=encoding)
    cases = named_cases("manifest", path)
    assert [name.rpartition("/")[2] for name in cases["image"]] == [first, "c;d.png"]
    assert cases["label"].tolist() == [1, 0]
    assert cases["patient"].tolist() == ["Müller", "row-0002"] and cases["patient_known"].tolist() == [True, False]


@pytest.mark.parametrize(("stored", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_spaces_accents_and_other_scripts(tmp_path, stored, listed):
    name = "nódulo 1 – März 甲状腺.png"
    folder = tmp_path / "Bilder (ä) 1"
    path = manifest(folder, f"image\n{unicodedata.normalize(listed, name)}\n", unicodedata.normalize(stored, name))
    assert Path(named_cases("manifest", path)["image"].iloc[0]).is_file()


OUTSIDE = ["../outside.png", "sub/../../outside.png", "link.png", "linked/outside.png", "..\\outside.png", "/etc/passwd",
           "C:\\scans\\a.png", "//server/share/a.png"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_that_climbs_out_or_is_of_another_system_is_refused(tmp_path, name, column):
    put(tmp_path, "outside.png")
    root = tmp_path / "root"
    path = manifest(root, f"image,mask\n{name},a.png\n" if column == "image" else f"image,mask\na.png,{name}\n", "a.png")
    (root / "sub").mkdir()
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "linked").symlink_to(tmp_path)
    text = refusal("manifest", path)
    assert "line 2" in text and repr(name) in text
    assert "no file" in text if name in OUTSIDE[6:] else "leads out of" in text and "link" in text


MANIFEST_FAULTS = [
    ("image\nmissing.png\n", "line 2: no file 'missing.png'"),
    ("image,mask\na.png,missing.png\n", "no file 'missing.png'"),
    ("image,label\na.png,0\n\nb.png,3\n", "line 4: label is '3'"),
    ("image,target\na.png,node\n", "expected nodule, gland"),
    ("image,patient\na.png,Jane\n./a.png,Jane\n", "line 3: ./a.png is listed a second time"),
    ("image,pateint\na.png,7\n", "did you mean 'patient'?"),
    ("file,label\na.png,1\n", "no column image; found file, label"),
    ("image,dataset\na.png,x\n", "'dataset' has a fixed meaning"),
    ("image,age,AGE\na.png,1,2\n", "'age' occurs twice"),
    ('image,label\n"a.png,1\n', "or its quotes"),
    ("image,patient,label\na.png,1\n", "line 2: 2 fields, expected 3"),
    ('image,patient\na.png,"P1\nb.png,"P2\n', "line 3: ',' expected after"),
    ("image\n", "no rows"),
    (",,\n", "no column image"),
    ("", "no column image"),
    ("image\nloop.png\n", "loop.png"),
    ("image\n\0.png\n", "no file"),
    ("image\nMüller\n".encode("utf-16").decode("latin-1"), "CSV UTF-8"),
]


@pytest.mark.parametrize(("text", "words"), MANIFEST_FAULTS)
def test_manifest_faults(tmp_path, text, words):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    path = manifest(tmp_path, text, "a.png", "b.png", encoding="latin-1" if "UTF" in words else "utf-8")
    found = refusal("manifest", path)
    assert words in found and "Jane" not in found
    path.unlink()
    path.mkdir()
    assert "expected manifest.csv" in refusal("manifest", tmp_path)


WORDS = ["NA", "nan", "NULL", "#N/A", "<NA>", "NaT", "nil", "-", "n.a.", "not available", "?", "unknown"]


@pytest.mark.parametrize("word", WORDS)
def test_what_stands_for_nothing_in_other_programs_is_nothing(tmp_path, word):
    text = f",image,mask,label,patient,split,age,spacing_mm\n1,a.png,{word},{word},{word},,{word},{word}\n2,b.png,,0,,,41,0.08\n"
    cases = named_cases("manifest", manifest(tmp_path, text, "a.png", "b.png"))
    assert cases["patient"].tolist() == ["row-0001", "row-0002"] and not cases["patient_known"].any()
    assert cases["mask"].isna().all() and cases["split"].isna().all() and cases["label"].isna().tolist() == [True, False]
    assert cases["age"].dropna().tolist() == [41] and "" not in cases
    np.testing.assert_equal(cases["spacing_mm"].to_numpy(), [np.nan, 0.08])


@pytest.mark.parametrize("forms", [("7", "7.0"), tuple(unicodedata.normalize(form, "Pé") for form in ("NFC", "NFD"))])
def test_one_patient_in_two_forms_is_one(tmp_path, forms):
    text = "image,patient\n" + "".join(f"{name}.png,{patient}\n" for name, patient in zip("abc", (*forms, "7.5"), strict=True))
    cases = named_cases("manifest", manifest(tmp_path, text, "a.png", "b.png", "c.png"))
    assert cases["patient"].nunique() == 2 and cases["patient_known"].all()
