"""The command line: its options, its exit codes, and data check. What runs are listed and removed: `test_ledger`."""

from __future__ import annotations

import pandas as pd
import pytest

import thyroid_utils.data.check as data_check
from thyroid_utils.common.errors import DataError
from thyroid_utils.workbook.cli import main

COLUMNS = ["severity", "case", "file", "problem", "remedy"]


@pytest.mark.parametrize("arguments", ["run", "run --only", "run x.yaml --onyl 01", "nonsense", "run none.yaml --only 01 02"])
def test_wrong_use_is_exit_code_2(arguments, capsys):
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("warning", 0), ("info", 0), (None, 0)])
def test_data_check_prints_a_table_and_its_exit_code_tells_errors(monkeypatch, capsys, tmp_path, severity, code):
    rows = [(severity, "ddti/7", "image/7.png", "truncated [half]", "copy it again")] if severity else []
    report = data_check.CheckReport(pd.DataFrame(rows, columns=COLUMNS), {"data set": "ddti", "images": 543})
    monkeypatch.setattr(data_check, "check_dataset", lambda *arguments, **options: report)
    assert main(["data", "check", "ddti", str(tmp_path)]) == code
    shown = " ".join(capsys.readouterr().out.split())
    assert all(part in shown for part in ("images", "543", *(rows[0] if rows else ("nothing wrong",))))


def test_an_error_about_data_is_one_line(monkeypatch, capsys, tmp_path):
    def refuse(*arguments, **options):
        raise DataError("manifest.csv: no column image")

    monkeypatch.setattr(data_check, "check_dataset", refuse)
    assert main(["data", "check", "ddti", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "thyroid-workbook: manifest.csv: no column image\n"
