"""The command line: its options, its exit codes, and data check."""

from __future__ import annotations

import pandas as pd
import pytest

import thyroid_utils.data.check as data_check
from thyroid_utils.common.errors import DataError
from thyroid_utils.workbook.cli import _spread_only, main

COLUMNS = ["severity", "case", "file", "problem", "remedy"]


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        (
            ["run", "x.yaml", "--only", "01", "02", "--set", "A=1"],
            ["run", "x.yaml", "--only", "01", "--only", "02", "--set", "A=1"],
        ),
        (["run", "--only", "01", "02", "x.yaml"], ["run", "--only", "01", "--only", "02", "x.yaml"]),
        (["run", "x.yaml", "--only", "01", "--only", "02"], ["run", "x.yaml", "--only", "01", "--only", "02"]),
        (["run", "x.yaml", "--only=01"], ["run", "x.yaml", "--only=01"]),
        (["run", "x.yaml", "--only"], ["run", "x.yaml", "--only"]),
        (["run", "x.yaml"], ["run", "x.yaml"]),
    ],
)
def test_only_takes_several_numbers(given, spread):
    assert _spread_only(given) == spread


@pytest.mark.parametrize("arguments", [["run"], ["run", "x.yaml", "--only"], ["run", "x.yaml", "--onyl", "01"], ["nonsense"]])
def test_wrong_use_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_a_missing_parameter_file_is_one_line(capsys, tmp_path):
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("run", "data", "notebooks"))


def report(*rows) -> data_check.CheckReport:
    return data_check.CheckReport(pd.DataFrame(rows, columns=COLUMNS), {"data set": "ddti", "images": 543})


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("warning", 0), ("info", 0)])
def test_data_check_prints_a_table_and_its_exit_code_tells_errors(monkeypatch, capsys, tmp_path, severity, code):
    finding = (severity, "ddti/7", "image/7.png", "truncated [half]", "copy it again")
    monkeypatch.setattr(data_check, "check_dataset", lambda *arguments, **options: report(finding))
    assert main(["data", "check", "ddti", str(tmp_path)]) == code
    shown = capsys.readouterr().out
    assert "images" in shown and "543" in shown
    assert all(part in " ".join(shown.split()) for part in (severity, "ddti/7", "truncated [half]"))


def test_data_check_of_a_faultless_set_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data_check, "check_dataset", lambda *arguments, **options: report())
    assert main(["data", "check", "ddti", str(tmp_path)]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_data_check_of_real_files(tmp_path, capsys):
    assert main(["data", "check", "ddti", str(tmp_path)]) == 1
    assert "labels.csv" in capsys.readouterr().out


def test_data_check_names_the_readers_for_an_unknown_one(tmp_path, capsys):
    assert main(["data", "check", "dtdi", str(tmp_path)]) == 2
    assert "ddti" in capsys.readouterr().err


def test_an_error_about_data_is_one_line(monkeypatch, capsys, tmp_path):
    def refuse(*arguments, **options):
        raise DataError("manifest.csv: no column image")

    monkeypatch.setattr(data_check, "check_dataset", refuse)
    assert main(["data", "check", "ddti", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "thyroid-workbook: manifest.csv: no column image\n"
