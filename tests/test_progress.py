"""The progress bar: seen by a person, silent in an unattended run."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from thyroid_utils.common.progress import progress_bar
from thyroid_utils.workbook.notebooks import execute_notebook


@pytest.mark.parametrize("folder", [None, "somewhere"])
def test_a_person_sees_the_label_and_the_count_and_an_unattended_run_is_silent(monkeypatch, capsys, folder):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    if folder:
        monkeypatch.setenv("THYROID_REPORT_DIR", folder)
    progress = progress_bar("Reading")
    progress(2, 2)
    shown = capsys.readouterr().err
    assert shown == "" if folder else "Reading" in shown and "/2" in shown


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
