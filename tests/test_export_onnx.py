"""`thyroid-workbook export` and `predict --onnx`: what is written, the findings of the runs, and no PyTorch."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import project

from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.onnx_export import export_network
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.training.ledger import find_run
from thyroid_utils.workbook.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, [0, 1]) as trained:
        yield {role: [run.name for run in several] for role, several in trained.items()}


@pytest.fixture(scope="module")
def images(runs):
    """Three test images, of both sizes."""
    return Predictor(find_run(runs["frame"][0])).cases.query("split == 'test'")["image"][:3].tolist()


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """Folders of exports: of a classifier and a segmenter, of two classifiers and a segmenter, of a joint run."""
    folder = tmp_path_factory.mktemp("exported")
    given = {
        "one": [runs["frame"][0], runs["segmenter"][0]],
        "two": runs["frame"] + runs["segmenter"][:1],
    }
    for name, names in given.items():
        assert main(["export", *(run[:12] for run in names), "--out", str(folder / name)]) == 0
    export_network(find_run(runs["joint"][0]), folder / "joint/joint.onnx")
    return folder


def test_files_and_a_card_are_written(exported):
    held = {path.name: sorted(file.name for file in path.iterdir()) for path in exported.iterdir()}
    assert held["one"] == ["card.md", "classifier.onnx", "dual_stage.onnx", "segmenter.onnx"]
    assert held["two"] == ["card.md", "classifier-1.onnx", "classifier-2.onnx", "segmenter.onnx"]
    card = (exported / "one/card.md").read_text()
    assert "| classifier.onnx | tiny, run " in card and "| gray, resize | scale, three_channels | malignant |" in card
    assert card.count("# Model card") == 2 and card.count("not a medical device") == 3 and "were done (gray)" in card
    assert "There is no `dual_stage.onnx`: it takes a classifier and a segmenter" in (exported / "two/card.md").read_text()


# What `predict --onnx` must do without; what is asked for is not there.
BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name}}", name=name)
sys.meta_path.insert(0, Absent())
from thyroid_utils.workbook.cli import main
sys.exit(main(sys.argv[1:]))
"""


def imported_by(requirement: str) -> str:
    named = re.match(r"[\w.-]+", requirement)[0]
    others = {
        "PyYAML": "yaml",
        "beautifulsoup4": "bs4",
        "grad-cam": "pytorch_grad_cam",
        "scikit-learn": "sklearn",
        "ipython": "IPython",
    }
    return others.get(named, named.replace("-", "_"))


def without_extras(*arguments: str, also: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    absent = {imported_by(one) for one in extras["workbook"]} - {"thyroid_utils"} | {*also}
    command = [sys.executable, "-c", BLOCKED.format(absent=absent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("kind", ["one", "two", "joint"])
def test_the_same_findings_as_of_the_runs_without_what_the_workbook_needs(runs, images, exported, tmp_path, kind):
    done = without_extras("predict", *images, "--onnx", str(exported / kind), "--out", str(tmp_path / "onnx"), "--spacing", "0.1")
    assert done.returncode == 0, done.stderr
    assert "Grad-CAM) is left out" in done.stdout and "not a medical device" in done.stdout
    roles = ["joint"] * 2 if kind == "joint" else ["frame", "segmenter"]
    given = [
        argument
        for option, role in zip(("--classifier", "--segmenter"), roles, strict=True)
        for run in runs[role][: 1 + (kind == "two" and role == "frame")]
        for argument in (option, run)
    ]
    assert main(["predict", *images, *given, "--out", str(tmp_path / "runs"), "--spacing", "0.1"]) == 0
    found, expected = (pd.read_csv(tmp_path / name / "findings.csv") for name in ("onnx", "runs"))
    apart = {column for column in expected if column.startswith("seconds_") or "attention" in column} | {"warnings"}
    kept = [column for column in expected if column not in apart]
    pd.testing.assert_frame_equal(found[kept], expected[kept], atol=1e-4, rtol=1e-4)
    assert found["attention_inside"].isna().all() and not found["warnings"].astype(str).str.contains("attention").any()
    for case in found["case"]:
        masks = [read_mask(tmp_path / name / f"masks/{case}.png") for name in ("onnx", "runs")]
        np.testing.assert_array_equal(*masks)
    tables = [pd.read_csv(tmp_path / name / "networks.csv") for name in ("onnx", "runs")]
    pd.testing.assert_frame_equal(*tables)
    assert (tmp_path / "onnx/index.html").read_text().count("<img ") == 3


@pytest.mark.parametrize(
    ("arguments", "absent", "told"),
    [
        (
            ("predict", "{image}", "--onnx", "{one}", "--out", "{out}"),
            ("onnxruntime",),
            r"pip install 'thyroid-utils\[predict\]'",
        ),
        (("predict", "{image}", "--classifier", "{run}", "--segmenter", "{run}", "--out", "{out}"), (), r"\[workbook\]"),
    ],
)
def test_a_package_that_is_not_installed_is_told_with_its_extra(runs, images, exported, tmp_path, arguments, absent, told):
    values = {"image": images[0], "one": exported / "one", "run": runs["frame"][0], "out": tmp_path / "out"}
    done = without_extras(*(argument.format(**values) for argument in arguments), also=absent)
    assert done.returncode == 2 and re.search(told, done.stderr) and "Traceback" not in done.stderr


def test_wrong_use_is_told_and_leaves_nothing(runs, images, exported, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/classifier.onnx").write_bytes((exported / "one/classifier.onnx").read_bytes())
    (tmp_path / "mixed").mkdir()
    for name in ("classifier-1.onnx", "segmenter.onnx"):
        (tmp_path / "mixed" / name).write_bytes((exported / "two" / name).read_bytes())
    (tmp_path / "exchanged").mkdir()
    for name, other in (("classifier.onnx", "segmenter.onnx"), ("segmenter.onnx", "classifier.onnx")):
        (tmp_path / "exchanged" / name).write_bytes((exported / "one" / other).read_bytes())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/classifier.onnx").write_bytes(b"no ONNX")
    frame, segmenter, joint, out = runs["frame"], runs["segmenter"], runs["joint"], str(tmp_path / "out")
    predict = ["predict", images[0], "--out", out]
    for arguments, told in (
        (["export", frame[0], joint[0], "--out", out], "joint runs answer for both stages"),
        (["export", frame[0], runs["crop"][0], "--out", out], "the runs differ in their recipe"),
        (["export", frame[0], frame[0], "--out", out], "give each once"),
        (["export", "nothing", "--out", out], "export: nothing: there is no such run"),
        (["export", frame[0], "--out", str(tmp_path / "full")], "not an empty folder"),
        ([*predict, "--onnx", str(exported / "one"), "--classifier", frame[0]], "--onnx together with --classifier"),
        (predict, "no networks; give --classifier RUN"),
        ([*predict, "--classifier", frame[0]], "no networks; give --classifier RUN"),
        ([*predict, "--onnx", str(tmp_path / "nowhere")], "holds no classifier.onnx and no joint.onnx"),
        ([*predict, "--onnx", str(tmp_path / "half")], "holds no segmenter.onnx and no joint.onnx"),
        ([*predict, "--onnx", str(tmp_path / "mixed")], "not those of one export"),
        ([*predict, "--onnx", str(tmp_path / "exchanged")], "a network of segmentation, which is no classifier"),
        ([*predict, "--onnx", str(tmp_path / "broken")], "onnxruntime cannot read it"),
    ):
        assert main(arguments) == 2, arguments
        assert told in capsys.readouterr().err, arguments
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "full/mine.txt").read_text() == "keep" and segmenter
