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
    (tmp_path / "benign_mask" / "1.png").write_bytes(b"")
    levels = np.random.default_rng(0).integers(0, 4096, SPOT.shape).astype(np.uint16)  # 12 bits in 16
    Image.fromarray(levels).save(tmp_path / "malignant" / "3.png")
    report = check_dataset("folders", tmp_path)
    assert not report.ok
    errors = found(report, "error")
    assert [(case, file) for case, file, _ in errors] == [
        ("benign/1", "benign/1.png"),
        ("benign/1", "benign_mask/1.png"),
        ("benign/2", "benign/2.png"),
        ("benign/3", "benign/3.png"),
        ("benign/4", "benign_mask/4.png"),
        ("malignant/2", "malignant_mask/2.png"),
    ]
    words = ["damaged or truncated", "0 bytes", "0 bytes", "HTML", "40×20, its image 40×30", "0 bytes"]
    assert all(word in problem for word, (_, _, problem) in zip(words, errors, strict=True))
    assert found(report, "warning") == [
        ("benign/6", "benign_mask/6.png", "mask is empty"),
        ("malignant/1", "malignant_mask/1.png", "mask covers 100.00% of the frame"),
        ("malignant/3", "malignant/3.png", "nearly black: the brightest gray level is 16 of 255"),
        ("benign/5", "benign/5.png", "mask missing"),
    ]
    assert found(report, "info") == [("", "", "14 images have no patient id: each counts as a patient")]
    assert report.table["remedy"].str.len().min() > 5
    assert report.table["severity"].tolist() == ["error"] * 6 + ["warning"] * 4 + ["info"]
    assert report.summary["sizes (width×height)"] == "40×30 (11)"


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


def test_a_set_that_promises_masks_and_names_no_patient(tmp_path):
    for name in ("0000", "0007"):
        write_png(tmp_path / "thyroid-image" / f"{name}.png", FRAME)
        write_png(tmp_path / "thyroid-mask" / f"{name}.png", SPOT)
    report = check_dataset("tg3k", tmp_path)
    assert report.ok and report.summary["patients"] == "not known" and report.summary["target"] == "gland"
    assert [problem for *_, problem in found(report, "info")] == [
        "2 images have no label",
        "2 images have no patient id: each counts as a patient",
    ]
    (tmp_path / "thyroid-mask" / "0007.png").unlink()
    assert found(check_dataset("tg3k", tmp_path), "error") == [("tg3k/0007", "thyroid-image/0007.png", "mask missing")]


def test_one_class_and_no_masks_and_a_patient_on_both_sides_of_a_split(tmp_path):
    for name in "abc":
        write_png(tmp_path / f"{name}.png", FRAME)
    (tmp_path / "manifest.csv").write_text("image,label,patient\na.png,1,p\n")
    report = check_dataset("manifest", tmp_path)
    assert report.ok and found(report) == [("", "", "every label is malignant"), ("", "", "no masks")]
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


def test_other_files_are_told_progress_counts_to_the_end_and_nothing_is_written(tmp_path):
    folders(tmp_path, 3)
    for name in ("scan 1.dcm", "scan 2.dcm", "notes.txt", ".hidden.dcm"):
        (tmp_path / "benign" / name).write_bytes(b"x")
    before, seen = sorted(tmp_path.rglob("*")), []
    report = check_dataset("folders", tmp_path, lambda done, total: seen.append((done, total)), patient_pattern=r"(\d)")
    ((_, file, problem),) = found(report)
    assert file == "benign" and problem.startswith("2 files are no PNG") and "scan 1.dcm" in problem
    assert seen == [(number, 6) for number in range(1, 7)] and sorted(tmp_path.rglob("*")) == before


def test_a_real_set_is_sound(real_data):
    report = check_dataset("ddti", real_data)
    assert report.ok and report.summary["formats"] == "PNG (543)"
    assert report.summary["sizes (width×height)"] == "280×360 (258), 560×360 (251), 245×360 (17), 315×360 (17)"
    assert found(report) == [("", "", "183 images have no label")]
