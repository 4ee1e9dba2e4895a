"""A new study is three files: with those of `new_study/` laid into a copy of the project it runs, and every rule holds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from thyroid_utils.common import paths

NEW = Path(__file__).with_name("new_study")
STEM = "14_nodule_brightness"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project with the new study's files beside those that are there."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("thyroid_utils", "notebooks", "params", "tests"):
        shutil.copytree(paths.project_root() / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "new_study"))
    shutil.copytree(NEW, root, dirs_exist_ok=True)
    return root


def run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "THYROID_WORKBOOK_ROOT": str(project)}
    found = subprocess.run([sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_it_runs_into_a_report_and_every_rule_holds_for_it(project):
    run(project, "thyroid_utils.workbook.cli", "run", "params/smoke.yaml", "--only", STEM[:2])
    report = project / "reports" / "smoke"
    assert (report / f"figures/{STEM[:2]}_by_class.png").is_file() and (report / f"tables/{STEM[:2]}_means.csv").is_file()
    means = {name: entry["value"]["value"] for name, entry in json.loads((report / "metrics.json").read_text())[STEM].items()}
    assert set(means) == {"benign", "malignant"} and all(20 < mean < 150 for mean in means.values()), "gray levels of phantoms"
    assert "Measure how dark nodules are" in (report / "index.html").read_text()
    told = run(project, "pytest", "-q", "-k", f"{STEM[3:]} or floors", "tests/test_notebooks.py", "tests/test_project.py")
    assert " passed" in told and "skipped" not in told
