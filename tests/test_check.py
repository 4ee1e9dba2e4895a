from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from thyroid_utils.data.check import COLUMNS, CheckReport, check_dataset
from thyroid_utils.data.images import write_png

FRAME = np.full((30, 40), 90, np.uint8)
SPOT = np.zeros((30, 40), bool)
SPOT[10:20, 10:25] = True


def folders(root, count: int = 2):
    """A faultless set: two classes with a mask for each image."""
    for name in ("benign", "malignant"):
        for number in range(1, count + 1):
            write_png(root / name / f"{number}.png", FRAME)
            write_png(root / f"{name}_mask" / f"{number}.png", SPOT)
    return root


def found(report: CheckReport, severity: str | None = None) -> list[tuple[str, str, str]]:
    """(case, file, problem) of the findings, all or of one severity."""
    table = report.table if severity is None else report.table[report.table["severity"] == severity]
    return list(table[["case", "file", "problem"]].itertuples(index=False, name=None))


def test_a_faultless_set(tmp_path):
    report = check_dataset("folders", folders(tmp_path), patient_pattern=r"(\d)")
    assert report.ok and report.table.empty and tuple(report.table.columns) == COLUMNS
    assert report.summary == {
        "data set": "folders",
        "images": 4,
        "patients": 2,
        "masks": 4,
        "target": "nodule",
        "benign": 2,
        "malignant": 2,
        "unlabelled": 0,
        "splits": "none",
        "sizes (width×height)": "40×30 (4)",
        "formats": "PNG (4)",
    }


def test_every_fault_is_listed_with_case_file_and_remedy(tmp_path):
    folders(tmp_path, 7)
    cut = (tmp_path / "benign" / "1.png").read_bytes()[:60]
    (tmp_path / "benign" / "1.png").write_bytes(cut)
    (tmp_path / "benign" / "2.png").write_bytes(b"")
    (tmp_path / "benign" / "3.png").write_bytes(b"<!DOCTYPE html><html></html>")
    write_png(tmp_path / "benign_mask" / "4.png", SPOT[:20])
    (tmp_path / "benign_mask" / "5.png").unlink()
    write_png(tmp_path / "benign_mask" / "6.png", SPOT & False)
    write_png(tmp_path / "malignant_mask" / "1.png", SPOT | True)
    (tmp_path / "malignant_mask" / "2.png").write_bytes(b"")
    report = check_dataset("folders", tmp_path)
    assert not report.ok
    errors = found(report, "error")
    assert [(case, file) for case, file, _ in errors] == [
        ("benign/1", "benign/1.png"),
        ("benign/2", "benign/2.png"),
        ("benign/3", "benign/3.png"),
        ("benign/4", "benign_mask/4.png"),
        ("malignant/2", "malignant_mask/2.png"),
    ]
    words = ["damaged or truncated", "0 bytes", "HTML", "40×20, its image 40×30", "0 bytes"]
    assert all(word in problem for word, (_, _, problem) in zip(words, errors, strict=True))
    assert found(report, "warning") == [
        ("benign/6", "benign_mask/6.png", "mask is empty"),
        ("malignant/1", "malignant_mask/1.png", "mask covers 100.00% of the frame"),
        ("benign/5", "benign/5.png", "mask missing"),
    ]
    assert found(report, "info") == [("", "", "14 images have no patient id: each counts as a patient")]
    assert report.table["remedy"].str.len().min() > 5
    assert report.table["severity"].tolist() == ["error"] * 5 + ["warning"] * 3 + ["info"]
    assert report.summary["sizes (width×height)"] == "40×30 (11)"


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    folders(tmp_path)
    levels = np.random.default_rng(0).integers(0, 4096, SPOT.shape).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "benign" / "1.png")
    (finding,) = found(check_dataset("folders", tmp_path), "warning")
    assert finding == ("benign/1", "benign/1.png", "nearly black: the brightest gray level is 16 of 255")


def test_an_unreadable_image_does_not_hide_its_masks_faults(tmp_path):
    folders(tmp_path)
    (tmp_path / "benign" / "1.png").write_bytes(b"")
    (tmp_path / "benign_mask" / "1.png").write_bytes(b"")
    report = check_dataset("folders", tmp_path)
    assert [file for _, file, _ in found(report, "error")] == ["benign/1.png", "benign_mask/1.png"]


def test_a_set_that_cannot_be_loaded_is_one_error(tmp_path):
    report = check_dataset("ddti", tmp_path)
    assert not report.ok and len(report.table) == 1 and report.summary == {"data set": "ddti", "images": 0}
    row = report.table.iloc[0]
    assert row["severity"] == "error" and "labels.csv" in row["problem"] and "doi 10.1117" in row["remedy"]


@pytest.mark.parametrize(
    "label, file, problem",
    [
        ("7", "manifest.csv line 2", "label is '7'"),
        ("x\ny", "manifest.csv line 2", "correct the quotes"),
        ("0,1", "manifest.csv line 2", "3 fields"),
    ],
)
def test_an_error_of_the_reader_is_taken_apart(tmp_path, label, file, problem):
    write_png(tmp_path / "a.png", FRAME)
    text = f'image,label\na.png,"{label}\n' if "\n" in label else f"image,label\na.png,{label}\n"
    (tmp_path / "manifest.csv").write_text(text)
    for root in (tmp_path, tmp_path / "manifest.csv"):
        row = check_dataset("manifest", root).table.iloc[0]
        whole = " ".join(row[["file", "problem", "remedy"]])
        assert row["severity"] == "error" and row["file"].startswith("manifest.csv") and problem in whole and row["remedy"]


def test_unknown_sets_and_options_are_errors_of_the_report(tmp_path):
    assert check_dataset("tg3", tmp_path).table["remedy"].tolist() == ["did you mean tg3k?"]
    assert not check_dataset("folders", folders(tmp_path), fold=1).ok


def tg3k(root, *, empty: str = ""):
    for name in ("0000", "0007"):
        write_png(root / "thyroid-image" / f"{name}.png", FRAME)
        write_png(root / "thyroid-mask" / f"{name}.png", SPOT & (name != empty))
    return root


def test_a_mask_missing_from_a_set_that_promises_them_is_an_error(tmp_path):
    tg3k(tmp_path)
    assert check_dataset("tg3k", tmp_path).ok
    (tmp_path / "thyroid-mask" / "0007.png").unlink()
    report = check_dataset("tg3k", tmp_path)
    assert found(report, "error") == [("tg3k/0007", "thyroid-image/0007.png", "mask missing")]


def test_unlabelled_images_and_unknown_patients_are_information(tmp_path):
    report = check_dataset("tg3k", tg3k(tmp_path))
    assert report.ok and report.summary["patients"] == "not known" and report.summary["target"] == "gland"
    assert [problem for *_, problem in found(report, "info")] == [
        "2 images have no label",
        "2 images have no patient id: each counts as a patient",
    ]


def test_one_class_and_no_masks(tmp_path):
    write_png(tmp_path / "a.png", FRAME)
    (tmp_path / "manifest.csv").write_text("image,label,patient\na.png,1,p\n")
    report = check_dataset("manifest", tmp_path)
    assert report.ok
    assert found(report) == [("", "", "every label is malignant"), ("", "", "no masks")]


def test_a_patient_on_both_sides_of_an_official_split(tmp_path):
    for name in "abc":
        write_png(tmp_path / f"{name}.png", FRAME)
    rows = "a.png,0,Jane,train\nb.png,1,Jane,test\nc.png,1,Joe,test\n"
    (tmp_path / "manifest.csv").write_text("image,label,patient,split\n" + rows)
    report = check_dataset("manifest", tmp_path)
    assert found(report, "error") == [("row-0001", "", "one patient is in test, train (2 images)")]
    assert "Jane" not in report.table.to_string() and report.summary["splits"] == "test (2), train (1)"


def test_what_a_reader_could_not_use_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ddti"
    write_png(root / "1_1.png", FRAME)
    (root / "1.xml").write_text("<case><age>?</age><mark><image>1</image><svg>{</svg></mark></case>")
    (root / "2.xml").write_text("<case></case>")
    report = check_dataset("ddti", root)
    assert report.ok
    assert found(report, "warning") == [
        ("ddti/1_1", "1_1.png", "mask: svg is broken JSON"),
        ("", "1.xml", "age is '?'; left empty"),
        ("", "2.xml", "no frame of this case is there"),
    ]


def test_phantoms_are_sound(tmp_path):
    report = check_dataset("phantom", tmp_path, patients=4, size=64, workers=1)
    assert report.ok and report.summary["patients"] == 4 and report.summary["masks"] == report.summary["images"] > 4


def test_files_that_are_left_out_are_told(tmp_path):
    folders(tmp_path)
    for name in ("scan 1.dcm", "scan 2.dcm", "notes.txt", ".hidden.dcm"):
        (tmp_path / "benign" / name).write_bytes(b"x")
    ((_, file, problem),) = found(check_dataset("folders", tmp_path, patient_pattern=r"(\d)"))
    assert file == "benign" and problem.startswith("2 files are no PNG") and "scan 1.dcm" in problem


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    check_dataset("folders", folders(tmp_path, 3), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_checking_writes_nothing_beside_the_data(tmp_path):
    before = sorted(folders(tmp_path).rglob("*"))
    check_dataset("folders", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_real_set_is_sound(real_data):
    report = check_dataset("ddti", real_data)
    assert report.ok and report.summary["formats"] == "PNG (543)"
    assert report.summary["sizes (width×height)"] == "280×360 (258), 560×360 (251), 245×360 (17), 315×360 (17)"
    assert found(report) == [("", "", "183 images have no label")]
