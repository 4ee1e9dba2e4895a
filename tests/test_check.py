"""What is said of a data set whose files were all opened."""

import numpy as np
from made_pictures import SPOT, put
from PIL import Image

from thyroid_utils.data.check import COLUMNS, CheckReport, check_dataset
from thyroid_utils.data.images import write_png


def folders(root, count: int = 2):
    """A faultless set: two classes with a mask for each image."""
    names = [f"{number}.png" for number in range(1, count + 1)]
    for name in ("benign", "malignant"):
        put(root / name, *names)
        put(root / f"{name}_mask", *names, pixels=SPOT)
    return root


def found(report: CheckReport, severity: str | None = None) -> list[tuple[str, str, str]]:
    """(case, file, problem) of the findings, all or of one severity."""
    table = report.table if severity is None else report.table[report.table["severity"] == severity]
    return list(table[["case", "file", "problem"]].itertuples(index=False, name=None))


def test_every_fault_is_listed_with_case_file_and_remedy_and_nothing_is_written(tmp_path):
    folders(tmp_path, 7)
    for name in ("benign/2", "malignant_mask/2", "benign_mask/1"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "benign" / "1.png").write_bytes((tmp_path / "malignant" / "1.png").read_bytes()[:60])
    (tmp_path / "benign" / "3.png").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "benign_mask" / "5.png").unlink()
    for name, mask in (("benign_mask/4", SPOT[:20]), ("benign_mask/6", SPOT & False), ("malignant_mask/1", SPOT | True)):
        write_png(tmp_path / f"{name}.png", mask)
    levels = np.random.default_rng(0).integers(0, 4096, SPOT.shape).astype(np.uint16)  # 12 bits in 16
    Image.fromarray(levels).save(tmp_path / "malignant" / "3.png")
    (tmp_path / "benign" / "scan 1.dcm").write_bytes(b"x")
    line = np.zeros_like(SPOT)
    line[5:25, 5:35] = True
    line[6:24, 6:34] = False
    write_png(tmp_path / "malignant_mask" / "5.png", line)
    before, seen = sorted(tmp_path.rglob("*")), []
    report = check_dataset("folders", tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(number, 14) for number in range(1, 15)] and sorted(tmp_path.rglob("*")) == before
    errors = found(report, "error")
    assert not report.ok and [(case, file) for case, file, _ in errors] == [
        ("benign/1", "benign/1.png"),
        ("benign/1", "benign_mask/1.png"),
        ("benign/2", "benign/2.png"),
        ("benign/3", "benign/3.png"),
        ("benign/4", "benign_mask/4.png"),
        ("malignant/2", "malignant_mask/2.png"),
    ]
    assert found(report, "warning") == [
        ("benign/6", "benign_mask/6.png", "mask covers 0.00% of the frame"),
        ("malignant/1", "malignant_mask/1.png", "mask covers 100.00% of the frame"),
        ("malignant/3", "malignant/3.png", "nearly black: the brightest gray level is 16 of 255"),
        ("malignant/5", "malignant_mask/5.png", "mask is a line around an area"),
        ("", "benign", "1 DICOM file left out (benign)"),
        ("benign/5", "benign/5.png", "mask missing"),
    ]
    assert found(report, "info") == [
        ("", "", "14 images without a patient id: each counts as a patient"),
        ("", "benign", "1 file is no PNG, JPEG, TIFF, BMP or GIF (scan 1.dcm); left out"),
    ]
    assert report.table["severity"].tolist() == ["error"] * 6 + ["warning"] * 6 + ["info"] * 2


def test_masks_among_the_images_and_patients_who_may_be_one_or_nobody(tmp_path):
    put(tmp_path / "benign", *(f"{name}.png" for name in "abcdefg"))
    put(tmp_path / "malignant", "h.png", pixels=SPOT)
    names = ["Ann", "ann ", "P01", "p1", "0", "0", "", "x"]
    rows = [
        f"{'malignant' if name == 'h' else 'benign'}/{name}.png,{patient}"
        for name, patient in zip("abcdefgh", names, strict=True)
    ]
    (tmp_path / "manifest.csv").write_text("image,patient\n" + "\n".join(rows))
    warned = [problem for _, _, problem in found(check_dataset("manifest", tmp_path), "warning")]
    assert warned == [
        "two gray levels, as a mask has",
        "2 patients differ in case, zeros or spaces alone (Ann, ann)",
        "2 patients differ in case, zeros or spaces alone (P01, p1)",
        "one patient has 2 of 7 images (0)",
    ]
    rows = [row.rpartition(",")[0] + (",m" if place < 5 else f",q{place}") for place, row in enumerate(rows)]
    (tmp_path / "manifest.csv").write_text("image,patient\n" + "\n".join(rows))
    warned = [problem for _, _, problem in found(check_dataset("manifest", tmp_path), "warning")]
    assert warned[1:] == ["one patient has 5 of 8 images (m)"]


def test_a_set_that_cannot_be_loaded_is_one_error_and_a_faultless_one_has_none(tmp_path):
    report = check_dataset("ddti", tmp_path)
    assert not report.ok and len(report.table) == 1 and report.summary == {"data set": "ddti", "images": 0}
    row = report.table.iloc[0]
    assert row["severity"] == "error" and "labels.csv" in row["problem"] and "doi 10.1117" in row["remedy"]
    assert check_dataset("tg3", tmp_path).table["remedy"].tolist() == ["did you mean tg3k?"]
    assert check_dataset("phantom", None, patients=1, size=64).ok
    report = check_dataset("folders", folders(tmp_path), patient_pattern=r"(\d)")
    assert report.ok and report.table.empty and tuple(report.table.columns) == COLUMNS
    counts = {"data set": "folders", "images": 4, "patients": 2, "masks": 4, "target": "nodule"}
    counts |= {"benign": 2, "malignant": 2, "unlabelled": 0, "splits": "none"}
    assert report.summary == counts | {"sizes (width×height)": "40×30 (4)", "formats": "PNG (4)"}


def test_one_class_and_no_masks_and_a_patient_on_both_sides_of_a_split(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
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
    put(tmp_path / "ddti", "1_1.png", "cover.png")
    (tmp_path / "ddti" / "1.xml").write_text("<case><mark><image>1</image><svg>{</svg></mark></case>")
    report = check_dataset("ddti", tmp_path)
    assert report.ok
    assert found(report, "warning") == [
        ("ddti/1_1", "ddti/1_1.png", "mask: svg is no list of outlines with points x and y; left out"),
        ("", "ddti/cover.png", "not named NNN_K; left out"),
    ]
