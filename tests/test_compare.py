"""What studies that compare networks share: settings from a notebook's parameters, lists of runs, tables of estimates."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_pictures import SPOT, picture, put, stored

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies.classifier_comparison import chance_told
from thyroid_utils.studies.compare import comparison_configs, shared_settings
from thyroid_utils.studies.tables import counted_patients, different_from, estimate_table
from thyroid_utils.training.ledger import NAMED

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
    assert more.training.patience == 2 and not more.training.cuda_graph
    assert shared_settings({**PARAMETERS, "COMPILE": True}, "segmentation")["training"]["cuda_graph"]


def test_a_part_with_parameters_of_its_own_takes_over_the_others():
    settings = shared_settings(PARAMETERS, "segmentation", "SEGMENTER_", EPOCHS=7)
    config = RunConfig(**settings, model={"name": "unet"})
    assert (config.data.options, config.size, config.training.batch_size, config.training.epochs) == ({"patients": 24}, 64, 4, 7)
    assert (config.loss.label, config.training.class_balance) == ("bce_dice", "none"), "those above are the classifier's"
    unsaid = shared_settings({**PARAMETERS, "SEGMENTER_DATA": {}, "SEGMENTER_LEARNING_RATE": 0.0}, "segmentation", "SEGMENTER_")
    assert (unsaid["data"]["options"], unsaid["optimiser"]["learning_rate"]) == ({"patients": 14}, 0.01), "what all take"
    own = shared_settings({**PARAMETERS, "SEGMENTER_LEARNING_RATE": 0.002}, "segmentation", "SEGMENTER_")
    assert own["optimiser"]["learning_rate"] == 0.002


@pytest.mark.parametrize(("masked", "kept"), [(["benign", "malignant"], {}), (["benign"], {"having": ["mask"]})])
def test_having_counts_where_it_leaves_something_out(tmp_path, masked, kept):
    """Otherwise the runs are those of notebooks that do not ask for it."""
    put(tmp_path, "benign/a.png", "malignant/b.png")
    put(tmp_path, *(f"{side}_mask/{file}.png" for side, file in zip(masked, "ab", strict=False)), pixels=SPOT)
    own = {"DATASET": "folders", "DATA_ROOT": str(tmp_path), "DATA_OPTIONS": {"having": ["mask"]}}
    assert shared_settings(PARAMETERS | own, "classification")["data"]["options"] == kept
    own["DATA_ROOT"] += "/absent"
    assert shared_settings(PARAMETERS | own, "classification")["data"]["options"] == {"having": ["mask"]}


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
    both = ["unet", "unet_resnet18"]
    for scratch, starts in ((both[:1], ["none", "imagenet"]), (both, ["none", "imagenet", "none"])):
        mixed = comparison_configs(both, [0], shared, weights="imagenet", scratch=scratch)
        assert [config.model.weights for config in mixed] == starts
    both += ["unet_efficientnet_lite0"]
    mixed = comparison_configs(both, [0], shared, weights="installed", scratch=both)
    assert [config.model.weights for config in mixed] == ["none", "none", "imagenet", "none"], "what needs no download"
    assert len(comparison_configs(both, [0], shared, scratch=both)) == 3, "no weights, nothing to train again"
    with pytest.raises(ConfigError, match="FROM_SCRATCH are given for unet_resnet50, which is not compared; known: unet, unet_r"):
        comparison_configs(both, [0], shared, scratch=["unet_resnet50"])
    for wrong, options in (({}, {"vgg16": {"hidden": 64}}), ({"training": {"epochs": 0}}, {}), ({"task": "segmentation"}, {})):
        with pytest.raises(ConfigError):
            comparison_configs(["resnet18"], [0], wrong, options=options)


def test_folds_are_one_config_each_or_one_split_and_a_reason(tmp_path, monkeypatch, capsys):
    """Two of five malignant patients have the same picture, so that they count as one."""
    cases = stored(tmp_path, [picture(seed, 16) for seed in (3, *range(11))], label=[1, 0] * 5 + [0, 0])
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases.assign(patient_known=True))
    folded = shared_settings({**PARAMETERS, "FOLDS": 4}, "classification")
    configs = comparison_configs(["resnet18"], [3, 1], folded)
    assert [(config.seed, config.split.folds, config.split.fold) for config in configs] == [
        (seed, 4, fold) for seed in (3, 1) for fold in range(4)
    ]
    assert [shared_settings({**PARAMETERS, "FOLDS": 4}, task)["split"]["folds"] for task in ("segmentation", "joint")] == [4, 4]
    assert capsys.readouterr().out == ""
    few = {**PARAMETERS, "FOLDS": 5}
    assert [shared_settings(few, "classification")["split"]["folds"] for _ in range(2)] == [0, 0]
    told = "FOLDS: 5 folds need as many patients of each class, and there are 4 malignant; one split is used instead\n"
    assert capsys.readouterr().out == told, "once"


def test_tables_name_the_models_that_differ_and_show_estimates_as_text():
    told = {"first": ["a", "a", "a"], "second": ["b", "c", "d"], "p_holm": [0.01, 0.4, np.nan], "differs": [True, False, False]}
    expected = {"a": "b", "b": "a", "c": "none", "d": "–"}
    assert different_from(pd.DataFrame(told), list("abcd")).to_dict() == expected
    assert different_from(pd.DataFrame(told)[:0], ["alone"]).to_dict() == {"alone": "–"}
    table = estimate_table(pd.DataFrame({"auc": [Estimate(0.7, 0.6, 0.8, 100, 80)], "seeds": [3]}), {"auc": "AUC"})
    assert table.to_dict("records") == [{"AUC": "0.700 [0.600, 0.800]", "seeds": 3}]


def test_patients_that_are_unknown_are_not_counted():
    named, unknown = (SimpleNamespace(data={"patients": how}) for how in (NAMED, "not given for 9 of 9 images"))
    assert counted_patients(named, 1, 1) == "1 image of 1 patient"
    assert counted_patients(named, 58, 12) == "58 images of 12 patients"
    assert counted_patients(unknown, 9, 9) == "9 images (patients unknown: intervals are too narrow)"


def test_a_sentence_on_chance_follows_the_number():
    told = {
        (1.0, np.nan, np.nan): "without an interval, so that this run cannot say whether it is above chance",
        (1.0, 0.7, 1.0): "above chance",
        (0.7, 0.5, 0.9): "not shown to be above chance",
        (0.5, 0.4, 0.6): "not shown to be above chance",
        (0.2, 0.1, 0.4): "below chance",
    }
    for (value, low, high), expected in told.items():
        assert chance_told(Estimate(value, low, high, 20, 20)) == expected
