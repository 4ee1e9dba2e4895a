"""Configs: what cannot work is refused with the field's name and the allowed range, in one line."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from thyroid_utils.common.config import ConfigError, ModelConfig, RunConfig

SEGMENTER = {"task": "segmentation", "model": {"name": "unet"}, "loss": {"name": "dice"}}

REFUSED = [
    ({"optimiser": {"learning_rate": 0}}, "optimiser.learning_rate must be greater than 0; found 0"),
    ({"optimiser": {"learning_rate": "1e-4"}}, "optimiser.learning_rate must be a valid number; found '1e-4'"),
    ({"optimiser": {"momentum": 0.9}}, "optimiser.momentum must be 0 with adam (it belongs to sgd); found 0.9"),
    ({"training": {"batch_size": 3, "devices": 2}}, "training.batch_size must be a multiple of devices (2), which share it; "),
    ({"training": {"devices": 2, "cuda_graph": True}}, "training.cuda_graph must be false with several devices; found 2"),
    ({"training": {"epoch": 3}}, "training.epoch does not exist; did you mean epochs?"),
    ({"learning_rate": 1}, "learning_rate does not exist; known: task, data, split"),
    ({"split": {"ratios": (0.7, 0.3, 0.0)}}, "split.ratios must be above 0 and sum to 1; found (0.7, 0.3, 0.0)"),
    ({"split": {"ratios": (0.7, 0.2, 0.2)}}, "split.ratios must be above 0 and sum to 1; found (0.7, 0.2, 0.2)"),
    ({"split": {"by": "official", "repeat": 2}}, "split.repeat must be None with by official, of which there is one; found 2"),
    ({"split": {"folds": 2}}, "split.folds must be 0 (one split) or 3 to 10; found 2"),
    ({"split": {"folds": 3, "by": "official"}}, "split.folds must be 0 with an official split; found 3"),
    ({"split": {"folds": 3, "repeat": 0}}, "split.folds must be 0 with random subsets; found 3"),
    ({"split": {"folds": 3, "fold": 3}}, "split.fold must be below folds (3), or 0; found 3"),
    ({"model": "resnet18"}, "model must be a valid dictionary or instance of ModelConfig; found 'resnet18'"),
    ({"data": {"options": {"function": print}}}, "data.options.function input was not a valid JSON value; found <built-in"),
    ({"augmentation": 3}, "augmentation.str must be a valid string; found 3"),
    ({"model": {"options": {"classes": 3}}}, "model.options.classes must be left out with task classification; found 3"),
    ({"training": {"monitor": "dice"}}, "training.monitor must be loss or auc with task classification; found 'dice'"),
    ({**SEGMENTER, "training": {"monitor": "auc"}}, "training.monitor must be loss or dice with task segmentation; found 'auc'"),
    ({**SEGMENTER, "training": {"class_balance": "weights"}}, "training.class_balance must be none with task segmentation; "),
    ({**SEGMENTER, "data": {"permute_labels": 0}}, "data.permute_labels must be None with task segmentation; found 0"),
    ({"task": "segmentation"}, "model.name must be that of a segmenter with task segmentation; found 'resnet18'"),
    ({"task": "joint", "model": {"name": "unet"}}, "loss.name must be that of a segmentation loss with task joint; found "),
]


@pytest.mark.parametrize("values, message", REFUSED, ids=[message.partition(";")[0] for _, message in REFUSED])
def test_what_cannot_be_is_refused_with_field_and_range(values, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig(**values)
    assert str(caught.value).startswith(f"config: {message}") and "\n" not in str(caught.value)


def test_a_config_reads_back_the_same_and_its_label_tells_runs_apart():
    with pytest.raises(ValidationError):
        RunConfig().seed = 3
    config = RunConfig(
        data={"dataset": "folders", "root": Path("/data/images"), "options": {"views": (1, 2), "nested": {"a": [None, True]}}},
        preprocessing=["crop_echo", {"resize": {"size": (64, 96)}}, "scale"],
        model=ModelConfig(name="timm:resnet18", weights=Path("weights/file.safetensors")),
        optimiser={"learning_rate": 1, "clip_norm": 0.5},
    )
    again = RunConfig(**json.loads(config.to_json()))
    assert again == config and again.to_json() == config.to_json()
    assert again.model.weights == "weights/file.safetensors" and again.data.options["views"] == [1, 2]
    loss = {"name": "tversky", "options": {"alpha": 0.3, "beta": 0.7}}
    config = RunConfig(task="segmentation", model={"name": "unet"}, loss=loss, seed=4)
    assert config.label == "unet, tversky (alpha 0.3, beta 0.7), seed 4" and RunConfig().label == "resnet18, seed 0"
    others = {"preprocessing": [{"nodule_crop": {}}], "data": {"permute_labels": 0}, "split": {"repeat": 3}}
    assert RunConfig(loss={"name": "focal"}, **others).label == "resnet18, focal, crops, permuted labels, subset 3, seed 0"
    assert RunConfig(split={"folds": 5, "fold": 1}).label == "resnet18, fold 2 of 5, seed 0"
    assert config.loss.label == "tversky (alpha 0.3, beta 0.7)" and config.model.label == "unet"
    switched = {"name": "mobile_deeplab", "options": {"attention": "none", "ppm": False, "multi_skip": True, "factor": 1}}
    told = "mobile_deeplab (attention none, no ppm, multi_skip, factor 1)"
    assert RunConfig(task="segmentation", model=switched, loss={"name": "bce"}).label == f"{told}, bce, seed 0"
