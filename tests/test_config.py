"""Configs: what cannot work is refused with the field's name and the allowed range, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from thyroid_utils.common.config import ConfigError, ModelConfig, OptimiserConfig, RunConfig

RATIOS = "split.ratios must be three numbers above 0 (train, validation, test) that sum to 1; found "

REFUSED = [
    ({"optimiser": {"learning_rate": -1}}, "optimiser.learning_rate must be a number above 0 to 10; found -1"),
    ({"optimiser": {"learning_rate": 0}}, "optimiser.learning_rate must be a number above 0 to 10; found 0"),
    ({"optimiser": {"learning_rate": "1e-4"}}, "optimiser.learning_rate must be a number above 0 to 10; found '1e-4'"),
    ({"optimiser": {"learning_rate": True}}, "optimiser.learning_rate must be a number above 0 to 10; found True"),
    ({"optimiser": {"learning_rate": float("nan")}}, "optimiser.learning_rate must be a number above 0 to 10; found nan"),
    ({"optimiser": {"weight_decay": 2}}, "optimiser.weight_decay must be a number from 0 to 1; found 2"),
    ({"optimiser": {"name": "lion"}}, "optimiser.name must be one of adam, adamw, sgd; found 'lion'"),
    ({"optimiser": {"momentum": 0.9}}, "optimiser.momentum must be 0 with adam (it belongs to sgd); found 0.9"),
    ({"optimiser": {"name": "sgd", "momentum": 1}}, "optimiser.momentum must be a number from 0 to below 1; found 1"),
    ({"optimiser": {"clip_norm": 0}}, "optimiser.clip_norm must be a number above 0 to 1000000 or None; found 0"),
    ({"optimiser": {"schedule": "step"}}, "optimiser.schedule must be one of constant, cosine, one_cycle, plateau; found 'step'"),
    ({"training": {"epochs": 0}}, "training.epochs must be a whole number from 1 to 10000; found 0"),
    ({"training": {"epochs": 2.5}}, "training.epochs must be a whole number from 1 to 10000; found 2.5"),
    ({"training": {"batch_size": 0}}, "training.batch_size must be a whole number from 1 to 4096; found 0"),
    ({"training": {"patience": 0}}, "training.patience must be a whole number from 1 to 10000 or None; found 0"),
    ({"training": {"monitor": "f1"}}, "training.monitor must be one of loss, auc, dice; found 'f1'"),
    ({"training": {"class_balance": "both"}}, "training.class_balance must be one of none, weights, sampling; found 'both'"),
    ({"training": {"device": "tpu"}}, "training.device must be one of auto, cpu, cuda; found 'tpu'"),
    ({"training": {"precision": "16"}}, "training.precision must be one of auto, 32, bf16; found '16'"),
    ({"training": {"compile": "yes"}}, "training.compile must be true or false; found 'yes'"),
    (
        {"training": {"batch_size": 3, "devices": 2}},
        "training.batch_size must be a multiple of devices (2), which share it; found 3",
    ),
    ({"training": {"epoch": 3}}, "training.epoch does not exist; did you mean epochs?"),
    ({"split": {"by": "hospital"}}, "split.by must be one of patient, image, official; found 'hospital'"),
    ({"split": {"ratios": (0.7, 0.3)}}, RATIOS + "(0.7, 0.3)"),
    ({"split": {"ratios": (0.7, 0.3, 0.0)}}, RATIOS + "(0.7, 0.3, 0.0)"),
    ({"split": {"ratios": (0.7, 0.2, 0.2)}}, RATIOS + "(0.7, 0.2, 0.2)"),
    ({"split": {"repeat": -1}}, "split.repeat must be a whole number from 0 to 10000 or None; found -1"),
    ({"split": {"by": "official", "repeat": 2}}, "split.repeat must be None with by official, of which there is one; found 2"),
    (
        {"loss": {"options": {"class_weights": [1, 9]}}},
        "loss.options.class_weights must be left out, as training.class_balance decides it; found [1, 9]",
    ),
    ({"loss": {"options": {"task": "x"}}}, "loss.options.task must be left out, as task decides it; found 'x'"),
    ({"loss": {"options": {"name": "x"}}}, "loss.options.name must be left out, as loss.name decides it; found 'x'"),
    ({"model": {"options": {"classes": 3}}}, "model.options.classes must be left out, as task decides it; found 3"),
    ({"model": {"options": {"task": "x"}}}, "model.options.task must be left out, as task decides it; found 'x'"),
    ({"model": {"options": {"name": "x"}}}, "model.options.name must be left out, as model.name decides it; found 'x'"),
    (
        {"model": {"options": {"in_channels": 1}}},
        "model.options.in_channels must be left out, as preprocessing decides it; found 1",
    ),
    (
        {"model": {"options": {"weights": "imagenet"}}},
        "model.options.weights must be left out, as model.weights decides it; found 'imagenet'",
    ),
    ({"size": 4}, "size must be a whole number from 8 to 4096 or None; found 4"),
    ({"seed": -1}, "seed must be a whole number from 0 to 4294967295; found -1"),
    ({"model": "resnet18"}, "model must be settings of name, weights, options; found 'resnet18'"),
    ({"model": {"name": ""}}, "model.name must be the name of a model; found ''"),
    ({"augmentation": 3}, "augmentation must be a preset's name or a list of steps; found 3"),
    ({"task": "detection"}, "task must be one of classification, segmentation, joint; found 'detection'"),
    ({"learning_rate": 1}, "learning_rate does not exist; known: task, data, split"),
]


@pytest.mark.parametrize("values, message", REFUSED, ids=[message.partition(";")[0] for _, message in REFUSED])
def test_what_cannot_be_is_refused_with_field_and_range(values, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig(**values)
    assert str(caught.value).startswith(f"config: {message}") and "\n" not in str(caught.value)


def test_a_section_by_itself_is_checked_too():
    with pytest.raises(ConfigError, match=r"config: weight_decay must be a number from 0 to 1; found -0\.1"):
        OptimiserConfig(weight_decay=-0.1)


def test_options_must_be_plain_values():
    with pytest.raises(ConfigError, match=r"data\.options must be a mapping from names to plain values"):
        RunConfig(data={"options": {"function": print}})


def test_a_config_does_not_change():
    with pytest.raises(ValidationError):
        RunConfig().seed = 3


def test_the_defaults_are_the_stated_ones():
    config = RunConfig()
    assert (config.task, config.data.dataset, config.preprocessing, config.augmentation) == (
        "classification", "phantom", "paper_001", "default",
    )  # fmt: skip
    assert (config.split.by, config.split.ratios, config.model.name, config.loss.name) == (
        "patient", (0.7, 0.15, 0.15), "resnet18", "cross_entropy",
    )  # fmt: skip
    assert (config.optimiser.name, config.optimiser.learning_rate, config.training.monitor) == ("adam", 1e-4, "loss")


def test_a_config_read_back_is_the_same():
    config = RunConfig(
        data={"dataset": "folders", "root": Path("/data/images"), "options": {"views": (1, 2), "nested": {"a": [None, True]}}},
        preprocessing=["crop_echo", {"resize": {"size": (64, 96)}}, "scale"],
        model=ModelConfig(name="timm:resnet18", weights=Path("weights/file.safetensors")),
        optimiser={"learning_rate": 1, "clip_norm": 0.5},
    )
    again = RunConfig.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()
    assert again.model.weights == "weights/file.safetensors" and again.data.options["views"] == [1, 2]


def test_a_file_that_holds_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="file must hold a mapping of task"):
        RunConfig.from_json("[]")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_learning_rate_is_taken_or_refused_by_its_range(rate):
    if 0 < rate <= 10:
        assert OptimiserConfig(learning_rate=rate).learning_rate == rate
    else:
        with pytest.raises(ConfigError, match="learning_rate must be a number above 0 to 10"):
            OptimiserConfig(learning_rate=rate)
