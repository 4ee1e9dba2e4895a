"""The checklist of a finished report: its items' numbers, what records answer, what is asked, and reports that it refuses."""

import json
import math
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from workbook_project import notebook

from thyroid_utils.common import paths
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.workbook import checklist
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.folder import FORMAT, ReportFolder
from thyroid_utils.workbook.pages import Scrubber
from thyroid_utils.workbook.parameters import declared_parameters
from thyroid_utils.workbook.record import record, record_provenance, record_table

STEM = "03_classifier_comparison"
GUIDELINES = tomllib.loads(Path(checklist.__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PARAMETERS = 'SPLIT_BY = "patient"  # unit\nEPOCHS = 8  # 1 to 1000\nMODEL_OPTIONS = {}  # options\nFOLDS = 0  # 0 to 10'


def test_items_have_the_numbers_of_the_published_lists_and_ask_or_name_records():
    lettered = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
    numbers = [f"{number}{letter}" for number in range(1, 28) for letter in lettered.get(number, " ")]
    assert list(GUIDELINES["claim"]["items"]) == [f"{number}" for number in range(1, 45)]
    assert list(GUIDELINES["tripod"]["items"]) == [number.strip() for number in numbers]
    items = [item for guideline in GUIDELINES.values() for item in guideline["items"].values()]
    assert all("from" in item or "left" in item for item in items) and all("from" in item for item in items if "says" in item)


def test_every_record_that_an_item_names_is_made_by_a_notebook():
    sources = {path.stem: "".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
               for path in paths.notebooks_dir().glob("[0-9]*.ipynb")}  # fmt: skip
    declared = {name for path in paths.notebooks_dir().glob("[0-9]*.ipynb") for name in declared_parameters(path)}
    recorded = "".join(sources.values()) + Path(record.__code__.co_filename).read_text(encoding="utf-8")
    for item in (item for guideline in GUIDELINES.values() for item in guideline["items"].values()):
        for source in item.get("from", []):
            kind, _, name = source.partition(":")
            place, _, what = name.partition("_")
            if kind == "parameter":
                assert name in declared, source
            elif kind == "made":
                assert name in ("versions", "commit", "hardware", "parameter_file"), source
            elif kind == "value":
                assert f'record("{name.rstrip("*")}' in recorded, source
            elif kind != "answer" and "*" not in name:
                (text,) = [text for stem, text in sources.items() if stem.startswith(place)]
                assert f'"{what}"' in text, source


def made(tmp_path, monkeypatch, *, empty: bool = False) -> ReportFolder:
    """The finished report of one notebook, as the runner leaves it."""
    folder = ReportFolder(tmp_path / "a report", Scrubber())
    folder.path.mkdir()
    told = {"title": "T | x", "description": "", "started": "2026-01-02T03:04", "commit": "abc", "hardware": "P, 2 cores"}
    told |= {"parameter_file": "x.yaml", "versions": {"torch": "2.1"}, "duration": 1.0}
    folder.document = {**told, "format": FORMAT, "status": "finished", "known": [STEM], "notebooks": {}}
    staging = folder.staging(STEM)
    monkeypatch.setenv("THYROID_REPORT_DIR", str(staging))
    monkeypatch.setenv("THYROID_NOTEBOOK", STEM)
    found = {**told, "stem": STEM, "number": "03", "question": "", "status": "finished", "error": None, "rerun": None}
    found |= {"parameters": {"EPOCHS": 5}, "answer": "Known | so.", "show_code": False, "earlier": False, "kept": False}
    found |= {"figures": [], "tables": []}
    if not empty:
        sides = {"train": {"all": [4, 2], "benign": [4, 2]}, "test": {"all": [1, 1], "malignant": [1, 1]}}
        data = {"split_hash": "ab", "fingerprint": "cd", "patients": "as named", "left_out": 3, "sides": sides}
        run = SimpleNamespace(data=data, environment={"device": "cpu", "precision": "32-true"})
        run.folds = (run,)
        record_provenance(run)
        record("chosen_auc", Estimate(0.774, 0.675, 0.846, 9, 9), "AUC on test of a_b, chosen on validation")
        record("chosen_nan", Estimate(0.5, math.nan, math.nan, 9, 9))
        record_table(pd.DataFrame({"images": [7, 1]}, index=["benign", "malignant"]), "test_set", "What scores rest on. More.")
        found["tables"] = [{"file": "tables/03_test_set", "caption": "What every score rests on. More."}]
    folder.stage(notebook("Compare", parameters=PARAMETERS), found, staging)
    folder.install(staging, STEM)
    return folder


def test_records_answer_items_beside_a_link_and_the_rest_is_asked(tmp_path, monkeypatch, capsys):
    report, out = made(tmp_path, monkeypatch).path, tmp_path / "out"
    assert main(["checklist", str(report), "--out", str(out)]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == ["checklist.md", "checklist.html"]
    text, page = ((out / f"checklist.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    claim, tripod = (dict(re.findall(r"^\| (\d+\w?) \| .*? \| (.*) \|$", part, re.M)) for part in text.split("\n## ")[1:])
    assert (len(claim), len(tripod)) == (44, 52)
    assert claim["19"].split("<br>") == [
        '`SPLIT_BY = "patient"` (03)',
        "`FOLDS = 0` (03)",
        "images of patients: train all 4 of 2, benign 4 of 2; test all 1 of 1, malignant 1 of 1 (03)",
        "split hash: ab (03)",
    ]
    assert claim["25"].split("<br>") == ["`EPOCHS = 5` (03)", "trained on: cpu, 32-true (03)", "hardware: P, 2 cores (03)"]
    assert claim["26"].endswith(
        r"AUC on test of a\_b, chosen on validation: 0.774 \[0.675, 0.846\] (03)<br>chosen nan: 0.500 (03)"
    )
    table = "[What every score rests on](../a%20report/tables/03_test_set.csv) (03)"
    assert claim["32"].split("<br>") == [table, "benign: images 7 (03)", "malignant: images 1 (03)"]
    assert "**Author:** This report has no record" in claim["22"] and claim["1"].startswith("**Author:** Does the title")
    assert tripod["25"].startswith(r"Known \| so. (03)<br>**Author:**") and "images left out" in tripod["11"]
    counts = [int(number) for number in re.findall(r"(\d+) items? (?:answered|left)", text)]
    asked = [cell.startswith("**Author") for cell in (*claim.values(), *tripod.values())]
    assert sum(counts) == 96 and counts[2] == sum(asked)
    assert page.count("<tr>") == 98 and 'href="../a%20report/tables/03_test_set.csv"' in page and "<script" not in page
    assert main(["checklist", str(report)]) == 0 and (report / "checklist.html").exists()


def edited(change):
    """Writes `run.json` anew after a change of its content."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        change(content)
        (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "run.json").unlink(), "there is no run.json; give the folder of a finished report"),
        (lambda folder: folder.rename(folder.with_name("moved")), "there is no run.json"),
        (lambda folder: (folder / "run.json").write_text("{"), "its run.json is damaged or of another version"),
        (edited(lambda run: run.update(format=FORMAT - 1)), "its run.json is damaged or of another version"),
        (edited(lambda run: run.pop("status")), "its run.json is damaged or of another version"),
        (edited(lambda run: run["notebooks"][STEM].pop("files")), "its run.json is damaged or of another version"),
        (edited(lambda run: run.update(status="running")), "its run is not finished (running); give"),
        (edited(lambda run: run["notebooks"][STEM].update(status="failed")), f"{STEM} is not finished (failed); give"),
        (edited(lambda run: run["notebooks"][STEM].update(rerun={"status": "failed"})), "or a later run of it failed"),
        (lambda folder: (folder / "tables" / "03_test_set.csv").write_text("benign,9"), f"{STEM}: files are missing or changed"),
        (lambda folder: (folder / "metrics.json").unlink(), "files are missing or changed since the report was written"),
        (lambda folder: (folder / f"{STEM}.ipynb").unlink(), "files are missing or changed since the report was written"),
    ],
)
def test_a_report_that_is_none_unfinished_or_damaged_is_refused(tmp_path, monkeypatch, capsys, spoil, told):
    report = made(tmp_path, monkeypatch).path
    spoil(report)
    assert main(["checklist", str(report), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_report_without_records_is_refused(tmp_path, monkeypatch, capsys):
    assert main(["checklist", str(made(tmp_path, monkeypatch, empty=True).path)]) == 2
    assert "no number and no table was recorded" in capsys.readouterr().err
