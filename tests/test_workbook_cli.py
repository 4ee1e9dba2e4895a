"""The command line: its options, its exit codes, and data check. What runs are listed and removed: `test_ledger`."""

import pandas as pd
import pytest
from made_pictures import FRAME, put

import thyroid_utils.data.check as data_check
from thyroid_utils.data.images import write_png
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


def test_data_check_takes_the_readers_options_and_prints_no_escapes(capsys, tmp_path):
    put(tmp_path / "benign", "a_1.png", "a_2.png")
    put(tmp_path / "malignant", "b\x1b[31m_1.png")
    command = ["data", "check", "folders", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "not known" in shown and "patient_pattern" in shown
    assert main([*command, "--set", r"DATA_OPTIONS={patient_pattern: '^(.+)_'}"]) == 0
    assert "patients 2" in " ".join(capsys.readouterr().out.split())
    write_png(tmp_path / "malignant" / "b\x1b[31m_1_mask.png", FRAME[:5] > 0)
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and r"b\x1b[31m_1" in shown
    for wrong, told in (("SIZE=3", "takes DATA_OPTIONS"), ("DATA_OPTIONS=3", "takes DATA_OPTIONS"), (
            "DATA_OPTIONS={patient_pattern: ^(\\d{3})_}", "in single quotes")):  # fmt: skip
        assert main([*command, "--set", wrong]) == 2
        assert told in capsys.readouterr().err
