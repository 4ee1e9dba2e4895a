"""Codes in place of the names of one's own images and patients."""

import os
import shutil
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from made_pictures import put, refusal

from thyroid_utils.common.config import RunConfig
from thyroid_utils.data.check import check_dataset
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import split_hash
from thyroid_utils.data.table import data_fingerprint
from thyroid_utils.training.data import split_data


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def listed(folder, *rows: str):
    put_unlike(folder, *(row.split(",")[0] for row in rows))
    (folder / "manifest.csv").write_text("image,patient,label,case\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return load_cases("manifest", folder)


def put_unlike(folder, *names: str):
    for name in names:
        put(folder, name, pixels=np.frombuffer(sha256(name.encode()).digest() * 32, np.uint8).reshape(32, 32))


def digits(path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:10]


def test_codes_replace_names_and_the_key_tells_them(tmp_path, runs):
    data = tmp_path / "data"
    cases = listed(data, "Anna.png,Anna M,0,=HYPERLINK(1)", "b.png,,1,", "c.png,Anna M,0,'c")
    anna, b, c = (digits(data / name) for name in ("Anna.png", "b.png", "c.png"))
    assert cases.index.tolist() == [f"case-{anna}", f"case-{b}", f"case-{c}"] and cases.index.name == "case"
    assert cases["patient"].tolist() == [f"patient-{min(anna, c)}", f"case-{b}", f"patient-{min(anna, c)}"]
    assert cases["patient_known"].tolist() == [True, False, True]
    key = pd.read_csv(runs / "key.csv", keep_default_na=False)
    assert key.columns.tolist() == ["folder", "case", "patient", "file", "case_name", "patient_name"]
    assert key["case"].tolist() == cases.index.tolist() and key["patient"][1] == ""
    assert key["file"].tolist() == ["Anna.png", "b.png", "c.png"] and key["patient_name"].tolist() == ["Anna M", "", "Anna M"]
    assert key["case_name"].tolist() == ["'=HYPERLINK(1)", "row-0002", "''c"], "no spreadsheet computes a name"
    assert key["folder"].tolist() == [os.path.realpath(data)] * 3
    before = (runs / "key.csv").stat()
    assert load_cases("manifest", data / "manifest.csv").equals(cases)
    assert (runs / "key.csv").stat() == before, "nothing new, nothing written"
    assert load_cases("manifest", data, keep_names=True).index.tolist() == ["=HYPERLINK(1)", "row-0002", "'c"]
    assert [*sorted(path.name for path in data.iterdir())] == ["Anna.png", "b.png", "c.png", "manifest.csv"]


def test_neither_history_nor_place_nor_order_decides_a_split(tmp_path, runs):
    rows = [f"{number}.png,P{number // 2},{number // 2 % 2}," for number in range(60)]
    listed(tmp_path / "data", *rows[40:], *rows[10:30])
    grown = listed(tmp_path / "data", *rows)
    key = pd.read_csv(runs / "key.csv")
    assert len(key) == len(key.drop_duplicates()) and set(grown.index) <= set(key["case"])
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    (runs / "key.csv").unlink()
    turned = listed(tmp_path / "moved", *rows[::-1])
    config = {"task": "classification", "model": {"name": "resnet18"}}
    found = [
        split_data(RunConfig(**config, data={"dataset": "manifest", "root": str(tmp_path / name)})) for name in ("data", "moved")
    ]
    assert turned.index.tolist() == grown.index.tolist()[::-1] and not found[0].cases["image"].equals(found[1].cases["image"])
    assert found[0].split_hash == found[1].split_hash and found[0].fingerprint == found[1].fingerprint
    assert found[0].cases[["split", "patient"]].equals(found[1].cases[["split", "patient"]])


def test_copies_of_an_image_are_told_apart_and_their_patients_too(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "manifest.csv").write_text("image,patient\nc.png,Cy\na.png,Al\nb.png,Cy\n")
    cases, one = load_cases("manifest", tmp_path), digits(tmp_path / "a.png")
    assert cases.index.tolist() == [f"case-{one}-3", f"case-{one}", f"case-{one}-2"]
    assert cases["patient"].tolist() == [f"patient-{one}-2", f"patient-{one}", f"patient-{one}-2"]


def test_any_name_comes_back_as_itself(tmp_path, runs):
    names = ["=1+1", "'=1+1", "a\rb", "a\nb", 'say "a", b', " a ", "NA", "é", "-5", "$x$", os.fsdecode(b"M\xfcller")]
    put_unlike(tmp_path / "data" / "malignant", "a_0.png")
    (tmp_path / "data" / "benign").mkdir()
    for name in names:
        shutil.copy(tmp_path / "data" / "malignant" / "a_0.png", tmp_path / "data" / "benign" / f"{name}_0.png")
    cases = [load_cases("folders", tmp_path / "data", patient_pattern=r"(?s)^(.+)_0") for _ in range(2)]
    assert cases[0].equals(cases[1]) and cases[0]["patient"].nunique() == 12
    key = pd.read_csv(runs / "key.csv")
    assert len(key) == 12 and r"benign/M\udcfcller_0.png" in key["file"].tolist()
    kept = load_cases("folders", tmp_path / "data", patient_pattern=r"(?s)^(.+)_0", keep_names=True).assign(split="test")
    assert r"M\udcfcller" in kept["patient"].tolist() and split_hash(kept) and data_fingerprint(kept)


def test_published_sets_keep_their_names_and_a_key_that_is_none_or_cannot_be_written_is_told(tmp_path, runs, monkeypatch):
    assert "unknown option 'keep_names'" in refusal("phantom", None, keep_names=True)
    put(tmp_path / "benign", "a.png")
    put(tmp_path / "malignant", "b.png")
    load_cases("folders", tmp_path)
    (runs / "key.csv").write_text("case;file\ncase-0001;a.png\n")
    assert "restore it, or remove it and it is written anew" in refusal("folders", tmp_path)
    (runs / "in the way").write_text("")
    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(runs / "in the way"))
    assert "keep_names: true" in refusal("folders", tmp_path)
    report = check_dataset("folders", tmp_path)
    assert report.ok and report.summary["images"] == 2, "a look needs no key"
