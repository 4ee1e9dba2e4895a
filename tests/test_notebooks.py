"""Every notebook held to the house style, every parameter file to the notebooks, and the smoke run from end to end."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from thyroid_utils.common import paths
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.parameters import declared_parameters, read_parameter_file

NOTEBOOKS = sorted(paths.notebooks_dir().glob("*.ipynb"))
PARAMS = sorted(paths.params_dir().glob("*.yaml"))
CHECKED = "nbval-check-output"
PATH = re.compile(r"""["'](/|[A-Za-z]:\\|~/|\.\./)""")
EVERY_NOTEBOOK_HAS = {"DATASET", "DATA_ROOT", "SPLIT_BY", "SEEDS"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def test_it_opens_with_title_question_and_what_goes_in_and_comes_out(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "**Question.**" in first.source
    assert all(word in first.source for word in ("goes in", "comes out", "takes"))


def test_imports_come_first_and_then_one_parameters_cell(notebook):
    code = code_cells(notebook)
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(code[0].source).body)
    assert [position for position, cell in enumerate(code) if "parameters" in tags(cell)] == [1]
    for cell in code[1:]:
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(cell.source))), cell.source


def test_parameters_are_commented_upper_case_literals(notebook):
    source = code_cells(notebook)[1].source
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign) and node.targets[0].id.isupper()
        ast.literal_eval(node.value)
        assert "  # " in source.splitlines()[node.end_lineno - 1], f"{node.targets[0].id} has no comment"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_declares_the_common_parameters(path):
    declared = declared_parameters(path)
    assert set(declared) >= EVERY_NOTEBOOK_HAS
    assert declared["DATASET"].default == "phantom", "the defaults are the smoke run on phantoms"


def test_it_defines_nothing_and_its_cells_are_short(notebook):
    for cell in code_cells(notebook):
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, definitions) for node in ast.walk(ast.parse(cell.source))), cell.source
        if "parameters" not in tags(cell):  # one line a parameter, however many there are
            assert len(cell.source.splitlines()) <= 18, cell.source


def test_it_reads_as_a_story(notebook):
    text = prose(notebook)
    assert len(text) >= 0.6 * len(code_cells(notebook)), "results without a word before or after them"
    headings = [line for source in text for line in source.splitlines() if re.match(r"#{1,3} ", line)]
    assert len(headings) >= 6 and sum(line.startswith("# ") for line in headings) == 1
    assert "## What was seen" in headings and "## Limits and exercises" in headings
    assert headings.index("## What was seen") < headings.index("## Limits and exercises")


@pytest.mark.parametrize("text", ['"/data/x"', r"'C:\\data'", '"~/x"', "'../shared'"])
def test_paths_are_recognised(text):
    assert PATH.search(text) and not PATH.search(text.strip("'\"")), "only where they are written as text"


def test_it_holds_no_path_picture_or_stray_output(notebook):
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


def test_some_cells_are_checked(notebook):
    assert sum(CHECKED in tags(cell) for cell in code_cells(notebook)) >= 2


def test_any_python3_kernel_runs_it(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_a_parameter_file_names_only_what_notebooks_declare(path):
    found = read_parameter_file(path)
    assert found.title and found.description
    declared = {notebook.stem: declared_parameters(notebook) for notebook in NOTEBOOKS}
    for key, value in found.common.items():
        owners = [parameters[key] for parameters in declared.values() if key in parameters]
        assert owners, f"{key} is declared nowhere"
        assert not [owner.problem(value) for owner in owners if owner.problem(value)]
    for stem, section in found.sections.items():
        for key, value in section.items():
            assert key in declared[stem] and declared[stem][key].problem(value) is None, f"{stem}.{key}"


def test_the_parameter_files_that_the_design_names_are_there():
    names = {path.stem for path in PARAMS}
    papers = {"dual_stage", "resnet18_gradcam", "unet_tnscui", "mobile_deeplab", "residual_unet"}
    assert {"smoke", "quick", "phantoms", "ddti", "tg3k", *(f"paper_{paper}" for paper in papers)} <= names
    assert not yaml.safe_load((paths.params_dir() / "smoke.yaml").read_text())["common"], "smoke is the defaults"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "smoke run"
    assert main(["run", str(paths.params_dir() / "smoke.yaml"), "--out", str(folder)]) == 0
    return folder


def test_the_smoke_run_leaves_reports_figures_tables_and_numbers(smoke):
    run = json.loads((smoke / "run.json").read_text())
    metrics = json.loads((smoke / "metrics.json").read_text())
    assert "finished" in json.dumps(run) and "failed" not in json.dumps(run)
    for notebook in [path for path in NOTEBOOKS if path.stem[:2].isdigit()]:
        assert (smoke / f"{notebook.stem}.html").stat().st_size > 100_000
        assert (smoke / f"{notebook.stem}.ipynb").is_file()
        assert metrics[notebook.stem], "a notebook leaves its key numbers behind"
        assert list((smoke / "figures").glob(f"{notebook.stem[:2]}_*.png"))
        assert list((smoke / "tables").glob(f"{notebook.stem[:2]}_*.csv"))
    assert "Explore the data" in (smoke / "index.html").read_text()


def test_the_smoke_runs_numbers_are_the_known_ones(smoke):
    metrics = json.loads((smoke / "metrics.json").read_text())
    explored, preprocessed = metrics["01_data_exploration"], metrics["02_preprocessing"]
    assert explored["patients"]["value"] == 14
    assert explored["leaks"]["value"] == 0
    assert explored["speckle_snr"]["value"] == pytest.approx(1.913, abs=0.05)  # a few thousand speckle cells: SD about 0.02
    assert preprocessed["augmented_test_images_seen"]["value"] > 50
    assert len(explored["split_hash"]["value"]) == 64


def test_nothing_of_the_smoke_run_tells_where_it_ran_or_names_a_patient(smoke):
    for file in [*smoke.glob("*.html"), *smoke.glob("*.ipynb"), *smoke.glob("*.json"), *(smoke / "tables").glob("*")]:
        text = file.read_text()
        assert str(paths.project_root()) not in text and str(smoke) not in text and str(Path.home()) + "/" not in text, file.name
        assert not re.search(r"phantom-\d{4}", text), f"{file.name} names a patient"


def test_the_notebooks_themselves_were_not_run_in_place(smoke):
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            assert cell.execution_count is None or CHECKED in tags(cell)
