"""What studies that compare networks share: settings from a notebook's parameters, lists of runs, tables of estimates."""

from __future__ import annotations

import pandas as pd
import pytest

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.compare import comparison_configs, different_from, estimate_table, shared_settings

PARAMETERS = {
    "DATASET": "phantom", "DATA_ROOT": "", "DATA_OPTIONS": {"patients": 14}, "SPLIT_BY": "patient", "RATIOS": [0.6, 0.2, 0.2],
    "SEEDS": [3, 1], "PREPROCESSING": "plain", "SIZE": 32, "AUGMENTATION": "default", "LOSS": "focal",
    "LOSS_OPTIONS": {"gamma": 2.0}, "LEARNING_RATE": 0.01, "SCHEDULE": "one_cycle", "CLASS_BALANCE": "weights", "EPOCHS": 3,
    "BATCH_SIZE": 8, "PATIENCE": 0, "SEGMENTER_DATA": {"patients": 24}, "SEGMENTER_SIZE": 64, "SEGMENTER_BATCH": 4,
}  # fmt: skip


def test_a_notebooks_parameters_are_the_fields_of_its_runs():
    config = RunConfig(**shared_settings(PARAMETERS, "classification"))
    assert config.data.root is None and config.data.options == {"patients": 14} and config.split.seed == 3
    assert (config.size, config.loss.label, config.optimiser.learning_rate) == (32, "focal (gamma 2.0)", 0.01)
    training = config.training
    assert (training.epochs, training.batch_size, training.patience) == (3, 8, None)
    assert (training.class_balance, training.monitor, training.precision) == ("weights", "auc", "auto")
    more = RunConfig(**shared_settings(PARAMETERS, "classification", PATIENCE=2))
    assert more.training.patience == 2


def test_a_part_with_parameters_of_its_own_takes_over_the_others():
    settings = shared_settings(PARAMETERS, "segmentation", "SEGMENTER_", EPOCHS=7)
    config = RunConfig(**settings, model={"name": "unet"})
    assert (config.data.options, config.size, config.training.batch_size, config.training.epochs) == ({"patients": 24}, 64, 4, 7)
    assert (config.loss.label, config.training.class_balance) == ("bce_dice", "none"), "those above are the classifier's"
    unsaid = shared_settings({**PARAMETERS, "SEGMENTER_DATA": {}}, "segmentation", "SEGMENTER_")
    assert unsaid["data"]["options"] == {"patients": 14}, "the data set's own"


def test_configs_differ_in_what_is_compared_alone():
    common = {"split": {"seed": 5}, "training": {"epochs": 3}}
    configs = comparison_configs(["resnet18", "vgg16"], [0, 1], common, options={"vgg16": {"hidden": 64}}, weights="imagenet")
    assert [(config.model.name, config.model.options, config.seed) for config in configs] == [
        ("resnet18", {}, 0), ("resnet18", {}, 1), ("vgg16", {"hidden": 64}, 0), ("vgg16", {"hidden": 64}, 1),
    ]  # fmt: skip
    subsets = comparison_configs(["resnet18"], [7], common, subsets=3)
    assert [(config.split.repeat, config.split.seed, config.seed) for config in subsets] == [(0, 5, 7), (1, 5, 7), (2, 5, 7)]
    sweep = [("tversky", {"alpha": 0.3, "beta": 0.7}), ("tversky", {"alpha": 0.5, "beta": 0.5}), ("bce", {})]
    found = comparison_configs(["unet"], [0], {"task": "segmentation"}, losses=sweep)
    assert [(config.loss.name, config.loss.options) for config in found] == sweep
    shared = {"task": "segmentation", "loss": {"name": "dice"}}
    mixed = comparison_configs(["unet", "unet_resnet18"], [0], shared, weights="imagenet", scratch=["unet"])
    assert [config.model.weights for config in mixed] == ["none", "imagenet"]
    for wrong, options in (({}, {"vgg16": {"hidden": 64}}), ({"training": {"epochs": 0}}, {}), ({"task": "segmentation"}, {})):
        with pytest.raises(ConfigError):
            comparison_configs(["resnet18"], [0], wrong, options=options)


def test_tables_name_the_models_that_differ_and_show_estimates_as_text():
    pairs = pd.DataFrame({"first": ["a", "a"], "second": ["b", "c"], "differs": [True, False]})
    assert different_from(pairs, ["a", "b", "c"]).to_dict() == {"a": "b", "b": "a", "c": "none"}
    assert different_from(pd.DataFrame(), ["alone"]).to_dict() == {"alone": "none"}
    table = estimate_table(pd.DataFrame({"auc": [Estimate(0.7, 0.6, 0.8, 100, 80)], "seeds": [3]}), {"auc": "AUC"})
    assert table.to_dict("records") == [{"AUC": "0.700 [0.600, 0.800]", "seeds": 3}]
