"""Codes in place of the names of one's own images and patients."""

from __future__ import annotations

import os
import shutil

import pandas as pd
import pytest
from made_pictures import put, refusal

from thyroid_utils.data.check import check_dataset
from thyroid_utils.data.readers import load_cases


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def listed(folder, *rows: str):
    put(folder, *(row.split(",")[0] for row in rows))
    (folder / "manifest.csv").write_text("image,patient,label,case\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return load_cases("manifest", folder)


def test_codes_replace_names_and_the_key_tells_them(tmp_path, runs):
    data = tmp_path / "data"
    cases = listed(data, "Anna.png,Anna M,0,=HYPERLINK(1)", "b.png,,1,", "c.png,Anna M,0,'c")
    assert cases.index.tolist() == ["case-0001", "case-0002", "case-0003"] and cases.index.name == "case"
    assert cases["patient"].tolist() == ["patient-001", "case-0002", "patient-001"]
    assert cases["patient_known"].tolist() == [True, False, True]
    key = pd.read_csv(runs / "key.csv", keep_default_na=False)
    assert key.columns.tolist() == ["folder", "case", "patient", "file", "case_name", "patient_name"]
    assert key["file"].tolist() == ["Anna.png", "b.png", "c.png"] and key["patient_name"].tolist() == ["Anna M", "", "Anna M"]
    assert key["case_name"].tolist() == ["'=HYPERLINK(1)", "row-0002", "''c"], "no spreadsheet computes a name"
    assert key["folder"].tolist() == [os.path.realpath(data)] * 3
    before = (runs / "key.csv").stat()
    assert load_cases("manifest", data / "manifest.csv").equals(cases)
    assert (runs / "key.csv").stat() == before, "nothing new, nothing written"
    assert load_cases("manifest", data, keep_names=True).index.tolist() == ["=HYPERLINK(1)", "row-0002", "'c"]
    assert [*sorted(path.name for path in data.iterdir())] == ["Anna.png", "b.png", "c.png", "manifest.csv"]


def test_what_is_added_takes_the_next_numbers_and_the_old_stay(tmp_path):
    listed(tmp_path / "data", "m.png,Mia,0,", "n.png,Noa,1,")
    cases = listed(tmp_path / "data", "a.png,Ada,0,", "n.png,Noa,1,", "m.png,Ada,0,")
    assert cases.index.tolist() == ["case-0003", "case-0002", "case-0001"]
    assert cases["patient"].tolist() == ["patient-003", "patient-002", "patient-003"], "m's patient was corrected"
    cases = listed(tmp_path / "data", "b.png,Bea,0,", "m.png,Mia,0,")
    assert cases.index.tolist() == ["case-0004", "case-0001"] and cases["patient"].tolist() == ["patient-004", "patient-001"]


def test_any_name_comes_back_as_itself(tmp_path, runs):
    names = ["=1+1", "'=1+1", "a\rb", "a\nb", 'say "a", b', " a ", "NA", "é", "-5", "$x$"]
    put(tmp_path / "data" / "benign", *(f"{name}_0.png" for name in names))
    put(tmp_path / "data" / "malignant", "a_0.png")
    cases = [load_cases("folders", tmp_path / "data", patient_pattern=r"(?s)^(.+)_0") for _ in range(2)]
    assert cases[0].equals(cases[1]) and cases[0]["patient"].nunique() == 11
    assert len(pd.read_csv(runs / "key.csv")) == 11


def test_folders_are_coded_alike_wherever_they_lie(tmp_path):
    put(tmp_path / "data" / "benign", "p1_a.png", "p1_b.png", "p10_a.png")
    put(tmp_path / "data" / "malignant", "p2_a.png")
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    for folder in ("data", "moved"):
        cases = load_cases("folders", tmp_path / folder, patient_pattern=r"^(p\d+)_")
        assert cases.index.tolist() == [f"case-000{number}" for number in (1, 2, 3, 4)]
        assert cases["patient"].tolist() == ["patient-001", "patient-001", "patient-002", "patient-003"]
    assert (load_cases("folders", tmp_path / "data")["patient"] == cases.index).all(), "unknown patients"


def test_a_key_that_is_none_or_cannot_be_written_is_told(tmp_path, runs, monkeypatch):
    put(tmp_path / "benign", "a.png")
    put(tmp_path / "malignant", "b.png")
    load_cases("folders", tmp_path)
    (runs / "key.csv").write_text("case;file\ncase-0001;a.png\n")
    assert "restore it, or remove it and codes begin anew" in refusal("folders", tmp_path)
    (runs / "in the way").write_text("")
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(runs / "in the way"))
    assert "keep_names: true" in refusal("folders", tmp_path)
    report = check_dataset("folders", tmp_path)
    assert report.ok and report.summary["images"] == 2, "a look needs no key"


def test_published_sets_keep_their_names():
    assert "unknown option 'keep_names'" in refusal("phantom", None, keep_names=True)
