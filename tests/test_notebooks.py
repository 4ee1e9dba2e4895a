"""Every notebook held to the house style, every parameter file to the notebooks, and the smoke run from end to end."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from thyroid_utils.common import paths
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.notebooks import numbered_notebooks
from thyroid_utils.workbook.parameters import parameters_by_notebook, parse_parameters, read_parameter_file

NOTEBOOKS = numbered_notebooks()
APP = paths.notebooks_dir() / "case_review.ipynb"
PARAMS = sorted(paths.params_dir().glob("*.yaml"))
CHECKED = "nbval-check-output"
PATH = re.compile(r"""["'](/|[A-Za-z]:\\|~/|\.\./)""")
SMOKE = ("01", "02")
ELSEWHERE = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)  # not in such a cell


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_imports_come_first_then_commented_literals_then_the_answers_place_and_nothing_is_defined(notebook):
    code = code_cells(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(code[0].source).body)
    assert [position for position, cell in enumerate(code) if "parameters" in tags(cell)] == [1]
    for cell in code[1:]:
        assert not any(isinstance(node, ELSEWHERE) for node in ast.walk(ast.parse(cell.source))), cell.source
        assert cell is code[1] or len(cell.source.splitlines()) <= 18, cell.source
    source = code_cells(notebook)[1].source
    declared = parse_parameters(source)
    assert set(declared) >= {"DATASET", "DATA_ROOT", "SPLIT_BY", "SEEDS"}
    assert declared["DATASET"].default == "phantom", "the defaults are the lesson on phantoms"
    for node in ast.parse(source).body:
        assert node.targets[0].id.isupper()
        assert "  # " in source.splitlines()[node.end_lineno - 1], f"{node.targets[0].id} has no comment"
    code = code_cells(notebook)
    assert code[2].source.endswith("answer_here()")
    assert sum(cell.source.count("record_answer(") for cell in code) == 1, "one computed answer"


def test_it_reads_as_a_story_without_path_picture_or_stray_output(notebook):
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert all(word in text[0] for word in ("# ", "**Question.**", "goes in", "comes out", "takes"))
    assert len(text) >= 0.6 * len(code_cells(notebook)), "results without a word before or after them"
    headings = [line for source in text for line in source.splitlines() if re.match(r"#{1,3} ", line)]
    assert len(headings) >= 6 and sum(line.startswith("# ") for line in headings) == 1
    assert headings.index("## What was seen") < headings.index("## Limits and exercises")
    for cell in notebook.cells:
        assert not PATH.search(cell.source), cell.source
        assert "getcwd" not in cell.source and "__file__" not in cell.source
        if cell.cell_type != "code":
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert not any(kind.startswith("image/") for kind in kinds), "a stored picture"
        if CHECKED in tags(cell):
            assert cell.outputs and cell.execution_count is not None, "nbval compares nothing without output and count"
        else:
            assert not cell.outputs and cell.execution_count is None


def test_the_app_is_a_notebook_of_commented_literals_and_short_cells_that_define_nothing():
    app = nbformat.read(APP, as_version=4)
    code = code_cells(app)
    assert [position for position, cell in enumerate(code) if "parameters" in tags(cell)] == [1]
    assert set(parse_parameters(code[1].source)) == {"REPORT", "RUNS"} and code[1].source.count("  # ") == 2
    for cell in code:
        assert not cell.outputs and cell.execution_count is None and len(cell.source.splitlines()) <= 18
        assert not PATH.search(cell.source) and (
            cell is code[0] or not {*map(type, ast.walk(ast.parse(cell.source)))} & {*ELSEWHERE}
        )


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_a_parameter_file_names_only_what_notebooks_declare(path):
    found = read_parameter_file(path)
    assert found.title and found.description
    parameters_by_notebook(found)  # raises for a name or a value that no notebook declares


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """The first two notebooks on a few phantoms, through the runner; nbval runs all, the papers' files those that train."""
    folder = tmp_path_factory.mktemp("reports") / "smoke run"
    assert main(["run", str(paths.params_dir() / "smoke.yaml"), "--only", *SMOKE, "--out", str(folder)]) == 0
    return folder


def test_the_smoke_run_leaves_reports_figures_tables_and_numbers_that_name_no_place_or_patient(smoke):
    metrics = json.loads((smoke / "metrics.json").read_text())
    assert [stem[:2] for stem in metrics] == list(SMOKE) and all(metrics.values())
    for stem in metrics:
        assert (smoke / f"{stem}.html").stat().st_size > 100_000 and (smoke / f"{stem}.ipynb").is_file()
        assert list((smoke / "figures").glob(f"{stem[:2]}_*.png")) and list((smoke / "tables").glob(f"{stem[:2]}_*.csv"))
    explored = metrics["01_data_exploration"]
    assert (explored["patients"]["value"], explored["leaks"]["value"]) == (14, 0)
    assert explored["speckle_snr"]["value"] == pytest.approx(1.913, abs=0.05)  # a few thousand speckle cells: SD about 0.02
    assert "Explore the data" in (smoke / "index.html").read_text()
    for file in [*smoke.glob("*.html"), *smoke.glob("*.ipynb"), *smoke.glob("*.json"), *(smoke / "tables").glob("*")]:
        text = file.read_text()
        assert str(paths.project_root()) not in text and str(smoke) not in text and str(Path.home()) + "/" not in text, file.name
        assert not re.search(r"phantom-\d{4}", text), f"{file.name} names a patient"
