"""What is looked up before the first notebook starts, on the notebooks themselves."""

from __future__ import annotations

import pytest
from PIL import Image

from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError
from thyroid_utils.training.ledger import identity
from thyroid_utils.workbook.checks import _configs, check_notebooks
from thyroid_utils.workbook.notebooks import select_notebooks
from thyroid_utils.workbook.parameters import declared_parameters, parameters_by_notebook, read_parameter_file


def told(*settings: str, name: str = "smoke") -> list[str]:
    """The problems, a line each."""
    file = read_parameter_file(paths.params_dir() / f"{name}.yaml")
    try:
        check_notebooks(select_notebooks(file.notebooks), parameters_by_notebook(file, settings))
    except ParameterError as problems:
        return str(problems).splitlines()
    return []


@pytest.mark.parametrize("name", ["smoke", "quick", "phantoms"])
def test_what_can_be_trained_passes(name):
    assert told(name=name) == []


@pytest.mark.parametrize("name", ["quick", "phantoms", "ddti", "own"])
def test_06_and_07_take_the_classifiers_that_03_compares_and_a_segmenter_of_04(name):
    given, made = parameters_by_notebook(read_parameter_file(paths.params_dir() / f"{name}.yaml")), {}
    for notebook in select_notebooks(["03", "04", "06", "07"]):
        values = {key: found.default for key, found in declared_parameters(notebook).items()} | given[notebook.stem]
        for config in _configs(notebook, values):
            made.setdefault((notebook.stem[:2], config.task), []).append(str(identity(config)))
    for number in ("06", "07"):
        again = [told for told in made["03", "classification"] if told not in made[number, "classification"]]
        assert [told for told in made["03", "classification"] if told not in again] == made[number, "classification"]
        assert all("'weights': 'none'" in told for told in again), "03 alone trains some from scratch, too"
        assert set(made[number, "segmentation"]) <= set(made["04", "segmentation"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("MODELS=[resnet18]", "04_segmenter_comparison: MODEL_OPTIONS: are given for unet, which is not compared"),
        ("04.MODELS=[uney, unet, segnet]", "04_segmenter_comparison: MODELS: model 'uney' is unknown; did you mean unet?"),
        ("10.JOINT=unet", "10_dual_stage: SEGMENTER, JOINT: model unet: has no encoder"),
        ("04.MODEL_OPTIONS={unet: {wdths: [8]}}", "04_segmenter_comparison: MODEL_OPTIONS: model unet: no option 'wdths'"),
        ("04.MODEL_OPTIONS={segnt: {}}", "04_segmenter_comparison: MODEL_OPTIONS: are given for segnt"),
        ("03.LOSS_OPTIONS={gama: 2}", "03_classifier_comparison: LOSS_OPTIONS: loss cross_entropy: no option 'gama'"),
        ("07.LAYERS={resnet18: layer9}", "07_error_analysis: LAYERS: resnet18: ResNet: no layer 'layer9'; inside it there are: "),
        ("05.WEIGHTS=nowhere.pth", "05_loss_ablation: WEIGHTS: weights must be imagenet, none or a file; there is no file"),
        ("RATIOS=[0.9, 0.2, 0.2]", "every notebook: RATIOS: must be above 0 and sum to 1; found (0.9, 0.2, 0.2)"),
        ("08.FOLDS=12", "--set 08.FOLDS=12: FOLDS of 08_module_ablation must lie in 0 to 10, found 12"),
        ("02.DATA_OPTIONS={size: 3}", "02_preprocessing: DATASET, DATA_ROOT, DATA_OPTIONS: phantom: size is 3, expected"),
        ("06.MODELS=['timm:mixer_b16_224']", "06_grad_cam: SIZE: timm:mixer_b16_224: takes images of 224×224 pixels only"),
    ],
)
def test_what_cannot_be_names_notebook_parameter_and_remedy(setting, expected):
    found = told(setting)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_readers_options_are_tried_on_the_data(tmp_path):
    for name in ("benign/a_1.png", "malignant/b_1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (80, 80)).save(tmp_path / name)
    own = ("DATASET=folders", f"DATA_ROOT={tmp_path}")
    found = told(*own, "DATA_OPTIONS={patient_pattern: (}", name="own")[0]
    assert "DATASET, DATA_ROOT, DATA_OPTIONS: folders: patient_pattern '(' is no" in found
    nowhere = told(own[0], f"DATA_ROOT={tmp_path / 'nowhere'}", name="own")
    assert len(nowhere) == 1 and nowhere[0].startswith("every notebook: DATASET") and "nowhere" in nowhere[0], nowhere
