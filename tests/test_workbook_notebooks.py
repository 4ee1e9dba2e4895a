"""Notebooks as files: clean, and refreshed without being run in place."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from workbook_project import notebook, write_project

from thyroid_utils.common.errors import ParameterError, RunError
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.notebooks import read_notebook, refresh_notebook

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
