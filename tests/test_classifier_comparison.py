"""What several classifiers' predictions say together, on predictions made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import number
from thyroid_utils.data.images import write_png
from thyroid_utils.preprocess.pipeline import build_pipeline
from thyroid_utils.scores.comparisons import subset_estimate
from thyroid_utils.scores.estimates import few_told
from thyroid_utils.scores.labels import choose_threshold, classification_scores
from thyroid_utils.studies import followed
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.tables import different_from


def made_run(
    model: str, skill: float, seed: int = 0, split_hash: str = "a", config_seed: int = 0, data: str = "d", **settings
) -> SimpleNamespace:
    """What a finished run offers; 60 patients a side, two images each, the classes `skill` standard deviations apart."""
    random = np.random.default_rng(seed)
    rows = []
    for split in ("val", "test"):
        for patient in range(60):
            label = patient % 2
            for view in range(2):
                odds = skill * (label - 0.5) + random.normal()
                case = f"{split}/{patient}-{view}"
                rows.append({"case": case, "patient": f"{split}{patient}", "split": split, "label": label, "log_odds": odds})
    predictions = pd.DataFrame(rows).set_index("case")
    predictions["probability"] = 1 / (1 + np.exp(-predictions["log_odds"]))
    known = predictions[predictions["split"] == "val"]
    history = pd.DataFrame({"train_loss": [0.7, 0.5], "val_loss": [0.7, 0.6], "val_auc": [0.5, 0.8]}, index=pd.Index([1, 2]))
    run = SimpleNamespace(
        config=RunConfig(model={"name": model, **settings}, seed=config_seed),
        data={
            "split_hash": split_hash,
            "fingerprint": data,
            "weights": "ImageNet" if settings.get("weights") == "imagenet" else "from scratch",
            "leaky": False,
            "input": (3,),
            "images": {"train": 360, "val": 120, "test": 120},
        },
        metrics={"val": {"auc": classification_scores(known["label"], known["probability"])["auc"]}},
        predictions=predictions,
        history=history,
        best_epoch=2,
        environment={"images_per_second": 10.0},
        load_model=lambda: torch.nn.Linear(3, 1),
    )
    run.folds = (run,)
    return run


@pytest.fixture(scope="module")
def comparison():
    runs = [made_run("weak", 0.3, seed, config_seed=seed) for seed in range(3)]
    runs += [made_run("strong", 3.0, 3 + seed, config_seed=seed) for seed in range(3)]
    return ClassifierComparison.of(runs)


def test_one_case_is_followed_from_its_frame_to_its_call(comparison, tmp_path, monkeypatch):
    write_png(tmp_path / "frame.png", np.full((20, 30), 51, np.uint8))
    case, first = "test/1-0", comparison.runs["strong"][0]
    monkeypatch.setattr(first, "of_case", lambda asked: first, raising=False)
    asked = SimpleNamespace(pipeline=build_pipeline(["gray", {"resize": {"size": 16}}, "scale"]))
    monkeypatch.setattr(followed, "Predictor", lambda run: asked)
    row = pd.Series({"image": str(tmp_path / "frame.png"), "mask": pd.NA}, name=case)
    told, known = followed.to_call(comparison, row)[case], first.predictions.loc[case]
    decided = comparison.decisions("strong").loc[case]
    assert told["0. input"] == "30 × 20 pixels, 51 to 51, mean 51" and told["3. scale"] == "16 × 16 pixels, 0.2 to 0.2, mean 0.2"
    monkeypatch.setattr(ClassifierComparison, "folds", 3)
    *_, calibrated, called, _ = followed.to_call(comparison, row)[case].index
    assert calibrated.startswith("probability, as") and called.startswith("called"), "folds call by what is calibrated"
    assert list(told[4:]) == [
        number(known["log_odds"]),
        f"{1 / (1 + np.exp(-known['log_odds'])):.2f}",
        "malignant" if known["probability"] >= comparison.thresholds["strong"][0] else "benign",
        f"{decided['calibrated']:.2f}",
        "malignant",
    ]


@pytest.mark.parametrize(("pretrained", "scratch"), [(3.0, 0.6), (0.6, 3.0)])
def test_what_pretraining_is_worth_is_the_pretrained_less_the_same_from_scratch(pretrained, scratch):
    starts = {"imagenet": pretrained, "none": scratch}
    runs = [
        made_run("b0", skill, 9 * at + seed, config_seed=seed, weights=start)
        for at, (start, skill) in enumerate(starts.items())
        for seed in range(3)
    ]
    found = ClassifierComparison.of(runs)
    assert found.models == ["b0", "b0 (from scratch)"] and found.started == "b0 ImageNet, b0 (from scratch) from scratch"
    auc = found.by_run(["auc"]).groupby("model")["auc"].mean()
    worth = 100 * (auc["b0"] - auc["b0 (from scratch)"])
    told = found.pretraining(found.pairs(), "AUC")
    assert (
        told.startswith(f"To **b0** its start (ImageNet) is worth {number(worth, 1, sign=True)} [") and told.count("To **") == 1
    )
    low, high = map(float, told.partition("[")[2].partition("]")[0].replace("−", "-").split(","))
    assert low < worth < high and "points of AUC against one from scratch (over patients and training seeds): more than" in told
    once = ClassifierComparison.of(runs[::3])
    assert "This run cannot say whether the recipes differ: one training" in once.pretraining(once.pairs(), "AUC")
    alone = ClassifierComparison.of(runs[:3])
    assert alone.models == ["b0"] and "FROM_SCRATCH asks what they are worth" in alone.pretraining(alone.pairs(), "AUC")


def test_starts_and_options_are_named_where_they_tell_models_apart():
    runs = [made_run("a", 1.0, weights=start) for start in ("none", "imagenet", "e.pt")]
    runs += [made_run(name, 1.0, options={"n": value}) for name, value in (("b", 1), ("c", 1), ("c", 2))]
    assert ClassifierComparison.of(runs).models == ["a (from scratch)", "a", "a (e.pt)", "b", "c (n 1)", "c (n 2)"]


def test_a_clear_difference_is_found_and_none_between_equals(comparison):
    estimates = comparison.estimates(["auc"])["auc"]
    assert list(estimates.index) == ["strong", "weak"]
    by_run = comparison.by_run(["auc", "accuracy"]).groupby("model")
    assert estimates["strong"].value == pytest.approx(by_run["auc"].mean()["strong"])
    for score in ("auc", "accuracy"):
        (row,) = comparison.pairs(score).to_dict("records")
        assert row["differs"] and (row["first"], row["second"]) == ("strong", "weak")
        found, means = row["difference"], by_run[score].mean()
        assert found.difference == pytest.approx(means["strong"] - means["weak"]) and found.low > 0
    told = comparison.lead(comparison.pairs(), "AUC")
    assert told.startswith("Its AUC less that of **weak**, next on validation, is +0.") and "more than chance (p" in told
    equals = ClassifierComparison.of(
        [made_run(name, 1.0, 10 * at + seed, config_seed=seed) for at, name in enumerate("ab") for seed in range(3)]
    )
    assert not equals.pairs()["differs"].any() and "not more than chance can give" in equals.lead(equals.pairs(), "AUC")
    assert equals.verdicts(equals.pairs(), "AUC") == "**0 of 1 pair** differ in AUC after Holm, over patients and training seeds."
    assert "(3 seeds)" in comparison.spread().at["strong", "auc"] and comparison.costs.at["weak", "parameters"] == 4 / 1e6


def test_one_training_each_or_no_learning_gives_no_verdict():
    once = ClassifierComparison.of([made_run("strong", 3.0), made_run("weak", 0.6)])
    (row,) = once.pairs().to_dict("records")
    assert np.isnan([row["p_holm"], row["difference"].low]).all() and not row["differs"]
    assert row["difference"].fixed_low > 0, "these two networks differ, which their recipes need not"
    assert "SEEDS" in once.lead(once.pairs(), "AUC") and "no verdict on recipes" in once.over
    assert different_from(once.pairs(), once.models).to_dict() == {"strong": "–", "weak": "–"}
    blind = [made_run(name, 0.0, 20 + 3 * at + seed, config_seed=seed) for at, name in enumerate("ab") for seed in (0, 1)]
    chance = ClassifierComparison.of(blind)
    assert chance.untrained == ["a", "b"] and "not shown to be better than chance" in chance.unlearnt
    assert chance.banner == f"{chance.unlearnt}\n\n{few_told(30, 'benign test patient', score='auc')}"
    assert chance.pairs()["p_holm"].isna().all()
    seen = blind[2].predictions
    few = seen[(seen["label"] == 0) | (seen["split"] == "test") | (seen["patient"] == "val1")]
    blind[2].predictions = few.assign(log_odds=few["log_odds"] + 9 * few["label"], probability=few["label"] * 0.8)
    blind[0].predictions = few
    both = ClassifierComparison.of([blind[0], blind[2]])
    assert both.untrained == ["a", "b"] and "better than chance" not in both.unlearnt and "EPOCHS" not in both.unlearnt
    assert "too few patients to say whether they have learnt: a 0." in both.unlearnt and "and b 1.00 [no int" in both.unlearnt


def test_thresholds_come_from_validation_and_never_from_test(comparison):
    for run, threshold in zip(comparison.runs["strong"], comparison.thresholds["strong"], strict=True):
        val = run.predictions[run.predictions["split"] == "val"]
        assert threshold == choose_threshold(val["label"], val["probability"])
    decisions = comparison.decisions("strong")
    assert (decisions["called"] == (decisions["probability"] >= comparison.thresholds["strong"][0])).all()
    assert (decisions["right"] == (decisions["called"] == decisions["label"])).all()


def test_the_model_is_chosen_on_validation_whatever_test_says(comparison):
    assert comparison.chosen == "strong"
    turned = made_run("turned", 3.0, 5)
    on_test = turned.predictions["split"] == "test"
    turned.predictions.loc[on_test, "probability"] = 1 - turned.predictions.loc[on_test, "probability"]
    assert ClassifierComparison.of([made_run("weak", 0.3, 0), turned]).chosen == "turned"


def test_models_of_different_splits_are_not_compared():
    with pytest.raises(DataError, match="different splits"):
        ClassifierComparison.of([made_run("a", 1), made_run("b", 1, split_hash="b")])
    with pytest.raises(DataError, match="different splits"):  # cases of the same names, of another hospital
        ClassifierComparison.of([made_run("a", 1), made_run("b", 1, data="e")])
    subsets = ClassifierComparison.of([made_run("a", 1, 0, "x"), made_run("a", 1, 1, "y")])
    assert not subsets.one_split
    with pytest.raises(DataError, match="cannot be paired"):
        _ = subsets.truth


@pytest.fixture(scope="module")
def subsets():
    """Three random subsets, each with its own patients on test."""
    return ClassifierComparison.of(
        [made_run(model, skill, seed, f"split {seed}") for model, skill in (("weak", 0.3), ("strong", 3.0)) for seed in range(3)]
    )


def test_over_random_subsets_intervals_are_those_of_nadeau_and_bengio(subsets):
    found = subsets.estimates(["accuracy"]).at["weak", "accuracy"]
    values = subsets.by_run(["accuracy"]).query("model == 'weak'")["accuracy"]
    expected = subset_estimate(values, 360, 120, 60)
    assert (found.value, found.low, found.high) == (pytest.approx(values.mean()), expected.low, expected.high)
    assert (subsets.plan, subsets.class_sizes()["patients"].tolist()) == ("3 random subsets", [30, 30])
    assert subsets.tested


def test_over_random_subsets_pairs_are_tested_subset_by_subset(subsets):
    pairs = subsets.pairs()
    by_run = subsets.by_run(["auc"]).pivot(index="run", columns="model", values="auc")
    found = pairs.at[0, "difference"]
    assert found.difference == pytest.approx((by_run["strong"] - by_run["weak"]).mean())
    assert pairs.at[0, "differs"] and pairs.at[0, "p_holm"] == found.p_value
    assert subsets.over == "over random subsets, corrected for their overlap"
    assert ClassifierComparison.of([made_run("alone", 1.0)]).pairs().empty


def test_a_curve_over_random_subsets_is_their_mean_inside_its_band(subsets, comparison):
    for found in (subsets, comparison):
        roc, precision = found.curve("strong", "roc", 50), found.curve("strong", "pr", 50)
        assert list(roc.columns) == ["false_positive_rate", "sensitivity", "low", "high"]
        assert (roc["low"] <= roc["sensitivity"] + 1e-9).all() and (roc["sensitivity"] <= roc["high"] + 1e-9).all()
        assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(
            found.by_run(["auc"]).groupby("model")["auc"].mean()["strong"], abs=0.01
        )  # the grid of 101 points cuts corners of less than 1 %
        assert precision["precision"].between(0, 1).all()


def test_runs_that_are_no_repetitions_of_one_recipe_are_not_averaged():
    one, other = made_run("a", 1.0, 0), made_run("a", 1.0, 0)
    other.config = RunConfig(model={"name": "a"}, loss={"name": "focal"})
    with pytest.raises(DataError, match="more than seed and split"):
        ClassifierComparison.of([one, other])
    with pytest.raises(DataError, match="the same seeds, each once"):
        ClassifierComparison.of([one, made_run("b", 1.0, 1, config_seed=1)])


def test_scaling_uses_the_log_odds_that_do_not_saturate(comparison):
    sure = made_run("sure", 3.0)
    sure.predictions["log_odds"] *= 30
    sure.predictions["probability"] = 1 / (1 + np.exp(-sure.predictions["log_odds"]))
    found = ClassifierComparison.of([sure])
    _, after = found.calibrated("sure")
    (temperature,) = found.temperatures["sure"]
    assert after["probability"].nunique() == len(after), "probabilities that are 1 in floating point would be ties"
    told = after[after["probability"].between(1e-6, 1 - 1e-6)]  # nearer to 1 floating point keeps too few digits to go back
    odds = np.log(told["probability"] / (1 - told["probability"])).to_numpy()
    assert (np.abs(told["log_odds"]) > 17).any(), "beyond where probabilities are clipped"
    assert odds * temperature == pytest.approx(told["log_odds"].to_numpy(), rel=1e-6)
