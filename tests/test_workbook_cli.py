"""The command line: its options, its exit codes, data check, and notebooks cleaned and refreshed. Runs: see `test_ledger`."""

import nbformat
import pandas as pd
import pytest
from made_pictures import FRAME, put
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from workbook_project import notebook, write_project

import thyroid_utils.data.check as data_check
from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.data.images import write_png
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.notebooks import read_notebook, refresh_notebook

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


CHECKED = {"tags": ["nbval-check-output"]}


def dirty() -> nbformat.NotebookNode:
    node = notebook("Dirty")
    stream = new_output("stream", name="stdout", text="7\n")
    picture = new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"}, metadata={"image/png": {"width": 3}})
    node.cells[1].execution_count = 4
    noise = {"collapsed": True, "execution": {"iopub.status.busy": "2026"}}
    node.cells += [
        new_code_cell("print(7)", execution_count=5, outputs=[stream], metadata=noise),
        new_code_cell("print(7)", execution_count=6, outputs=[stream, picture], metadata=CHECKED),
        new_markdown_cell("text", metadata={"vscode": {}}),
    ]
    node.metadata["widgets"] = {"state": {}}
    node.metadata["language_info"] = {"name": "python", "version": "3.99"}
    return node


def test_cleaning_keeps_only_what_tests_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    write_project(tmp_path, n01_dirty=dirty(), case_review=dirty())
    path = tmp_path / "notebooks" / "01_dirty.ipynb"
    before = path.read_bytes()
    assert main(["notebooks", "clean", "--check"]) == 1
    told = capsys.readouterr().out
    assert "notebooks/case_review.ipynb" in told and path.read_bytes() == before
    assert main(["notebooks", "clean"]) == 0
    cleaned = nbformat.read(path, as_version=4)
    nbformat.validate(cleaned)
    plain, checked = cleaned.cells[-3], cleaned.cells[-2]
    assert (plain.outputs, plain.execution_count, plain.metadata) == ([], None, {})
    assert checked.execution_count == 6 and checked.outputs[0].text == "7\n"
    assert checked.outputs[1].data == {"text/plain": "<Figure>"} and checked.outputs[1].metadata == {}
    assert cleaned.metadata.kernelspec.name == "python3" and set(cleaned.metadata) == {"kernelspec", "language_info"}
    capsys.readouterr()
    assert main(["notebooks", "clean", "--check"]) == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, content):
    (tmp_path / "06_broken.ipynb").write_text(content)
    with pytest.raises(ParameterError, match="not a Jupyter notebook"):
        read_notebook(tmp_path / "06_broken.ipynb")


REFRESHED = """import pandas as pd
from thyroid_utils.workbook.record import record, record_table
record("images", 2)
record_table(pd.DataFrame({"images": [SIZE, 2]}), "counts", "Counts")
pd.DataFrame({"a": [1, 2]})"""


def test_refresh_stores_what_a_second_refresh_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path / "never"))
    node = notebook("Refreshed", "print('unchecked')", REFRESHED)
    node.cells[-1].metadata = CHECKED
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "smoke.yaml").write_text("title: Smoke\ncommon: {SIZE: 32}\n")
    write_project(tmp_path, n01_refreshed=node)
    path = tmp_path / "notebooks" / "01_refreshed.ipynb"
    assert main(["notebooks", "refresh", "01"]) == 0
    stored = nbformat.read(path, as_version=4)
    assert [len(cell.outputs) for cell in stored.cells if cell.cell_type == "code"] == [0, 0, 3]
    assert [cell.source for cell in stored.cells] == [cell.source for cell in node.cells], "no injected parameters"
    assert "32" in str(stored.cells[-1].outputs), "not the size of params/smoke.yaml"
    assert not refresh_notebook(path, {"SIZE": 32}), "the second time gives the same file"
    assert main(["notebooks", "clean", "--check"]) == 0
    assert not (tmp_path / "never").exists() and sorted(item.name for item in (tmp_path / "notebooks").iterdir()) == [path.name]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("1 / 0", "ZeroDivisionError"), ("x = 1", "shows nothing"), ("import warnings\nwarnings.warn('x')", "writes warnings")],
)
def test_refresh_refuses_what_no_test_could_compare(tmp_path, monkeypatch, cell, expected):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    node = notebook("Refused", cell)
    node.cells[-1].metadata = CHECKED
    write_project(tmp_path, n01_refused=node)
    path = tmp_path / "notebooks" / "01_refused.ipynb"
    before = path.read_bytes()
    with pytest.raises(RunError, match=expected):
        refresh_notebook(path, {})
    assert path.read_bytes() == before
