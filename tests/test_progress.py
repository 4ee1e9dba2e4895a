"""The progress bar: seen by a person, silent in an unattended run."""

from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from thyroid_utils.common import progress
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.workbook.notebooks import execute_notebook


@pytest.mark.parametrize("folder", [None, "somewhere"])
def test_a_person_sees_the_label_and_the_count_and_an_unattended_run_is_silent(monkeypatch, capsys, folder):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    if folder:
        monkeypatch.setenv("THYROID_REPORT_DIR", folder)
    progress_bar("Reading")(2, 2)
    shown = capsys.readouterr().err
    assert shown == "" if folder else "Reading" in shown and "/2" in shown


def test_a_report_is_told_of_long_work_now_and_then(monkeypatch, capsys):
    monkeypatch.setenv("THYROID_REPORT_DIR", "somewhere")
    clock = iter([0, 1, 3, 4, 33.5, 34])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    tell = progress_bar("Preprocessing")
    for done in range(5):
        tell(done, 9)
    assert capsys.readouterr().out == "Preprocessing: 1 of 9 after 3 s\nPreprocessing: 3 of 9 after 34 s\n"
    progress_bar("Training", lines=False)(9, 9)
    assert capsys.readouterr() == ("", "")


CELL = """from thyroid_utils.common.progress import progress_bar
outer, inner = progress_bar("Runs <2>"), progress_bar("Training")
outer(0, 2)
for done in range(1, 4):
    inner(done, 3)
print("told")
{last}"""


@pytest.mark.parametrize(("last", "fails"), [("outer(2, 2)", False), ("1 / 0", True)])
def test_in_a_notebook_the_bars_are_one_line_that_is_gone_with_the_cell(tmp_path, last, fails):
    nbformat.write(new_notebook(cells=[new_code_cell(CELL.format(last=last))]), tmp_path / "bars.ipynb")
    node, failure = execute_notebook(tmp_path / "bars.ipynb", {}, variables={"THYROID_REPORT_DIR": None})
    bars, told, *error = node.cells[0].outputs
    assert bars.output_type == "display_data" and bars.data["text/html"] == "" and "display_id" not in bars.metadata
    assert (told.name, told.text) == ("stdout", "told\n") and bool(failure) == bool(error) == fails
